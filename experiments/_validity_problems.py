"""Landscapes and starts of `is_the_sde_valid_here`."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.special import ndtri

import sde_sgd as ss


class Problem(NamedTuple):
    """A landscape, the θ from which a run starts, and whether its gradients cost more than most."""

    landscape: ss.AbstractFiniteSum
    theta: jax.Array
    network: bool


def _quadratic() -> Problem:
    """H = diag(1, .3), 64 tilts at the quantiles of a Gaussian, in an order fixed once."""
    quantiles = ndtri((np.arange(64) + 0.5) / 64)
    other = np.random.default_rng(0).permutation(quantiles)
    energy = ss.landscapes.QuadraticEnergy(jnp.diag(jnp.array([1.0, 0.3])), jnp.zeros(2))
    return Problem(ss.Potential(energy, tilts=np.stack([quantiles, other], 1)), jnp.zeros(2), False)


def _tilted(tilts: np.ndarray) -> Problem:
    energy = ss.landscapes.QuadraticEnergy(jnp.eye(1), jnp.zeros(1))
    centred = tilts - tilts.mean()
    return Problem(ss.Potential(energy, tilts=centred[:, None]), jnp.zeros(1), False)


def _double_well() -> Problem:
    """(x² − 1)²/4 with two-point tilts ±2, from the minimum at 1: anharmonic, but within a well."""
    well = ss.double_well(1.0).energy
    tilts = np.repeat([-2.0, 2.0], 32)[:, None]
    return Problem(ss.Potential(well, tilts=tilts), jnp.ones(1), False)


def _least_squares() -> Problem:
    data = ss.data.digits_regression(num_directions=4)
    landscape = ss.LeastSquares(data.inputs[:128], data.targets[:128])
    return Problem(landscape, landscape.minimum(), False)


def _diabetes() -> Problem:
    data = ss.data.diabetes(test_fraction=0.0)
    landscape = ss.LeastSquares(data.inputs[:120, :5], data.targets[:120], l2=0.1)
    return Problem(landscape, landscape.minimum(), False)


def _logistic() -> Problem:
    data = ss.data.digits((3, 8), principal_directions=4, test_fraction=0.0)
    inputs = data.inputs[:128]
    labels = (np.asarray(data.targets[:128]) == np.asarray(data.targets).max()).astype(int)
    landscape = ss.LogisticRegression(inputs, labels, num_classes=2, l2=0.05)
    return Problem(landscape, _descend(landscape, jnp.zeros(5)), True)


@functools.cache
def _network() -> ss.EmpiricalRisk:
    """Digits 0, 1, 2 in 4 principal directions, a tanh network 4-4-3."""
    data = ss.data.digits((0, 1, 2), principal_directions=4, test_fraction=0.0)
    model = eqx.nn.MLP(4, 3, 4, 1, activation=jnp.tanh, key=jr.key(3))
    labels = data.targets[:96]
    return ss.EmpiricalRisk(model, data.inputs[:96], labels, ss.cross_entropy, l2=0.02)


def _trained() -> Problem:
    return Problem(_network(), _descend(_network(), _network().initial), True)


LANDSCAPES: dict[str, Callable[[], Problem]] = {
    "quadratic": _quadratic,
    "skewed tilts": lambda: _tilted(np.repeat([-1.0, 15.0], [60, 4])),
    "double well": _double_well,
    "least squares": _least_squares,
    "logistic": _logistic,
    "network, trained": _trained,
    "network, at its start": lambda: Problem(_network(), _network().initial, True),
    "diabetes": _diabetes,
    "cubic tilts": lambda: _tilted(ndtri((np.arange(64) + 0.5) / 64) ** 3),
}


def _descend(landscape: ss.AbstractFiniteSum, theta: jax.Array) -> jax.Array:
    """Full-batch gradient descent until it rests, 4000 steps at half the stable rate."""
    rate = 1 / float(ss.curvature.eigenvalues(landscape, theta).values[0])

    @eqx.filter_jit
    def run(landscape, theta):
        return jax.lax.fori_loop(0, 4000, lambda _, x: x - rate * landscape.gradient(x), theta)

    return run(landscape, theta)
