"""Whether the steps of a process are stable where it starts, looked at before a run."""

import weakref
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import check_choice
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.landscapes.finite_sums import LeastSquares
from sde_sgd.noise.driving import WhiteNoise
from sde_sgd.noise.models import MinibatchNoise
from sde_sgd.noise.sampling import RandomReshuffling
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.batches import noise_factor, without_bath
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.continuous.driven import DrivenEquation
from sde_sgd.processes.continuous.modified import GradientFlow, ModifiedEquation
from sde_sgd.processes.continuous.momentum import OverdampedEquation
from sde_sgd.processes.continuous.probability_flow import ProbabilityFlow
from sde_sgd.processes.discrete.optax_sgd import OptaxSGD
from sde_sgd.processes.discrete.sam import SAM, SAMEquation
from sde_sgd.simulate.warn import warn
from sde_sgd.theory.stationary.least_squares import max_stable_learning_rate, mean_square_stability
from sde_sgd.theory.stationary.sharpness_aware import (
    max_stable_learning_rate_sam,
    max_stable_learning_rate_sam_equation,
)
from sde_sgd.types import Indices, Scalar, Vector

# Exact mean-square stability costs an eigenproblem of d(d+1)/2 unknowns.
_EXACT_STABILITY = 40
# Examples and power iterations that a warning is worth.
_EXAMPLES = 128
_ITERATIONS = 20


def judge_stability(process: AbstractProcess, theta: jax.Array, examples: str | bool) -> None:
    """Mean-square stability: an error for least squares, elsewhere a warning from ηλ_max > 2.

    Exact on `LeastSquares` up to d = 40, where each process is judged by the second moments of its
    own step: SAM's of H_B(I + ρH_B), normalised SAM, whose kick is bounded, by those of SGD.
    Beyond, and for other landscapes, only the step's overshoot η λ_max/substeps > 2 at the first
    start is looked at, with λ_max(1 + ρλ_max) for SAM. Noise whose steps depend on each other
    (reshuffled epochs, coloured noise that depends on θ) can be stable beyond it: a warning.
    Schedules, optimisers with a rate of their own, other coordinates, probability flows and
    solvers other than Euler are not judged.

    `examples`: "sample" looks at the Hessian of 128 examples where a finite sum other than least
    squares has more, "full" at all of them, False at nothing.
    """
    check_choice("check_stability", examples, ("sample", "full", False))
    if examples is False:
        return
    name, rate_name = type(process).__name__, "learning_rate"
    if isinstance(process, OverdampedEquation):
        process, rate_name = process.equation, "learning_rate/(1 − momentum)"
    rate = getattr(process, "learning_rate", None)
    eta = rate.constant() if isinstance(rate, LearningRate) else None
    if eta is None or isinstance(process, OptaxSGD | ProbabilityFlow):
        return
    if _is_flow(process) and type(process.solver) is not dfx.Euler:  # pyright: ignore
        return
    landscape = process.landscape
    momentum = float(getattr(process, "momentum", 0.0))
    exact = isinstance(landscape, LeastSquares) and _independent(process)
    if isinstance(landscape, LeastSquares) and exact and landscape.dimension <= _EXACT_STABILITY:
        stable, hint = _mean_square(process, landscape, eta, momentum)
        if not stable:
            raise ValueError(
                f"{rate_name}={eta:g} is beyond the mean-square stability of {name} on this "
                f"LeastSquares (noise factor {_noise_factor(process):g}): the second moment grows "
                f"without bound; {hint}."
            )
        return
    # Heavy ball overshoots at η λ_max = 2(1 + μ).
    looked_at = _looked_at(landscape, examples)
    top = _top_eigenvalue(landscape, np.asarray(theta)[0], looked_at)
    symbol, radius = "λ_max", _climb(process)
    if radius:
        top, symbol = top * (1 + radius * top), "λ_max(1 + ρ λ_max)"
    overshoot = eta / process.substeps * top / (1 + momentum)
    if overshoot > 2:
        some = "" if looked_at is None else f" on {looked_at} of {landscape.num_examples} examples"
        message = (
            f"{rate_name}={eta:g}: η {symbol}/(substeps·(1+μ)) = {overshoot:.3g} exceeds 2 at the "
            f"first start{some}, so that steps overshoot there"
        )
        if exact:
            raise ValueError(f"{message} for ever: lower it below {2 * eta / overshoot:.4g}.")
        warn(f"{message}; the run may diverge.")


