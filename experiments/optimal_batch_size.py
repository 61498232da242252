"""The batch size of highest test accuracy at a fixed number of updates, and how it scales.

Smith & Le: a noise scale g = ε(N/B − 1)/(1 − m) is best for the test accuracy, so that the best
batch size at a fixed number of updates is

    B_opt ∝ ε N/(1 − m) .

(Their step −(ε/N)∇C on the summed cost is −ε∇L on the mean loss: ε is the learning rate here.)
B_opt is the middle, in log B, of the batch sizes whose test score is within one standard error of
the best; exponents are least-squares slopes in logarithms, with intervals from a bootstrap over
members. Two problems go through this one procedure:

- a quadratic whose training minimum is off the best test parameter by a posterior's width, with
  B_opt and its exponents known from exact algebra (`_best_batch.py`);
- a ReLU network on digits of which a share of the labels is wrong. Small batches are too noisy to
  learn, large ones memorise the wrong labels.

Claim: the procedure finds the exact exponents of the quadratic; the network has a best batch size
inside the range, from which on ε and m enter its accuracy as ε/(1 − m). Whether the network's
exponents against ε, N and 1/(1 − m) are 1 is open at this size: the conclusion says of each
whether proportionality is supported, rejected or undecided, by accuracy and by cross-entropy.

Source: Smith & Le 2017 (1710.06451), figures 3 to 7.

Command: python -m experiments optimal_batch_size --preset paper
Subject: selection
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import sde_sgd as ss
from sde_sgd.plots import new_figure, points

from ._best_batch import (
    Exponent,
    exponent,
    KNOWN,
    known_accuracy,
    known_best,
    known_scores,
    KNOWN_SIZES,
    label,
    log_best,
    scale,
    Setting,
)
from ._rows import row, scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rates: tuple[float, ...] = (0.2, 0.8)
    """ε of the network at the reference N and m"""
    sizes: tuple[int, ...] = (800,)
    """N of the network at the reference ε and m"""
    momenta: tuple[float, ...] = (0.5, 0.875)
    """m of the network at the reference ε and N"""
    reference: tuple[float, int, float] = (0.2, 800, 0.5)
    """(ε, N, m) that the three series of the network share"""
    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32)
    """B of the network"""
    num_steps: int = 2000
    """updates of the network, the same for all"""
    width: int = 32
    """of its one hidden layer"""
    wrong_labels: float = 0.4
    """share of the training labels that are wrong"""
    ensemble_size: int = 60
    """its starts; the first third chooses a batch size, the others judge it"""
    resamples: int = 400
    """of the bootstrap"""
    resolution: float = 0.1
    """largest difference of two accuracies that counts as none"""
    known_members: int = 8192
    """members on the quadratic, in blocks of 64"""
    known_precision: float = 0.15
    """the same for the exponents of the quadratic"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        learning_rates=(0.2, 0.4, 0.8),
        sizes=(400, 800, 1200),
        momenta=(0.5, 0.75, 0.875),
        batch_sizes=(2, 3, 4, 6, 8, 12, 16, 24, 32),
        resamples=2000,
        known_members=32768,
        known_precision=0.12,
    ),
}
SERIES = ("ε", "N", "1/(1 − m)")
SCORES = ("accuracy", "cross-entropy")
TEST_IMAGES = 597


def settings(config: Config) -> dict[str, list[Setting]]:
    """The curves of the network along each series."""
    eps, num, momentum = config.reference
    return {
        "ε": [Setting(e, num, momentum) for e in config.learning_rates],
        "N": [Setting(eps, n, momentum) for n in config.sizes],
        "1/(1 − m)": [Setting(eps, num, m) for m in config.momenta],
    }


class Digits(NamedTuple):
    """Training images with wrong labels, and test images with true ones."""

    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array


@functools.cache
def images(share: float) -> Digits:
    """All digits; each training label is wrong with probability `share`, whatever N is."""
    data = ss.data.digits(scaling="unit", test_fraction=TEST_IMAGES / 1797, dtype=jnp.float32)
    rng = np.random.default_rng(0)
    wrong = rng.random(len(data.targets)) < share
    other = (np.asarray(data.targets) + rng.integers(1, 10, len(wrong))) % 10
    labels = np.where(wrong, other, data.targets).astype(np.int32)
    # Centred: the mean image would give one direction nearly all of the curvature.
    mean = data.inputs.mean(axis=0)
    return Digits(
        data.inputs - mean, jnp.asarray(labels), data.test_inputs - mean, data.test_targets
    )


def network(config: Config, key) -> eqx.nn.MLP:
    """64 pixels, one hidden layer of ReLUs, 10 classes."""
    return eqx.nn.MLP(64, 10, config.width, 1, dtype=jnp.float32, key=key)


