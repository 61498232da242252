"""The figure of probability_flow_gap."""

from typing import Any

import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from . import _flow, _line


def draw_figure(
    config: Any,
    data: xr.Dataset,
    predicted,
    clock: np.ndarray,
    gaps: dict[str, dict[float, ss.theory.equations.FlowGap]],
    measured: dict[str, list[float]],
    floor: float,
):
    """Densities; quantiles over time; W₂ over the residual; W₂ over time on the quadratic.

    - `gaps`: to first order, {letter of the error: {its size: gap}}, and `measured`, W₂ of the
      same at the end; `floor`: of the members' sampling.
    - `clock`: times t of the data.
    """
    figure, axes = new_figure(2, 2, width=4.8, height=3.7)
    (left, right), (below, last) = axes
    middle, width = (_line.EDGES[1:] + _line.EDGES[:-1]) / 2, np.diff(_line.EDGES)
    grid = np.linspace(_line.EDGES[0], _line.EDGES[-1], 300)
    left.plot(grid, predicted["densities"][-1].pdf(grid), color="black", label="Fokker–Planck")
    named = {"flow": "Gaussian SGD", "SDE": "SDE", "no ∇·D": "other"}
    for name, colour in named.items():
        where = data[f"{name} members"].values[-1]
        share = np.histogram(where, _line.EDGES)[0] / len(where)
        error = np.sqrt(share * (1 - share) / len(where)) / width
        label = name if name in ("flow", "SDE") else f"flow, {name}"
        estimate = ss.Estimate(share / width, error, len(where))
        points(left, middle, estimate, label, color=COLOURS[colour], markersize=3)
    left.set_title(f"double well, t = {clock[-1]:g}", fontsize=10)
    left.set_xlabel("θ")
    left.set_ylabel("density (± 1 s.e.)")
    shown = slice(0, _flow.NODES, 10)
    exact = np.stack([p.quantile(_flow.LEVELS) for p in predicted["densities"]])[:, shown]
    right.plot([0, *clock], exact, color="black", lw=1)
    right.plot([], [], color="black", lw=1, label="quantiles of p")
    flows = {"flow": ("o", COLOURS["Gaussian SGD"]), "no ∇·D": ("x", COLOURS["other"])}
    for name, (marker, colour) in flows.items():
        where = data[f"{name} quantiles"].values[:, shown]
        label = "members of the flow" if name == "flow" else f"flow, {name}"
        right.plot(clock, where, marker, color=colour, ms=4, ls="none")
        right.plot([], [], marker, color=colour, ms=4, ls="none", label=label)
    right.set_title("members keep their quantile (no sampling)", fontsize=10)
    right.set_xlabel("time t = ηk")
    right.set_ylabel("θ")
    styles = (
        ("ŝ = s + a", "a", "o", COLOURS["SGD"]),
        ("kernel score", "h", "s", COLOURS["SDE"]),
    )
    for label, letter, marker, colour in styles:
        made = list(gaps[letter].values())
        residual = np.array([m.residual[-1] for m in made])
        order = np.argsort(residual)
        below.plot(residual, measured[letter], marker, color=colour, ms=5, label=label)
        for field, style in (("gap", "-"), ("bound", ":")):
            value = np.array([getattr(m, field)[-1] for m in made])
            below.plot(residual[order], value[order], style, color=colour, lw=1)
    below.plot([], [], "-", color="0.4", lw=1, label="first order in the error")
    below.plot([], [], ":", color="0.4", lw=1, label="bound of the residual")
    below.axhline(floor, color="0.6", lw=1, ls="--", label=f"floor, {config.ensemble_size} members")
    below.set_xscale("log")
    below.set_yscale("log")
    below.set_title(f"double well, t = {clock[-1]:g} (no sampling)", fontsize=10)
    below.set_xlabel("residual ε = ‖D(ŝ − s)‖ at the end")
    below.set_ylabel("W₂ between flow and SDE")
    fine = np.linspace(0, clock[-1], 80)
    shades = (COLOURS["SGD"], COLOURS["Gaussian SGD"], COLOURS["SDE"], COLOURS["other"])
    for delta, colour in zip(config.relative_errors, shades, strict=False):
        curve = ss.theory.equations.gaussian_flow_gap(
            _flow.gaussian_score(config.learning_rate), delta, fine
        )
        last.plot(fine, curve.gap, color=colour, lw=1)
        last.plot(fine, curve.bound, ":", color=colour, lw=1)
        found = [
            ss.theory.laws.wasserstein2(
                ss.theory.laws.Gaussian(np.zeros(3), own),
                ss.theory.laws.Gaussian(np.zeros(3), law),
            )
            for own, law in zip(
                data[f"covariance δ={delta:g}"].values, predicted["covariance"], strict=True
            )
        ]
        last.plot(clock, found, "o", color=colour, ms=4, label=f"flow, ŝ = {1 + delta:g}s")
    last.plot([], [], "-", color="0.4", lw=1, label="exact")
    last.plot([], [], ":", color="0.4", lw=1, label="bound of the residual")
    last.set_title("quadratic, three dimensions (no sampling)", fontsize=10)
    last.set_xlabel("time t = ηk")
    last.set_ylabel("W₂ between flow and SDE")
    for axis in axes.flat:
        axis.legend(frameon=False, fontsize=7)
    return figure
