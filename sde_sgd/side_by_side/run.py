"""The function `side_by_side`: three ensembles, the check of the solver step, the verdicts."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.random as jr
import numpy as np

from ..compare import compare, Comparison, distance_table, paired_difference
from ..compare.distances import DistanceName
from ..dynamics.base import AbstractProcess
from ..dynamics.continuous import ModifiedEquation
from ..measure.base import AbstractMeasure
from ..measure.estimate import Estimate
from ..measure.snapshots import Snapshots
from ..simulate.engine import simulate
from ..simulate.run import Run
from ..simulate.validate import check_count, check_key, starts as checked_starts
from ..types import Key
from .result import Distances, Observable, SideBySide
from .sides import check_members, check_observables, check_sides
from .step import (
    bound,
    member_rows,
    MOST_SUBSTEPS,
    step_errors,
    StepErrors,
    substeps_needed,
    visible_differences,
)


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
    paired: bool = False,
    resolution: dict[str, float] | None = None,
    num_bootstrap: int = 100,
    progress: bool | None = None,
    **options: Any,
) -> SideBySide:
    """Runs SGD twice (independent ensembles) and its SDE, and compares their laws.

    **Arguments:**

    - `sgd`, `sde`: two processes on one landscape whose clocks agree.
    - `theta0`, `num_steps`, `ensemble_size`, `measures`, `options`: as in `simulate`; both
      sides get the same starts.
    - `observables`: scalar functions of θ by name; the loss by default.
    - `snapshots`: at how many iterations (or which) the laws are compared.
    - `distances`: between the laws of θ, of "sliced", "energy", "wasserstein".
    - `step_check`: the fraction of the ensemble that is also run at `substeps` and twice as
      many on one Brownian path, for the discretisation error; 0 leaves it out.
    - `substeps`: solver steps an iteration; those of `sde` if not given. "auto" doubles them until
      the discretisation error is below half of the smallest visible difference (512 at most).
    - `allow_different`: compare sides although their losses, data or batch sizes differ.
    - `paired`: both sides get one key (common random numbers): meaningful where they share
      their noise, as `GaussianSGD` and `ModifiedEquation` do.
    - `resolution`: by observable, the smallest difference of means that matters.

    Compares at the last time: the mean of each observable, and the excess of each distance
    over the floor between two SGD ensembles against zero. The SDE's own discretisation error is
    subtracted first, and what the subtraction may have left is a `bias` of the comparison: where
    it could hide what the sample would show, the verdict is "inconclusive" and the table says how
    many substeps would do.

    **Raises:** `ValueError` for sides of other losses, data, batch sizes or clocks, and for
    swapped arguments; warns where the members are too few for any agreement.
    """
    key = check_key(key)
    check_members(ensemble_size)
    check_sides(sgd, sde, num_steps, allow_different)
    if not 0 <= step_check <= 1:
        raise ValueError(f"step_check must be a fraction in [0, 1]; got {step_check}.")
    observables = check_observables(sgd, observables)
    at = _iterations(snapshots, num_steps)
    sde = _at_step(sde, substeps, step_check)
    keys = jr.split(key, 5)
    own = {"positions": Snapshots(at)}
    for name, of in observables.items():
        own[f"of {name}"] = Snapshots(at, of=of)
    watched = {**(measures or {}), **own}
    starts = _starts(theta0, ensemble_size, keys[3], sgd)
    common: dict[str, Any] = dict(num_steps=num_steps, progress=progress, **options)

    def run(process, run_key, members, what) -> Run:
        return simulate(
            process,
            starts if starts.ndim == 1 else starts[:members],
            ensemble_size=members,
            key=run_key,
            measures=what,
            **common,
        )

    runs = {
        "SGD": run(sgd, keys[0], ensemble_size, watched),
        "SGD (second ensemble)": run(sgd, keys[1], ensemble_size, watched),
    }
    errors = None
    if step_check and sde.weak_order is not None:
        members = max(2, round(step_check * ensemble_size))

        def pair(equation: AbstractProcess) -> StepErrors:
            return step_errors(
                equation,
                lambda process: run(process, keys[4], members, own),
                runs["SGD"],
                list(observables),
                distances,
                keys[3],
                num_bootstrap,
            )

        visible = _visible(runs, list(observables), distances, keys[3], num_bootstrap)
        errors = pair(sde)
        while substeps == "auto":
            needed = min(substeps_needed(errors, visible, sde.substeps), MOST_SUBSTEPS)
            if needed <= sde.substeps:
                break
            sde = sde.refined(min(needed, 8 * sde.substeps))
            errors = pair(sde)
        runs |= errors.runs
    runs["SDE"] = run(sde, keys[0] if paired else keys[2], ensemble_size, watched)
    found = {name: _observable(runs, name, errors) for name in observables}
    laws = _laws(runs, distances, keys[3], num_bootstrap, errors)
    pairs = _paired(runs, observables) if paired else None
    times = np.asarray(sgd.time(np.asarray(at)))
    verdicts = _verdicts(found, laws, resolution or {})
    unresolved = "" if errors is None else _unresolved(verdicts, errors, visible, sde.substeps)
    return SideBySide(
        runs, np.asarray(at), times, found, laws, sde.substeps, verdicts, unresolved, pairs
    )


def _at_step(sde: AbstractProcess, substeps, step_check) -> AbstractProcess:
    """The equation at the solver step that was asked for."""
    if sde.weak_order is None:
        if step_check and isinstance(sde, ModifiedEquation):
            warnings.warn(
                f"The step error of {type(sde.solver).__name__} is not measured: its Lévy areas "
                f"have no common path at two step sizes. Pass step_check=0, or compare two runs.",
                stacklevel=3,
            )
        if substeps is not None:
            raise ValueError(
                f"substeps={substeps!r} asks for another solver step, and {type(sde).__name__} "
                f"cannot be refined: set the step where the process is made."
            )
        return sde
    if substeps == "auto":
        if not step_check:
            raise ValueError('substeps="auto" needs the check of the solver step: step_check > 0.')
        return sde
    if substeps is None:
        return sde
    if isinstance(substeps, str):
        raise ValueError(f'substeps must be an integer ≥ 1 or "auto"; got {substeps!r}.')
    return sde.refined(check_count("substeps", substeps))


def _iterations(snapshots, num_steps: int) -> list[int]:
    if isinstance(snapshots, int):
        if snapshots < 1:
            raise ValueError(f"snapshots must be at least 1; got {snapshots}.")
        # Even in √k: closer together at the start, where the laws change fastest.
        spread = num_steps * (np.arange(snapshots + 1) / snapshots) ** 2
        return sorted({round(k) for k in spread.tolist()})
    return sorted({0, *(int(k) for k in snapshots)})


def _starts(theta0, ensemble_size: int, key: Key, process: AbstractProcess):
    rows = checked_starts(process, theta0, ensemble_size, key)
    return rows[0] if not callable(theta0) and np.ndim(theta0) == 1 else rows


def _visible(runs, observables, distances, key: Key, num_bootstrap: int) -> dict[str, float]:
    """What the comparison could see at the end, from the two ensembles of SGD."""
    sides = [runs[label]["positions"].values[-1].astype(float) for label in runs]
    first, second = (rows[: min(map(len, sides))] for rows in sides)
    half = len(second) // 2
    floors = {}
    if half >= 2:
        # The second ensemble's halves stand for the SDE and the floor, at half the members.
        table = distance_table(
            first,
            second[:half],
            second[half : 2 * half],
            key=key,
            distances=distances,
            num_bootstrap=num_bootstrap,
        )
        floors = {
            name: float(np.max(table[name].excess.standard_error)) / np.sqrt(2)
            for name in distances
        }
    return visible_differences(runs["SGD"], floors, observables, len(first))


def _observable(runs: dict[str, Run], name: str, errors: StepErrors | None) -> Observable:
    samples = {
        label: runs[label][f"of {name}"].values.astype(float)
        for label in ("SGD", "SGD (second ensemble)", "SDE")
    }
    means = {label: Estimate.from_samples(rows.T) for label, rows in samples.items()}
    return Observable(samples, means, None if errors is None else errors.means[name])


def _laws(runs, names, key: Key, num_bootstrap: int, errors) -> dict[str, Distances]:
    labels = ("SGD", "SDE", "SGD (second ensemble)")
    values = [runs[label]["positions"].values.astype(float) for label in labels]
    tables = []
    for i in range(1, values[0].shape[0]):
        rows = [v[i] for v in values]
        tables.append(
            distance_table(
                *rows, key=jr.fold_in(key, i), distances=names, num_bootstrap=num_bootstrap
            )
        )
    found = {}
    for name in names:
        fields = {}
        for field in ("distance", "floor", "excess"):
            parts = [getattr(table[name], field) for table in tables]
            # A distance per coordinate is summarised by its largest entry.
            picks = [np.argmax(p.value) for p in parts]
            value = np.array([p.value.flat[j] for p, j in zip(parts, picks, strict=True)])
            error = np.array([p.standard_error.flat[j] for p, j in zip(parts, picks, strict=True)])
            fields[field] = Estimate(value, error, parts[0].num_samples)
        step = None if errors is None else errors.distances[name]
        found[name] = Distances(**fields, step_error=step)
    return found


def _paired(runs: dict[str, Run], observables) -> dict[str, Estimate]:
    sgd, sde = runs["SGD"], runs["SDE"]
    both = sgd.alive & sde.alive
    found = {}
    for name in observables:
        a, b = (member_rows(r, f"of {name}", both) for r in (sgd, sde))
        found[name] = paired_difference(a.T, b.T)
    return found


def _verdicts(observables, laws, resolution) -> list[Comparison]:
    unknown = set(resolution) - set(observables)
    if unknown:
        warnings.warn(f"resolution names no observable: {sorted(unknown)}.", stacklevel=3)
    rows = []
    end = "SGD against SDE"
    for name, observable in observables.items():
        sgd, sde = observable.means["SGD"][-1], observable.means["SDE"][-1]
        title = f"mean {name} at the end"
        step = None if observable.step_error is None else observable.step_error[-1]
        rows.append(
            compare(
                sgd,
                _less(sde, step),
                resolution=resolution.get(name),
                bias=_left(step),
                name=title,
                process=end,
            )
        )
        again = observable.means["SGD (second ensemble)"][-1]
        rows.append(compare(sgd, again, name=title, process="SGD against SGD"))
    for name, law in laws.items():
        excess = _less(law.excess[-1], law.step_error)
        title = f"excess {name} distance at the end"
        rows.append(compare(excess, 0.0, bias=_left(law.step_error), name=title, process=end))
    return rows


def _less(value: Estimate, step: Estimate | None) -> Estimate:
    """The value without the discretisation error; the error's own noise is part of its bound."""
    if step is None:
        return value
    return Estimate(value.value - step.value, value.standard_error, value.num_samples)


def _left(step: Estimate | None) -> float:
    return 0.0 if step is None else bound(step)


def _unresolved(
    verdicts: list[Comparison], errors: StepErrors, visible: dict[str, float], substeps: int
) -> str:
    """What to do where the solver step leaves a verdict open; empty where it does not."""
    hidden = [row for row in verdicts if row.verdict == "inconclusive" and row.bias > 0]
    hidden = [row for row in hidden if row.bias > row.threshold * row.standard_error]
    if not hidden:
        return ""
    needed = substeps_needed(errors, visible, substeps)
    way = f"raise substeps to {needed}" if needed > substeps else "raise step_check"
    if needed > MOST_SUBSTEPS:
        way += f' (more than the {MOST_SUBSTEPS} that "auto" tries: lower the learning rate)'
    return (
        f"The SDE is not resolved at substeps={substeps}: its discretisation error could hide what "
        f"these members would see ({', '.join(row.name for row in hidden)}); {way}."
    )
