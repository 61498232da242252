"""A verdict as labelled arrays, and back."""

from typing import Any, TYPE_CHECKING

import numpy as np
import xarray as xr

from sde_sgd.estimate import Estimate
from sde_sgd.simulate.labels import versions
from sde_sgd.validity.cumulants import Shape
from sde_sgd.validity.lines import Line
from sde_sgd.validity.local_model import Settings
from sde_sgd.validity.probes import Norms
from sde_sgd.validity.rule import Shares, Watched

if TYPE_CHECKING:
    from sde_sgd.validity.result import Validity

_LINES = {
    "by_learning_rate": "learning_rate",
    "by_batch_size": "batch_size",
    "scaling": "kappa",
}
_NUMBERS = ("sharpness", "growth", "diverged")


def about(found: Any) -> dict[str, Any]:
    """Attributes that say which run it was, and with which libraries it was looked at."""
    s = found.settings
    return {
        "learning_rate": s.learning_rate,
        "batch_size": found.batch_size,
        "momentum": s.momentum,
        "noise_factor": s.noise_factor,
        "num_steps": s.num_steps,
        "sampling": found.sampling,
        "num_examples": found.num_examples,
        "num_looked_at": found.num_looked_at,
        "dimension": found.dimension,
        "tolerance": found.tolerance,
    } | versions()


def as_dataset(found: "Validity") -> xr.Dataset:
    """Everything that a `Validity` has."""
    arrays: dict[str, Any] = {"directions": (("parameter", "direction"), found.directions)}
    for name in ("curvature", "curvature_noise", "correlation", "spread"):
        arrays[name] = ("direction", [getattr(w, name) for w in found.watched])
    for part, kind in (("shape", Shape), ("shares", Shares)):
        for name in kind._fields:
            own = [getattr(getattr(w, part), name) for w in found.watched]
            arrays[f"{part}_{name}"] = ("direction", own)
    arrays["D"] = ("direction", [w.shares.distance for w in found.watched])
    coordinates: dict[str, Any] = {"direction": [w.name for w in found.watched]}
    for name, axis in _LINES.items():
        line = getattr(found, name)
        coordinates[axis] = line.values
        arrays[f"{name}_distance"] = (axis, line.distances)
        arrays[f"{name}_error"] = (axis, line.errors)
        arrays[f"{name}_state"] = (axis, [s.value for s in line.states(found.tolerance)])
        arrays[f"{name}_range"] = ("end", [line.low, line.high])
    coordinates["end"] = ["low", "high"]
    for name in ("distance", "mean_curvature"):
        arrays |= _estimate(name, getattr(found, name), ())
    for name, gaps in found.svag.items():
        coordinates["level"] = list(gaps)
        arrays |= _estimate(f"svag_{name.replace(' ', '_')}", _stacked(gaps), ("level",))
    arrays |= {f"norms_{key}": ((), value) for key, value in found.norms._asdict().items()}
    arrays |= {name: ((), getattr(found, name)) for name in _NUMBERS}
    attributes = {"verdict": found.verdict, "reason": found.reason}
    attributes |= {f"remark_{i}": text for i, text in enumerate(found.remarks)}
    attributes |= {f"seconds_{stage}": value for stage, value in found.seconds.items()}
    return xr.Dataset(arrays, coordinates, about(found) | attributes)


def fields(data: xr.Dataset) -> dict[str, Any]:
    """What a `Validity` is made of, from `as_dataset`; `ValueError` for other data."""
    missing = {"verdict", "tolerance", "num_looked_at"} - set(data.attrs)
    if missing:
        raise ValueError(
            f"These are not the arrays of a Validity (no {sorted(missing)} among the attributes): "
            f"give a file that Validity.save wrote."
        )
    names = [str(name) for name in data["direction"].values]

    def column(name: str) -> list[float]:
        return [float(x) for x in data[name].values]

    def parts(part: str, kind: Any) -> list[Any]:
        columns = (column(f"{part}_{name}") for name in kind._fields)
        return [kind(*row) for row in zip(*columns, strict=True)]

    watched = [
        Watched(*row)
        for row in zip(
            names,
            column("curvature"),
            column("curvature_noise"),
            parts("shape", Shape),
            column("correlation"),
            column("spread"),
            parts("shares", Shares),
            strict=True,
        )
    ]
    attrs = data.attrs
    lines = {
        name: Line(
            data[axis].values.astype(float),
            data[f"{name}_distance"].values,
            data[f"{name}_error"].values,
            *(float(x) for x in data[f"{name}_range"].values),
        )
        for name, axis in _LINES.items()
    }
    svag = {}
    for name in ("loss", "squared displacement"):
        key = f"svag_{name.replace(' ', '_')}"
        if key in data:
            rows = _read(data, key)
            levels = data["level"].values
            svag[name] = {int(level): rows[i] for i, level in enumerate(levels)}
    return lines | {
        "verdict": str(attrs["verdict"]),
        "reason": str(attrs["reason"]),
        "watched": watched,
        "directions": data["directions"].values,
        "norms": Norms(*(float(data[f"norms_{key}"]) for key in Norms._fields)),
        "distance": _read(data, "distance"),
        "mean_curvature": _read(data, "mean_curvature"),
        "svag": svag,
        "sharpness": float(data["sharpness"]),
        "growth": float(data["growth"]),
        "diverged": int(data["diverged"]),
        "settings": Settings(
            float(attrs["learning_rate"]),
            float(attrs["noise_factor"]),
            float(attrs["momentum"]),
            int(attrs["num_steps"]),
        ),
        "tolerance": float(attrs["tolerance"]),
        "sampling": str(attrs["sampling"]),
        "batch_size": int(attrs["batch_size"]),
        "num_examples": int(attrs["num_examples"]),
        "num_looked_at": int(attrs["num_looked_at"]),
        "remarks": tuple(_numbered(attrs, "remark_").values()),
        "seconds": {k: float(v) for k, v in _numbered(attrs, "seconds_").items()},
    }


def _numbered(attrs: dict, start: str) -> dict[str, Any]:
    return {k.removeprefix(start): v for k, v in attrs.items() if k.startswith(start)}


def _estimate(name: str, found: Estimate, axes: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: (axes, found.value),
        f"{name}_standard_error": (axes, found.standard_error),
        f"{name}_num_samples": ((), found.num_samples),
    }


def _read(data: xr.Dataset, name: str) -> Estimate:
    error, num = data[f"{name}_standard_error"].values, int(data[f"{name}_num_samples"])
    return Estimate(data[name].values, error, num)


def _stacked(gaps: dict[int, Estimate]) -> Estimate:
    rows = list(gaps.values())
    values = np.array([float(g.value) for g in rows])
    return Estimate(values, np.array([float(g.standard_error) for g in rows]), rows[0].num_samples)
