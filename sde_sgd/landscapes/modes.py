"""The curvature at a point: ∇²L where it can be formed, else what Lanczos' method sees of it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..types import Scalar, Vector
from .base import AbstractLandscape

# Up to this d ∇²L is formed; beyond, its part in a Krylov space of this dimension.
MOST_MODES = 64


class Modes(NamedTuple):
    """∇²L ≈ Vᵀ diag(λ) V: all of it, or its part in the Krylov space of the gradient."""

    values: Float[Array, " k"]
    vectors: Float[Array, "k d"]
    flat: Bool[Array, " k"]
    size: Float[Array, " d"]

    @property
    def index(self) -> Int[Array, ""]:
        return jnp.sum((self.values < 0) & ~self.flat)


def modes_at(landscape: AbstractLandscape, theta: Vector, slope: Vector) -> Modes:
    """The modes of ∇²L at θ (d,), or those in the Krylov space of the gradient `slope` (d,)."""
    d = theta.shape[0]
    eps = jnp.finfo(theta.dtype).eps
    if d <= MOST_MODES:
        hess = landscape.hessian(theta)
        values, vectors = jnp.linalg.eigh((hess + hess.T) / 2)
        flat = jnp.abs(values) <= 100 * d * eps * jnp.abs(values).max()
        return Modes(values, vectors.T, flat, jnp.abs(hess) @ jnp.abs(theta))
    basis, hess = _krylov(lambda v: landscape.hessian_vector_product(theta, v), slope)
    values, vectors = jnp.linalg.eigh(hess)
    # Directions that the gradient does not see say nothing of the Hessian: none counts as flat.
    size = jnp.abs(values).max() * jnp.abs(theta)
    return Modes(values, vectors.T @ basis, jnp.zeros(MOST_MODES, bool), size)


def falls_somewhere(landscape: AbstractLandscape, theta: Vector) -> Bool[Array, ""]:
    """Whether ∇²L has a negative eigenvalue, one to which the gradient may be orthogonal."""
    _, hess = _krylov(lambda v: landscape.hessian_vector_product(theta, v), _any_direction(theta))
    values = jnp.linalg.eigvalsh(hess)
    return values[0] < -curvature_rounding(theta) * jnp.abs(values).max()


def curvature_rounding(theta: Vector) -> float:
    """What rounding makes of an eigenvalue of ∇²L, relative to the largest."""
    return 100 * min(len(theta), MOST_MODES) * float(jnp.finfo(theta.dtype).eps)


def _any_direction(theta: Vector) -> Vector:
    return jnp.asarray(np.random.default_rng(0).normal(size=len(theta)), theta.dtype)


class Surroundings(NamedTuple):
    """The curvature at a point. Beyond d = 64 the ends of the spectrum that Lanczos' method sees.

    **Fields:** `smallest`, `largest` eigenvalue of ∇²L; `newton`, |(∇²L)⁻¹∇L| without flat
    directions: how far the minimum is if L is a parabola.
    """

    smallest: Float[Any, ""]
    largest: Float[Any, ""]
    newton: Float[Any, ""]


@eqx.filter_jit
def surroundings(landscape: AbstractLandscape, theta: Vector) -> Surroundings:
    """The curvature at θ (d,), at the cost of a Hessian or, beyond d = 64, of 128 products."""
    slope = landscape.gradient(theta)
    if len(theta) <= MOST_MODES:
        modes = modes_at(landscape, theta, slope)
        newton = newton_length(modes, modes.vectors @ slope)
        return Surroundings(modes.values.min(), modes.values.max(), newton)
    # Of the gradient, for Newton's step, and of any direction, which no symmetry can hide.
    bases, hessians = lax.map(
        lambda v: _krylov(lambda u: landscape.hessian_vector_product(theta, u), v),
        jnp.stack([slope, _any_direction(theta)]),
    )
    values, vectors = jnp.linalg.eigh(hessians)
    seen = jnp.swapaxes(vectors, 1, 2) @ bases
    # A space that is smaller than its basis is filled up with zeros: they are no directions.
    filled = jnp.linalg.norm(seen, axis=2) < 0.5
    modes = Modes(values[0], seen[0], filled[0], jnp.abs(theta))
    return Surroundings(
        jnp.where(filled, jnp.inf, values).min(),
        jnp.where(filled, -jnp.inf, values).max(),
        newton_length(modes, modes.vectors @ slope),
    )


def _krylov(product, vector: Vector) -> tuple[Float[Array, "k d"], Float[Array, "k k"]]:
    """Orthonormal rows that span v, Hv, …, H^{k−1}v, and H between them (Lanczos)."""
    k = MOST_MODES

    def extend(i, carry):
        basis, images, v = carry
        image = product(v)
        basis, images = basis.at[i].set(v), images.at[i].set(image)
        rest = image
        for _ in range(2):  # once more, against rounding
            rest = rest - basis.T @ (basis @ rest)
        return basis, images, _unit(rest, jnp.linalg.norm(image))

    zero = jnp.zeros((k, len(vector)), vector.dtype)
    begin = _unit(vector, jnp.zeros((), vector.dtype))
    basis, images, _ = lax.fori_loop(0, k, extend, (zero, zero, begin))
    hess = basis @ images.T
    return basis, (hess + hess.T) / 2


def _unit(vector: Vector, scale: Scalar) -> Vector:
    """v/|v|, or zero for a v that is the rounding of something of size `scale`."""
    length = jnp.linalg.norm(vector)
    real = length > 1e2 * jnp.finfo(vector.dtype).eps * scale
    return jnp.where(real, vector / jnp.where(length > 0, length, 1), 0)


def newton_length(modes: Modes, inside: Float[Array, " k"]) -> Scalar:
    """|(∇²L)⁻¹∇L| without flat directions, from the gradient's parts in the modes."""
    curved = jnp.where(modes.flat | (modes.values == 0), 1.0, modes.values)
    return jnp.linalg.norm(jnp.where(modes.flat, 0, inside / curved))
