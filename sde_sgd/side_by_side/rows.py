"""Verdicts at the last time, and why one of them is open."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from sde_sgd.compare import compare, Comparison
from sde_sgd.estimate import Estimate
from sde_sgd.side_by_side.laws import Distances, Observable
from sde_sgd.side_by_side.step import (
    bound,
    largest,
    MOST_SUBSTEPS,
    StepErrors,
    substeps_needed,
    Visible,
)

AGAINST_SDE, AGAINST_SGD = "SGD against SDE", "SGD against SGD"


def verdicts(
    observables: Mapping[str, Observable],
    distances: Mapping[str, Distances],
    resolution: Mapping[str, float],
    deaths: Mapping[str, int],
    allow_deaths: bool = False,
) -> list[Comparison]:
    """The mean of each observable and the excess of each distance, at the last time.

    **Arguments:** `deaths`: how many members of each ensemble have diverged. Survivors are no
    sample of the law, so that a verdict on them is "inconclusive" unless `allow_deaths`.
    """
    rows = []
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
                process=AGAINST_SDE,
            )
        )
        again = observable.means["SGD (second ensemble)"][-1]
        rows.append(compare(sgd, again, name=title, process=AGAINST_SGD))
    for name, law in distances.items():
        excess = _less(law.excess[-1], law.step_error)
        title = f"excess {name} distance at the end"
        bias = _left(law.step_error)
        rows.append(compare(excess, 0.0, bias=bias, name=title, process=AGAINST_SDE))
    if allow_deaths:
        return rows
    of_sgd = {label: number for label, number in deaths.items() if label.startswith("SGD")}
    sides = {AGAINST_SDE: deaths, AGAINST_SGD: of_sgd}
    return [of_survivors(row, sides[row.process]) for row in rows]


def of_survivors(row: Comparison, deaths: Mapping[str, int]) -> Comparison:
    """The same row, open where members of an ensemble that it rests on have died."""
    found = {label: number for label, number in deaths.items() if number}
    if not found:
        return row
    reason = (
        f"survivorship: {told(found)} diverged, and those left are no sample of the law "
        f"(allow_deaths=True compares them)"
    )
    severity = np.ones_like(row.severity)
    return dataclasses.replace(row, severity=severity, verdict="inconclusive", reason=reason)


def told(deaths: Mapping[str, int]) -> str:
    """«3 of SGD, 1 of SDE»."""
    return ", ".join(f"{number} of {label}" for label, number in deaths.items())


def _less(value: Estimate, step: Estimate | None) -> Estimate:
    """The value without the discretisation error; the error's own noise is part of its bound."""
    if step is None:
        return value
    return value - step.value


def _left(step: Estimate | None) -> float:
    """Where the step error is no number, its value makes the comparison inconclusive."""
    left = 0.0 if step is None else bound(step)
    return left if np.isfinite(left) else 0.0


def unresolved(
    rows: Sequence[Comparison],
    errors: StepErrors,
    visible: Visible,
    substeps: int,
    everyone: bool,
) -> str:
    """What to do where the solver step leaves a verdict open; empty where it does not.

    **Arguments:** `everyone`: whether all members are in the check of the step.
    """
    hidden = [row for row in rows if row.verdict == "inconclusive" and row.bias > 0]
    hidden = [
        row
        for row in hidden
        if max(row.bias, abs(row.measured - row.predicted)) > row.threshold * row.standard_error
    ]
    if not hidden:
        return ""
    needed = substeps_needed(errors, visible, substeps)
    way = f"raise substeps to {needed}" if needed > substeps else "raise step_check"
    if largest(errors, visible)[1]:
        # A shorter step alone would leave the noise of the estimate where it is.
        way = "take more members" if everyone else "raise step_check to 1"
        way += ", most of that being the noise of its estimate"
    elif needed > MOST_SUBSTEPS:
        way += f' (more than the {MOST_SUBSTEPS} that "auto" tries: lower the learning rate)'
    return (
        f"The SDE is not resolved at substeps={substeps}: its discretisation error could make, or "
        f"hide, what these members would see ({', '.join(row.name for row in hidden)}); {way}."
    )
