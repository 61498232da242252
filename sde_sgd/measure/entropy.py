"""Entropy production along paths, and the average that the fluctuation theorem holds at 1."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sde_sgd._checks import check_callable, check_part, output_shape
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_schedule,
    increasing_integers,
    MeasureResult,
    Tick,
)
from sde_sgd.measure.currents import elapsed
from sde_sgd.measure.histogram import bounded
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.types import Alive, Matrix, Positions, Scalar, Vector

# Effective samples of e^{−σ} below which a few members decide its mean. For normal σ of
# variance s² the share is e^{−s²}: beyond s² = 2.3 even the standard error is unreliable.
_LEAST_SHARE, _LEAST_SAMPLES = 0.1, 100


class EntropyCarry(eqx.Module):
    """Finite part of σ and compensation, irreversible and impossible steps, all (members,).

    `start`: log density of the first counted point; `at` (members, n): σ at chosen times.
    """

    steps: Array
    total: Array
    compensation: Array
    irreversible: Array
    impossible: Array
    broken: Array
    start: Array
    at: Array


class EntropyProductionResult(MeasureResult):
    """Entropy production of the members alive.

    - `per_time`, `per_iteration`: Estimates of the mean rate, nats; +∞ with an infinite error
      where a jump cannot be undone. In the stationary state only: elsewhere it is the part of
      the environment.
    - `irreversible`: Estimate of the share of members with such a jump (σ = ∞).
    - `iterations` (n,), `times` (n,): durations of the path.
    - `fluctuation`: Estimate (n,) of ⟨e^{−σ}⟩ over those durations (1 by the theorem); NaN with an
      infinite error where it is refused.
    - `effective_samples` (n,): (Σ e^{−σ})²/Σ e^{−2σ}, behind that refusal.
    - `reason`: what was refused and why; "" if nothing was.
    """

    per_time: Estimate
    per_iteration: Estimate
    irreversible: Estimate
    iterations: np.ndarray
    times: np.ndarray
    fluctuation: Estimate
    effective_samples: np.ndarray
    reason: str
    axes: ClassVar[dict[str, tuple[str, ...]]] = {
        name: ("duration",) for name in ("iterations", "times", "fluctuation", "effective_samples")
    }
    coordinates: ClassVar[dict[str, str]] = {"duration": "iterations", "duration_t": "times"}


class EntropyProduction(AbstractMeasure):
    """Stochastic entropy production of each member's path, from its transition kernel.

        σ = Σ_k ln p(x_{k+1}|x_k)/p(x_k|x_{k+1}) + ln ρ(x_0) − ln ρ(x_n)

    The mean rate is that of the sum, whose boundary terms do not grow. If the starts (the
    positions at `burn_in`) have the law ρ, then ⟨e^{−σ}⟩ = 1 at every duration, stationary or
    not, for the exact kernel of the steps taken: e^{−σ} is the ratio of two normalised path
    densities. Its mean is carried by paths with σ < 0, rare ones once ⟨σ⟩ exceeds 1: where few
    members decide, it is refused.

    Jumps that cannot be undone (p(x|x') = 0, as in finite sums) have σ = ∞: give `log_ratio`
    = inf there. They are counted, and the rate is infinite.

    **Arguments:**

    - `log_ratio`: (x, x') ↦ ln p(x'|x) − ln p(x|x') of one *solver step*, scalar.
      `transition_log_ratio(process)` makes it for Gaussian kernels.
    - `log_density`: ln ρ up to a constant, needed for `at`.
    - `at`: increasing durations in iterations, counted from `burn_in`, at which e^{−σ} is averaged.
    - `burn_in`: iterations left out at the start.

    **Source:** Seifert, Rep. Prog. Phys. 75 (2012) 126001, §2.4 and §4; Murashita et al., Phys.
    Rev. E 90 (2014) 042110, for σ = ∞.
    """

    log_ratio: Callable
    log_density: Callable | None
    at: tuple[int, ...] = eqx.field(static=True)
    burn_in: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "substeps"

    def __init__(
        self,
        log_ratio: Callable,
        log_density: Callable | None = None,
        at: Sequence[int] = (),
        burn_in: int = 0,
    ):
        times = increasing_integers("EntropyProduction: at", at, 1)
        check_callable("log_ratio", log_ratio, "transition_log_ratio(process)")
        if log_density is not None:
            check_callable("log_density", log_density, "lambda theta: -jnp.sum(theta**2) / 2")
        if times and log_density is None:
            raise ValueError(
                "⟨exp(−σ)⟩ is 1 only with the boundary term ln ρ(x_0)/ρ(x_n): pass log_density=, "
                "the log density of the law that the members start from."
            )
        self.log_ratio, self.log_density, self.at = log_ratio, log_density, times
        self.burn_in = burn_in

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("EntropyProduction", self.burn_in, 1, num_steps)
        if self.at and self.burn_in + self.at[-1] > num_steps:
            raise ValueError(
                f"EntropyProduction asks for {self.at[-1]} iterations after burn_in="
                f"{self.burn_in}, and the run ends at {num_steps}."
            )
        landscape = process.landscape
        probe = jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
        functions = {"log_ratio": (self.log_ratio, 2), "log_density": (self.log_density, 1)}
        for name, (function, count) in functions.items():
            if function is None:
                continue
            shape = output_shape(name, function, *[probe] * count).shape
            if shape != ():
                raise ValueError(f"{name} must give a scalar; it gives shape {shape}.")

    def _density(self, theta: Positions) -> Array:
        if self.log_density is None:
            return jnp.zeros(theta.shape[0], theta.dtype)
        return jax.vmap(self.log_density)(theta).astype(theta.dtype)

    def init(self, theta: Positions) -> EntropyCarry:
        members, dtype = theta.shape[0], theta.dtype
        count, zero = jnp.zeros(members, jnp.int32), jnp.zeros(members, dtype)
        at = jnp.zeros((members, len(self.at)), dtype)
        broken = jnp.zeros(members, bool)
        return EntropyCarry(count, zero, zero, count, count, broken, self._density(theta), at)

    def update(
        self, carry: EntropyCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> EntropyCarry:
        done = tick.iteration.astype(jnp.int32) - self.burn_in
        counts = done > 0
        step = jax.vmap(self.log_ratio)(before, after).astype(before.dtype)
        infinite, finite = jnp.isposinf(step), jnp.isfinite(step)
        total, compensation = add_compensated(
            carry.total, carry.compensation, jnp.where(counts & finite, step, 0)
        )
        irreversible = carry.irreversible + (counts & infinite).astype(jnp.int32)
        impossible = carry.impossible + (counts & ~infinite & ~finite).astype(jnp.int32)
        start, at = carry.start, carry.at
        if self.at:
            first = (carry.steps == 0) & counts
            if self.burn_in:
                start = jnp.where(first, self._density(before), start)
            sigma = total + start - self._density(after)
            sigma = jnp.where(irreversible > 0, jnp.inf, sigma)
            sigma = jnp.where(carry.broken | (impossible > 0), jnp.nan, sigma)
            # Later solver steps of the same iteration overwrite the earlier ones.
            now = jnp.asarray(self.at, jnp.int32) == done
            at = jnp.where(now, sigma[:, None], at)
        return EntropyCarry(
            carry.steps + counts.astype(jnp.int32),
            total,
            compensation,
            irreversible,
            impossible,
            carry.broken,
            start,
            at,
        )

    def finished(self, carry: EntropyCarry) -> None:
        return None

    def restart(self, carry: EntropyCarry, restarted: Alive) -> EntropyCarry:
        return eqx.tree_at(lambda c: c.broken, carry, carry.broken | restarted)

    def result(
        self, carry: EntropyCarry, alive: np.ndarray, process: Any
    ) -> EntropyProductionResult:
        kept = alive & (np.asarray(carry.steps) > 0)
        total = np.asarray(carry.total, dtype=float)[kept]
        iterations, duration = elapsed(np.asarray(carry.steps)[kept], self.burn_in, process)
        jumped = np.asarray(carry.irreversible)[kept] > 0
        wrong = int((np.asarray(carry.impossible)[kept] > 0).sum())
        reasons = []
        if wrong:
            reasons.append(
                f"{wrong} members made steps whose log_ratio is NaN or −∞: it is not that of the "
                f"process, or its covariance cannot be inverted"
            )
        if jumped.any():
            reasons.append(
                f"{int(jumped.sum())} of {jumped.size} members made jumps that cannot be undone"
            )
        rate = Estimate.from_samples(total)
        if wrong or jumped.any():
            unknown = np.asarray(np.nan if wrong else np.inf)
            rate = Estimate(unknown, np.asarray(np.inf), rate.num_samples)
        at = np.asarray(self.at, dtype=int)
        sigma = np.asarray(carry.at, dtype=float)[kept]
        reached = np.asarray(carry.steps)[kept][:, None] >= at * process.substeps
        sigma = np.where(reached, sigma, np.nan)
        means = [_exponential_mean(column) for column in sigma.T]
        for k, (_, _, reason) in zip(self.at, means, strict=True):
            if reason:
                reasons.append(f"⟨exp(−σ)⟩ over {k} iterations refused: {reason}")
        fluctuation = Estimate(
            np.array([mean.value for mean, _, _ in means]),
            np.array([mean.standard_error for mean, _, _ in means]),
            len(total),
        )
        ends = process.time(self.burn_in + at) - process.time(np.asarray(self.burn_in))
        return EntropyProductionResult(
            Estimate(rate.value / duration, rate.standard_error / duration, rate.num_samples),
            Estimate(rate.value / iterations, rate.standard_error / iterations, rate.num_samples),
            bounded(Estimate.from_samples(jumped.astype(float))),
            at,
            ends,
            fluctuation,
            np.array([size for _, size, _ in means]),
            "; ".join(reasons),
        )


def _exponential_mean(sigma: np.ndarray) -> tuple[Estimate, float, str]:
    """⟨e^{−σ}⟩ over members, its effective sample size, and why it is refused if it is."""
    nothing = Estimate(np.asarray(np.nan), np.asarray(np.inf), len(sigma))
    if len(sigma) == 0:
        return nothing, 0.0, "no member got so far"
    if np.isnan(sigma).any():
        return nothing, 0.0, "a path was broken by a restart, not reached, or has no ratio"
    with np.errstate(over="ignore", invalid="ignore"):
        weight = np.exp(-sigma)
        size = float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0
    needed = max(_LEAST_SAMPLES, _LEAST_SHARE * len(sigma))
    if not size >= needed:
        reason = (
            f"{size:.3g} effective samples of {len(sigma)}, and {needed:.3g} are needed: a few "
            f"members decide. Take a shorter duration, or more members"
        )
        return nothing, size, reason
    return Estimate.from_samples(weight), size, ""


class TransitionLogRatio(eqx.Module):
    """ln p(x'|x) − ln p(x|x') of one Gaussian step; made by `transition_log_ratio`.

    `precision`: the inverse covariance of a step, where that does not depend on x; else None.
    """

    process: AbstractProcess
    precision: Matrix | None

    def _log_density(self, end: Vector, start: Vector) -> Scalar:
        mean, covariance = self.process.gaussian_step(start)
        moved = end - mean
        if self.precision is not None:
            return -0.5 * moved @ self.precision.astype(moved.dtype) @ moved
        root = jnp.linalg.cholesky(covariance)
        scaled = jax.scipy.linalg.solve_triangular(root, moved, lower=True)
        return -0.5 * jnp.sum(scaled**2) - jnp.sum(jnp.log(jnp.diagonal(root)))

    def __call__(self, start: Vector, end: Vector) -> Scalar:
        return self._log_density(end, start) - self._log_density(start, end)


def transition_log_ratio(process: AbstractProcess) -> TransitionLogRatio:
    """ln p(x'|x) − ln p(x|x') of one solver step, p(·|x) = N(x − h b(x), hη C(x)), h = η/substeps.

    b = ∇L (of order 2: ∇L + (η/2)H∇L). This is the kernel of Gaussian SGD (h = η) and of
    Euler–Maruyama, exactly, so that ⟨e^{−σ}⟩ = 1 for the run at its own step. Costs C(x), (d, d),
    and two Cholesky factors a step where the noise depends on x.

    **Raises:** `ValueError` for other processes, momentum (x alone has no kernel), learning-rate
    schedules, two-point increments, solvers other than Euler and constant noise that cannot be
    inverted. Where a C(x) cannot, the ratio is NaN, which the measure counts and reports.
    """
    check_part("process", process, AbstractProcess, "a process such as ss.GaussianSGD")
    landscape = process.landscape
    there = jnp.zeros(landscape.dimension, landscape.dtype)
    jax.eval_shape(process.gaussian_step, there)  # says why there is no kernel
    noise = process.gradient_noise
    if noise is None or not noise.additive:
        return TransitionLogRatio(process, None)
    covariance = np.asarray(process.gaussian_step(there)[1])
    values, vectors = np.linalg.eigh(covariance.astype(float))
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError(
            f"The noise has no density: the covariance of a step has eigenvalues "
            f"{values[0]:.3g} to {values[-1]:.3g}. Directions without noise cannot be undone."
        )
    precision = jnp.asarray((vectors / values) @ vectors.T, landscape.dtype)
    return TransitionLogRatio(process, precision)
