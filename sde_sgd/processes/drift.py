"""The drift of an equation of SGD: ∇L, and its correction of second order in η."""

import jax
import numpy as np

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.types import Vector


def force(landscape: AbstractLandscape, theta: Vector, eta, order: int) -> Vector:
    """∇L of order 1, ∇L + (η/2)H∇L of order 2: an equation drifts along its negative."""
    gradient = landscape.gradient(theta)
    return gradient if order == 1 else gradient + correction(landscape, theta, eta)


def correction(landscape: AbstractLandscape, theta: Vector, eta) -> Vector:
    """(η/2) H∇L = ∇(η/4)|∇L|², the second-order term of Li, Tai, E (1511.06251)."""
    gradient, curvature = jax.linearize(landscape.gradient, theta)
    return 0.5 * eta * curvature(gradient)


def rates(curvature: np.ndarray, eta: float, order: int) -> np.ndarray:
    """`force` along the directions of a quadratic: λ, and λ + (η/2)λ² of order 2."""
    return curvature if order == 1 else curvature + eta / 2 * curvature**2
