"""Populations whose parameters are a matrix: a linear teacher, and Gaussian tilts of any loss.

θ is the matrix flattened by rows, (m·n,); `matrix(θ)` is W back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import (
    as_real,
    check_callable,
    check_covariance,
    check_finite,
    check_non_negative,
    check_positive,
    check_whole,
)
from sde_sgd.landscapes.base import AbstractLandscape, AbstractPopulation
from sde_sgd.landscapes.probe import probe_scalar
from sde_sgd.random.draws import Draws, Stream
from sde_sgd.types import Matrix, RealLike, Scalar, Vector


def symmetric_gaussian(z: Float[Array, " entries"], size: int) -> Float[Array, "size size"]:
    """S = (Z + Zᵀ)/√2 from its n(n+1)/2 independent entries: variance 1, on the diagonal 2.

    The covariance E S_ab S_cd = δ_ac δ_bd + δ_ad δ_bc is that of xxᵀ − I, x ~ N(0, I).
    """
    row, column = np.triu_indices(size)
    scaled = jnp.where(row == column, np.sqrt(2), 1.0).astype(z.dtype) * z
    upper = jnp.zeros((size, size), z.dtype).at[row, column].set(scaled)
    return upper + upper.T - jnp.diag(jnp.diagonal(upper))


class LinearTeacherStudent(AbstractLandscape):
    """ℓ(W; x, y) = ½|Wx − y|², x ~ N(0, A) in R^n, y = W*x + σε in R^m, ε ~ N(0, I).

    With Δ = W − W*, the loss is ½ tr ΔAΔᵀ + ½ mσ² and, by Isserlis' theorem, the gradient
    (Δx − σε)xᵀ of one example has the covariance

        Σ_{ia,jb} = (ΔAΔᵀ + σ²I)_ij A_ab + (ΔA)_ib (ΔA)_ja .

    Its root is linear in θ: [ΔA^{1/2}(Z + Zᵀ)/√2 − σE] A^{1/2} with Z (n, n), E (m, n) normal. The
    rows of W share the inputs, and with them the noise: they are not m separate regressions.

    **Arguments:**

    - `teacher`: W*, (m, n).
    - `label_noise`: σ ≥ 0, a standard deviation of each output.
    - `feature_covariance`: A, (n, n), positive definite; the identity if not given.

    **Raises:** `ValueError` for a teacher that is no matrix, an A that is no covariance of n
    features or is singular, negative σ, NaN.
    """

    teacher: Float[Array, "m n"]
    label_noise: Float[Array, ""]
    feature_covariance: Matrix
    _root: Matrix

    def __init__(self, teacher, label_noise: RealLike, feature_covariance=None):
        weights = as_real("teacher", teacher)
        if weights.ndim != 2 or 0 in weights.shape:
            raise ValueError(f"teacher must be a matrix (m, n); got shape {weights.shape}.")
        check_finite("teacher", weights)
        features = jnp.eye(weights.shape[1], dtype=weights.dtype)
        given = features if feature_covariance is None else feature_covariance
        matrix, root = check_covariance("feature_covariance", given)
        if matrix.shape[0] != weights.shape[1] or root.shape[1] != weights.shape[1]:
            raise ValueError(
                f"feature_covariance must be positive definite, one row for each of the teacher's "
                f"{weights.shape[1]} inputs; got shape {matrix.shape} of rank {root.shape[1]}."
            )
        self.teacher = weights
        self.label_noise = check_non_negative("label_noise", label_noise, weights.dtype)
        self.feature_covariance = matrix.astype(weights.dtype)
        self._root = jnp.asarray(root, weights.dtype)

    @property
    def dimension(self) -> int:
        return self.teacher.size

    @property
    def dtype(self) -> jnp.dtype:
        return self.teacher.dtype

    @property
    def num_examples(self) -> None:
        return None

    @property
    def noise_dimension(self) -> int:
        num = self.teacher.shape[1]
        return num * (num + 1) // 2 + self.teacher.size

    def minimum(self) -> Vector:
        """W* flattened, (m·n,)."""
        return self.teacher.ravel()

    def matrix(self, theta: Vector) -> Float[Array, "m n"]:
        """W of θ."""
        return theta.reshape(self.teacher.shape)

    def unravel(self, theta: Vector) -> Float[Array, "m n"]:
        return self.matrix(theta)

    def ravel(self, parameters: Float[Array, "m n"]) -> Vector:
        return parameters.ravel()

    def loss(self, theta: Vector) -> Scalar:
        delta = self.matrix(theta) - self.teacher
        noise = 0.5 * self.teacher.shape[0] * self.label_noise**2
        return 0.5 * jnp.sum(delta * (delta @ self.feature_covariance)) + noise

    def gradient(self, theta: Vector) -> Vector:
        return ((self.matrix(theta) - self.teacher) @ self.feature_covariance).ravel()

    def minibatch_loss(
        self, theta: Vector, examples: tuple[Float[Array, "batch n"], Float[Array, "batch m"]]
    ) -> Scalar:
        inputs, targets = examples
        residual = inputs @ self.matrix(theta).T - targets
        return 0.5 * jnp.sum(residual**2) / inputs.shape[0]

    def noise(self, theta: Vector, z: Float[Array, " k"]) -> Vector:
        """Σ^{1/2}(θ) z, (m·n,), without forming the root."""
        num = self.teacher.shape[1]
        split = num * (num + 1) // 2
        shared = (self.matrix(theta) - self.teacher) @ self._root
        labels = z[split:].reshape(self.teacher.shape)
        inner = shared @ symmetric_gaussian(z[:split], num) - self.label_noise * labels
        return (inner @ self._root.T).ravel()

    def noisy_gradient(self, theta: Vector, z: Float[Array, " k"], amplitude) -> Vector:
        scale = jnp.asarray(amplitude, theta.dtype)
        return self.gradient(theta) + scale * self.noise(theta, z)

    def covariance_root(self, theta: Vector) -> Float[Array, "d k"]:
        columns = jnp.eye(self.noise_dimension, dtype=theta.dtype)
        return jax.vmap(lambda z: self.noise(theta, z), out_axes=1)(columns)

    def gradient_covariance(self, theta: Vector) -> Matrix:
        root = self.covariance_root(theta)
        return root @ root.T

    def draw_examples(
        self, draws: Draws, batch_size: int
    ) -> tuple[Float[Array, "... batch n"], Float[Array, "... batch m"]]:
        """Inputs (members, B, n) and targets (members, B, m)."""
        outputs, num = self.teacher.shape
        z = draws.normal((batch_size, num + outputs), Stream.BATCH, self.dtype)
        inputs = z[..., :num] @ self._root.T
        return inputs, inputs @ self.teacher.T + self.label_noise * z[..., num:]


class GaussianTilts(AbstractPopulation):
    """ℓ(θ; z) = U(θ) + z·θ with a fresh tilt z ~ N(0, Σ): Gaussian noise injected into ∇U.

    SGD with B tilts has gradients ∇U + N(0, Σ/B), Gaussian to all orders, where the tilts of
    `Potential` are finitely many. `symmetric_noise_covariance` gives the Σ of a symmetric matrix.

    **Arguments:** `energy` U, a function (d,) -> scalar; `noise_covariance` Σ, (d, d), symmetric
    positive semidefinite.

    **Raises:** `ValueError` for a Σ that is no covariance, an energy that is no scalar or has
    another dtype.
    """

    energy: Callable
    noise_covariance: Matrix
    _root: Float[Array, "d rank"]

    def __init__(self, energy: Any, noise_covariance):
        matrix, root = check_covariance("noise_covariance", noise_covariance)
        self.energy = check_callable("energy", energy, "lambda theta: 0.5 * jnp.sum(theta**2)")
        self.noise_covariance = matrix
        self._root = jnp.asarray(root, matrix.dtype)
        point = jax.ShapeDtypeStruct((self.dimension,), self.dtype)
        probe_scalar("energy", energy, self.dtype, point)

    @property
    def dimension(self) -> int:
        return self._root.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        return self._root.dtype

    @property
    def noise_dimension(self) -> int:
        return self._root.shape[1]

    def loss(self, theta: Vector) -> Scalar:
        return self.energy(theta)

    def example_loss(self, theta: Vector, example: Vector) -> Scalar:
        return self.energy(theta) + jnp.dot(example, theta)

    def covariance_root(self, theta: Vector) -> Float[Array, "d rank"]:
        return self._root

    def draw_examples(self, draws: Draws, batch_size: int) -> Float[Array, "... batch d"]:
        """Tilts (members, B, d)."""
        z = draws.normal((batch_size, self.noise_dimension), Stream.BATCH, self.dtype)
        return z @ self._root.T


def symmetric_noise_covariance(size: int, scale: RealLike) -> Float[Array, "d d"]:
    """Covariance of a symmetric Gaussian matrix flattened by rows, (n², n²).

    Off-diagonal entries have the standard deviation `scale` and are equal in pairs, diagonal ones
    √2·scale: the law is invariant under rotations of the matrix, scale²(δ_ac δ_bd + δ_ad δ_bc).

    **Raises:** `ValueError` for size < 1 or scale ≤ 0.
    """
    size = check_whole("size", size, 1, 100)  # n⁴ numbers, .8 GB
    scale = check_positive("scale", scale)
    delta = jnp.eye(size)
    same = jnp.einsum("ac,bd->abcd", delta, delta)
    return scale**2 * (same + same.transpose(0, 1, 3, 2)).reshape(size**2, size**2)
