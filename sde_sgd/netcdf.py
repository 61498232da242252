"""Files that are the old one or the new one, never a part; labelled arrays among them."""

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import xarray as xr
from xarray.backends import H5NetCDFStore


def replace_file(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Puts what `write(file)` writes in place of the file `path`, or leaves that as it is.

    It is written beside the old file, reaches the disk, and takes its place in one step. A link
    stays a link, to the new file; permissions stay those of the old one.

    **Raises:** `OSError` where the folder is missing, or the disk full.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: name a file in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"The folder of {str(path)!r} does not exist: create it.")
    temporary = target.with_name(f"{_hidden(target)}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            temporary.chmod(target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Removes, where it may, what a process that was killed while it wrote `path` has left."""
    target = Path(os.path.realpath(path))
    for leftover in target.parent.glob(f"{_hidden(target)}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _hidden(target: Path) -> str:
    # Of a name of any length, and of no other.
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Writes labelled arrays as netCDF (HDF5), all of them or none.

    HDF5 ends the interpreter when a disk is full, so that it writes into memory, which must hold
    the arrays twice. A write that fails leaves the old file as it was.

    **Raises:** `OSError` in one line that names the file; `ValueError` or `TypeError` for what
    netCDF cannot hold.
    """
    import h5netcdf

    memory = io.BytesIO()
    with h5netcdf.File(memory, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file))
    content = memory.getbuffer()

    def write(file: BinaryIO) -> None:
        file.write(content)
        file.flush()
        file.seek(0)
        whole = os.fstat(file.fileno()).st_size == len(content)
        if not whole or file.read(8) != content[:8]:
            raise OSError(f"what was written of {len(content)} bytes cannot be read back")

    try:
        replace_file(path, write)
    except OSError as error:
        text = (
            f"{str(path)!r} could not be written ({error.strerror or error}); the old file, if "
            f"there is one, is as it was."
        )
        known = (text,) if error.errno is None else (error.errno, text)
        raise type(error)(*known) from error
