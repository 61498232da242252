"""What a comparison will run, with every argument checked."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.random as jr
import numpy as np

from sde_sgd._checks import check_flag, check_key, check_part, check_whole
from sde_sgd.compare._resample import MOST_RESAMPLES
from sde_sgd.measure.base import AbstractMeasure
from sde_sgd.noise.thermal import without_bath
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.batches import sampling_of
from sde_sgd.side_by_side.options import (
    at_step,
    check_distances,
    check_measures,
    check_observables,
    check_resolution,
    check_snapshots,
    check_step_check,
    own_measures,
)
from sde_sgd.side_by_side.sides import check_members, check_sides
from sde_sgd.simulate.fingerprint import describe
from sde_sgd.simulate.labels import versions
from sde_sgd.simulate.validate import check_outcome, starts as checked_starts
from sde_sgd.types import Key

# Options of `simulate` that all runs of a comparison share.
_SHARED = ("record_every", "refill", "memory", "chunk_size", "devices", "check_stability")


@dataclasses.dataclass(frozen=True)
class Case:
    """Both sides, their common start, and what is measured.

    `keys`: of SGD, its second ensemble, the SDE, the starts and bootstraps, the check of the step.
    `watched`: the measures of the three ensembles; `own`: those of the check. `check_members`: how
    many members it has, 0 without it. `shared`: options of `simulate`.
    """

    sgd: AbstractProcess
    sde: AbstractProcess
    starts: Any
    num_steps: int
    ensemble_size: int
    key: Key
    keys: jax.Array
    at: list[int]
    observables: dict[str, Callable]
    distances: tuple
    num_bootstrap: int
    resolution: dict[str, float]
    watched: dict[str, AbstractMeasure]
    own: dict[str, AbstractMeasure]
    check_members: int
    automatic: bool
    shared: dict[str, Any]


def make_case(
    sgd: AbstractProcess,
    sde: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    observables: Mapping[str, Callable] | None = None,
    snapshots: Any = 6,
    measures: Mapping[str, AbstractMeasure] | None = None,
    distances: Any = ("sliced", "energy"),
    step_check: Any = 0.25,
    substeps: Any = None,
    allow_different: bool = False,
    resolution: Mapping[str, float] | None = None,
    num_bootstrap: int = 100,
    on_divergence: str = "raise",
    budget: float | int | None = None,
    **shared: Any,
) -> Case:
    """Checks all arguments of a comparison; raises before any time is spent."""
    unknown = sorted(set(shared) - set(_SHARED))
    if unknown:
        raise TypeError(
            f"a comparison has no option {unknown[0]!r}; beside its own it takes, as simulate, "
            f"{', '.join(sorted(_SHARED))}."
        )
    key = check_key(key)
    num_steps = check_whole("num_steps", num_steps)
    check_members(ensemble_size)
    check_outcome(on_divergence, budget)
    check_part("sgd", sgd, AbstractProcess, "a process such as ss.SGD")
    check_part("sde", sde, AbstractProcess, "a process such as ss.ModifiedEquation")
    check_sides(sgd, sde, num_steps, check_flag("allow_different", allow_different))
    fraction = check_step_check(step_check)
    num_bootstrap = check_whole("num_bootstrap", num_bootstrap, 2, MOST_RESAMPLES)
    distances = check_distances(distances)
    named = check_observables(sgd, observables, distances)
    at = check_snapshots(snapshots, num_steps)
    own: dict[str, Any] = own_measures(at, named)
    sde = at_step(sde, substeps, fraction)
    keys = jr.split(key, 5)
    rows = checked_starts(sgd, theta0, ensemble_size, keys[3])
    one = not callable(theta0) and np.ndim(theta0) == 1
    checks = bool(fraction) and sde.weak_order is not None
    return Case(
        sgd,
        sde,
        rows[0] if one else rows,
        num_steps,
        int(ensemble_size),
        key,
        keys,
        at,
        named,
        distances,
        num_bootstrap,
        check_resolution(resolution, named),
        check_measures(measures, own),
        own,
        max(2, round(fraction * ensemble_size)) if checks else 0,
        isinstance(substeps, str),
        {**shared, "on_divergence": on_divergence},
    )


def settings_of(case: Case, substeps: int, allow_deaths: bool) -> dict[str, Any]:
    """What was run, in numbers and words that a file can hold."""
    sampling, noise = sampling_of(case.sgd), without_bath(case.sde.gradient_noise)
    rate, rule = case.sgd.clock.constant, case.sgd.update_rule
    found = {
        "sgd": type(case.sgd).__name__,
        "sde": type(case.sde).__name__,
        "learning_rate": "schedule" if rate is None else rate,
        "batch_size": None if sampling is None else sampling.batch_size,
        "momentum": 0.0 if rule is None else rule.momentum,
        "noise": None if noise is None else type(noise).__name__,
        "sampling": None if sampling is None else type(sampling).__name__,
        "num_examples": case.sgd.landscape.num_examples,
        "dimension": case.sgd.landscape.dimension,
        "dtype": str(case.sgd.landscape.dtype),
        "key": np.ravel(jr.key_data(case.key)).astype(np.int64),
        "num_steps": case.num_steps,
        "substeps": substeps,
        "members": case.ensemble_size,
        "members_of_step_check": case.check_members,
        "num_bootstrap": case.num_bootstrap,
        "resolution": json.dumps(case.resolution),
        "allow_deaths": int(allow_deaths),
        "configuration": _configuration(case),
        **versions(),
    }
    return {name: value for name, value in found.items() if value is not None}


def _configuration(case: Case) -> str:
    """Both processes as JSON; their digest where an HDF5 attribute (64 kB) cannot hold it."""
    text = json.dumps(describe({"sgd": case.sgd, "sde": case.sde}))
    if len(text) <= 20_000:
        return text
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()} of {len(text)} characters"
