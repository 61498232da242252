"""Shuffled epochs nearly cancel the noise of SGD in flat directions, which no white-noise SDE sees.

The M = N/B batches of an epoch are drawn without replacement, so that their noises add up to zero:
two steps of one epoch have covariance −s²/(M−1), s² the variance of one step's gradient. On a
quadratic of curvature h the variance of θ depends on the phase of the epoch and is smallest at its
end. Where ηhM ≪ 1 its average over the epoch tends to η²s²(M+1)/6, whatever h, while independent
batches have ηs²/[h(2 − ηh)] and their SDE ηs²/(2h), both growing without bound as h → 0. In a flat
direction θ returns to its start after every epoch, exactly.

Claim: shuffled SGD has the small variance of anticorrelated noise, at every phase of the epoch;
the SDE that is matched to one step's noise misses it by a factor of 15 at ηh = 0.01.

Source: Kühn, Rosenow 2023 (2306.05300), who give the leading order; the exact value at every
phase is in sde_sgd.theory.stationary.epochs.

Command: python -m experiments epoch_shuffling_variance --preset paper
Subject: stationary
"""

import dataclasses

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

    learning_rate: float = 0.1
    """η"""
    batches_per_epoch: int = 20
    """M = N/B"""
    batch_size: int = 2
    """B"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 24576
    """independent members a process"""
    epochs: int = 60
    """length of a run; the second half is measured"""
    precision: float = 0.01
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(substeps=8, ensemble_size=65536, epochs=240),
}

# Curvatures: ηhM = 0.2, 0.02 and a flat direction.
CURVATURES = (0.1, 0.01, 0.0)
NAMES = {"shuffled": "SGD, shuffled epochs", "independent": "SGD, independent batches"}


def problem(config: Config, curvature: float) -> ss.AbstractFiniteSum:
    """½hθ² with N tilts such that one step's gradient has variance s² = 1."""
    num, size = config.batches_per_epoch * config.batch_size, config.batch_size
    tilts = np.linspace(-1.0, 1.0, num) ** 3
    tilts -= tilts.mean()
    factor = (num - size) / (size * (num - 1))
    tilts /= np.sqrt(factor * np.mean(tilts**2))
    energy = ss.quadratic([[curvature]], 1.0).energy
    return ss.Potential(energy, tilts=jnp.asarray(tilts)[:, None])


def processes(config: Config, curvature: float) -> dict[str, ss.AbstractProcess]:
    """Shuffled and independent batches, and the SDE of one step's noise."""
    landscape, eta, size = problem(config, curvature), config.learning_rate, config.batch_size
    fresh = ss.WithoutReplacement(size)
    noise = ss.MinibatchNoise(fresh)
    return {
        "shuffled": ss.SGD(landscape, eta, ss.RandomReshuffling(size)),
        "independent": ss.SGD(landscape, eta, fresh),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }


def start(config: Config, curvature: float, name: str) -> jnp.ndarray:
    """Gaussian starts (members, 1) of about the stationary variance, so that little must decay."""
    rng = np.random.default_rng(1)
    draws = rng.standard_normal((config.ensemble_size, 1))
    exact = predict(config)
    if curvature == 0:
        return jnp.zeros((config.ensemble_size, 1))
    if name == "shuffled":
        return jnp.asarray(draws * np.sqrt(exact[curvature]["shuffled"].epoch_end[0, 0]))
    return jnp.asarray(draws * np.sqrt(exact[curvature][name]))


