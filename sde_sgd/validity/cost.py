"""What a verdict costs, in gradients of one example and in seconds."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike

from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.memory import peak_bytes
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.simulate.engine import forecast
from sde_sgd.simulate.price import Price
from sde_sgd.types import Key
from sde_sgd.validity.checks import check_request, Request, svag_gradients
from sde_sgd.validity.examples import Examples
from sde_sgd.validity.local_model import LocalModel
from sde_sgd.validity.rule import View, watch

# Passes over an example: forwards is one, and a gradient is three.
_GRADIENT = 3
_PRODUCTS = {"Hessian": 2 * _GRADIENT, "covariance": _GRADIENT + 2}
_SLOPE, _BEND = 3, 8
# The gradient of each example by itself costs as much as so many in one sum.
_APART = 10
# Products of Lanczos' method before it can be done, and a restart.
_LANCZOS = 48
# Compilations, in units of that of a gradient, of all that is differentiated twice; those of an
# ensemble of SVAG, in units of that of the explored runs.
_COMPILATIONS, _ENSEMBLE = 14, 1.5
# Values of D in the verdict, and along the three lines with their bisections.
LOOKS = 80


class Rates(NamedTuple):
    """Seconds of one example's gradient, of one iteration of all explored paths, of one look at D
    with its error, of all compilations; `bytes` of the explored runs."""

    gradient: float
    iteration: float
    look: float
    compiling: float
    bytes: float


def work(request: Request) -> dict[str, float]:
    """Gradients of one example by stage, a pass forwards being a third of one."""
    num, looked_at = request.landscape.num_examples, request.num_looked_at
    dim, watched = request.landscape.dimension, request.num_watched
    products = dim if dim <= 16 else _LANCZOS
    points = request.num_paths * min(2, request.explore_steps)
    pairs = watched * (watched + 1) / 2
    batch = request.sgd.sampling.batch_size
    passes = {
        "norms": _GRADIENT * (num + _APART * looked_at),
        "sharpest directions": products * _PRODUCTS["Hessian"] * looked_at,
        "noisiest directions": products * _PRODUCTS["covariance"] * looked_at,
        "exploring": _GRADIENT * request.num_paths * request.explore_steps * batch,
        "models": points * looked_at * (watched * _SLOPE + pairs * _BEND),
        "SVAG": _GRADIENT * svag_gradients(request),
        "probes": request.num_probes * looked_at * (_GRADIENT + _PRODUCTS["Hessian"]),
    }
    return {stage: count / _GRADIENT for stage, count in passes.items()}


def rates(request: Request, examples: Examples) -> Rates:
    """Timed on one gradient of the sample, on some iterations of SGD, on made-up slopes."""
    theta, seconds = request.theta, []
    for _ in range(2):
        started = time.monotonic()
        jax.block_until_ready(compiled.gradient(examples.chosen, theta))
        seconds.append(time.monotonic() - started)
    first, second = seconds
    foreseen = forecast(
        request.sgd,
        theta,
        num_steps=request.explore_steps,
        ensemble_size=request.num_paths,
        key=request.key,
        check_stability=False,
    )
    ensembles = 1 + (_ENSEMBLE * (1 + len(request.svag)) if request.svag else 0)
    stepping = foreseen.seconds - foreseen.seconds_per_iteration * request.explore_steps
    return Rates(
        gradient=second / examples.chosen.num_examples,
        iteration=foreseen.seconds_per_iteration,
        look=_look(request, examples),
        compiling=_COMPILATIONS * max(first - second, 0.0) + ensembles * max(stepping, 0.0),
        bytes=float(foreseen.bytes),
    )


def seconds(request: Request, found: Rates, times: int = 1, looks: int = LOOKS) -> float:
    """Wall time of all stages; of exploring and modelling so many `times`."""
    counts = work(request)
    exploring, svag = counts.pop("exploring"), counts.pop("SVAG")
    each = found.iteration * request.explore_steps / exploring
    rest = sum(counts.values()) + (times - 1) * counts["models"]
    stepping = each * (times * exploring + svag)
    return rest * found.gradient + stepping + found.look * looks + found.compiling


def price(
    request: Request, examples: Examples, found: Rates, times: int = 1, looks: int = LOOKS
) -> Price:
    """All of it as the user sees it; `times` and `looks` as in `seconds`."""
    counts, taken = work(request), seconds(request, found, times, looks)
    total = sum(counts.values()) + (times - 1) * (counts["models"] + counts["exploring"])
    run = found.iteration * request.settings.num_steps / request.num_paths
    return Price(taken, _bytes(request, examples, found), total, taken / run)


def forecast_validity(
    landscape: AbstractLandscape, sgd: AbstractProcess, theta: ArrayLike, *, key: Key, **options
) -> Price:
    """What `validity` would cost with the same arguments, from a few seconds of trial.

    One gradient of the sample of examples and some iterations of SGD are timed, the rest is
    counted; Lanczos' method may take more products than are counted, or fewer.

    **Arguments:** as `validity`.

    **Returns:** `Price`: seconds (compilation included), bytes, gradients of one example, and the
    ratio of the seconds to those of one SGD run of `num_steps` iterations.

    **Raises:** as `validity`, but for what only the work itself shows.
    """
    options.pop("progress", None)
    request = check_request(landscape, sgd, theta, key=key, **options)
    examples = Examples.of(request.landscape, request.sample, request.keys[0])
    return price(request, examples, rates(request, examples))


def _look(request: Request, examples: Examples) -> float:
    """Seconds of D and its error at one (η, B): one look a path, and one a group of examples."""
    watched, rng = request.num_watched, np.random.default_rng(0)
    looked_at = request.num_looked_at
    slopes = rng.normal(size=(looked_at, watched))
    bends = np.broadcast_to(np.eye(watched), (looked_at, watched, watched))
    model = LocalModel(slopes, bends)
    names = tuple(str(i) for i in range(watched))
    view = View.of(model, names, np.eye(watched), request.landscape.num_examples)
    # The curvature 1/η would overshoot with momentum.
    settings = request.settings._replace(learning_rate=0.1)
    started = time.monotonic()
    watch(view, settings, request.sgd.sampling)
    views = 1 + request.num_paths + 8 * examples.sampled
    return views * (time.monotonic() - started)


def _bytes(request: Request, examples: Examples, found: Rates) -> float:
    landscape, looked_at = examples.examined, request.num_looked_at
    watched, dim = request.num_watched, landscape.dimension
    rows = sum(leaf[:1].nbytes for leaf in jax.tree.leaves(landscape.data))
    block = min(landscape.example_block, looked_at)
    data = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((block, *a.shape[1:]), a.dtype), landscape.data
    )
    point = jax.ShapeDtypeStruct((dim,), landscape.dtype)

    def bend(theta, unit, some):
        def slope(x):
            return jax.jvp(lambda y: landscape.losses(y, some), (x,), (unit,))[1]

        return jax.jvp(slope, (theta,), (unit,))[1]

    working = peak_bytes(bend, point, point, data)
    # Models in float64, and as many again while they are averaged.
    models = 2 * 8 * request.num_paths * looked_at * (watched + watched**2)
    vectors = dim * (2 * 32 * landscape.dtype.itemsize + 4 * 8 * watched)
    sample = 2 * looked_at * rows * examples.sampled
    return float(working + models + vectors + sample + found.bytes)
