"""Has the run become stationary, and if not: how much longer?"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jaxtyping import Array

from sde_sgd._checks import check_number
from sde_sgd.estimate import Estimate
from sde_sgd.measure.autocovariance import ratio
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_of,
    check_schedule,
    evaluate,
    MeasureResult,
    shape_of_value,
    Tick,
)
from sde_sgd.types import Alive, Positions

_BLOCKS = 32
_LEAST_MEMBERS = 8
# R̂ of stationary members that have not mixed is √(1 + 2τ/n): 1.05 is n = 20 τ.
_LARGEST_R_HAT = 1.05
# What is asked for has a margin, as τ is measured on a run that was too short.
_LENGTH = 26


class StationarityCarry(eqx.Module):
    """Counted values (members,), first value (members, p), block sums (members, 32, 2, p)."""

    count: Array
    shift: Array
    sums: Array
    compensation: Array


class StationarityResult(MeasureResult):
    """Whether the counted part of a run may be called stationary; arrays run over entries of f.

    - `stationary`: True only if no drift is seen, the sample could have shown one of
      `resolution` standard deviations, and every member has mixed.
    - `verdict`: that in words, with the reason and the way out.
    - `needed`: how many more iterations that takes, an extrapolation (0 if stationary); a
      lower bound where the verdict says "at least". `discard`: the burn_in to use with them.
    - `drift`: Estimate, mean of f over the second half minus that over the first.
    - `spread_drift`: Estimate, the same of (f − mean)².
    - `scale`: standard deviation of f over members and time.
    - `r_hat`: Estimate of split R̂, √((within + between variance)/within) of half members.
    - `correlation_time`: Estimate of τ in iterations, from the variance of the members' half
      means, (n/2)·Var/scale². It cannot exceed n/2.
    - `num_iterations`: counted iterations n of a member that were judged.
    """

    stationary: bool
    verdict: str
    needed: int
    discard: int
    drift: Estimate
    spread_drift: Estimate
    scale: np.ndarray
    r_hat: Estimate
    correlation_time: Estimate
    num_iterations: int


class Stationarity(AbstractMeasure):
    """Refuses to call a run stationary that drifts, that has not mixed, or that shows too little.

    Members are compared over the two halves of the counted iterations: the mean of f and of
    (f − mean)² must not have moved, and halves of members must differ among each other no more
    than stationary ones of length 20 τ would (split R̂ ≤ 1.05). The second test sees what the first
    cannot: members that sit in the wells where they began do not drift.

    No test sees a region that no member has visited. Means of f without a variance
    drift by their nature: watch a bounded function of such θ.

    **Arguments:**

    - `of`: f, a function of θ, scalar or vector (few entries: each has a test); θ by default.
    - `burn_in`: iterations left out at the start.
    - `resolution`: the drift of the mean, in standard deviations of f, that the sample must be
      able to exclude.
    - `failure_rate`: probability that a stationary run is said to drift.

    **Raises:** `ValueError`, in `simulate`, for a run of fewer than burn_in + 32 iterations.

    **Source:** Vehtari et al., Bayesian Anal. 16 (2021) 667 (split R̂).
    """

    of: Callable | None = None
    burn_in: int = eqx.field(static=True, default=0)
    resolution: float = eqx.field(static=True, default=0.2)
    failure_rate: float = eqx.field(static=True, default=1e-3)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __check_init__(self):
        check_of("Stationarity", self.of)
        check_number("resolution", self.resolution, above=0.0)
        check_number("failure_rate", self.failure_rate, above=0.0, below=1.0)

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Stationarity", self.burn_in, 1, num_steps)
        shape_of_value("Stationarity", self.of, process.landscape)
        if num_steps < self.burn_in + _BLOCKS:
            raise ValueError(
                f"Stationarity needs at least {_BLOCKS} iterations after burn_in={self.burn_in}; "
                f"the run has {num_steps}. Lengthen the run or lower burn_in."
            )

    def init(self, theta: Positions) -> StationarityCarry:
        value = evaluate(self.of, theta).reshape(theta.shape[0], -1)
        members, size = value.shape
        sums = jnp.zeros((members, _BLOCKS, 2, size), value.dtype)
        count = jnp.zeros(members, jnp.int32)
        return StationarityCarry(count, jnp.zeros_like(value), sums, sums[:, 0])

    def update(
        self, carry: StationarityCarry, before, after: Positions, tick: Tick, alive: Alive
    ) -> StationarityCarry:
        """Adds to the current block; when all are full, they are merged in pairs."""
        done = tick.iteration.astype(jnp.int32) - self.burn_in

        def add() -> StationarityCarry:
            value = evaluate(self.of, after).reshape(after.shape[0], -1)
            shift = jnp.where(carry.count[:, None] == 0, value, carry.shift)
            doublings = _doublings(done)
            slot = (done - 1) >> doublings
            full = (doublings > 0) & (done - 1 == _BLOCKS << jnp.maximum(doublings - 1, 0))
            sums = lax.cond(full, _merge, lambda x: x, carry.sums)
            fresh = (done - 1) & ((1 << doublings) - 1) == 0
            compensation = jnp.where(fresh, 0, carry.compensation)
            moved = value - shift
            old = lax.dynamic_index_in_dim(sums, slot, axis=1, keepdims=False)
            both = jnp.stack([moved, moved**2], axis=1)
            new, compensation = add_compensated(old, compensation, both)
            sums = lax.dynamic_update_index_in_dim(sums, new, slot, axis=1)
            return StationarityCarry(carry.count + 1, shift, sums, compensation)

        return lax.cond(done > 0, add, lambda: carry)

    def finished(self, carry: StationarityCarry) -> None:
        return None

    def restart(self, carry: StationarityCarry, restarted: Alive) -> StationarityCarry:
        return carry

    def result(
        self, carry: StationarityCarry, alive: np.ndarray, process: Any
    ) -> StationarityResult:
        kept = alive & (np.asarray(carry.count) > 0)
        count = int(np.asarray(carry.count)[kept].min()) if kept.any() else 0
        doublings = int(_doublings(np.asarray(max(count, 1))))
        length = 2**doublings
        half = (count // length) // 2
        sums = np.asarray(carry.sums, dtype=float)[kept][:, : 2 * half]
        shift = np.asarray(carry.shift, dtype=float)[kept]
        if half < 2 or len(sums) < _LEAST_MEMBERS:
            short = max(_BLOCKS - count, 0)
            reason = f"at least {_LEAST_MEMBERS} members and {_BLOCKS} iterations are needed"
            return self._unknown(len(sums), count, shift.shape[1], short, reason)
        undefined = int((~np.isfinite(sums).all(axis=(1, 2, 3))).sum())
        if undefined:
            reason = (
                f"f was NaN or infinite in {undefined} of them, and longer runs do not mend that"
            )
            return self._unknown(len(sums), count, shift.shape[1], 0, reason)
        first = shift[:, None] + sums[:, :, 0] / length
        centre = first.mean(axis=(0, 1))
        offset = centre - shift[:, None]
        second = sums[:, :, 1] / length - 2 * offset * sums[:, :, 0] / length + offset**2
        return _judge(self, first, second, half, length)

    def _unknown(
        self, members: int, count: int, size: int, short: int, reason: str
    ) -> StationarityResult:
        nothing = Estimate(np.full(size, np.nan), np.full(size, np.inf), members)
        verdict = (
            f"unknown: {members} members over {count} iterations after burn_in={self.burn_in}; "
            f"{reason}"
        )
        return StationarityResult(
            stationary=False,
            verdict=verdict,
            needed=short,
            discard=self.burn_in,
            drift=nothing,
            spread_drift=nothing,
            scale=np.full(size, np.nan),
            r_hat=nothing,
            correlation_time=nothing,
            num_iterations=count,
        )


def _doublings(done):
    """j: after `done` values blocks hold 2^j of them, the smallest with 32·2^j ≥ done."""
    if isinstance(done, np.ndarray):
        return int((int(done) - 1) // _BLOCKS).bit_length()
    return 32 - lax.clz((done - 1) // _BLOCKS)


def _merge(sums: Array) -> Array:
    members, blocks, *rest = sums.shape
    pairs = sums.reshape(members, blocks // 2, 2, *rest).sum(axis=2)
    return jnp.concatenate([pairs, jnp.zeros_like(pairs)], axis=1)


def _judge(
    measure: Stationarity, first: np.ndarray, second: np.ndarray, half: int, length: int
) -> StationarityResult:
    """The verdict from block means of f and (f − mean)², (members, 2·half, p) each."""
    num, size = len(first), first.shape[2]
    total, steps = 2 * half * length, half * length
    means = np.stack([first[:, :half].mean(1), first[:, half:].mean(1)], axis=1)
    spreads = np.stack([second[:, :half].mean(1), second[:, half:].mean(1)], axis=1)
    drift = Estimate.from_samples(means[:, 1] - means[:, 0])
    spread_drift = Estimate.from_samples(spreads[:, 1] - spreads[:, 0])
    # As in Moments: the common mean is measured on the same members.
    scale = np.sqrt(spreads.mean(axis=(0, 1)) + means.mean(1).var(0, ddof=1) / num)

    within = (spreads - (means - means.mean((0, 1))) ** 2) * steps / (steps - 1)
    around = (means - means.mean((0, 1))) ** 2 * 2 * num / (2 * num - 1)
    square = ratio((within * (1 - 1 / steps) + around).mean(1), within.mean(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        r_hat = np.sqrt(square.value)
        r_hat = Estimate(r_hat, square.standard_error / (2 * r_hat), num)
    own = (means - means.mean(0)) ** 2 * num / (num - 1)
    time = ratio(steps * own.mean(1), spreads.mean(1) + means.mean(1).var(0, ddof=1) / num)
    # A transient widens the first half: what comes after it is judged by the second.
    settled_width = spreads[:, 1].mean(0) - (means[:, 1].mean(0) - means.mean((0, 1))) ** 2
    settled_width = settled_width + own[:, 1].mean(0) / num
    with np.errstate(invalid="ignore", divide="ignore"):
        late_time = steps * own[:, 1].mean(0) / settled_width

    entries = 2 * size
    tail = -np.expm1(np.log1p(-measure.failure_rate) / entries) / 2
    limit = -scipy.special.stdtrit(num - 1, tail)
    reasons, needed, discard = [], 0, measure.burn_in
    moving = {
        "mean of f": (drift, first),
        "variance of f": (spread_drift, second),
    }
    for name, (moved, blocks) in moving.items():
        for j in range(size):
            value, error = float(moved.value[j]), float(moved.standard_error[j])
            if abs(value) <= limit * error:
                continue
            more, settled, bound = _relaxation(blocks[:, :, j], half, length, error)
            reasons.append(
                f"the {name}[{j}] drifts, by {value:.3g} ± {error:.2g} from the first half to the "
                f"second{bound}"
            )
            length_left = np.nan_to_num(_LENGTH * late_time[j]) - total
            needed = max(needed, more + max(0, int(length_left)))
            discard = max(discard, measure.burn_in + settled)
    for j in range(size):
        if scale[j] == 0:
            continue
        mixed, tau = float(r_hat.value[j]), float(time.value[j])
        if not mixed <= _LARGEST_R_HAT:
            frozen = tau > steps / 5
            more = int(np.ceil(_LENGTH * tau)) - total
            needed = max(needed, more, total if frozen else 0)
            bound = ", at least" if frozen else ""
            reasons.append(
                f"members have not mixed in f[{j}]: R̂ = {mixed:.3g} > {_LARGEST_R_HAT}, "
                f"τ ≈ {tau:.3g}{bound}"
            )
        slack = measure.resolution * scale[j] - abs(float(drift.value[j]))
        reach = limit * float(drift.standard_error[j])
        if not reasons and reach > slack:
            # The error falls as n^{−1/2}; a drift that uses the slack up is found by doubling.
            factor = (reach / slack) ** 2 if slack > 0 else 2.0
            needed = max(needed, int(np.ceil((factor - 1) * total)))
            reasons.append(
                f"a drift of f[{j}] by {measure.resolution:g} standard deviations could not be "
                f"seen (or add members, {factor:.2g} times as many)"
            )
    if not reasons:
        verdict = f"stationary: over {total} iterations of {num} members no drift beyond the errors"
    else:
        needed = max(needed, 1)
        least = "at least" if any("at least" in reason for reason in reasons) else "about"
        verdict = (
            f"not shown to be stationary: {'; '.join(reasons)}. Run {least} {needed} iterations "
            f"more, with burn_in={discard}"
        )
    return StationarityResult(
        not reasons,
        verdict,
        needed,
        discard,
        drift,
        spread_drift,
        scale,
        r_hat,
        time,
        total,
    )


def _relaxation(blocks: np.ndarray, half: int, length: int, error: float) -> tuple[int, int, str]:
    """Iterations needed, to be discarded, and a remark, for one exponential transient.

    Means w₀…w₃ of four equal windows give r = (w₁ − w₃)/(w₀ − w₂) = e^{−Q/τ}, Q their distance,
    whatever the limit. The transient must fall to a quarter of the drift's standard error.
    """
    quarter = half // 2
    starts = (0, quarter, half, half + quarter)
    windows = [blocks[:, s : s + quarter].mean(axis=1) for s in starts]
    early, late = (Estimate.from_samples(windows[i] - windows[i + 2]) for i in (0, 1))
    total, spacing = 2 * half * length, quarter * length
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = float(late.value / early.value)
        slack = float(np.hypot(late.standard_error, early.standard_error) / abs(early.value))
    if not decay + 2 * slack < 0.95:
        return 4 * total, total, ", without slowing down: at least"
    decay = max(decay, np.exp(-4.0))
    relaxation = -spacing / np.log(decay)
    start = abs(float(early.value)) / (1 - decay**2)
    settled = int(np.ceil(relaxation * np.log(max(4 * start / error, np.e))))
    return settled, settled, ""
