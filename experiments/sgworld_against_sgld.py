"""A Langevin sampler on shuffled epochs is nearer to the posterior than one on independent batches.

SGLD, θ ← θ − η ĝ_B + √(2ηT) ξ with T = 1/N, would sample the posterior of N examples if its
gradients were exact. Independent batches heat it: the covariance is too large by about ηN/(2B)
of itself. Over a shuffled epoch (SGWORLD) the noises of the batches add up to zero, and what is
left at first order in η is the posterior of L + (η/4) E|∇L_B − ∇L|², smaller by a factor of
order N, and terms in (ηN/B)². A control variate at the minimum (SGLD-CV) removes the noise at its
source, for two gradients a step. With V the posterior covariance, the bias is

    β = ‖V^{−1/2} E(θ − θ*)(θ − θ*)ᵀ V^{−1/2} − 1‖ / √d   (Frobenius).

Claim: on linear regression every sampler, and the Langevin SDE at its step, has its own exact
covariance at every learning rate and batch size; SGWORLD's bias is smaller than SGLD's at equal
cost, 2 to 3 times at N = 16, and with independent batches it would not be.

Source: Adhikari et al. 2023 (2306.03521), SGWORLD; Shaw, Whalley 2025 (2501.16055); Baker et al.
2019 (1706.05439), SGLD-CV; exact values in sde_sgd.theory.stationary.epoch_moments.

Command: python -m experiments sgworld_against_sgld --preset paper
Subject: noises
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from scipy.optimize import brentq

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_examples: int = 16
    """N of linear regression: few, so that all epochs can be summed over"""
    learning_rates: tuple[float, ...] = (0.1, 0.2)
    """η"""
    batch_sizes: tuple[int, ...] = (2, 4)
    """B, divisors of N"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 4096
    """independent members a process"""
    epochs: int = 60
    """length of a run"""
    burn_in: int = 15
    """epochs left out, from starts of about the right spread"""
    precision: float = 0.01
    """largest standard error of an agreeing row, in units of the posterior's variance"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        learning_rates=(0.0125, 0.025, 0.05, 0.1, 0.2),
        batch_sizes=(2, 4, 8),
        ensemble_size=32768,
        epochs=200,
        burn_in=50,
        precision=0.005,
    ),
}

SAMPLERS = ("SGLD", "SGWORLD", "SGLD-CV", "SDE")
COLOUR = {"SGLD": "SGD", "SGWORLD": "Gaussian SGD", "SGLD-CV": "other", "SDE": "SDE"}
L2 = 0.05


@functools.lru_cache(maxsize=4)
def linear(config: Config) -> ss.LeastSquares:
    """The first examples of digits in two directions."""
    data = ss.data.digits_regression(2)
    x, y = (np.asarray(a)[: config.num_examples] for a in (data.inputs, data.targets))
    return ss.LeastSquares(x, y, l2=L2)


def samplers(config: Config, eta: float, size: int) -> dict[str, ss.AbstractProcess]:
    """The processes on linear regression, T = 1/N."""
    landscape = linear(config)
    subsets, epochs = ss.WithoutReplacement(size), ss.RandomReshuffling(size)
    bath = 1 / config.num_examples
    noise = ss.ThermalNoise(ss.MinibatchNoise(subsets), bath, eta)
    return {
        "SGLD": ss.SGLD(landscape, eta, subsets),
        "SGWORLD": ss.SGLD(landscape, eta, epochs),
        "SGLD-CV": ss.SGLD(landscape, eta, subsets, control_variate=landscape.minimum()),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }


@functools.lru_cache(maxsize=1024)
def exact(
    config: Config, name: str, eta: float, size: int
) -> ss.theory.stationary.MeanAndCovariance:
    """Mean and covariance over all steps, exactly."""
    if name == "SGWORLD":
        return ss.theory.stationary.epoch_moments(samplers(config, eta, size)[name]).average
    if name == "full":
        process = ss.SGLD(linear(config), eta, ss.WithoutReplacement(config.num_examples))
    elif name == "limit":
        process = samplers(config, eta, size)["SDE"].limit()
    else:
        process = samplers(config, eta, size)[name]
    stationary = ss.theory.stationary
    return stationary.MeanAndCovariance(stationary.mean(process), stationary.covariance(process))


@functools.lru_cache(maxsize=4)
def posterior(config: Config) -> ss.theory.laws.Gaussian:
    """Of linear regression."""
    return ss.theory.stationary.posterior(linear(config), temperature=1 / config.num_examples)


def whitened(config: Config, law: ss.theory.stationary.MeanAndCovariance) -> np.ndarray:
    """V^{−1/2} E(θ − θ*)(θ − θ*)ᵀ V^{−1/2}, (d, d)."""
    aim = posterior(config)
    values, vectors = np.linalg.eigh(aim.covariance)
    root = (vectors / np.sqrt(values)) @ vectors.T
    shift = law.mean - aim.mean
    return root @ (law.covariance + np.outer(shift, shift)) @ root


def bias(matrix: np.ndarray) -> float:
    """β of a whitened second moment."""
    return float(np.linalg.norm(matrix - np.eye(len(matrix))) / np.sqrt(len(matrix)))


@functools.lru_cache(maxsize=16)
def matched(config: Config, size: int) -> tuple[float, float, float]:
    """η, β(η) of SGWORLD and the η' at which SGLD has the same β; η the middle rate."""
    eta = config.learning_rates[(len(config.learning_rates) - 1) // 2]
    aim = bias(whitened(config, exact(config, "SGWORLD", eta, size)))
    found = brentq(
        lambda rate: bias(whitened(config, exact(config, "SGLD", rate, size))) - aim, 1e-6, eta
    )
    return eta, aim, float(np.asarray(found))


def label(name: str, eta: float, size: int) -> str:
    """The name of a run's values in the data."""
    return f"{name} B={size} η={eta:.4g}"


class Square(eqx.Module):
    """θ ↦ z zᵀ, z = V^{−1/2}(θ − θ*). A module and no closure: runs share one compilation."""

    root: jax.Array
    centre: jax.Array

    def __call__(self, theta):
        z = self.root @ (theta - self.centre)
        return jnp.outer(z, z)


def simulate(
    config: Config, process, law: ss.theory.stationary.MeanAndCovariance, key, period: int
):
    """Second moment about the posterior's mean, whitened by it, (2, 2)."""
    aim = posterior(config)
    values, vectors = np.linalg.eigh(aim.covariance)
    root = (vectors / np.sqrt(values)) @ vectors.T
    square = Square(jnp.asarray(root), jnp.asarray(aim.mean))
    start = np.random.default_rng(1).multivariate_normal(
        law.mean, law.covariance, config.ensemble_size
    )
    run = ss.simulate(
        process,
        jnp.asarray(start),
        num_steps=period * config.epochs,
        ensemble_size=config.ensemble_size,
        key=key,
        measures={
            "square": ss.Moments(of=square, burn_in=period * config.burn_in, covariance=False)
        },
    )
    return run["square"].mean


def measure(config: Config, key) -> xr.Dataset:
    """All samplers, and SGLD at the matched rate."""
    variables = {}
    for size in config.batch_sizes:
        period = config.num_examples // size
        for eta in config.learning_rates:
            for name, process in samplers(config, eta, size).items():
                key, own = jr.split(key)
                law = exact(config, name, eta, size)
                found = simulate(config, process, law, own, period)
                put(variables, label(name, eta, size), found, ("i", "j"))
        slow = matched(config, size)[2]
        key, own = jr.split(key)
        law = exact(config, "SGLD", slow, size)
        process = samplers(config, slow, size)["SGLD"]
        # As many steps, so that it shares a compilation: it starts at the right spread.
        found = simulate(config, process, law, own, period)
        put(variables, f"SGLD B={size} matched", found, ("i", "j"))
    return xr.Dataset(variables)


def predict(config: Config) -> dict:
    """Whitened second moments by run, matched rates by batch size."""
    laws = {
        label(name, eta, size): whitened(config, exact(config, name, eta, size))
        for size in config.batch_sizes
        for eta in config.learning_rates
        for name in SAMPLERS
    }
    return {
        "laws": laws,
        "matched": {size: matched(config, size) for size in config.batch_sizes},
    }


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Every sampler at its own exact law; independent batches not at SGWORLD's."""
    rows = []

    def add(measured, value, name, process, expected="agree"):
        row = ss.compare(measured, value, name=name, process=process, expected=expected)
        error = float(measured.standard_error.max())
        if row.verdict == "agrees" and error > config.precision:
            reason = f"standard error {error:.2%} of the posterior variance"
            row = dataclasses.replace(
                row, verdict="inconclusive", severity=row.severity + 1, reason=reason
            )
        rows.append(row)

    for size in config.batch_sizes:
        for eta in config.learning_rates:
            for name in SAMPLERS:
                where = label(name, eta, size)
                own = predicted["laws"][where]
                add(get(data, where), own, f"B={size}, η={eta:g}: second moment", name)
            shuffled = predicted["laws"][label("SGWORLD", eta, size)]
            independent = get(data, label("SGLD", eta, size))
            name = f"B={size}, η={eta:g}: SGWORLD's second moment"
            add(independent, shuffled, name, "independent batches", "deviate")
        eta, _, slow = predicted["matched"][size]
        own = whitened(config, exact(config, "SGLD", slow, size))
        name = f"B={size}: bias of SGWORLD at η={eta:g}, at η'={slow:.4g}"
        add(get(data, f"SGLD B={size} matched"), own, name, "SGLD")
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Biases at one rate, and the cost factor."""
    found = predict(config)
    lines = []
    for size, (eta, aim, slow) in found["matched"].items():
        other = bias(found["laws"][label("SGLD", eta, size)])
        variate = bias(found["laws"][label("SGLD-CV", eta, size)])
        lines.append(
            f"B = {size}, η = {eta:g}: bias {other:.3f} of SGLD, {aim:.4f} of SGWORLD "
            f"({other / aim:.1f} times less), {variate:.4f} of SGLD-CV at twice the gradients; "
            f"SGLD needs η' = {slow:.4g} for the same, {eta / slow:.1f} times as many gradients."
        )
    return " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Bias over the learning rate, one panel a batch size."""
    figure, axes = new_figure(1, len(config.batch_sizes), width=4.6, height=3.8)
    rates = np.array(config.learning_rates)
    # Few rates beside those that were predicted: sums over epochs take a second each.
    grid = np.sort([rates[0] / 2, *rates, *np.sqrt(rates[1:] * rates[:-1]), rates[-1] * 1.2])
    for axis, size in zip(axes[0], config.batch_sizes, strict=True):
        for name in SAMPLERS:
            line = [bias(whitened(config, exact(config, name, eta, size))) for eta in grid]
            axis.plot(grid, line, color=COLOURS[COLOUR[name]], linewidth=1)
            found = [get(data, label(name, eta, size)) for eta in rates]
            value = np.array([bias(x.value) for x in found])
            error = np.array([np.linalg.norm(x.standard_error) / np.sqrt(2) for x in found])
            where = ss.Estimate(value, error, config.ensemble_size)
            shown = name if name != "SDE" else f"SDE, h = η/{config.substeps}"
            points(axis, rates, where, shown, color=COLOURS[COLOUR[name]])
        full = [bias(whitened(config, exact(config, "full", eta, size))) for eta in grid]
        axis.plot(grid, full, ":", color=COLOURS["prediction"], label="exact, full batches")
        eta, aim, slow = predicted["matched"][size]
        axis.plot([slow, eta], [aim, aim], "--", color="0.6", linewidth=1)
        axis.annotate(f"× {eta / slow:.0f}", (np.sqrt(slow * eta), aim), va="bottom", fontsize=9)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("learning rate η")
        axis.set_ylabel("bias β of the second moment (± 1 s.e.)")
        axis.set_title(f"N = {config.num_examples}, B = {size}, T = 1/N", fontsize=10)
        axis.legend(frameon=False, fontsize=8)
    axes[0, 0].plot([], [], color="black", linewidth=1, label="exact")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
