"""Bayesian evidence tells memorising from learning.

Logistic regression with prior precision λ; E = ln(null's evidence/model's evidence) by Laplace,

    E = C(ω₀) + ½ ln(det H/det Λ) − N ln 2 ,     E < 0 favours the model over guessing.

Two digits are told apart with true labels and with random ones (permuted, several draws). Whether
random labels can be memorised at all is certified by a linear program, not by training. E against
the test cross-entropy over λ is a rank correlation, on classes that overlap (few principal
directions) and on classes that are separable.

Claim: the model memorises random labels, and E > 0 where it does, while E < 0 for true labels; with
overlapping classes E and the test cross-entropy rank the λ alike.

Source: Smith & Le 2017 (1710.06451), figures 1 and 2.

Command: python -m experiments evidence_and_memorisation --preset paper
Subject: selection
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from scipy.optimize import linprog
from scipy.special import expit
from scipy.stats import spearmanr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure

from ._rows import scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the fits."""

    data: str = "digits"
    """digits (64 pixels) or mnist (784 pixels)"""
    classes: tuple[int, int] = (0, 1)
    """the two classes to memorise"""
    num_examples: int = 48
    """N of the memorisation part"""
    label_draws: int = 20
    """random labellings; E varies by about half its mean over them"""
    priors: tuple[float, ...] = tuple(float(10**p) for p in np.arange(-4, 4.1, 0.5))
    """λ"""
    memorising_prior: float = 0.0001
    """λ at which random labels are to be memorised"""
    overlap_classes: tuple[int, int] = (3, 8)
    """classes that overlap in few directions"""
    directions: int = 3
    """principal directions kept for them"""
    overlap_examples: int = 60
    """N of the overlapping part; all other examples test"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(data="mnist", num_examples=200, label_draws=12, directions=5),
}


@functools.cache
def memorisation(config: Config):
    """Inputs, true labels, test inputs and labels, of two separable classes."""
    load = {"digits": ss.data.digits, "mnist": ss.data.mnist_subset}
    if config.data not in load:
        raise ValueError(f"data must be one of {sorted(load)}; got {config.data!r}.")
    data = load[config.data](config.classes, scaling="unit")
    kept = config.num_examples
    if kept > len(data.inputs):
        raise ValueError(f"num_examples={kept}, and there are {len(data.inputs)}.")
    return tuple(
        np.asarray(x)
        for x in (data.inputs[:kept], data.targets[:kept], data.test_inputs, data.test_targets)
    )


@functools.cache
def overlapping(config: Config):
    """The same of two classes in a few directions."""
    data = ss.data.digits(
        config.overlap_classes, principal_directions=config.directions, test_fraction=0
    )
    inputs, labels = np.asarray(data.inputs), np.asarray(data.targets)
    kept = config.overlap_examples
    return inputs[:kept], labels[:kept], inputs[kept:], labels[kept:]


def separable(inputs: np.ndarray, labels: np.ndarray) -> bool:
    """Whether some (w, b) has ±(x·w + b) ≥ 1 on every example: a linear program's feasibility."""
    sign = np.where(labels == 1, 1.0, -1.0)[:, None]
    rows = -sign * np.hstack([inputs, np.ones((len(inputs), 1))])
    found = linprog(
        np.zeros(rows.shape[1]), A_ub=rows, b_ub=-np.ones(len(rows)), bounds=(None, None)
    )
    return found.status == 0


def fit(inputs, labels, test_inputs, test_labels, prior: float) -> tuple[float, ...]:
    """E, the accuracy in training, the test cross-entropy and the sharpness at the mode."""
    landscape = ss.LogisticRegression(jnp.asarray(inputs), jnp.asarray(labels), num_classes=2)
    found = ss.theory.selection.laplace_evidence(landscape, prior=prior, num_classes=2)

    def logits(x):
        return x @ found.mode[:-1] + found.mode[-1]

    right = (logits(inputs) > 0) == (labels == 1)
    sign = np.where(test_labels == 1, 1.0, -1.0)
    loss = -np.log(np.maximum(expit(sign * logits(test_inputs)), 1e-300)).mean()
    return found.value, float(right.mean()), float(loss), float(np.linalg.norm(found.hessian, 2))


def measure(config: Config, key) -> xr.Dataset:
    """E, training accuracy, test cross-entropy and sharpness over labellings and λ."""
    inputs, labels, *test = memorisation(config)
    draws = [
        np.asarray(ss.data.random_labels(jnp.asarray(labels), own))
        for own in jr.split(key, config.label_draws)
    ]
    sets = [(inputs, each, *test) for each in (labels, *draws)]
    one: Any = fit
    table = np.array([[one(*each, prior) for prior in config.priors] for each in sets])
    overlap = np.array([one(*overlapping(config), prior) for prior in config.priors])
    quantity = ["evidence", "training accuracy", "test cross-entropy", "sharpness"]
    certified = [separable(inputs, each) for each in (labels, *draws)]
    return xr.Dataset(
        {
            "fits": (("labels", "prior", "quantity"), table),
            "overlap": (("prior", "quantity"), overlap),
            "separable": (("labels",), np.array(certified)),
            "overlap_separable": ((), separable(*overlapping(config)[:2])),
        },
        coords={"prior": list(config.priors), "quantity": quantity},
    )


