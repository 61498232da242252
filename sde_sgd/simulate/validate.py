"""Everything that can be wrong with a run, found before time is spent."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..draws import Stream, stream_keys, threefry
from ..dynamics.base import AbstractProcess, LearningRate
from ..dynamics.continuous import GradientFlow, ModifiedEquation
from ..dynamics.driven import DrivenEquation
from ..dynamics.optax_sgd import OptaxSGD
from ..dynamics.probability_flow import ProbabilityFlow
from ..dynamics.sam import SAM, SAMEquation
from ..dynamics.underdamped import OverdampedEquation
from ..landscapes.finite_sums import LeastSquares
from ..landscapes.real_arrays import as_real, real_values
from ..measure.base import AbstractMeasure
from ..memory import available_memory
from ..noise.driving import WhiteNoise
from ..noise.models import MinibatchNoise
from ..noise.sampling import RandomReshuffling
from ..noise.thermal import ThermalNoise
from ..theory.least_squares import max_stable_learning_rate, mean_square_stability
from ..theory.sharpness_aware import (
    max_stable_learning_rate_sam,
    max_stable_learning_rate_sam_equation,
)
from .warn import warn


def check_count(name: str, value: Any, most: int | None = None) -> int:
    """An integer ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer ≥ 1; got {value!r}.")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}; got {value}.")
    return int(value)


def check_key(key: Any) -> jax.Array:
    """A JAX key, as `jax.random.key(0)` gives (or `PRNGKey`)."""
    is_key = isinstance(key, jax.Array) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == jnp.uint32 and key.shape == (2,))
    )
    if not is_key:
        raise ValueError(f"key must be one JAX key, such as jax.random.key(0); got {key!r}.")
    return key


def check_measures(measures: Any, process: AbstractProcess, num_steps: int) -> dict:
    """A dictionary of measures that fit the process and the length of the run."""
    if measures is None:
        return {}
    if not isinstance(measures, dict):
        raise ValueError(
            f"measures must be a dictionary of names and measures, such as "
            f'{{"moments": ss.Moments()}}; got {type(measures).__name__}.'
        )
    for name, measure in measures.items():
        if not isinstance(measure, AbstractMeasure):
            raise ValueError(
                f"measures[{name!r}] is {measure!r}, which is no measure: use ss.Moments, "
                f"ss.Histogram, ss.Snapshots, ss.FirstPassage or a subclass of AbstractMeasure."
            )
        measure.check(process, num_steps)
    return dict(measures)


def check_length(process: AbstractProcess, num_steps: int) -> None:
    """A process that is defined for a number of iterations only must not run longer."""
    most = getattr(process, "num_steps", None)
    if most is not None and num_steps > most:
        raise ValueError(
            f"This {type(process).__name__} ends after {most} iterations, before the run does at "
            f"{num_steps}: make its last stage, or the score that it follows, longer."
        )


def check_refill(process: AbstractProcess, measures: dict[str, AbstractMeasure], carries) -> None:
    """Refill needs a process that may restart and a measure that says when."""
    if not process.restartable:
        raise ValueError(
            f"refill=True puts members back to their start at any iteration, and this "
            f"{type(process).__name__} depends on the common clock (a learning-rate schedule)."
        )
    ends = [eqx.filter_eval_shape(m.finished, carries[name]) for name, m in measures.items()]
    if all(end is None for end in ends):
        raise ValueError(
            "refill=True restarts the members that a measure has finished with, and no measure of "
            "this run ever finishes: add ss.FirstPassage, or leave refill out."
        )


