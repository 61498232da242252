"""What a cell gives, as labelled arrays, and its file."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from sde_sgd._checks import in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.netcdf import write_dataset
from sde_sgd.sweeps.grid import Label, text_of

_DEFAULT = "value"


class CellJob:
    """One cell as a callable without arguments, which a process pool or a cluster can be sent.

    It writes its own file, so that a cell that is finished stays finished whatever happens to the
    program that asked for it. `checkpoint` is what submitit calls when SLURM's time limit comes:
    the job is put back into the queue, and the runs inside go on from their own checkpoints.
    """

    def __init__(
        self,
        function: Callable,
        values: dict[str, Label],
        key: jax.Array,
        file: Path | None,
        signature: str,
        resumes: bool,
    ):
        self.function, self.values = function, values
        self.file, self.signature, self.resumes = file, signature, resumes
        self.typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        self.data = np.asarray(jr.key_data(key) if self.typed else key)
        self.impl = str(jr.key_impl(key)) if self.typed else None

    def __call__(self) -> xr.Dataset:
        own = self.file.with_suffix(".checkpoint") if self.file and self.resumes else None
        key = jr.wrap_key_data(jnp.asarray(self.data), impl=self.impl) if self.typed else self.data
        extra = {"checkpoint": str(own)} if own else {}
        started = time.monotonic()
        found = as_dataset(self.function(dict(self.values), key, **extra), self.values)
        found = found.assign_attrs(
            cell_values=json.dumps(self.values),
            cell_signature=self.signature,
            cell_seconds=time.monotonic() - started,
        )
        if self.file is not None:
            write_dataset(found, self.file)
        if own is not None:
            own.unlink(missing_ok=True)
        return found

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        return DelayedSubmission(self)


def as_dataset(result: Any, values: Mapping[str, Label]) -> xr.Dataset:
    """The result of a cell as labelled arrays.

    **Raises:** `ValueError` for anything else than a data set, an Estimate, an array of numbers,
    and a dictionary of the last two by name.
    """
    if isinstance(result, xr.Dataset):
        return result.load()
    if isinstance(result, xr.DataArray):
        return result.to_dataset(name=str(result.name or _DEFAULT)).load()
    named = result if isinstance(result, Mapping) else {_DEFAULT: result}
    found = xr.Dataset()
    for name, value in named.items():
        found = found.merge(_variables(str(name), value, values))
    return found


def _variables(name: str, value: Any, values: Mapping[str, Label]) -> xr.Dataset:
    if isinstance(value, Estimate):
        return value.to_xarray(name)
    if isinstance(value, xr.DataArray):
        return value.to_dataset(name=name)
    array = np.asarray(value)
    if array.dtype.kind not in "bifuUS":
        raise ValueError(
            f"The function of a sweep must return an Estimate, an array of numbers, an xarray data "
            f"set, or a dictionary of such by name; at {text_of(values)} {name!r} is "
            f"{in_brief(value)}."
        )
    return xr.Dataset({name: ([f"{name}_dim{i}" for i in range(array.ndim)], array)})


def read_cell(file: Path) -> xr.Dataset:
    """What a cell has written.

    **Raises:** `ValueError` for a file that is damaged, or none of a sweep.
    """
    try:
        with xr.open_dataset(file, engine="h5netcdf") as data:
            found = data.load()
        json.loads(found.attrs["cell_values"])
    except Exception as error:
        # Whatever a file holds: HDF5, xarray and JSON each have errors of their own.
        raise ValueError(
            f"{str(file)!r} is damaged, or not a cell of a sweep ({error}): delete it, and the "
            f"cell is computed again."
        ) from error
    return found
