"""Sharp or flat: which well SGD and its SDE select, over learning rate and batch size.

On the line U'(x) = (x² − 1)(x + a): a flat well at −1, a sharp one at +1 with U'' = 2(1 ± a). The
examples ℓ_i = U + z_i σ(x + bx²/2) have gradient noise Σ(x) = σ²(1 + bx)², larger where the loss
is sharper. Members start in the flat well and are looked at when t = ηk = T. The SDE to first order
knows η and B through η/B alone. In two dimensions (x, y) the wells differ in transverse
curvature, and the SDE is held against the Fokker–Planck equation on a grid.

Claim: SGD and the SDE both have the selection probabilities that exact numerics give to each of
them; at one η/B those of SGD are below the SDE's (.0805 at η = .1, B = 1 and .0802 at η = .4,
B = 4 against .0907; .2733 at η = .4, B = 1 against .3276).

Source: Jastrzebski et al. 2017 (1711.04623) for the claim that η/B decides; exact values by the
master equation (all batches) and the Fokker–Planck equation.

Command: python -m experiments sharp_or_flat_well --preset paper
Subject: selection
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Array

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    asymmetry: float = 0.1
    """a of U'(x) = (x² − 1)(x + a); the barrier stands at −a"""
    noise: float = 1.2
    """σ"""
    noise_slope: float = 0.3
    """b of Σ(x) = σ²(1 + bx)²"""
    learning_rates: tuple[float, ...] = (0.1, 0.2, 0.4)
    """η"""
    batch_sizes: tuple[int, ...] = (1, 2, 4)
    """B"""
    horizon: float = 40.0
    """T = ηk at which the wells are looked at"""
    time_step: float = 0.025
    """largest step of the SDE's integrator, in t"""
    ensemble_size: int = 8192
    """members a process"""
    nodes: int = 2400
    """of the master equation, on (−4, 4)"""
    cells: int = 1200
    """of the Fokker–Planck equation, on (−4, 4)"""
    plane_cells: tuple[int, int] = (100, 120)
    """of the two-dimensional grid"""
    plane_temperature: float = 0.08
    """T = ηC/2 of the two-dimensional SDE"""
    precision: float = 0.01
    """largest standard error of a probability with which a row may agree"""


PRESETS = {
    "smoke": Config(learning_rates=(0.1, 0.4), batch_sizes=(1, 4)),
    "paper": Config(ensemble_size=65536, time_step=0.0125, plane_cells=(200, 240), nodes=4800),
}
BOX = (-4.0, 4.0)
PLANE = ((-2.6, 2.6), (-3.2, 3.2))
PLANE_RATE = 0.1


class NoisyWells(ss.AbstractFiniteSum):
    """ℓ_i(x) = U(x) + z_i σ (x + bx²/2), z = ±1: two examples, two-point noise."""

    data: Array
    energy: ss.landscapes.DoubleWellEnergy
    noise: Array
    slope: Array
    noise_form: ss.landscapes.ExampleWeights

    def __init__(self, config: Config):
        self.data = jnp.array([1.0, -1.0])
        self.energy = ss.landscapes.DoubleWellEnergy(jnp.array(config.asymmetry))
        self.noise, self.slope = jnp.array(config.noise), jnp.array(config.noise_slope)
        self.noise_form = ss.landscapes.ExampleWeights()

    @property
    def dimension(self) -> int:
        return 1

    @property
    def dtype(self):
        return self.data.dtype

    def losses(self, theta, data):
        (x,) = theta
        return self.energy(theta) + data * self.noise * (x + self.slope * x**2 / 2)


def label(config: Config):
    """1 in the sharp well, 0 in the flat one."""
    return lambda theta: (theta[0] > -config.asymmetry).astype(int)


def cells(config: Config) -> list[tuple[float, int]]:
    """All pairs (η, B)."""
    return [(eta, size) for eta in config.learning_rates for size in config.batch_sizes]


def plane(config: Config) -> tuple[ss.Potential, ss.ConstantNoise]:
    """The two-dimensional wells and isotropic noise at their temperature."""
    noise = ss.ConstantNoise(2 * config.plane_temperature / PLANE_RATE * jnp.eye(2))
    return ss.landscapes.sharp_and_flat_wells(1.0), noise


