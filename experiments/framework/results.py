"""What the folders of results hold, read again: whole results, and what is damaged."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import _files as files
from .protocol import names

_AS_EXPECTED = {"agree": "agrees", "deviate": "disagrees"}
_VERDICTS = {"agrees", "disagrees", "inconclusive"}
_ROW = {"name", "process", "predicted", "measured", "standard_error", "z", "expected", "verdict"}


class Damaged(Exception):
    """A folder that holds no whole result; one sentence says why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a verdict; of an array, the entry that decides it."""

    name: str
    process: str
    predicted: float
    measured: float
    standard_error: float
    """0 where nothing was sampled"""
    z: float
    expected: str
    verdict: str
    place: tuple[int, ...]
    """of that entry in the array"""

    @property
    def as_expected(self) -> bool:
        """Whether "agree" met "agrees" or "deviate" met "disagrees"."""
        return self.verdict == _AS_EXPECTED[self.expected]

    @property
    def factor(self) -> float | None:
        """measured/predicted; None where the prediction is 0, or either is no number."""
        known = math.isfinite(self.predicted) and math.isfinite(self.measured)
        return self.measured / self.predicted if known and self.predicted else None


@dataclasses.dataclass(frozen=True)
class Result:
    """What one experiment has left in its folder."""

    experiment: str
    claim: str
    source: str
    preset: str
    seed: int
    config: dict[str, Any]
    code: str
    """digest of the sources; "" for a verdict that does not say"""
    versions: dict[str, str]
    device: str
    seconds: float
    resumed: bool
    rows: tuple[Row, ...]
    picture: bytes
    """PNG"""

    @property
    def as_expected(self) -> bool:
        """Whether every row is."""
        return all(row.as_expected for row in self.rows)

    @property
    def other_version(self) -> str:
        """How what made it differs from what is installed; "" if it does not."""
        here, found = files.packages(), []
        if self.code != files.code():
            found.append(f"code {self.code or 'not recorded'}, here {files.code()}")
        for package in sorted(here | self.versions):
            own, ours = self.versions.get(package, "none"), here.get(package, "none")
            if own != ours:
                found.append(f"{package} {own}, here {ours}")
        return "; ".join(found)


def is_current(result: Result, preset: str, seed: int, config: dict[str, Any]) -> bool:
    """Whether it is of this version, preset and seed, with none of the preset's values changed."""
    told = (result.preset, result.seed, result.config) == (preset, seed, config)
    return told and not result.other_version


def read(folder: Path) -> Result:
    """The result in a folder. **Raises:** `Damaged` in one sentence that names the file."""
    try:
        text = (folder / "verdict.json").read_text("utf-8")
        told = json.loads(text)
        picture = (folder / "figure.png").read_bytes()
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder}: {_brief(error)}.") from None
    try:
        rows = tuple(_row(row) for row in told["checks"])
        if not rows:
            raise ValueError("it has no rows")
        values = {
            "experiment": str(told["experiment"]),
            "claim": str(told["claim"]),
            "source": str(told["source"]),
            "preset": str(told["preset"]),
            "seed": int(told["seed"]),
            "config": dict(told.get("config", {})),
            "code": str(told.get("code", "")),
            "versions": {str(k): str(v) for k, v in told["versions"].items()},
            "device": str(told["device"]),
            "seconds": float(told["seconds"]),
            "resumed": bool(told["resumed"]),
        }
    except KeyError as error:
        raise Damaged(f"{folder / 'verdict.json'} does not say {error}.") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{folder / 'verdict.json'} is not a verdict: {_brief(error)}.") from None
    if values["experiment"] != folder.name:
        raise Damaged(f"{folder / 'verdict.json'} is of {values['experiment']!r}.")
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
    except Exception as error:
        raise Damaged(f"{folder / 'figure.png'} is not a whole picture: {_brief(error)}.") from None
    return Result(**values, rows=rows, picture=picture)


def find(out: Path) -> tuple[list[Result], list[Damaged]]:
    """Whole results in `out`, by name, and what is damaged or of no experiment that there is.

    A folder without a verdict is of a run that has not ended, and is left out without a word.
    """
    whole, damaged = [], []
    for path in sorted(out.glob("*/verdict.json")):
        try:
            if path.parent.name not in names():
                raise Damaged(f"{path.parent}: this version has no experiment of that name.")
            whole.append(read(path.parent))
        except Damaged as error:
            damaged.append(error)
    return whole, damaged


def _row(told: dict[str, Any]) -> Row:
    missing = _ROW - set(told)
    if missing:
        raise ValueError(f"a row has no {', '.join(sorted(missing))}")
    if told["expected"] not in _AS_EXPECTED or told["verdict"] not in _VERDICTS:
        raise ValueError(f"{told['expected']!r} and {told['verdict']!r} are no verdict")
    predicted, measured, error = np.broadcast_arrays(
        *(np.array(told[k], float) for k in ("predicted", "measured", "standard_error"))
    )
    z = _number(told["z"])
    index = _deciding(predicted, measured, error, z)
    return Row(
        name=str(told["name"]),
        process=str(told["process"]),
        predicted=float(predicted[index]),
        measured=float(measured[index]),
        standard_error=float(error[index]),
        z=z,
        expected=told["expected"],
        verdict=told["verdict"],
        place=index,
    )


def _deciding(predicted, measured, error, z: float) -> tuple[int, ...]:
    """The entry whose z is the one that the verdict names; without one, the farthest off."""
    difference = measured - predicted
    with np.errstate(divide="ignore", invalid="ignore"):
        own = difference / error
    gap = np.abs(own - z) if math.isfinite(z) else np.where(own == z, 0.0, np.inf)
    gap = np.where(np.isnan(gap), np.inf, gap)
    if not np.isfinite(gap).any():
        gap = -np.nan_to_num(np.abs(difference), nan=-1.0, posinf=np.inf)
    return tuple(int(i) for i in np.unravel_index(int(np.argmin(gap)), gap.shape))


def _number(value: Any) -> float:
    """A number of a strict JSON file: None is NaN, and "inf" is read back."""
    return math.nan if value is None else float(value)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
