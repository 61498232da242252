"""The figure of autoencoder_weight_density."""

from typing import Any

import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import band, COLOURS, new_figure, points

from . import _autoencoder as problem
from .framework import get


def draw_figure(config: Any, data: xr.Dataset, predicted, laws, distances, floor, outputs):
    """Densities of both matrices at three times; distances, correlation and outputs.

    - `laws`: of the entries with averages given w, {matrix: law} at every node.
    - `distances`: of the SDE's entries, {(matrix, law): total variation at every node}.
    - `floor`: of that total variation, at every node.
    - `outputs`: a sample of them from the exact laws as if independent.
    """
    figure, axes = new_figure(3, 3, width=4.4, height=3.3)
    at, eta = data["node"].values, config.learning_rate
    middle, width = (problem.EDGES[1:] + problem.EDGES[:-1]) / 2, np.diff(problem.EDGES)
    grid = np.linspace(problem.EDGES[0], problem.EDGES[-1], 300)
    for line, matrix in zip(axes[:2], problem.MATRICES, strict=True):
        for axis, k in zip(line, config.iterations[-3:], strict=True):
            place = int(np.searchsorted(at, k))
            exact = laws[place][matrix]
            axis.plot(grid, exact.pdf(grid), color="black", lw=1.2, label="averages given w")
            wrong = predicted["closure"][place][matrix].pdf(grid)
            axis.plot(grid, wrong, "--", color=COLOURS["other"], label="closure (cut off above)")
            for process in ("SGD", "SDE"):
                counts = data[f"{process} {matrix} counts"].values[place]
                share = counts[1:-1] / counts.sum()
                error = np.sqrt(share * (1 - share) / counts.sum()) / width
                found = ss.Estimate(share / width, error, int(counts.sum()))
                points(axis, middle, found, process, markersize=3)
            axis.set_ylim(0, 2.2 * max(float(exact.pdf(grid).max()), 0.5))
            axis.set_title(f"{matrix}, t = {eta * k:g}", fontsize=10)
            axis.set_xlabel("entry w")
            axis.set_ylabel("density (± 1 s.e.)")
            axis.legend(frameon=False, fontsize=7)
    distance, correlation, output = axes[2]
    styles = {"joint": "-", "closure": "--"}
    names = {"joint": "averages given w", "closure": "closure"}
    shades: dict[str, str] = dict(
        zip(problem.MATRICES, (COLOURS["SDE"], COLOURS["Gaussian SGD"]), strict=True)
    )
    for (matrix, law), values in distances.items():
        label = f"{matrix}, {names[law]}"
        distance.plot(eta * at, values, styles[law], color=shades[matrix], label=label)
    distance.plot(eta * at, floor, ":", color="black", label="sampling floor")
    distance.set_yscale("log")
    distance.set_xlabel("time t = ηk")
    distance.set_ylabel("total variation, SDE")
    distance.legend(frameon=False, fontsize=7)
    for process in ("SGD", "SDE"):
        band(correlation, eta * at, get(data, f"{process} alignment"), process)
    correlation.axhline(0.0, color=COLOURS["other"], linestyle="--", label="closure")
    correlation.set_xlabel("time t = ηk")
    correlation.set_ylabel("tr W₂W₁ / |W₁||W₂| (± 2 s.e.)")
    correlation.legend(frameon=False, fontsize=7)
    last = config.iterations[-1]
    bins = np.linspace(-1.0, 1.6, 66)
    options: Any = dict(bins=bins, density=True, histtype="step")
    for process in ("SGD", "SDE"):
        values = data[f"{process} output"].sel(k=last).values
        output.hist(values, color=COLOURS[process], label=process, **options)
    output.hist(outputs, color="black", label="exact laws as if independent", **options)
    wrong = predicted["outputs"][-1]
    output.hist(wrong, color=COLOURS["other"], linestyle="--", label="closure", **options)
    output.set_yscale("log")
    output.set_xlabel(f"output x·x̂/|x|² at a fixed x, t = {eta * last:g}")
    output.set_ylabel("density")
    output.legend(frameon=False, fontsize=7)
    return figure