def selected(config: Config, process: ss.AbstractProcess, start, eta: float, which: Any, key):
    """P(sharp) at t = T, an Estimate."""
    run = ss.simulate(
        process,
        jnp.asarray(start),
        num_steps=round(config.horizon / eta),
        ensemble_size=config.ensemble_size,
        key=key,
        measures={"wells": ss.Occupation(which, 2)},
    )
    return run["wells"].selection[1]


def measure(config: Config, key) -> xr.Dataset:
    """Selection probabilities of SGD and SDE for every (η, B), and of the SDE in the plane."""
    landscape, found, which = NoisyWells(config), {}, label(config)
    start = [-1.0]
    for eta, size in cells(config):
        key, first, second = jr.split(key, 3)
        sampling = ss.WithReplacement(size)
        sgd = ss.SGD(landscape, eta, sampling)
        sde = ss.ModifiedEquation(
            landscape, eta, ss.MinibatchNoise(sampling), substeps=round(eta / config.time_step)
        )
        put(found, f"SGD {eta:g} {size}", selected(config, sgd, start, eta, which, first))
        put(found, f"SDE {eta:g} {size}", selected(config, sde, start, eta, which, second))
    flat, noise = plane(config)
    process = ss.ModifiedEquation(
        flat, PLANE_RATE, noise, substeps=round(PLANE_RATE / config.time_step)
    )
    put(found, "plane", selected(config, process, [0.0, 0.5], PLANE_RATE, side, key))
    return xr.Dataset(found)


def side(theta):
    """1 where x > 0, the sharp well of the plane."""
    return (theta[0] > 0).astype(int)


@functools.cache
def predict(config: Config) -> dict[str, float]:
    """Exact P(sharp) at t = T, by the same names; and long-run weights as T → ∞."""
    landscape, values = NoisyWells(config), {}
    which, sde = label(config), {}
    for eta, size in cells(config):
        sampling = ss.WithReplacement(size)
        master = ss.theory.laws.MasterEquation(
            ss.SGD(landscape, eta, sampling),
            BOX,
            config.nodes,
            mass_tolerance=1e-5,
        )
        steps = round(config.horizon / eta)
        (end,) = master.propagate(-1.0, [steps], on_grid=True)
        values[f"SGD {eta:g} {size}"] = float(1 - end.cdf(-config.asymmetry))
        ratio = round(eta / size, 12)
        if ratio not in sde:
            process = ss.ModifiedEquation(landscape, eta, ss.MinibatchNoise(sampling))
            equation = ss.theory.laws.FokkerPlanck(process.limit(), BOX, config.cells)
            (density,) = equation.propagate([-1.0], [config.horizon])
            sde[ratio] = (
                float(1 - density.cdf(-config.asymmetry)),
                float(ss.theory.selection.weights_on_grid(equation.stationary(), which, 2)[1]),
            )
        values[f"SDE {eta:g} {size}"], values[f"long run {eta:g} {size}"] = sde[ratio]
    flat, noise = plane(config)
    equation = ss.theory.laws.FokkerPlanck(
        ss.ModifiedEquation(flat, PLANE_RATE, noise).limit(),
        PLANE,
        config.plane_cells,
        mass_tolerance=1e-3,
    )
    (density,) = equation.propagate([0.0, 0.5], [config.horizon])
    values["plane"] = float(ss.theory.selection.weights_on_grid(density, side, 2)[1])
    return values


