"""The main job: SGD and its SDE, from one start, on one clock, on real data.

Claim: on digits, at a small learning rate, the law of SGD's parameters and of its loss stays
within the sampling noise of its SDE's, for a logistic regression and for a neural network;
and a learning rate large enough to break that is seen to break it.

Source: Smith & Le 1710.06451 (§4, the noise scale), Li, Tai, E 1511.06251 (weak order one).

Command: python -m experiments side_by_side
Subject: side_by_side

For each model three ensembles run from the same start: SGD, SGD again (the noise floor), and
the SDE dθ = −∇L dt + √η (cΣ(θ))^{1/2} dW with t = ηk. The distance between the laws of θ is
the energy distance; its excess over the floor is compared with zero, and so is the
difference of mean losses, after removal of the SDE's own discretisation error. At the small
rate both must vanish at a resolution fixed beforehand (`Config`); at the large rate, where
the SDE is known to be wrong by O(η), the law of θ must deviate.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist

import sde_sgd as ss
from sde_sgd.plots import band, COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Two models, each at a learning rate where the SDE should hold and one where it must not."""

    num_examples: int = 500
    """digits used (of 1 797), so that a step of the SDE costs little"""
    batch_size: int = 20
    ensemble_size: int = 96
    large_factor: int = 4
    """times as many members at the large rate, which needs few iterations"""
    time: float = 5.0
    """physical time t = ηk of every run"""
    small_rate: float = 0.05
    large_rate: float = 1.0
    hidden: int = 16
    substeps: int = 2
    """solver steps an iteration at the small rate"""
    large_substeps: int = 10
    """solver steps an iteration at the large rate"""
    snapshots: int = 5
    loss_resolution: float = 0.02
    """a difference of mean losses (in nats; the loss falls by about 1.5) that matters"""
    law_resolution: float = 0.05
    """an energy distance that matters, in units of the law's own width E|θ − θ′|"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(num_examples=1797, ensemble_size=384, hidden=32, small_rate=0.02),
}


def landscapes(
    config: Config,
) -> dict[str, tuple[ss.EmpiricalRisk | ss.LogisticRegression, jax.Array]]:
    """Logistic regression from zero, and a tanh network from its Equinox initialisation."""
    data = ss.data.digits(test_fraction=0.0, dtype=jnp.float32)
    inputs = data.inputs[: config.num_examples]
    labels = data.targets[: config.num_examples]
    logistic = ss.LogisticRegression(inputs, labels, num_classes=10, l2=1e-3)
    model = eqx.nn.MLP(
        64, 10, config.hidden, 1, activation=jax.nn.tanh, dtype=jnp.float32, key=jr.key(0)
    )
    network = ss.EmpiricalRisk(model, inputs, labels, ss.cross_entropy, l2=1e-3)
    start = jnp.zeros(logistic.dimension, jnp.float32)
    return {"logistic": (logistic, start), "MLP": (network, network.initial)}


def measure(config: Config, key) -> xr.Dataset:
    """Side by side for each model and learning rate."""
    data: dict = {}
    for model, (landscape, start) in landscapes(config).items():
        for regime in ("small", "large"):
            key, own = jr.split(key)
            _measure_one(config, data, model, regime, landscape, start, own)
    return xr.Dataset(data)


def _measure_one(config, data, model, regime, landscape, start, key) -> None:
    rate = learning_rate(config, regime)
    sampling = ss.WithReplacement(config.batch_size)
    sgd = ss.SGD(landscape, rate, sampling)
    substeps = config.substeps if regime == "small" else config.large_substeps
    sde = ss.ModifiedEquation(landscape, rate, ss.MinibatchNoise(sampling), substeps=substeps)
    both = ss.side_by_side(
        sgd,
        sde,
        start,
        num_steps=round(config.time / rate),
        ensemble_size=config.ensemble_size * (1 if regime == "small" else config.large_factor),
        key=key,
        snapshots=config.snapshots,
        distances=("energy",),
    )
    tag = f"{model}, {regime}"
    when, after = f"k of {tag}", f"k after start of {tag}"
    data[f"{tag}, t"] = ((when,), both.times)
    loss = both.observables["loss"]
    for label in ("SGD", "SGD (second ensemble)", "SDE"):
        put(data, f"{tag}, loss of {label}", loss.means[label], (when,))
        members = (f"member of {tag}, {label}",)
        data[f"{tag}, final losses of {label}"] = (members, loss.samples[label][-1])
    assert loss.step_error is not None
    put(data, f"{tag}, step error", loss.step_error, (when,))
    for field in ("distance", "floor", "excess"):
        put(data, f"{tag}, energy {field}", getattr(both.distances["energy"], field), (after,))
    data[f"{tag}, width"] = ((), _width(both.runs["SGD"].positions))


def _width(positions: np.ndarray) -> float:
    """E|θ − θ′| over pairs of members."""
    return float(pdist(positions.astype(float)).mean())


def learning_rate(config: Config, regime: str) -> float:
    """η of one run."""
    return config.small_rate if regime == "small" else config.large_rate


def predict(config: Config) -> dict:
    """Equal laws: no difference of means, no excess distance."""
    return {"difference": 0.0, "excess": 0.0}


def check(config: Config, data: xr.Dataset, predicted: dict) -> list[ss.Comparison]:
    """Mean losses at the small rate, laws of θ at both, at the last time."""
    rows = []
    for model in ("logistic", "MLP"):
        rows.append(
            ss.compare(
                _mean_difference(data, f"{model}, small"),
                predicted["difference"],
                resolution=config.loss_resolution,
                name=f"{model}, η = {config.small_rate:g}: mean loss, SGD − SDE",
                process="SGD, SDE",
                expected="agree",
            )
        )
        for regime, expected in (("small", "agree"), ("large", "deviate")):
            tag, eta = f"{model}, {regime}", learning_rate(config, regime)
            rows.append(
                ss.compare(
                    get(data, f"{tag}, energy excess")[-1],
                    predicted["excess"],
                    resolution=_law_resolution(config, data, tag) if regime == "small" else None,
                    name=f"{model}, η = {eta:g}: energy distance of θ over the floor",
                    process="SGD, SDE",
                    expected=expected,
                )
            )
    return rows


def _law_resolution(config: Config, data: xr.Dataset, tag: str) -> float:
    """The energy distance that matters, from the width of SGD's own law."""
    return config.law_resolution * float(data[f"{tag}, width"])


