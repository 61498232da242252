"""A finite sum whose example gradients are centred by their values at an anchor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd._checks import as_real, check_finite
from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.noise_forms import AbstractNoiseForm, ExampleWeights
from sde_sgd.types import Vector, Weights


class ControlVariate(AbstractFiniteSum):
    """ℓ̃_i(θ) = ℓ_i(θ) − (∇ℓ_i(a) − ∇L(a))·(θ − a): the same mean loss, less gradient noise.

    The tilts add up to zero, so that L̃ = L, while a batch gradient becomes

        ĝ(θ) = ∇L(a) + (1/B) Σ_{i∈batch} [∇ℓ_i(θ) − ∇ℓ_i(a)] ,

    and Σ̃(θ) is the covariance of ∇ℓ_i(θ) − ∇ℓ_i(a), zero at θ = a. Every process and noise model
    takes this landscape as any other. Nothing is stored but ∇L(a): each batch gradient costs two.

    **Source:** Johnson & Zhang 2013 (NeurIPS 26); Baker et al. 2019 (1706.05439).

    **Arguments:** `landscape`, a finite sum; `anchor` a, (d,), usually near its minimum.

    **Raises:** `ValueError` for a population, which has no ∇ℓ_i to subtract, and a bad anchor.
    """

    landscape: AbstractFiniteSum
    anchor: Vector
    anchor_gradient: Vector
    noise_form: AbstractNoiseForm

    def __init__(self, landscape: Any, anchor: Any):
        if not isinstance(landscape, AbstractFiniteSum):
            raise ValueError(
                f"ControlVariate needs a finite sum, whose example gradients it subtracts; got "
                f"{type(landscape).__name__}."
            )
        point = as_real("anchor", anchor)
        if point.shape != (landscape.dimension,):
            raise ValueError(
                f"The anchor must have shape ({landscape.dimension},), as θ; got {point.shape}."
            )
        check_finite("anchor", point)
        self.landscape = landscape
        self.anchor = point.astype(landscape.dtype)
        self.anchor_gradient = landscape.gradient(self.anchor)
        check_finite("the gradient at the anchor", self.anchor_gradient)
        self.noise_form = ExampleWeights()

    @property
    def data(self) -> PyTree[Array]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.landscape.data

    @property
    def dimension(self) -> int:
        return self.landscape.dimension

    @property
    def dtype(self) -> jnp.dtype:
        return self.landscape.dtype

    def unravel(self, theta: Vector) -> PyTree[Array]:
        return self.landscape.unravel(theta)

    def ravel(self, parameters: PyTree[Array]) -> Vector:
        return self.landscape.ravel(parameters)

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        offset = theta - self.anchor
        # ∇ℓ_i(a)·(θ − a) for all examples at once; its transpose in θ is one more product.
        _, along = jax.jvp(lambda x: self.landscape.losses(x, data), (self.anchor,), (offset,))
        return self.landscape.losses(theta, data) - along + jnp.dot(self.anchor_gradient, offset)

    def rest(self) -> np.ndarray | None:
        """The minimum of L̃ = L, where the examples' own losses are quadratic."""
        return self.landscape.rest()
