"""Two-point gradients escape exponentially later than the SDE of the same covariance says.

In V = (x² − 1)²/4 with gradients V′ ± σ, σ = .6, every batch is V′ + σ or V′ − σ. The mean number
of iterations from −1 to +1 grows as e^{W/η}, W = ∫ p dx from the well to the top, where p solves

    log E e^{−p ĝ(x)} = −p V′(x) + log cosh(p σ) = 0 ;

Gaussian gradients, and so the SDE, have p = 2V′/σ² instead: W = 1.7713 against 1.3889. The gap
does not close as η → 0, it opens: no learning rate is small enough for the SDE. Below σ = max V′ =
2/√27 no sequence of batches leads out, and SGD never leaves, while the SDE always does.

Claim: at σ = .6 and η = .25 SGD takes 19463 iterations, Gaussian SGD 4363 and the SDE 5022; the
logarithm of the ratio grows as .382/η; at σ² = .14 SGD does not leave at all.

Source: Azizian, Iutzeler, Malick, Mertikopoulos 2024 (2406.09241) on the exponents; the times
are solved by collocation and from the kernel equation, in sde_sgd.theory.

Command: python -m experiments minibatch_noise_is_not_gaussian_here --preset paper
Subject: escape
"""

import dataclasses
import functools

import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._escape import at_other_well, force, passages, well_processes
from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    variance: float = 0.36
    """σ²"""
    learning_rate: float = 0.25
    """η"""
    substeps: int = 5
    """the SDE is integrated at h = η/substeps"""
    exits: int = 3000
    """passages that each run should see; 1/√exits is the relative error"""
    ensemble_size: int = 512
    """members of each run"""
    trapped_variance: float = 0.14
    """σ² below max V′² = 4/27, where no batches lead out"""
    trapped_learning_rate: float = 0.45
    """η there"""
    trapped_exits: int = 400
    """passages of Gaussian SGD in the time that SGD is watched there"""
    scan: tuple[float, ...] = (0.4, 0.3, 0.25, 0.2, 0.15, 0.125, 0.1)
    """η of the exact times from which the exponents are read; no simulation"""
    precision: float = 0.025
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        substeps=10, exits=20_000, ensemble_size=1024, trapped_exits=10_000, precision=0.01
    ),
}

PROCESSES = ("SGD", "Gaussian SGD", "SDE")
EXPONENT_RESOLUTION = 0.01


