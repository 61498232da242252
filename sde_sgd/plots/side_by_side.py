"""The figure of the main job: observables in time, their laws at the end, distances."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sde_sgd.plots.style import band, COLOURS, new_figure, points

if TYPE_CHECKING:
    from sde_sgd.side_by_side import SideBySide

# Up to so many members each is a point: a histogram of them would show its bins.
_FEW = 12


def figure(result: "SideBySide") -> Figure:
    """A row for each observable, its mean over t and its law at the end, and one of distances."""
    names, distances = list(result.observables), list(result.distances)
    columns = max(2 if names else 1, len(distances))
    made, axes = new_figure(len(names) + bool(distances), columns, width=4.6, height=3.3)
    unused = set(axes.flat)
    for row, name in zip(axes, names, strict=False):
        _over_time(row[0], result, name)
        _final_law(row[1], result, name)
        unused -= {row[0], row[1]}
    for axis, name in zip(axes[-1] if distances else (), distances, strict=False):
        _distance(axis, result, name)
        unused -= {axis}
    for axis in unused:
        axis.remove()
    made.suptitle(f"{result.title}\n{_verdicts(result)}", fontsize=9)
    return made


def _verdicts(result: "SideBySide") -> str:
    dead = {label: number for label, number in result.deaths.items() if number}
    found: dict[str, list[str]] = {}
    for row in result.comparisons:
        if row.process == "SGD against SDE":
            name = row.name.removesuffix(" at the end").removeprefix("excess ")
            found.setdefault(row.verdict, []).append(name)
    text = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items())
    if result.unresolved:
        text += f" (solver step not resolved at substeps = {result.substeps})"
    if dead:
        text += f" (diverged: {', '.join(f'{n} of {label}' for label, n in dead.items())})"
    return text


def _legend(axis: Axes) -> None:
    """Above the panel, off the data."""
    axis.legend(
        frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=3,
        borderaxespad=0.2, columnspacing=1.0, handlelength=1.4,
    )  # fmt: skip


def _over_time(axis: Axes, result: "SideBySide", name: str) -> None:
    for label in ("SGD", "SDE"):
        band(axis, result.times, result.observables[name].means[label], label)
    axis.set_xlabel("time t = ηk")
    axis.set_ylabel(f"mean {name} (± 2 s.e.)")
    _legend(axis)


def _final_law(axis: Axes, result: "SideBySide", name: str) -> None:
    samples = result.observables[name].samples
    last = {label: np.asarray(rows[-1], dtype=float) for label, rows in samples.items()}
    axis.set_xlabel(f"{name} at t = {result.times[-1]:.4g}")
    if max(map(len, last.values())) <= _FEW:
        _members(axis, last)
    else:
        _histograms(axis, last)
    _legend(axis)


def _members(axis: Axes, last: dict[str, np.ndarray]) -> None:
    """Each member a point, each ensemble a line of its own."""
    for place, (label, rows) in enumerate(last.items()):
        height = np.full(len(rows), -place)
        axis.plot(rows, height, "o", color=COLOURS[label], alpha=0.6, markersize=5, label=label)
        if len(rows):
            axis.plot(rows.mean(), -place, "|", color=COLOURS[label], markersize=22)
    axis.set_ylim(-len(last) + 0.4, 0.6)
    axis.set_yticks([])
    axis.set_ylabel("members (bar: mean)")


def _histograms(axis: Axes, last: dict[str, np.ndarray]) -> None:
    pooled = np.concatenate(list(last.values()))
    low, high = np.quantile(pooled, [0.002, 0.998])
    members = max(map(len, last.values()))
    bins = int(np.clip(2 * members ** (1 / 3), 6, 30))
    edges = np.linspace(low, high if high > low else low + 1e-9, bins + 1)
    width = np.diff(edges)
    for label, rows in last.items():
        counts, number = np.histogram(rows, edges)[0], max(len(rows), 1)
        density = counts / (number * width)
        error = np.sqrt(counts * (1 - counts / number)) / (number * width)
        axis.stairs(density, edges, color=COLOURS[label], label=label)
        middle = 0.5 * (edges[1:] + edges[:-1])
        axis.errorbar(middle, density, 2 * error, fmt="none", color=COLOURS[label], linewidth=0.8)
    axis.set_ylabel("probability density (± 2 s.e.)")


def _distance(axis: Axes, result: "SideBySide", name: str) -> None:
    rows, times = result.distances[name], result.times[1:]
    low, high = rows.floor.interval(2.0)
    fill = {"color": COLOURS["SGD"], "alpha": 0.25, "linewidth": 0}
    if len(times) == 1:
        axis.axhspan(float(low[0]), float(high[0]), label="floor: SGD–SGD (± 2 s.e.)", **fill)
    else:
        axis.fill_between(times, low, high, label="floor: SGD–SGD (± 2 s.e.)", **fill)
    shown = {"color": COLOURS["SDE"], "fmt": "o-", "errors": 2}
    points(axis, times, rows.distance, "SGD–SDE (± 2 s.e.)", **shown)
    axis.axhline(0, color=COLOURS["prediction"], linewidth=0.6)
    axis.set_xlabel("time t = ηk")
    # The U-statistic's mean is 0 where the laws are equal, so that half of its values are below.
    below = "\n(unbiased: may fall below 0)" if name == "energy" else ""
    axis.set_ylabel(f"{name} distance of the laws of θ{below}")
    _legend(axis)
