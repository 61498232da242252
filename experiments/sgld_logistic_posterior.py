"""Langevin samplers of a logistic posterior: biases over learning rate and batch size.

The posterior of two weights, e^{−NL} with L the mean negative log-likelihood and a normal prior,
has no closed form, and none of its samplers an exact law at a finite step. Quadrature over the
plane gives its mean θ* and covariance V to nine digits. A long run with full batches, the reference
of practice, and every sampler have them in the limit η → 0, with a bias of first order in η. The
relative excess of a sampler is

    b(η) = ½ tr V^{−1} E(θ − θ*)(θ − θ*)ᵀ − 1 ,

and 2b(η/2) − b(η) is of second order. Linear noise about the mode, as if L were a parabola there,
predicts b itself for independent batches; it is drawn in, and not tested.

Claim: extrapolated to η → 0 full batches, SGLD, SGLD with a control variate (SGLD-CV) and SGLD on
shuffled epochs (SGWORLD) sample the posterior; at a finite η SGLD is too hot, the more so the
larger η and the smaller B, and SGWORLD and SGLD-CV much less.

Source: Welling, Teh 2011; Baker et al. 2019 (1706.05439), SGLD-CV; Adhikari et al. 2023
(2306.03521), SGWORLD.

Command: python -m experiments sgld_logistic_posterior --preset paper
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

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_examples: int = 64
    """N, threes and eights in two principal directions"""
    l2: float = 0.05
    """λ: the prior is N(0, 1/(Nλ))"""
    learning_rates: tuple[float, ...] = (0.8, 0.4, 0.2)
    """η, each half of the one before"""
    batch_sizes: tuple[int, ...] = (2, 8)
    """B, divisors of N"""
    ensemble_size: int = 2048
    """independent members a run"""
    num_steps: int = 600
    """iterations of a run at every η, so that the rates share a compilation"""
    burn_in: int = 200
    """iterations left out, from starts of the posterior's mean and covariance"""
    precision: float = 0.04
    """largest standard error of an agreeing second moment, relative to the posterior's"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        learning_rates=(0.8, 0.4, 0.2, 0.1),
        batch_sizes=(2, 4, 8, 16),
        ensemble_size=8192,
        num_steps=4000,
        burn_in=800,
        precision=0.015,
    ),
}

SAMPLERS = ("SGLD", "SGWORLD", "SGLD-CV")
REFERENCE = "full batches"
COLOUR = {
    "SGLD": COLOURS["SGD"],
    "SGWORLD": COLOURS["Gaussian SGD"],
    "SGLD-CV": COLOURS["other"],
    REFERENCE: COLOURS["SDE"],
}


class Square(eqx.Module):
    """θ ↦ z zᵀ, z = V^{−1/2}(θ − θ*). A module and no closure: runs share one compilation."""

    root: jax.Array
    centre: jax.Array

    def __call__(self, theta):
        z = self.root @ (theta - self.centre)
        return jnp.outer(z, z)


@functools.cache
def landscape(config: Config) -> ss.LogisticRegression:
    """Threes against eights."""
    data = ss.data.digits((3, 8), scaling="unit", principal_directions=2, test_fraction=0.0)
    kept = slice(config.num_examples)
    return ss.LogisticRegression(data.inputs[kept], data.targets[kept], l2=config.l2, bias=False)


@functools.cache
def posterior(config: Config) -> ss.theory.stationary.MeanAndCovariance:
    """Mean and covariance by quadrature."""
    return ss.theory.stationary.posterior_by_quadrature(
        landscape(config), temperature=1 / config.num_examples
    )


@eqx.filter_jit
def _newton(place: ss.LogisticRegression, theta):
    for _ in range(6):
        theta = theta - jnp.linalg.solve(place.hessian(theta), place.gradient(theta))
    return theta, place.hessian(theta), place.gradient_covariance(theta)


@functools.cache
def parabola(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The minimum of L by Newton's steps, ∇²L and Σ there."""
    theta, hess, sigma = _newton(landscape(config), jnp.asarray(posterior(config).mean))
    return np.asarray(theta), np.asarray(hess), np.asarray(sigma)


