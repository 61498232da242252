"""How large the fluctuations of SGD are on real data, and which published formula says so.

On least squares the second moments of SGD close exactly: the noise covariance c Σ(θ) is quadratic
in θ. The formulas in use make one approximation or two,

| formula | stationary covariance M |
|---|---|
| exact, SGD | HM + MH − ηHMH − ηc[(1/N) Σ_i H_i M H_i − HMH] = ηc Σ(θ*) |
| exact, SDE | the same without ηHMH, in the limit of small solver steps |
| finite η, constant noise | HM + MH − ηHMH = ηc Σ(θ*) |
| Ornstein–Uhlenbeck | HM + MH = ηc Σ(θ*) |

with H_i = x_i x_iᵀ. The bracket feeds the fluctuations back into the noise: it is of order ηc·M, as
large as what a finite learning rate adds.

Claim: SGD, with momentum and without, and its SDE have the exact covariances of their own at every
learning rate; constant noise underestimates the fluctuations of SGD even with the finite-η term.

Source: Mandt, Hoffman, Blei 2017 (1704.04289), for the Ornstein–Uhlenbeck form; Liu,
Ziyin, Ueda 2021 (2012.03636), for finite η; the exact forms are derived in
sde_sgd.theory.stationary.least_squares.

Command: python -m experiments least_squares_exact_covariance --preset paper
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
    learning_rates: tuple[float, ...] = (0.1, 0.3)
    """η"""
    batch_size: int = 4
    """B, with replacement"""
    momentum: float = 0.5
    """μ of the heavy-ball run"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 2048
    """independent members a process"""
    num_times: float = 100.0
    """length of a run in units of t = ηk"""
    precision: float = 0.01
    """largest standard error of a trace with which a row may agree, relative"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        learning_rates=(0.05, 0.1, 0.2, 0.3, 0.4), substeps=8, ensemble_size=4096, num_times=300.0
    ),
}

DATA = ("digits", "breast cancer")
LABELS = {"sgd": "SGD", "momentum": "SGD with momentum", "sde": "SDE, h = η/substeps"}
OWN = {"sgd": "exact, SGD", "momentum": "exact, momentum", "sde": "exact, SDE at h"}
PUBLISHED = ("finite η, constant noise", "Ornstein–Uhlenbeck")


@functools.cache
def problems(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs (N, d) and targets ±1 (N,) of each data set."""
    digits = ss.data.digits_regression(config.num_directions)
    tumours = ss.data.breast_cancer(test_fraction=0.0)
    left, singular, _ = np.linalg.svd(np.asarray(tumours.inputs), full_matrices=False)
    directions = left * np.sqrt(len(left)) * singular / singular[0]
    return {
        "digits": (np.asarray(digits.inputs), np.asarray(digits.targets)),
        "breast cancer": (
            directions[:, : config.num_directions],
            2.0 * np.asarray(tumours.targets) - 1.0,
        ),
    }