def scores(config: Config, setting: Setting, size: int, starts: Array, key) -> np.ndarray:
    """Test accuracy and minus the test cross-entropy of every member, (members, 2)."""
    eps, num, momentum = setting
    data = images(config.wrong_labels)
    landscape = ss.EmpiricalRisk(
        network(config, jr.key(0)), data.inputs[:num], data.labels[:num], ss.cross_entropy
    )
    run = ss.simulate(
        ss.SGD(landscape, eps, ss.WithoutReplacement(size), momentum=momentum),
        starts,
        num_steps=config.num_steps,
        ensemble_size=config.ensemble_size,
        key=key,
        measures={},
        on_divergence="mask",
    )
    found = np.asarray(_scores(landscape.model, jnp.asarray(run.positions), data))
    # A diverged member says one tenth to every class.
    return np.where(run.alive[:, None], found, [0.1, -np.log(10)])


@eqx.filter_jit
def _scores(model, positions: Array, data: Digits) -> Array:
    def one(theta):
        logs = jax.nn.log_softmax(jax.vmap(model(theta))(data.test_inputs))
        right = (logs.argmax(axis=-1) == data.test_labels).mean()
        told = jnp.take_along_axis(logs, data.test_labels[:, None], 1).mean()
        return jnp.stack([right, told])

    return jax.lax.map(one, positions)


def measure(config: Config, key) -> xr.Dataset:
    """Scores (settings, batch sizes, members) of both problems; NaN where B ≥ N."""
    first, second, last = jr.split(key, 3)
    curves = list(dict.fromkeys(s for each in KNOWN.values() for s in each))
    pairs = zip(curves, jr.split(first, len(curves)), strict=True)
    known = np.stack([known_scores(setting, config.known_members, own) for setting, own in pairs])
    keys = jr.split(second, config.ensemble_size)
    starts = jnp.stack(
        [ravel_pytree(eqx.filter(network(config, k), eqx.is_inexact_array))[0] for k in keys]
    )
    trained = list(dict.fromkeys(s for each in settings(config).values() for s in each))
    shape = (len(trained), len(config.batch_sizes), config.ensemble_size, 2)
    found = np.full(shape, np.nan)
    for i, setting in enumerate(trained):
        for j, size in enumerate(config.batch_sizes):
            last, own = jr.split(last)
            if size < setting.num_examples:
                found[i, j] = scores(config, setting, size, starts, own)
    return xr.Dataset(
        {
            "known": (("curve", "known_batch", "known_block"), known),
            "network": (("setting", "batch", "member", "score"), found),
        },
        coords={
            "curve": [label(s) for s in curves],
            "known_batch": list(KNOWN_SIZES),
            "setting": [label(s) for s in trained],
            "batch": list(config.batch_sizes),
            "score": list(SCORES),
        },
    )


def known_exponents(config: Config, data: xr.Dataset) -> dict[str, Exponent]:
    """Of the quadratic, as simulated."""
    return {
        series: exponent(
            KNOWN_SIZES,
            [scale(series, s) for s in each],
            [data["known"].sel(curve=label(s)).values for s in each],
            config.resamples,
        )
        for series, each in KNOWN.items()
    }


def exponents(config: Config, data: xr.Dataset, score: str = "accuracy") -> dict[str, Exponent]:
    """Of the network, for every series with two curves or more."""
    return {
        series: exponent(
            config.batch_sizes,
            [scale(series, s) for s in each],
            [data["network"].sel(setting=label(s), score=score).values for s in each],
            config.resamples,
        )
        for series, each in settings(config).items()
        if len(each) > 1
    }


def twins(config: Config) -> tuple[Setting, Setting]:
    """The curves of the largest ε and of the largest m."""
    each = settings(config)
    return each["ε"][-1], each["1/(1 − m)"][-1]


def members(config: Config, data: xr.Dataset, setting: Setting, score: str) -> np.ndarray:
    """Scores (B, members) of one curve."""
    return data["network"].sel(setting=label(setting), score=score).values


def gain(config: Config, data: xr.Dataset, score: str, against: int) -> ss.Estimate:
    """Score at the best batch size less that at another, mean of both twins, paired by start.

    The first third of the starts chooses the batch size, the others give the difference.
    """
    table = np.mean([members(config, data, s, score) for s in twins(config)], axis=0)
    cut = config.ensemble_size // 3
    best = int(np.nanargmax(table[:, :cut].mean(axis=1)))
    return ss.Estimate.from_samples(table[best, cut:] - table[against, cut:])


def difference(
    config: Config, data: xr.Dataset, other: Setting, smallest: float = 0.0
) -> ss.Estimate:
    """Accuracy of the curve of the largest m less that of another, (B ≥ smallest,), by start."""
    _, heavy = twins(config)
    pair = [members(config, data, s, "accuracy") for s in (heavy, other)]
    kept = np.array(config.batch_sizes) >= smallest
    return ss.Estimate.from_samples((pair[0] - pair[1])[kept].T)


