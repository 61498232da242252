"""The stationary covariance of SGD on real data, entry by entry, against exact values.

On least squares, ℓ_i = ½(x_i·θ − y_i)², the covariance M of SGD (learning rate η, Cov ĝ = c Σ(θ))
and of Euler–Maruyama with step h on its SDE solves, with H_i = x_i x_iᵀ and H their mean,

    H M + M H − h H M H − η c [(1/N) Σ_i H_i M H_i − H M H] = η c Σ(θ*).

SGD and the Euler scheme at h = η share M, although only the scheme has Gaussian noise: the equation
knows the gradient through its covariance alone. A scheme at h = η/substeps and the SDE (h → 0) have
M's of their own; so has frozen noise, Σ(θ*) for Σ(θ), which drops the bracket.

Claim: each process has the stationary covariance that the equation gives for its own step and its
own sampling scheme, in every entry, and has no other: SGD has neither the SDE's nor that of frozen
noise.

Source: second-moment closure, exact for any finite data set (documented in
sde_sgd.theory.stationary.least_squares); the frozen-noise form is Mandt, Hoffman, Blei 2017
(1704.04289) with the finite-step term of Liu, Ziyin, Ueda 2021 (2012.03636).

Command: python -m experiments stationary_covariance --preset paper
Subject: stationary
"""

import dataclasses
import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_directions: int = 6
    """d: principal directions of each data set, the first of variance 1"""
    learning_rate: float = 0.3
    """η"""
    batch_size: int = 8
    """B on the whole data sets"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    subset_size: int = 64
    """N of the subset on which the two sampling schemes are told apart"""
    subset_batch_size: int = 16
    """B on that subset"""
    ensemble_size: int = 4096
    """independent members a process"""
    num_steps: int = 250
    """iterations a member"""
    burn_in: int = 100
    """iterations left out, from the start at the minimum"""
    precision: float = 0.002
    """largest standard error with which a row may agree, in units of the trace"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(substeps=8, ensemble_size=8192, num_steps=1600),
}

REAL = ("digits", "diabetes")
SUBSET = "digits subset"
LABELS = {
    "sgd": "SGD",
    "euler": "Euler, h = η",
    "sde": "SDE, h = η/substeps",
    "with": "SGD with replacement",
    "without": "SGD without replacement",
}
# (process, exact value, what must come out): fixed before any run.
PAIRS = (
    ("sgd", "h = η", "agree"),
    ("euler", "h = η", "agree"),
    ("sde", "h = η/substeps", "agree"),
    ("sgd", "h = η/substeps", "deviate"),
    ("sde", "h = 0", "deviate"),
    ("sgd", "frozen noise", "deviate"),
)
SUBSET_PAIRS = (
    ("with", "c = 1/B", "agree"),
    ("without", "c = (N−B)/(B(N−1))", "agree"),
    ("with", "c = (N−B)/(B(N−1))", "deviate"),
    ("without", "c = 1/B", "deviate"),
)


def pairs(data: str) -> tuple[tuple[str, str, str], ...]:
    """What is compared with what on a data set."""
    return SUBSET_PAIRS if data == SUBSET else PAIRS


