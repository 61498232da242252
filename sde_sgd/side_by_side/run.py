"""The function `side_by_side`: three ensembles, the check of the solver step, the verdicts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sde_sgd._checks import check_flag, check_progress
from sde_sgd._user_functions import refuse_tracing
from sde_sgd.compare.distances.ensembles import DistanceName
from sde_sgd.measure.base import AbstractMeasure
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.side_by_side.case import Case, make_case, settings_of
from sde_sgd.side_by_side.ensembles import as_folder, Ensembles, Stopped
from sde_sgd.side_by_side.laws import laws, observed, paired as paired_differences
from sde_sgd.side_by_side.price import announce
from sde_sgd.side_by_side.result import SideBySide
from sde_sgd.side_by_side.rows import unresolved, verdicts
from sde_sgd.side_by_side.step import (
    largest,
    next_check,
    step_errors,
    StepErrors,
    Visible,
    visible_differences,
)
from sde_sgd.simulate.checkpoint import Checkpoint
from sde_sgd.simulate.engine import prepare
from sde_sgd.simulate.run import Run
from sde_sgd.simulate.warn import warn
from sde_sgd.types import Key


def side_by_side(
    sgd: AbstractProcess,
    sde: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    observables: dict[str, Callable] | None = None,
    snapshots: int | Sequence[int] = 6,
    measures: Mapping[str, AbstractMeasure] | None = None,
    distances: tuple[DistanceName, ...] = ("sliced", "energy"),
    step_check: float | int = 0.25,
    substeps: int | str | None = None,
    allow_different: bool = False,
    allow_deaths: bool = False,
    paired: bool = False,
    resolution: dict[str, float] | None = None,
    num_bootstrap: int = 100,
    progress: bool | None = None,
    budget: float | int | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    on_divergence: Literal["raise", "mask"] = "raise",
    **options: Any,
) -> SideBySide:
    """Runs SGD twice (independent ensembles) and its SDE, and compares their laws.

    **Arguments:**

    - `sgd`, `sde`: two processes on one landscape whose clocks agree.
    - `theta0`, `num_steps`, `ensemble_size`, `measures`, `progress`, `options`: as in `simulate`;
      both sides get the same starts. Where progress is shown and the whole will take more than a
      minute, its price is written first (`forecast_side_by_side`, which takes a few iterations).
    - `observables`: scalar functions of θ by name; the loss by default.
    - `snapshots`: at how many iterations (or which) the laws are compared, beside start and end.
    - `distances`: between the laws of θ, of "sliced", "energy", "wasserstein".
    - `step_check`: the fraction of the ensemble that is also run at `substeps` and twice as
      many on one Brownian path, for the discretisation error; 0 leaves it out.
    - `substeps`: solver steps an iteration; those of `sde` if not given. "auto" doubles them until
      the discretisation error is below half of the smallest visible difference (512 at most),
      and goes on where it leaves a verdict open; where the noise of that error is most of it, the
      check gets more members first.
    - `allow_different`: compare sides although their losses, data, batch sizes or update rules
      differ.
    - `paired`: both sides get one key (common random numbers): meaningful where they share
      their noise, as `GaussianSGD` and `ModifiedEquation` do.
    - `resolution`: by observable, the smallest difference of means that matters.
    - `budget`: seconds for all of it. When they, or Ctrl-C, end one run no other is started: the
      result then has the `runs` so far, `complete` is False, and there are no verdicts.
    - `checkpoint`: a folder with a file of each run. The same call again loads what is finished,
      goes on with the rest, and gives the same bits.
    - `on_divergence`: "raise", or "mask" to go on without the members that diverge; how many did
      is in `deaths` and in `table`. Survivors are no sample of the law, so that verdicts on them
      are "inconclusive" unless `allow_deaths`.

    Compares at the last time: the mean of each observable, and the excess of each distance
    over the floor between two SGD ensembles against zero. The SDE's own discretisation error is
    subtracted first, and what the subtraction may have left is a `bias` of the comparison: where
    it could hide what the sample would show, the verdict is "inconclusive" and the table says how
    many substeps would do.

    **Raises:** `ValueError` for sides of other losses, data, batch sizes, update rules or clocks,
    for swapped arguments, and for every wrong option, before the first run; `DivergenceError`.
    Warns where the members are too few for any agreement, and where the whole has stopped early.
    """
    refuse_tracing("side_by_side", sgd, sde, theta0, key)
    check_progress(progress)
    allow_deaths = check_flag("allow_deaths", allow_deaths)
    paired = check_flag("paired", paired)
    case = make_case(
        sgd,
        sde,
        theta0,
        num_steps=num_steps,
        ensemble_size=ensemble_size,
        key=key,
        observables=observables,
        snapshots=snapshots,
        measures=measures,
        distances=distances,
        step_check=step_check,
        substeps=substeps,
        allow_different=allow_different,
        resolution=resolution,
        num_bootstrap=num_bootstrap,
        on_divergence=on_divergence,
        budget=budget,
        **options,
    )
    folder = as_folder(checkpoint)
    ensembles = Ensembles(case.starts, case.num_steps, budget, folder, progress, case.shared)
    try:
        with ensembles:
            _check_equation(case)
            announce(case, progress)
            step = _run_all(case, ensembles, paired)
            found = _judged(case, ensembles.runs, step, paired, allow_deaths)
            demand = 1.0
            while case.automatic and found.unresolved and demand < _MOST_DEMAND:
                # A difference near what can be seen is open as long as a bias could decide it.
                demand *= 2
                if _refine(case, ensembles, step, demand):
                    _run_equation(case, ensembles, step, paired)
                    found = _judged(case, ensembles.runs, step, paired, allow_deaths)
    except Stopped as stopped:
        return _incomplete(case, ensembles, str(stopped), allow_deaths, folder)
    return found


# How many times smaller than for a ratio of 1 "auto" makes the error for an open verdict.
_MOST_DEMAND = 8.0


@dataclass
class _Step:
    """The equation at the step that it has come to, and what is known of its error."""

    sde: AbstractProcess
    members: int
    errors: StepErrors | None = None
    visible: Visible = field(default_factory=lambda: Visible({}, {}))
    before: float = math.inf
    ran: int | None = None


def _judged(
    case: Case, runs: dict[str, Run], step: _Step, paired: bool, allow_deaths: bool
) -> SideBySide:
    """All that the runs show."""
    errors = step.errors
    found = {name: observed(runs, name, errors) for name in case.observables}
    distant = laws(runs, case.distances, case.keys[3], case.num_bootstrap, errors)
    alive = {label: run.alive for label, run in runs.items()}
    deaths = {label: int((~rows).sum()) for label, rows in alive.items()}
    rows = verdicts(found, distant, case.resolution, deaths, allow_deaths)
    open_step = ""
    if errors is not None:
        everyone = len(alive["SDE (fine)"]) == case.ensemble_size
        open_step = unresolved(rows, errors, step.visible, step.sde.substeps, everyone)
    return SideBySide(
        runs=dict(runs),
        iterations=np.asarray(case.at),
        times=np.asarray(case.sgd.time(np.asarray(case.at))),
        observables=found,
        distances=distant,
        substeps=step.sde.substeps,
        comparisons=rows,
        unresolved=open_step,
        paired=paired_differences(runs, list(found)) if paired else None,
        alive=alive,
        stopped="",
        settings=settings_of(case, step.sde.substeps, allow_deaths)
        | {"members_of_step_check": len(alive.get("SDE (fine)", ()))},
    )


def _check_equation(case: Case) -> None:
    """What `simulate` would refuse in the SDE, said before SGD has run."""
    options = {name: x for name, x in case.shared.items() if name != "on_divergence"}
    prepare(
        case.sde,
        case.starts,
        num_steps=case.num_steps,
        ensemble_size=case.ensemble_size,
        key=case.keys[2],
        measures=case.watched,
        **options,
    )


def _run_all(case: Case, ensembles: Ensembles, paired: bool) -> _Step:
    """All runs; the equation at its final step, its errors, and what can be seen."""
    first = ensembles.run("SGD", case.sgd, case.keys[0], case.ensemble_size, case.watched)
    name = "SGD (second ensemble)"
    second = ensembles.run(name, case.sgd, case.keys[1], case.ensemble_size, case.watched)
    step = _Step(case.sde, case.check_members)
    if case.check_members:
        step.visible = visible_differences(
            first, second, list(case.observables), case.distances, case.keys[3], case.num_bootstrap
        )
        _check_step(case, ensembles, step)
        if case.automatic:
            _refine(case, ensembles, step, 1.0)
    _run_equation(case, ensembles, step, paired)
    return step


def _run_equation(case: Case, ensembles: Ensembles, step: _Step, paired: bool) -> None:
    """The SDE's ensemble, unless it has run at this step."""
    substeps = step.sde.substeps
    if step.ran != substeps:
        own = case.keys[0] if paired else case.keys[2]
        size = case.ensemble_size
        ensembles.run("SDE", step.sde, own, size, case.watched, f"SDE {substeps}")
        step.ran = substeps