def mode(config: Config) -> np.ndarray:
    """The minimum of L, (2,)."""
    return parabola(config)[0]


def root(config: Config) -> np.ndarray:
    """V^{−1/2}, (2, 2)."""
    values, vectors = np.linalg.eigh(posterior(config).covariance)
    return (vectors / np.sqrt(values)) @ vectors.T


def sampler(config: Config, name: str, eta: float, size: int) -> ss.SGLD:
    """A process at T = 1/N."""
    place = landscape(config)
    if name == REFERENCE:
        return ss.SGLD(place, eta, ss.WithoutReplacement(config.num_examples))
    if name == "SGWORLD":
        return ss.SGLD(place, eta, ss.RandomReshuffling(size))
    variate = mode(config) if name == "SGLD-CV" else None
    return ss.SGLD(place, eta, ss.WithoutReplacement(size), control_variate=variate)


def label(name: str, eta: float, size: int) -> str:
    """The name of a run's values in the data."""
    return f"{name} η={eta:g}" if name == REFERENCE else f"{name} B={size} η={eta:g}"


def cases(config: Config) -> list[tuple[str, int]]:
    """Samplers and batch sizes, the reference once."""
    pairs = [(name, size) for size in config.batch_sizes for name in SAMPLERS]
    return [(REFERENCE, config.num_examples), *pairs]


def measure(config: Config, key) -> xr.Dataset:
    """Second moments about the posterior's mean, whitened by its covariance."""
    variables, aim = {}, posterior(config)
    square = Square(jnp.asarray(root(config)), jnp.asarray(aim.mean))
    start = np.random.default_rng(1).multivariate_normal(
        aim.mean, aim.covariance, config.ensemble_size
    )
    for name, size in cases(config):
        for eta in config.learning_rates:
            key, own = jr.split(key)
            run = ss.simulate(
                sampler(config, name, eta, size),
                jnp.asarray(start),
                num_steps=config.num_steps,
                ensemble_size=config.ensemble_size,
                key=own,
                measures={
                    "square": ss.Moments(of=square, burn_in=config.burn_in, covariance=False)
                },
            )
            put(variables, label(name, eta, size), run["square"].mean, ("i", "j"))
    return xr.Dataset(variables)


def linear_noise(config: Config, name: str, eta: float, size: int) -> float:
    """b(η) if L were a parabola at the mode with the Σ there; zero Σ without batch noise."""
    _, hess, sigma = parabola(config)
    num = config.num_examples
    factor = (num - size) / (size * (num - 1)) if name == "SGLD" else 0.0
    noise = factor * sigma + 2 / (num * eta) * np.eye(2)
    found = ss.theory.stationary.linear_covariance(hess, noise, learning_rate=eta, time_step=eta)
    return float(np.trace(found @ hess) * num / 2 - 1)


def predict(config: Config) -> dict:
    """The whitened posterior, and the linear noise of independent and of full batches."""
    lines = {
        label(name, eta, size): linear_noise(config, name, eta, size)
        for name, size in cases(config)
        for eta in config.learning_rates
        if name in ("SGLD", REFERENCE)
    }
    return {"posterior": np.eye(2), "linear": lines}


def excess(found: ss.Estimate) -> ss.Estimate:
    """b of a whitened second moment; the two diagonal entries as if fully correlated."""
    value = np.trace(found.value) / 2 - 1
    return scalar(value, np.trace(found.standard_error) / 2, found.num_samples)