def check_state(members: Any) -> None:
    """States and carries hold numbers only, as NumPy and a file can."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(members):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"A state holds a random key ({jax.tree_util.keystr(path)}), which is no array of "
                f"numbers and the same for all members: draw from the `draws` that init and step "
                f"are given, or keep jax.random.key_data of a key that is each member's own."
            )


def check_outcome(on_divergence: Any, budget: Any) -> str:
    """What to do with diverged members, "raise" or "mask"; a budget of some seconds."""
    if on_divergence not in ("raise", "mask"):
        raise ValueError(f'on_divergence must be "raise" or "mask"; got {on_divergence!r}.')
    if budget is not None and not budget > 0:
        raise ValueError(f"budget must be a number of seconds > 0; got {budget!r}.")
    return on_divergence


def starts(process: AbstractProcess, theta0: Any, ensemble_size: int, key) -> jax.Array:
    """(members, d) starting points from one point, one a member, or a sampler key -> (d,)."""
    landscape = process.landscape
    dim, dtype = landscape.dimension, landscape.dtype
    if isinstance(theta0, eqx.Module):
        raise ValueError(
            f"theta0 is a model ({type(theta0).__name__}), and must be flat parameters: with "
            f"EmpiricalRisk the model's own are landscape.initial."
        )
    if callable(theta0):
        identity = jax.device_put(np.arange(ensemble_size, dtype=np.uint32))
        # Not compiled as a whole: a sampler may look at what has changed since its last call.
        sampled: Any = jax.vmap(theta0)(_keys(stream_keys(key), identity))
        if sampled.shape != (ensemble_size, dim):
            raise ValueError(
                f"The sampler theta0(key) must give shape ({dim},); it gave {sampled.shape[1:]}."
            )
        theta = sampled
    else:
        given = real_values("theta0", theta0)
        floating = jnp.issubdtype(given.dtype, jnp.floating)
        theta = as_real("theta0", given, None if floating else dtype)
        if theta.shape not in ((dim,), (ensemble_size, dim)):
            raise ValueError(
                f"theta0 must have shape ({dim},) or ({ensemble_size}, {dim}), or be a sampler "
                f"key -> ({dim},); got {theta.shape}."
            )
    if theta.dtype != dtype:
        raise ValueError(
            f"theta0 is {theta.dtype} and the landscape {dtype}: cast one of them, so that the "
            f"whole run has one dtype."
        )
    points = np.asarray(theta)
    if not np.isfinite(points).all():
        raise ValueError("theta0 has entries that are NaN or infinite.")
    same = theta.shape == (ensemble_size, dim)
    return theta if same else jax.device_put(np.broadcast_to(points, (ensemble_size, dim)))


@jax.jit
def _keys(streams: jax.Array, identity: jax.Array) -> jax.Array:
    """A key for the start of each member, (members,)."""
    own = streams[Stream.INITIAL]
    words = threefry((own[0], own[1]), identity, jnp.uint32(0))
    return jr.wrap_key_data(jnp.stack(words, axis=-1), impl="threefry2x32")


def check_memory(needed: int, limit: int | None, what: str) -> None:
    """Raises `MemoryError` with the bytes and the way out."""
    allowed = limit if limit is not None else int(0.8 * available_memory())
    if needed > allowed:
        raise MemoryError(
            f"This run needs about {needed / 1e9:.3g} GB ({needed} bytes; {what}) and may use "
            f"{allowed / 1e9:.3g} GB. Lower ensemble_size, record less often (record_every, "
            f'Snapshots(at=...)), measure a projection (of=...), use covariance="diagonal", or '
            f"pass a larger memory=."
        )


# Exact mean-square stability costs an eigenproblem of d(d+1)/2 unknowns.
_EXACT_STABILITY = 40


def check_stability(process: AbstractProcess, theta: jax.Array) -> None:
    """Mean-square stability: an error for least squares, elsewhere a warning from ηλ_max > 2.

    Exact on `LeastSquares` up to d = 40, where each process is judged by the second moments of its
    own step: SAM's of H_B(I + ρH_B), normalised SAM, whose kick is bounded, by those of SGD.
    Beyond, and for other landscapes, only the step's overshoot η λ_max/substeps > 2 at the first
    start is looked at, with λ_max(1 + ρλ_max) for SAM. Noise whose steps depend on each other
    (reshuffled epochs, coloured noise that depends on θ) can be stable beyond it: a warning.
    Schedules, optimisers with a rate of their own, other coordinates, probability flows and
    solvers other than Euler are not judged.
    """
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
    top, symbol, radius = _top_eigenvalue(landscape, np.asarray(theta)[0]), "λ_max", _climb(process)
    if radius:
        top, symbol = top * (1 + radius * top), "λ_max(1 + ρ λ_max)"
    overshoot = eta / process.substeps * top / (1 + momentum)
    if overshoot > 2:
        message = (
            f"{rate_name}={eta:g}: η {symbol}/(substeps·(1+μ)) = {overshoot:.3g} exceeds 2 at the "
            f"first start, so that steps overshoot there"
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
    num = process.landscape.num_examples
    sampling = getattr(process, "sampling", None)
    noise = getattr(process, "noise", None)
    while isinstance(noise, ThermalNoise):
        noise = noise.noise  # a bath does not depend on θ
    if sampling is None and isinstance(noise, MinibatchNoise):
        sampling = noise.sampling
    return 0.0 if sampling is None else sampling.noise_factor(num)


@eqx.filter_jit
def _power_iteration(landscape, theta):
    def body(_, v):
        w = landscape.hessian_vector_product(theta, v)
        return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny)

    start = jnp.cos(jnp.arange(theta.shape[0], dtype=theta.dtype) * 1.7 + 0.3)
    v = jax.lax.fori_loop(0, 20, body, start / jnp.linalg.norm(start))
    return jnp.abs(jnp.vdot(v, landscape.hessian_vector_product(theta, v)))


def _top_eigenvalue(landscape, theta: np.ndarray) -> float:
    """|λ_max| of the Hessian by 20 power iterations: a lower bound, close enough to warn."""
    return float(_power_iteration(landscape, jax.device_put(theta)))
