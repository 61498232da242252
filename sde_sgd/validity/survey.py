"""Where a run goes, and the quadratic model of the examples there, with its error."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sde_sgd.landscapes import compiled
from sde_sgd.processes.discrete.sgd import SGD
from sde_sgd.simulate.engine import simulate
from sde_sgd.simulate.run import DivergenceError
from sde_sgd.types import Key, Vector
from sde_sgd.validity.checks import refuse_noiseless, Request
from sde_sgd.validity.examples import Examples
from sde_sgd.validity.lines import Predictor
from sde_sgd.validity.local_model import LocalModel
from sde_sgd.validity.probes import (
    Directions,
    directions as find_directions,
    example_models,
    example_slopes,
    Norms,
    norms as find_norms,
)
from sde_sgd.validity.report import Report
from sde_sgd.validity.rule import View

# The examples of a sample are left out in so many groups, one at a time.
_GROUPS = 8
# More paths than this are left out in groups: each costs as much as D itself.
_MOST = 16
# An exploring run is cut into so many pieces, to say how far it is.
_PIECES = 20


class Ground(NamedTuple):
    """What is looked at before anything moves, for all learning rates and batch sizes.

    **Fields:** `examples`; `gradient` ∇L(θ) (d,); `norms`; `found`, the directions.
    """

    examples: Examples
    gradient: Float[np.ndarray, " d"]
    norms: Norms
    found: Directions


class Explored(NamedTuple):
    """Positions (paths, points, d) of short runs of SGD, and how many of the runs diverged."""

    visited: Float[np.ndarray, "paths points d"]
    diverged: int


def survey(request: Request, examples: Examples, report: Report) -> Ground:
    """Norms at θ and the directions to watch; `ValueError` where there is no noise, or η λ_max is
    beyond stability."""
    theta, settings = request.theta, request.settings
    report.stage("gradient of all examples, tr Σ", 1, "gradients")
    gradient = np.asarray(compiled.gradient(request.landscape, theta), float)
    report.tick()
    norms = find_norms(examples, theta, gradient)
    refuse_noiseless(settings, norms.noise_trace, request.sgd)
    noise = float(np.sqrt(settings.noise_factor * norms.noise_trace))
    found = find_directions(
        examples,
        theta,
        gradient if norms.gradient > 1e-6 * noise else None,
        request.count,
        request.directions,
        lambda what: report.stage(what, 0, "products"),
        report.tick,
    )
    eta, most = settings.learning_rate, 2 * (1 + settings.momentum)
    if eta * found.sharpness >= most:
        raise ValueError(
            f"learning_rate={eta:g} is above stability: η λ_max = {eta * found.sharpness:.4g} must "
            f"be < 2(1 + momentum) = {most:g}. Take learning_rate < {most / found.sharpness:.4g}."
        )
    return Ground(examples, gradient, norms, found)


def explore(sgd: SGD, theta: Vector, steps: int, paths: int, key: Key, report: Report) -> Explored:
    """θ half-way and at the end of short runs.

    Only θ itself if any diverged: what is left of such runs says nothing of the others.
    """
    report.stage("exploring with SGD", steps, "iterations")
    half = max(1, steps // 2)
    ends = {int(k) for k in np.linspace(0, steps, min(_PIECES, steps) + 1)} | {half}
    options: dict[str, Any] = {"progress": False, "on_divergence": "mask"}
    rows, run, done = [], None, 0
    for end in sorted(ends - {0}):
        try:
            if run is None:
                # Whether steps are stable has been judged by the whole sample already.
                own: dict[str, Any] = {"ensemble_size": paths, "check_stability": False}
                run = simulate(sgd, theta, num_steps=end, key=key, **own, **options)
            else:
                run = run.extend(end - done, **options)
        except DivergenceError as error:
            run = error.run
        report.tick(end - done)
        done = end
        diverged = int((~run.alive).sum())
        if diverged:
            return Explored(np.asarray(theta)[None, None], diverged)
        if end in (half, steps):
            rows.append(run.positions)
    return Explored(np.stack(rows, axis=1), 0)


def predictor(request: Request, ground: Ground, explored: Explored, report: Report) -> Predictor:
    """The models of all paths, their average, and what is left of it without a path or a group.

    One model a path, about θ: H_i the mean over its points, p_i = mean(∇ℓ_i) − H_i z̄. Where a
    sample of examples is looked at, the mean of the p_i is moved by what the sample is off at θ,
    ∇L(θ) − (1/n)Σ∇ℓ_i(θ): the sample fluctuates alike at θ and near it.
    """
    examples, found, num_examples = ground.examples, ground.found, request.landscape.num_examples
    landscape, origin = examples.examined, np.asarray(request.theta, float)
    report.stage("models of the examples", explored.visited[..., 0].size, "points")
    models = []
    for rows in explored.visited:
        slopes, curvatures = example_models(landscape, jnp.asarray(rows[0]), found.basis)
        report.tick()
        for row in rows[1:]:
            own, bends = example_models(landscape, jnp.asarray(row), found.basis)
            slopes, curvatures = slopes + own, curvatures + bends
            report.tick()
        slopes, curvatures = slopes / len(rows), curvatures / len(rows)
        mean = ((rows.astype(float) - origin) @ found.basis).mean(axis=0)
        models.append(LocalModel(slopes - curvatures @ mean, curvatures))
    if not examples.sampled:
        paths = [_view(_average(rest), found, num_examples) for rest in _without_one(models)]
        return Predictor(_view(_average(models), found, num_examples), paths, [], 0.0)

    start = example_slopes(landscape, request.theta, found.basis)
    exact = ground.gradient @ found.basis

    def corrected(model: LocalModel, kept: np.ndarray) -> View:
        off = exact - start[kept].mean(axis=0)
        part = LocalModel(model.slopes[kept] + off, model.curvatures[kept])
        return _view(part, found, num_examples)

    num, whole = len(start), _average(models)
    everyone = np.arange(num)
    # Examples of a sample are in random order.
    groups = [corrected(whole, everyone[everyone % _GROUPS != g]) for g in range(_GROUPS)]
    paths = [corrected(_average(rest), everyone) for rest in _without_one(models)]
    return Predictor(corrected(whole, everyone), paths, groups, 1 - num / num_examples)


def _without_one(models: list[LocalModel]) -> list[list[LocalModel]]:
    """What is left without one path, or of many paths without one of `_MOST` groups of them."""
    if len(models) < 2:
        return []
    count = min(len(models), _MOST)
    return [[m for i, m in enumerate(models) if i % count != group] for group in range(count)]


def _average(models: list[LocalModel]) -> LocalModel:
    slopes = np.mean([m.slopes for m in models], axis=0)
    return LocalModel(slopes, np.mean([m.curvatures for m in models], axis=0))


def _view(model: LocalModel, found: Directions, num_examples: int) -> View:
    return View.of(model, found.names, found.weights, num_examples)
