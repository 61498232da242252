"""SGD on a diagonal linear network ends at a sparser interpolator than gradient flow.

Predictions x·β with β = w₊² − w₋², losses ¼ r², fewer examples than inputs. From w± = α gradient
flow ends at the interpolator of least hyperbolic entropy ψ_α. A batch with ĝ = mean of r x moves
w₊w₋ by exactly the factor 1 − γ²ĝ², coordinate by coordinate, so that SGD, with noisy labels y ± δ
for the first steps and clean ones after them, ends with

    α_∞² = α² Π_k (1 − γ²ĝ_k²) ,

and at the interpolator of least ψ_{α_∞}, up to terms of order γ³.

Claim: every member of SGD obeys the product to rounding, ends where its own α_∞ predicts, and is
sparser (in ℓ₁ norm and in distance to the planted β) than gradient flow; diagonal noise of the
same variances does not obey the product.

Source: Woodworth et al. 2020 (2002.09277); Pesme, Pillaud-Vivien, Flammarion 2021 (2106.09524).

Command: python -m experiments diagonal_linear_network_bias --preset paper
Subject: selection
"""

import dataclasses
import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_examples: int = 12
    """n"""
    dimension: int = 30
    """inputs of the network"""
    sparsity: int = 3
    """entries of the planted β that are 1"""
    scale: float = 0.3
    """α, w₊ = w₋ = α at the start"""
    learning_rate: float = 0.1
    """γ"""
    label_noise: float = 0.7
    """δ"""
    noisy_steps: int = 4000
    """iterations with noisy labels, batches of one"""
    clean_steps: int = 8000
    """iterations with clean labels, batches of one"""
    ensemble_size: int = 32
    """members"""
    data_seed: int = 5
    """of inputs"""
    identity: float = 1e-9
    """largest relative error of the product over all steps that counts as none"""
    resolution: float = 0.02
    """of β against the prediction from α_∞, relative to |β|₂"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        num_examples=40,
        dimension=100,
        sparsity=5,
        noisy_steps=8000,
        clean_steps=30_000,
        learning_rate=0.05,
    ),
}


class Diagonal(eqx.Module):
    """x ↦ x·(w₊² − w₋²)."""

    plus: jax.Array
    minus: jax.Array

    def __call__(self, x):
        return x @ (self.plus**2 - self.minus**2)


class Shrinkage(ss.AbstractMeasure):
    """log Π_k (1 − γ²ĝ_k²) by coordinate, γĝ taken from the step of w₊."""

    watches: ClassVar[str] = "iterations"  # pyright: ignore

    def check(self, process, num_steps):
        pass

    def init(self, theta):
        return jnp.zeros((theta.shape[0], theta.shape[1] // 2), theta.dtype)

    def update(self, carry, before, after, tick, alive):
        half = before.shape[1] // 2
        step = 1 - after[:, :half] / before[:, :half]
        return carry + jnp.log1p(-(step**2))

    def finished(self, carry):
        return None

    def restart(self, carry, restarted):
        return carry

    def result(self, carry, alive, process):
        return np.asarray(carry)[alive]


def quarter(prediction, target):
    """¼ (prediction − target)²."""
    return (prediction - target) ** 2 / 4


@functools.cache
def problem(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (n, d), y (n,) and the planted β (d,)."""
    rng = np.random.default_rng(config.data_seed)
    planted = np.zeros(config.dimension)
    planted[: config.sparsity] = 1.0
    inputs = rng.normal(size=(config.num_examples, config.dimension)) / np.sqrt(config.num_examples)
    return inputs, inputs @ planted, planted


def landscape(config: Config, label_noise: float) -> ss.EmpiricalRisk:
    """Every example twice, with labels y + δ and y − δ: a batch of one has a noisy label."""
    inputs, targets, _ = problem(config)
    start = jnp.full(config.dimension, config.scale)
    labels = np.concatenate([targets + label_noise, targets - label_noise])
    twice = jnp.asarray(np.vstack([inputs, inputs]))
    return ss.EmpiricalRisk(Diagonal(start, start), twice, jnp.asarray(labels), quarter)


