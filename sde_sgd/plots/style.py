"""Colours and error bars that all figures share. Figures are made without a global state."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sde_sgd._checks import as_float64, check_number, check_part, check_text, check_whole
from sde_sgd.estimate import Estimate

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = {
    "SGD": "#0072B2",
    "SGD (second ensemble)": "#56B4E9",
    "Gaussian SGD": "#009E73",
    "SDE": "#D55E00",
    "prediction": "#000000",
    "other": "#CC79A7",
}


def new_figure(rows: int, columns: int, *, width: float | int = 4.2, height: float | int = 3.4):
    """A figure and its (rows, columns) array of axes, without pyplot."""
    rows, columns = check_whole("rows", rows, 1, 100), check_whole("columns", columns, 1, 100)
    width, height = check_number("width", width, above=0), check_number("height", height, above=0)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def points(axis: Axes, x: Any, estimate: Estimate, label: str, **style: Any) -> None:
    """Measured values with bars of ± `errors` standard errors, one by default."""
    errors = style.pop("errors", 1)
    x = _abscissae(axis, x, estimate, label)
    options = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1, "color": colour(label)}
    error = np.where(np.isfinite(estimate.standard_error), errors * estimate.standard_error, 0)
    axis.errorbar(x, estimate.value, yerr=error, label=label, **(options | style))


def band(axis: Axes, x: Any, estimate: Estimate, label: str, **style: Any) -> None:
    """A line with a band of ± two standard errors."""
    x = _abscissae(axis, x, estimate, label)
    shade = style.pop("color", colour(label))
    axis.plot(x, estimate.value, color=shade, label=label, **style)
    low, high = estimate.interval(2.0)
    axis.fill_between(x, low, high, color=shade, alpha=0.25, linewidth=0)


def _abscissae(axis: Any, x: Any, estimate: Any, label: Any) -> np.ndarray:
    """x, one number for each entry of the estimate; everything else checked as well."""
    check_part("axis", axis, Axes, "an axis of Matplotlib, such as ss.plots.new_figure gives")
    check_part("estimate", estimate, Estimate, "an ss.Estimate")
    check_text("label", label)
    places = as_float64("x", x)
    if places.size != estimate.value.size:
        raise ValueError(
            f"x has {places.size} numbers, and the estimate {estimate.value.size}: give one each."
        )
    return places


def colour(label: str) -> str:
    """The palette's colour of a process, by its name."""
    return COLOURS.get(label, COLOURS["other"])
