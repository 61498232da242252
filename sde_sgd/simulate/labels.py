"""A run as labelled arrays: what was measured, and all the numbers that it was run with."""

import dataclasses
import platform
import re
import unicodedata
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd.estimate import Estimate
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.measure.base import MeasureResult
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.clock import LearningRate
from sde_sgd.simulate import checkpoint
from sde_sgd.simulate.fingerprint import describe

# A schedule is stored at so many iterations at most.
_MOST_RATES = 10**6
_FEW = 16


def versions() -> dict[str, str]:
    """Versions of what a result was computed with."""
    others = {name: metadata.version(name) for name in ("scipy", "xarray")}
    found = checkpoint.versions() | {"python": platform.python_version()} | others
    return {f"version.{name}": version for name, version in found.items()}


def key_data(key: jax.Array) -> np.ndarray:
    """The numbers of a key."""
    return np.asarray(key if key.dtype == jnp.uint32 else jax.random.key_data(key))


def settings(process: AbstractProcess) -> dict[str, Any]:
    """The process's numbers, by the names of its fields: "sampling.batch_size" = 4."""
    found: dict[str, Any] = {"process": type(process).__name__, "substeps": process.substeps}
    for path, value in _fields("", process):
        found |= _setting(path, value)
    return found


def _fields(path: str, module: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(module):
        yield f"{path}.{field.name}".lstrip("."), getattr(module, field.name, None)


def _setting(path: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, LearningRate):
        value = value.schedule if value.value is None else value.value
    if isinstance(value, AbstractLandscape):
        known = {
            path: type(value).__name__,
            f"{path}.dimension": value.dimension,
            f"{path}.dtype": str(value.dtype),
        }
        if value.num_examples is not None:
            known[f"{path}.num_examples"] = value.num_examples
        return known
    if isinstance(value, eqx.Module):
        found = {path: type(value).__name__}
        for name, inner in _fields(path, value):
            found |= _setting(name, inner)
        return found
    if isinstance(value, bool | np.bool_):
        return {path: int(value)}
    if isinstance(value, int | float | str):
        return {path: value}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _setting_of_array(path, value)
    return {path: getattr(value, "__qualname__", type(value).__qualname__)}


def _setting_of_array(path: str, value: Any) -> dict[str, Any]:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or value.size > _FEW:
        return {path: str(describe(value))}
    array = np.asarray(value)
    array = array.astype(np.int64) if array.dtype == bool else array
    return {path: array.ravel()[0] if array.size == 1 else array.ravel()}


def schedules(process: AbstractProcess, num_steps: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Iterations and values of every learning-rate schedule of a process, by its field."""
    steps = np.arange(0, num_steps, max(-(-num_steps // _MOST_RATES), 1))
    found = {}
    for path, rate in _schedules("", process):
        values = jax.vmap(lambda k, rate=rate: rate.at(k, jnp.result_type(float)))
        found[path.replace(".", "_")] = steps, np.asarray(values(jnp.asarray(steps)))
    return found


def _schedules(path: str, module: Any) -> Iterator[tuple[str, LearningRate]]:
    for name, value in _fields(path, module):
        if isinstance(value, LearningRate):
            if value.schedule is not None:
                yield name, value
        elif isinstance(value, eqx.Module) and not isinstance(value, AbstractLandscape):
            yield from _schedules(name, value)


def plain_name(name: str) -> str:
    """A name that netCDF and `data.name` take: letters, digits and underscores, no digit first."""
    plain = re.sub(r"\W", "_", unicodedata.normalize("NFC", name)) or "_"
    return f"_{plain}" if plain[0].isdigit() else plain


class Labels:
    """Variables, coordinates and attributes of a data set, gathered one by one.

    Members have one dimension, `member`, whose coordinate is their identities, increasing: those
    that a measure left out are NaN (−1 among integers).
    """

    def __init__(self, identities: np.ndarray):
        self.identities = identities
        self.variables: dict[str, Any] = {}
        self.coordinates: dict[str, Any] = {"member": identities}
        self.attributes: dict[str, Any] = {}
        self.left_out: list[str] = []

    def add(self, name: str, result: Any) -> None:
        """The result of a measure. What no array or text can hold is named in `left_out`."""
        plain = plain_name(name)
        known = getattr(type(result), "coordinates", {})
        members = getattr(result, "members", None)
        if isinstance(result, MeasureResult) and members is not None:
            members = np.searchsorted(self.identities, members)
        for path, value, axes in _flatten("", result, ()):
            self._put(plain, path, value, axes, members, name)
        for coordinate, field in known.items():
            axis = getattr(type(result), "axes", {})[field][0]
            label = f"{plain}_{coordinate}"
            self.coordinates[label] = (f"{plain}_{axis}", np.asarray(getattr(result, field)))

    def _put(self, plain: str, path: str, value: Any, axes: tuple, members: Any, name: str) -> None:
        label = plain + path
        while label in self.variables or label in self.coordinates or label in self.attributes:
            label += "_"
        if isinstance(value, str):
            self.attributes[label] = value
        elif value.dtype.kind == "c":
            self._put(plain, f"{path}_real", value.real, axes, members, name)
            self._put(plain, f"{path}_imaginary", value.imag, axes, members, name)
        elif value.dtype.kind in "bifu":
            for place, axis in enumerate(axes):
                if axis == "member" and members is not None:
                    value = self._spread(value, members, place)
            own = [axis if axis == "member" else f"{plain}_{axis}" for axis in axes]
            left = [f"{label}_dim{i}" for i in range(len(axes), value.ndim)]
            self.variables[label] = ((*own, *left), value, {"measure": name})
        else:
            self.left_out.append(f"{name}{path.replace('_', '.', 1)}")

    def _spread(self, value: np.ndarray, members: np.ndarray, axis: int) -> np.ndarray:
        """Values of some members among all of them."""
        shape = list(value.shape)
        shape[axis] = len(self.identities)
        empty = np.nan if value.dtype.kind == "f" else -1 if value.dtype.kind == "i" else 0
        full = np.full(shape, empty, value.dtype)
        full[(slice(None),) * axis + (members,)] = value
        return full


def _flatten(path: str, value: Any, axes: tuple[str, ...]) -> Iterator[tuple[str, Any, tuple]]:
    """Arrays and texts of a result, with the names of their first axes where its class knows."""
    if value is None:
        return
    if isinstance(value, Estimate):
        yield path, value.value, axes
        yield f"{path}_standard_error", value.standard_error, axes
        yield f"{path}_num_samples", np.asarray(value.num_samples), ()
    elif isinstance(value, str):
        yield path, value, ()
    elif dataclasses.is_dataclass(value):
        known = getattr(type(value), "axes", {})
        told = getattr(type(value), "coordinates", {}).values() if path == "" else ()
        for field in dataclasses.fields(value):
            if field.name in told or (isinstance(value, MeasureResult) and field.name == "members"):
                continue
            inner = getattr(value, field.name)
            yield from _flatten(f"{path}_{field.name}", inner, known.get(field.name, ()))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{path}_{plain_name(str(key)).lstrip('_')}", inner, ())
    elif isinstance(value, tuple | list) and any(not np.isscalar(x) for x in value):
        names = getattr(value, "_fields", range(len(value)))
        for label, inner in zip(names, value, strict=True):
            yield from _flatten(f"{path}_{label}", inner, ())
    else:
        yield path, np.asarray(value), axes
