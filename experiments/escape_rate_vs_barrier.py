"""Escape over a barrier: SGD, Gaussian SGD and the SDE, each with an exact time of its own.

In V = (x² − 1)²/4 the mean time from −1 to +1 is, for dx = −V′ dt + √(2D) dW with D = ηC/2,

    T = ∫_{−1}^{1} dy e^{V(y)/D} ∫_{−∞}^y dz e^{−V(z)/D} / D ,

and Kramers' law (2π/√(V″(−1)|V″(0)|)) e^{ΔV/D} its leading order. Watched at steps of h the time is
that of the kernel equation; with batches of B tilts ±σ, C = σ²/B, that of the same equation
with B + 1 atoms. The SDE knows η and B through D ∝ η/B alone; SGD does not.

Claim: each process escapes in the time that is exact for its own step and noise; the SDE's misses
that of SGD by a factor that grows with the barrier at a fixed learning rate, and Kramers' law
misses all of them.

Source: Kramers 1940; Gardiner, Handbook of Stochastic Methods, 5.2.7; kernel equation and
collocation in sde_sgd.theory.escape.exit_times.

Command: python -m experiments escape_rate_vs_barrier --preset paper
Subject: escape
"""

import dataclasses

import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._escape import at_other_well, force, passages, stack, well_processes
from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    pairs: tuple[tuple[float, int], ...] = ((0.1, 1), (0.2, 2), (0.2, 3), (0.05, 1), (0.1, 2))
    """(η, B); D = ησ²/(2B) and the barrier ΔV/D = B/(2ησ²)"""
    tilt_variance: float = 2.0
    """σ² of one tilt"""
    solver_step: float = 0.025
    """h of the SDE, in t"""
    exits: int = 2500
    """passages that each run should see; 1/√exits is the relative error"""
    ensemble_size: int = 512
    """members of each run"""
    precision: float = 0.03
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        pairs=((0.1, 1), (0.2, 2), (0.2, 3), (0.05, 1), (0.1, 2), (0.2, 4), (0.2, 6)),
        exits=20_000,
        ensemble_size=1024,
        precision=0.01,
    ),
}

PROCESSES = ("SGD", "Gaussian SGD", "SDE")


def diffusion(config: Config, pair: tuple[float, int]) -> float:
    """D = ησ²/(2B)."""
    return pair[0] * config.tilt_variance / (2 * pair[1])


def barriers(config: Config) -> list[tuple[float, int]]:
    """The pairs with a D of their own: the SDE needs no others."""
    first = {round(diffusion(config, pair), 12): pair for pair in reversed(config.pairs)}
    return sorted(first.values(), key=lambda pair: -diffusion(config, pair))


def measure(config: Config, key) -> xr.Dataset:
    """Mean times (pair,) of the discrete processes, (barrier,) of the SDE, in t."""
    exact, variables = predict(config), {}
    for process in PROCESSES:
        own = barriers(config) if process == "SDE" else config.pairs
        found = []
        for place, (eta, size) in enumerate(own):
            key, mine = jr.split(key)
            d = diffusion(config, (eta, size))
            substeps = round(eta / config.solver_step)
            run = passages(
                well_processes(eta, d, substeps, size)[process],
                at_other_well,
                start=-1.0,
                mean_steps=exact[process][place] / eta,
                exits=config.exits,
                members=config.ensemble_size,
                key=mine,
            )
            found.append(run.mean_time_t)
        put(variables, process, stack(found), ("barrier" if process == "SDE" else "pair",))
    return xr.Dataset(variables)


