"""The folder of an experiment: what is written, read again, and kept of a call that ended early.

`data.nc` says by itself which run it is of, so that it is the only file that is ever read.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffrax
import equinox
import filelock
import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import sde_sgd as ss
from sde_sgd.netcdf import remove_leftovers, replace_file, write_dataset
from sde_sgd.simulate.checkpoint import versions

_WRITTEN = ("config.json", "data.nc", "figure.png", "verdict.json")
_DESCRIPTION = "experiment_run"
_ATLAS = Path(__file__).parent / "framework" / "atlas"
_PATIENCE = 40.0


@dataclasses.dataclass(frozen=True)
class Described:
    """Which run the numbers of a `data.nc` are of."""

    experiment: str
    preset: str
    seed: int
    config: dict[str, Any]
    seconds: float
    """of simulation, in the call that finished it"""
    resumed: bool
    """whether earlier calls did a part"""
    device: str
    code: str
    """digest of the sources"""


class NotWritten(Exception):
    """A result could not be written; one sentence says why."""


@functools.cache
def code() -> str:
    """A digest of the sources of the experiments and of the library.

    The atlas only shows results: what is changed in it makes none of them another.
    """
    digest = hashlib.sha256()
    for root in (Path(__file__).parent, Path(ss.__file__).parent):
        for file in sorted(root.rglob("*.py")):
            if _ATLAS in file.parents:
                continue
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers are made with."""
    modules = {"jax": jax, "equinox": equinox, "diffrax": diffrax, "numpy": np}
    found = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), **found}


def device() -> str:
    """Where the numbers are made."""
    first = jax.devices()[0]
    return f"{first.platform} ({first.device_kind}), {platform.machine()}"


@contextlib.contextmanager
def owned(folder: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """Within it no other process runs this experiment in this folder.

    One that has been told to end, such as what `all` had started before it was killed, is waited
    for. **Raises:** `SystemExit` in one line where another one goes on.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            tell(f"Another process is at work in {folder}/: waits for it to end.")
            lock.acquire(timeout=_PATIENCE)
    except filelock.Timeout:
        raise SystemExit(
            f"--out: another process is at work in {str(folder)!r}, and did not end within "
            f"{_PATIENCE:.0f} s: wait for it, end it, or name another folder."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise SystemExit(
            f"--out: {str(folder)!r} cannot be locked ({error}): name another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def make_writable(folder: Path) -> None:
    """Makes the folder, and sees that what belongs there can be written, before time is spent.

    **Raises:** `SystemExit` in one line.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _WRITTEN:
            if (folder / name).is_dir():
                raise IsADirectoryError(f"{name} in it is a folder")
            remove_leftovers(folder / name)
        # Not the permissions, which bind no administrator and tell nothing of a full disk.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        reason = error.strerror or error
        raise SystemExit(
            f"--out: {str(folder)!r} cannot be written to ({reason}): name another folder."
        ) from None


def write_data(folder: Path, data: xr.Dataset, described: Described) -> None:
    """`data.nc`, all or nothing. **Raises:** `NotWritten`."""
    known = json.dumps(dataclasses.asdict(described))
    try:
        write_dataset(data.assign_attrs({_DESCRIPTION: known}), folder / "data.nc")
    except OSError as error:
        raise NotWritten(str(error.strerror or error)) from error


def read_data(folder: Path, name: str) -> tuple[Described, xr.Dataset]:
    """What `write_data` wrote for the experiment `name`.

    **Raises:** `SystemExit` in one line for a file that is missing, broken or another's.
    """
    path = folder / "data.nc"
    if not path.is_file():
        raise SystemExit(f"--replot: there is no {str(path)!r}: run {name} without --replot first.")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            data = opened.load()
        described = Described(**json.loads(data.attrs[_DESCRIPTION]))
    except Exception as error:
        raise SystemExit(
            f"--replot: {str(path)!r} is not what this version of {name} writes, or is broken "
            f"({type(error).__name__}: {_line(error)}): run {name} without --replot."
        ) from None
    if described.experiment != name:
        raise SystemExit(f"--replot: {str(path)!r} is of {described.experiment}, not of {name}.")
    return described, data


def remove_verdict(folder: Path) -> None:
    """Removes the verdict, if there is one. **Raises:** `NotWritten`."""
    try:
        (folder / "verdict.json").unlink(missing_ok=True)
    except OSError as error:
        raise NotWritten(f"The old verdict.json stays ({error.strerror or error}).") from error


def write_json(path: Path, value: Any) -> None:
    """The new file or the old one, never a part. **Raises:** `NotWritten`."""
    _replace(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_figure(path: Path, figure: Figure) -> None:
    """As PNG; the new file or the old one, never a part. **Raises:** `NotWritten`."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    _replace(path, drawn.getvalue())


def write_page(path: Path, text: str) -> None:
    """The new file or the old one, never a part. **Raises:** `NotWritten`."""
    _replace(path, text.encode())


def _replace(path: Path, content: bytes) -> None:
    try:
        replace_file(path, lambda file: file.write(content))
    except OSError as error:
        raise NotWritten(
            f"{str(path)!r} could not be written ({error.strerror or error})."
        ) from error


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """Checkpoints of one call: of its arguments, its code and its versions."""

    folder: Path
    version: str

    @property
    def found(self) -> bool:
        """Whether an earlier call has left some."""
        return any(self.folder.glob("*.npz"))

    @property
    def way(self) -> str:
        """How to go on after an early end."""
        if self.found:
            return f"The same command goes on with what is in {self.folder}/."
        return "No run has been saved yet: the same command starts from nothing."

    @property
    def others(self) -> list[str]:
        """What calls with other arguments or code have left."""
        return sorted(p.name for p in self.folder.parent.iterdir() if p != self.folder)

    def remove(self) -> None:
        """Removes these, and the folder around if nothing else is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        # Not empty: of another call.
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()


def unfinished(folder: Path, preset: str, seed: int, config: Any, x64: bool) -> Unfinished:
    """Where this call keeps its checkpoints, made if it is not there."""
    whole = [dataclasses.asdict(config), x64, code(), versions()]
    version = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    own = folder / "unfinished" / f"{preset}-{seed}-{version}"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(
            f"--out: {str(own)!r} cannot be made ({error.strerror or error}): name another folder."
        ) from None
    return Unfinished(own, version)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
