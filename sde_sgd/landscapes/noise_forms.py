"""How a finite sum computes ∇L and turns normal numbers into exact minibatch noise.

All forms have the same law, a Gaussian of mean ∇L and covariance Σ(θ); they differ in cost.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd.landscapes.blocks import fitting_block, sum_blocks
from sde_sgd.types import Matrix, Vector, Weights

if TYPE_CHECKING:
    from sde_sgd.landscapes.base import AbstractFiniteSum


class AbstractNoiseForm(eqx.Module):
    """∇L(θ) + amplitude·R(θ) z with R Rᵀ = Σ(θ), z of `dimension` standard normal numbers."""

    @abc.abstractmethod
    def gradient(self, landscape: "AbstractFiniteSum", theta: Vector) -> Vector:
        """∇L(θ)."""

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

    def variance(self, landscape: "AbstractFiniteSum", theta: Vector) -> Vector:
        """Σ_jj(θ), (d,): here the squares of the rows of R, which has few columns."""
        return jnp.sum(self.root(landscape, theta) ** 2, axis=1)


class ExampleWeights(AbstractNoiseForm):
    """Jᵀ(1/N + amplitude·(z − z̄)/√N): one VJP, N normal numbers, for any landscape."""

    def gradient(self, landscape: "AbstractFiniteSum", theta: Vector) -> Vector:
        num = landscape.num_examples
        return landscape.weighted_gradient(theta, jnp.full((num,), 1 / num, theta.dtype))

    def dimension(self, landscape: "AbstractFiniteSum") -> int:
        return landscape.num_examples

    def root(self, landscape: "AbstractFiniteSum", theta: Vector) -> Float[Array, "d k"]:
        jacobian = landscape.example_gradients(theta)
        scale = jnp.sqrt(jnp.asarray(jacobian.shape[0], theta.dtype))
        return (jacobian - jacobian.mean(axis=0)).T / scale

    def noisy_gradient(self, landscape: "AbstractFiniteSum", theta, z, amplitude) -> Vector:
        num = jnp.asarray(landscape.num_examples, theta.dtype)
        scale = jnp.asarray(amplitude, theta.dtype) / jnp.sqrt(num)
        return landscape.weighted_gradient(theta, 1 / num + scale * (z - jnp.mean(z)))

    def variance(self, landscape: "AbstractFiniteSum", theta: Vector) -> Vector:
        """(1/N) Σ_i (∂_jℓ_i − ∂_jL)², centred before it is squared, so that a variance that is
        small beside the mean keeps its digits; as many examples at a time as fit into memory."""
        num, mean = landscape.num_examples, self.gradient(landscape, theta)

        def squares(theta: Vector, some: PyTree[Array], weights: Weights) -> Vector:
            return weights @ (landscape.gradients_of(theta, some) - mean) ** 2

        point = jax.ShapeDtypeStruct(theta.shape, theta.dtype)
        fits = fitting_block(squares, point, landscape.data)
        return sum_blocks(
            lambda some, weights: squares(theta, some, weights),
            landscape.data,
            jnp.full((num,), 1 / num, theta.dtype),
            min(fits, landscape.example_block),
        )


class ConstantRoot(AbstractNoiseForm):
    """∇U(θ) + amplitude·R z for ℓ_i = U + z_i·θ with centred tilts: rank(Σ) normal numbers.

    The tilts are not touched, however many there are.
    """

    energy: Callable
    matrix: Float[Array, "d rank"]

    def gradient(self, landscape: "AbstractFiniteSum", theta: Vector) -> Vector:
        return jax.grad(self.energy)(theta)

    def dimension(self, landscape: "AbstractFiniteSum") -> int:
        return self.matrix.shape[1]

    def root(self, landscape: "AbstractFiniteSum", theta: Vector) -> Float[Array, "d k"]:
        return self.matrix

    def noisy_gradient(self, landscape: "AbstractFiniteSum", theta, z, amplitude) -> Vector:
        noise = self.matrix @ z
        return self.gradient(landscape, theta) + jnp.asarray(amplitude, theta.dtype) * noise


class ResidualMoments(AbstractNoiseForm):
    """Least squares in few dimensions: Σ(θ) is a quadratic in δ = θ − θ*, and N drops out.

    With residuals r* at θ*, s̄ = E[x r*] and A = E[x xᵀ],

        Σ(θ) = E[x x r*²] + 2 E[x x r* x]·δ + E[x x x x]·δδ − (s̄ + Aδ)(s̄ + Aδ)ᵀ.

    `coefficients` maps the monomials (1, δ_a, δ_a δ_b) to the lower triangle of Σ, which under
    `vmap` is one matrix product for all members. R is its Cholesky factor: d normal numbers
    instead of N.
    """

    minimum: Vector
    residual_gradient: Vector
    hessian: Matrix
    coefficients: Float[Array, "triangle monomials"]

    @staticmethod
    def of(inputs: Array, targets: Array, l2: Array, minimum: Array) -> "ResidualMoments":
        """From (N, d) inputs and (N,) targets, summed in float64."""
        x, y = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
        best, (num, dim) = np.asarray(minimum, np.float64), x.shape
        residual = x @ best - y
        slope, curvature = x.T @ residual / num, x.T @ x / num
        rows, columns = np.tril_indices(dim)
        pairs = x[:, rows] * x[:, columns]
        # Monomials δ_a δ_b, a ≥ b: off the diagonal each stands for two terms.
        twice = np.where(rows == columns, 1.0, 2.0)
        constant = pairs.T @ residual**2 / num - slope[rows] * slope[columns]
        linear = 2 * (pairs.T @ (x * residual[:, None])) / num
        linear -= slope[rows, None] * curvature[columns] + slope[columns, None] * curvature[rows]
        product = curvature[rows][:, rows] * curvature[columns][:, columns]
        swapped = curvature[rows][:, columns] * curvature[columns][:, rows]
        quadratic = (pairs.T @ pairs / num - 0.5 * (product + swapped)) * twice
        coefficients = np.concatenate([constant[:, None], linear, quadratic], axis=1)
        hessian = curvature + float(l2) * np.eye(dim)
        kept = (best, slope + float(l2) * best, hessian, coefficients)
        return ResidualMoments(*(jnp.asarray(m, inputs.dtype) for m in kept))

    def gradient(self, landscape: "AbstractFiniteSum", theta: Vector) -> Vector:
        return self.residual_gradient + self.hessian @ (theta - self.minimum)

    def dimension(self, landscape: "AbstractFiniteSum") -> int:
        return self.minimum.shape[0]

    def root(self, landscape: "AbstractFiniteSum", theta: Vector) -> Float[Array, "d k"]:
        rows = self._factor(theta)
        size, zero = len(rows), jnp.zeros((), theta.dtype)
        return jnp.stack([jnp.stack([*row, *[zero] * (size - len(row))]) for row in rows])

    def noisy_gradient(self, landscape: "AbstractFiniteSum", theta, z, amplitude) -> Vector:
        gradient = self.gradient(landscape, theta)
        rows = self._factor(theta)
        noise = jnp.stack([sum(r * z[j] for j, r in enumerate(row)) for row in rows])
        return gradient + jnp.asarray(amplitude, theta.dtype) * noise

    def _factor(self, theta: Vector) -> list[list[Array]]:
        offset = theta - self.minimum
        size = offset.shape[0]
        each = [offset[i] for i in range(size)]
        squares = [each[i] * each[j] for i in range(size) for j in range(i + 1)]
        monomials = jnp.stack([jnp.ones((), theta.dtype), *each, *squares])
        packed = self.coefficients @ monomials
        entries = iter(packed[i] for i in range(packed.shape[0]))
        return _cholesky([[next(entries) for _ in range(i + 1)] for i in range(size)])


def _cholesky(lower: list[list[Array]]) -> list[list[Array]]:
    """Lower factor of a small positive *semi*-definite matrix, given and returned by rows.

    Written out entry by entry: under `vmap` each is one vector over the members, which
    LAPACK's batched routine is not. A pivot that is not positive, up to the rounding of its
    own diagonal entry (rank-deficient Σ), gives a zero column.
    """
    size = len(lower)
    eps = size * float(jnp.finfo(lower[0][0].dtype).eps)
    factor: list[list[Array]] = [[] for _ in range(size)]
    for j in range(size):
        pivot = lower[j][j] - sum(entry**2 for entry in factor[j])
        sound = pivot > eps * lower[j][j]
        root = jnp.sqrt(jnp.where(sound, pivot, 1))
        for i in range(j, size):
            if i == j:
                factor[j].append(jnp.where(sound, root, 0))
                continue
            rest = lower[i][j] - sum(
                a * b for a, b in zip(factor[i][:j], factor[j][:j], strict=True)
            )
            factor[i].append(jnp.where(sound, rest / root, 0))
    return factor
