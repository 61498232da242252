"""Claims against the chain SGD – Gaussian SGD – Euler(η) – SDE: where the SDE holds, and where not.

A row of a verdict belongs to the link whose process it measured. Apart from that, a row that holds
a process of discrete steps against a value of the SDE says whether the SDE may stand in for it.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

from ..results import Row
from . import numbers

LINKS = ("SGD", "Gaussian SGD", "Euler(η)", "SDE")
"""The processes of the chain, in its order."""

_NAMES = {
    "SGD": r"SGD( with(out)? replacement|, (exact|independent batches|shuffled epochs|κ = \d+))?",
    "Gaussian SGD": r"Gaussian SGD(, η ?= ?[\d.]+)?",
    "Euler(η)": r"Euler(\(η\)|, h = η)",
    "SDE": r"SDE(, exact)?(, h → 0|, h = η/substeps|, κ = \d+)?",
}
# Two processes in one row, the second in place of the first.
_DIFFERENCE = r"SGD, SDE|SGD less SDE"
_PAIR = r"Euler, h = η against SDE, h → 0"
# A prediction that is the SDE's, in the name of a row of another process.
_OF_THE_SDE = r"\bSDE\b|Fokker–Planck|h → 0|η → 0|continuous limit|M against h = η/substeps"


@dataclasses.dataclass(frozen=True)
class Cell:
    """What the rows of one claim say of one process."""

    agree: int = 0
    deviate: int = 0
    open: int = 0
    """inconclusive"""
    unexpected: int = 0
    """rows that are not as expected, whatever they are"""
    by: str = ""
    """by what factor the deviating ones do; by what difference where all predictions are 0"""

    @property
    def empty(self) -> bool:
        """No row."""
        return not (self.agree or self.deviate or self.open)


def link(process: str) -> str | None:
    """The link of the chain that a process's name stands for; None for another process."""
    return next((name for name in LINKS if re.fullmatch(_NAMES[name], process)), None)


def own(process: str) -> str:
    """The link, or else the process's own name."""
    return link(process) or process


def stands_in(row: Row) -> bool:
    """Whether the row holds a process of discrete steps against the SDE.

    A difference of the two counts where 0 is predicted: others are themselves the SDE's error.
    """
    if re.fullmatch(_DIFFERENCE, row.process):
        return row.predicted == 0
    if re.fullmatch(_PAIR, row.process):
        return True
    # Of the SDE with another noise than SGD's.
    if "Mori" in row.name:
        return False
    return link(row.process) in LINKS[:3] and bool(re.search(_OF_THE_SDE, row.name))


def cell(rows: Iterable[Row]) -> Cell:
    """Counts by verdict, and the range of the factors."""
    rows = list(rows)
    count = {
        v: sum(row.verdict == v for row in rows) for v in ("agrees", "disagrees", "inconclusive")
    }
    return Cell(
        count["agrees"],
        count["disagrees"],
        count["inconclusive"],
        sum(not row.as_expected for row in rows),
        _by([row for row in rows if row.verdict == "disagrees"]),
    )


def _by(rows: list[Row]) -> str:
    ratios = sorted(row.factor for row in rows if row.factor is not None)
    if ratios:
        ends = [numbers.factor(ratios[0]), numbers.factor(ratios[-1])]
        return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    off = [abs(row.measured - row.predicted) for row in rows]
    off = [value for value in off if math.isfinite(value)]
    return f"by\N{NO-BREAK SPACE}{numbers.plain(max(off), 2)}" if off else ""


@dataclasses.dataclass(frozen=True)
class Line:
    """One claim of the matrix."""

    experiment: str
    stand_in: Cell
    links: dict[str, Cell]
    others: dict[str, Cell]
    """of processes outside of the chain, under their own names"""


def line(experiment: str, rows: Iterable[Row]) -> Line:
    """The claim's rows, sorted into cells."""
    rows = list(rows)
    by_process: dict[str, list[Row]] = {}
    for row in rows:
        by_process.setdefault(own(row.process), []).append(row)
    links = {name: cell(by_process.get(name, [])) for name in LINKS}
    others = {name: cell(found) for name, found in by_process.items() if name not in LINKS}
    return Line(experiment, cell(row for row in rows if stands_in(row)), links, others)
