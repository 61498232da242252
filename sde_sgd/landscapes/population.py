"""Least squares on a population: fresh Gaussian examples at every step, no N."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import as_real, check_covariance, check_finite, check_non_negative
from sde_sgd.landscapes.base import AbstractPopulation
from sde_sgd.landscapes.noise_moments import NoiseMoments, refuse_many
from sde_sgd.random.draws import Draws, Stream
from sde_sgd.types import Matrix, RealLike, Scalar, Vector


class PopulationLeastSquares(AbstractPopulation):
    """ℓ(θ; x, y) = ½(x·θ − y)², x ~ N(0, A), y = x·θ* + σε, ε ~ N(0, 1).

    With δ = θ − θ*, by Isserlis' theorem,

        L(θ) = ½ δᵀAδ + ½ σ² ,    Σ(θ) = (σ² + δᵀAδ) A + A δ δᵀ A .

    **Arguments:**

    - `feature_covariance`: A, (d, d), symmetric positive semidefinite.
    - `label_noise`: σ ≥ 0, a standard deviation.
    - `minimum`: θ*, (d,); zero if not given.

    `sde_sgd.theory.stationary.covariance(process)` is exact on it.

    **Raises:** `ValueError` for an A that is no covariance, negative σ, shapes that differ, NaN.
    """

    feature_covariance: Matrix
    label_noise: Float[Array, ""]
    _minimum: Vector
    _root: Float[Array, "d rank"]

    def __init__(self, feature_covariance, label_noise: RealLike, minimum=None):
        matrix, root = check_covariance("feature_covariance", feature_covariance)
        centre = jnp.zeros(matrix.shape[0]) if minimum is None else as_real("minimum", minimum)
        if centre.shape != matrix.shape[:1]:
            raise ValueError(
                f"minimum must have shape {matrix.shape[:1]} to go with feature_covariance "
                f"{matrix.shape}; got {centre.shape}."
            )
        check_finite("minimum", centre)
        self.feature_covariance = matrix
        self.label_noise = check_non_negative("label_noise", label_noise, matrix.dtype)
        self._minimum = centre.astype(matrix.dtype)
        self._root = jnp.asarray(root, matrix.dtype)

    @property
    def dimension(self) -> int:
        return self._root.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        return self._root.dtype

    @property
    def noise_dimension(self) -> int:
        return self._root.shape[1]

    def minimum(self) -> Vector:
        """θ*, (d,)."""
        return self._minimum

    def rest(self) -> np.ndarray:
        return np.asarray(self._minimum, np.float64)

    def noise_moments(self, theta: Vector) -> NoiseMoments:
        """About θ: with δ the offset, ⟨g gᵀ⟩ by Isserlis, K[S] = A S A + tr(AS) A."""
        refuse_many(self.dimension, type(self).__name__)
        a = np.asarray(self.feature_covariance, np.float64)
        feedback = np.einsum("ab,cd->acbd", a, a) + np.einsum("bd,ac->acbd", a, a)
        zero = np.zeros((len(a),) * 3)
        at_rest = NoiseMoments(float(self.label_noise) ** 2 * a, zero, feedback, True)
        return at_rest.moved(np.asarray(theta, np.float64) - self.rest())

    def loss(self, theta: Vector) -> Scalar:
        offset = theta - self._minimum
        return 0.5 * jnp.dot(offset, self.feature_covariance @ offset) + 0.5 * self.label_noise**2

    def example_loss(
        self, theta: Vector, example: tuple[Float[Array, " d"], Float[Array, ""]]
    ) -> Scalar:
        x, y = example
        return 0.5 * (jnp.dot(x, theta) - y) ** 2

    def covariance_root(self, theta: Vector) -> Float[Array, "d rank"]:
        """A^{1/2} (√s I + u uᵀ/(√(s+|u|²) + √s)), u = A^{1/2}δ, s = σ² + |u|².

        The bracket is the symmetric root of sI + uuᵀ. It is smooth wherever s > 0; at s = 0
        (no label noise, at the minimum) the root and its derivative are taken as 0.
        """
        root = self._root
        u = root.T @ (theta - self._minimum)
        s = self.label_noise**2 + jnp.dot(u, u)
        noisy = s > 0
        # The inner `where` keeps the gradient of the branch that is not taken free of NaN.
        s = jnp.where(noisy, s, 1)
        along = jnp.outer(root @ u, u) / (jnp.sqrt(s + jnp.dot(u, u)) + jnp.sqrt(s))
        return jnp.where(noisy, jnp.sqrt(s) * root + along, 0)

    def draw_examples(
        self, draws: Draws, batch_size: int
    ) -> tuple[Float[Array, "... batch d"], Float[Array, "... batch"]]:
        """Inputs (members, B, d) and targets (members, B)."""
        rank = self.noise_dimension
        z = draws.normal((batch_size, rank + 1), Stream.BATCH, self.dtype)
        inputs = z[..., :rank] @ self._root.T
        return inputs, inputs @ self._minimum + self.label_noise * z[..., rank]
