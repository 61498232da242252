"""What many tests need, made with few compilations.

JAX compiles every operation outside `jit`, and every draw of `jax.random`, once for each shape;
for the small arrays of a test that is most of its time.
"""

import equinox as eqx
import jax
import numpy as np


def normal(seed, *shape):
    """Standard normal numbers (shape) of a seed, float64, by NumPy."""
    return np.random.default_rng(seed).normal(size=shape)


def call(function, *arguments):
    """function(*arguments), compiled as a whole, with NumPy arrays for results."""

    def placed(leaf):
        return jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf

    return jax.tree.map(np.asarray, _compiled(function, *jax.tree.map(placed, arguments)))


@eqx.filter_jit
def _compiled(function, *arguments):
    return function(*arguments)
