"""Escape as a power of the loss: right for the noise that was assumed, not for that of SGD.

Online least squares in one dimension, ℓ = ½(xw − y)² with x, y ~ N(0, 1) independent, so that the
minimum is w = 0, L = (w² + 1)/2, L* = ½ and h* = 1. Mori et al. set Σ ≈ 2L h* = w² + 1 and find

    p ∝ L^{−φ} ,   φ = 1 + B/(ηh*) ,      escape rate ∝ (L_s/L*)^{−(B/(ηh*) + 1 − n/2)}

(n = 1 here). The true covariance of Gaussian features is Σ = 2w² + 1, and the batch gradient is not
Gaussian. To leave abs(w) < R takes for large R a time ∝ R^β, with

| | β | β at η = 1, B = 4 |
|---|---|---|
| Mori's noise | 1 + 2B/η | 9 |
| SDE of the true covariance | 1 + B/η | 5 |
| SGD, E abs(1 − ηX̂)^β = 1, X̂ = χ²_B/B | Kesten's index | 3.50 |

Claim: the SDE with Σ = 2L h* escapes by Mori's power; the SDE of the true covariance and SGD by
smaller powers of their own, so that the law's escape times are too long by a factor without bound.

Source: Mori, Ziyin, Liu, Ueda 2022 (2105.09557); exact times from the kernel equation, for SGD
with the batch's χ² law integrated by Gauss–Laguerre nodes; Kesten 1973 for β.

Command: python -m experiments power_law_escape --preset paper
Subject: escape
"""

import dataclasses
import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from numpy.polynomial import legendre
from scipy.special import roots_genlaguerre

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._escape import passages, stack
from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 1.0
    """η"""
    batch_size: int = 4
    """B, at least 4"""
    substeps: int = 4
    """the SDEs are integrated at h = η/substeps"""
    radii: tuple[float, ...] = (1.5, 2.0, 2.5)
    """R; L_s/L* = 1 + R²"""
    exits: int = 3000
    """passages that each run should see; 1/√exits is the relative error"""
    ensemble_size: int = 512
    """members of each run"""
    density_members: int = 2048
    """members of the runs that measure the stationary law"""
    density_steps: int = 600
    """their iterations, the first sixth left out"""
    precision: float = 0.04
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        radii=(1.5, 2.0, 2.5, 3.0),
        exits=40_000,
        ensemble_size=1024,
        density_members=8192,
        density_steps=6000,
        precision=0.01,
    ),
}

LABELS = ("SGD", "SDE", "SDE, Mori's Σ")
COLOUR = {"SGD": "SGD", "SDE": "SDE", "SDE, Mori's Σ": "other"}
FACTOR = {"SDE": 2.0, "SDE, Mori's Σ": 1.0}  # Σ = FACTOR·w² + 1
FAR = (8.0, 12.0)  # radii between which exact powers are read
SHARES = (0.6, 1.2)  # of which P(|w| > R) is measured
CURVATURE, MINIMUM_LOSS = 1.0, 0.5


def processes(config: Config) -> dict[str, ss.AbstractProcess]:
    """Online SGD, the SDE of its covariance, the SDE of Mori's."""
    problem = ss.landscapes.PopulationLeastSquares(np.eye(1), 1.0)
    sampling, eta = ss.WithReplacement(config.batch_size), config.learning_rate
    published = ss.HessianNoise(1 / config.batch_size, times_loss=True)
    step = config.substeps
    return {
        "SGD": ss.SGD(problem, eta, sampling),
        "SDE": ss.ModifiedEquation(problem, eta, ss.MinibatchNoise(sampling), substeps=step),
        "SDE, Mori's Σ": ss.ModifiedEquation(problem, eta, published, substeps=step),
    }


class Beyond:
    """|w| ≥ R."""

    def __init__(self, radius: float):
        self.radius = radius

    def __call__(self, theta):
        return jnp.abs(theta[0]) >= self.radius


def _shares(theta):
    return (jnp.abs(theta[0]) > jnp.array(SHARES)).astype(theta.dtype)