def _mean_difference(data: xr.Dataset, tag: str) -> ss.Estimate:
    """SGD − SDE of the mean loss, the SDE's discretisation error removed."""
    sgd, sde = (get(data, f"{tag}, loss of {label}")[-1] for label in ("SGD", "SDE"))
    step = get(data, f"{tag}, step error")[-1]
    errors = (sgd.standard_error, sde.standard_error, step.standard_error)
    error = np.sqrt(sum(e**2 for e in errors))
    return ss.Estimate(sgd.value - (sde.value - step.value), error, sgd.num_samples)


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How far the SDE is off, in units of the noise floor."""
    lines = []
    for model in ("logistic", "MLP"):
        for regime in ("small", "large"):
            tag = f"{model}, {regime}"
            distance = float(get(data, f"{tag}, energy distance").value[-1])
            error = float(get(data, f"{tag}, energy floor").standard_error[-1])
            step = get(data, f"{tag}, step error")[-1]
            lines.append(
                f"{model}, η = {learning_rate(config, regime):g}: SGD–SDE energy distance "
                f"{distance:.3g} (floor 0 ± {error:.2g}); discretisation error of the SDE's mean "
                f"loss {float(step.value):.2g} ± {float(step.standard_error):.1g}."
            )
    return "\n".join(lines)


def plot(config: Config, data: xr.Dataset, predicted: dict) -> Figure:
    """Rows: models. Columns: loss over t at small and large η, final losses, distances."""
    figure, axes = new_figure(2, 4)
    for row, model in zip(axes, ("logistic", "MLP"), strict=True):
        for axis, regime in zip(row[:2], ("small", "large"), strict=True):
            tag = f"{model}, {regime}"
            for label in ("SGD", "SDE"):
                band(axis, data[f"{tag}, t"], get(data, f"{tag}, loss of {label}"), label)
            axis.set_title(f"{model}, η = {learning_rate(config, regime):g}", fontsize=10)
            axis.set_xlabel("time t = ηk")
            axis.set_ylabel("mean loss (± 2 s.e.)")
            axis.legend(frameon=False)
        _final_losses(row[2], data, model)
        for regime, marker in (("small", "o"), ("large", "s")):
            tag = f"{model}, {regime}"
            when = data[f"{tag}, t"].values[1:]
            eta = learning_rate(config, regime)
            distance, floor = (get(data, f"{tag}, energy {f}") for f in ("distance", "floor"))
            points(
                row[3],
                when,
                distance,
                f"SGD–SDE, η = {eta:g}",
                color=COLOURS["SDE"],
                fmt=f"{marker}-",
            )
            points(
                row[3], when, floor, f"SGD–SGD, η = {eta:g}", color=COLOURS["SGD"], fmt=f"{marker}:"
            )
        row[3].axhline(0, color="black", linewidth=0.8, label="equal laws")
        row[3].set_xlabel("time t = ηk")
        row[3].set_ylabel("energy distance of θ (± 1 s.e.)")
        row[3].legend(frameon=False, fontsize=8)
    return figure


def _final_losses(axis, data: xr.Dataset, model: str) -> None:
    tag = f"{model}, small"
    rows = {label: data[f"{tag}, final losses of {label}"].values for label in ("SGD", "SDE")}
    edges = np.histogram_bin_edges(np.concatenate(list(rows.values())), bins=20)
    middle, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    for label, values in rows.items():
        counts = np.histogram(values, edges)[0]
        density = counts / (len(values) * width)
        error = np.sqrt(counts * (1 - counts / len(values))) / (len(values) * width)
        axis.stairs(density, edges, color=COLOURS[label], label=label)
        axis.errorbar(middle, density, error, fmt="none", color=COLOURS[label], linewidth=0.8)
    axis.set_title(f"{model}, small η, last time", fontsize=10)
    axis.set_xlabel("loss")
    axis.set_ylabel("probability density (± 1 s.e.)")
    axis.legend(frameon=False)
