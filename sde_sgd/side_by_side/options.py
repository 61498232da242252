"""Every option of a comparison, checked before the first run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sde_sgd._checks import (
    check_choice,
    check_number,
    check_whole,
    in_brief,
    output_shape,
    real_values,
)
from sde_sgd.compare.distances.ensembles import DISTANCES
from sde_sgd.measure.snapshots import Snapshots
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.simulate.warn import warn

# What a saved comparison calls the numbers of an observable and of a distance.
_OF_OBSERVABLE = ("step_error", "paired")
_OF_DISTANCE = ("distance", "floor", "excess", "step_error")


def variables(observables: Sequence[str], distances: Sequence[str]) -> list[str]:
    """All variables of a saved comparison."""
    found = [name + part for name in observables for part in ("", "_mean", "_standard_error")]
    for names, parts in ((observables, _OF_OBSERVABLE), (distances, _OF_DISTANCE)):
        estimates = [f"{name}_{part}" for name in names for part in parts]
        found += [one + error for one in estimates for error in ("", "_standard_error")]
    return [*found, "alive", "k", "t", "process", "member"]


def check_observables(
    process: AbstractProcess,
    observables: Mapping[str, Callable] | None,
    distances: Sequence[str] = (),
) -> dict[str, Callable]:
    """Scalar functions of θ by name; the loss by default."""
    probe = jax.ShapeDtypeStruct((process.landscape.dimension,), process.landscape.dtype)
    chosen = {"loss": process.landscape.loss} if observables is None else observables
    if not isinstance(chosen, Mapping):
        raise ValueError(
            f"observables must be a dictionary of names and functions of θ, such as "
            f'{{"first": lambda x: x[0]}}; got {type(chosen).__name__}.'
        )
    for name, of in chosen.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"An observable's name must be a text without '/'; got {name!r}.")
        if not callable(of):
            raise ValueError(f"Observable {name!r} must be a function of θ; got {in_brief(of)}.")
        shape = output_shape(f"Observable {name!r}", of, probe).shape
        if shape != ():
            raise ValueError(f"Observable {name!r} must be scalar; it has shape {shape}.")
    names = variables(list(chosen), distances)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"The names of the observables {sorted(chosen)} make two variables {twice[0]!r} of a "
            f"saved comparison: rename one of them."
        )
    return dict(chosen)


def check_distances(distances: Any) -> tuple:
    """Names of distances, each once."""
    if isinstance(distances, str) or not isinstance(distances, Sequence):
        raise ValueError(
            f"distances must be a tuple of names among {DISTANCES}; got {in_brief(distances)}."
        )
    for name in distances:
        check_choice("each of distances", name, DISTANCES)
    if len(set(distances)) < len(distances):
        raise ValueError(f"distances names one twice: {tuple(distances)}.")
    return tuple(distances)


def check_resolution(resolution: Any, observables: Mapping[str, Any]) -> dict[str, float]:
    """By observable, the smallest difference of means that matters."""
    given = {} if resolution is None else resolution
    if not isinstance(given, Mapping):
        raise ValueError(f"resolution must be a dictionary by observable; got {in_brief(given)}.")
    unknown = [name for name in given if name not in observables]
    if unknown:
        raise ValueError(
            f"resolution names no observable: {unknown}; there are {sorted(observables)}."
        )
    return {
        name: check_number(f"resolution[{name!r}]", value, above=0) for name, value in given.items()
    }


def check_snapshots(snapshots: Any, num_steps: int) -> list[int]:
    """Iterations at which the laws are compared: the start and the end among them."""
    if isinstance(snapshots, int | np.integer) or not isinstance(snapshots, Sequence | np.ndarray):
        count = check_whole("snapshots", snapshots, 1, 10_000)
        # Even in √k: closer together at the start, where the laws change fastest.
        spread = num_steps * (np.arange(count + 1) / count) ** 2
        return sorted({round(k) for k in spread.tolist()})
    chosen = np.asarray(real_values("snapshots", snapshots))
    whole = chosen.ndim == 1 and (chosen.size == 0 or chosen.dtype.kind in "iu")
    if not whole or (chosen < 0).any() or (chosen > num_steps).any():
        raise ValueError(
            f"snapshots must be a number of iterations, or which of 0, ..., {num_steps}; got "
            f"{in_brief(snapshots)}."
        )
    return sorted({0, *(int(k) for k in chosen), num_steps})


def check_measures(measures: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """The user's measures beside those of the comparison."""
    if measures is not None and not isinstance(measures, Mapping):
        raise ValueError(
            f"measures must be a dictionary of names and measures; got {in_brief(measures)}."
        )
    taken = [name for name in own if name in (measures or {})]
    if taken:
        raise ValueError(f"measures[{taken[0]!r}] is a name of the comparison's own: rename it.")
    return {**(measures or {}), **own}


def own_measures(at: list[int], observables: Mapping[str, Callable]) -> dict[str, Snapshots]:
    """θ and the observables at the snapshots."""
    found = {"positions": Snapshots(at)}
    for name, of in observables.items():
        found[f"of {name}"] = Snapshots(at, of=of)
    return found


def check_step_check(step_check: Any) -> float:
    """A fraction of the ensemble."""
    number = isinstance(step_check, int | float | np.number) and not isinstance(step_check, bool)
    if not number or not 0 <= step_check <= 1:
        raise ValueError(f"step_check must be a fraction in [0, 1]; got {in_brief(step_check)}.")
    return float(step_check)


def at_step(sde: AbstractProcess, substeps: Any, step_check: float) -> AbstractProcess:
    """The equation at the solver step that was asked for."""
    if sde.weak_order is None:
        if step_check and sde.unrefined:
            warn(
                f"The step error of {type(sde).__name__} is not measured: {sde.unrefined}. Pass "
                f"step_check=0, or compare two runs."
            )
        if substeps is not None:
            raise ValueError(
                f"substeps={in_brief(substeps)} asks for another solver step, and "
                f"{type(sde).__name__} cannot be refined: set the step where the process is made."
            )
        return sde
    if isinstance(substeps, str) and substeps == "auto":
        if not step_check:
            raise ValueError('substeps="auto" needs the check of the solver step: step_check > 0.')
        return sde
    if substeps is None:
        return sde
    if isinstance(substeps, str):
        raise ValueError(f'substeps must be an integer ≥ 1 or "auto"; got {substeps!r}.')
    return sde.refined(check_whole("substeps", substeps))