def processes(config: Config) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one, Gaussian SGD, the SDE."""
    eta = config.learning_rate
    return well_processes(eta, eta * config.variance / 2, config.substeps)


def measure(config: Config, key) -> xr.Dataset:
    """Mean iterations of every process; rates an iteration where SGD is trapped."""
    exact, variables = predict(config), {}
    for name, process in processes(config).items():
        key, own = jr.split(key)
        run = passages(
            process,
            at_other_well,
            start=-1.0,
            mean_steps=float(exact[name]),
            exits=config.exits,
            members=config.ensemble_size,
            key=own,
        )
        put(variables, name, run.mean_time)
    eta = config.trapped_learning_rate
    trapped = well_processes(eta, eta * config.trapped_variance / 2, 1)
    for name in ("SGD", "Gaussian SGD"):
        key, own = jr.split(key)
        run = passages(
            trapped[name],
            at_other_well,
            start=-1.0,
            mean_steps=1 / float(exact["trapped Gaussian SGD"]),
            exits=config.trapped_exits,
            members=config.ensemble_size,
            key=own,
        )
        put(variables, f"trapped {name}", run.rate)
        variables[f"trapped {name} limit"] = ((), run.rate_limit())
    return xr.Dataset(variables)


@functools.cache
def iterations(config: Config, process: str, eta: float, variance: float) -> float:
    """Exact mean number of iterations; of the "SDE" in continuous time."""
    if process == "SGD":
        sgd = ss.SGD(ss.double_well(variance), eta, ss.WithReplacement(1))
        return float(ss.theory.escape.mean_exit_time(sgd, -1.0, 1.0)) / eta
    step = {"SDE": 0.0, "Gaussian SGD": eta, "SDE at its step": eta / config.substeps}[process]
    equation = ss.processes.Diffusion(force, eta * variance / 2, step)
    time = ss.theory.escape.mean_exit_time(equation, -1.0, 1.0)
    return float(time) / eta


def both(config: Config) -> tuple[ss.SGD, ss.ModifiedEquation]:
    """SGD with two-point noise and its SDE, at a rate that leaves no trace in the exponent."""
    well, one = ss.double_well(config.variance), ss.WithReplacement(1)
    eta = config.learning_rate
    return ss.SGD(well, eta, one), ss.ModifiedEquation(well, eta, ss.MinibatchNoise(one))


def predict(config: Config) -> dict[str, np.ndarray]:
    """Iterations at (σ², η), rates where SGD is trapped, exponents, and exact slopes in 1/η."""
    at = (config.learning_rate, config.variance)
    trapped = (config.trapped_learning_rate, config.trapped_variance)
    sgd, sde = both(config)

    def exponent(process) -> float:
        return ss.theory.escape.quasi_potential(process, -1.0, 0.0).barrier

    def slopes(process: str) -> np.ndarray:
        # t = η·iterations has the prefactor that tends to a constant.
        times = [eta * iterations(config, process, eta, config.variance) for eta in config.scan]
        return np.diff(np.log(times)) / np.diff(1 / np.array(config.scan))

    found = {
        "SGD": iterations(config, "SGD", *at),
        "Gaussian SGD": iterations(config, "Gaussian SGD", *at),
        "SDE": iterations(config, "SDE at its step", *at),
        "SDE, h → 0": iterations(config, "SDE", *at),
        "trapped SGD": 1 / iterations(config, "SGD", *trapped),
        "trapped Gaussian SGD": 1 / iterations(config, "Gaussian SGD", *trapped),
        "trapped SDE": 1 / iterations(config, "SDE", *trapped),
        "W of batches": exponent(sgd),
        "W of Gaussian noise": exponent(sde),
    }
    curves = {
        f"{kind} of {process}": function(process)
        for process in PROCESSES
        for kind, function in (
            ("slopes", slopes),
            (
                "scan",
                lambda p: np.array(
                    [iterations(config, p, eta, config.variance) for eta in config.scan]
                ),
            ),
        )
    }
    return {name: np.asarray(value) for name, value in (found | curves).items()}


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Times, rates of the trapped SGD, exponents."""
    rows = []
    for process in PROCESSES:
        rows.append(
            row(
                get(data, process),
                predicted[process],
                name="mean iterations of its own noise and step",
                process=process,
                precision=config.precision,
            )
        )
    sgd = get(data, "SGD")
    for value, name in (
        ("SDE, h → 0", "the SDE's iterations"),
        ("Gaussian SGD", "Gaussian SGD's iterations"),
    ):
        rows.append(row(sgd, predicted[value], name=name, process="SGD", expected="deviate"))
    name = f"rate at σ²={config.trapped_variance:g}"
    for process, value, expected in (
        ("SGD", "trapped SGD", "agree"),
        ("Gaussian SGD", "trapped Gaussian SGD", "agree"),
        ("SGD", "trapped Gaussian SGD", "deviate"),
        ("SGD", "trapped SDE", "deviate"),
    ):
        whose = value.removeprefix("trapped ")
        rows.append(
            row(
                get(data, f"trapped {process}"),
                predicted[value],
                name=f"{name}, of {whose}",
                process=process,
                expected=expected,
            )
        )
    # No simulation: the last slope of the exact times, η → .1.
    for process, value, expected in (
        ("SGD", "W of batches", "agree"),
        ("SDE", "W of Gaussian noise", "agree"),
        ("SGD", "W of Gaussian noise", "deviate"),
    ):
        last = ss.Estimate(predicted[f"slopes of {process}"][-1], np.zeros(()), len(config.scan))
        rows.append(
            row(
                last,
                predicted[value],
                name=f"d log T/d(1/η), {value}",
                process=f"{process}, exact",
                expected=expected,
                resolution=EXPONENT_RESOLUTION,
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """By what factor the SDE is wrong, here and at smaller learning rates."""
    sgd, sde, exact = get(data, "SGD"), get(data, "SDE"), predict(config)
    ratio = float(sgd.value / sde.value)
    error = ratio * float(np.hypot(sgd.standard_error / sgd.value, sde.standard_error / sde.value))
    factors = exact["scan of SGD"] / exact["scan of SDE"]
    last, gap = config.scan[-1], float(exact["W of batches"] - exact["W of Gaussian noise"])
    limit = float(data["trapped SGD limit"])
    return (
        f"SGD takes {ratio:.2f} ± {error:.2f} times the iterations of the SDE at "
        f"η={config.learning_rate:g} (95 %: {ratio - 1.96 * error:.2f} to "
        f"{ratio + 1.96 * error:.2f}), exactly {factors[-1]:.1f} times at η={last:g}: the factor "
        f"grows as e^({gap:.4f}/η). At σ²={config.trapped_variance:g} SGD was not seen to leave: "
        f"its rate is below {limit:.2g} an iteration (95 %), the SDE's is "
        f"{exact['trapped SDE']:.2g} and "
        f"Gaussian SGD's {exact['trapped Gaussian SGD']:.2g}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Iterations over 1/η with the measured ones; slopes p(x) whose integral is the exponent."""
    figure, axes = new_figure(1, 2, width=5.2, height=4.0)
    left, right = axes[0]
    inverse = 1 / np.array(config.scan)
    for process in PROCESSES:
        label = f"exact, {process}" + (", h → 0" if process == "SDE" else "")
        style = ":" if process == "Gaussian SGD" else "-"
        left.plot(
            inverse, predicted[f"scan of {process}"], style, color=COLOURS[process], label=label
        )
        measured = get(data, process)
        one = ss.Estimate(measured.value[None], measured.standard_error[None], measured.num_samples)
        points(left, [1 / config.learning_rate], one, process)
    left.set_yscale("log")
    left.set_xlabel("1/η")
    left.set_ylabel("mean iterations from −1 to +1  (± 1 s.e.)")
    left.set_title(f"two-point noise, σ² = {config.variance:g}")
    sgd, sde = both(config)
    for label, process, colour in (("batches", sgd, "SGD"), ("Gaussian, SDE", sde, "SDE")):
        found = ss.theory.escape.quasi_potential(process, -1.0, 0.0)
        right.plot(
            found.positions,
            found.slopes,
            color=COLOURS[colour],
            label=f"{label}: W = {found.barrier:.4f}",
        )
        right.fill_between(found.positions, found.slopes, color=COLOURS[colour], alpha=0.12)
    right.set_xlabel("x, from the well to the top")
    right.set_ylabel("p(x), slope of the quasi-potential")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    return figure
