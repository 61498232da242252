"""The variance of each coordinate of a gradient, without the matrix that has it on its diagonal."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..landscapes.base import AbstractFiniteSum, AbstractLandscape
from ..landscapes.blocks import fitting_block, sum_blocks
from ..landscapes.noise_forms import ExampleWeights
from ..types import Vector, Weights


def example_variance(theta: Vector, landscape: AbstractLandscape) -> Vector:
    """Σ_jj(θ), (d,): the variance of one example's gradient, coordinate by coordinate.

    On a finite sum it is (1/N) Σ_i (∂_jℓ_i − ∂_jL)², centred before it is squared, so that a
    variance that is small beside the mean keeps its digits. Costs ∇L and the gradients of all N
    examples one by one, of as many at a time as fit into memory (n·d numbers each block, never
    N·d for large N). Where Σ has a root of few columns, the squares of its rows.
    """
    if not isinstance(landscape, AbstractFiniteSum) or not isinstance(
        landscape.noise_form, ExampleWeights
    ):
        return jnp.sum(landscape.covariance_root(theta) ** 2, axis=1)
    num = landscape.num_examples
    mean = landscape.gradient(theta)

    def squares(theta: Vector, block: PyTree[Array], weights: Weights) -> Vector:
        """Σ_i w_i (∇ℓ_i − ∇L)² of the examples in a block."""
        return weights @ (landscape.gradients_of(theta, block) - mean) ** 2

    point = jax.ShapeDtypeStruct(theta.shape, theta.dtype)
    fits = fitting_block(squares, point, landscape.data)
    return sum_blocks(
        lambda block, weights: squares(theta, block, weights),
        landscape.data,
        jnp.full((num,), 1 / num, theta.dtype),
        min(fits, landscape.example_block),
    )
