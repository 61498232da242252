"""Means and distances over the snapshots, from the members that are alive."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.random as jr
import numpy as np

from sde_sgd.compare.distances.ensembles import DistanceName, table
from sde_sgd.estimate import Estimate
from sde_sgd.side_by_side.step import member_rows, StepErrors
from sde_sgd.simulate.run import Run
from sde_sgd.types import Key

# The three ensembles whose laws are compared.
LABELS = ("SGD", "SGD (second ensemble)", "SDE")


class Observable(eqx.Module):
    """One function of θ on both sides.

    - `samples`: values at each time, by process, (times, members alive).
    - `means`: Estimate over members at each time, by process, (times,).
    - `step_error`: Estimate of the SDE's own discretisation error of that mean, (times,), or
      None where it was not measured.
    """

    samples: dict[str, np.ndarray]
    means: dict[str, Estimate]
    step_error: Estimate | None


class Distances(eqx.Module):
    """One distance over the times after the start: SGD–SDE, SGD–SGD′ (the floor), the excess.

    `step_error`: how much of the excess at the last time is the SDE's own discretisation error,
    or None where it was not measured.
    """

    distance: Estimate
    floor: Estimate
    excess: Estimate
    step_error: Estimate | None


def observable(samples: dict[str, np.ndarray], step_error: Estimate | None) -> Observable:
    """Values (times, members) of one function, and their means."""
    means = {label: Estimate.from_samples(rows.T) for label, rows in samples.items()}
    return Observable(samples, means, step_error)


def observed(runs: Mapping[str, Run], name: str, errors: StepErrors | None) -> Observable:
    """One function of θ in the three ensembles."""
    samples = {label: runs[label][f"of {name}"].values.astype(float) for label in LABELS}
    return observable(samples, None if errors is None else errors.means[name])


def laws(
    runs: Mapping[str, Run],
    names: Sequence[DistanceName],
    key: Key,
    num_bootstrap: int,
    errors: StepErrors | None,
) -> dict[str, Distances]:
    """Distances between the laws of θ at each time after the start.

    Where members have died, as many of the SDE and of the second ensemble are taken, so that both
    distances have one floor; NaN where fewer than two are left.
    """
    first, second, sde = (runs[label]["positions"].values.astype(float) for label in LABELS)
    members = min(second.shape[1], sde.shape[1])
    sides = (first, sde[:, :members], second[:, :members])
    tables = []
    few = min(first.shape[1], members) < 2
    for i in range(1, 1 if few else len(first)):
        own = jr.fold_in(key, i)
        rows = [side[i] for side in sides]
        tables.append(table(*rows, key=own, distances=tuple(names), num_bootstrap=num_bootstrap))
    found = {}
    for name in names:
        fields = {}
        for field in ("distance", "floor", "excess"):
            parts = [getattr(table[name], field) for table in tables]
            # A distance per coordinate is summarised by its largest entry.
            picks = [np.argmax(p.value) for p in parts]
            value = np.full(len(first) - 1, np.nan)
            error = np.full(len(first) - 1, np.inf)
            if parts:
                value = np.array([p.value.flat[j] for p, j in zip(parts, picks, strict=True)])
                error = np.array(
                    [p.standard_error.flat[j] for p, j in zip(parts, picks, strict=True)]
                )
            fields[field] = Estimate(value, error, min(first.shape[1], members))
        step = None if errors is None else errors.distances[name]
        found[name] = Distances(**fields, step_error=step)
    return found


def paired(runs: Mapping[str, Run], observables: Sequence[str]) -> dict[str, Estimate]:
    """Differences SGD − SDE of each observable, member by member."""
    sgd, sde = runs["SGD"], runs["SDE"]
    both = sgd.alive & sde.alive
    found = {}
    for name in observables:
        a, b = (member_rows(r, f"of {name}", both) for r in (sgd, sde))
        found[name] = Estimate.from_samples((a - b).T)
    return found