def predict(config: Config) -> dict[str, float]:
    """Exact exponents of the quadratic."""
    found: dict[str, float] = {}
    for series, each in KNOWN.items():
        x = np.log([scale(series, s) for s in each])
        found[series] = float(np.polyfit(x, [known_best(s) for s in each], 1)[0])
    return found


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """The quadratic against exact exponents and none; the network's optimum, and ε/(1 − m)."""
    rows = []
    for series, found in known_exponents(config, data).items():
        measured = scalar(found.value, found.error, config.known_members)
        exact, name = predicted[series], f"exponent of B_opt against {series}, quadratic"
        rows.append(
            row(
                measured,
                exact,
                name=name,
                process="Gaussian SGD",
                precision=config.known_precision / exact,
            )
        )
        rows.append(row(measured, 0.0, name=name, process="Gaussian SGD", expected="deviate"))
    for against, name in ((0, "smallest"), (-1, "largest")):
        for score in SCORES:
            found = gain(config, data, score, against)
            # Below zero the optimum would be no optimum: that must not pass as a deviation.
            positive = scalar(max(float(found.value), 0), found.standard_error, found.num_samples)
            what = score if score == "accuracy" else f"minus the {score}"
            rows.append(
                row(
                    positive,
                    0.0,
                    name=f"gain in {what} over the {name} batch, network",
                    process="SGD",
                    expected="deviate",
                )
            )
    (light, heavy), reference = twins(config), Setting(*config.reference)
    both = np.mean([members(config, data, s, "accuracy") for s in (light, heavy)], axis=0)
    # Below B_opt accuracy is a cliff: a noise a few per cent larger, as finite steps give it to
    # one of two equal ε/(1 − m), is a difference of .1 there.
    top = float(np.exp(log_best(config.batch_sizes, both)))
    for other, expected, smallest in ((light, "agree", top), (reference, "deviate", 0.0)):
        measured = difference(config, data, other, smallest)
        where = "from B_opt on" if expected == "agree" else "at every B"
        rows.append(
            row(
                measured,
                np.zeros(np.shape(measured.value)),
                name=f"accuracy {where}, (ε, m) = ({heavy.learning_rate:g}, {heavy.momentum:g}) "
                f"less ({other.learning_rate:g}, {other.momentum:g})",
                process="SGD",
                expected=expected,
                resolution=config.resolution if expected == "agree" else None,
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Supported (the interval holds 1, not 0), rejected (not 1), or undecided (both)."""
    lines = []
    for score in SCORES:
        for series, found in exponents(config, data, score).items():
            lines.append(
                f"By test {score}, B_opt ∝ {series} is {found.says} at this size: exponent "
                f"{found.value:.2f}, 95 % interval {found.low:.2f} … {found.high:.2f}."
            )
    light, heavy = twins(config)
    gap = difference(config, data, light)
    worst = int(np.abs(gap.value).argmax())
    lines.append(
        f"At ε/(1 − m) = {scale('ε', light) / (1 - light.momentum):g} the accuracies with "
        f"m = {heavy.momentum:g} and m = {light.momentum:g} differ most at "
        f"B = {config.batch_sizes[worst]}, by {gap[worst]}."
    )
    return "\n".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Scores over batch size along the series; B_opt marked, exact for the quadratic."""
    figure, axes = new_figure(2, 3, width=4.4, height=3.6)
    for axis, series in zip(axes[0], SERIES, strict=True):
        for k, setting in enumerate(KNOWN[series]):
            table = data["known"].sel(curve=label(setting)).values
            _curve(axis, KNOWN_SIZES, table, k, f"{series} = {scale(series, setting):g}", "o")
            place = np.geomspace(1, min(181, setting.num_examples - 1), 200)
            exact = [known_accuracy(setting, size) for size in place]
            axis.plot(place, exact, color=f"C{k}", linewidth=0.9)
            axis.axvline(np.exp(known_best(setting)), color=f"C{k}", linestyle="--", linewidth=0.8)
        axis.set_ylabel("share that is right")
        axis.set_title("quadratic (lines: exact; dashed: exact B_opt)", fontsize=9)
    for axis, (series, each) in zip(axes[1], settings(config).items(), strict=True):
        for k, setting in enumerate(each):
            table = data["network"].sel(setting=label(setting), score="accuracy").values
            name = f"{series} = {scale(series, setting):g}"
            _curve(axis, config.batch_sizes, table, k, name, "o-")
            best = np.exp(log_best(config.batch_sizes, table))
            axis.axvline(best, color=f"C{k}", linestyle=":", linewidth=1)
        axis.set_ylabel("test accuracy")
        axis.set_title("digits with wrong labels (dotted: B_opt)", fontsize=9)
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("batch size B")
        axis.legend(frameon=False, fontsize=8)
    return figure


def _curve(axis, sizes: Sequence[int], table: np.ndarray, k: int, name: str, style: str) -> None:
    kept = np.isfinite(table).all(axis=1)
    estimate = ss.Estimate.from_samples(table[kept].T)
    points(axis, np.array(sizes)[kept], estimate, name, color=f"C{k}", fmt=style, markersize=3)
