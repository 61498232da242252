"""Analytic potentials U(θ) whose gradient noise has a prescribed, constant covariance Σ.

They are finite sums like any other, ℓ_i(θ) = U(θ) + z_i·θ, with centred tilts z_i that carry the
noise: Σ_i z_i = 0 and (1/N) Σ_i z_i z_iᵀ = Σ. The sampling schemes index the tilts.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._checks import (
    as_real,
    check_callable,
    check_covariance,
    check_finite,
    check_positive,
    check_symmetric,
    in_brief,
)
from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.noise_forms import ConstantRoot
from sde_sgd.landscapes.noise_moments import constant, NoiseMoments
from sde_sgd.landscapes.probe import probe_scalar
from sde_sgd.types import Matrix, RealLike, Scalar, Vector, Weights


class Potential(AbstractFiniteSum):
    """ℓ_i(θ) = U(θ) + z_i·θ, so that L = U and Σ(θ) = (1/N) Σ_i z_i z_iᵀ for every θ.

    The default tilts are the smallest set with covariance Σ: a regular simplex of rank(Σ) + 1
    points, mapped by a root of Σ. In one dimension they are ±σ, the two-point noise; Σ = 0 gives
    one example, which is full-batch descent. A simplex in two or more dimensions is skewed: for
    gradients of another shape pass `tilts`.

    A batch sees the tilts, an SDE only Σ: it draws `noise_dimension` = rank(Σ) normal numbers,
    whatever the number of tilts.

    **Arguments:**

    - `energy`: U, a function (d,) -> scalar or a callable Equinox module.
    - `noise_covariance`: Σ, (d, d), symmetric positive semidefinite, of any rank.
    - `tilts`: (N, d) centred z_i instead of `noise_covariance`.

    The dtype is that of `noise_covariance` or `tilts`.

    **Raises:** `ValueError` unless exactly one of `noise_covariance` and `tilts` is given; for a
    matrix that is no covariance, tilts that are not centred, NaN, an energy that is no scalar or
    has another dtype.
    """

    energy: Callable
    data: Float[Array, "n d"]
    noise_form: ConstantRoot

    def __init__(self, energy: Any, noise_covariance=None, *, tilts=None):
        if (noise_covariance is None) == (tilts is None):
            raise ValueError("Potential needs either noise_covariance or tilts, and not both.")
        if tilts is None:
            covariance, root = check_covariance("noise_covariance", noise_covariance)
            dtype = covariance.dtype
            basis = _simplex(root.shape[1])
            points = np.sqrt(len(basis)) * basis @ root.T
        else:
            points = _check_tilts(tilts)
            dtype = points.dtype
            basis = _column_space(np.asarray(points, np.float64), float(jnp.finfo(dtype).eps))
        self.energy = check_callable("energy", energy, "lambda theta: 0.5 * jnp.sum(theta**2)")
        self.data = jnp.asarray(points, dtype)
        spread = np.asarray(points, np.float64).T @ basis / np.sqrt(len(basis))
        self.noise_form = ConstantRoot(energy, jnp.asarray(spread, dtype))
        point = jax.ShapeDtypeStruct((self.dimension,), dtype)
        probe_scalar("energy", energy, dtype, point)

    @property
    def dimension(self) -> int:
        return self.data.shape[1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.data.dtype

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        return self.energy(theta) + data @ theta

    def rest(self) -> np.ndarray | None:
        if not isinstance(self.energy, QuadraticEnergy):
            return None
        return np.asarray(self.energy.minimum, np.float64)

    def noise_moments(self, theta: Vector) -> NoiseMoments:
        """Σ, the same everywhere."""
        return constant(self.gradient_covariance(theta), exact=True)


def _simplex(rank: int) -> np.ndarray:
    """(rank + 1, rank) orthonormal columns orthogonal to 1 (Helmert): the rows are a simplex."""
    columns = np.zeros((rank + 1, rank))
    for j in range(rank):
        columns[: j + 1, j], columns[j + 1, j] = 1.0, -(j + 1.0)
        columns[:, j] /= np.sqrt((j + 1) * (j + 2))
    return columns


def _column_space(matrix: np.ndarray, eps: float) -> np.ndarray:
    """(N, rank) orthonormal columns that span those of `matrix`, known to relative `eps`."""
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, singular > max(matrix.shape) * eps * singular.max(initial=0.0)]


def _check_tilts(tilts) -> Array:
    points = as_real("tilts", tilts)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"tilts must have shape (N, d); got {points.shape}.")
    check_finite("tilts", points)
    exact = np.asarray(points, np.float64)
    mean = np.abs(exact.mean(axis=0)).max()
    # Subtracting a mean in floating point leaves a few roundings of the largest tilt.
    if mean > 10 * float(jnp.finfo(points.dtype).eps) * np.abs(exact).max():
        raise ValueError(
            f"tilts must be centred, Σ_i z_i = 0, or they would move the minimum; their mean is up "
            f"to {mean:g}. Subtract it: tilts - tilts.mean(axis=0)."
        )
    return points


class QuadraticEnergy(eqx.Module):
    """U(θ) = ½ (θ − m)ᵀ H (θ − m), H symmetric (d, d), of any signature; m (d,)."""

    hessian: Matrix
    minimum: Vector

    def __call__(self, theta: Vector) -> Scalar:
        offset = theta - self.minimum
        return 0.5 * jnp.dot(offset, self.hessian @ offset)


class DoubleWellEnergy(eqx.Module):
    """U(x) = (x² − 1)²/4 + a (x³/3 − x), so that U′(x) = (x² − 1)(x + a), |a| < 1.

    Minima at −1 and +1 and the barrier's top at −a whatever the asymmetry a; there
    U(±1) = ∓2a/3, U″(±1) = 2(1 ± a), U″(−a) = a² − 1. With a = 0 the barrier is 1/4 high.
    """

    asymmetry: Scalar

    def __call__(self, theta: Vector) -> Scalar:
        (x,) = theta
        return _double_well(x, self.asymmetry)


class SharpAndFlatWellsEnergy(eqx.Module):
    """U(x, y) = (x² − 1)²/4 + a (x³/3 − x) + ½ k(x) y², a sharp and a flat minimum.

    The transverse curvature k(x) = k₋^{(1−s)/2} k₊^{(1+s)/2}, s = 2x/(1 + x²), runs smoothly from
    k₋ = `flat_curvature` at x = −1 to k₊ = `sharp_curvature` at x = +1 and never leaves that
    interval. There are three stationary points:

    | point | θ | U | Hessian |
    |---|---|---|---|
    | flat minimum | (−1, 0) | 2a/3 | diag(2(1 − a), k₋) |
    | sharp minimum | (+1, 0) | −2a/3 | diag(2(1 + a), k₊) |
    | saddle | (−a, 0) | U(−a, 0) | diag(a² − 1, k(−a)) |

    With a = 0 both minima have depth 0, the barrier is 1/4 and only the widths differ. Under
    isotropic noise of temperature T the marginal of x is exactly ∝ k(x)^{−1/2} e^{−U(x,0)/T}.
    """

    flat_curvature: Scalar
    sharp_curvature: Scalar
    asymmetry: Scalar

    def __call__(self, theta: Vector) -> Scalar:
        x, y = theta
        weight = 0.5 + x / (1 + x**2)
        flat, sharp = jnp.log(self.flat_curvature), jnp.log(self.sharp_curvature)
        curvature = jnp.exp(flat + (sharp - flat) * weight)
        return _double_well(x, self.asymmetry) + 0.5 * curvature * y**2


class MuellerBrownEnergy(eqx.Module):
    """U(x, y) = scale · Σ_k A_k exp[a_k (x−x_k)² + b_k (x−x_k)(y−y_k) + c_k (y−y_k)²].

    Three minima and two saddles; U in units of `scale`:

    | minimum | U | saddle | U |
    |---|---|---|---|
    | (−0.5582, 1.4417) | −146.700 | (−0.8220, 0.6243) | −40.665 |
    | (0.6235, 0.0280) | −108.167 | (0.2125, 0.2930) | −72.249 |
    | (−0.0500, 0.4667) | −80.768 | | |

    The largest Hessian eigenvalue at a minimum is 4 068·scale, so that plain gradient descent
    there needs a learning rate below 4.9e-4/scale.

    **Source:** Müller and Brown 1979, Theoretica Chimica Acta 53, 75.
    """

    scale: Scalar

    def __call__(self, theta: Vector) -> Scalar:
        x, y = theta
        total = jnp.zeros((), theta.dtype)
        for height, a, b, c, x_k, y_k in _MUELLER_BROWN:
            exponent = a * (x - x_k) ** 2 + b * (x - x_k) * (y - y_k) + c * (y - y_k) ** 2
            total = total + height * jnp.exp(exponent)
        return self.scale * total


_MUELLER_BROWN = (
    # A, a, b, c, x_k, y_k
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)


def quadratic(hessian, noise_covariance, minimum=None) -> Potential:
    """`QuadraticEnergy` ½ (θ − m)ᵀ H (θ − m) with gradient noise of covariance Σ.

    **Arguments:**

    - `hessian`: H, symmetric (d, d), or a number in one dimension.
    - `noise_covariance`: Σ, (d, d), or a number for that multiple of the identity.
    - `minimum`: m, (d,); zero if not given.

    **Raises:** `ValueError` for matrices that are not symmetric or differ in size, a Σ that is not
    positive semidefinite, NaN.
    """
    matrix = as_real("hessian", hessian)
    matrix = check_symmetric("hessian", matrix[None, None] if matrix.ndim == 0 else matrix)
    size = matrix.shape[0]
    covariance = _covariance(noise_covariance, size)
    centre = jnp.zeros(size) if minimum is None else as_real("minimum", minimum)
    if centre.shape != (size,):
        raise ValueError(f"minimum must have shape ({size},); got {centre.shape}.")
    check_finite("minimum", centre)
    dtype = covariance.dtype
    return Potential(QuadraticEnergy(matrix.astype(dtype), centre.astype(dtype)), covariance)


def double_well(noise_covariance, *, asymmetry: RealLike = 0.0) -> Potential:
    """`DoubleWellEnergy` (x² − 1)²/4 + a (x³/3 − x) with gradient noise of variance σ².

    The default tilts ±σ are the two-point noise; minima at ±1, barrier 1/4 at a = 0.

    **Arguments:** `noise_covariance` σ², a number or (1, 1); `asymmetry` a, |a| < 1.

    **Raises:** `ValueError` for σ² < 0, |a| ≥ 1.
    """
    covariance = _covariance(noise_covariance, 1)
    return Potential(DoubleWellEnergy(_asymmetry(asymmetry, covariance.dtype)), covariance)


def sharp_and_flat_wells(
    noise_covariance,
    *,
    flat_curvature: RealLike = 1.0,
    sharp_curvature: RealLike = 10.0,
    asymmetry: RealLike = 0.0,
) -> Potential:
    """`SharpAndFlatWellsEnergy`, flat at (−1, 0) and sharp at (1, 0), with noise of covariance Σ.

    **Arguments:**

    - `noise_covariance`: Σ, (2, 2), or a number for that multiple of the identity.
    - `flat_curvature`, `sharp_curvature`: ∂²U/∂y² at the two minima, > 0.
    - `asymmetry`: a, |a| < 1; the sharp minimum lies 4a/3 below the flat one.

    **Raises:** `ValueError` for curvatures ≤ 0, |a| ≥ 1, a Σ that is no covariance.
    """
    covariance = _covariance(noise_covariance, 2)
    dtype = covariance.dtype
    flat = check_positive("flat_curvature", flat_curvature, dtype)
    sharp = check_positive("sharp_curvature", sharp_curvature, dtype)
    energy = SharpAndFlatWellsEnergy(flat, sharp, _asymmetry(asymmetry, dtype))
    return Potential(energy, covariance)


def mueller_brown(noise_covariance, *, scale: RealLike = 1.0) -> Potential:
    """`MuellerBrownEnergy`, four Gaussians with three minima, with gradient noise of covariance Σ.

    **Arguments:**

    - `noise_covariance`: Σ, (2, 2), or a number for that multiple of the identity.
    - `scale`: factor on U, > 0; Σ is not scaled.

    **Raises:** `ValueError` for a scale ≤ 0, a Σ that is no covariance.
    """
    covariance = _covariance(noise_covariance, 2)
    return Potential(
        MuellerBrownEnergy(check_positive("scale", scale, covariance.dtype)), covariance
    )


def _double_well(x: Scalar, asymmetry: Scalar) -> Scalar:
    return (x**2 - 1) ** 2 / 4 + asymmetry * (x**3 / 3 - x)


def _covariance(value, size: int) -> Array:
    """Σ, (size, size), from a matrix or from a number."""
    matrix = as_real("noise_covariance", value)
    matrix = matrix * jnp.eye(size, dtype=matrix.dtype) if matrix.ndim == 0 else matrix
    if matrix.shape != (size, size):
        raise ValueError(
            f"noise_covariance must be a number or have shape ({size}, {size}); got {matrix.shape}."
        )
    return matrix


def _asymmetry(value, dtype) -> Array:
    array = as_real("asymmetry", value, dtype)
    if array.shape != () or not bool(jnp.abs(array) < 1):
        raise ValueError(
            f"asymmetry must be a number in (-1, 1), where there are two minima; got "
            f"{in_brief(value)}."
        )
    return array
