"""Shape of minibatch noise in a direction: exact skewness, kurtosis and support of a batch mean."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from sde_sgd.noise.sampling import AbstractSampling


class Shape(NamedTuple):
    """Of the noise of one step in a direction.

    **Fields:** `deviation`, its standard deviation; `skewness`; `kurtosis` (excess, 0 for a
    Gaussian); `push`, how far noise reaches to the side where it reaches less, in standard
    deviations: a slope steeper than that no sequence of batches climbs, but the SDE does.
    """

    deviation: float
    skewness: float
    kurtosis: float
    push: float


def batch_shape(
    values: Float[np.ndarray, " n"], sampling: AbstractSampling, num_examples: int | None = None
) -> Shape:
    """Shape of the mean of a batch of N numbers, without enumerating batches.

    `values` are all of them, or a sample that stands for `num_examples`. With replacement the
    cumulants add: skewness/√B and kurtosis/B of one example. For subsets (a step of an epoch is
    one) see `AbstractSampling.joint_factor`.
    """
    centred = np.asarray(values, float) - np.mean(values)
    num = num_examples or len(centred)
    c = sampling.noise_factor(num)
    if c == 0 or not np.any(np.abs(centred) > 1e-13 * np.abs(values).max()):
        return Shape(0.0, 0.0, 0.0, 0.0)
    second, third, fourth = (float(np.mean(centred**k)) for k in (2, 3, 4))
    variance = c * second
    skewness = sampling.third_factor(num) * third / variance**1.5
    four, pairs = (sampling.joint_factor(sizes, num) for sizes in ((4,), (2, 2)))
    kurtosis = (four * fourth + 3 * pairs * second**2) / variance**2 - 3
    few = max(1, round(sampling.batch_size * len(centred) / num))
    ends = with_batch(sampling, few).largest_mean(np.stack([centred, -centred], axis=1))
    deviation = float(np.sqrt(variance))
    return Shape(deviation, float(skewness), float(kurtosis), float(ends.min()) / deviation)


def with_batch(sampling: AbstractSampling, batch: int) -> AbstractSampling:
    """The same scheme with batches of another size."""
    make: Any = dataclasses.replace
    return make(sampling, batch_size=batch)


def epoch_ratio(weights: Float[np.ndarray, " K"], num_examples: int, batch_size: int) -> float:
    """Var Σ w_k ξ_k under shuffled epochs over that of independent batches, steps k = 0…K−1.

    Two steps of one epoch are correlated by −B/(N − B) (−1/(M − 1) if B divides N = MB), those of
    different epochs not at all; an epoch has M = ⌊N/B⌋ steps.
    """
    steps = num_examples // batch_size
    correlation = -batch_size / (num_examples - batch_size)
    edges = np.arange(0, len(weights), steps)
    squares = np.add.reduceat(weights**2, edges)
    sums = np.add.reduceat(weights, edges)
    total = float(((1 - correlation) * squares + correlation * sums**2).sum())
    return max(total, 0.0) / float(squares.sum())
