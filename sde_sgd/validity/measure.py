"""`validity`: checks, exploration, the local model, the verdict."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import ArrayLike, Float

from ..curvature import hessian_noise_trace
from ..dynamics.base import AbstractProcess
from ..dynamics.discrete import SGD
from ..dynamics.optax_sgd import OptaxSGD
from ..landscapes.base import AbstractFiniteSum, AbstractLandscape
from ..landscapes.real_arrays import as_float64, as_real
from ..measure.estimate import Estimate
from ..simulate.engine import simulate
from ..simulate.validate import check_key
from ..types import Key, RealLike, Vector
from .local_model import LocalModel, Settings
from .probes import directions as find_directions, example_models, Norms, norms as find_norms
from .result import Validity
from .rule import decide, largest, watch
from .scaling import linear_scaling_limit
from .svag_gap import svag_gaps

_KNOWN = (
    "ss.SGD, with or without momentum (ss.ModifiedEquation, ss.UnderdampedEquation); for "
    "ss.SignSGD, ss.RMSprop, ss.Adam and ss.SAM the library has SDEs (ss.AdaptiveEquation, "
    "ss.SAMEquation) to compare with in ss.side_by_side, but no rule for their validity"
)


def validity(
    landscape: AbstractLandscape,
    sgd: AbstractProcess,
    theta: ArrayLike,
    *,
    key: Key,
    num_steps: int = 1000,
    tolerance: RealLike = 0.1,
    directions: ArrayLike | None = None,
    count: int = 3,
    num_paths: int = 4,
    explore_steps: int | None = None,
    svag: tuple[int, ...] = (2, 4, 8),
    svag_members: int = 128,
    svag_steps: int = 20,
    num_probes: int = 32,
) -> Validity:
    """Whether SGD's law and its SDE's differ by less than `tolerance` after `num_steps` iterations.

    The two start at θ and are compared at t = ηK, along each watched direction, by

        D = 2 W₂(SGD, SDE)/σ_SDE,

    relative in units of variance: .1 is a variance 10 % off, or a mean .05 standard deviations
    off. D is *predicted*, from the quadratic model of every example loss, averaged over points
    that `num_paths` short runs of SGD visit (`sde_sgd.validity.rule` has the formula). The SDE is
    `ModifiedEquation` of order one with `MinibatchNoise`, for momentum `UnderdampedEquation`,
    both in the limit of a small solver step.

    **What it cannot see:** directions it does not watch; events that a quadratic model does not
    know, such as exits over barriers, where the two differ exponentially whatever D says.

    **Arguments:**

    - `landscape`, `sgd`: a finite sum and an `ss.SGD` on it, at a constant learning rate.
    - `theta`: θ (d,), where the run starts.
    - `key`: of the explored paths, of SVAG and of the probes of tr(HΣ).
    - `num_steps`: K, after which the laws are compared.
    - `tolerance`: of D.
    - `directions`: (d, n), the user's own, beside the `count` sharpest, the `count` noisiest and
      the gradient's.
    - `num_paths`, `explore_steps`: SGD runs that say where the model holds, and their length
      (min(K, 500) if None).
    - `svag`, `svag_members`, `svag_steps`: l, members and iterations of the simulated gap to
      SVAG(l); () leaves it out, and so does momentum, of which SVAG has none.
    - `num_probes`: draws of the noise for tr(HΣ)/tr Σ.

    **Returns:** `Validity`. A gap to SVAG beyond `tolerance` by four errors overrules "valid".

    **Raises:** `ValueError` for a population, a process other than `SGD`, one of another
    landscape, a schedule, batches without noise, θ of another shape or not finite, a learning
    rate of η λ_max ≥ 2(1 + μ), and numbers out of range.

    **Source:** Li, Malladi, Arora 2021 (2102.12470) for the ratio of noise and gradient and SVAG;
    the closed moments are those of `ss.theory` for least squares.
    """
    point, limit = _checked(landscape, sgd, theta), _positive("tolerance", tolerance)
    assert isinstance(sgd, SGD) and isinstance(landscape, AbstractFiniteSum)  # as checked
    for name, least, value in (
        ("num_steps", 1, num_steps),
        ("count", 1, count),
        ("num_paths", 2, num_paths),
        ("svag_members", 2, svag_members),
        ("svag_steps", 1, svag_steps),
        ("num_probes", 2, num_probes),
    ):
        _whole(name, value, least)
    for level in svag:
        _whole("svag", level, 2)
    key = check_key(key)
    explored = min(num_steps, 500) if explore_steps is None else explore_steps
    _whole("explore_steps", explored, 1)
    eta, mu, size = sgd.learning_rate.constant(), float(sgd.momentum), sgd.sampling.batch_size
    assert eta is not None
    num = landscape.num_examples
    settings = Settings(eta, sgd.sampling.noise_factor(num), mu, num_steps)
    norms = find_norms(landscape, point)
    _refuse_noiseless(settings, norms, sgd)
    strong = norms.gradient > 1e-6 * float(np.sqrt(settings.noise_factor * norms.noise_trace))
    found = find_directions(landscape, point, strong, count, _extra(directions, landscape))
    if eta * found.sharpness >= 2 * (1 + mu):
        raise ValueError(
            f"learning_rate={eta:g} is above stability: η λ_max = {eta * found.sharpness:.4g} must "
            f"be < 2(1 + momentum) = {2 * (1 + mu):g}. Take learning_rate < "
            f"{2 * (1 + mu) / found.sharpness:.4g}."
        )
    keys = jr.split(key, 3)
    visited, diverged = _explore(sgd, point, explored, num_paths, keys[0])
    paths = _models(landscape, point, visited, found.basis)
    model = _average(paths)
    watched = watch(model, found.names, found.weights, settings, sgd.sampling)
    distance = largest(watched).shares.distance
    error = _jackknife(paths, found, settings, sgd.sampling)
    svag = () if diverged or mu > 0 else tuple(svag)
    gaps: dict[str, dict[int, Estimate]] = {}
    if svag:
        first = found.basis @ found.weights[0]
        options: dict[str, Any] = dict(members=svag_members, num_steps=svag_steps, key=keys[1])
        gaps = svag_gaps(sgd, point, first, svag, **options)
    trace = hessian_noise_trace(landscape, point, key=keys[2], num_probes=num_probes)
    return Validity(
        verdict=_verdict(distance, error, limit, watched, diverged, num_paths, gaps),
        distance=Estimate(distance, error, len(visited)),
        watched=watched,
        directions=found.basis @ found.weights.T,
        norms=norms,
        sharpness=found.sharpness,
        mean_curvature=Estimate(
            trace.value / norms.noise_trace,
            trace.standard_error / norms.noise_trace,
            trace.num_samples,
        ),
        growth=model.growth(settings),
        diverged=diverged,
        svag=gaps,
        scaling=linear_scaling_limit(
            model, found.names, found.weights, settings, sgd.sampling, limit
        ),
        settings=settings,
        tolerance=limit,
        batch_size=size,
        num_examples=num,
    )


def _explore(sgd: SGD, point: Vector, steps: int, paths: int, key: Key) -> tuple[np.ndarray, int]:
    """θ half-way and at the end of short runs, (paths, 2, d), and how many of them diverged.

    Only θ itself if any did: what is left of such runs says nothing of the others.
    """
    first = max(1, steps // 2)
    options: dict[str, Any] = {"progress": False, "on_divergence": "mask"}
    run = simulate(sgd, point, num_steps=first, ensemble_size=paths, key=key, **options)
    rows = [run.positions]
    if steps > first and run.alive.all():
        run = run.extend(steps - first, **options)
        rows.append(run.positions)
    diverged = int((~run.alive).sum())
    if diverged:
        return np.asarray(point)[None, None], diverged
    return np.stack(rows, axis=1), 0


def _models(landscape, point: Vector, visited: np.ndarray, basis: np.ndarray) -> list[LocalModel]:
    """One model a path, about `point`: H_i the mean over its points, p_i = mean(∇ℓ_i) − H_i z̄."""
    models = []
    for rows in visited:
        slopes, curvatures = example_models(landscape, jnp.asarray(rows), basis)
        mean = ((rows.astype(float) - np.asarray(point, float)) @ basis).mean(axis=0)
        bend = curvatures.mean(axis=0)
        models.append(LocalModel(slopes.mean(axis=0) - bend @ mean, bend))
    return models


def _average(models: list[LocalModel]) -> LocalModel:
    slopes = np.mean([m.slopes for m in models], axis=0)
    return LocalModel(slopes, np.mean([m.curvatures for m in models], axis=0))


def _jackknife(paths: list[LocalModel], found, settings: Settings, sampling) -> float:
    """Standard error of the largest D over the paths: of what was explored, not of the theory."""
    if len(paths) < 2:
        return float("inf")
    values = []
    for left_out in range(len(paths)):
        kept = [m for i, m in enumerate(paths) if i != left_out]
        watched = watch(_average(kept), found.names, found.weights, settings, sampling)
        values.append(largest(watched).shares.distance)
    spread = np.asarray(values)
    if not np.isfinite(spread).all():
        return 0.0 if not np.isfinite(spread).any() else float("inf")
    return float(np.sqrt((len(paths) - 1) * spread.var()))


def _verdict(distance, error, limit, watched, diverged: int, num_paths: int, gaps) -> str:
    if diverged:
        return f"not valid: {diverged} of {num_paths} runs of SGD from here diverge"
    worst = largest(watched)
    why = f"along {worst.name}: {worst.shares.largest}"
    verdict = decide(distance, error, limit, why)
    beyond = [
        (name, level, gap)
        for name, row in gaps.items()
        for level, gap in row.items()
        if abs(float(gap.value)) - 4 * float(gap.standard_error) > limit
    ]
    if beyond and not verdict.startswith("not valid"):
        name, level, gap = beyond[0]
        return (
            f"not valid: measured {name} of SGD and SVAG({level}) {float(gap.value):+.3g} ± "
            f"{float(gap.standard_error):.1g} apart, beyond {limit:g} (predicted D {distance:.3g})"
        )
    return verdict


def _checked(landscape: Any, sgd: Any, theta: Any) -> Float[Any, " d"]:
    if isinstance(landscape, eqx.Module) and not isinstance(landscape, AbstractLandscape):
        raise ValueError(
            f"landscape is a model ({type(landscape).__name__}), and a model alone has no loss: "
            f"give ss.EmpiricalRisk(model, inputs, targets, ss.cross_entropy), and its .initial "
            f"as theta."
        )
    if not isinstance(landscape, AbstractFiniteSum):
        kind = type(landscape).__name__
        what = "a population" if isinstance(landscape, AbstractLandscape) else "no landscape"
        raise ValueError(
            f"validity needs a finite sum, whose examples it can look at; {kind} is {what}. Draw "
            f"a data set and give ss.LeastSquares, ss.EmpiricalRisk or the like."
        )
    if isinstance(sgd, OptaxSGD):
        raise ValueError(
            f"validity does not know the SDE of an optax optimiser (OptaxSGD); it knows {_KNOWN}."
        )
    if not isinstance(sgd, SGD):
        kind = type(sgd).__name__
        raise ValueError(f"validity does not know when the SDE of {kind} holds; it knows {_KNOWN}.")
    if sgd.landscape is not landscape:
        raise ValueError(
            "sgd moves on another landscape than the one given: pass sgd.landscape, or make the "
            "ss.SGD on this one."
        )
    if sgd.learning_rate.constant() is None:
        raise ValueError(
            "validity needs a constant learning rate: a schedule has another verdict at every "
            "stage. Make an ss.SGD at the rate of the stage in question."
        )
    if isinstance(theta, eqx.Module):
        raise ValueError(
            f"theta is a model ({type(theta).__name__}), and must be flat parameters: with "
            f"EmpiricalRisk the model's own are landscape.initial."
        )
    point = as_real("theta", theta, landscape.dtype)
    if point.shape != (landscape.dimension,):
        raise ValueError(f"theta must have shape ({landscape.dimension},), got {point.shape}.")
    if not bool(jnp.isfinite(point).all()):
        raise ValueError("theta has entries that are not finite.")
    return point


def _refuse_noiseless(settings: Settings, norms: Norms, sgd: SGD) -> None:
    if settings.noise_factor * norms.noise_trace <= 0:
        raise ValueError(
            f"{type(sgd.sampling).__name__}({sgd.sampling.batch_size}) has no gradient noise at "
            f"theta (c = {settings.noise_factor:g}, tr Σ = {norms.noise_trace:g}): the SDE is "
            f"gradient flow. Compare with ss.GradientFlow, or take smaller batches."
        )


def _extra(directions: Any, landscape) -> np.ndarray | None:
    if directions is None:
        return None
    rows = as_float64("directions", directions)
    if rows.ndim != 2 or len(rows) != landscape.dimension or not rows.shape[1]:
        raise ValueError(
            f"directions must have shape ({landscape.dimension}, n); got {rows.shape}."
        )
    if not np.isfinite(rows).all() or not (np.abs(rows).max(axis=0) > 0).all():
        raise ValueError("directions must be finite, and none of them zero.")
    return rows


def _positive(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be a finite number > 0; got {value!r}.")
    return number


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer ≥ {least}; got {value!r}.")
