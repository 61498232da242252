"""Levels of a hidden layer: Marchenko and Pastur's at the start, and how training leaves them.

A tanh network 64 → n → m → 10 on digits starts with independent entries of variance 1/n in its
inner weight W (m, n). The levels of WWᵀ then have, for large m and n, the density

    p(λ) = √((λ₊ − λ)(λ − λ₋)) / (2π r λ) ,   λ± = (1 ± √r)² ,   r = m/n .

Levels of one matrix repel, so that a Kolmogorov–Smirnov test on all of them has no valid p-value.
Here one level is drawn at random from each of many matrices: those are independent, and their law
is the mean density (at finite m it is off by about 1/(4m), less than the test resolves). During
training the distance D of each network's levels from the same law is compared with its own at the
start, and levels beyond the threshold that a fresh matrix passes with probability .001 (simulated)
are counted as outliers.

Claim: at the start the levels pass the test, and laws of another ratio or variance do not; training
moves them away and pushes levels out of the bulk; SGD and its SDE do so alike at a small learning
rate.

Source: Marchenko, Pastur 1967; the departure during training: Aarts, Lucini, Park 2024
(2411.13512); exact p-values: Kolmogorov.

Command: python -m experiments marchenko_pastur_departure --preset paper
Subject: matrices
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from scipy import stats

import sde_sgd as ss
from sde_sgd.plots import band, COLOURS, new_figure

from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    outer: int = 40
    """n, inputs of the inner layer"""
    inner: int = 20
    """m, its outputs"""
    num_examples: int = 256
    """N training digits"""
    learning_rate: float = 0.1
    """η"""
    batch_size: int = 32
    """B, with replacement"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    num_steps: int = 300
    """iterations"""
    num_times: int = 5
    """instants at which the levels are kept, the start included"""
    ensemble_size: int = 24
    """networks of independent starts, the same starts for both processes"""
    num_matrices: int = 2000
    """fresh matrices for the test at the start"""
    num_null: int = 10_000
    """fresh matrices for the threshold of outliers"""
    resolution: float = 0.02
    """largest difference of D with which SGD and the SDE depart alike"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        outer=64,
        inner=32,
        num_examples=512,
        substeps=4,
        num_steps=1000,
        num_times=11,
        ensemble_size=48,
        num_matrices=8000,
        num_null=100_000,
    ),
}

LEVEL = 0.999
# Below it the levels at the start would fail: fixed before any run.
SMALLEST_P = 1e-4


@functools.cache
def landscape(config: Config) -> ss.EmpiricalRisk:
    """Cross-entropy of the network on standardised digits."""
    data = ss.data.digits(test_fraction=0.0)
    one, two, three = jr.split(jr.key(0), 3)
    net = eqx.nn.Sequential(
        [
            eqx.nn.Linear(64, config.outer, key=one),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Linear(config.outer, config.inner, key=two),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Linear(config.inner, 10, key=three),
        ]
    )
    num = config.num_examples
    return ss.EmpiricalRisk(net, data.inputs[:num], data.targets[:num], ss.cross_entropy)


def starts(config: Config, key, number: int):
    """Networks with normal weights of variance 1/fan-in and no biases, (number, d)."""
    risk = landscape(config)
    model = risk.model(risk.initial)

    def one(key):
        def fresh(layer, key):
            if not isinstance(layer, eqx.nn.Linear):
                return layer
            weight = jr.normal(key, layer.weight.shape) / np.sqrt(layer.weight.shape[1])
            parts = (weight, jnp.zeros(weight.shape[0]))
            return eqx.tree_at(lambda x: (x.weight, x.bias), layer, parts)

        layers = [fresh(x, k) for x, k in zip(model.layers, jr.split(key, 5), strict=True)]
        new = eqx.tree_at(lambda x: x.layers, model, tuple(layers))
        return ravel_pytree(eqx.filter(new, eqx.is_inexact_array))[0]

    return jax.lax.map(one, jr.split(key, number))


def levels(config: Config) -> ss.measure.Levels:
    """θ ↦ the levels of WWᵀ of the inner layer."""
    return ss.measure.Levels(
        ss.measure.weight_matrix(landscape(config), lambda x: x.layers[2].weight), "gram"
    )


def law(config: Config) -> ss.theory.matrices.MarchenkoPastur:
    """The law at the start."""
    return ss.theory.matrices.MarchenkoPastur(config.inner / config.outer)


def distance(found: np.ndarray, law: ss.theory.matrices.MarchenkoPastur) -> np.ndarray:
    """sup |F − F_MP| of the levels of each matrix, (..., m) → (...)."""
    size = found.shape[-1]
    exact = law.cdf(np.sort(found, axis=-1))
    steps = np.arange(size + 1) / size
    return np.maximum(steps[1:] - exact, exact - steps[:-1]).max(axis=-1)


def measure(config: Config, key) -> xr.Dataset:
    """Levels at the start and while SGD and the SDE train; the null of the largest level."""
    first, second, third, sgd_key, sde_key = jr.split(key, 5)
    of, exact = levels(config), law(config)
    rng = np.random.default_rng(np.asarray(jr.key_data(third)))
    fresh = np.asarray(jax.lax.map(of, starts(config, first, config.num_matrices)))
    chosen = fresh[np.arange(len(fresh)), rng.integers(config.inner, size=len(fresh))]
    shape = (config.num_null, config.inner, config.outer)
    null = rng.normal(size=shape) / np.sqrt(config.outer)
    largest = np.linalg.norm(null, ord=2, axis=(1, 2)) ** 2
    threshold = float(np.quantile(largest, LEVEL))
    at = np.linspace(0, config.num_steps, config.num_times).round().astype(int)
    variables: dict[str, Any] = {
        "one level a matrix": (("matrix",), chosen),
        "threshold": ((), threshold),
        "k": (("time",), at),
    }
    start = starts(config, second, config.ensemble_size)
    sampling, eta = ss.WithReplacement(config.batch_size), config.learning_rate
    noise = ss.MinibatchNoise(sampling)
    processes = {
        "SGD": (ss.SGD(landscape(config), eta, sampling), sgd_key),
        "SDE": (
            ss.ModifiedEquation(landscape(config), eta, noise, substeps=config.substeps),
            sde_key,
        ),
    }
    moved, outliers = {}, {}
    for name, (process, own) in processes.items():
        run = ss.simulate(
            process,
            start,
            num_steps=config.num_steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={
                "levels": ss.Snapshots(at.tolist(), of),
                "loss": ss.Snapshots(at.tolist(), landscape(config).loss),
            },
        )
        found = run["levels"].values
        moved[name] = distance(found, exact)
        outliers[name] = (found > threshold).sum(axis=-1).astype(float)
        variables[f"{name} levels"] = (("time", "member", "level"), found)
        put_rows(variables, f"{name} distance", moved[name])
        put_rows(variables, f"{name} excess", moved[name] - moved[name][0])
        put_rows(variables, f"{name} outliers", outliers[name])
        put_rows(variables, f"{name} loss", run["loss"].values)
    # The starts are shared: differences member by member.
    put_rows(variables, "difference of distances", moved["SGD"] - moved["SDE"])
    put_rows(variables, "difference of outliers", outliers["SGD"] - outliers["SDE"])
    return xr.Dataset(variables)


def put_rows(variables: dict, name: str, values: np.ndarray) -> None:
    """Mean over members at every instant, (times, members)."""
    put(variables, name, ss.Estimate.from_samples(values.T), ("time",))


def predict(config: Config) -> dict[str, Any]:
    """The law of the levels at the start, and laws that they have not."""
    ratio = config.inner / config.outer
    return {
        "law": law(config),
        "another ratio": ss.theory.matrices.MarchenkoPastur(1.5 * ratio),
        "another variance": ss.theory.matrices.MarchenkoPastur(ratio, 1.25),
    }


def p_value(found: np.ndarray, law: ss.theory.matrices.MarchenkoPastur) -> float:
    """P of the Kolmogorov–Smirnov test for independent levels (n,)."""
    return float(stats.kstest(found, lambda x: law.cdf(x)).pvalue)


def passes(found: np.ndarray, law: ss.theory.matrices.MarchenkoPastur) -> ss.Estimate:
    """1 if p ≥ `SMALLEST_P`, else 0: the test is a decision, its error rate fixed beforehand."""
    return scalar(float(p_value(found, law) >= SMALLEST_P), 0.0, 2)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """The test at the start with its controls; departure, outliers, SGD against the SDE."""
    chosen = data["one level a matrix"].values
    rows = []
    for name, text in (
        ("law", "Marchenko–Pastur"),
        ("another ratio", "r·1.5"),
        ("another variance", "v·1.25"),
    ):
        expected = "agree" if name == "law" else "deviate"
        label = f"start: KS test with p ≥ {SMALLEST_P:g}, {text}"
        found = passes(chosen, predicted[name])
        rows.append(row(found, 1.0, name=label, process="start", expected=expected))
    null = 1 - LEVEL
    for name in ("SGD", "SDE"):
        last = get(data, f"{name} excess")[-1]
        text = "end: excess of D over the start"
        rows.append(row(last, 0.0, name=text, process=name, expected="deviate"))
        out = get(data, f"{name} outliers")[-1]
        # Nobody with an outlier is no certainty: an error of one network.
        least = 1 / config.ensemble_size
        out = scalar(out.value, max(float(out.standard_error), least), out.num_samples)
        text = "end: outliers of a network, as many as at random"
        rows.append(row(out, null, name=text, process=name, expected="deviate"))
    for quantity, width in (("distances", config.resolution), ("outliers", None)):
        found = get(data, f"difference of {quantity}")[-1]
        text = f"end: {quantity}, SGD less SDE"
        rows.append(row(found, 0.0, name=text, process="SGD, SDE", resolution=width))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """P-values, distances and outliers."""
    predicted = predict(config)
    chosen = data["one level a matrix"].values
    p = ", ".join(f"{name}: {p_value(chosen, x):.2g}" for name, x in predicted.items())
    text = []
    for name in ("SGD", "SDE"):
        d, out = get(data, f"{name} distance"), get(data, f"{name} outliers")
        text.append(
            f"{name}: D from {d.value[0]:.3f} to {d.value[-1]:.3f} ± {d.standard_error[-1]:.3f}, "
            f"{out.value[-1]:.2f} ± {out.standard_error[-1]:.2f} outliers of {config.inner} levels"
        )
    return f"p at the start, {p}. After {config.num_steps} iterations, {'; '.join(text)}."


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities at the start and at the end, distances and outliers over time."""
    figure, axes = new_figure(1, 3, width=4.4, height=3.6)
    density, moved, outliers = axes[0]
    exact = predicted["law"]
    top = max(float(data[f"{name} levels"].values[-1].max()) for name in ("SGD", "SDE"))
    bins = np.linspace(0, 1.02 * top, 50)
    chosen = data["one level a matrix"].values
    style: dict[str, Any] = {"bins": bins, "density": True}
    density.hist(chosen, color="0.85", label="start, one level a matrix", **style)
    for name in ("SGD", "SDE"):
        last = data[f"{name} levels"].values[-1].ravel()
        density.hist(last, histtype="step", color=COLOURS[name], label=f"{name}, end", **style)
        k = data["k"].values
        band(moved, k, get(data, f"{name} distance"), name)
        band(outliers, k, get(data, f"{name} outliers"), name)
    low, high = exact.edges
    grid = np.linspace(low, high, 400)
    density.plot(grid, exact.pdf(grid), color=COLOURS["prediction"], label="Marchenko–Pastur")
    threshold = float(data["threshold"])
    density.axvline(threshold, color=COLOURS["other"], linestyle="--", label="outlier threshold")
    level = get(data, "SGD distance").value[0]
    moved.axhline(level, color=COLOURS["prediction"], linestyle=":", label="start")
    outliers.axhline(1 - LEVEL, color=COLOURS["prediction"], linestyle=":", label="at random")
    density.set_xlabel("level λ of WWᵀ")
    density.set_ylabel("density")
    density.set_title(f"inner weight {config.inner} × {config.outer}", fontsize=10)
    moved.set_xlabel("iteration k")
    moved.set_ylabel("D = sup |F − F_MP|, mean ± 2 s.e.")
    moved.set_title(f"η = {config.learning_rate:g}, B = {config.batch_size}", fontsize=10)
    outliers.set_xlabel("iteration k")
    outliers.set_ylabel("outliers a network, mean ± 2 s.e.")
    for axis in (density, moved, outliers):
        axis.legend(frameon=False, fontsize=8)
    return figure
