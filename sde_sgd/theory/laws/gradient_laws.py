"""Laws of the gradient of one iteration in one dimension: Gaussian, or one value a batch."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.noise.sampling import AbstractSampling, check_batches
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory._fields import check_finite, Field
from sde_sgd.types import RealLike

_MAX_BATCHES = 20_000


class AbstractGradientLaw(eqx.Module):
    """The law of ĝ(x) in θ ← θ − η ĝ(θ), θ ∈ R, independent from step to step.

    Functions of θ are JAX functions of one θ of shape (1,).
    """

    @abc.abstractmethod
    def moments(self, x: Float[np.ndarray, " n"], order: int) -> Float[np.ndarray, "orders n"]:
        """E ĝ(x)^m for m = 0..order, (order + 1, n)."""


class GaussianGradient(AbstractGradientLaw):
    """ĝ(x) ~ N(g(x), C(x)): discrete Gaussian SGD, and Euler's scheme of an SDE.

    For Euler with step h of dx = b dt + √(2D) dW take g = −b, C = 2D/h and `learning_rate` h.

    **Arguments:** `gradient` g = L′ and `covariance` C, functions of θ (1,) with one value, or
    numbers; `GaussianGradient.of` takes them from a landscape and a noise model.
    """

    gradient: Field
    covariance: Field

    def __init__(self, gradient: Callable | RealLike, covariance: Callable | RealLike):
        self.gradient = _fields.scalar("gradient", gradient, 1)
        self.covariance = _fields.scalar("covariance", covariance, 1)

    @classmethod
    def of(cls, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> "GaussianGradient":
        """g = L′ and C of a one-dimensional landscape and its noise model."""
        _arguments.problem(landscape, noise)
        _check_dimension(landscape)
        dtype = landscape.dtype
        return cls(
            lambda theta: landscape.gradient(theta.astype(dtype))[0],
            lambda theta: noise.covariance(theta.astype(dtype), landscape)[0, 0],
        )

    def mean_and_std(
        self, x: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """g(x) and √C(x), C refused where it is negative."""
        mean, variance = self.gradient.at(x[:, None]), self.covariance.at(x[:, None])
        check_finite("gradient", mean, x)
        check_finite("covariance", variance, x)
        worst = int(np.argmin(variance))
        if variance[worst] < 0:
            raise ValueError(
                f"covariance must not be negative; at x = {x[worst]:g} it is "
                f"{variance[worst]:.6g}. Shrink the box to where it is not."
            )
        return mean, np.sqrt(variance)

    def moments(self, x: Float[np.ndarray, " n"], order: int) -> Float[np.ndarray, "orders n"]:
        mean, std = self.mean_and_std(x)
        found = [np.ones_like(mean), mean]
        # E g^{m+1} = g E g^m + m C E g^{m−1}
        for m in range(1, order):
            found.append(mean * found[m] + m * std**2 * found[m - 1])
        return np.array(found[: order + 1])


class BatchGradients(AbstractGradientLaw):
    """ĝ(x) = g_a(x) with probability π_a: every batch that there is, or a quadrature of a law.

    **Arguments:**

    - `gradients`: function of θ (1,) with the A values g_a, (A,).
    - `probabilities`: π_a, (A,), non-negative, sum 1.

    `BatchGradients.of` enumerates the batches of a finite sum. The exact law of a batch of a
    population is given by the nodes of a quadrature: g_a the gradients at them, π_a the weights.

    **Raises:** `ValueError` for probabilities that are none, and another number of gradients.
    """

    gradients: Field
    probabilities: Float[np.ndarray, " batches"]

    def __init__(self, gradients: Callable, probabilities: ArrayLike):
        weights = _arguments.array("probabilities", probabilities, 1)
        if (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
            raise ValueError(
                f"probabilities must be >= 0 with sum 1; the smallest is {weights.min():g} and the "
                f"sum {weights.sum():.9g}."
            )
        self.gradients = _fields.numbers(
            "gradients",
            gradients,
            1,
            len(weights),
            f"one value for each of the {len(weights)} probabilities",
        )
        self.probabilities = weights / weights.sum()

    @classmethod
    def of(cls, landscape: AbstractLandscape, sampling: AbstractSampling) -> "BatchGradients":
        """All batches of a one-dimensional finite sum, each with its probability.

        **Raises:** `ValueError` for a population, for shuffled epochs (their steps are not
        independent: θ alone is no Markov chain) and for more than 20 000 different batches.
        """
        finite = check_one_step(landscape, sampling)
        batches, weights = sampling.batches(finite.num_examples, _MAX_BATCHES)
        counts = np.zeros((len(batches), finite.num_examples))
        np.add.at(counts, (np.arange(len(batches))[:, None], batches), 1)
        share = jnp.asarray(counts / sampling.batch_size, landscape.dtype)

        def gradients(theta):
            return share @ finite.example_gradients(theta.astype(finite.dtype))[:, 0]

        return cls(gradients, weights)

    def values(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n batches"]:
        """g_a(x), (n, A)."""
        found = self.gradients.at(x[:, None])
        check_finite("gradients", found, x)
        return found

    def moments(self, x: Float[np.ndarray, " n"], order: int) -> Float[np.ndarray, "orders n"]:
        values = self.values(x)
        return np.array([values**m @ self.probabilities for m in range(order + 1)])


def check_one_step(landscape: Any, sampling: Any) -> AbstractFiniteSum:
    """Refuses all but one-dimensional finite sums with batches independent between steps."""
    _arguments.landscape(landscape)
    _check_dimension(landscape)
    if not isinstance(landscape, AbstractFiniteSum):
        raise ValueError(
            f"{type(landscape).__name__} is a population, whose batches cannot be enumerated: give "
            f"a gradient-noise model instead of a sampling scheme, or "
            f"BatchGradients(gradients, probabilities) with the nodes of a quadrature."
        )
    check_batches(landscape, sampling)
    if sampling.epoch(landscape.num_examples) is not None:
        raise ValueError(
            f"{type(sampling).__name__} has steps that depend on each other, so that θ alone is no "
            f"Markov chain: take WithoutReplacement (a fresh subset each step)."
        )
    return landscape


def _check_dimension(landscape: AbstractLandscape) -> None:
    if landscape.dimension != 1:
        raise ValueError(
            f"The law of a step is used in one dimension; the landscape has d={landscape.dimension}"
        )
