"""The curvature at a point: ∇²L where it can be formed, else what Lanczos' method sees of it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.types import Scalar, Vector

# Up to this d ∇²L is formed; beyond, its part in a Krylov space of this dimension.
MOST_MODES = 64


# Up to this d ∇²L is formed where all of its eigenvalues are asked for.
MOST_DENSE = 4096


class Modes(NamedTuple):
    """∇²L ≈ Vᵀ diag(λ) V: all of it, or its part in a Krylov space.

    **Fields:** `values` λ (k,), zero in a Krylov space where they are rounding; `vectors` V (k, d),
    rows of zeros where the space has fewer dimensions than k; `flat` (k,), directions of
    curvature zero to rounding; `size` (d,), of what is summed up to ∇²L θ.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k d"]
    flat: Bool[Array, " k"]
    size: Float[Array, " d"]

    @property
    def index(self) -> Int[Array, ""]:
        return jnp.sum((self.values < 0) & ~self.flat)

    @property
    def real(self) -> Bool[Array, " k"]:
        """Which rows are directions."""
        return jnp.sum(self.vectors**2, axis=1) > 0.25


def modes_at(landscape: AbstractLandscape, theta: Vector, slope: Vector) -> Modes:
    """The modes of ∇²L at θ (d,), or those in the Krylov space of the gradient `slope` (d,)."""
    if len(theta) > MOST_MODES:
        return _modes_seen_from(landscape, theta, slope)
    hess = landscape.hessian(theta)
    values, vectors = jnp.linalg.eigh((hess + hess.T) / 2)
    flat = jnp.abs(values) <= curvature_rounding(theta) * jnp.abs(values).max()
    return Modes(values, vectors.T, flat, jnp.abs(hess) @ jnp.abs(theta))


def _modes_seen_from(landscape: AbstractLandscape, theta: Vector, vector: Vector) -> Modes:
    """The Ritz pairs of ∇²L in the Krylov space of a vector (d,)."""
    basis, hess = _krylov(lambda v: landscape.hessian_vector_product(theta, v), vector)
    values, vectors = jnp.linalg.eigh(hess)
    most = jnp.abs(values).max()
    small = jnp.abs(values) <= curvature_rounding(theta) * most
    # Over a long step of the flow rounding in place of a zero would grow.
    modes = Modes(jnp.where(small, 0, values), vectors.T @ basis, small, most * jnp.abs(theta))
    return modes._replace(flat=small & modes.real)


def curvature_rounding(theta: Vector) -> float:
    """What rounding makes of an eigenvalue of ∇²L, relative to the largest."""
    return 100 * min(len(theta), MOST_MODES) * float(jnp.finfo(theta.dtype).eps)


def falls_somewhere(landscape: AbstractLandscape, theta: Vector) -> Bool[Array, ""]:
    """Whether ∇²L has a negative eigenvalue, one to which the gradient may be orthogonal."""
    return (_modes_seen_from(landscape, theta, _any_direction(theta)).values < 0).any()


def least_curvature(landscape: AbstractLandscape, theta: Vector) -> Scalar:
    """The smallest eigenvalue of ∇²L at θ (d,), beyond d = 64 as Lanczos' method sees it."""
    modes = modes_at(landscape, theta, _any_direction(theta))
    return jnp.where(modes.real, modes.values, jnp.inf).min()


def _any_direction(theta: Vector) -> Vector:
    """A direction (d,) that no symmetry of L singles out."""
    return jnp.asarray(np.random.default_rng(0).normal(size=len(theta)), theta.dtype)


class Surroundings(NamedTuple):
    """The curvature at a point. Beyond d = 64 the ends of the spectrum that Lanczos' method sees.

    **Fields:** `smallest`, `largest` eigenvalue of ∇²L; `newton`, |(∇²L)⁻¹∇L| without flat
    directions: how far the minimum is if L is a parabola; `least` (d,), the direction of the
    smallest eigenvalue; `vectors` (k, d), all directions, and which of them are `flat` (k,), none
    of both beyond d = 64.
    """

    smallest: Float[Any, ""]
    largest: Float[Any, ""]
    newton: Float[Any, ""]
    least: Float[Any, " d"]
    vectors: Float[Any, "k d"]
    flat: Any


@eqx.filter_jit
def surroundings(landscape: AbstractLandscape, theta: Vector) -> Surroundings:
    """The curvature at θ (d,), at the cost of a Hessian or, beyond d = 64, of 128 products."""
    slope = landscape.gradient(theta)

    def seen_from(vector):
        modes = modes_at(landscape, theta, vector)
        upwards = jnp.where(modes.real, modes.values, jnp.inf)
        largest = jnp.where(modes.real, modes.values, -jnp.inf).max()
        newton = newton_length(modes, modes.vectors @ slope)
        least = modes.vectors[jnp.argmin(upwards)]
        return Surroundings(upwards.min(), largest, newton, least, modes.vectors, modes.flat)

    if len(theta) <= MOST_MODES:
        return seen_from(slope)
    seen = lax.map(seen_from, jnp.stack([slope, _any_direction(theta)]))
    # Newton's step lies in the space of the gradient; its end of the spectrum may be in either.
    which = jnp.argmin(seen.smallest)
    return Surroundings(
        seen.smallest.min(),
        seen.largest.max(),
        seen.newton[0],
        seen.least[which],
        seen.vectors[which, :0],
        seen.flat[which, :0],
    )


def refuse_many_dimensions(what: str, dimension: int) -> None:
    """Raises where a Hessian would have to be formed that is too large, with the way out."""
    if dimension > MOST_DENSE:
        raise ValueError(
            f"{what} forms the Hessian, and with d = {dimension} that is "
            f"{8 * dimension**2 / 1e9:.3g} GB; d = {MOST_DENSE} is the most. Without it "
            f"landscape.minimise(θ) finds a minimum, ss.curvature.eigenvalues its curvatures, and "
            f"ss.landscapes.label_by_nearest(minima, radius) tells which minimum is near."
        )


def flat_directions(eigenvalues: Float[np.ndarray, " d"], dtype: Any) -> str:
    """How many eigenvalues (d,) of a Hessian are zero to rounding, in words; "" for none."""
    size, largest = len(eigenvalues), float(np.abs(eigenvalues).max())
    limit = 100 * size * float(jnp.finfo(dtype).eps) * largest
    flat = int((np.abs(eigenvalues) <= limit).sum())
    if not flat:
        return ""
    return (
        f"{flat} of the {size} eigenvalues of the Hessian are zero to rounding (below "
        f"{limit:.2g}; the largest is {largest:.3g}), flat directions in which there is no "
        f"isolated minimum: add l2, or tell minima by distance with ss.landscapes.label_by_nearest"
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
