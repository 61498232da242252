"""The linear scaling rule, η → κη with B → κB, keeps the SDE and not SGD: where it ends.

On least squares with N examples the stationary covariance M of SGD solves exactly, with
H_i = x_i x_iᵀ and H their mean,

    H M + M H − η H M H − η c [(1/N) Σ_i H_i M H_i − H M H] = η c Σ*,       c = 1/B,

and the SDE lacks the term −η H M H. The rule keeps ηc and hence the SDE; of SGD it changes that
term, until at κη beyond the mean-square stability no stationary law is left.

Claim: the SDE, integrated at one solver step, has one covariance for every κ. SGD has the exact one
of its own η, which leaves the SDE's by more than a tenth well before SGD becomes unstable; batches
without replacement, c = (N−B)/(B(N−1)), end the rule by a second way, at κB = N.

Source: Goyal et al. 2017 (1706.02677); Smith, Le 2017 (1710.06451); exact values by second-moment
closure (documented in sde_sgd.theory.stationary.least_squares).

Command: python -m experiments linear_scaling_breaks --preset paper
Subject: equations
"""

import dataclasses
import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points
from sde_sgd.processes.linear import LinearReading

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_directions: int = 4
    """d: principal directions of the digits images, the first of variance 1"""
    num_examples: int = 256
    """N"""
    learning_rate: float = 0.05
    """η at κ = 1"""
    batch_size: int = 4
    """B at κ = 1"""
    kappas: tuple[int, ...] = (1, 4, 16)
    """κ"""
    ensemble_size: int = 3072
    """independent members a process"""
    time: float = 60.0
    """t = ηk of a run"""
    burn_in: float = 20.0
    """time left out, from the start at the minimum"""
    breaks: float = 0.1
    """relative distance of tr M from the SDE's that is called the end of the rule"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(kappas=(1, 2, 4, 8, 16, 32), ensemble_size=8192, time=400.0),
}


@functools.cache
def problem(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, d) and targets (N,)."""
    digits = ss.data.digits_regression(config.num_directions)
    take = slice(0, config.num_examples)
    return np.asarray(digits.inputs)[take], np.asarray(digits.targets)[take]


def runs(config: Config) -> dict[str, tuple[int, str]]:
    """(κ, process) by name."""
    kinds = [(k, "SGD") for k in config.kappas]
    kinds += [(k, "SDE") for k in (config.kappas[0], config.kappas[-1])]
    kinds += [(k, "subsets") for k in (config.kappas[0], config.kappas[-1])]
    return {f"{kind}, κ = {k}": (k, kind) for k, kind in kinds}


def scaled(config: Config, kappa: int, kind: str) -> ss.AbstractProcess:
    """The process of a run: η and B, κ times the first ones; its SDE at the first one's step."""
    landscape = ss.LeastSquares(*problem(config))
    eta, size = ss.processes.linear_scaling(config.learning_rate, config.batch_size, kappa)
    if kind == "SDE":
        noise = ss.MinibatchNoise(ss.WithReplacement(size))
        return ss.ModifiedEquation(landscape, eta, noise, substeps=kappa)
    scheme = ss.WithoutReplacement if kind == "subsets" else ss.WithReplacement
    return ss.SGD(landscape, eta, scheme(size))


def measure(config: Config, key) -> xr.Dataset:
    """Stationary |θ − θ*|² (the trace of M) of every process at equal time ηk."""
    minimum = ss.LeastSquares(*problem(config)).minimum()

    def distance(theta):
        return jnp.sum((theta - minimum) ** 2)

    variables = {}
    for (name, (kappa, kind)), own in zip(runs(config).items(), jr.split(key, 20), strict=False):
        process = scaled(config, kappa, kind)
        eta = kappa * config.learning_rate
        steps, skipped = (round(t / eta) for t in (config.time, config.burn_in))
        run = ss.simulate(
            process,
            minimum,
            num_steps=steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"trace": ss.Moments(distance, skipped, covariance=False)},
        )
        put(variables, name, run["trace"].mean)
    return xr.Dataset(variables)


@functools.cache
def first(config: Config, kind: str) -> LinearReading:
    """Moments at κ = 1: of SGD, of SGD on subsets, or of the SDE itself ("limit")."""
    process = scaled(config, 1, "SDE" if kind == "limit" else kind)
    return (process.limit() if kind == "limit" else process).linear()


