"""A landscape's functions for those who ask outside a compiled loop.

Each is compiled once for each kind and shape of landscape, whoever asks, not once for each call.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.types import Matrix, Positions, Scalar, Vector


@eqx.filter_jit
def loss(landscape: AbstractLandscape, theta: Vector) -> Scalar:
    """L(θ) at one θ (d,)."""
    return landscape.loss(theta)


@eqx.filter_jit
def losses(landscape: AbstractLandscape, theta: Positions) -> Float[Array, " members"]:
    """L at many points (members, d), (members,)."""
    return jax.vmap(landscape.loss)(theta)


@eqx.filter_jit
def gradient(landscape: AbstractLandscape, theta: Vector) -> Vector:
    """∇L(θ) at one θ (d,), (d,)."""
    return landscape.gradient(theta)


@eqx.filter_jit
def hessian(landscape: AbstractLandscape, theta: Vector) -> Matrix:
    """∇²L(θ) at one θ (d,), (d, d)."""
    return landscape.hessian(theta)


@eqx.filter_jit
def hessian_vector_product(landscape: AbstractLandscape, theta: Vector, vector: Vector) -> Vector:
    """∇²L(θ) v at one θ (d,), (d,)."""
    return landscape.hessian_vector_product(theta, vector)


@eqx.filter_jit
def _sizes(landscape: AbstractLandscape, theta: Positions) -> Float[Array, " members"]:
    """What L at many points is a sum of, (members, d) to (members,): of examples the mean |ℓ_i|."""
    if not isinstance(landscape, AbstractFiniteSum):
        return jnp.abs(jax.vmap(landscape.loss)(theta))
    return jax.vmap(lambda x: jnp.mean(jnp.abs(landscape.example_losses(x))))(theta)


def loss_rounding(landscape: AbstractLandscape, theta: np.ndarray) -> float:
    """What rounding in the landscape's dtype makes of L at places θ (n, d), the most of them.

    L may be a small mean of large losses of examples, which rounds as they do.
    """
    sizes = _sizes(landscape, jnp.asarray(theta, landscape.dtype))
    return float(sizes.max()) * float(jnp.finfo(landscape.dtype).eps)
