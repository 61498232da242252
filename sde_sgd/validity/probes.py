"""What is read off a finite sum: norms, directions worth watching, the model of every example.

Nothing holds a gradient or an activation for every example at once: only numbers along the few
watched directions are kept for each.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from sde_sgd.estimate import Estimate
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.blocks import map_blocks
from sde_sgd.landscapes.geometry.curvature import eigenvalues, noise_eigenvalues
from sde_sgd.memory import working_bytes
from sde_sgd.types import Key, Vector
from sde_sgd.validity.examples import Examples

# Up to this dimension all of θ is watched, so that nothing is left out of the model.
WHOLE = 8
# Relative residual of an eigenvector; its eigenvalue is off by the square of it.
_TOLERANCE = 1e-3
# Two directions with a larger overlap are one.
_SAME = 0.98
_CHUNK = 64


class Norms(NamedTuple):
    """|∇L|, exact, and tr Σ of one example, in units of L per θ and their square.

    **Fields:** `noise_trace_error`, the standard error of tr Σ, 0 where all examples are looked at.
    """

    gradient: float
    noise_trace: float
    noise_trace_error: float


class Directions(NamedTuple):
    """Directions worth watching and the space that they span.

    **Fields:** `basis` Q (d, m), orthonormal; `names`; `weights` (number, m), each direction in
    that basis; `sharpness`, λ_max of ∇²L.
    """

    basis: Float[np.ndarray, "d m"]
    names: tuple[str, ...]
    weights: Float[np.ndarray, "directions m"]
    sharpness: float


def norms(examples: Examples, theta: Vector, gradient: Float[np.ndarray, " d"]) -> Norms:
    """|∇L| of the `gradient` given, tr Σ from the chosen examples, some gradients at a time."""
    squares = np.asarray(_squares(examples.chosen, theta), float)
    along = float(gradient @ gradient)
    if not examples.sampled:
        return Norms(float(np.sqrt(along)), max(float(squares.mean()) - along, 0.0), 0.0)
    # |∇L|² is exact, and the sample estimates only E|∇ℓ_i|².
    error = float(squares.std(ddof=1) / np.sqrt(len(squares)))
    return Norms(float(np.sqrt(along)), max(float(squares.mean()) - along, 0.0), error)


def directions(
    examples: Examples,
    theta: Vector,
    gradient: Float[np.ndarray, " d"] | None,
    count: int,
    more: Float[np.ndarray, "d extra"] | None,
    begin: Callable[[str], None],
    tick: Callable[[], None],
) -> Directions:
    """The `count` sharpest directions, the `count` noisiest, the gradient, and the user's own.

    Of a sample, the sharpness is the curvature along the sharpest direction on examples that it
    was not found on. `begin` is told what is sought, `tick` of every product with a matrix.
    """
    landscape = examples.chosen
    size = landscape.dimension
    begin("sharpest directions")
    sharp = eigenvalues(landscape, theta, min(count, size), tolerance=_TOLERANCE, on_product=tick)
    begin("noisiest directions")
    noisy = noise_eigenvalues(
        landscape, theta, min(count, size), tolerance=_TOLERANCE, on_product=tick
    )
    found: list[tuple[str, np.ndarray]] = []
    found += [(f"sharpest {i + 1}", v) for i, v in enumerate(sharp.vectors.T)]
    kept = noisy.values > 1e-9 * max(noisy.values[0], 0.0)
    found += [(f"noisiest {i + 1}", v) for i, v in enumerate(noisy.vectors.T) if kept[i]]
    if gradient is not None:
        found.append(("gradient", gradient))
    if more is not None:
        found += [(f"given {i + 1}", v) for i, v in enumerate(np.asarray(more, float).T)]
    units: list[tuple[str, np.ndarray]] = []
    for name, vector in found:
        unit = vector / np.linalg.norm(vector)
        if all(abs(unit @ other) < _SAME for _, other in units):
            units.append((name, unit))
    stack = np.stack([unit for _, unit in units], axis=1)
    left, singular, _ = np.linalg.svd(stack, full_matrices=size <= WHOLE)
    basis = left if size <= WHOLE else left[:, singular > 1e-3]
    names = tuple(name for name, _ in units)
    sharpness = float(sharp.values[0])
    if examples.sampled:
        first = jnp.asarray(sharp.vectors[:, 0], landscape.dtype)
        sharpness = float(_curvature(examples.examined, theta, first))
    return Directions(basis, names, stack.T @ basis, sharpness)


def example_models(
    landscape: AbstractFiniteSum, theta: Vector, basis: Float[np.ndarray, "d m"]
) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m m"]]:
    """∇ℓ_i·Q and Qᵀ∇²ℓ_i Q at one θ, by forward derivatives of all losses, a call a pair."""
    columns = [jnp.asarray(column, landscape.dtype) for column in basis.T]
    slopes = example_slopes(landscape, theta, basis)
    size = len(columns)
    curvatures = np.zeros((len(slopes), size, size))
    for i, j in zip(*np.triu_indices(size), strict=True):
        curvatures[:, i, j] = _bend(landscape, theta, columns[i], columns[j])
        curvatures[:, j, i] = curvatures[:, i, j]
    return slopes, curvatures


def example_slopes(
    landscape: AbstractFiniteSum, theta: Vector, basis: Float[np.ndarray, "d m"]
) -> Float[np.ndarray, "n m"]:
    """∇ℓ_i·Q at one θ."""
    columns = (jnp.asarray(column, landscape.dtype) for column in basis.T)
    return np.stack([np.asarray(_slope(landscape, theta, q), float) for q in columns], axis=1)


def noise_curvature(
    examples: Examples, theta: Vector, key: Key, num_probes: int, tick: Callable[[], None]
) -> Estimate:
    """tr(HΣ) from Gaussian draws ξ of the chosen examples' noise: the mean of ξᵀHξ.

    H is that of the examined examples. The error is that of the draws.
    """
    shape = (num_probes, examples.chosen.noise_dimension)
    mean = compiled.gradient(examples.chosen, theta)
    forms = []
    for z in jr.normal(key, shape, examples.chosen.dtype):
        forms.append(float(_noise_form(examples, theta, z, mean)))
        tick()
    return Estimate.from_samples(np.asarray(forms))


@eqx.filter_jit
def _squares(landscape: AbstractFiniteSum, theta: Vector) -> Array:
    def squares(rows):
        return jnp.sum(landscape.gradients_of(theta, rows) ** 2, axis=1)

    fitting = working_bytes() // (8 * theta.size * theta.dtype.itemsize)
    size = max(1, min(_CHUNK, fitting, landscape.num_examples))
    return map_blocks(squares, landscape.data, size)


@eqx.filter_jit
def _curvature(landscape: AbstractFiniteSum, theta: Vector, unit: Vector) -> Array:
    return unit @ landscape.hessian_vector_product(theta, unit)


@eqx.filter_jit
def _noise_form(examples: Examples, theta: Vector, z: Array, mean: Vector) -> Array:
    noise = examples.chosen.noisy_gradient(theta, z, 1.0) - mean
    return noise @ examples.examined.hessian_vector_product(theta, noise)


@eqx.filter_jit
def _slope(landscape: AbstractFiniteSum, theta: Vector, direction: Vector) -> Array:
    return jax.jvp(landscape.example_losses, (theta,), (direction,))[1]


@eqx.filter_jit
def _bend(landscape: AbstractFiniteSum, theta: Vector, first: Vector, second: Vector) -> Array:
    def slope(point):
        return jax.jvp(landscape.example_losses, (point,), (first,))[1]

    return jax.jvp(slope, (theta,), (second,))[1]