def limit(config: Config, data: xr.Dataset, name: str, size: int) -> ss.Estimate:
    """2 M(η/2) − M(η) of the two smallest rates, independent runs."""
    coarse, fine = (get(data, label(name, eta, size)) for eta in config.learning_rates[-2:])
    error = np.hypot(2 * fine.standard_error, coarse.standard_error)
    return ss.Estimate(2 * fine.value - coarse.value, error, fine.num_samples)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """η → 0 against quadrature and against full batches; biases at the largest η compared."""
    rows, exact = [], predicted["posterior"]
    reference = limit(config, data, REFERENCE, config.num_examples)
    most, least = config.learning_rates[0], min(config.batch_sizes)
    for name, size in cases(config):
        head = "" if name == REFERENCE else f"B = {size}: "
        found = limit(config, data, name, size)
        options = {"precision": config.precision, "scale": 1.0, "process": name}
        rows.append(row(found, exact, name=f"{head}η → 0, quadrature", **options))
        if name != REFERENCE:
            made = ss.compare(found, reference, name=f"{head}η → 0, {REFERENCE}", process=name)
            rows.append(made)
    hot = {name: excess(get(data, label(name, most, least))) for name in SAMPLERS}
    text = f"B = {least}, η = {most:g}: excess b"
    rows.append(row(hot["SGLD"], 0.0, name=f"{text}, none", process="SGLD", expected="deviate"))
    for name in SAMPLERS[1:]:
        apart = scalar(
            hot["SGLD"].value - hot[name].value,
            np.hypot(hot["SGLD"].standard_error, hot[name].standard_error),
            config.ensemble_size,
        )
        rows.append(row(apart, 0.0, name=f"{text}, that of SGLD", process=name, expected="deviate"))
    for what, (eta, size) in {
        f"B = {least}, η = {config.learning_rates[-1]:g}": (config.learning_rates[-1], least),
        f"B = {max(config.batch_sizes)}, η = {most:g}": (most, max(config.batch_sizes)),
    }.items():
        less = excess(get(data, label("SGLD", eta, size)))
        apart = scalar(
            hot["SGLD"].value - less.value,
            np.hypot(hot["SGLD"].standard_error, less.standard_error),
            config.ensemble_size,
        )
        rows.append(
            row(apart, 0.0, name=f"{text} as at {what}", process="SGLD", expected="deviate")
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Excesses at the largest rate."""
    eta, lines = config.learning_rates[0], []
    predicted = predict(config)["linear"]
    for name, size in cases(config):
        found = excess(get(data, label(name, eta, size)))
        text = f"{name}{'' if name == REFERENCE else f', B = {size}'}: {found.value:+.1%} ± "
        line = f"{text}{found.standard_error:.1%}"
        known = predicted.get(label(name, eta, size))
        lines.append(line if known is None else f"{line} (linear noise {known:+.1%})")
    return f"Excess of the second moment at η = {eta:g}. " + "; ".join(lines) + "."


def plot(config: Config, data: xr.Dataset, predicted):
    """b over the learning rate, one panel a batch size."""
    figure, axes = new_figure(1, len(config.batch_sizes), width=4.4, height=3.8)
    rates = np.array(config.learning_rates)
    grid = np.linspace(0, 1.05 * rates[0], 30)[1:]
    for axis, size in zip(axes[0], config.batch_sizes, strict=True):
        for shift, name in zip((-0.015, -0.005, 0.005, 0.015), (REFERENCE, *SAMPLERS), strict=True):
            found = [excess(get(data, label(name, eta, size))) for eta in rates]
            value = np.array([100 * float(x.value) for x in found])
            error = np.array([100 * float(x.standard_error) for x in found])
            where = ss.Estimate(value, error, config.ensemble_size)
            points(axis, rates * (1 + shift), where, name, color=COLOUR[name])
            if name in ("SGLD", REFERENCE):
                line = [100 * linear_noise(config, name, eta, size) for eta in grid]
                axis.plot(grid, line, color=COLOUR[name], linewidth=1)
        axis.axhline(0, color=COLOURS["prediction"], linewidth=1)
        axis.set_xlim(left=0)
        axis.set_xlabel("learning rate η")
        axis.set_ylabel("excess b of the second moment (%, ± 1 s.e.)")
        axis.set_title(f"N = {config.num_examples}, B = {size}, T = 1/N", fontsize=10)
    axes[0, 0].plot([], [], color="0.4", linewidth=1, label="linear noise at the mode")
    axes[0, 0].plot([], [], color=COLOURS["prediction"], label="posterior, by quadrature")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
