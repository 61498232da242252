"""Moments of the signs of Gaussian numbers, for the equation of SignSGD."""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float

from sde_sgd.types import Matrix, Vector

# Of Gauss and Legendre: Owen's integrand has no pole nearer to [0, 1] than ±i.
_NODES = 16


def mean_signs(ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """e = E sign x = erf(ratio/√2) of Gaussian x with means `ratio` and variances 1."""
    return erf(ratio * float(np.sqrt(0.5)))


def sign_moments(gradient: Vector, variance: Vector) -> tuple[Vector, Vector, Vector]:
    """E and Var of sign ĝ_i, and E ĝ_i in standard deviations, for Gaussian ĝ_i, (d,) each.

    Where the variance is 0 the sign is certain.
    """
    noisy, spread = variance > 0, jnp.sqrt(variance)
    ratio = jnp.clip(gradient / jnp.maximum(spread, jnp.finfo(gradient.dtype).tiny), -40, 40)
    mean = jnp.where(noisy, mean_signs(ratio), jnp.sign(gradient))
    return mean, jnp.where(noisy, 1 - mean**2, 0), ratio


def joint_signs(ratio: Vector, correlation: Matrix) -> Matrix:
    """E sign x_i sign x_j of Gaussian x with means `ratio` and variances 1, i ≠ j, (d, d).

    With a, b the two means, ρ the correlation and r = √(1 − ρ²) it is

        1 − 4T(a, (b − ρa)/(ar)) − 4T(b, (a − ρb)/(br)) − 2·[ab < 0],

    T Owen's function. Where the slope |t| > 1 its integral is not smooth, and 4T(h, t) =
    sign t − e(h) e(ht) − 4T(ht, 1/t) has a slope below 1. The error is below 1e-15 (float32:
    2e-7) up to |ρ| = 1; an error δ of ρ itself counts (2/π) δ/r.
    """
    kind = jnp.finfo(ratio.dtype)
    least = float(np.sqrt(float(kind.tiny)))  # in place of 0, where the slope has no limit
    a = jnp.where(jnp.abs(ratio) < least, least, ratio)
    root = jnp.maximum(jnp.sqrt((1 - correlation) * (1 + correlation)), kind.eps)
    lean, a = jnp.broadcast_arrays((a - correlation * a[:, None]) / root, a[:, None])
    steep = jnp.abs(lean) > jnp.abs(a)
    height, slope = jnp.where(steep, lean, a), jnp.where(steep, a, lean)
    slope = slope / height
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    x = 0.5 * slope[..., None] * (nodes + 1).astype(ratio.dtype)
    spread = weights.astype(ratio.dtype) * jnp.exp(-0.5 * height[..., None] ** 2 * (1 + x**2))
    owen = slope / np.pi * jnp.sum(spread / (1 + x**2), axis=-1)
    other = jnp.sign(slope) - mean_signs(a) * mean_signs(lean) - owen
    owen = jnp.where(steep, other, owen)
    return 1 - (owen + owen.T) - 2 * (a * a.T < 0)