def _check_step(case: Case, ensembles: Ensembles, step: _Step) -> None:
    """The error of the equation at its step, from a pair of runs on one path."""

    def run(label, process):
        file = f"{label} {step.sde.substeps} of {step.members}"
        return ensembles.run(label, process, case.keys[4], step.members, case.own, file)

    for label in ("SDE (coarse)", "SDE (fine)"):
        ensembles.runs.pop(label, None)
    first, names = ensembles.runs["SGD"], list(case.observables)
    own = (case.distances, case.keys[3], case.num_bootstrap)
    step.errors = step_errors(step.sde, run, first, names, *own)


def _refine(case: Case, ensembles: Ensembles, step: _Step, demand: float) -> bool:
    """Members and substeps until the error is small enough, by "auto"; whether any was changed."""
    changed = False
    while step.errors is not None:
        now = (step.sde.substeps, step.members, case.ensemble_size, step.before)
        chosen = next_check(step.errors, step.visible, *now, demand)
        if chosen is None:
            break
        shorter = chosen[0] > step.sde.substeps
        step.before = largest(step.errors, step.visible)[0] if shorter else math.inf
        step.sde, step.members = step.sde.refined(chosen[0]), chosen[1]
        _check_step(case, ensembles, step)
        changed = True
    return changed


def _incomplete(
    case: Case, ensembles: Ensembles, reason: str, allow_deaths: bool, folder: Checkpoint | None
) -> SideBySide:
    """What there is, without means, distances and verdicts."""
    found = SideBySide(
        runs=ensembles.runs,
        iterations=np.asarray(case.at),
        times=np.asarray(case.sgd.time(np.asarray(case.at))),
        observables={},
        distances={},
        substeps=case.sde.substeps,
        comparisons=[],
        unresolved="",
        paired=None,
        alive={label: run.alive for label, run in ensembles.runs.items()},
        stopped=reason,
        settings=settings_of(case, case.sde.substeps, allow_deaths),
    )
    way = (
        "Pass checkpoint= (a folder) next time, and the same call goes on where it stopped."
        if folder is None
        else f"The same call goes on with what is in {str(folder.path)!r}."
    )
    warn(f"{found.table} {way}")
    return found
