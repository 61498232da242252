"""How much of a difference is the solver step of the SDE, and which step would not matter.

An equation of weak order one has a mean E f(h) = E f(0) + a·h + O(h²). Runs at h and h/2 on one
Brownian path give the error of the first, a·h ≈ 2·(f(h) − f(h/2)), with little noise (Richardson
extrapolation). The estimate has an error of its own: its sampling error, and half of the ratio of
the second-order to the first-order term. After the subtraction the step is allowed to have left
as much again as was subtracted, |error| + 2 standard errors.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np

from ..compare import distance_change, sidak_threshold
from ..compare.distances import DistanceName
from ..dynamics.base import AbstractProcess
from ..measure.estimate import Estimate
from ..simulate.run import Run
from ..types import Key

# Solver steps an iteration that "auto" may choose.
MOST_SUBSTEPS = 512


class StepErrors(eqx.Module):
    """Discretisation errors of one equation at one `substeps`, from two runs on one path.

    - `runs`: "SDE (coarse)" and "SDE (fine)".
    - `means`: of each observable's mean, (times,); `distances`: of each excess, at the last time.
    """

    runs: dict[str, Run]
    means: dict[str, Estimate]
    distances: dict[str, Estimate]


def bound(error: Estimate) -> float:
    """What the step may have left after its error was subtracted, at the last time."""
    value, spread = np.ravel(error.value)[-1], np.ravel(error.standard_error)[-1]
    return float(abs(value) + 2 * spread)


def step_errors(
    sde: AbstractProcess,
    run: Callable[[AbstractProcess], Run],
    sgd_run: Run,
    observables: list[str],
    distances: tuple[DistanceName, ...],
    key: Key,
    num_bootstrap: int,
) -> StepErrors:
    """The errors of `sde` at its own step, from runs at that step and half of it.

    **Arguments:** `run`: simulates an equation, always with the same key and members; `sgd_run`:
    the other side, whose distance to both runs is taken.
    """
    order, m = sde.weak_order, sde.substeps
    assert order is not None
    runs = {"SDE (coarse)": run(sde.refined(m, 2)), "SDE (fine)": run(sde.refined(2 * m, 1))}
    coarse, fine = runs.values()
    both = coarse.alive & fine.alive
    # h^p − (h/2)^p is this share of h^p.
    share = 1 - 0.5**order
    means = {}
    for name in observables:
        a, b = (member_rows(r, f"of {name}", both) for r in (coarse, fine))
        means[name] = _over(Estimate.from_samples((a - b).T), share)
    rows = [member_rows(r, "positions", both)[-1] for r in (coarse, fine)]
    end = sgd_run["positions"].values[-1].astype(float)
    changes = {}
    for name in distances:
        own = jr.fold_in(key, 0)
        change: Any = distance_change(
            end, *rows, key=own, distance=name, num_bootstrap=num_bootstrap
        )
        largest = np.argmax(np.abs(change.value))
        picked = Estimate(
            change.value.flat[largest], change.standard_error.flat[largest], change.num_samples
        )
        changes[name] = _over(picked, share)
    return StepErrors(runs, means, changes)


def _over(estimate: Estimate, share: float) -> Estimate:
    return Estimate(estimate.value / share, estimate.standard_error / share, estimate.num_samples)


def member_rows(run: Run, measure: str, members: np.ndarray) -> np.ndarray:
    """Snapshots (times, members, ...) of chosen members, where only those alive were returned."""
    return run[measure].values[:, members[run.alive]].astype(float)


def substeps_needed(errors: StepErrors, visible: dict[str, float], substeps: int) -> int:
    """Solver steps an iteration at which every bound is below half of what could be seen.

    **Arguments:** `visible`: threshold × statistical error of each name of `errors`.

    A power of two times `substeps`; that itself where it is enough.
    """
    every = {**errors.means, **errors.distances}
    # Too few members leave a distance without a floor: it asks for no step.
    seen = [name for name in every if name in visible]
    ratio = max((2 * bound(every[n]) / max(visible[n], 1e-300) for n in seen), default=0.0)
    return substeps * 2 ** max(0, math.ceil(math.log2(max(ratio, 1e-9))))


def visible_differences(
    sgd_run: Run, floors: dict[str, float], observables: list[str], ensemble_size: int
) -> dict[str, float]:
    """Threshold × statistical error of SGD − SDE at the end, foreseen from SGD's own spread."""
    threshold = sidak_threshold(1, degrees_of_freedom=2 * (ensemble_size - 1))
    found = {
        name: threshold * math.sqrt(2 / ensemble_size) * float(np.std(rows, ddof=1))
        for name in observables
        for rows in [sgd_run[f"of {name}"].values[-1].astype(float)]
    }
    return {**found, **{name: threshold * error for name, error in floors.items()}}
