"""The Gaussian restricted Boltzmann machine, trained by likelihood on a free scalar field."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import check_covariance, check_positive, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.matrix_populations import symmetric_gaussian
from sde_sgd.random.draws import Draws, Stream
from sde_sgd.types import Matrix, RealLike, Scalar, Vector


def scalar_field_kernel(size: int, mass: RealLike) -> Float[Array, "n n"]:
    """Kernel of a free field on a ring, K = (m² + 2)I − shifts by one either way.

    Its eigenvalues are κ_k = m² + 2 − 2cos(2πk/N), k = 0…N−1: those of k and N − k are equal.

    **Raises:** `ValueError` for a ring of fewer than three sites or m ≤ 0 (κ_0 = m² would be 0).
    """
    size = check_whole("size", size, 3, 10_000)  # .8 GB
    m = check_positive("mass", mass)
    shift = jnp.roll(jnp.eye(size), 1, axis=1)
    return (m**2 + 2) * jnp.eye(size) - shift - shift.T


class GaussianRBM(AbstractLandscape):
    """−ln p(φ) of visible φ ∈ R^n after N_h Gaussian hidden units are integrated out.

    p(φ, h) ∝ exp(−½μ²φ² − ½h² + φᵀWh) has p(φ) ∝ exp(−½ φᵀKφ) with K = μ² − WWᵀ. Data
    φ ~ N(0, C), C = kernel⁻¹, so that up to constants

        L = ½ tr KC − ½ ln det K ,   ∇L = (K⁻¹ − C)W ,   ĝ = (K⁻¹ − φφᵀ)W ,

    the last with the model's own average exact (no sampling of hidden units). Per example

        Σ^{1/2}z = −C^{1/2} (Z + Zᵀ)/√2 C^{1/2} W .

    L is defined while K is positive definite, and +∞ outside: a step that leaves is a divergence,
    which the engine names. L depends on WWᵀ alone, so W → WO costs nothing.

    **Arguments:**

    - `kernel`: of the data, (n, n), symmetric positive definite, e.g. `scalar_field_kernel(10, 2)`.
    - `mass`: μ > 0 of the visible units. A mode with κ ≥ μ² is not learnt.
    - `num_hidden`: N_h, n by default.

    θ is W (n, N_h) flattened by rows.

    **Raises:** `ValueError` for a kernel that is not symmetric positive definite, μ ≤ 0, N_h < 1.
    """

    kernel: Matrix
    mass: Float[Array, ""]
    num_hidden: int = eqx.field(static=True)
    covariance: Matrix
    _root: Matrix

    def __init__(self, kernel, mass: RealLike, num_hidden: int | None = None):
        matrix, root = check_covariance("kernel", kernel)
        if root.shape[1] != matrix.shape[0]:
            raise ValueError(
                f"kernel must be positive definite, or its field has no law; its rank is "
                f"{root.shape[1]} of {matrix.shape[0]}. Take a mass > 0."
            )
        hidden = matrix.shape[0] if num_hidden is None else check_whole("num_hidden", num_hidden)
        self.kernel, self.num_hidden = matrix, hidden
        self.mass = check_positive("mass", mass, matrix.dtype)
        values, basis = np.linalg.eigh(np.asarray(matrix, np.float64))
        self.covariance = jnp.asarray((basis / values) @ basis.T, matrix.dtype)
        self._root = jnp.asarray((basis / np.sqrt(values)) @ basis.T, matrix.dtype)

    @property
    def dimension(self) -> int:
        return self.kernel.shape[0] * self.num_hidden

    @property
    def dtype(self) -> jnp.dtype:
        return self.kernel.dtype

    @property
    def num_examples(self) -> None:
        return None

    @property
    def noise_dimension(self) -> int:
        size = self.kernel.shape[0]
        return size * (size + 1) // 2

    def matrix(self, theta: Vector) -> Float[Array, "n hidden"]:
        """W of θ."""
        return theta.reshape(self.kernel.shape[0], self.num_hidden)

    def unravel(self, theta: Vector) -> Float[Array, "n hidden"]:
        return self.matrix(theta)

    def ravel(self, parameters: Float[Array, "n hidden"]) -> Vector:
        return parameters.ravel()

    def minimum(self) -> Vector:
        """One of the minima: WWᵀ = μ² − kernel on the modes with κ < μ² (the N_h lowest), else 0.

        With N_h = n it is the symmetric root.
        """
        values, basis = np.linalg.eigh(np.asarray(self.kernel, np.float64))
        levels = np.sqrt(np.clip(float(self.mass) ** 2 - values, 0, None))
        size = len(values)
        if self.num_hidden >= size:
            weights = np.zeros((size, self.num_hidden))
            weights[:, :size] = (basis * levels) @ basis.T
        else:
            weights = (basis * levels)[:, : self.num_hidden]
        return jnp.asarray(weights.ravel(), self.dtype)

    def _model(self, weights: Float[Array, "n hidden"]) -> Matrix:
        size = weights.shape[0]
        return self.mass**2 * jnp.eye(size, dtype=weights.dtype) - weights @ weights.T

    def loss(self, theta: Vector) -> Scalar:
        return self._loss(theta, self.covariance)

    def minibatch_loss(self, theta: Vector, examples: Float[Array, "batch n"]) -> Scalar:
        return self._loss(theta, examples.T @ examples / examples.shape[0])

    def _loss(self, theta: Vector, covariance: Float[Array, "n n"]) -> Scalar:
        """½ tr KC − ½ ln det K for data of covariance C."""
        model = self._model(self.matrix(theta))
        factor = jnp.linalg.cholesky(model)
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
        value = 0.5 * jnp.sum(model * covariance) - half_log_det
        # Cholesky's factor of an indefinite matrix is NaN; outside its domain the loss is +∞.
        return jnp.where(jnp.isnan(half_log_det), jnp.inf, value)

    def _model_term(self, weights: Float[Array, "n hidden"]) -> Float[Array, "n hidden"]:
        """K⁻¹W, NaN where K is not positive definite."""
        factor = jnp.linalg.cholesky(self._model(weights))
        return jax.scipy.linalg.cho_solve((factor, True), weights)

    def gradient(self, theta: Vector) -> Vector:
        weights = self.matrix(theta)
        return (self._model_term(weights) - self.covariance @ weights).ravel()

    def minibatch_gradient(self, theta: Vector, examples: Float[Array, "batch n"]) -> Vector:
        weights = self.matrix(theta)
        data = examples.T @ (examples @ weights) / examples.shape[0]
        return (self._model_term(weights) - data).ravel()

    def noise(self, theta: Vector, z: Float[Array, " k"]) -> Vector:
        """Σ^{1/2}(θ) z, (n·N_h,), without forming the root."""
        inner = symmetric_gaussian(z, self.kernel.shape[0])
        return -(self._root @ inner @ self._root @ self.matrix(theta)).ravel()

    def noisy_gradient(self, theta: Vector, z: Float[Array, " k"], amplitude) -> Vector:
        scale = jnp.asarray(amplitude, theta.dtype)
        return self.gradient(theta) + scale * self.noise(theta, z)

    def covariance_root(self, theta: Vector) -> Float[Array, "d k"]:
        columns = jnp.eye(self.noise_dimension, dtype=theta.dtype)
        return jax.vmap(lambda z: self.noise(theta, z), out_axes=1)(columns)

    def gradient_covariance(self, theta: Vector) -> Matrix:
        root = self.covariance_root(theta)
        return root @ root.T

    def draw_examples(self, draws: Draws, batch_size: int) -> Float[Array, "... batch n"]:
        """Fields φ, (members, B, n)."""
        size = self.kernel.shape[0]
        return draws.normal((batch_size, size), Stream.BATCH, self.dtype) @ self._root
