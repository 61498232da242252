"""Gradient noise whose root is a function of θ that the user gives."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from sde_sgd._checks import in_brief, output_shape, real_output
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.types import Matrix, Vector


class FunctionNoise(AbstractGradientNoise):
    """C(θ) = R(θ)R(θ)ᵀ for a given root R, a function of θ.

    C = Cov(ĝ) is that of *one iteration*, the factor of the batches included: the SDE reads
    dθ = −∇L dt + √η R(θ) dW (Itô, t = ηk). For a diffusion of √2 D^{1/2}(θ) per √t give
    R = √(2/η) D^{1/2}. Any root of C gives the same law; R with k columns draws k normal
    numbers a step.

    **Arguments:** `root`, a function or callable Equinox module θ (d,) ↦ R(θ): a matrix (d, k), or
    a vector (d,) for the diagonal matrix of independent noise in each coordinate.

    **Raises:** `ValueError`, when a process is made with it, for other shapes or another dtype
    than θ's. Noise that does not depend on θ is `ConstantNoise`, which more solvers can use.
    """

    root: Callable
    additive: ClassVar[bool] = False
    fused: ClassVar[bool] = True

    def __check_init__(self):
        if not callable(self.root):
            raise ValueError(
                f"root must be a function of θ; got {in_brief(self.root)}. A constant covariance "
                f"is ConstantNoise(matrix)."
            )

    def _shape(self, landscape: AbstractLandscape) -> Any:
        probe = jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
        return output_shape("root(θ)", self.root, probe)

    def check(self, landscape: AbstractLandscape) -> None:
        found, size = self._shape(landscape), landscape.dimension
        if len(found.shape) not in (1, 2) or found.shape[0] != size or 0 in found.shape:
            raise ValueError(
                f"FunctionNoise: root(θ) must have shape ({size},), a diagonal, or ({size}, k) for "
                f"this landscape of d={size}; it has shape {found.shape}."
            )
        if found.dtype != landscape.dtype:
            raise ValueError(
                f"FunctionNoise: root(θ) is {found.dtype} and the landscape {landscape.dtype}; "
                f"make them one dtype."
            )

    def dimension(self, landscape: AbstractLandscape) -> int:
        return self._shape(landscape).shape[-1]

    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        root = real_output("root(θ)", self.root(theta))
        return jnp.diag(root**2) if root.ndim == 1 else root @ root.T

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        root = real_output("root(θ)", self.root(theta))
        return root**2 if root.ndim == 1 else jnp.sum(root**2, axis=1)

    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        root = real_output("root(θ)", self.root(theta))
        return lx.DiagonalLinearOperator(root) if root.ndim == 1 else lx.MatrixLinearOperator(root)

    def noisy_gradient(
        self, theta: Vector, z: Float[Array, " k"], amplitude, landscape: AbstractLandscape
    ) -> Vector:
        root = real_output("root(θ)", self.root(theta))
        noise = root * z if root.ndim == 1 else root @ z
        return landscape.gradient(theta) + jnp.asarray(amplitude, theta.dtype) * noise
