"""Atomic checkpoints: one file that is either the old state or the new one."""

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from sde_sgd._checks import check_path, check_text, in_brief
from sde_sgd.netcdf import remove_leftovers, replace_file
from sde_sgd.simulate.fingerprint import unseen
from sde_sgd.simulate.warn import warn


class Checkpoint(eqx.Module):
    """Where and how often a run saves itself.

    **Arguments:** `path` of one file; `every_seconds` between saves (a run also saves
    itself when it ends, is interrupted, gets SIGTERM or runs out of budget); `version`, a text of
    your own: a checkpoint of another version is refused.

    A checkpoint resumes the configuration that wrote it: all numbers, the code of your functions
    and of what they call or read, in your own modules, as far as Python can see it. What it cannot
    see is refused by name, unless `version` is given, which then is yours to change.
    """

    path: Path = eqx.field(static=True, converter=partial(check_path, "path"))
    every_seconds: float = eqx.field(static=True, default=30.0)
    version: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        seconds = self.every_seconds
        number = isinstance(seconds, int | float | np.number) and not isinstance(seconds, bool)
        if not number or not seconds >= 0:
            raise ValueError(f"every_seconds must be a number ≥ 0; got {in_brief(seconds)}.")
        if self.version is not None:
            check_text("version", self.version)


_series: ContextVar[Iterator[Checkpoint] | None] = ContextVar("checkpoints", default=None)


@contextlib.contextmanager
def checkpoints_in(folder: Path, every_seconds: float, version: str) -> Iterator[None]:
    """Within it every run that is given no checkpoint has one in `folder`, in the order of calls.

    The program that is started again finds what it has finished and goes on with the rest. Its
    n-th run must be the same each time; another is refused, as that of any checkpoint.
    """
    numbers = itertools.count()
    files = (Checkpoint(folder / f"{n:04}.npz", every_seconds, version) for n in numbers)
    token = _series.set(files)
    try:
        yield
    finally:
        _series.reset(token)


def as_checkpoint(checkpoint: Any) -> Checkpoint | None:
    """A path or a `Checkpoint`, or the next of `checkpoints_in`; the folder must exist."""
    if checkpoint is None:
        files = _series.get()
        return None if files is None else next(files)
    made = (
        checkpoint
        if isinstance(checkpoint, Checkpoint)
        else Checkpoint(check_path("checkpoint", checkpoint))
    )
    if not made.path.parent.is_dir():
        raise ValueError(f"The folder of checkpoint={str(made.path)!r} does not exist: create it.")
    if made.path.is_dir():
        raise ValueError(f"checkpoint={str(made.path)!r} is a folder: name a file in it.")
    return made


def versions() -> dict[str, str]:
    """Versions on which a bit-exact resume depends."""
    return {**_installed(), "backend": jax.default_backend()}


@functools.cache
def _installed() -> dict[str, str]:
    packages = ("sde_sgd", "jax", "equinox", "diffrax", "numpy")
    return {name: metadata.version(name) for name in packages}


def sign(fingerprint: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Puts the user's version into a fingerprint; refuses what it could not look into."""
    fingerprint["version"] = checkpoint.version
    hidden = unseen(fingerprint)
    if hidden and checkpoint.version is None:
        raise ValueError(
            f"checkpoint={str(checkpoint.path)!r}: whether a later run is this one cannot be told, "
            f"because {'; '.join(hidden[:3])} cannot be looked into. Pass it as numbers or as a "
            f"function, or give Checkpoint(path, version=...) a text that you change with it."
        )


def save(path: Path, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Puts header and arrays in place of the old file, or leaves that as it is."""
    named: dict[str, Any] = {f"leaf{i}": array for i, array in enumerate(arrays)}
    whole = json.dumps(header | {"num_leaves": len(arrays)})
    named["header"] = np.frombuffer(whole.encode(), np.uint8)
    replace_file(path, lambda file: np.savez(file, **named))


def load(path: Path, own: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Header and arrays of a checkpoint, refused when it belongs to another configuration.

    `own`: the header that the run which asks would write.
    """
    header, arrays = read(path, own)
    found = differences(header["fingerprint"], own["fingerprint"])
    if found:
        raise ValueError(
            f"checkpoint={str(path)!r} belongs to another configuration: {'; '.join(found[:4])}. "
            f"Choose another file, remove this one, or restore the configuration."
        )
    warn_of_versions(header)
    remove_leftovers(path)
    return header, arrays


def read(path: Path, own: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Header and arrays of a checkpoint, of whatever configuration.

    `own`: a header with the entries that it needs.

    **Raises:** `ValueError` for a file that cannot be read, is none, or has no such entries.
    """
    try:
        with np.load(path) as file:
            header = json.loads(bytes(file["header"]).decode())
            arrays = [file[f"leaf{i}"] for i in range(header["num_leaves"])]
    except (PermissionError, IsADirectoryError) as error:
        raise ValueError(f"checkpoint={str(path)!r} cannot be read: {error}.") from error
    except Exception as error:
        # Whatever a file holds: NumPy, zlib and JSON each have errors of their own.
        if _is_netcdf(path):
            raise ValueError(
                f"{str(path)!r} is a data set, such as a run that was saved, and no checkpoint: it "
                f"has no states to go on from. Give the file that checkpoint= wrote."
            ) from None
        raise ValueError(
            f"checkpoint={str(path)!r} exists and is not a checkpoint of this library, or is "
            f"damaged: choose another file or remove it."
        ) from error
    missing = [name for name in own if name not in header]
    if missing:
        raise ValueError(
            f"checkpoint={str(path)!r} was written by another version of this library, or for "
            f"another kind of run: its header has no {', '.join(missing)}. Choose another file or "
            f"remove it."
        )
    return header, arrays


def _is_netcdf(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def warn_of_versions(header: dict[str, Any]) -> None:
    """Says that other versions computed what a checkpoint holds."""
    if header["versions"] != versions():
        warn(
            f"The checkpoint was written with {header['versions']}, now {versions()}: the "
            f"resumed run is valid, but may differ in the last bits."
        )


def differences(old: Any, new: Any) -> list[str]:
    """Where two descriptions differ, as «path was old and is new»; empty where they are equal."""
    old, new = (json.loads(json.dumps(description)) for description in (old, new))
    return [] if old == new else _differences(old, new)


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if path == "key":
        return ["it was started with another key"]
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                found += _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = []
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                found += _differences(a, b, f"{path}[{index}]")
        return found
    return [f"{path} was {_short(old)} and is {_short(new)}"]


# A float as a description keeps it, exact to the last bit.
_HEX = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-][0-9]+")


def _short(value: Any) -> str:
    text = _HEX.sub(lambda found: repr(float.fromhex(found[0])), str(value))
    return text if len(text) < 60 else text[:57] + "..."
