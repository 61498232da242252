"""Noise with memory changes how the spread of SGD's equation scales with the learning rate.

Driven by fractional Brownian motion B^H of unit strength per iteration, the equation on ½hθ²,

    dθ = −ηhθ ds + η √C dB^H_s ,   has   Var θ = η^{2−2H} C Γ(2H+1)/(2h^{2H}) :

∝ η for Brownian motion, less steep for persistent noise (H > ½), steeper for antipersistent noise.
B^H is simulated by a few Ornstein–Uhlenbeck states, exactly for those states at any step. The same
equation with one state and noise that adds up to zero stands for shuffled epochs.

Claim: the variance is that of the formula within 1 % from 24 states on, and not with 4; simulated
runs have their own exact value at their step, and not that of 1 − H; the exponent of η is 2 − 2H;
Ornstein–Uhlenbeck noise matched to epochs has the variance of shuffled SGD within 5 %, which white
noise misses by a factor.

Source: Cheridito, Kawaguchi, Maejima 2003 (variance); Harms, Stefanovits 2019 (1510.04061),
Markovian states; Kühn, Rosenow 2023 (2306.05300), epochs. Whether the noise of SGD is fractional
is claimed by Tan, Zhang, Liu 2021, and is not tested here: see minibatch_noise_tails.

Command: python -m experiments fractional_noise --preset paper
Subject: noises
"""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    hurst: tuple[float, ...] = (0.3, 0.5, 0.7)
    """H, with ½ and pairs that add up to 1"""
    learning_rates: tuple[float, ...] = (0.1, 0.4)
    """η"""
    substeps: int = 2
    """Euler steps an iteration"""
    num_states: int = 32
    """Ornstein–Uhlenbeck states of the runs"""
    ensemble_size: int = 16384
    """independent members"""
    num_steps: int = 160
    """iterations a member"""
    burn_in: int = 100
    """iterations left out: ten relaxation times at the smallest η"""
    batches_per_epoch: int = 20
    """M of the epochs"""
    curvature: float = 0.1
    """h of the comparison with epochs; h = 1 elsewhere"""
    precision: float = 0.01
    """largest relative standard error of an agreeing row"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        hurst=(0.2, 0.3, 0.5, 0.7, 0.8),
        learning_rates=(0.05, 0.1, 0.2, 0.4),
        substeps=4,
        num_states=48,
        ensemble_size=32768,
        num_steps=600,
        burn_in=200,
    ),
}

STATES = (4, 8, 16, 24, 48, 96)
ENOUGH, FEW = 24, 4


def driving(hurst: float, num_states: int) -> ss.noise.ColouredNoise:
    """B^H with ends of the spectrum that leave below 1 % at these H."""
    return ss.noise.fractional_noise(hurst, num_states, slowest=1e-8, fastest=1e7)


def equation(h: float, eta: float, noise, substeps: int = 1) -> ss.DrivenEquation:
    """dθ = −ηhθ ds + η dZ_s, C = 1."""
    return ss.DrivenEquation(
        ss.quadratic([[h]], 1.0), eta, ss.ConstantNoise([[1.0]]), noise, substeps
    )


def variance(process: ss.AbstractProcess) -> float:
    """Exact for the states of the driving and the step."""
    return ss.theory.stationary.driven_covariance(process).item()


def formula(hurst: float, eta: float) -> float:
    """η^{2−2H} Γ(2H+1)/2."""
    return ss.theory.stationary.fractional_ornstein_uhlenbeck_variance(eta, eta, hurst)


def shuffled_variance(config: Config) -> float:
    """On ½hθ², of SGD through epochs; C = 1."""
    return ss.theory.stationary.epoch_covariance(
        [[config.curvature]],
        [[1.0]],
        learning_rate=config.learning_rates[0],
        batches_per_epoch=config.batches_per_epoch,
    ).average[0, 0]


def epochs(config: Config, noise: ss.noise.AbstractDriving | None = None) -> ss.DrivenEquation:
    """On ½hθ² under epoch noise, or another."""
    noise = ss.noise.epoch_noise(config.batches_per_epoch) if noise is None else noise
    return equation(config.curvature, config.learning_rates[0], noise, config.substeps)


def simulate(config: Config, process: ss.DrivenEquation, key, longer: int = 1) -> ss.Estimate:
    """Stationary variance of the driven equation."""
    run = ss.simulate(
        process,
        jnp.zeros(1),
        num_steps=longer * config.num_steps,
        ensemble_size=config.ensemble_size,
        key=key,
        measures={"m": ss.Moments(burn_in=longer * config.burn_in, covariance="diagonal")},
    )
    found = run["m"].variance
    assert found is not None
    return found[0]


def measure(config: Config, key) -> xr.Dataset:
    """Variances over H and η, and under epoch noise."""
    variables = {}
    for hurst in config.hurst:
        noise = driving(hurst, config.num_states)
        for eta in config.learning_rates:
            key, own = jr.split(key)
            process = equation(1.0, eta, noise, config.substeps)
            put(variables, f"H={hurst:g} η={eta:g}", simulate(config, process, own))
    longer = int(np.ceil(1 / config.curvature))  # θ relaxes at the rate ηh.
    put(variables, "epochs", simulate(config, epochs(config), key, longer))
    return xr.Dataset(variables)


def predict(config: Config) -> dict:
    """Exact variances at the step, by H and η; convergence in the states; epochs."""
    eta = config.learning_rates[0]
    runs = {
        (hurst, rate): variance(
            equation(1.0, rate, driving(hurst, config.num_states), config.substeps)
        )
        for hurst in config.hurst
        for rate in config.learning_rates
    }
    states = {
        (hurst, count): variance(equation(1.0, eta, driving(hurst, count)).limit())
        / formula(hurst, eta)
        for hurst in config.hurst
        for count in STATES
    }
    return {
        "runs": runs,
        "states": states,
        "epochs": variance(epochs(config)),
        "white": variance(epochs(config, ss.noise.WhiteNoise()).limit()),
        "SGD": shuffled_variance(config),
    }


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Numbers of states, runs at their own values and not at those of 1 − H, exponents, epochs."""
    rows = []

    def add(measured, value, name, process, expected="agree", **kwargs):
        row = ss.compare(measured, value, name=name, process=process, expected=expected, **kwargs)
        error = float(measured.standard_error / abs(value))
        if row.verdict == "agrees" and not error <= config.precision:
            reason = f"standard error {error:.2%}, above {config.precision:.2%}"
            row = dataclasses.replace(
                row, verdict="inconclusive", severity=row.severity + 1, reason=reason
            )
        rows.append(row)

    for hurst in config.hurst:
        for count, expected in ((ENOUGH, "agree"), (FEW, "deviate")):
            if hurst != 0.5 or expected == "agree":
                ratio = ss.Estimate(predicted["states"][hurst, count], 0.0, 2)
                name = f"H={hurst:g}: variance over the formula's, {count} states"
                add(ratio, 1.0, name, "states", expected, resolution=0.01)
    for (hurst, eta), own in predicted["runs"].items():
        found = get(data, f"H={hurst:g} η={eta:g}")
        add(found, own, f"H={hurst:g}, η={eta:g}: variance at its step", "fractional")
        swapped = round(1 - hurst, 12)
        if hurst != 0.5 and (swapped, eta) in predicted["runs"]:
            wrong = predicted["runs"][swapped, eta]
            name = f"H={hurst:g}, η={eta:g}: variance of 1 − H"
            add(found, wrong, name, "fractional", "deviate")
    for hurst in config.hurst:
        rates = np.array(config.learning_rates)
        exact = [formula(hurst, eta) for eta in rates]
        slope = np.polyfit(np.log(rates), np.log(exact), 1)[0]
        # Each run over its exact value at the step times the formula: the step's error taken out.
        found = [get(data, f"H={hurst:g} η={eta:g}") for eta in rates]
        own = [predicted["runs"][hurst, eta] for eta in rates]
        scaled = [float(f.value) * e / o for f, e, o in zip(found, exact, own, strict=True)]
        errors = [
            float(f.standard_error) * e / o for f, e, o in zip(found, exact, own, strict=True)
        ]
        fit = ss.theory.equations.fit_order(rates, np.array(scaled), np.array(errors))
        order = ss.Estimate(fit.order, fit.uncertainty, config.ensemble_size)
        add(order, slope, f"H={hurst:g}: exponent of η, 2 − 2H", "fractional")
        if hurst != 0.5:
            add(order, 1.0, f"H={hurst:g}: exponent of white noise", "fractional", "deviate")
    found, shuffled = get(data, "epochs"), predicted["SGD"]
    add(found, predicted["epochs"], "epochs: variance at its step", "Ornstein–Uhlenbeck")
    name = "epochs: variance of shuffled SGD"
    add(found, shuffled, name, "Ornstein–Uhlenbeck", resolution=0.05 * shuffled)
    add(
        found,
        predicted["white"],
        "epochs: variance of white noise",
        "Ornstein–Uhlenbeck",
        "deviate",
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How many states are needed, and what epochs do."""
    found = predict(config)
    worst = {
        count: max(abs(found["states"][hurst, count] - 1) for hurst in config.hurst)
        for count in STATES
    }
    listed = ", ".join(f"{error:.2%} with {count}" for count, error in worst.items())
    return (
        f"Largest error of the variance over H: {listed} states. On epochs of "
        f"{config.batches_per_epoch} batches θ has the variance {found['SGD']:.5f}, "
        f"Ornstein–Uhlenbeck noise {variance(epochs(config).limit()):.5f} (h → 0 of the solver), "
        f"white noise {found['white']:.4f}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Variance over η, and convergence in the number of states."""
    figure, axes = new_figure(1, 2, width=4.8, height=3.8)
    left, right = axes[0]
    rates = np.array(config.learning_rates)
    grid = np.geomspace(rates[0] / 1.3, rates[-1] * 1.3, 30)
    shades = list(COLOURS.values())
    for hurst, shade in zip(config.hurst, shades, strict=False):
        left.plot(grid, [formula(hurst, eta) for eta in grid], "--", color=shade, linewidth=1)
        noise = driving(hurst, config.num_states)
        exact = [variance(equation(1.0, float(eta), noise, config.substeps)) for eta in grid]
        left.plot(grid, exact, color=shade, linewidth=1)
        found = [get(data, f"H={hurst:g} η={eta:g}") for eta in rates]
        row = ss.Estimate(
            np.array([float(f.value) for f in found]),
            np.array([float(f.standard_error) for f in found]),
            config.ensemble_size,
        )
        points(left, rates, row, f"H = {hurst:g}", color=shade)
        if hurst != 0.5:
            error = [abs(predicted["states"][hurst, count] - 1) for count in STATES]
            right.plot(STATES, error, "o-", color=shade, markersize=4, label=f"H = {hurst:g}")
    left.plot([], [], color="black", linewidth=1, label="exact at the step")
    left.plot([], [], "--", color="black", linewidth=1, label="formula")
    right.axhline(0.01, color="0.6", linewidth=1, linestyle=":", label="1 %")
    left.set_xlabel("learning rate η")
    left.set_ylabel("stationary variance of θ (± 1 s.e.)")
    right.set_xlabel("number of Ornstein–Uhlenbeck states m")
    right.set_ylabel("|variance/formula − 1|")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.legend(frameon=False, fontsize=8)
    left.set_xticks(rates, [f"{eta:g}" for eta in rates])
    left.set_xticks([], minor=True)
    return figure
