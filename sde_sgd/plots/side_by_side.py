"""The figure of the main job: observables in time, their laws at the end, distances."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import band, COLOURS, new_figure, points

if TYPE_CHECKING:
    from ..side_by_side import SideBySide


def figure(result: "SideBySide") -> Figure:
    """One row: mean of each observable over t, its law at the end, and the distances over t."""
    names = list(result.observables)
    made, axes = new_figure(1, 2 * len(names) + 1)
    for i, name in enumerate(names):
        _over_time(axes[0, 2 * i], result, name)
        _final_law(axes[0, 2 * i + 1], result, name)
    _distances(axes[0, -1], result)
    return made


def _over_time(axis: Axes, result: "SideBySide", name: str) -> None:
    for label in ("SGD", "SDE"):
        band(axis, result.times, result.observables[name].means[label], label)
    axis.set_xlabel("time t = ηk")
    axis.set_ylabel(f"mean {name} (± 2 s.e.)")
    axis.legend(frameon=False)


def _final_law(axis: Axes, result: "SideBySide", name: str) -> None:
    samples = result.observables[name].samples
    last = {label: np.asarray(rows[-1], dtype=float) for label, rows in samples.items()}
    pooled = np.concatenate(list(last.values()))
    low, high = np.quantile(pooled, [0.002, 0.998])
    edges = np.linspace(low, high if high > low else low + 1e-9, 31)
    for label, rows in last.items():
        counts = np.histogram(rows, edges)[0]
        width = np.diff(edges)
        density = counts / (len(rows) * width)
        error = np.sqrt(counts * (1 - counts / len(rows))) / (len(rows) * width)
        axis.stairs(density, edges, color=COLOURS[label], label=label)
        middle = 0.5 * (edges[1:] + edges[:-1])
        axis.errorbar(middle, density, error, fmt="none", color=COLOURS[label], linewidth=0.8)
    axis.set_xlabel(f"{name} at t = {result.times[-1]:.4g}")
    axis.set_ylabel("probability density (± 1 s.e.)")
    axis.legend(frameon=False)


def _distances(axis: Axes, result: "SideBySide") -> None:
    for name, marker in (("sliced", "o"), ("energy", "s")):
        rows = result.distances.get(name)
        if rows is None:
            continue
        shown = result.times[1:] if len(rows.distance.value) < len(result.times) else result.times
        points(
            axis, shown, rows.distance, f"{name}: SGD–SDE", color=COLOURS["SDE"], fmt=f"{marker}-"
        )
        points(axis, shown, rows.floor, f"{name}: SGD–SGD", color=COLOURS["SGD"], fmt=f"{marker}:")
    axis.axhline(0, color=COLOURS["prediction"], linewidth=0.8, label="equal laws")
    axis.set_yscale("symlog", linthresh=_smallest(result))
    axis.set_xlabel("time t = ηk")
    axis.set_ylabel("distance between laws of θ (± 1 s.e.)")
    axis.legend(frameon=False, fontsize=8)


def _smallest(result: "SideBySide") -> float:
    floors = [np.abs(rows.floor.value).max() for rows in result.distances.values()]
    return float(max(min(floors), 1e-12))