@functools.cache
def problems(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs (N, d) and targets (N,) of each data set."""
    digits = ss.data.digits_regression(config.num_directions)
    images, parity = np.asarray(digits.inputs), np.asarray(digits.targets)
    patients = ss.data.diabetes(test_fraction=0.0)
    left, singular, _ = np.linalg.svd(np.asarray(patients.inputs), full_matrices=False)
    directions = left * np.sqrt(len(left)) * singular / singular[0]
    return {
        "digits": (images, parity),
        "diabetes": (directions[:, : config.num_directions], np.asarray(patients.targets)),
        SUBSET: (images[: config.subset_size], parity[: config.subset_size]),
    }


def processes(config: Config, data: str) -> dict[str, ss.AbstractProcess]:
    """What runs on a data set."""
    inputs, targets = problems(config)[data]
    landscape, eta = ss.LeastSquares(inputs, targets), config.learning_rate
    if data == SUBSET:
        size = config.subset_batch_size
        schemes = {"with": ss.WithReplacement(size), "without": ss.WithoutReplacement(size)}
        return {name: ss.SGD(landscape, eta, sampling) for name, sampling in schemes.items()}
    sampling = ss.WithReplacement(config.batch_size)
    noise = ss.MinibatchNoise(sampling)
    return {
        "sgd": ss.SGD(landscape, eta, sampling),
        "euler": ss.ModifiedEquation(landscape, eta, noise, substeps=1),
        "sde": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Stationary covariances (d, d) of all processes, with errors from independent members."""
    variables = {}
    for data in problems(config):
        key, *keys = jr.split(key, 4)
        for (name, process), own in zip(processes(config, data).items(), keys, strict=False):
            run = ss.simulate(
                process,
                jnp.asarray(ss.theory.stationary.mean(process)),
                num_steps=config.num_steps,
                ensemble_size=config.ensemble_size,
                key=own,
                measures={"moments": ss.Moments(burn_in=config.burn_in)},
            )
            put(variables, f"{data} {name}", run["moments"].covariance, ("row", "column"))
    return xr.Dataset(variables)


def predict(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Exact M (d, d) by data set, and by the step, noise or scheme that it belongs to."""
    values, exact = {}, ss.theory.stationary.covariance
    for data in problems(config):
        own = processes(config, data)
        if data == SUBSET:
            values[data] = {
                "c = 1/B": exact(own["with"]),
                "c = (N−B)/(B(N−1))": exact(own["without"]),
            }
            continue
        sgd, sde = own["sgd"], own["sde"]
        landscape, sampling = sgd.landscape, ss.WithReplacement(config.batch_size)
        frozen = ss.ConstantNoise.at(landscape, jnp.asarray(landscape.rest()), sampling)
        values[data] = {
            "h = η": exact(sgd),
            "h = η/substeps": exact(sde),
            "h = 0": exact(sde.limit()),
            "frozen noise": exact(ss.GaussianSGD(landscape, config.learning_rate, frozen)),
        }
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own exact value, and against those it must not have."""
    rows = []
    for name, exact in predicted.items():
        for process, value, expected in pairs(name):
            rows.append(
                row(
                    get(data, f"{name} {process}"),
                    exact[value],
                    name=f"{name}: M against {value}",
                    process=LABELS[process],
                    expected=expected,
                    precision=config.precision,
                    scale=np.trace(exact[value]),
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How exactly the values were met, and by what factor the wrong ones miss."""
    predicted = predict(config)
    deviation, error, lines = 0.0, 0.0, []
    for name, exact in predicted.items():
        for process, value, expected in pairs(name):
            measured, trace = get(data, f"{name} {process}"), np.trace(exact[value])
            if expected == "agree":
                deviation = max(deviation, np.abs(measured.value - exact[value]).max() / trace)
                error = max(error, measured.standard_error.max() / trace)
    for name in REAL:
        trace = np.trace(get(data, f"{name} sgd").value)
        limit, frozen = (np.trace(predicted[name][value]) for value in ("h = 0", "frozen noise"))
        lines.append(
            f"On {name} the trace of SGD is {trace / limit:.4f} times the SDE's (h → 0) and "
            f"{trace / frozen:.4f} times that of frozen noise."
        )
    verdict = "Every" if all(c.as_expected for c in comparisons) else "Not every"
    return (
        f"{verdict} process has the covariance of its own step and scheme and no other: the "
        f"largest deviation of an entry is {deviation:.3%} of the trace, the largest standard "
        f"error {error:.3%}. " + " ".join(lines)
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Entries less SGD's exact value, in percent of its trace: measured points, exact levels."""
    second = "SGD (second ensemble)"
    styles = {"sgd": "SGD", "euler": "Gaussian SGD", "sde": "SDE", "with": "SGD", "without": second}
    levels = {
        "h = η": ("prediction", "-"),
        "h = η/substeps": ("SDE", "-"),
        "h = 0": ("SDE", ":"),
        "frozen noise": ("other", "--"),
        "c = 1/B": ("prediction", "-"),
        "c = (N−B)/(B(N−1))": (second, "-"),
    }
    steps = str(config.substeps)
    figure, axes = new_figure(3, 1, width=11.0, height=3.0)
    for axis, (name, exact) in zip(axes[:, 0], predicted.items(), strict=True):
        entries = np.triu_indices(config.num_directions)
        # Variances first, then covariances.
        order = np.argsort(entries[0] != entries[1], kind="stable")
        index = tuple(side[order] for side in entries)
        base = next(iter(exact.values()))
        place, percent = np.arange(len(index[0])), 100 / np.trace(base)
        for value, matrix in exact.items():
            colour, line = levels[value]
            height = percent * (matrix - base)[index]
            half = [place - 0.42, place + 0.42]
            style = {"color": COLOURS[colour], "linestyle": line, "linewidth": 1.2}
            axis.hlines(height, *half, label=f"exact, {value.replace('substeps', steps)}", **style)
        names = list(dict.fromkeys(pair[0] for pair in pairs(name)))
        for shift, process in zip(np.linspace(-0.24, 0.24, len(names)), names, strict=True):
            measured = get(data, f"{name} {process}")
            relative = ss.Estimate(
                percent * (measured.value - base)[index],
                percent * measured.standard_error[index],
                measured.num_samples,
            )
            label = LABELS[process].replace("substeps", steps)
            points(axis, place + shift, relative, label, color=COLOURS[styles[process]])
        num = len(problems(config)[name][1])
        batch = config.subset_batch_size if name == SUBSET else config.batch_size
        axis.set_title(f"{name}: N = {num}, B = {batch}, η = {config.learning_rate:g}")
        axis.set_xticks(place, [f"{i + 1},{j + 1}" for i, j in zip(*index, strict=True)])
        axis.set_ylabel("M_ij − exact M_ij of SGD\n(% of tr M, ± 1 s.e.)")
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[-1, 0].set_xlabel("entry i,j of the covariance M, in principal directions")
    return figure