def processes(config: Config, label_noise: float) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one, and the same variances without their correlations."""
    where, sampling = landscape(config, label_noise), ss.WithReplacement(1)
    return {
        "SGD": ss.SGD(where, config.learning_rate, sampling),
        "diagonal noise": ss.GaussianSGD(where, config.learning_rate, ss.DiagonalNoise(sampling)),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Last w₊, w₋ of every member, and the product along its way through both phases."""
    found = {}
    for name, own in zip(("SGD", "diagonal noise"), jr.split(key), strict=True):
        theta, total = landscape(config, 0.0).initial, 0.0
        # The control breaks the product at once: a short run is enough.
        short = 1 if name == "SGD" else 20
        phases = (
            (config.label_noise, config.noisy_steps // short),
            (0.0, config.clean_steps // short),
        )
        for (noise, steps), each in zip(phases, jr.split(own), strict=True):
            run = ss.simulate(
                processes(config, noise)[name],
                theta,
                num_steps=steps,
                ensemble_size=config.ensemble_size,
                key=each,
                measures={"shrinkage": Shrinkage()},
            )
            theta, total = jnp.asarray(run.positions), total + run["shrinkage"]
        found[f"{name} theta"] = (("member", "parameter"), np.asarray(theta))
        found[f"{name} log product"] = (("member", "coordinate"), total)
    return xr.Dataset(found)


def predict(config: Config) -> dict[str, np.ndarray]:
    """The limits of gradient flow, of least ℓ₁ and of least ℓ₂ norm."""
    inputs, targets, planted = problem(config)
    limit = ss.theory.selection.diagonal_network_limit
    return {
        "gradient flow": limit(inputs, targets, scale=config.scale).beta,
        "small α": limit(inputs, targets, scale=1e-3).beta,
        "large α": np.linalg.lstsq(inputs, targets, rcond=None)[0],
        "planted": planted,
    }


def ends(config: Config, data: xr.Dataset, name: str = "SGD"):
    """β (members, d), w₊w₋/α² (members, d) and the product along the way."""
    plus, minus = np.split(data[f"{name} theta"].values, 2, axis=1)
    product = np.exp(data[f"{name} log product"].values)
    return plus**2 - minus**2, plus * minus / config.scale**2, product


def own_limits(config: Config, data: xr.Dataset) -> np.ndarray:
    """Prediction of every member of SGD from its own α_∞, (members, d)."""
    inputs, targets, _ = problem(config)
    _, share, _ = ends(config, data)
    return np.stack(
        [
            ss.theory.selection.diagonal_network_limit(
                inputs, targets, scale=config.scale * np.sqrt(np.maximum(s, 1e-14))
            ).beta
            for s in share
        ]
    )


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """The identity, the limits, and sparsity."""
    rows = []
    for name, expected in (("SGD", "agree"), ("diagonal noise", "deviate")):
        _, share, product = ends(config, data, name)
        error = np.abs(share / product - 1).max(axis=1)
        rows.append(
            ss.compare(
                ss.Estimate.from_samples(error),
                0.0,
                name="w₊w₋/α² against Π(1 − γ²ĝ²), largest relative error",
                process=name,
                expected=expected,
                resolution=config.identity,
            )
        )
    beta, _, _ = ends(config, data)
    flow, own = predicted["gradient flow"], own_limits(config, data)
    size = np.linalg.norm(flow)
    for target, name, expected in (
        (own, "its own α_∞", "agree"),
        (flow, "gradient flow", "deviate"),
    ):
        distance = np.linalg.norm(beta - target, axis=1) / size
        rows.append(
            ss.compare(
                ss.Estimate.from_samples(distance),
                0.0,
                name=f"distance of β to the limit of {name}, relative",
                process="SGD",
                expected=expected,
                resolution=config.resolution,
            )
        )
    gains = {
        "|β|₁ of gradient flow − of SGD": np.abs(flow).sum() - np.abs(beta).sum(axis=1),
        "distance to the planted β, flow − SGD": np.linalg.norm(flow - predicted["planted"])
        - np.linalg.norm(beta - predicted["planted"], axis=1),
    }
    for name, gain in gains.items():
        # Positive and away from zero: SGD is sparser.
        positive = ss.Estimate.from_samples(np.minimum(gain, 0))
        rows.append(ss.compare(positive, 0.0, name=f"negative part of {name}", process="SGD"))
        rows.append(
            ss.compare(
                ss.Estimate.from_samples(gain), 0.0, name=name, process="SGD", expected="deviate"
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How much sparser."""
    beta, share, _ = ends(config, data)
    predicted = predict(config)
    norms = ss.Estimate.from_samples(np.abs(beta).sum(axis=1))
    return (
        f"|β|₁: gradient flow {np.abs(predicted['gradient flow']).sum():.4f}, SGD {norms}, α → 0 "
        f"{np.abs(predicted['small α']).sum():.4f}. SGD has shrunk α² by the factor "
        f"{np.exp(np.log(share).mean()):.3g} (geometric mean over coordinates and members)."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """β of the limits and of SGD's members; the norm against the effective α."""
    figure, axes = new_figure(1, 2, width=5.6, height=3.8)
    beta, share, _ = ends(config, data)
    place = np.arange(config.dimension)
    axes[0, 0].plot(place, beta.T, ".", color=COLOURS["SGD"], markersize=3, alpha=0.5)
    axes[0, 0].plot([], [], ".", color=COLOURS["SGD"], label="SGD, members")
    styles = {
        "gradient flow": ("SDE", "x"),
        "small α": ("other", "+"),
        "planted": ("prediction", "_"),
    }
    for name, (colour, mark) in styles.items():
        axes[0, 0].plot(place, predicted[name], mark, color=COLOURS[colour], label=name)
    axes[0, 0].set_xlabel("coordinate")
    axes[0, 0].set_ylabel("β")
    axes[0, 0].legend(frameon=False, fontsize=8)
    inputs, targets, _ = problem(config)
    scales = np.geomspace(0.01, 1.5 * config.scale, 25)
    limits = [
        ss.theory.selection.diagonal_network_limit(inputs, targets, scale=a).beta for a in scales
    ]
    axes[0, 1].plot(scales, np.abs(limits).sum(axis=1), "k", label="limit at uniform α")
    effective = config.scale * np.exp(np.log(share).mean(axis=1) / 2)
    axes[0, 1].plot(
        effective, np.abs(beta).sum(axis=1), ".", color=COLOURS["SGD"], label="SGD, mean log α_∞"
    )
    own = np.abs(own_limits(config, data)).sum(axis=1)
    axes[0, 1].plot(
        effective, own, "k+", markersize=12, zorder=1, label="limit at the member's own α_∞"
    )
    flow = np.abs(predicted["gradient flow"]).sum()
    axes[0, 1].plot(config.scale, flow, "x", color=COLOURS["SDE"], label="gradient flow")
    axes[0, 1].set_xscale("log")
    axes[0, 1].set_xlabel("α (of SGD: geometric mean over coordinates)")
    axes[0, 1].set_ylabel("|β|₁")
    axes[0, 1].legend(frameon=False, fontsize=8)
    return figure
