"""A comparison read back from its file."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from sde_sgd._checks import check_path
from sde_sgd.estimate import Estimate
from sde_sgd.side_by_side.laws import Distances, LABELS, observable
from sde_sgd.side_by_side.result import SideBySide
from sde_sgd.side_by_side.rows import verdicts

_DEATHS = "deaths of "


def load_side_by_side(path: str | Path) -> SideBySide:
    """What `SideBySide.save` wrote, without its runs: tables, figures and arrays are the same.

    **Raises:** `FileNotFoundError`; `ValueError` for a file that is none of these.
    """
    path = check_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            saved = data.load()
        return _read(saved)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read as a netCDF file: {error}.") from error
    except KeyError as error:
        raise ValueError(
            f"{str(path)!r} was not written by SideBySide.save: it has no {error.args[0]!r}. "
            f"ss.load reads every file that the library saves."
        ) from error


def _read(saved: xr.Dataset) -> SideBySide:
    settings = {str(name): value for name, value in saved.attrs.items()}
    unresolved, _ = settings.pop("unresolved"), settings.pop("table")
    counted = {name: settings.pop(name) for name in [*settings] if name.startswith(_DEATHS)}
    deaths = {name.removeprefix(_DEATHS): int(number) for name, number in counted.items()}
    rows = saved["alive"].values.astype(bool)
    alive = {label: rows[i] for i, label in enumerate(LABELS)}
    members = int(settings["members_of_step_check"])
    for label, number in deaths.items():
        # Which members of the check died is not kept, only how many.
        alive.setdefault(label, np.arange(members) >= number)
    names = [str(name) for name in saved.data_vars]
    found = {
        name: observable(
            {label: saved[name].values[i][:, alive[label]] for i, label in enumerate(LABELS)},
            _estimate(saved, f"{name}_step_error"),
        )
        for name in names
        if saved[name].dims == ("process", "k", "member")
    }
    stems = [name.removesuffix("_floor") for name in names if _is_floor(saved, name)]
    distances = {
        name: Distances(
            _after_start(saved, f"{name}_distance"),
            _after_start(saved, f"{name}_floor"),
            _after_start(saved, f"{name}_excess"),
            _estimate(saved, f"{name}_step_error"),
        )
        for name in stems
    }
    resolution = json.loads(settings["resolution"])
    pairs = {name: _estimate(saved, f"{name}_paired") for name in found}
    judged = verdicts(found, distances, resolution, deaths, bool(settings["allow_deaths"]))
    return SideBySide(
        runs={},
        iterations=saved["k"].values,
        times=saved["t"].values,
        observables=found,
        distances=distances,
        substeps=int(settings["substeps"]),
        comparisons=judged,
        unresolved=str(unresolved),
        paired={name: pair for name, pair in pairs.items() if pair is not None} or None,
        alive=alive,
        stopped="",
        settings=settings,
    )


def _is_floor(saved: xr.Dataset, name: str) -> bool:
    stem = name.removesuffix("_floor")
    return name.endswith("_floor") and f"{stem}_excess_standard_error" in saved


def _estimate(saved: xr.Dataset, name: str) -> Estimate | None:
    if name not in saved:
        return None
    error = saved[f"{name}_standard_error"].values
    return Estimate(saved[name].values, error, int(saved[name].attrs["num_samples"]))


def _after_start(saved: xr.Dataset, name: str) -> Estimate:
    found = _estimate(saved, name)
    assert found is not None
    return found[1:]
