"""Gradient-noise models: which covariance the SDE's noise has.

All of them state C(θ) = Cov(ĝ), the covariance of the gradient that *one iteration* uses.
"""

import abc
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import (
    check_flag,
    check_landscape,
    check_part,
    check_point,
    check_positive,
    check_symmetric,
    in_brief,
)
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.noise_moments import constant, NoiseMoments
from sde_sgd.noise.sampling import AbstractSampling, RandomReshuffling
from sde_sgd.types import Matrix, Scalar, Vector


class AbstractGradientNoise(eqx.Module):
    """Gradient noise of covariance C(θ) = Cov(ĝ) of one iteration, (d, d).

    A noise of your own has two class variables, `additive`: C does not depend on θ (Itô and
    Stratonovich then agree), and `fused`: drift and noise come out of one vector–Jacobian product;
    and five methods, for one member: `check`, `dimension` k, `covariance` C(θ) (d, d),
    `diffusion` C^{1/2}(θ), a lineax operator (d, k), and `noisy_gradient`
    ∇L(θ) + amplitude·C^{1/2}(θ) z of z (k,). C is in units of a gradient squared, without η. If
    σ(θ) is all you have, `FunctionNoise(σ)` is shorter.

    ```python
    class LossNoise(ss.AbstractGradientNoise):
        "C(θ) = s L(θ) I."
        strength: float
        additive: ClassVar[bool] = False
        fused: ClassVar[bool] = False
        def check(self, landscape): ...
        def dimension(self, landscape): return landscape.dimension
        def diffusion(self, theta, landscape):
            root = jnp.sqrt(self.strength * landscape.loss(theta))
            return lx.DiagonalLinearOperator(jnp.full_like(theta, root))
        def covariance(self, theta, landscape):
            return self.diffusion(theta, landscape).as_matrix() ** 2
        def noisy_gradient(self, theta, z, amplitude, landscape):
            return landscape.gradient(theta) + amplitude * self.diffusion(theta, landscape).mv(z)
    ```
    """

    additive: eqx.AbstractClassVar[bool]
    fused: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def check(self, landscape: AbstractLandscape) -> None:
        """Raises `ValueError` if this noise does not fit the landscape."""

    @abc.abstractmethod
    def dimension(self, landscape: AbstractLandscape) -> int:
        """Number of driving Brownian motions."""

    @abc.abstractmethod
    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        """C(θ), (d, d)."""

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        """C_jj(θ), (d,): the variance of each coordinate.

        A default of its own, the diagonal of `covariance`; most models know it without a matrix.
        """
        return jnp.diagonal(self.covariance(theta, landscape))

    def moments(self, theta: Vector, landscape: AbstractLandscape) -> NoiseMoments:
        """C(θ + u) to second order in u, for theory; by default held at C(θ)."""
        return constant(self.covariance(theta, landscape), exact=self.additive)

    @abc.abstractmethod
    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        """C^{1/2}(θ) as a lineax operator (d, k), for Diffrax's `ControlTerm`."""

    @abc.abstractmethod
    def noisy_gradient(
        self, theta: Vector, z: Float[Array, " k"], amplitude, landscape: AbstractLandscape
    ) -> Vector:
        """∇L(θ) + amplitude·C^{1/2}(θ) z, (d,)."""


class AbstractBatchNoise(AbstractGradientNoise):
    """Noise with the covariance of the batches of a `sampling`, or with a part of it."""

    sampling: eqx.AbstractVar[AbstractSampling]
    additive: ClassVar[bool] = False

    def __check_init__(self):
        if not isinstance(self.sampling, AbstractSampling):
            raise ValueError(
                f"{type(self).__name__} needs the sampling whose noise it models, such as "
                f"WithReplacement(8); got {in_brief(self.sampling)}. A given matrix "
                f"is ConstantNoise(matrix)."
            )

    def check(self, landscape: AbstractLandscape) -> None:
        self.sampling.check(landscape)

    def factor(self, landscape: AbstractLandscape) -> float:
        """c of the sampling scheme."""
        return self.sampling.noise_factor(landscape.num_examples)


