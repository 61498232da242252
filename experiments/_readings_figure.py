"""The figure of identify_sde_from_sgd."""

from typing import Any

import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points as draw

from . import _line
from ._readings import PLANE, POINTS, PROCESSES, rate_places, READINGS, truth
from .framework import get


def draw_figure(config: Any, data: xr.Dataset, predicted, repetitions: dict[str, int]):
    """Slopes and variance rates by reading, the double well, the plane, coverage."""
    figure, axes = new_figure(2, 3, width=4.7, height=3.7)
    plot_line(axes[0], config, data, predicted)
    plot_wells(axes[1, 0], axes[1, 1], config, data, predicted)
    plot_plane(axes[0, 2], config, data)
    axis, place = axes[1, 2], 0.0
    for process in PROCESSES:
        for name in ("centred", "log map", "snapshots", "half"):
            share = data[f"{process} {name} coverage"].values
            number = repetitions[name]
            error = np.sqrt(np.maximum(share * (1 - share), 1 / number) / number)
            x = place + 0.12 * np.arange(len(share))
            label = process if name == "centred" else "_"
            draw(axis, x, ss.Estimate(share, error, number), label, color=COLOURS[process])
            place += 1
    axis.axhline(0.95, color="black", linewidth=1, label="stated, 95 %")
    names = ("centred", "log map", "snapshots", "half error\n(control)") * 2
    axis.set_xticks(np.arange(8) + 0.24, names, rotation=60, fontsize=7)
    axis.set_ylabel("share of intervals that cover (± 1 s.e.)")
    axis.set_title("five coefficients, least squares", fontsize=9)
    axis.legend(frameon=False, fontsize=7, loc="lower left")
    return figure


def plot_line(axes, config: Any, data: xr.Dataset, predicted) -> None:
    """Least squares: the slope of b by reading, a over θ."""
    left, right = axes[0], axes[1]
    places = np.arange(len(READINGS))
    for shift, process in ((-0.12, "SGD"), (0.12, "SDE")):
        rows = [get(data, f"{process} {name} drift")[1] for name in READINGS]
        value = np.array([float(r.value) for r in rows])
        error = np.array([float(r.standard_error) for r in rows])
        draw(left, places + shift, ss.Estimate(value, error, 2), process)
        own = [predicted[process, name].drift[1] for name in READINGS]
        label = "exact, at its step" if process == "SGD" else "_"
        left.plot(places + shift, own, "_", color="black", markersize=12, label=label)
    left.axhline(predicted["limit"].drift[1], color="0.5", lw=1, label="−∇L")
    left.axhline(
        predicted["second order"][1], color="0.5", lw=1, ls="--", label="order 2: −(1 + ηH/2)∇L"
    )
    left.set_xticks(places, [name.replace(", ", ",\n") for name in READINGS], rotation=60)
    left.tick_params(axis="x", labelsize=7)
    left.set_ylabel("slope of the drift (± 1 s.e.)")
    left.set_title(f"least squares, η = {config.learning_rate:g}", fontsize=9)
    left.legend(frameon=False, fontsize=7)
    spots = rate_places()
    theta = np.linspace(spots[0] - 0.05, spots[-1] + 0.05, 60)
    shades = {"naive": COLOURS["other"], "centred": COLOURS["SGD"], "log map": COLOURS["SDE"]}
    for name, shade in shades.items():
        draw(right, spots, get(data, f"SGD {name} rate along θ"), name, color=shade)
        own = predicted["SGD", name].variance_rate
        right.plot(theta, np.polyval(own[::-1], theta), color=shade, lw=1)
    limit = predicted["limit"].variance_rate
    right.plot(theta, np.polyval(limit[::-1], theta), "--", color="black", lw=1, label="ηcΣ")
    right.set_xlabel("θ")
    right.set_ylabel("a = 2D read off SGD (± 1 s.e.)")
    right.set_title("points: fitted, lines: exact", fontsize=9)
    right.legend(frameon=False, fontsize=7)


def plot_wells(left, right, config: Any, data: xr.Dataset, predicted) -> None:
    """Drift and variance rate over x in the double well."""
    for shift, process in ((-0.02, "SGD"), (0.02, "SDE")):
        for name, mark in (("naive", "o"), ("naive, long lag", "s")):
            found = get(data, f"{process} well {name} drift")
            lag = 1 if name == "naive" else config.long_lag
            style = {"fmt": mark, "color": COLOURS[process]}
            draw(left, POINTS + shift, found, f"{process}, lag {lag}η", **style)
            own = predicted[process, "well", name][0]
            left.plot(POINTS + shift, own, "_", color="black", markersize=10)
        for name, mark in (("naive", "o"), ("centred", "^")):
            found = get(data, f"{process} well {name} rate")
            style = {"fmt": mark, "color": COLOURS[process]}
            draw(right, POINTS + shift, found, f"{process}, {name}", **style)
            own = predicted[process, "well", name][1]
            right.plot(POINTS + shift, own, "_", color="black", markersize=10)
    x = np.linspace(POINTS[0] - 0.1, POINTS[-1] + 0.1, 100)
    left.plot(x, x - x**3, color="black", lw=1, label="−V′")
    right.plot(x, 2 * _line.COLD * (1 + 0.3 * x), color="black", lw=1, label="ηcΣ")
    for axis, text in ((left, "b read"), (right, "a = 2D read")):
        axis.plot([], [], "_", color="black", markersize=10, label="exact")
        axis.set_xlabel("x")
        axis.set_ylabel(f"{text} (± 1 s.e.)")
        axis.set_title(f"double well, η = {config.well_learning_rate:g}", fontsize=9)
        axis.legend(frameon=False, fontsize=7)


def plot_plane(axis, config: Any, data: xr.Dataset) -> None:
    """Coefficients of the dictionary in the plane."""
    found, (drift, _) = get(data, "plane centred drift"), truth(config.plane_learning_rate)
    places = np.arange(len(PLANE.names))
    for row_, (letter, shade) in enumerate((("x", COLOURS["SGD"]), ("y", COLOURS["Gaussian SGD"]))):
        shift = 0.24 * row_ - 0.12
        draw(axis, places + shift, found[row_], f"b_{letter}, selected from SGD", color=shade)
        label = "−∇L" if row_ == 0 else "_"
        axis.plot(places + shift, drift[row_], "_", color="black", markersize=12, label=label)
    axis.set_xticks(places, PLANE.names)
    axis.set_xlabel("term of the dictionary")
    axis.set_ylabel("coefficient (± 1 s.e.)")
    axis.set_title(
        f"curved double well in the plane, η = {config.plane_learning_rate:g}", fontsize=9
    )
    axis.legend(frameon=False, fontsize=7)
