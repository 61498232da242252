"""Where linear scaling η → κη, B → κB ends, by the predicted distance on the model at hand."""

import dataclasses
from typing import Any

import numpy as np

from ..noise.sampling import AbstractSampling
from .local_model import LocalModel, Settings
from .result import Scaling
from .rule import largest, watch


def linear_scaling_limit(
    model: LocalModel,
    names: tuple[str, ...],
    weights: np.ndarray,
    settings: Settings,
    sampling: AbstractSampling,
    tolerance: float,
    points: int = 13,
) -> Scaling:
    """Largest D at κ = b/B for whole b ≤ N, at equal time ηk; the largest b up to which D passes.

    On a grid of b that is even in its logarithm, then by bisection between the last b that passes
    and the next. 0 if none passes. At b = N batches without replacement have no noise and no SDE.
    """
    num, size = len(model.slopes), sampling.batch_size

    def distance(batch: int) -> float:
        kappa, scheme = batch / size, with_batch(sampling, batch)
        eta = settings.learning_rate * kappa
        steps = max(1, round(settings.num_steps / kappa))
        own = settings._replace(
            learning_rate=eta, noise_factor=scheme.noise_factor(num), num_steps=steps
        )
        if own.noise_factor == 0:
            return float("inf")
        return largest(watch(model, names, weights, own, scheme)).shares.distance

    grid = np.unique(np.rint(np.geomspace(1, num, points)).astype(int))
    grid = np.unique(np.concatenate([grid, [size]]))
    values = np.array([distance(int(b)) for b in grid])
    passing = np.flatnonzero(values <= tolerance)
    limit = 0.0
    if len(passing):
        # The last of the run of passing b that holds B, or of the first run if B fails.
        first = int(np.searchsorted(grid, size)) if size in grid[passing] else int(passing[0])
        last = first
        while last + 1 < len(grid) and values[last + 1] <= tolerance:
            last += 1
        low = int(grid[last])
        high = int(grid[last + 1]) if last + 1 < len(grid) else low + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if distance(middle) <= tolerance else (low, middle)
        limit = low / size
    return Scaling(grid / size, values, limit)


def with_batch(sampling: AbstractSampling, batch: int) -> AbstractSampling:
    """The same scheme with batches of another size."""
    make: Any = dataclasses.replace
    return make(sampling, batch_size=batch)