class MinibatchNoise(AbstractBatchNoise):
    """C(θ) = c Σ(θ), exactly: the covariance of the batches that `sampling` draws.

    Nothing is approximated and no matrix is formed: on a finite sum the noise is a
    weighted gradient whose weights are Gaussian (`AbstractFiniteSum.noisy_gradient`).
    For `RandomReshuffling` this is the covariance of one step alone: white noise of that
    strength ignores the correlation between the steps of an epoch.
    """

    sampling: AbstractSampling
    fused: ClassVar[bool] = True

    def dimension(self, landscape: AbstractLandscape) -> int:
        return landscape.noise_dimension

    @property
    def white(self) -> bool:
        """Whether the modelled batches are independent between steps."""
        return not isinstance(self.sampling, RandomReshuffling)

    def third_factor(self, landscape: AbstractLandscape) -> float:
        """k of the sampling scheme: third central moments of ĝ over those of one example's."""
        return self.sampling.third_factor(landscape.num_examples)

    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        return self.factor(landscape) * landscape.gradient_covariance(theta)

    def moments(self, theta: Vector, landscape: AbstractLandscape) -> NoiseMoments:
        return landscape.noise_moments(theta).scaled(self.factor(landscape))

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        """c Σ_jj(θ), (d,), at the price of a gradient of each of the N examples."""
        return self.factor(landscape) * landscape.gradient_variance(theta)

    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        root = float(np.sqrt(self.factor(landscape))) * landscape.covariance_root(theta)
        return lx.MatrixLinearOperator(root)

    def noisy_gradient(self, theta, z, amplitude, landscape) -> Vector:
        scale = amplitude * float(np.sqrt(self.factor(landscape)))
        return landscape.noisy_gradient(theta, z, scale)


class ConstantNoise(AbstractGradientNoise):
    """C = a given matrix, the same everywhere.

    **Arguments:** `covariance`, (d, d) symmetric positive semi-definite: Cov(ĝ) of one
    iteration, the factor c included. `ConstantNoise.at` freezes a landscape's own noise.
    """

    matrix: Matrix
    root: Matrix | Vector
    additive: ClassVar[bool] = True
    fused: ClassVar[bool] = False

    def __init__(self, covariance):
        matrix = check_symmetric("covariance", covariance)
        values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
        if values.min() < -1e-6 * max(np.abs(values).max(), 1e-300):
            raise ValueError(
                f"ConstantNoise needs a positive semi-definite covariance; its smallest "
                f"eigenvalue is {values.min():.3g}."
            )
        diagonal = np.diagonal(matrix)
        if np.array_equal(matrix, np.diag(diagonal)):
            # Uncorrelated components need no product with a matrix.
            root = np.sqrt(np.clip(diagonal, 0, None))
        else:
            root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        self.matrix, self.root = matrix, jnp.asarray(root, matrix.dtype)

    @staticmethod
    def at(landscape: AbstractLandscape, theta: Vector, sampling: AbstractSampling):
        """c Σ(θ) frozen at one point θ, (d,)."""
        check_landscape(landscape, AbstractLandscape)
        noise = MinibatchNoise(sampling)
        noise.check(landscape)
        point = check_point("theta", theta, landscape)
        return ConstantNoise(eqx.filter_jit(noise.covariance)(point, landscape))

    def check(self, landscape: AbstractLandscape) -> None:
        if self.matrix.shape[0] != landscape.dimension:
            raise ValueError(
                f"ConstantNoise has a {self.matrix.shape} covariance; the landscape has "
                f"d={landscape.dimension}."
            )

    def dimension(self, landscape: AbstractLandscape) -> int:
        return landscape.dimension

    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        return self.matrix.astype(theta.dtype)

    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        root = self.root.astype(theta.dtype)
        return lx.DiagonalLinearOperator(root) if root.ndim == 1 else lx.MatrixLinearOperator(root)

    def noisy_gradient(self, theta, z, amplitude, landscape) -> Vector:
        return landscape.gradient(theta) + amplitude * self.diffusion(theta, landscape).mv(z)


class _AbstractScaledNoise(AbstractBatchNoise):
    """Independent coordinates, with the standard deviations `scale`."""

    fused: ClassVar[bool] = False

    @abc.abstractmethod
    def scale(self, theta: Vector, landscape: AbstractLandscape) -> Scalar | Vector:
        """√C_jj(θ), () or (d,)."""

    def dimension(self, landscape: AbstractLandscape) -> int:
        return landscape.dimension

    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        return jnp.diag(self.variance(theta, landscape))

    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        scale = self.scale(theta, landscape)
        return lx.DiagonalLinearOperator(jnp.broadcast_to(scale, theta.shape))

    def noisy_gradient(self, theta, z, amplitude, landscape) -> Vector:
        return landscape.gradient(theta) + amplitude * self.scale(theta, landscape) * z


