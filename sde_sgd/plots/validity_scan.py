"""The figure of a scan: D over batch size and learning rate, and along the batch for every rate."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sde_sgd.plots.style import COLOURS, new_figure
from sde_sgd.plots.validity import above, FAR, STATES, tolerance_line, two_sigmas

if TYPE_CHECKING:
    from sde_sgd.validity.scan import ValidityScan


def figure(scan: "ValidityScan") -> Figure:
    """D as colour with the tolerance's contour and linear scaling; D along B, a line a rate."""
    made, axes = new_figure(1, 2, width=6.2, height=4.8)
    _map(made, axes[0, 0], scan)
    _lines(axes[0, 1], scan)
    s = scan.settings
    made.suptitle(
        f"SGD with η = {s.learning_rate:.4g}, B = {scan.batch_size} ({scan.sampling}), "
        f"μ = {s.momentum:g}, K = {s.num_steps} on N = {scan.num_examples}, d = {scan.dimension}; "
        f"all at equal ηK, explored {scan.explored}",
        fontsize=10,
    )
    return made


def _map(made: Figure, axis: Axes, scan: "ValidityScan") -> None:
    """One square a run, evenly spaced whatever the grid; marks where the sample cannot decide."""
    rates, sizes = scan.learning_rates, scan.batch_sizes
    shown = np.where(np.isfinite(scan.distances), np.maximum(scan.distances, 1e-300), np.nan)
    # White at the tolerance, as far to both sides as the distances go.
    seen = np.clip(shown[np.isfinite(shown)], 1e-6, FAR)
    span = np.exp(np.max(np.abs(np.log(seen / scan.tolerance)), initial=np.log(10)))
    norm = LogNorm(scan.tolerance / span, scan.tolerance * span)
    axis.grid(False)
    axis.set_facecolor("#dddddd")
    image = axis.imshow(shown, origin="lower", aspect="auto", cmap="RdYlBu_r", norm=norm)
    made.colorbar(image, ax=axis, label="largest D (grey: no SDE, or it diverges)", extend="both")
    states = scan.states
    for place in np.argwhere(states == "undecided"):
        axis.text(place[1], place[0], "?", ha="center", va="center", fontsize=11)
    _border(axis, states == "valid")
    scaled = np.log(rates / scan.settings.learning_rate), np.log(sizes / scan.batch_size)
    columns, rows = (np.interp(np.linspace(-9, 9, 400), x, np.arange(len(x)),
                               left=np.nan, right=np.nan) for x in scaled)  # fmt: skip
    style = {"color": "black", "linestyle": "--", "linewidth": 0.9}
    axis.plot(columns, rows, label="linear scaling η ∝ B", **style)
    own = (_index(rates, scan.settings.learning_rate), _index(sizes, float(scan.batch_size)))
    axis.plot(*own, "*", color="black", markersize=11, label="this run", linestyle="none")
    axis.set_xticks(range(len(rates)), [f"{x:.3g}" for x in rates], rotation=40, ha="right")
    axis.set_yticks(range(len(sizes)), [str(b) for b in sizes])
    axis.set_xlabel("learning rate η")
    axis.set_ylabel("batch size B")
    axis.plot([], [], color="black", linewidth=2, label=f"D ≤ {scan.tolerance:g} by 2 s.e.")
    axis.plot([], [], linestyle="none", marker="$?$", color="black", label="undecided")
    above(axis, 2)


def _border(axis: Axes, passes: np.ndarray) -> None:
    """Lines between squares that pass and their neighbours that do not."""
    padded = np.pad(passes, 1)
    for i, j in np.argwhere(passes):
        for (di, dj), line in {
            (1, 0): ([j - 0.5, j + 0.5], [i + 0.5] * 2),
            (-1, 0): ([j - 0.5, j + 0.5], [i - 0.5] * 2),
            (0, 1): ([j + 0.5] * 2, [i - 0.5, i + 0.5]),
            (0, -1): ([j - 0.5] * 2, [i - 0.5, i + 0.5]),
        }.items():
            if not padded[i + 1 + di, j + 1 + dj]:
                axis.plot(*line, color="black", linewidth=2, clip_on=False)


def _lines(axis: Axes, scan: "ValidityScan") -> None:
    shades = colormaps["viridis"](np.linspace(0, 0.92, len(scan.learning_rates)))
    states = scan.states
    for j, (eta, shade) in enumerate(zip(scan.learning_rates, shades, strict=True)):
        d, error = scan.distances[:, j], scan.errors[:, j]
        good = np.isfinite(d) & (d > 0)
        own = np.isclose(eta, scan.settings.learning_rate)
        axis.plot(
            scan.batch_sizes[good],
            d[good],
            color=shade,
            linewidth=2.4 if own else 1,
            label=f"η = {eta:.3g}" + (" (this run)" if own else ""),
        )
        for state, (marker, _, fill) in STATES.items():
            here = good & (states[:, j] == state)
            bars = two_sigmas(d[here], error[here])
            style = {"fmt": marker, "color": shade, "fillstyle": fill, "markersize": 4.5}
            axis.errorbar(scan.batch_sizes[here], d[here], yerr=bars, elinewidth=0.7, **style)
    tolerance_line(axis, scan.tolerance)
    axis.axvline(scan.batch_size, color=COLOURS["SGD"], linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    finite = scan.distances[np.isfinite(scan.distances) & (scan.distances > 0)]
    if len(finite):
        high = max(min(finite.max(), FAR), scan.tolerance)
        axis.set_ylim(min(finite.min(), scan.tolerance) / 2, 2 * high)
    axis.set_xlabel("batch size B (● valid, ✕ not valid, ○ undecided; ± 2 s.e.)")
    axis.set_ylabel("largest D over the directions")
    above(axis, 3)


def _index(values: np.ndarray, own: float) -> int:
    return int(np.argmin(np.abs(values - own)))
