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

from sde_sgd.compare import sidak_threshold
from sde_sgd.compare.distances import ensembles
from sde_sgd.compare.distances.ensembles import distance_change, DistanceName
from sde_sgd.estimate import Estimate
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.simulate.run import Run
from sde_sgd.types import Key

# Solver steps an iteration that "auto" may choose.
MOST_SUBSTEPS = 512


class Visible(eqx.Module):
    """Threshold × statistical error of SGD − SDE at the end, by observable and by distance.

    Too few members leave a distance without a floor, and without an entry.
    """

    means: dict[str, float]
    distances: dict[str, float]


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
    run: Callable[[str, AbstractProcess], Run],
    sgd_run: Run,
    observables: list[str],
    distances: tuple[DistanceName, ...],
    key: Key,
    num_bootstrap: int,
) -> StepErrors:
    """The errors of `sde` at its own step, from runs at that step and half of it.

    **Arguments:** `run`: simulates an equation under a label, always with the same key and members;
    `sgd_run`: the other side, whose distance to both runs is taken.
    """
    order, m = sde.weak_order, sde.substeps
    assert order is not None
    refined = {"SDE (coarse)": sde.refined(m, 2), "SDE (fine)": sde.refined(2 * m, 1)}
    runs = {label: run(label, process) for label, process in refined.items()}
    coarse, fine = runs.values()
    both = coarse.alive & fine.alive
    # h^p − (h/2)^p is this share of h^p.
    share = 1 - 0.5**order
    means = {}
    for name in observables:
        a, b = (member_rows(r, f"of {name}", both) for r in (coarse, fine))
        means[name] = Estimate.from_samples((a - b).T) / share
    rows = [member_rows(r, "positions", both)[-1] for r in (coarse, fine)]
    end = sgd_run["positions"].values[-1].astype(float)
    changes = {}
    for name in distances:
        if min(len(end), len(rows[0])) < 2:
            changes[name] = Estimate(np.nan, np.inf, len(rows[0]))
            continue
        own = jr.fold_in(key, 0)
        change: Any = distance_change(
            end, *rows, key=own, distance=name, num_bootstrap=num_bootstrap
        )
        largest = np.argmax(np.abs(change.value))
        picked = Estimate(
            change.value.flat[largest], change.standard_error.flat[largest], change.num_samples
        )
        changes[name] = picked / share
    return StepErrors(runs, means, changes)


def member_rows(run: Run, measure: str, members: np.ndarray) -> np.ndarray:
    """Snapshots (times, members, ...) of chosen members, where only those alive were returned."""
    return run[measure].values[:, members[run.alive]].astype(float)


def largest(errors: StepErrors, visible: Visible) -> tuple[float, bool]:
    """The largest 2·bound/visible, and whether it is mostly the noise of the estimate.

    Where too many members have died there is no number, and no demand.
    """
    pairs = ((errors.means, visible.means), (errors.distances, visible.distances))
    found = [(0.0, False)]
    for rows, seen in pairs:
        for name in rows:
            value, spread = np.ravel(rows[name].value)[-1], np.ravel(rows[name].standard_error)[-1]
            if name in seen and np.isfinite(value + spread):
                ratio = 2 * bound(rows[name]) / max(seen[name], 1e-300)
                found.append((ratio, bool(2 * spread > abs(value))))
    return max(found)


def substeps_needed(
    errors: StepErrors, visible: Visible, substeps: int, demand: float = 1.0
) -> int:
    """Solver steps an iteration at which every bound is below half of what could be seen.

    A power of two times `substeps`; that itself where it is enough. `demand` asks for bounds that
    are as many times smaller.
    """
    ratio = demand * largest(errors, visible)[0]
    return substeps * 2 ** max(0, math.ceil(math.log2(max(ratio, 1e-9))))


def next_check(
    errors: StepErrors,
    visible: Visible,
    substeps: int,
    members: int,
    most: int,
    before: float,
    demand: float = 1.0,
) -> tuple[int, int] | None:
    """Substeps and members of the check that "auto" takes next; None where it ends.

    Noise falls with the members of the check, the error with the step. Of all members, noise falls
    with the step only while the two paths stay together: "auto" ends where it has not (on paths
    that part, a shorter step changes nothing).

    **Arguments:** `most`: all members; `before`: the ratio of `largest` one step ago, inf at first;
    `demand`: 1, or more where a verdict was still open at a ratio of 1.
    """
    ratio, noisy = largest(errors, visible)
    if demand * ratio <= 1:
        return None
    if noisy and members < most:
        return substeps, min(4 * members, most)
    if substeps >= MOST_SUBSTEPS or (noisy and ratio > 0.8 * before):
        return None
    needed = substeps_needed(errors, visible, substeps, demand)
    return min(needed, 8 * substeps, MOST_SUBSTEPS), members


def visible_differences(
    first: Run,
    second: Run,
    observables: list[str],
    distances: tuple[DistanceName, ...],
    key: Key,
    num_bootstrap: int,
) -> Visible:
    """What the comparison could see at the end, from the two ensembles of SGD."""
    sides = [run["positions"].values[-1].astype(float) for run in (first, second)]
    members = min(map(len, sides))
    if members < 2:
        return Visible({}, {})
    one, other = (rows[:members] for rows in sides)
    half = members // 2
    threshold = sidak_threshold(1, degrees_of_freedom=2 * (members - 1))
    spreads = {
        name: np.std(first[f"of {name}"].values[-1], ddof=1, dtype=float) for name in observables
    }
    means = {
        name: threshold * math.sqrt(2 / members) * float(spread) for name, spread in spreads.items()
    }
    if half < 2:
        return Visible(means, {})
    # The second ensemble's halves stand for the SDE and the floor, at half the members.
    table = ensembles.table(
        one,
        other[:half],
        other[half : 2 * half],
        key=key,
        distances=distances,
        num_bootstrap=num_bootstrap,
    )
    floors = {
        name: threshold * float(np.max(table[name].excess.standard_error)) / math.sqrt(2)
        for name in distances
    }
    return Visible(means, floors)