def apart(config: Config, predicted) -> list[tuple[str, str]]:
    """Cells of SGD whose exact value is far from that of the SDE at the same η/B."""
    clear = 6 * 0.5 / np.sqrt(config.ensemble_size)
    return [
        (f"SGD {eta:g} {size}", f"SDE {eta:g} {size}")
        for eta, size in cells(config)
        if abs(predicted[f"SGD {eta:g} {size}"] - predicted[f"SDE {eta:g} {size}"]) > clear
    ]


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Every cell against its own exact value; SGD against the SDE's where they must differ."""
    rows = []
    for eta, size in cells(config):
        for process in ("SGD", "SDE"):
            name = f"{process} {eta:g} {size}"
            measured = get(data, name)
            rows.append(
                row(
                    measured,
                    predicted[name],
                    name=f"P(sharp), η={eta:g}, B={size}",
                    process=process,
                    precision=config.precision / predicted[name],
                )
            )
    for sgd, sde in apart(config, predicted):
        _, eta, size = sgd.split()
        rows.append(
            row(
                get(data, sgd),
                predicted[sde],
                name=f"P(sharp), η={eta}, B={size}, against the SDE's",
                process="SGD",
                expected="deviate",
            )
        )
    plane_row = row(
        get(data, "plane"),
        predicted["plane"],
        name="P(sharp) in two dimensions, against the grid",
        process="SDE",
        precision=config.precision / predicted["plane"],
    )
    return [*rows, plane_row]


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Where η/B decides and where it does not."""
    predicted = predict(config)
    groups: dict[float, list[tuple[float, int]]] = {}
    for eta, size in cells(config):
        groups.setdefault(round(eta / size, 12), []).append((eta, size))
    lines = []
    for ratio, members in sorted(groups.items()):
        if len(members) < 2:
            continue
        listed = ", ".join(
            f"{predicted[f'SGD {eta:g} {size}']:.4f} (η={eta:g}, B={size})" for eta, size in members
        )
        eta, size = members[0]
        lines.append(
            f"At η/B = {ratio:g} the SDE selects the sharp well with probability "
            f"{predicted[f'SDE {eta:g} {size}']:.4f}, SGD with {listed}."
        )
    worst = max(
        cells(config),
        key=lambda c: abs(predicted[f"SGD {c[0]:g} {c[1]}"] - predicted[f"SDE {c[0]:g} {c[1]}"]),
    )
    gap = predicted[f"SGD {worst[0]:g} {worst[1]}"] - predicted[f"SDE {worst[0]:g} {worst[1]}"]
    lines.append(f"The largest exact difference is {gap:+.4f}, at η={worst[0]:g}, B={worst[1]}.")
    return " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """P(sharp) over η/B for SGD and SDE, measured and exact; the landscape with its noise."""
    figure, axes = new_figure(1, 2, width=5.4, height=3.9)
    x = np.linspace(-2, 2, 400)
    energy = (x**2 - 1) ** 2 / 4 + config.asymmetry * (x**3 / 3 - x)
    axes[0, 0].plot(x, energy, "k", label="U(x)")
    spread = config.noise * np.abs(1 + config.noise_slope * x)
    axes[0, 0].plot(x, spread, color=COLOURS["other"], label="√Σ(x), one example")
    axes[0, 0].set_xlabel("x")
    axes[0, 0].set_ylabel("loss, and size of a gradient's noise")
    axes[0, 0].set_ylim(-0.2, 1.6)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axis = axes[0, 1]
    ratios = np.array(sorted({eta / size for eta, size in cells(config)}))
    sde = {eta / size: predicted[f"SDE {eta:g} {size}"] for eta, size in cells(config)}
    axis.plot(ratios, [sde[r] for r in ratios], color=COLOURS["SDE"], label="SDE, exact")
    marks = "osD^v"
    for mark, size in zip(marks, config.batch_sizes, strict=False):
        place = [eta / size for eta in config.learning_rates]
        exact = [predicted[f"SGD {eta:g} {size}"] for eta in config.learning_rates]
        named = "SGD, exact, one line for each B" if size == config.batch_sizes[0] else "_"
        axis.plot(place, exact, color=COLOURS["SGD"], linewidth=0.8, alpha=0.7, label=named)
        for process, shift in (("SGD", 0.985), ("SDE", 1.015)):
            found = [get(data, f"{process} {eta:g} {size}") for eta in config.learning_rates]
            estimate = ss.Estimate(
                np.array([float(f.value) for f in found]),
                np.array([float(f.standard_error) for f in found]),
                found[0].num_samples,
            )
            points(
                axis,
                np.array(place) * shift,
                estimate,
                f"{process}, B = {size}",
                fmt=mark,
                color=COLOURS[process],
            )
    axis.set_xscale("log")
    axis.set_xticks(ratios, [f"{r:g}" for r in ratios])
    axis.minorticks_off()
    axis.set_xlabel("η/B")
    axis.set_ylabel(f"P(sharp well) at t = {config.horizon:g} (± 1 s.e.)")
    plane_text = f"in two dimensions: SDE {get(data, 'plane')}\n(grid: {predicted['plane']:.4f})"
    axis.text(0.03, 0.62, plane_text, transform=axis.transAxes, fontsize=8)
    axis.legend(frameon=False, fontsize=7, ncols=2)
    return figure
