"""Shape of minibatch noise in a direction: exact skewness, kurtosis and support of a batch mean."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sde_sgd.noise.sampling import AbstractSampling, WithReplacement


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
    one) see `subset_moments`.
    """
    centred = np.asarray(values, float) - np.mean(values)
    size, num = sampling.batch_size, num_examples or len(centred)
    if not np.any(np.abs(centred) > 1e-13 * np.abs(values).max()):
        return Shape(0.0, 0.0, 0.0, 0.0)
    if isinstance(sampling, WithReplacement):
        second, third, fourth = (float(np.mean(centred**k)) for k in (2, 3, 4))
        variance = second / size
        skewness = third / second**1.5 / np.sqrt(size)
        kurtosis = (fourth / second**2 - 3) / size
        ends = float(centred.max()), float(-centred.min())
    else:
        if size == num:
            return Shape(0.0, 0.0, 0.0, 0.0)
        variance, third, fourth = subset_moments(centred, size, num)
        skewness, kurtosis = third / variance**1.5, fourth / variance**2 - 3
        ordered, few = np.sort(centred), max(1, round(size * len(centred) / num))
        ends = float(ordered[-few:].mean()), float(-ordered[:few].mean())
    deviation = float(np.sqrt(variance))
    return Shape(deviation, float(skewness), float(kurtosis), min(ends) / deviation)


def subset_moments(
    centred: Float[np.ndarray, " n"], size: int, num: int
) -> tuple[float, float, float]:
    """E x̄², E x̄³, E x̄⁴ of the mean of a random subset of B of N centred numbers, exactly.

    The power sums s_k are N times the means of the numbers given: of all N, or of a sample.

    With s_k = Σ a_i^k, s_1 = 0, and π_r = B(B−1)…(B−r+1)/[N(N−1)…(N−r+1)], the probability that r
    given examples are all drawn, expanding the power of the sum over distinct indices gives

        B²E x̄² = (π₁ − π₂) s₂,    B³E x̄³ = (π₁ − 3π₂ + 2π₃) s₃,
        B⁴E x̄⁴ = (π₁ − 7π₂ + 12π₃ − 6π₄) s₄ + 3(π₂ − 2π₃ + π₄) s₂².
    """
    r = np.arange(4)
    falling = np.cumprod((size - r) / np.where(num - r > 0, num - r, 1))
    p1, p2, p3, p4 = np.where(num - r > 0, falling, 0.0)
    s2, s3, s4 = (num * float(np.mean(centred**k)) for k in (2, 3, 4))
    return (
        float((p1 - p2) * s2 / size**2),
        float((p1 - 3 * p2 + 2 * p3) * s3 / size**3),
        float(((p1 - 7 * p2 + 12 * p3 - 6 * p4) * s4 + 3 * (p2 - 2 * p3 + p4) * s2**2) / size**4),
    )


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