def reading(config: Config, kappa: float, kind: str) -> LinearReading:
    """Moments at any κ ≥ 1, whole or not: η times κ, and c of batches of κB."""
    num, size = config.num_examples, kappa * config.batch_size
    less = 1 / kappa
    if kind == "subsets":
        less *= (num - size) / (num - config.batch_size)
    own = first(config, kind)
    return own.at(kappa * config.learning_rate)._replace(noise=own.noise.scaled(less))


def trace(config: Config, kappa: float, kind: str) -> float:
    """tr M at κ, exactly."""
    return float(np.trace(reading(config, kappa, kind).joint()))


@functools.cache
def largest(config: Config) -> tuple[float, float]:
    """κ at which tr M of SGD is `breaks` beyond the SDE's, and at which SGD is unstable."""

    def stable(kappa):
        return reading(config, kappa, "SGD").stable

    def off(kappa):
        if not stable(kappa):
            return np.inf
        return trace(config, kappa, "SGD") / trace(config, kappa, "limit") - 1

    def bisect(beyond):
        low, high = 1.0, 2.0
        while not beyond(high):
            high *= 2
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if beyond(middle) else (middle, high)
        return high

    return bisect(lambda k: off(k) > config.breaks), bisect(lambda k: not stable(k))


def predict(config: Config) -> dict[str, float]:
    """tr M of every run, of the SDE, and the two ends of the rule."""
    values = {
        name: float(np.trace(ss.theory.stationary.covariance(scaled(config, kappa, kind))))
        for name, (kappa, kind) in runs(config).items()
    }
    end, unstable = largest(config)
    return values | {"limit": trace(config, 1, "limit"), "end": end, "unstable": unstable}


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each run against its own exact value; those beyond the end against the rule's promise."""
    rows, first = [], config.kappas[0]
    for name, (kappa, kind) in runs(config).items():
        measured = get(data, name)
        rows.append(
            ss.compare(
                measured,
                predicted[name],
                resolution=0.02 * predicted[name],
                name="tr M, own exact value",
                process=name,
            )
        )
        promise = predicted[f"{kind}, κ = {first}"]
        kept = abs(predicted[name] / promise - 1) < 0.02
        if kappa != first:
            rows.append(
                ss.compare(
                    measured,
                    promise,
                    resolution=0.04 * promise,
                    name=f"tr M, as at κ = {first}",
                    process=name,
                    expected="agree" if kept else "deviate",
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Where the rule ends."""
    found = predict(config)
    ends = config.num_examples / config.batch_size
    return (
        f"From η = {config.learning_rate:g}, B = {config.batch_size}: SGD is {config.breaks:.0%} "
        f"beyond the SDE at κ = {found['end']:.1f} and unstable at κ = {found['unstable']:.1f}; "
        f"subsets of N = {config.num_examples} have no noise left at κ = {ends:g}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """tr M against κ: SGD, subsets and SDE, measured and exact."""
    figure, axes = new_figure(1, 1, width=6.4, height=4.0)
    (axis,) = axes[0]
    most = min(predicted["unstable"] * 0.97, 2.2 * config.kappas[-1])
    grid = np.geomspace(1, most, 50)
    labels = {"SGD": "SGD, with replacement", "subsets": "SGD, subsets without replacement"}
    for (kind, label), colour in zip(labels.items(), ("SGD", "Gaussian SGD"), strict=True):
        whole = kind == "subsets"
        usable = grid[grid * config.batch_size <= config.num_examples] if whole else grid
        exact = [trace(config, k, kind) for k in usable]
        axis.plot(usable, exact, color=COLOURS[colour], linewidth=1, label=f"exact, {label}")
    exact = [trace(config, k, "limit") for k in grid]
    axis.plot(grid, exact, color=COLOURS["SDE"], linestyle="--", linewidth=1, label="exact, SDE")
    for name, (kappa, kind) in runs(config).items():
        measured = get(data, name)
        row = ss.Estimate(measured.value[None], measured.standard_error[None], 2)
        colour = {"SGD": "SGD", "SDE": "SDE", "subsets": "Gaussian SGD"}[kind]
        label = f"measured, {kind}" if kappa == config.kappas[0] else ""
        points(axis, [kappa], row, label, color=COLOURS[colour])
    axis.axvline(predicted["end"], color=COLOURS["other"], linestyle=":", linewidth=1)
    axis.annotate(
        f"{config.breaks:.0%} off the SDE",
        (predicted["end"], 0.06),
        rotation=90,
        fontsize=8,
        xycoords=("data", "axes fraction"),
        ha="right",
    )
    axis.set_xscale("log", base=2)
    axis.set_xlabel("κ (η = κη₀, B = κB₀)")
    axis.set_ylabel("stationary tr M")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
