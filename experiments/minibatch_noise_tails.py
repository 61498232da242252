"""An estimator that reads heavy tails in minibatch noise reads them in Gaussian noise as well.

For independent α-stable X, 1/α = (E log|X_1 + … + X_K| − E log|X|)/log K. On the coordinates of
one gradient noise of a network, pooled, it reads α well below 2. But coordinates have different
variances. Gaussian noise of the same covariance Σ reads, with b running over the blocks,

    1/α̂ = [mean_b ½ log(1_bᵀ Σ 1_b) − mean_j ½ log Σ_jj] / log K > ½ ,

exactly: the spread of the variances, not a tail. Along one direction, over independent batches, the
same estimator reads 2 for Gaussian noise, and nearly so for large batches. Gradients of a finite
sum are bounded: no batch of it has a tail of index below 2.

Claim: pooled over coordinates the estimator reads below 2 on true minibatch noise, on Gaussian
noise of the same Σ (at its exact value) and below 1.5 on 1.5-stable noise with the network's
scales; it is right on equal scales, and on one direction of the noise. Steps of an epoch are
correlated by −1/(M − 1), those of independent batches are not.

Source: Şimşekli, Sagun, Gürbüzbalaban 2019 (1901.06053), whose reading is disputed by Panigrahi et
al. 2019 (1910.09626) and Xie, Sato, Sugiyama 2021 (2002.03495); Mohammadi et al. 2015 (estimator).

Command: python -m experiments minibatch_noise_tails --preset paper
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

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the network and of the samples."""

    num_examples: int = 256
    """N"""
    directions: int = 16
    """principal directions of the images, the network's inputs"""
    width: int = 16
    """of the one hidden layer"""
    training_steps: int = 200
    """full-batch steps from the start to the second point"""
    training_rate: float = 1.0
    """their learning rate"""
    batch_sizes: tuple[int, ...] = (4, 64)
    """B, by increasing size; batches are drawn with replacement"""
    batches_per_epoch: int = 8
    """M of the epochs whose correlation is measured"""
    index: float = 1.5
    """α of the stable noise"""
    block_size: int = 20
    """K"""
    num_vectors: int = 512
    """noise vectors, for readings pooled over coordinates"""
    num_draws: int = 4096
    """batches, for correlation and normality"""
    num_scalars: int = 400_000
    """batches, for readings along a direction"""
    resolution: float = 0.1
    """difference in α that matters along a direction, at the largest batch"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        num_examples=1024,
        directions=24,
        width=24,
        batch_sizes=(4, 16, 64, 256),
        num_vectors=4096,
        num_draws=32768,
        num_scalars=2_000_000,
    ),
}

POINTS = ("start", "trained")


@functools.lru_cache(maxsize=2)
def landscape(config: Config) -> ss.EmpiricalRisk:
    """A tanh network on digits."""
    data = ss.data.digits(principal_directions=config.directions, scaling="unit", test_fraction=0.0)
    kept = slice(config.num_examples)
    net = eqx.nn.MLP(config.directions, 10, config.width, 1, activation=jnp.tanh, key=jr.key(7))
    return ss.EmpiricalRisk(net, data.inputs[kept], data.targets[kept], ss.cross_entropy)


@functools.lru_cache(maxsize=2)
def positions(config: Config) -> dict[str, jax.Array]:
    """θ at the start, and after full-batch training."""
    land = landscape(config)

    def descend(theta):
        step = lambda _, x: x - config.training_rate * land.gradient(x)  # noqa: E731
        return jax.lax.fori_loop(0, config.training_steps, step, theta)

    return {"start": land.initial, "trained": jax.jit(descend)(land.initial)}


@functools.lru_cache(maxsize=4)
def centred(config: Config, point: str) -> np.ndarray:
    """∇ℓ_i − ∇L, (N, d)."""
    gradients = np.asarray(_example_gradients(landscape(config), positions(config)[point]))
    return gradients - gradients.mean(axis=0)


def covariance(config: Config, point: str) -> np.ndarray:
    """Σ(θ), (d, d)."""
    return centred(config, point).T @ centred(config, point) / config.num_examples


def along(config: Config, point: str, size: int, key) -> ss.Estimate:
    """Readings along four random directions: batches of N projections, no gradient needed."""
    rng = np.random.default_rng([size, *np.asarray(jr.key_data(key))])
    rows = []
    for direction in rng.standard_normal((4, landscape(config).dimension)):
        each = centred(config, point) @ direction
        noises = each[rng.integers(0, config.num_examples, (config.num_scalars, size))].mean(axis=1)
        rows.append(ss.measure.block_tail_index(noises, config.block_size))
    return stacked(rows)


def stacked(rows: list[ss.Estimate]) -> ss.Estimate:
    """One estimate of several."""
    values = np.array([float(row.value) for row in rows])
    errors = np.array([float(row.standard_error) for row in rows])
    return ss.Estimate(values, errors, rows[0].num_samples)


def order(config: Config) -> np.ndarray:
    """The coordinates in one random order, a whole number of blocks of them."""
    dim = landscape(config).dimension
    chosen = np.random.default_rng(3).permutation(dim)
    return chosen[: dim // config.block_size * config.block_size]


def pooled(config: Config, vectors) -> ss.Estimate:
    """The reading α̂ over coordinates: 1/α̂ averaged over noise vectors (n, d)."""
    kept = np.asarray(vectors)[:, order(config)]
    rows = [1 / float(ss.measure.block_tail_index(row, config.block_size).value) for row in kept]
    inverse = ss.Estimate.from_samples(np.array(rows))
    value = 1 / inverse.value
    return ss.Estimate(value, value**2 * inverse.standard_error, len(rows))


def gaussian_reading(config: Config, point: str) -> float:
    """What Gaussian noise of covariance Σ reads, pooled: exact but for the inversion of a mean."""
    sigma = covariance(config, point)
    blocks = order(config).reshape(-1, config.block_size)
    sums = np.array([sigma[np.ix_(b, b)].sum() for b in blocks])
    own = np.log(np.diag(sigma)[blocks]).mean(axis=1)
    return float(2 * np.log(config.block_size) / (np.log(sums) - own).mean())


def samples(config: Config, point: str, key) -> dict[str, jax.Array]:
    """Noise vectors (n, d) of every kind at one point."""
    land, theta = landscape(config), positions(config)[point]
    number = config.num_vectors
    full = land.gradient(theta)
    keys = jr.split(key, len(config.batch_sizes) + 2)
    found = {}
    for size, own in zip(config.batch_sizes, keys, strict=False):
        batches = jr.randint(own, (number, size), 0, config.num_examples)
        found[f"minibatch B={size}"] = _gradients(land, theta, batches) - full
    normal = jr.normal(keys[-2], (number, land.noise_dimension), land.dtype)
    found["Gaussian"] = _noisy(land, theta, normal) - full
    stable = _stable(ss.noise.StableNoise(config.index), keys[-1], number, land.dimension)
    found["stable, equal scales"] = stable
    scales = np.sqrt(np.diag(covariance(config, point)))
    found["stable, the network's scales"] = stable * scales
    return found


@eqx.filter_jit
def _example_gradients(land, theta):
    return land.example_gradients(theta)


@eqx.filter_jit
def _gradients(land, theta, batches):
    return jax.vmap(land.minibatch_gradient, in_axes=(None, 0))(theta, batches)


@eqx.filter_jit
def _noisy(land, theta, normal):
    return jax.vmap(lambda z: land.noisy_gradient(theta, z, 1.0))(normal)


@eqx.filter_jit
def _stable(driving, key, number: int, dim: int):
    def one(identity):
        return driving.increment(None, ss.Draws.create(key, identity), dim, 1.0, jnp.float64)[1]

    return jax.vmap(one)(jnp.arange(number, dtype=jnp.uint32))


def measure(config: Config, key) -> xr.Dataset:
    """Readings pooled over coordinates and along directions; correlation of epochs."""
    variables = {}
    land = landscape(config)
    for point in POINTS:
        key, scalars, own, *others = jr.split(key, 3 + len(config.batch_sizes))
        for kind, vectors in samples(config, point, own).items():
            put(variables, f"{point} pooled {kind}", pooled(config, vectors))
        for size, batches in zip(config.batch_sizes, others, strict=True):
            found = ss.noise_statistics(
                land,
                positions(config)[point],
                ss.WithReplacement(size),
                key=batches,
                num_draws=config.num_draws,
                num_steps=4,
                block_size=config.block_size,
            )
            name = f"{point} along B={size}"
            put(variables, name, along(config, point, size, scalars), ("direction",))
            put(variables, f"{name} Hill", found.hill_index, ("direction",))
            put(variables, f"{name} correlation", found.autocorrelation, ("lag",))
            variables[f"{name} normality"] = (("direction",), found.normality)
    key, own, normal = jr.split(key, 3)
    control = jr.normal(normal, (4, config.num_scalars))
    rows = [ss.measure.block_tail_index(x, config.block_size) for x in np.asarray(control)]
    put(variables, "Gaussian along", stacked(rows), ("direction",))
    epochs = ss.noise_statistics(
        land,
        positions(config)["start"],
        ss.RandomReshuffling(config.num_examples // config.batches_per_epoch),
        key=own,
        num_draws=config.num_draws,
        num_steps=4,
        block_size=config.block_size,
    )
    put(variables, "epochs correlation", epochs.autocorrelation, ("lag",))
    return xr.Dataset(variables)


def predict(config: Config) -> dict:
    """Exact readings of Gaussian noise, by point; correlation inside an epoch."""
    readings = {point: gaussian_reading(config, point) for point in POINTS}
    return readings | {"epochs": -1 / (config.batches_per_epoch - 1)}


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Where the estimator is right, and where it misleads."""
    rows = []

    def add(name, value, title, process, expected="agree", **kwargs):
        rows.append(
            ss.compare(
                get(data, name), value, name=title, process=process, expected=expected, **kwargs
            )
        )

    for point in POINTS:
        own = f"{point} pooled"
        where = f"{point}, pooled over coordinates"
        add(f"{own} stable, equal scales", config.index, f"{where}: α", "stable, equal scales")
        scaled = "stable, the network's scales"
        add(f"{own} {scaled}", config.index, f"{where}: α", scaled, "deviate")
        add(f"{own} Gaussian", predicted[point], f"{where}: exact reading", "Gaussian noise of Σ")
        add(f"{own} Gaussian", 2.0, f"{where}: 2", "Gaussian noise of Σ", "deviate")
        for size in config.batch_sizes:
            name = f"minibatch noise, B={size}"
            add(f"{own} minibatch B={size}", 2.0, f"{where}: 2", name, "deviate")
            add(f"{point} along B={size} correlation", 0.0, f"{point}: correlation", name)
    add("Gaussian along", 2.0, "along a direction: 2", "Gaussian noise")
    largest = config.batch_sizes[-1]
    add(
        f"start along B={largest}",
        2.0,
        "start, along a direction: 2",
        f"minibatch noise, B={largest}",
        resolution=config.resolution,
    )
    epochs = predicted["epochs"]
    add("epochs correlation", epochs, "correlation inside an epoch", "shuffled epochs")
    add("epochs correlation", 0.0, "correlation of white noise", "shuffled epochs", "deviate")
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The readings, and what normality says along directions."""
    lines = []
    for point in POINTS:
        read = ", ".join(
            f"{float(get(data, f'{point} pooled minibatch B={size}').value):.2f} at B = {size}"
            for size in config.batch_sizes
        )
        gauss = float(get(data, f"{point} pooled Gaussian").value)
        single = ", ".join(
            f"{float(get(data, f'{point} along B={size}').value.mean()):.2f} (largest p of "
            f"normality {float(data[f'{point} along B={size} normality'].max()):.1g}) at B = {size}"
            for size in config.batch_sizes
        )
        lines.append(
            f"At the {point} point minibatch noise pooled over coordinates reads α = {read}; "
            f"Gaussian noise of its Σ {gauss:.2f}. Along directions: {single}."
        )
    return " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Readings of every kind of noise, pooled and along directions."""
    figure, axes = new_figure(1, 2, width=5.2, height=4.0)
    kinds = [f"minibatch B={size}" for size in config.batch_sizes]
    kinds += ["Gaussian", "stable, equal scales", "stable, the network's scales"]
    shades = {"start": COLOURS["SGD"], "trained": COLOURS["SDE"]}
    left, right = axes[0]
    for shift, point in zip((-0.12, 0.12), POINTS, strict=True):
        found = [get(data, f"{point} pooled {kind}") for kind in kinds]
        row = ss.Estimate(
            np.array([float(f.value) for f in found]),
            np.array([float(f.standard_error) for f in found]),
            config.num_vectors,
        )
        points(left, np.arange(len(kinds)) + shift, row, f"{point} point", color=shades[point])
        place = kinds.index("Gaussian")
        left.hlines(predicted[point], place - 0.4, place + 0.4, color=shades[point], linewidth=1)
        for i, size in enumerate(config.batch_sizes):
            readings = get(data, f"{point} along B={size}")
            spread = np.linspace(-0.06, 0.06, len(readings.value)) + i + shift
            points(right, spread, readings, f"{point} point" if i == 0 else "", color=shades[point])
    left.plot([], [], color="black", linewidth=1, label="exact for Gaussian noise of Σ")
    for axis in (left, right):
        axis.axhline(2, color="0.5", linestyle=":", linewidth=1, label="Gaussian, α = 2")
        axis.set_ylabel(f"reading α̂, blocks of {config.block_size} (± 1 s.e.)")
        axis.legend(frameon=False, fontsize=8)
    left.axhline(config.index, color="0.5", linestyle="--", linewidth=1)
    left.set_xticks(range(len(kinds)), kinds, rotation=25, ha="right", fontsize=8)
    left.set_title("pooled over coordinates", fontsize=10)
    last = len(config.batch_sizes)
    points(right, np.linspace(-0.06, 0.06, 4) + last, get(data, "Gaussian along"), "Gaussian")
    names = [f"B={size}" for size in config.batch_sizes]
    right.set_xticks(range(last + 1), [*names, "Gaussian"], fontsize=8)
    right.set_title("along random directions", fontsize=10)
    return figure
