"""Labelled arrays on disk: a file is either the old one or the new one, never half of one."""

import os
from pathlib import Path

import xarray as xr


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Writes netCDF (HDF5) to a temporary file in the same folder, then renames it.

    A link at `path` is followed, and goes on pointing where it did.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        dataset.to_netcdf(temporary, engine="h5netcdf")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