def predict(config: Config) -> dict[str, np.ndarray]:
    """Mean times in t: exact for each process, and what others say."""

    def kernel(d: float, h: float) -> float:
        return float(
            ss.theory.escape.mean_exit_time(ss.processes.Diffusion(force, d, h), -1.0, 1.0)
        )

    sgd = []
    for eta, size in config.pairs:
        process = ss.SGD(ss.double_well(config.tilt_variance), eta, ss.WithReplacement(size))
        sgd.append(float(ss.theory.escape.mean_exit_time(process, -1.0, 1.0)))
    each = [diffusion(config, pair) for pair in config.pairs]
    own = [diffusion(config, pair) for pair in barriers(config)]
    gaussian = ss.MinibatchNoise(ss.WithReplacement(1))
    bare = {
        d: ss.theory.escape.eyring_kramers(
            ss.ModifiedEquation(ss.double_well(2 * d), 1.0, gaussian).limit(), [-1.0], [0.1]
        ).time
        for d in {*each, *own}
    }
    return {
        "SGD": np.array(sgd),
        "Gaussian SGD": np.array(
            [kernel(d, pair[0]) for d, pair in zip(each, config.pairs, strict=True)]
        ),
        "SDE": np.array([kernel(d, config.solver_step) for d in own]),
        "SDE, h → 0": np.array([kernel(d, 0.0) for d in own]),
        "SDE at the pairs": np.array([kernel(d, 0.0) for d in each]),
        "Kramers": np.array([bare[d] for d in own]),
        "saddle": np.array(
            [
                float(
                    ss.theory.escape.mean_exit_time(
                        ss.processes.Diffusion(force, d), start=-1.0, exits=0.0
                    )
                )
                for d in own
            ]
        ),
        "2D": np.array([kernel(2 * d, config.solver_step) for d in own]),
    }


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own time; then the laws and readings that must miss."""
    rows = []
    for process in PROCESSES:
        rows.append(
            row(
                get(data, process),
                predicted[process],
                name="mean time of its own step and noise",
                process=process,
                precision=config.precision,
            )
        )
    wrong = (
        ("SGD", "SDE at the pairs", "the SDE's time"),
        ("SGD", "Gaussian SGD", "Gaussian SGD's time"),
        ("SDE", "Kramers", "Kramers' law"),
        ("SDE", "saddle", "time to the saddle taken for it"),
        ("SDE", "2D", "diffusion off by 2"),
    )
    for process, value, name in wrong:
        rows.append(
            row(
                get(data, process), predicted[value], name=name, process=process, expected="deviate"
            )
        )
    steps = predicted["SGD"] / np.array([eta for eta, _ in config.pairs])
    name = "iterations taken for t"
    rows.append(row(get(data, "SGD"), steps, name=name, process="SGD", expected="deviate"))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """SGD over the SDE at each pair, and Kramers over the SDE."""
    exact, found = predict(config), get(data, "SGD")
    ratios = found.value / exact["SDE at the pairs"]
    errors = found.standard_error / exact["SDE at the pairs"]
    parts = [
        f"{ratio:.3f} ± {error:.3f} (η={eta:g}, B={size}, ΔV/D={0.25 / d:.3g})"
        for ratio, error, (eta, size), d in zip(
            ratios,
            errors,
            config.pairs,
            [diffusion(config, pair) for pair in config.pairs],
            strict=True,
        )
    ]
    kramers = ", ".join(f"{x:.3f}" for x in exact["Kramers"] / exact["SDE, h → 0"])
    return (
        f"Escape time of SGD over the SDE's: {'; '.join(parts)}. The SDE is wrong for SGD by these "
        f"factors. Kramers' law over the SDE's exact time: {kramers}, from the lowest barrier to "
        f"the highest."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Times over the barrier, and each time over the SDE's exact one."""
    figure, axes = new_figure(1, 2, width=5.8, height=4.0)
    left, right = axes[0]
    each = np.array([0.25 / diffusion(config, pair) for pair in config.pairs])
    own = np.array([0.25 / diffusion(config, pair) for pair in barriers(config)])
    grid = np.linspace(own.min(), own.max(), 30)
    exact = np.array(
        [
            ss.theory.escape.mean_exit_time(
                ss.processes.Diffusion(force, 0.25 / b), start=-1.0, exits=1.0
            )
            for b in grid
        ]
    )
    kramers = 2 * np.pi / np.sqrt(2) * np.exp(grid)
    left.plot(grid, exact, color=COLOURS["prediction"], lw=1.2, label="exact SDE")
    left.plot(grid, kramers, "--", color=COLOURS["other"], lw=1.2, label="Kramers")
    right.axhline(1, color=COLOURS["prediction"], lw=1.2, label="exact SDE")
    right.plot(grid, kramers / exact, "--", color=COLOURS["other"], lw=1.2, label="Kramers")
    limits = {"SDE": predicted["SDE, h → 0"]}
    for shift, process in zip((-0.03, 0.0, 0.03), PROCESSES, strict=True):
        x = (own if process == "SDE" else each) + shift
        base = limits.get(process, predicted["SDE at the pairs"])
        measured = get(data, process)
        points(left, x, measured, process)
        points(right, x, measured / base, process)
        right.plot(
            x,
            predicted[process] / base,
            "_",
            markersize=14,
            color=COLOURS[process],
            label=f"exact, {process}"
            + (f" at h = {config.solver_step:g}" if base is limits.get(process) else ""),
        )
    for x, (eta, size), height in zip(
        each, config.pairs, get(data, "SGD").value / predicted["SDE at the pairs"], strict=True
    ):
        right.annotate(
            f"η={eta:g}, B={size}", (x, height), (4, 5), textcoords="offset points", fontsize=7
        )
    left.set_yscale("log")
    left.set_ylabel("mean time from −1 to +1, in t  (± 1 s.e.)")
    right.set_ylabel("mean time / exact SDE  (± 1 s.e.)")
    for axis in (left, right):
        axis.set_xlabel("barrier ΔV/D, D = ησ²/(2B)")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