def measure(config: Config, key) -> xr.Dataset:
    """Mean iterations (radius,), and P(|w| > R) (share,) of every process."""
    variables = {}
    for label, process in processes(config).items():
        found = []
        for radius in config.radii:
            key, own = jr.split(key)
            run = passages(
                process,
                Beyond(radius),
                start=0.0,
                mean_steps=iterations(config, label, radius),
                exits=config.exits,
                members=config.ensemble_size,
                key=own,
            )
            found.append(run.mean_time)
        put(variables, label, stack(found), ("radius",))
        key, own = jr.split(key)
        run = ss.simulate(
            process,
            jnp.zeros(1),
            num_steps=config.density_steps,
            ensemble_size=config.density_members,
            key=own,
            measures={
                "shares": ss.Moments(_shares, config.density_steps // 6, 1, covariance=False)
            },
        )
        put(variables, f"{label} shares", run["shares"].mean, ("share",))
    return xr.Dataset(variables)


@functools.cache
def iterations(config: Config, label: str, radius: float, step: float | None = None) -> float:
    """Exact mean number of iterations from 0 to |w| ≥ R; `step` h in place of the run's own."""
    eta, size = config.learning_rate, config.batch_size
    if label == "SGD":
        return _mixture_time(eta, size, radius)
    h = eta / config.substeps if step is None else step
    time = ss.theory.escape.mean_exit_time(equation(config, label, h), 0.0, (-radius, radius))
    return float(time) / eta


def equation(config: Config, label: str, step: float = 0.0) -> ss.processes.Diffusion:
    """dw = −w dt + √(2D) dW of an SDE, D = η(f w² + 1)/(2B), or its chain at a step."""
    strength = config.learning_rate / (2 * config.batch_size)
    return ss.processes.Diffusion(
        lambda w: -w, lambda w: strength * (FACTOR[label] * w**2 + 1), step
    )


def _mixture_time(eta: float, size: int, radius: float) -> float:
    """(I − P)τ = 1: given X̂, a step is N(w(1 − ηX̂), η²X̂/B), and BX̂ is χ² with B degrees."""
    half_squares, shares = roots_genlaguerre(24, size / 2 - 1)
    means, shares = 2 * half_squares / size, shares / shares.sum()
    nodes, weights = legendre.leggauss(int(160 * radius) + 200)
    nodes, weights = radius * nodes, radius * weights
    # The last row is the start, w = 0.
    points_ = np.append(nodes, 0.0)
    kernel = np.zeros((len(points_), len(nodes)))
    for mean, share in zip(means, shares, strict=True):
        deviation = eta * np.sqrt(mean / size)
        scaled = (nodes - (points_ * (1 - eta * mean))[:, None]) / deviation
        kernel += share * np.exp(-0.5 * scaled**2) / (np.sqrt(2 * np.pi) * deviation)
    kernel *= weights
    times = np.linalg.solve(np.eye(len(nodes)) - kernel[:-1], np.ones(len(nodes)))
    return float(1 + kernel[-1] @ times)


def stationary_shares(config: Config, label: str) -> np.ndarray:
    """Exact P(|w| > R) of the run's own chain, from the master equation."""
    eta, size = config.learning_rate, config.batch_size
    if label == "SGD":
        return _mixture_shares(eta, size)
    own = equation(config, label, eta / config.substeps)
    chain = ss.theory.laws.MasterEquation(own, (-15.0, 15.0), 1200, mass_tolerance=1e-5)
    found = chain.stationary()
    return np.array([float(1 - found.cdf(r) + found.cdf(-r)) for r in SHARES])


def _mixture_shares(eta: float, size: int, reach: float = 40.0) -> np.ndarray:
    """The same for SGD: the stationary vector of the mixture kernel in panels of Gauss nodes."""
    half_squares, shares = roots_genlaguerre(64, size / 2 - 1)
    means, shares = 2 * half_squares / size, shares / shares.sum()
    # Panels that end at the radii asked for, finer where the density is.
    edges = np.array([0.0, 0.3, *SHARES, 2.0, 3.0, 4.5, 6.5, 9.0, 13.0, 20.0, 28.0, reach])
    local, gauss = legendre.leggauss(40)
    half = np.diff(edges)[:, None] / 2
    nodes = (edges[:-1, None] + half * (1 + local)).ravel()
    weights = (half * gauss).ravel()
    kernel = np.zeros((len(nodes), len(nodes)))
    for mean, share in zip(means, shares, strict=True):
        deviation = eta * np.sqrt(mean / size)
        after = (nodes * (1 - eta * mean))[:, None]
        for side in (1.0, -1.0):  # of |w|
            scaled = (side * nodes - after) / deviation
            kernel += share * np.exp(-0.5 * scaled**2) / (np.sqrt(2 * np.pi) * deviation)
    kernel *= weights
    mass = np.full(len(nodes), 1 / len(nodes))
    for _ in range(400):
        mass = mass @ kernel
        mass /= mass.sum()
    return np.array([mass[nodes > r].sum() for r in SHARES])


def power(config: Config, label: str) -> float:
    """d log τ/d log R of the exact times between the radii FAR; SDEs in continuous time."""
    low, high = (iterations(config, label, radius, 0.0) for radius in FAR)
    return float(np.log(high / low) / np.log(FAR[1] / FAR[0]))


def published_power(config: Config) -> float:
    """d log τ/d log R of Mori's rate as R → ∞, L_s/L* = 1 + R²."""
    rates = [
        ss.theory.escape.mori_escape_rate(
            minimum_curvature=CURVATURE,
            saddle_loss=MINIMUM_LOSS * ratio,
            minimum_loss=MINIMUM_LOSS,
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            dimension=1,
            prefactor=1.0,
        )
        for ratio in (2.0, 4.0)
    ]
    return float(2 * np.log2(rates[0] / rates[1]))


def predict(config: Config) -> dict[str, np.ndarray]:
    """Iterations and shares of the runs' own chains, powers as found and as published."""
    size, eta, own = config.batch_size, config.learning_rate, processes(config)
    values: dict[str, np.ndarray] = {}
    for label in LABELS:
        values[label] = np.array([iterations(config, label, radius) for radius in config.radii])
        values[f"{label} shares"] = stationary_shares(config, label)
        values[f"{label} power"] = np.array(power(config, label))
    values["power, SGD"] = np.array(ss.theory.laws.tail_index(own["SGD"]))
    values["power, SDE"] = np.array(ss.theory.laws.tail_index(own["SDE"].limit()))
    values["power, SDE, Mori's Σ"] = np.array(published_power(config))
    phi = ss.theory.escape.mori_stationary_exponent(
        minimum_curvature=CURVATURE, learning_rate=eta, batch_size=size
    )
    values["φ"] = np.array(phi)
    for label in FACTOR:
        density = ss.theory.laws.stationary_density(equation(config, label))
        at = np.array(FAR)
        fall = -np.diff(np.log(density.pdf(at))) / np.diff(np.log(1 + at**2))
        values[f"φ, {label}"] = fall[0]
    return values


def slope(config: Config, times: ss.Estimate) -> ss.Estimate:
    """d log τ/d log(L_s/L*) between the first radius and the last."""
    ratio = np.log(1 + np.array(config.radii) ** 2)
    error = np.hypot(*(times.standard_error[[0, -1]] / times.value[[0, -1]]))
    width = ratio[-1] - ratio[0]
    rise = np.log(times.value[-1] / times.value[0])
    return ss.Estimate(np.asarray(rise / width), np.asarray(error / width), times.num_samples)


def sure(value) -> ss.Estimate:
    """An exact value as an estimate without error."""
    return ss.Estimate(np.asarray(float(value)), np.zeros(()), 2)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Own times and stationary law; the published exponents on the assumed and the true noise."""
    rows = []
    for label in LABELS:
        for case, name in ((label, "iterations to |w| ≥ R"), (f"{label} shares", "P(|w| > R)")):
            rows.append(
                row(
                    get(data, case),
                    predicted[case],
                    name=f"{name}, own step and noise",
                    process=label,
                    precision=config.precision,
                )
            )
    sgd, exponent = get(data, "SGD"), float(predicted["power, SDE, Mori's Σ"]) / 2
    for value in ("SDE", "SDE, Mori's Σ"):
        limit = np.array([iterations(config, value, radius, 0.0) for radius in config.radii])
        name = f"iterations of {value}, h → 0"
        rows.append(row(sgd, limit, name=name, process="SGD", expected="deviate"))
    for label in ("SGD", "SDE"):
        rows.append(
            row(
                slope(config, get(data, label)),
                exponent,
                name="d log τ/d log L_s, Mori's B/(ηh*) + ½",
                process=label,
                expected="deviate",
            )
        )
    # No simulation from here on: exact times and densities between |w| = 8 and 12.
    published = predicted["power, SDE, Mori's Σ"]
    for label in LABELS:
        options = {"process": f"{label}, exact", "resolution": 0.15}
        rows.append(
            row(
                sure(predicted[f"{label} power"]),
                predicted[f"power, {label}"],
                name="power β of τ ∝ R^β, own",
                **options,
            )
        )
        if label in FACTOR:
            expected = "agree" if label == "SDE, Mori's Σ" else "deviate"
            rows.append(
                row(
                    sure(predicted[f"φ, {label}"]),
                    predicted["φ"],
                    name="φ of p ∝ L^−φ, Mori's",
                    expected=expected,
                    **options,
                )
            )
        if label != "SDE, Mori's Σ":
            name = "power β, Mori's"
            measured = sure(predicted[f"{label} power"])
            rows.append(row(measured, published, name=name, expected="deviate", **options))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Powers, and the factors at the largest radius."""
    exact, last = predict(config), config.radii[-1]
    sgd = get(data, "SGD")
    factors = []
    for label in ("SDE", "SDE, Mori's Σ"):
        limit = iterations(config, label, last, 0.0)
        ratio, error = limit / sgd.value[-1], limit * sgd.standard_error[-1] / sgd.value[-1] ** 2
        factors.append(f"{ratio:.3g} ± {error:.1g} ({label})")
    powers = ", ".join(f"{float(exact[f'power, {label}']):.3f} ({label})" for label in LABELS)
    return (
        f"τ ∝ R^β with β = {powers}. Against SGD's time to |w| ≥ {last:g} the SDEs take "
        f"{' and '.join(factors)} times as long. Mori's law holds for the noise that it assumes; "
        f"the true Σ = 2w² + 1 in d = 1 has half its power, and batches less still."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Iterations over the loss ratio, and tail probabilities."""
    figure, axes = new_figure(1, 2, width=5.4, height=4.0)
    left, right = axes[0]
    grid = np.linspace(1.0, config.radii[-1] * 1.1, 14)
    measured_at = 1 + np.array(config.radii) ** 2
    for label in LABELS:
        shade = COLOURS[COLOUR[label]]
        curve = [iterations(config, label, float(radius)) for radius in grid]
        left.plot(1 + grid**2, curve, color=shade, lw=1.2, label=f"exact, {label}")
        points(left, measured_at, get(data, label), label, color=shade)
        points(right, SHARES, get(data, f"{label} shares"), label, color=shade)
        right.plot(
            SHARES, predicted[f"{label} shares"], "_", ms=16, color=shade, label=f"exact, {label}"
        )
    exponent = float(predicted["power, SDE, Mori's Σ"]) / 2
    law = (measured_at / measured_at[-1]) ** exponent * predicted["SDE, Mori's Σ"][-1]
    left.plot(
        measured_at,
        law,
        "--",
        color=COLOURS["prediction"],
        label=f"Mori's power {exponent:g}, prefactor free",
    )
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("L_s/L* = 1 + R²")
    left.set_ylabel("mean iterations to |w| ≥ R  (± 1 s.e.)")
    right.set_yscale("log")
    right.set_xlim(0.4, 1.4)
    right.set_xlabel("R")
    right.set_ylabel("stationary P(|w| > R)  (± 1 s.e.)")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7)
    return figure
