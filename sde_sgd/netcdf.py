"""Labelled arrays in one file that is written whole or not at all."""

import os
from pathlib import Path

import xarray as xr


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Writes netCDF (HDF5) beside `path`, reads it back, and puts it in the place of `path`.

    A symbolic link stays, and the file that it points to is replaced.

    **Raises:** `OSError` where the file cannot be written, or does not hold what was written; what
    stood at `path` before is then untouched.
    """
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        dataset.to_netcdf(temporary, engine="h5netcdf")
        with xr.open_dataset(temporary, engine="h5netcdf") as written:
            if not written.equals(dataset):
                raise OSError(
                    f"{str(path)!r} does not hold what was written to it: the disk fails."
                )
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