def processes(config: Config, data: str, eta: float) -> dict[str, ss.AbstractProcess]:
    """What runs on a data set at one learning rate."""
    landscape = ss.LeastSquares(*problems(config)[data])
    sampling = ss.WithReplacement(config.batch_size)
    noise = ss.MinibatchNoise(sampling)
    return {
        "sgd": ss.SGD(landscape, eta, sampling),
        "momentum": ss.SGD(landscape, eta, sampling, momentum=config.momentum),
        "sde": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Stationary covariances (η, d, d); the second half of a run that starts at the minimum."""
    variables = {}
    for data in problems(config):
        found = {name: [] for name in LABELS}
        for eta in config.learning_rates:
            key, *keys = jr.split(key, 4)
            num_steps = round(config.num_times / eta)
            for (name, process), own in zip(
                processes(config, data, eta).items(), keys, strict=True
            ):
                run = ss.simulate(
                    process,
                    jnp.asarray(ss.theory.stationary.mean(process)),
                    num_steps=num_steps,
                    ensemble_size=config.ensemble_size,
                    key=own,
                    measures={"moments": ss.Moments(burn_in=num_steps // 2)},
                )
                found[name].append(run["moments"].covariance)
        for name, rates in found.items():
            both = ss.Estimate(
                np.stack([e.value for e in rates]),
                np.stack([e.standard_error for e in rates]),
                config.ensemble_size,
            )
            put(variables, f"{data} {name}", both, ("learning_rate", "row", "column"))
    return xr.Dataset(variables, {"learning_rate": list(config.learning_rates)})


def curves(config: Config, data: str, rates) -> dict[str, np.ndarray]:
    """Every formula's M, (rates, d, d), by name."""
    landscape = ss.LeastSquares(*problems(config)[data])
    sampling = ss.WithReplacement(config.batch_size)
    frozen = ss.ConstantNoise.at(landscape, jnp.asarray(landscape.rest()), sampling)
    found: dict[str, list[np.ndarray]] = {}
    for eta in map(float, rates):
        own = processes(config, data, eta)
        held = ss.ModifiedEquation(landscape, eta, frozen, substeps=1)
        formulas = {
            "exact, SGD": own["sgd"],
            "exact, momentum": own["momentum"],
            "exact, SDE at h": own["sde"],
            "exact, SDE": own["sde"].limit(),
            PUBLISHED[0]: held,
            PUBLISHED[1]: held.limit(),
        }
        for name, process in formulas.items():
            found.setdefault(name, []).append(ss.theory.stationary.covariance(process))
    return {name: np.stack(values) for name, values in found.items()}


def predict(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """M by data set and formula, (η, d, d)."""
    return {data: curves(config, data, config.learning_rates) for data in DATA}


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own exact value; SGD, at the largest η, against the others."""
    rows = []
    for name, formulas in predicted.items():
        for process, label in LABELS.items():
            exact = formulas[OWN[process]]
            rows.append(
                row(
                    get(data, f"{name} {process}"),
                    exact,
                    name=f"{name}: M at every η",
                    process=label,
                    precision=config.precision,
                    scale=np.trace(exact, axis1=1, axis2=2)[:, None, None],
                )
            )
        top = get(data, f"{name} sgd")[-1]
        for formula in ("exact, SDE", *PUBLISHED):
            rows.append(
                ss.compare(
                    top,
                    formulas[formula][-1],
                    name=f"{name}: M at η = {config.learning_rates[-1]:g}, {formula}",
                    process="SGD",
                    expected="deviate",
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """By how much the published formulas miss."""
    lines = []
    for name, formulas in predict(config).items():
        trace = np.trace(get(data, f"{name} sgd").value[-1])
        misses = ", ".join(f"{np.trace(formulas[f][-1]) / trace - 1:+.1%} ({f})" for f in PUBLISHED)
        lines.append(
            f"At η = {config.learning_rates[-1]:g}, B = {config.batch_size} on {name} the trace "
            f"of SGD's covariance is missed by {misses}."
        )
    return " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """tr M in units of the Ornstein–Uhlenbeck value, over η: measured points, every formula."""
    figure, axes = new_figure(1, len(DATA), width=5.6, height=4.2)
    # On the slow clock t/(1 − μ) momentum's noise is that of a rate η/(1 − μ).
    scale = {name: 1 - config.momentum for name in ("exact, momentum", "momentum")}
    grid = np.linspace(0.005, 1.08 * max(config.learning_rates), 25)
    styles = {
        "exact, SGD": ("SGD", "-"),
        "exact, momentum": ("SGD (second ensemble)", "-"),
        "exact, SDE at h": ("SDE", "-"),
        "exact, SDE": ("SDE", ":"),
        PUBLISHED[0]: ("other", "--"),
        PUBLISHED[1]: ("other", ":"),
    }
    shown = {"sgd": "SGD", "momentum": "SGD (second ensemble)", "sde": "SDE"}
    for axis, name in zip(axes[0], DATA, strict=True):
        lines = {k: np.trace(v, axis1=1, axis2=2) for k, v in curves(config, name, grid).items()}
        for formula, (colour, line) in styles.items():
            ratio = lines[formula] / lines[PUBLISHED[1]] * scale.get(formula, 1)
            axis.plot(grid, ratio, line, color=COLOURS[colour], linewidth=1.3, label=formula)
        base = np.trace(predicted[name][PUBLISHED[1]], axis1=1, axis2=2)
        for process, colour in shown.items():
            measured = get(data, f"{name} {process}")
            # Errors of the diagonal added up as if fully correlated: an upper bound.
            error = np.trace(measured.standard_error, axis1=1, axis2=2)
            trace = np.trace(measured.value, axis1=1, axis2=2)
            unit = base / scale.get(process, 1)
            relative = ss.Estimate(trace / unit, error / unit, measured.num_samples)
            label = LABELS[process].replace("substeps", str(config.substeps))
            rates = np.asarray(config.learning_rates)
            points(axis, rates, relative, label, color=COLOURS[colour])
        num = len(problems(config)[name][1])
        axis.set_title(f"{name}: N = {num}, B = {config.batch_size}, μ = {config.momentum:g} or 0")
        axis.set_xlabel("learning rate η")
        axis.set_ylabel("(1 − μ) tr M / tr M of Ornstein–Uhlenbeck (± 1 s.e.)", fontsize=9)
    axes[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