def _mean_square(
    process: Any, landscape: LeastSquares, eta: float, momentum: float
) -> tuple[bool, str]:
    """Whether the second moment of a process on least squares is bounded, and the way out."""
    inputs, l2 = np.asarray(landscape.data[0], dtype=float), float(landscape.l2)
    noise: dict[str, Any] = dict(noise_factor=_noise_factor(process), l2=l2)
    if getattr(process, "order", 1) == 2:
        step = eta / process.substeps
        found = mean_square_stability(inputs, learning_rate=eta, time_step=step, order=2, **noise)
        return found.stable, "lower it, or raise substeps"
    ratio, radius = 1 / process.substeps, _climb(process)
    if isinstance(process, SAMEquation):
        most = max_stable_learning_rate_sam_equation(
            inputs, radius=radius, sampling=process.noise.sampling, step_ratio=ratio, l2=l2
        )
    elif radius:
        most = max_stable_learning_rate_sam(inputs, radius=radius, sampling=process.sampling, l2=l2)
    else:
        most = max_stable_learning_rate(inputs, momentum=momentum, step_ratio=ratio, **noise)
    return eta < most, f"it is stable below {most:.6g}" + (f" at radius={radius:g}" * bool(radius))


def _climb(process) -> float:
    """ρ where a step takes the gradient at θ + ρ∇ℓ_B, else 0."""
    if isinstance(process, SAMEquation) or (isinstance(process, SAM) and not process.normalized):
        return float(process.radius)
    return 0.0


def _independent(process) -> bool:
    """Whether the noise of a step that depends on θ is independent of all others."""
    if isinstance(process, DrivenEquation):
        return process.noise.additive or isinstance(process.driving, WhiteNoise)
    return not isinstance(getattr(process, "sampling", None), RandomReshuffling)


def _is_flow(process) -> bool:
    return isinstance(process, GradientFlow | ModifiedEquation)


def _noise_factor(process) -> float:
    """c of the minibatch noise; 0 (the mean alone) for other noise models."""
    noise = without_bath(process)  # without a bath, which does not depend on θ
    exact = noise is None or isinstance(noise, MinibatchNoise)
    return (noise_factor(process) or 0.0) if exact else 0.0


def _looked_at(landscape: AbstractLandscape, examples: str | bool) -> int | None:
    """How many examples stand for all of them; None for all."""
    if examples == "full" or isinstance(landscape, LeastSquares):
        return None
    if not isinstance(landscape, AbstractFiniteSum) or landscape.num_examples <= _EXAMPLES:
        return None
    return _EXAMPLES


# Largest eigenvalues by landscape, start and number of examples: comparisons, splitting and
# sweeps ask for the same one many times.
_KNOWN: dict[tuple[int, bytes, int | None], float] = {}


def _top_eigenvalue(
    landscape: AbstractLandscape, theta: np.ndarray, looked_at: int | None
) -> float:
    """|λ_max| of the Hessian by 20 power iterations: a lower bound, close enough to warn."""
    own = (id(landscape), theta.tobytes(), looked_at)
    if own not in _KNOWN:
        rows = None
        if looked_at is not None:
            assert isinstance(landscape, AbstractFiniteSum)
            places = np.linspace(0, landscape.num_examples - 1, looked_at)
            rows = jax.device_put(places.astype(np.int32))
        _KNOWN[own] = float(_power_iteration(landscape, rows, jax.device_put(theta)))
        # The identity of a landscape may be another's once it is gone.
        weakref.finalize(landscape, _KNOWN.pop, own, None)
    return _KNOWN[own]


@eqx.filter_jit
def _power_iteration(landscape: Any, rows: Indices | None, theta: Vector) -> Scalar:
    def gradient(x):
        if rows is None:
            return landscape.gradient(x)
        return landscape.minibatch_gradient(x, rows)

    def body(_, carry):
        v, _ = carry
        w = jax.jvp(gradient, (theta,), (v,))[1]
        return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny), jnp.vdot(v, w)

    start = jnp.cos(jnp.arange(theta.shape[0], dtype=theta.dtype) * 1.7 + 0.3)
    start = (start / jnp.linalg.norm(start), jnp.zeros((), theta.dtype))
    return jnp.abs(jax.lax.fori_loop(0, _ITERATIONS + 1, body, start)[1])
