"""Gradients of single examples that one iteration of a member takes."""

import math

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.control_variate import ControlVariate
from sde_sgd.noise.models import AbstractGradientNoise, ConstantNoise, MinibatchNoise
from sde_sgd.noise.thermal import without_bath


def of_batches(landscape: AbstractLandscape, batch_size: int, gradients: int = 1) -> float:
    """B for every batch gradient; a control variate takes each example's twice."""
    return float(gradients * batch_size * _times(landscape))


def of_all_examples(landscape: AbstractLandscape, gradients: int | float) -> float:
    """N for every weighted gradient; NaN of a population."""
    num = landscape.num_examples
    return math.nan if num is None else float(gradients * num * _times(landscape))


def of_noisy_steps(
    landscape: AbstractLandscape, noise: AbstractGradientNoise | None, substeps: int
) -> float:
    """N a step with exact or constant noise, which is one weighted gradient; NaN of others."""
    if isinstance(without_bath(noise), MinibatchNoise | ConstantNoise):
        return of_all_examples(landscape, substeps)
    return math.nan


def _times(landscape: AbstractLandscape) -> int:
    return 2 if isinstance(landscape, ControlVariate) else 1
