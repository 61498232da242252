"""Which noise is it? Tail index, normality and correlation in time of a model's own batches."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy
from jaxtyping import Array, Float

from sde_sgd._checks import (
    as_float64,
    as_real,
    check_key,
    check_number,
    check_part,
    check_point,
    check_whole,
    in_brief,
)
from sde_sgd.estimate import Estimate
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.random.draws import Draws
from sde_sgd.types import Key

_MOST_BYTES = 2**30


class NoiseStatistics(NamedTuple):
    """What `noise_statistics` found along k directions, each with its error.

    **Fields:**

    - `directions`: (d, k), unit columns.
    - `tail_index`: (k,) by blocks (`block_tail_index`: read its biases); 2 for Gaussian noise.
    - `hill_index`: (k,) of the largest |noises| (`hill_tail_index`).
    - `normality`: (k,) p-values of `normality_test`; uniform on (0, 1) for Gaussian noise.
    - `autocorrelation`: (lags,), of lags 1, 2, …, averaged over the directions: 0 for white noise.
    """

    directions: Float[np.ndarray, "d k"]
    tail_index: Estimate
    hill_index: Estimate
    normality: Float[np.ndarray, " k"]
    autocorrelation: Estimate


def noise_statistics(
    landscape: AbstractLandscape,
    theta: Any,
    sampling: AbstractSampling,
    *,
    key: Key,
    num_draws: int = 4096,
    num_steps: int = 8,
    directions: Any = 4,
    block_size: int = 32,
    tail_fraction: float = 0.02,
) -> NoiseStatistics:
    """Tails, normality and correlation of ĝ_B(θ) − ∇L(θ) at a fixed θ, along some directions.

    `num_draws` independent samplers each draw `num_steps` batches in a row, from the start of an
    epoch where there are epochs. Their first batches are independent, and give tails and
    normality; the products of two steps give the correlation, with the samplers as replications.
    Correlation is that of the first `num_steps` steps, normalised by the variance of a step.

    On a finite sum every batch gradient is bounded: its true tail index is infinite, its variance
    is finite, and an index near or below 2 is a statement about the size B and the block, not
    about the tail. Compare with the same estimator on Gaussian noise of the same Σ (the
    experiment minibatch_noise_tails does), before reading it.

    **Arguments:**

    - `landscape`, `theta` (d,), `sampling`.
    - `key`: of batches and directions.
    - `directions`: a number k of random unit directions, or a (d, k) array, normalised here.
    - `block_size`, `tail_fraction`: of the two tail estimators.

    **Raises:** `ValueError` for numbers that leave nothing to estimate, a direction without noise,
    and more than 1 GiB of gradients at once.
    """
    check_part("landscape", landscape, AbstractLandscape, "a landscape such as LeastSquares")
    check_part("sampling", sampling, AbstractSampling, "a scheme such as WithReplacement(8)")
    key = check_key(key)
    num_draws, num_steps = check_whole("num_draws", num_draws), check_whole("num_steps", num_steps)
    block_size = check_whole("block_size", block_size, 2)
    point = check_point("theta", theta, landscape)
    sampling.check(landscape)
    if num_steps < 2 or num_draws < 8 * block_size:
        raise ValueError(
            f"noise_statistics needs num_steps ≥ 2 for a correlation and num_draws ≥ "
            f"{8 * block_size} (8 blocks); got {in_brief(num_steps)} and {num_draws}."
        )
    size = num_draws * landscape.dimension * jnp.dtype(landscape.dtype).itemsize
    if size > _MOST_BYTES:
        raise ValueError(
            f"{num_draws} gradients of {landscape.dimension} parameters take {size / 2**30:.1f} "
            f"GiB: lower num_draws to at most {num_draws * _MOST_BYTES // size}."
        )
    own, along = jr.split(key)
    columns = _columns(directions, landscape, along)
    noise = np.asarray(
        _project(landscape, point, sampling, own, columns, num_draws, num_steps), float
    )
    first = noise[0]
    if not (first.std(axis=0) > 0).all():
        silent = int(np.flatnonzero(first.std(axis=0) == 0)[0])
        raise ValueError(f"There is no noise along direction {silent}: choose another.")
    blocks = [block_tail_index(x, block_size) for x in first.T]
    hills = [hill_tail_index(x, tail_fraction) for x in first.T]
    return NoiseStatistics(
        np.asarray(columns, float),
        _stack(blocks),
        _stack(hills),
        np.array([normality_test(x) for x in first.T]),
        _autocorrelation(noise),
    )


def block_tail_index(samples: Any, block_size: int) -> Estimate:
    """α̂ with 1/α̂ = (E log|X_1 + … + X_K| − E log|X|)/log K, K the `block_size`.

    For independent symmetric α-stable X it is consistent, as a sum of K has the law of K^{1/α}X.
    For *any other* law it is not an index of its tail: with a finite variance

        1/α̂ = ½ + (E log|G| − E log|X/σ|)/log K + o(1) ,   G standard normal,

    so that it reads below 2 wherever |X| has more weight near 0 than a Gaussian: a product of a
    Gaussian with a scale does, though it has all its moments. Of samples (n, d) each coordinate is
    read by itself, in blocks of K rows, and 1/α̂ is the mean over coordinates. The published
    pooling strings coordinates together in one block (pass `samples.ravel()` for it): for Gaussian
    noise of variances v_j it gives ½ + ½ log(v̄/ṽ)/log K, v̄ the arithmetic and ṽ the geometric
    mean, a bias that falls as 1/log K only, and its error is wrong where coordinates depend.

    **Arguments:** `samples` (n,), or (n, d): rows are independent, in blocks as they come;
    coordinates of a row may depend on each other. `block_size` K ≥ 2.

    **Returns:** `Estimate` of α, one number; its error from the spread of the n/K blocks of rows.

    **Raises:** `ValueError` for fewer than 8 blocks, zeros, NaN or infinities among the samples.

    **Source:** Mohammadi, Mohammadpour, Ogata 2015, as used on SGD by Şimşekli et al. 2019
    (1901.06053), whose pooling over coordinates Xie et al. 2021 and Panigrahi et al. 2019
    (1910.09626) dispute.
    """
    x = _rows("block_tail_index", samples)
    block_size = check_whole("block_size", block_size, 2)
    count = len(x) // block_size
    if count < 8:
        raise ValueError(
            f"block_tail_index needs at least 8 blocks of {block_size}, {8 * block_size} samples; "
            f"got {len(x)}. Take smaller blocks or more samples."
        )
    blocks = x[: count * block_size].reshape(count, block_size, -1)
    sums = blocks.sum(axis=1)
    zeros = int((blocks == 0).sum() + (sums == 0).sum())
    if zeros:
        raise ValueError(
            f"block_tail_index takes logarithms: samples and sums of blocks must not be 0, and "
            f"{zeros} of them are. Leave out coordinates without noise."
        )
    gaps = np.log(np.abs(sums)) - np.log(np.abs(blocks)).mean(axis=1)
    inverse = Estimate.from_samples(gaps.mean(axis=1) / np.log(block_size))
    value = 1 / inverse.value
    return Estimate(value, value**2 * inverse.standard_error, count)


def hill_tail_index(samples: Any, fraction: float = 0.02) -> Estimate:
    """Hill's α̂ = k/Σ_{i≤k} log(|X|_(i)/|X|_(k+1)) of the k = `fraction`·n largest |X|.

    Of samples (n, d) each coordinate is read by itself, at its own threshold u = |X|_(k+1), and
    1/α̂ is the mean over coordinates: pooled, the tail would be that of the widest coordinates.
    The error is that of Σ_i ψ_i over independent rows,

        ψ_i = mean_j [log⁺(|x_ij|/u_j) − 1{|x_ij| > u_j}/α̂_j]/k ,

    α̂/√k for one coordinate with a power-law tail, and as large for ten that are copies of it.

    Consistent for P(|X| > x) ~ x^{−α} with k/n → 0. It reads a *finite* index for every law: with
    u the quantile P(|X| > u) = `fraction`, a Gaussian reads 1/E[log(|X|/u) | |X| > u] = u² + 3 −
    8/u² + O(u⁻⁴), which grows as the fraction falls. An index that does not stand still under a
    smaller fraction is no index.

    **Arguments:** `samples` (n,), or (n, d): rows are independent, coordinates of a row need not
    be; `fraction` in (0, 1).

    **Returns:** `Estimate` of α, one number; `num_samples` rows are in the tail of a coordinate.

    **Raises:** `ValueError` if fewer than 8 rows are in the tail; for NaN and infinities.
    """
    x = np.abs(_rows("hill_tail_index", samples))
    fraction = check_number("fraction", fraction, above=0.0, below=1.0)
    count = int(fraction * len(x))
    threshold = np.sort(x, axis=0)[len(x) - 1 - count]
    if count < 8 or (threshold <= 0).any():
        raise ValueError(
            f"hill_tail_index needs 8 samples or more in the tail, none of them 0; a fraction of "
            f"{fraction:g} of {len(x)} is {count}. Take more samples or a larger fraction."
        )
    excess = np.log(np.maximum(x / threshold, 1.0))
    inverse = excess.sum(axis=0) / count
    if not (inverse > 0).all():
        raise ValueError(
            f"The {count} largest |X| of coordinate {int(np.argmin(inverse))} are all equal: there "
            f"is no tail. Take a larger fraction, or another coordinate."
        )
    beyond = x > threshold
    share = (excess - inverse * beyond).mean(axis=1) / count
    value = 1 / inverse.mean()
    visitors = int(beyond.any(axis=1).sum())
    error = np.sqrt((share**2).sum() * visitors / max(visitors - 1, 1))
    return Estimate(np.asarray(value), np.asarray(value**2 * error), visitors)


def normality_test(samples: Any) -> float:
    """p-value of Anderson & Darling's A² against a Gaussian of unknown mean and variance.

    By the fits of D'Agostino & Stephens 1986, table 4.9, accurate to about .01 for p < .5 and
    rough above. It asks whether n samples can tell the law from a Gaussian: with enough of them
    any finite batch can be told. How far it is from one is another question.

    **Arguments:** `samples` (n,), n ≥ 8, independent, not all equal.

    **Raises:** `ValueError` for more than one coordinate: entries of a row are not independent.
    """
    rows = _rows("normality_test", samples)
    if rows.shape[1] != 1:
        raise ValueError(
            f"normality_test takes one coordinate (n,), and got {rows.shape}: entries of a row are "
            f"not independent samples. Test each column, or a projection."
        )
    x = np.sort(rows[:, 0])
    num = len(x)
    if num < 8 or not x.std() > 0:
        raise ValueError(f"normality_test needs 8 samples that differ; got {in_brief(num)}.")
    z = (x - x.mean()) / x.std(ddof=1)
    odd = 2 * np.arange(1, num + 1) - 1
    square = -num - (odd * (scipy.special.log_ndtr(z) + scipy.special.log_ndtr(-z[::-1]))).mean()
    a = float(square * (1 + 0.75 / num + 2.25 / num**2))
    if a >= 0.6:
        # The fit turns up again beyond A² = 153, where p is 0 to any purpose.
        a = min(a, 150.0)
        return float(np.exp(1.2937 - 5.709 * a + 0.0186 * a * a))
    if a >= 0.34:
        return float(np.exp(0.9177 - 4.279 * a - 1.38 * a * a))
    if a >= 0.2:
        return float(1 - np.exp(-8.318 + 42.796 * a - 59.938 * a * a))
    return float(1 - np.exp(-13.436 + 101.14 * a - 223.73 * a * a))


def _rows(name: str, samples: Any) -> Float[np.ndarray, "n d"]:
    """Independent rows of finite numbers; (n,) is one coordinate."""
    x = as_float64("samples", samples)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"{name} takes samples (n,) or (n, d), one row for each independent draw; got shape "
            f"{np.shape(samples)}."
        )
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = (int(place) for place in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} needs finite samples: {int(bad.sum())} of {x.size} are NaN or infinite, the "
            f"first at row {row}, coordinate {column}. Find out why before leaving them out."
        )
    return x


def _columns(directions: Any, landscape: AbstractLandscape, key: Key) -> Array:
    dim, dtype = landscape.dimension, landscape.dtype
    if isinstance(directions, str) or not hasattr(directions, "__len__"):
        # 0.8 GB of random directions at most.
        most = max(10**8 // dim, 1)
        directions = check_whole("directions, a number or an array (d, k)", directions, 1, most)
        columns = jr.normal(key, (dim, directions), dtype)
    else:
        columns = as_real("directions", directions, dtype)
        if columns.ndim != 2 or columns.shape[0] != dim:
            raise ValueError(f"directions must have shape ({dim}, k); got {columns.shape}.")
    norms = jnp.linalg.norm(columns, axis=0)
    if not bool(jnp.all((norms > 0) & (norms < jnp.inf))):
        raise ValueError("directions must be finite, and none of them zero.")
    return columns / norms


@eqx.filter_jit
def _project(landscape, point, sampling, key, columns, num_draws: int, num_steps: int):
    """(steps, draws, k): noises of successive batches of independent samplers."""
    draws = Draws.create(key, jnp.arange(num_draws))
    full = landscape.gradient(point) @ columns

    def step(state, k):
        state, examples = sampling.draw(state, draws.at(iteration=k), landscape)
        gradient = jax.vmap(landscape.minibatch_gradient, in_axes=(None, 0))(point, examples)
        return state, gradient @ columns - full

    return jax.lax.scan(step, sampling.init(draws, landscape), jnp.arange(num_steps))[1]


def _autocorrelation(noise: np.ndarray) -> Estimate:
    """Lags 1 … steps − 1, each over all its pairs of steps and all directions."""
    variance = (noise**2).mean(axis=(0, 1))
    scaled = noise / np.sqrt(variance)
    steps = len(noise)
    rows = [(scaled[: steps - k] * scaled[k:]).mean(axis=(0, 2)) for k in range(1, steps)]
    return Estimate.from_samples(np.stack(rows, axis=1))


def _stack(rows: list[Estimate]) -> Estimate:
    values = np.array([float(row.value) for row in rows])
    errors = np.array([float(row.standard_error) for row in rows])
    return Estimate(values, errors, min(row.num_samples for row in rows))
