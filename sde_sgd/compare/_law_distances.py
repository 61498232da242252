"""Total variation and Wasserstein distances of samples, each with its sampling floor."""

import functools
from collections.abc import Callable

import equinox as eqx
import numpy as np
import scipy

from sde_sgd.compare._exact_tail import multinomial_cells, p_value
from sde_sgd.compare._law_tools import binomial_deviation, groups
from sde_sgd.estimate import Estimate
from sde_sgd.theory.quantiles import inverse

NUM_NULL = 1000


class LawDistance(eqx.Module):
    """A distance between laws beside what sampling alone makes of it.

    **Fields:** `name`; `measured`, an `Estimate` with the bootstrap's error; `floor`, the mean
    distance of such a sample from its own law, and `floor_spread`, the standard deviation of it.
    """

    name: str
    measured: Estimate
    floor: float
    floor_spread: float

    @property
    def excess(self) -> float:
        """(measured − floor)/floor_spread: how many standard deviations of pure sampling."""
        return float((self.measured.value - self.floor) / self.floor_spread)


def variation_from(
    counts: np.ndarray,
    masses: np.ndarray,
    rng: np.random.Generator,
    num_bootstrap: int,
    failure_rate: float,
) -> tuple[LawDistance, float]:
    """½ Σ |n_j/n − p_j| with bootstrap error, exact floor, and the p-value under the null."""
    num = int(counts.sum())
    masses = masses / masses.sum()

    def distance(n):
        return 0.5 * np.abs(n / num - masses).sum(axis=-1)

    def draw(count):
        return distance(rng.multinomial(num, masses, size=count))

    null = draw(NUM_NULL)
    error = distance(rng.multinomial(num, counts / num, size=num_bootstrap)).std(ddof=1)
    measured = Estimate(np.asarray(distance(counts)), np.asarray(error), num)
    deviation = binomial_deviation(num, masses)
    # Where no draw visits the rare cells: the deviations of cells as if independent.
    alone = np.sqrt((num * masses * (1 - masses) - deviation**2).clip(min=0).sum())
    spread = float(null.std(ddof=1)) or float(0.5 * alone / num)
    made = LawDistance("TV", measured, float(0.5 * deviation.sum() / num), spread)
    cells = functools.partial(multinomial_cells, num, masses)
    return made, p_value(float(measured.value), null, draw, failure_rate, cells)


def wasserstein_from(
    values: np.ndarray, cdf: Callable, rng: np.random.Generator, num_bootstrap: int
) -> LawDistance:
    """∫|F̂ − F| dx of sorted values, over their range and the 1e-7 quantiles of F."""
    num = len(values)
    levels = scipy.special.ndtr(np.linspace(-5.2, 5.2, 2049))
    nodes = inverse(cdf, levels, values[0], values[-1])
    points = np.unique(np.concatenate([values, nodes]))
    exact = cdf(points)
    heights = np.searchsorted(values, points, side="right") / num
    left, right = heights[:-1] - exact[:-1], heights[:-1] - exact[1:]
    value = float(np.diff(points) @ _mean_absolute(left, right))
    deviation = binomial_deviation(num, levels) / num
    floor = float(np.trapezoid(deviation, nodes))

    ends, sizes = groups(values)
    at_ends = cdf(ends)
    draws = rng.multinomial(num, sizes / num, size=num_bootstrap)
    resampled = np.trapezoid(np.abs(np.cumsum(draws, axis=1) / num - at_ends), ends, axis=1)
    cells = np.diff(np.concatenate([[0.0], levels, [1.0]]))
    null = rng.multinomial(num, cells, size=num_bootstrap)[:, :-1]
    spread = np.trapezoid(np.abs(np.cumsum(null, axis=1) / num - levels), nodes, axis=1)
    measured = Estimate(np.asarray(value), np.asarray(resampled.std(ddof=1)), num)
    return LawDistance("W1", measured, floor, float(spread.std(ddof=1)))


def wasserstein_between(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, num_bootstrap: int
) -> LawDistance:
    """∫|F̂ − Ĝ| dx, with the members grouped by rank where there are many."""
    sizes, pooled = (len(x), len(y)), np.sort(np.concatenate([x, y]))
    value = scipy.stats.wasserstein_distance(x, y)
    ends, total = groups(pooled)
    counts = [np.diff(np.searchsorted(np.sort(s), ends, side="right"), prepend=0) for s in (x, y)]

    def between(a, b):
        height = np.cumsum(a / sizes[0] - b / sizes[1], axis=-1)
        return np.abs(height[..., :-1]) @ np.diff(ends)

    draws = [
        rng.multinomial(size, c / size, size=num_bootstrap)
        for size, c in zip(sizes, counts, strict=True)
    ]
    relabelled = rng.multivariate_hypergeometric(total, sizes[0], size=num_bootstrap)
    null = between(relabelled, total - relabelled)
    error = np.asarray(between(*draws).std(ddof=1))
    measured = Estimate(np.asarray(value), error, min(sizes))
    return LawDistance("W1", measured, float(null.mean()), float(null.std(ddof=1)))


def _mean_absolute(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean of |f| over an interval on which f runs linearly from `left` to `right`."""
    crosses = left * right < 0
    width = np.where(crosses, np.abs(right - left), 1)
    return np.where(
        crosses, (left**2 + right**2) / (2 * width), 0.5 * (np.abs(left) + np.abs(right))
    )
