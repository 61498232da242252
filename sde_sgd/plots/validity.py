"""The figure of a verdict: D by direction and cause, under linear scaling, and SVAG's gap."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..measure.estimate import Estimate
from .style import COLOURS, new_figure, points

if TYPE_CHECKING:
    from ..validity.result import Validity

_CAUSES = {
    "mean": ("mean", "#56B4E9"),
    "rate": ("finite learning rate", "#D55E00"),
    "epochs": ("epochs", "#009E73"),
    "skewness": ("skewness", "#CC79A7"),
    "tails": ("tails", "#E69F00"),
}


def figure(result: "Validity") -> Figure:
    """Three panels, the last one empty where no SVAG was run; the verdict is the title."""
    panels = 3 if result.svag else 2
    made, axes = new_figure(1, panels, width=5.4, height=4.0)
    _by_cause(axes[0, 0], result)
    _scaling(axes[0, 1], result)
    if result.svag:
        _svag(axes[0, 2], result)
    made.suptitle(result.verdict, fontsize=10)
    return made


def _by_cause(axis: Axes, result: "Validity") -> None:
    names = [w.name for w in result.watched]
    place = np.arange(len(names))
    width = 0.8 / len(_CAUSES)
    for i, (field, (label, colour)) in enumerate(_CAUSES.items()):
        values = [getattr(w.shares, field) for w in result.watched]
        shown = np.nan_to_num(np.asarray(values), posinf=np.nan)
        axis.bar(place + (i - 2) * width, shown, width, color=colour, label=label)
    total = [w.shares.distance for w in result.watched]
    axis.plot(place, total, "k_", markersize=14, label="D, all causes")
    for side in (-1, 1):
        axis.axhline(
            side * result.tolerance,
            color=COLOURS["prediction"],
            linestyle=":",
            linewidth=1,
            label="± tolerance" if side > 0 else None,
        )
    axis.set_xticks(place, names, rotation=40, ha="right", fontsize=8)
    axis.set_yscale("symlog", linthresh=result.tolerance)
    axis.margins(y=0.12)
    axis.set_ylabel("predicted share of D")
    axis.set_xlabel("direction")
    axis.legend(frameon=False, fontsize=7)


def _scaling(axis: Axes, result: "Validity") -> None:
    scaling = result.scaling
    shown = np.where(np.isfinite(scaling.distances), scaling.distances, np.nan)
    axis.loglog(scaling.kappas, shown, "o-", color=COLOURS["SDE"], markersize=3, label="predicted")
    axis.axhline(
        result.tolerance,
        color=COLOURS["prediction"],
        linestyle=":",
        linewidth=1,
        label="tolerance",
    )
    axis.axvline(1, color=COLOURS["SGD"], linewidth=0.8, label="this run")
    if scaling.limit > 0:
        axis.axvline(
            scaling.limit,
            color=COLOURS["other"],
            linestyle="--",
            linewidth=1,
            label=f"limit κ = {scaling.limit:.3g}",
        )
    axis.set_xlabel("κ (learning rate κη, batch κB, equal time)")
    axis.set_ylabel("largest D")
    axis.legend(frameon=False, fontsize=8)


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
    axis.legend(frameon=False, fontsize=8)
