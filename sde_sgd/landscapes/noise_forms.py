"""How a finite sum turns normal numbers into exact minibatch noise.

All forms have the same law, a Gaussian of covariance Σ(θ); they differ in cost.
"""

import abc
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..types import Matrix, Vector, Weights

if TYPE_CHECKING:
    from .base import AbstractFiniteSum


class AbstractNoiseForm(eqx.Module):
    """∇L(θ) + amplitude·R(θ) z with R Rᵀ = Σ(θ), z of `dimension` standard normal numbers."""

    @abc.abstractmethod
    def dimension(self, landscape: "AbstractFiniteSum") -> int:
        """Number of normal numbers."""

    @abc.abstractmethod
    def root(self, landscape: "AbstractFiniteSum", theta: Vector) -> Float[Array, "d k"]:
        """R(θ)."""

    @abc.abstractmethod
    def noisy_gradient(
        self, landscape: "AbstractFiniteSum", theta: Vector, z: Float[Array, " k"], amplitude
    ) -> Vector:
        """∇L(θ) + amplitude·R(θ) z."""


class ExampleWeights(AbstractNoiseForm):
    """Jᵀ(1/N + amplitude·(z − z̄)/√N): one VJP, N normal numbers, for any landscape.

    With `basis` Q, (N, k) orthonormal columns that span those of the centred J, the weights
    are Qz: the same law from k numbers.
    """

    basis: Float[Array, "n k"] | None = None

    def dimension(self, landscape: "AbstractFiniteSum") -> int:
        return landscape.num_examples if self.basis is None else self.basis.shape[1]

    def root(self, landscape: "AbstractFiniteSum", theta: Vector) -> Float[Array, "d k"]:
        jacobian = landscape.example_gradients(theta)
        scale = jnp.sqrt(jnp.asarray(jacobian.shape[0], theta.dtype))
        if self.basis is None:
            return (jacobian - jacobian.mean(axis=0)).T / scale
        return jacobian.T @ self.basis / scale

    def noisy_gradient(self, landscape: "AbstractFiniteSum", theta, z, amplitude) -> Vector:
        num = jnp.asarray(landscape.num_examples, theta.dtype)
        weights = 1 / num + jnp.asarray(amplitude, theta.dtype) / jnp.sqrt(num) * self._centred(z)
        return landscape.weighted_gradient(theta, weights)

    def _centred(self, z: Float[Array, " k"]) -> Weights:
        return z - jnp.mean(z) if self.basis is None else self.basis @ z


class ResidualMoments(AbstractNoiseForm):
    """Least squares in few dimensions: Σ(θ) is a quadratic in δ = θ − θ*, and N drops out.

    With residuals r* and gradients s_i = x_i r*_i at θ*,

        Σ(θ) = E[x x r*²] + 2 E[x x r* x]·δ + E[x x x x]·δδ − (s̄ + Aδ)(s̄ + Aδ)ᵀ,

    A = E[x xᵀ]. R is its Cholesky factor: d normal numbers instead of N.
    """

    minimum: Vector
    slope: Vector
    gradient_at_minimum: Vector
    curvature: Matrix
    second: Matrix
    third: Float[Array, "d d d"]
    fourth: Float[Array, "d d d d"]
    l2: Float[Array, ""]

    @staticmethod
    def of(inputs: Array, targets: Array, l2: Array, minimum: Array) -> "ResidualMoments":
        """Moments of (N, d) inputs and (N,) targets, summed in float64."""
        x, y = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
        best, num = np.asarray(minimum, np.float64), len(x)
        residual = x @ best - y
        slope = x.T @ residual / num
        moments = (
            best,
            slope,
            slope + float(l2) * best,
            x.T @ x / num,
            np.einsum("na,nb,n->ab", x, x, residual**2) / num,
            np.einsum("na,nb,nc,n->abc", x, x, x, residual, optimize=True) / num,
            np.einsum("na,nb,nc,nd->abcd", x, x, x, x, optimize=True) / num,
        )
        return ResidualMoments(*(jnp.asarray(m, inputs.dtype) for m in moments), l2=l2)

    def dimension(self, landscape: "AbstractFiniteSum") -> int:
        return self.minimum.shape[0]

    def root(self, landscape: "AbstractFiniteSum", theta: Vector) -> Float[Array, "d k"]:
        offset = theta - self.minimum
        along = self.fourth @ offset + 2 * self.third
        mean = self.slope + self.curvature @ offset
        return _cholesky(self.second + along @ offset - mean[:, None] * mean[None, :])

    def noisy_gradient(self, landscape: "AbstractFiniteSum", theta, z, amplitude) -> Vector:
        offset = theta - self.minimum
        gradient = self.gradient_at_minimum + self.curvature @ offset + self.l2 * offset
        return gradient + jnp.asarray(amplitude, theta.dtype) * (self.root(landscape, theta) @ z)


def _cholesky(matrix: Matrix) -> Matrix:
    """Lower factor of a small positive *semi*-definite matrix, written out.

    Under `vmap` every entry is one vector over the members, which LAPACK's batched routine is
    not. A pivot that is not positive (rank-deficient Σ) gives a zero column.
    """
    size = matrix.shape[0]
    zero = jnp.zeros((), matrix.dtype)
    # A pivot below the rounding of its own diagonal entry carries no variance.
    eps = jnp.finfo(matrix.dtype).eps * size
    columns = [[zero] * size for _ in range(size)]
    for j in range(size):
        pivot = matrix[j, j] - sum((columns[k][j] ** 2 for k in range(j)), start=zero)
        sound = pivot > eps * matrix[j, j]
        root = jnp.sqrt(jnp.where(sound, pivot, 1))
        columns[j][j] = jnp.where(sound, root, 0)
        for i in range(j + 1, size):
            rest = matrix[i, j] - sum((columns[k][i] * columns[k][j] for k in range(j)), start=zero)
            columns[j][i] = jnp.where(sound, rest / root, 0)
    return jnp.stack([jnp.stack(column) for column in columns], axis=1)
