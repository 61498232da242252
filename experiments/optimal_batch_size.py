"""The batch size of highest test accuracy at a fixed number of updates, and how it scales.

Smith & Le: a noise scale g = ε(N/B − 1)/(1 − m) is best for the test accuracy, so that the best
batch size at a fixed number of updates is

    B_opt ∝ ε N/(1 − m) .

Their step −(ε/N)∇C on the summed cost is −ε∇L on the mean loss: ε is the learning rate here. A
ReLU network on digits is trained from random starts; B_opt is the middle (in log B) of the batch
sizes whose test accuracy is within one standard error of the best. The exponents of B_opt against
ε, N and 1/(1 − m) are least-squares slopes in logarithms, with intervals from a bootstrap over
members.

Claim: the exponents against ε, N and 1/(1 − m) are 1, as far as this size can tell: the conclusion
says of each whether proportionality is supported, rejected or undecided.

Source: Smith & Le 2017 (1710.06451), figures 3 to 7.

Command: python -m experiments optimal_batch_size --preset paper
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

import sde_sgd as ss
from sde_sgd.plots import new_figure, points

from ._rows import scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rates: tuple[float, ...] = (0.1, 0.8)
    """ε at the reference N and m"""
    sizes: tuple[int, ...] = (50, 200)
    """N at the reference ε and m"""
    momenta: tuple[float, ...] = (0.0, 0.8)
    """m at the reference ε and N"""
    reference: tuple[float, int, float] = (0.8, 200, 0.0)
    """(ε, N, m) that the three series share"""
    batch_sizes: tuple[int, ...] = (1, 4, 16, 50)
    """B, up to N"""
    num_steps: int = 300
    """updates, the same for all"""
    width: int = 16
    """of the one hidden layer"""
    ensemble_size: int = 8
    """starts"""
    resamples: int = 400
    """of the bootstrap"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        learning_rates=(0.05, 0.2, 0.8),
        sizes=(50, 200, 800),
        momenta=(0.0, 0.5, 0.9),
        batch_sizes=(1, 2, 4, 8, 16, 32, 50),
        num_steps=1500,
        width=24,
        ensemble_size=12,
        resamples=2000,
    ),
}
SERIES = ("ε", "N", "1/(1 − m)")


def settings(config: Config) -> dict[str, list[tuple[float, int, float]]]:
    """(ε, N, m) along each series."""
    eps, num, momentum = config.reference
    return {
        "ε": [(e, num, momentum) for e in config.learning_rates],
        "N": [(eps, n, momentum) for n in config.sizes],
        "1/(1 − m)": [(eps, num, m) for m in config.momenta],
    }


def scale(series: str, setting: tuple[float, int, float]) -> float:
    """What varies along a series."""
    eps, num, momentum = setting
    return {"ε": eps, "N": float(num), "1/(1 − m)": 1 / (1 - momentum)}[series]


@functools.cache
def problem(config: Config, num: int):
    """The landscape of N digits, starts (members, d), and the test set."""
    data = ss.digits(scaling="unit", test_fraction=0.5)

    def network(key):
        return eqx.nn.MLP(64, 10, config.width, 1, key=key)

    landscape = ss.EmpiricalRisk(
        network(jr.key(0)), data.inputs[:num], data.targets[:num], ss.cross_entropy
    )
    keys = jr.split(jr.key(1), config.ensemble_size)
    starts = [ravel_pytree(eqx.filter(network(k), eqx.is_inexact_array))[0] for k in keys]
    return landscape, jnp.stack(starts), data.test_inputs, data.test_targets


def accuracies(config: Config, setting, size: int, key) -> np.ndarray:
    """Test accuracy of every member after the updates."""
    eps, num, momentum = setting
    landscape, starts, inputs, labels = problem(config, num)
    sampling = ss.WithoutReplacement(size)
    run = ss.simulate(
        ss.SGD(landscape, eps, sampling, momentum=momentum),
        starts,
        num_steps=config.num_steps,
        ensemble_size=config.ensemble_size,
        key=key,
        measures={},
        on_divergence="mask",
    )

    @jax.jit
    def accuracy(theta):
        return jnp.mean(jax.vmap(landscape.model(theta))(inputs).argmax(axis=-1) == labels)

    # A diverged member classifies at chance.
    found = [float(accuracy(jnp.asarray(x))) for x in run.positions]
    return np.where(run.alive, found, 0.1)