class IsotropicNoise(_AbstractScaledNoise):
    """C(θ) = (c tr Σ(θ)/d) I: the trace of the minibatch noise, none of its directions."""

    sampling: AbstractSampling

    def scale(self, theta: Vector, landscape: AbstractLandscape) -> Scalar:
        """√(c tr Σ(θ)/d)."""
        return jnp.sqrt(self.factor(landscape) * jnp.mean(landscape.gradient_variance(theta)))

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        return jnp.broadcast_to(self.scale(theta, landscape) ** 2, theta.shape)

    def moments(self, theta: Vector, landscape: AbstractLandscape) -> NoiseMoments:
        eye = self.factor(landscape) * np.eye(landscape.dimension) / landscape.dimension
        own = landscape.noise_moments(theta)
        return own.mapped(lambda a: np.multiply.outer(eye, np.trace(a)))


class DiagonalNoise(_AbstractScaledNoise):
    """C(θ) = c diag Σ(θ): the variance of every coordinate, no correlation between them."""

    sampling: AbstractSampling

    def scale(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        """√(c Σ_jj(θ)), (d,)."""
        return jnp.sqrt(self.variance(theta, landscape))

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        return self.factor(landscape) * landscape.gradient_variance(theta)

    def moments(self, theta: Vector, landscape: AbstractLandscape) -> NoiseMoments:
        factor, kept = self.factor(landscape), np.eye(len(theta))
        own = landscape.noise_moments(theta)
        return own.mapped(lambda a: factor * (kept.reshape(kept.shape + (1,) * (a.ndim - 2)) * a))


class HessianNoise(AbstractGradientNoise):
    """C(θ) = scale·H⁺(θ), H⁺ the Hessian with its negative eigenvalues set to zero.

    The published shortcut Σ ≈ H (Jastrzębski et al. 2017; Xie, Sato, Sugiyama 2020 with
    scale = 1/B). Costs a Hessian and its eigenvectors at every step.

    **Arguments:** `scale` > 0; with `times_loss=True` C(θ) = scale·2L(θ)·H⁺(θ), the form of
    Mori et al. 2021 (scale = 1/B), for losses ≥ 0: where L < 0 there is no noise.
    """

    scale: Float[Array, ""] = eqx.field(converter=partial(check_positive, "scale"))
    times_loss: bool = eqx.field(
        static=True, default=False, converter=partial(check_flag, "times_loss")
    )
    additive: ClassVar[bool] = False
    fused: ClassVar[bool] = False

    def check(self, landscape: AbstractLandscape) -> None:
        pass

    def dimension(self, landscape: AbstractLandscape) -> int:
        return landscape.dimension

    def _root(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        values, vectors = jnp.linalg.eigh(landscape.hessian(theta))
        scale = self.scale.astype(theta.dtype)
        if self.times_loss:
            scale = scale * 2 * jnp.clip(landscape.loss(theta), 0)
        return (vectors * jnp.sqrt(scale * jnp.clip(values, 0))[None]) @ vectors.T

    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        root = self._root(theta, landscape)
        return root @ root.T

    def moments(self, theta: Vector, landscape: AbstractLandscape) -> NoiseMoments:
        # A quadratic has one Hessian.
        exact = landscape.rest() is not None and not self.times_loss
        return constant(self.covariance(theta, landscape), exact)

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        return jnp.sum(self._root(theta, landscape) ** 2, axis=1)

    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self._root(theta, landscape))

    def noisy_gradient(self, theta, z, amplitude, landscape) -> Vector:
        return landscape.gradient(theta) + amplitude * (self._root(theta, landscape) @ z)


def covariance_operator(
    noise: AbstractGradientNoise, theta: Vector, landscape: AbstractLandscape
) -> Matrix:
    """C(θ) rebuilt from the noise that `noisy_gradient` applies, column by column, (d, d).

    A check without sampling: the map z ↦ noisy_gradient(θ, z, 1) − ∇L(θ) is linear.
    """
    zero = jnp.zeros((noise.dimension(landscape),), theta.dtype)
    columns = jax.jacfwd(lambda z: noise.noisy_gradient(theta, z, 1.0, landscape))(zero)
    return columns @ columns.T


def check_noise(landscape: Any, noise: Any) -> None:
    """Raises `ValueError` for what is no landscape or noise, or where it is no noise of it."""
    check_landscape(landscape, AbstractLandscape)
    check_part("noise", noise, AbstractGradientNoise, "such as MinibatchNoise(sampling)")
    noise.check(landscape)
