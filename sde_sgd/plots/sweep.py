"""The figure of a sweep: a variable over one axis, a colour for each value of another."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure

from sde_sgd.estimate import Estimate
from sde_sgd.plots.style import new_figure, points


def figure(data: xr.Dataset, x: str, y: str, hue: str | None) -> Figure:
    """`y` over `x` with bars of one standard error where it has one; made by `Sweep.figure`."""
    made, axes = new_figure(1, 1, width=5.6, height=3.8)
    axis, labels = axes[0, 0], data[x].values
    texts = labels.dtype.kind not in "iuf"
    places = np.arange(len(labels)) if texts else labels.astype(float)
    values = [None] if hue is None else data[hue].values.tolist()
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(values)))
    for value, shade in zip(values, shades, strict=True):
        own = data if hue is None else data.sel({hue: value})
        label = y if hue is None else f"{hue} = {value}"
        axis.plot(places, own[y].values, color=shade, linewidth=0.8, alpha=0.6)
        error = own.get(f"{y}_standard_error", xr.zeros_like(own[y])).values
        points(axis, places, Estimate(own[y].values, error, 1), label, color=shade)
    if texts:
        axis.set_xticks(places, [str(v) for v in labels])
    bars = "  (± 1 s.e.)" if f"{y}_standard_error" in data else ""
    axis.set_xlabel(x.replace("_", " "))
    axis.set_ylabel(f"{y.replace('_', ' ')}{bars}")
    axis.legend(frameon=False, fontsize=8)
    return made
