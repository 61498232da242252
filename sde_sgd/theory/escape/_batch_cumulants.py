"""Cumulants of a minibatch gradient in one dimension, exactly, without enumerating batches."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.noise.sampling import AbstractSampling, WithReplacement

# Compiled once for each kind of landscape, not once for each call.
_EXAMPLES = eqx.filter_jit(lambda landscape, x: jax.vmap(landscape.example_gradients)(x)[:, :, 0].T)


def example_gradients(
    landscape: AbstractFiniteSum,
) -> Callable[[np.ndarray], Float[np.ndarray, "N n"]]:
    """∇ℓ_i at points (n,), for a one-dimensional landscape."""
    return lambda x: np.asarray(
        _EXAMPLES(landscape, jnp.asarray(x, landscape.dtype)[:, None]), np.float64
    )


def log_moment(
    gradients: Float[np.ndarray, "N n"], sampling: AbstractSampling, p: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """log E e^{p ĝ_B}, exactly, for example gradients g (N, n) and p (n,).

    With replacement B log[(1/N) Σ_i e^{p g_i/B}]. For a subset, the average of
    ∏ e^{p g_i/B} over all subsets of B, by the recursion over examples m = 1…N

        A_k ← (1 − k/m) A_k + (k/m) e^{p g_m/B} A_{k−1} .
    """
    size, num = sampling.batch_size, len(gradients)
    exponents = p * gradients / size
    top = exponents.max(axis=0)
    factors = np.exp(exponents - top)
    if isinstance(sampling, WithReplacement):
        return size * (top + np.log(factors.mean(axis=0)))
    average = np.zeros((size + 1, len(p)))
    average[0] = 1.0
    for m in range(1, num + 1):
        share = np.arange(1, min(size, m) + 1)[:, None] / m
        last = len(share)
        average[1 : last + 1] = (1 - share) * average[1 : last + 1] + share * factors[
            m - 1
        ] * average[:last]
    return size * top + np.log(average[size])


def extreme_gradient(
    gradients: Float[np.ndarray, "N n"], sampling: AbstractSampling, sign: float
) -> Float[np.ndarray, " n"]:
    """The largest sign·ĝ that any batch can have, (n,)."""
    ordered = np.sort(sign * gradients, axis=0)
    if isinstance(sampling, WithReplacement):
        return ordered[-1]
    return ordered[-sampling.batch_size :].mean(axis=0)