def measure(config: Config, key) -> xr.Dataset:
    """Variances over the whole epoch, at each phase, and at its end."""
    variables = {}
    period = config.batches_per_epoch
    burn_in = period * (config.epochs // 2)
    last = period * (config.epochs - 1)
    watch = {
        "all": ss.Moments(burn_in=burn_in, covariance="diagonal"),
        "end": ss.Moments(burn_in=burn_in, every=period, covariance="diagonal"),
        "phases": ss.Snapshots(range(last, last + period)),
    }
    for curvature in CURVATURES:
        for name, process in processes(config, curvature).items():
            if curvature == 0 and name != "shuffled":
                continue
            key, own = jr.split(key)
            run = ss.simulate(
                process,
                start(config, curvature, name),
                num_steps=period * config.epochs,
                ensemble_size=config.ensemble_size,
                key=own,
                measures=watch if name == "shuffled" else {"all": watch["all"]},
            )
            label = f"h={curvature:g} {name}"
            put(variables, label, run["all"].variance[0])
            if name == "shuffled":
                put(variables, f"{label} end", run["end"].variance[0])
                squares = ss.Estimate.from_samples(run["phases"].values[:, :, 0].T ** 2)
                put(variables, f"{label} phases", squares, ("phase",))
                if curvature == 0:
                    largest = np.abs(run["phases"].values[0]).max()
                    variables["largest return"] = ((), float(largest))
    return xr.Dataset(variables, {"phase": np.arange(period)})


def predict(config: Config) -> dict:
    """Exact variances by curvature and process; "limit" is the SDE's for h → 0."""
    eta, values = config.learning_rate, {}
    for curvature in CURVATURES:
        epochs = ss.theory.stationary.epoch_covariance(
            [[curvature]], [[1.0]], learning_rate=eta, batches_per_epoch=config.batches_per_epoch
        )
        values[curvature] = {"shuffled": epochs}
        if curvature > 0:
            own = processes(config, curvature)
            own["limit"] = own["SDE"].limit()
            values[curvature] |= {
                name: ss.theory.stationary.covariance(own[name]).item()
                for name in ("independent", "SDE", "limit")
            }
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Every process at every curvature; the SDE and independent batches where they must miss."""
    rows = []

    def add(label, value, name, process, expected="agree"):
        measured = get(data, label)
        # Of one variance; one that is 0 has no relative error.
        relative = np.ndim(value) == 0 and bool(value)
        precision = config.precision if relative else None
        options = {"name": name, "process": process, "expected": expected, "precision": precision}
        rows.append(row(measured, value, **options))

    for curvature, exact in predicted.items():
        h, epochs = f"h={curvature:g}", exact["shuffled"]
        label, process = f"{h} shuffled", NAMES["shuffled"]
        add(label, epochs.average[0, 0], f"{h}: variance over the epoch", process)
        if curvature == 0:
            continue
        add(f"{label} end", epochs.epoch_end[0, 0], f"{h}: variance at its end", process)
        add(f"{label} phases", epochs.phases[:, 0, 0], f"{h}: variance at every phase", process)
        add(f"{h} independent", exact["independent"], f"{h}: variance", NAMES["independent"])
        add(f"{h} SDE", exact["SDE"], f"{h}: variance at its step", "SDE")
        add(label, exact["SDE"], f"{h}: the SDE's variance", process, "deviate")
        independent = f"{h} independent"
        name = f"{h}: shuffled variance"
        add(independent, epochs.average[0, 0], name, NAMES["independent"], "deviate")
    # What rounding leaves of as many additions of numbers below 1 as the run has iterations.
    rounding = 0.1 * config.epochs * config.batches_per_epoch * np.finfo(float).eps
    returned = np.asarray(data["largest return"].values)
    largest = ss.Estimate(returned, np.asarray(rounding), config.ensemble_size)
    rows.append(
        ss.compare(
            largest,
            0.0,
            name="h=0: |θ| after an epoch",
            process=NAMES["shuffled"],
            expected="agree",
        )
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """By what factor the SDE misses."""
    exact = predict(config)
    factors = ", ".join(
        f"{exact[h]['limit'] / get(data, f'h={h:g} shuffled').value:.1f} at h = {h:g}"
        for h in CURVATURES
        if h > 0
    )
    return f"The variance of the SDE (h → 0 of the solver) is that of shuffled SGD times {factors}."


def plot(config: Config, data: xr.Dataset, predicted):
    """Variance over the curvature, and over the phase of the epoch."""
    figure, axes = new_figure(1, 2, width=5.2, height=4.0)
    left, right = axes[0]
    eta, period = config.learning_rate, config.batches_per_epoch
    grid = np.geomspace(1e-3, 1, 60)
    shuffled = [
        ss.theory.stationary.epoch_covariance(
            [[h]], [[1.0]], learning_rate=eta, batches_per_epoch=period
        ).average[0, 0]
        for h in grid
    ]
    left.plot(grid, shuffled, color=COLOURS["prediction"], label="exact, shuffled epochs")
    independent = eta / (grid * (2 - eta * grid))
    left.plot(grid, independent, "--", color=COLOURS["prediction"], label="exact, independent")
    left.plot(grid, eta / (2 * grid), ":", color=COLOURS["SDE"], label="Ornstein–Uhlenbeck")
    colours = {"shuffled": "SGD", "independent": "SGD (second ensemble)", "SDE": "SDE"}
    for name, colour in colours.items():
        found = [get(data, f"h={h:g} {name}") for h in CURVATURES if h > 0]
        values = ss.Estimate(
            np.array([float(e.value) for e in found]),
            np.array([float(e.standard_error) for e in found]),
            config.ensemble_size,
        )
        # Side by side: independent batches would hide behind the SDE.
        shift = {"shuffled": 1.0, "independent": 0.9, "SDE": 1.1}[name]
        places = [shift * h for h in CURVATURES if h > 0]
        points(left, places, values, NAMES.get(name, name), color=COLOURS[colour])
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("curvature h (points of one h side by side)")
    left.set_ylabel("variance of θ over the epoch (± 1 s.e.)")
    left.legend(frameon=False, fontsize=8)
    for h, colour in zip(CURVATURES, ("SGD", "Gaussian SGD", "other"), strict=True):
        exact = predicted[h]["shuffled"].phases[:, 0, 0]
        right.plot(np.arange(period), exact, color=COLOURS[colour], linewidth=1)
        measured = get(data, f"h={h:g} shuffled phases")
        points(right, np.arange(period), measured, f"SGD, h = {h:g}", color=COLOURS[colour])
    right.plot([], [], color="black", linewidth=1, label="exact")
    right.set_xticks(range(0, period, max(1, period // 5)))
    right.set_xlabel("steps since the epoch began")
    right.set_ylabel("variance of θ (± 1 s.e.)")
    right.legend(frameon=False, fontsize=8)
    return figure
