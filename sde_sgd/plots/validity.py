"""The figure of a verdict: D by direction and cause, along η, B and linear scaling, SVAG's gap."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sde_sgd.estimate import Estimate
from sde_sgd.plots.style import COLOURS, new_figure, points

if TYPE_CHECKING:
    from sde_sgd.validity.lines import Line
    from sde_sgd.validity.result import Validity

_CAUSES = {
    "mean": ("mean", "#56B4E9"),
    "rate": ("finite learning rate", "#D55E00"),
    "epochs": ("epochs", "#009E73"),
    "skewness": ("skewness", "#CC79A7"),
    "tails": ("tails", "#E69F00"),
}
# Beyond this D two laws have nothing in common: no axis shows more.
FAR = 10.0
# Marker, colour and filling of what the sample says of a run.
STATES = {
    "valid": ("o", "#009E73", "full"),
    "not valid": ("X", "#D55E00", "full"),
    "undecided": ("o", "#555555", "none"),
}


def figure(result: "Validity") -> Figure:
    """Four panels, and one more where SVAG was run; the run and the verdict are the title."""
    columns = 3 if result.svag else 2
    made, axes = new_figure(2, columns, width=5.2, height=4.4)
    flat = axes.ravel()
    _by_cause(flat[0], result)
    eta, size = result.settings.learning_rate, result.batch_size
    for axis, line, here, label in (
        (flat[1], result.by_learning_rate, eta, f"learning rate η (B = {size}, equal ηK)"),
        (flat[2], result.by_batch_size, float(size), f"batch size B (η = {eta:.4g})"),
        (flat[3], result.scaling, 1.0, "κ of linear scaling (κη, κB, equal ηK)"),
    ):
        _along(axis, line, here, result.tolerance, label)
    if result.svag:
        _svag(flat[4], result)
        flat[5].set_axis_off()
    words = textwrap.wrap(result.verdict, 50 * columns)
    made.suptitle("\n".join([_run(result), *words]), fontsize=10)
    return made


def _run(result: "Validity") -> str:
    s = result.settings
    return (
        f"SGD with η = {s.learning_rate:.4g}, B = {result.batch_size} ({result.sampling}), "
        f"μ = {s.momentum:g}, K = {s.num_steps} on N = {result.num_examples}, "
        f"d = {len(result.directions)}; tolerance {result.tolerance:g}"
    )


def above(axis: Axes, columns: int = 3) -> None:
    """A legend over the axis, off the data."""
    axis.legend(
        frameon=False,
        fontsize=7.5,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.0,
    )


def two_sigmas(distances: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """How far the bar of `rule.State` reaches below and above, (2, n); 0 if infinite."""
    known = np.where(np.isfinite(errors), errors, 0)
    return np.stack([-distances * np.expm1(-2 * known / distances), 2 * known])


def tolerance_line(axis: Axes, tolerance: float) -> None:
    """Dotted, at D = tolerance."""
    style = {"color": COLOURS["prediction"], "linestyle": ":", "linewidth": 1.2}
    axis.axhline(tolerance, label=f"tolerance {tolerance:g}", **style)


def _by_cause(axis: Axes, result: "Validity") -> None:
    """|shares| on a logarithmic axis; a share by which SGD has less than the SDE is hatched."""
    names = [w.name for w in result.watched]
    place, width = np.arange(len(names)), 0.8 / len(_CAUSES)
    total = np.array([w.shares.distance for w in result.watched])
    largest = float(np.max(total[np.isfinite(total)], initial=0.0)) or result.tolerance
    top, bottom = max(result.tolerance, largest), min(result.tolerance, largest) / 100
    for i, (field, (label, colour)) in enumerate(_CAUSES.items()):
        values = np.array([getattr(w.shares, field) for w in result.watched])
        shown = np.where(np.isfinite(values), np.abs(values), np.nan)
        bars = axis.bar(place + (i - 2) * width, shown, width, color=colour, label=label)
        for bar, value in zip(bars, values, strict=True):
            if value < 0:
                bar.set(hatch="////", edgecolor="white", linewidth=0)
    axis.plot(place, np.where(np.isfinite(total), total, np.nan), "k_", markersize=16, label="D")
    tolerance_line(axis, result.tolerance)
    axis.set_yscale("log")
    axis.set_ylim(bottom, 2 * top)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_xticks(place, names, rotation=40, ha="right", fontsize=8)
    axis.set_ylabel("|share of D| (hatched: negative)")
    above(axis, 4)


def _along(axis: Axes, line: "Line", here: float, tolerance: float, label: str) -> None:
    """The curve, its passing part shaded, with a mark for what is said of each run."""
    good = np.isfinite(line.distances) & (line.distances > 0)
    x, d = line.values[good], line.distances[good]
    bars = two_sigmas(d, line.errors[good])
    states = np.array([state.value for state in line.states(tolerance)])[good]
    if np.isfinite(line.low):
        inside = f"passes: {line.low:.3g} to {line.high:.3g}"
        axis.axvspan(line.low, line.high, color="#009E73", alpha=0.12, linewidth=0, label=inside)
    axis.plot(x, d, color="grey", linewidth=0.8)
    for state, (marker, colour, fill) in STATES.items():
        own = states == state
        if own.any():
            axis.errorbar(
                x[own],
                d[own],
                yerr=bars[:, own],
                fmt=marker,
                color=colour,
                fillstyle=fill,
                markersize=4.5,
                linewidth=1,
                label=f"{state} (± 2 s.e.)",
            )
    tolerance_line(axis, tolerance)
    axis.axvline(here, color=COLOURS["SGD"], linewidth=1, label="this run")
    axis.set_xscale("log")
    axis.set_yscale("log")
    if len(d):
        axis.set_ylim(min(d.min(), tolerance) / 2, 2 * max(tolerance, min(d.max(), FAR)))
    axis.set_xlabel(label)
    axis.set_ylabel("largest D over the directions")
    above(axis, 2)


def _svag(axis: Axes, result: "Validity") -> None:
    colours = (COLOURS["SGD"], COLOURS["SDE"])
    units = {"loss": "mean loss, in s.d.", "squared displacement": "squared displacement, relative"}
    for (name, gaps), colour in zip(result.svag.items(), colours, strict=False):
        levels = list(gaps)
        values = np.array([float(g.value) for g in gaps.values()])
        errors = np.array([float(g.standard_error) for g in gaps.values()])
        values = np.where(np.isfinite(values), values, np.nan)
        row = Estimate(values, np.where(np.isfinite(errors), errors, 0.0), 2)
        points(axis, 1 / np.array(levels), row, units[name], color=colour, fmt="o-")
    axis.axhline(0, color=COLOURS["prediction"], linewidth=0.8, label="no gap")
    axis.axhspan(-result.tolerance, result.tolerance, color="grey", alpha=0.15, label="tolerance")
    axis.set_xlabel("1/l")
    axis.set_ylabel("SGD − SVAG(l) (± 1 s.e.)")
    above(axis, 2)