def predict(config: Config) -> dict[str, float]:
    """What the claim says: no number of the fits is predicted beyond these."""
    return {"memorised": 1.0, "null": 0.0, "rank": 0.0}


def correlation(data: xr.Dataset, which: str) -> float:
    """Spearman's ρ of E and the test cross-entropy over λ."""
    rows = data["overlap"] if which == "overlapping" else data["fits"][0]
    found: Any = spearmanr(rows.values[:, 0], rows.values[:, 2])
    return float(found[0])


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Memorised or not, the sign of E, the rank correlation."""
    at = int(np.argmin(np.abs(np.log(np.array(config.priors) / config.memorising_prior))))
    accuracy = data["fits"].values[1:, at, 1]
    evidence = data["fits"].values[1:, at, 0]
    true = float(data["fits"].values[0, :, 0].min())
    draws, num = len(evidence), len(config.priors)
    where = f"λ = {config.priors[at]:g}, {draws} random labellings"
    rho = correlation(data, "overlapping")
    # Fisher's error of a rank correlation over that many λ.
    error = 1.06 / np.sqrt(max(num - 3, 1)) * (1 - rho**2)
    exact = ss.Estimate(np.zeros(()), np.zeros(()), draws)
    return [
        ss.compare(
            scalar(data["separable"].values.mean(), 0, draws + 1),
            1.0,
            name="share of labellings that a linear program separates",
            process="linear program",
        ),
        ss.compare(
            scalar(accuracy.min(), 0, draws),
            predicted["memorised"],
            name=f"lowest training accuracy, {where}",
            process="logistic regression",
        ),
        ss.compare(
            scalar(min(evidence.min(), 0.0), 0, draws),
            exact,
            name=f"negative part of the lowest E, {where}",
            process="Laplace",
        ),
        ss.compare(
            ss.Estimate.from_samples(evidence),
            predicted["null"],
            name=f"mean E, {where}",
            process="Laplace",
            expected="deviate",
        ),
        ss.compare(
            scalar(max(true, 0.0), 0, num),
            0.0,
            name="positive part of the lowest E over λ, true labels",
            process="Laplace",
        ),
        ss.compare(
            scalar(rho, error, num),
            predicted["rank"],
            name="rank correlation of E and test cross-entropy, overlapping classes",
            process="Laplace",
            expected="deviate",
            failure_rate=0.01,
        ),
    ]


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Both correlations, and what sharpness says."""
    true, random = data["fits"].values[0], data["fits"].values[1:]
    best, lowest = int(true[:, 0].argmin()), int(true[:, 2].argmin())
    overlap, apart = correlation(data, "overlapping"), correlation(data, "separable")
    weak, strong = true[best, 3], random[:, best, 3].mean()
    return (
        f"True labels: E = {true[best, 0]:.2f} at λ = {config.priors[best]:g}, its minimum. "
        f"Random labels: E is least {random[:, :, 0].min():.2f} over labellings and λ. "
        f"Rank correlation of E and test cross-entropy: {overlap:.2f} with overlapping classes, "
        f"{apart:.2f} with separable ones, whose test loss is lowest at λ = "
        f"{config.priors[lowest]:g}. At λ = {config.priors[best]:g} the sharpness of the cost is "
        f"{weak:.3g} for true and {strong:.3g} for random labels."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """E over λ for true and random labels; E and test cross-entropy of both problems."""
    figure, axes = new_figure(1, 3, width=4.6, height=3.6)
    priors, fits = np.array(config.priors), data["fits"].values
    size = config.num_examples
    axes[0, 0].plot(priors, fits[1:, :, 0].T / size, color=COLOURS["SDE"], linewidth=0.7)
    axes[0, 0].plot([], [], color=COLOURS["SDE"], label="random labels")
    axes[0, 0].plot(priors, fits[0, :, 0] / size, color=COLOURS["SGD"], label="true labels")
    axes[0, 0].axhline(0, color="k", linewidth=0.7)
    axes[0, 0].set_ylabel("E / N, nats (below 0: the model is favoured)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    panels = (
        ("overlapping classes", data["overlap"].values, config.overlap_examples),
        ("separable classes", fits[0], size),
    )
    for axis, (name, rows, num) in zip(axes[0, 1:], panels, strict=True):
        axis.plot(priors, rows[:, 0] / num, color=COLOURS["SGD"], label="E / N")
        axis.plot(priors, rows[:, 2], color=COLOURS["other"], label="test cross-entropy")
        axis.set_title(name, fontsize=10)
        axis.set_ylabel("nats an example")
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[0]:
        axis.set_xscale("log")
        axis.set_xlabel("λ")
    return figure
