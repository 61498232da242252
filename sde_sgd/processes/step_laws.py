"""Laws of one step of a process, in t: a diffusion at its step or at step 0, jumps, or batches."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, check_at_least, check_number, in_brief
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.noise.sampling import (
    AbstractSampling,
)
from sde_sgd.processes.drift import force
from sde_sgd.processes.linear import NotKnown
from sde_sgd.types import Matrix, RealLike, Vector

_MAX_BATCHES = 20_000


class Diffusion(eqx.Module):
    """dθ = b(θ) dt + √2 D^{1/2}(θ) dW (Itô), or its chain θ ← θ + h b + √(2h) D^{1/2} ξ.

    What `process.law()` says of the limit of an equation (h = 0), of Euler's steps (h = η/substeps)
    and of Gaussian SGD (h = η; D = ηC/2). Made of functions, it stands in a prediction where a
    process would: for an equation without a landscape.

        ss.theory.escape.mean_exit_time(ss.processes.Diffusion(lambda x: -x, 0.5), 0.0, 1.0)

    **Arguments:**

    - `drift`: b, a JAX function of one θ (d,), value (d,); or that value, where it is constant.
    - `diffusion`: D, the same, value (d, d), (d,) for a diagonal, or a number for a multiple of the
      identity.
    - `step`: h ≥ 0 in units of t.

    **Fields:** as the arguments, and `dimension` d, None where the functions alone know it.
    """

    drift: Callable[[Vector], Real[Any, "..."]] | RealLike | ArrayLike
    diffusion: Callable[[Vector], Real[Any, "..."]] | RealLike | ArrayLike
    step: RealLike
    dimension: int | None

    def __init__(
        self,
        drift: Callable[[Vector], Real[Any, "..."]] | RealLike | ArrayLike,
        diffusion: Callable[[Vector], Real[Any, "..."]] | RealLike | ArrayLike,
        step: RealLike = 0.0,
        *,
        dimension: int | None = None,
    ):
        self.drift, self.diffusion = drift, diffusion
        # A process's own may be traced.
        self.step = step if isinstance(step, jax.Array) else check_at_least("step", step)
        self.dimension = dimension


class Jumps(eqx.Module):
    """θ ← θ − h g_a(θ) with probability π_a: every batch that there is, or a quadrature of a law.

    On the line. The exact law of a batch of a population is given by the nodes of a quadrature: g_a
    the gradients at them, π_a the weights.

    **Arguments:**

    - `gradients`: JAX function of one θ (1,) with the A values g_a, (A,).
    - `probabilities`: π_a, (A,), non-negative, sum 1.
    - `step`: h > 0 in units of t; η of SGD.

    **Raises:** `ValueError` for probabilities that are none.
    """

    gradients: Callable[[Vector], Float[Any, " batches"]]
    probabilities: Float[np.ndarray, " batches"]
    step: float

    def __init__(
        self,
        gradients: Callable[[Vector], Float[Any, " batches"]],
        probabilities: ArrayLike,
        step: RealLike,
    ):
        weights = as_float64("probabilities", probabilities)
        if weights.ndim != 1 or not (weights >= 0).all() or not abs(weights.sum() - 1) <= 1e-6:
            raise ValueError(
                f"probabilities must be numbers >= 0 with sum 1, (A,); got {in_brief(weights)}."
            )
        self.gradients = gradients
        self.probabilities = weights / weights.sum()
        self.step = check_number("step", step, above=0)


class Batches(eqx.Module):
    """θ ← θ − h ĝ_B(θ), with the batches of a sampling scheme: what `SGD.law()` says.

    **Fields:** `landscape`, `sampling`, `step`.
    """

    landscape: AbstractLandscape
    sampling: AbstractSampling
    step: RealLike

    def finite_sum(self) -> AbstractFiniteSum:
        """The landscape, if its batches are independent and have a law that can be summed.

        **Raises:** `NotKnown` for a population, for d > 1 and for shuffled epochs (their steps
        depend on each other: θ alone is no Markov chain).
        """
        if not isinstance(self.landscape, AbstractFiniteSum):
            raise NotKnown(
                f"{type(self.landscape).__name__} is a population and has no batches to enumerate: "
                f"take GaussianSGD, or processes.Jumps(gradients, probabilities, learning_rate) "
                f"with the nodes of a quadrature."
            )
        if self.landscape.dimension != 1:
            raise NotKnown(
                f"The law of batches is known in one dimension; the landscape has "
                f"d={self.landscape.dimension}."
            )
        if self.sampling.epoch(self.landscape.num_examples) is not None:
            raise NotKnown(
                f"{type(self.sampling).__name__} has steps that depend on each other, so that θ "
                f"alone is no Markov chain: take WithReplacement or WithoutReplacement (fresh "
                f"subsets)."
            )
        self.sampling.check(self.landscape)
        return self.landscape

    def jumps(self) -> Jumps:
        """All batches, each with its probability.

        **Raises:** `NotKnown` as `finite_sum`, and for more than 20 000 different batches.
        """
        landscape = self.finite_sum()
        counts, weights = _all_batches(self.sampling, landscape.num_examples)
        share = jnp.asarray(counts / self.sampling.batch_size, landscape.dtype)
        return Jumps(_BatchGradients(landscape, share), weights, self.step)


StepLaw = Diffusion | Jumps | Batches


def matched_diffusion(
    landscape: AbstractLandscape,
    noise: AbstractGradientNoise,
    learning_rate: Array,
    *,
    order: int = 1,
    step: RealLike = 0.0,
    slower: Array | float = 1.0,
) -> Diffusion:
    """b = −∇L (of order 2 also −(η/2)H∇L) and D = ηC/2, both over `slower`, in t = η·slower·k."""
    eta, slow = (jnp.asarray(x, landscape.dtype) for x in (learning_rate, slower))
    return Diffusion(
        _Drift(landscape, eta, order, slow),
        _Tensor(landscape, noise, eta / slow),
        step,
        dimension=landscape.dimension,
    )


class _Drift(eqx.Module):
    landscape: AbstractLandscape
    learning_rate: Array
    order: int = eqx.field(static=True)
    slower: Array

    def __call__(self, theta: Vector) -> Vector:
        theta = theta.astype(self.landscape.dtype)
        return -force(self.landscape, theta, self.learning_rate, self.order) / self.slower


class _Tensor(eqx.Module):
    landscape: AbstractLandscape
    noise: AbstractGradientNoise
    learning_rate: Array

    def __call__(self, theta: Vector) -> Matrix:
        theta = theta.astype(self.landscape.dtype)
        return self.learning_rate / 2 * self.noise.covariance(theta, self.landscape)


class _BatchGradients(eqx.Module):
    landscape: AbstractFiniteSum
    share: Array

    def __call__(self, theta: Vector) -> Array:
        gradients = self.landscape.example_gradients(theta.astype(self.landscape.dtype))
        return self.share @ gradients[:, 0]


def _all_batches(sampling: AbstractSampling, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (A, N) of every batch, and its probability."""
    batches, weights = sampling.batches(num, _MAX_BATCHES)
    counts = np.zeros((len(batches), num))
    np.add.at(counts, (np.arange(len(batches))[:, None], batches), 1)
    return counts, weights