def measure(config: Config, key) -> xr.Dataset:
    """Test accuracies (settings, batch sizes, members); NaN where B > N."""
    unique = list(dict.fromkeys(s for each in settings(config).values() for s in each))
    shape = (len(unique), len(config.batch_sizes), config.ensemble_size)
    found = np.full(shape, np.nan)
    for i, setting in enumerate(unique):
        for j, size in enumerate(config.batch_sizes):
            key, own = jr.split(key)
            if size <= setting[1]:
                found[i, j] = accuracies(config, setting, size, own)
    return xr.Dataset(
        {"accuracy": (("setting", "batch", "member"), found)},
        coords={
            "setting": [f"{e:g} {n} {m:g}" for e, n, m in unique],
            "batch": list(config.batch_sizes),
        },
    )


def best(config: Config, table: np.ndarray) -> float:
    """log B_opt of accuracies (B, members): the middle of the plateau within one standard error."""
    sizes = np.log(np.array(config.batch_sizes))
    mean = table.mean(axis=1)
    top = int(np.nanargmax(mean))
    error = table[top].std(ddof=1) / np.sqrt(table.shape[1])
    kept = sizes[mean >= mean[top] - error]
    return float((kept.min() + kept.max()) / 2)


def exponents(config: Config, data: xr.Dataset) -> dict[str, tuple[float, float, float, float]]:
    """Slope, its bootstrap error and 95 % interval for each series."""
    rng, table = np.random.default_rng(0), data["accuracy"]
    found = {}
    for series, each in settings(config).items():
        x = np.log([scale(series, s) for s in each])
        rows = [table.sel(setting=f"{e:g} {n} {m:g}").values for e, n, m in each]

        def slope(choose, x=x, rows=rows):
            y = [best(config, r[:, choose()]) for r in rows]
            return float(np.polyfit(x, y, 1)[0])

        members = config.ensemble_size
        value = slope(lambda members=members: np.arange(members))
        again = [
            slope(lambda members=members: rng.integers(members, size=members))
            for _ in range(config.resamples)
        ]
        # A bootstrap knows the members, not the coarseness of the batch sizes tried.
        spacing = np.diff(np.log(config.batch_sizes)).mean() / np.sqrt(12)
        grid = spacing / (np.std(x) * np.sqrt(len(x)))
        low, high = np.quantile(again, [0.025, 0.975])
        error = float(np.hypot(np.std(again), grid))
        found[series] = (value, error, float(low - 1.96 * grid), float(high + 1.96 * grid))
    return found


def predict(config: Config) -> dict[str, float]:
    """Proportionality."""
    return dict.fromkeys(SERIES, 1.0)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each exponent against 1."""
    return [
        ss.compare(
            scalar(value, error, config.ensemble_size),
            predicted[series],
            name=f"exponent of B_opt against {series} (95 %: {low:.2f} … {high:.2f})",
            process="SGD",
        )
        for series, (value, error, low, high) in exponents(config, data).items()
    ]


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Supported (the interval holds 1, not 0), rejected (not 1), or undecided (both)."""
    lines = []
    for series, (value, _, low, high) in exponents(config, data).items():
        if not low <= 1 <= high:
            said = "rejected"
        else:
            said = "undecided" if low <= 0 <= high else "supported"
        lines.append(
            f"B_opt ∝ {series} is {said} at this size: exponent {value:.2f}, 95 % interval "
            f"{low:.2f} … {high:.2f}."
        )
    return "\n".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Test accuracy over batch size along the three series; B_opt marked."""
    figure, axes = new_figure(1, 3, width=4.4, height=3.6)
    sizes = np.array(config.batch_sizes)
    for axis, (series, each) in zip(axes[0], settings(config).items(), strict=True):
        for k, (eps, num, momentum) in enumerate(each):
            table = data["accuracy"].sel(setting=f"{eps:g} {num} {momentum:g}").values
            shade = f"C{k}"
            kept = np.isfinite(table).all(axis=1)
            estimate = ss.Estimate.from_samples(table[kept].T)
            label = f"{series} = {scale(series, (eps, num, momentum)):.3g}"
            points(axis, sizes[kept], estimate, label, color=shade, fmt="o-")
            axis.axvline(np.exp(best(config, table)), color=shade, linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(b) for b in sizes])
        axis.minorticks_off()
        axis.set_xlabel("batch size B (dotted: B_opt)")
        axis.set_ylabel("test accuracy")
        axis.legend(frameon=False, fontsize=8)
    return figure
