"""A comparison as labelled arrays over (process, k, member)."""

from typing import Any, TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.estimate import Estimate
from sde_sgd.side_by_side.laws import LABELS

if TYPE_CHECKING:
    from sde_sgd.side_by_side.result import SideBySide


def to_dataset(result: "SideBySide") -> xr.Dataset:
    """All that is not in `runs`; see `SideBySide.to_xarray`."""
    data: dict[str, Any] = {}
    alive = np.stack([result.alive[label] for label in LABELS])
    for name, observable in result.observables.items():
        every = np.full((len(LABELS), len(result.iterations), alive.shape[1]), np.nan)
        for i, label in enumerate(LABELS):
            every[i][:, alive[i]] = observable.samples[label]
        data[name] = (("process", "k", "member"), every)
        means = [observable.means[label] for label in LABELS]
        members = {"num_samples": [mean.num_samples for mean in means]}
        axes = ("process", "k")
        data[f"{name}_mean"] = (axes, np.stack([m.value for m in means]), members)
        errors = np.stack([m.standard_error for m in means])
        data[f"{name}_standard_error"] = (axes, errors, members)
        _put(data, f"{name}_step_error", observable.step_error, ("k",))
        _put(data, f"{name}_paired", (result.paired or {}).get(name), ("k",))
    for name, rows in result.distances.items():
        for field in ("distance", "floor", "excess"):
            _put(data, f"{name}_{field}", _from_start(getattr(rows, field)), ("k",))
        _put(data, f"{name}_step_error", rows.step_error, ())
    data["alive"] = (("process", "member"), alive)
    coordinates = {
        "process": list(LABELS),
        "k": result.iterations,
        "t": ("k", result.times),
        "member": np.arange(alive.shape[1]),
    }
    deaths = {f"deaths of {label}": number for label, number in result.deaths.items()}
    own = {"unresolved": result.unresolved, "table": result.table, **deaths}
    return xr.Dataset(data, coordinates, {**result.settings, **own})


def _put(data: dict, name: str, estimate: Estimate | None, axes: tuple[str, ...]) -> None:
    if estimate is None:
        return
    members = {"num_samples": estimate.num_samples}
    data[name] = (axes, estimate.value, members)
    data[f"{name}_standard_error"] = (axes, estimate.standard_error, members)


def _from_start(estimate: Estimate) -> Estimate:
    """With the start, where the laws are equal and no distance was taken."""
    value, error = (np.append(np.nan, x) for x in (estimate.value, estimate.standard_error))
    return Estimate(value, error, estimate.num_samples)
