"""What is read off a finite sum: norms, directions worth watching, the model of every example."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..curvature import gradient_covariance_eigenvalues, hessian_eigenvalues
from ..landscapes.base import AbstractFiniteSum
from ..types import Positions, Vector

# Up to this dimension all of θ is watched, so that nothing is left out of the model.
_WHOLE = 8
# Relative accuracy of an eigenvalue: direction and correction need no more.
_TOLERANCE = 1e-4
# Two directions with a larger overlap are one.
_SAME = 0.98
_CHUNK = 64


class Norms(NamedTuple):
    """|∇L|, and tr Σ of one example, both exact, in units of L per θ and their square."""

    gradient: float
    noise_trace: float


class Directions(NamedTuple):
    """Directions worth watching and the space that they span.

    **Fields:** `basis` Q (d, m), orthonormal; `names`; `weights` (number, m), each direction in
    that basis; `sharpness`, λ_max of ∇²L.
    """

    basis: Float[np.ndarray, "d m"]
    names: tuple[str, ...]
    weights: Float[np.ndarray, "directions m"]
    sharpness: float


def norms(landscape: AbstractFiniteSum, theta: Vector) -> Norms:
    """By one pass over the examples, `_CHUNK` gradients at a time."""
    mean, squares = (np.asarray(x, float) for x in _norms(landscape, theta))
    along = float(mean @ mean)
    return Norms(float(np.sqrt(along)), max(float(squares) - along, 0.0))


def directions(
    landscape: AbstractFiniteSum,
    theta: Vector,
    gradient_matters: bool,
    count: int,
    more: Float[np.ndarray, "d extra"] | None,
) -> Directions:
    """The `count` sharpest directions, the `count` noisiest, the gradient, and the user's own."""
    size = landscape.dimension
    sharp = hessian_eigenvalues(landscape, theta, min(count, size), tolerance=_TOLERANCE)
    noisy = gradient_covariance_eigenvalues(
        landscape, theta, min(count, size), tolerance=_TOLERANCE
    )
    found: list[tuple[str, np.ndarray]] = []
    found += [(f"Hessian {i + 1}", v) for i, v in enumerate(sharp.vectors.T)]
    kept = noisy.values > 1e-9 * max(noisy.values[0], 0.0)
    found += [(f"noise {i + 1}", v) for i, v in enumerate(noisy.vectors.T) if kept[i]]
    if gradient_matters:
        found.append(("gradient", np.asarray(landscape.gradient(theta), float)))
    if more is not None:
        found += [(f"given {i + 1}", v) for i, v in enumerate(np.asarray(more, float).T)]
    units: list[tuple[str, np.ndarray]] = []
    for name, vector in found:
        unit = vector / np.linalg.norm(vector)
        if all(abs(unit @ other) < _SAME for _, other in units):
            units.append((name, unit))
    stack = np.stack([unit for _, unit in units], axis=1)
    left, singular, _ = np.linalg.svd(stack, full_matrices=size <= _WHOLE)
    basis = left if size <= _WHOLE else left[:, singular > 1e-3]
    names = tuple(name for name, _ in units)
    return Directions(basis, names, stack.T @ basis, float(sharp.values[0]))


def example_models(
    landscape: AbstractFiniteSum, thetas: Positions, basis: Float[np.ndarray, "d m"]
) -> tuple[Float[np.ndarray, "points n m"], Float[np.ndarray, "points n m m"]]:
    """∇ℓ_i·Q and Qᵀ∇²ℓ_i Q at several θ, by forward derivatives of all N losses at once."""
    columns = jnp.asarray(basis.T, landscape.dtype)
    size = len(columns)
    rows, others = np.triu_indices(size)
    slopes, entries = _derivatives(landscape, thetas, columns, columns[rows], columns[others])
    curvatures = np.zeros((*slopes.shape[:1], slopes.shape[2], size, size))
    packed = np.moveaxis(np.asarray(entries, float), 1, -1)
    curvatures[..., rows, others] = packed
    curvatures[..., others, rows] = packed
    return np.moveaxis(np.asarray(slopes, float), 1, -1), curvatures


@eqx.filter_jit
def _norms(landscape: AbstractFiniteSum, theta: Vector) -> tuple[Array, Array]:
    def square(example):
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        own = jax.grad(lambda x: landscape.losses(x, batch)[0])(theta)
        return jnp.dot(own, own)

    size = min(_CHUNK, landscape.num_examples)
    squares = lax.map(square, landscape.data, batch_size=size)
    return landscape.gradient(theta), jnp.mean(squares)


@eqx.filter_jit
def _derivatives(landscape: AbstractFiniteSum, thetas, columns, first, second):
    def at(theta):
        def slope(point, direction):
            return jax.jvp(landscape.example_losses, (point,), (direction,))[1]

        def bend(pair):
            return jax.jvp(lambda point: slope(point, pair[0]), (theta,), (pair[1],))[1]

        return lax.map(lambda q: slope(theta, q), columns), lax.map(bend, (first, second))

    return lax.map(at, thetas)
