"""How batches are made: with replacement, fresh subsets, shuffled epochs."""

import abc
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from sde_sgd._checks import check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.random.draws import Draws, scale_to, Stream

# Floyd's algorithm compares each new index with all others, B² in all; beyond B² = 128 N
# sorting N random keys is cheaper (measured on a CPU: .13 ns a comparison, 25 ns a key).
_FLOYD_LIMIT = 128


class AbstractSampling(eqx.Module):
    """A law of batches. `draw` serves all members of an ensemble at once.

    The covariance of a batch gradient is `noise_factor`(N) · Σ(θ), its third central moments are
    `third_factor`(N) times those of one example's gradient.

    A law of your own has a field `batch_size` B and two methods, `noise_factor` and `draw`; with
    a memory from step to step also `init`, whose arrays have the members first. `check` accepts
    every landscape and `third_factor` is not known, unless you write them.

    ```python
    class InOrder(ss.AbstractSampling):
        "Batches in the order of the data, over and over; B divides N."

        batch_size: int = eqx.field(static=True)

        def noise_factor(self, num_examples):
            return 0.0  # nothing is random

        def init(self, draws, landscape):
            return jnp.zeros(draws.identity.shape, jnp.int32)

        def draw(self, state, draws, landscape):
            batch = state[:, None] + jnp.arange(self.batch_size, dtype=jnp.int32)
            return (state + self.batch_size) % landscape.num_examples, batch
    ```
    """

    batch_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def noise_factor(self, num_examples: int | None) -> float:
        """c in Cov(ĝ_B) = c Σ, for N examples or for a population (None)."""

    def epoch(self, num_examples: int | None) -> int | None:
        """Steps whose batches are correlated, M of an epoch; None, by default: independent."""
        return None

    @abc.abstractmethod
    def draw(
        self, state: PyTree[Array], draws: Draws, landscape: AbstractLandscape
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """The next state and the batch: indices (members, B), or fresh examples."""

    def init(self, draws: Draws, landscape: AbstractLandscape) -> PyTree[Array]:
        """State of the sampler, members first on every leaf; by default there is none."""
        return None

    def check(self, landscape: AbstractLandscape) -> None:
        """Raises `ValueError` if this law has no batches on the landscape."""

    def third_factor(self, num_examples: int | None) -> float:
        """k in E(m_B − m)³ = k E(m_i − m)³, m_B the mean of a batch of any m_i with mean m."""
        raise ValueError(
            f"The third moments of a batch are asked for, and {type(self).__name__} does not say "
            f"its third_factor: define it (1/B² for independent examples)."
        )


class WithReplacement(AbstractSampling):
    """B independent examples each step: c = 1/B. On a population, B fresh examples."""

    batch_size: int = eqx.field(static=True, converter=partial(check_whole, "batch_size"))

    def noise_factor(self, num_examples: int | None) -> float:
        return 1 / self.batch_size

    def third_factor(self, num_examples: int | None) -> float:
        return 1 / self.batch_size**2

    def check(self, landscape: AbstractLandscape) -> None:
        pass

    def init(self, draws: Draws, landscape: AbstractLandscape) -> None:
        return None

    def draw(self, state: None, draws: Draws, landscape: AbstractLandscape):
        return None, landscape.draw_examples(draws, self.batch_size)


class WithoutReplacement(AbstractSampling):
    """A fresh subset of B examples each step: c = (N − B)/(B(N − 1)), zero at B = N.

    Subsets are drawn by Floyd's algorithm (Bentley & Floyd 1987), or, for B² > 128 N, as the
    B smallest of N random keys.
    """

    batch_size: int = eqx.field(static=True, converter=partial(check_whole, "batch_size"))

    def noise_factor(self, num_examples: int | None) -> float:
        return _subset_factor(num_examples, self.batch_size)

    def third_factor(self, num_examples: int | None) -> float:
        return _subset_third_factor(num_examples, self.batch_size)

    def check(self, landscape: AbstractLandscape) -> None:
        _check_subset(self, landscape)

    def init(self, draws: Draws, landscape: AbstractLandscape) -> None:
        return None

    def draw(self, state: None, draws: Draws, landscape: AbstractLandscape):
        num = landscape.num_examples
        assert num is not None
        if self.batch_size == num:
            everyone = jnp.arange(num, dtype=jnp.int32)
            return None, jnp.broadcast_to(everyone, (*draws.identity.shape, num))
        if self.batch_size**2 > _FLOYD_LIMIT * num:
            return None, _permutation(draws, num, Stream.SUBSET)[..., : self.batch_size]
        return None, _floyd(draws, num, self.batch_size)


class ReshufflingState(eqx.Module):
    """Order of the current epoch, (members, N), and how many batches are used, (members,)."""

    order: Int[Array, "members n"]
    used: Int[Array, " members"]


class RandomReshuffling(AbstractSampling):
    """Epochs: each member walks through its own random order, a new one each epoch.

    An epoch has M = ⌊N/B⌋ steps. When B does not divide N, the last N − MB examples of an
    order are not used in that epoch (PyTorch's `drop_last=True`).

    c = (N − B)/(B(N − 1)) is only the covariance of *one* step: steps of one epoch are
    correlated, −1/(M − 1) of it for a pair when B divides N, and no SDE driven by white noise
    has that.
    """

    batch_size: int = eqx.field(static=True, converter=partial(check_whole, "batch_size"))

    def noise_factor(self, num_examples: int | None) -> float:
        return _subset_factor(num_examples, self.batch_size)

    def third_factor(self, num_examples: int | None) -> float:
        return _subset_third_factor(num_examples, self.batch_size)

    def epoch(self, num_examples: int | None) -> int:
        return (num_examples or 0) // self.batch_size

    def check(self, landscape: AbstractLandscape) -> None:
        _check_subset(self, landscape)

    def init(self, draws: Draws, landscape: AbstractLandscape) -> ReshufflingState:
        num = landscape.num_examples
        assert num is not None
        (members,) = draws.identity.shape
        order = jnp.broadcast_to(jnp.arange(num, dtype=jnp.int32), (members, num))
        return ReshufflingState(order, jnp.zeros((members,), jnp.int32))

    def draw(self, state: ReshufflingState, draws: Draws, landscape: AbstractLandscape):
        num = state.order.shape[1]
        fresh = state.used == 0

        def reshuffle():
            return jnp.where(fresh[:, None], _permutation(draws, num, Stream.ORDER), state.order)

        order = lax.cond(jnp.any(fresh), reshuffle, lambda: state.order)
        offset = state.used * self.batch_size
        take = jax.vmap(lambda row, start: lax.dynamic_slice(row, (start,), (self.batch_size,)))
        used = (state.used + 1) % (num // self.batch_size)
        return ReshufflingState(order, used), take(order, offset)


def _permutation(draws: Draws, num: int, stream: Stream) -> Int[Array, "members n"]:
    """Uniform orders of N examples: N random keys, sorted.

    Up to 4 096 examples the index rides in the low bits of its key, so that one array is
    sorted (ties, at most 2⁻²⁰ a pair, fall back to the index order); beyond, key and
    index are sorted as a pair.
    """
    index = jnp.arange(num, dtype=jnp.uint32)
    bits = draws.bits((num,), stream)
    index = jnp.broadcast_to(index, bits.shape)
    if num <= 4096:
        width = max(num - 1, 1).bit_length()
        packed = ((bits >> width) << width) | index
        return (jnp.sort(packed, axis=-1) & jnp.uint32((1 << width) - 1)).astype(jnp.int32)
    order = lax.sort((bits, index), dimension=-1, num_keys=1)[1]
    return order.astype(jnp.int32)


def _floyd(draws: Draws, num: int, batch: int) -> Int[Array, "members batch"]:
    """Floyd's algorithm: for j = N−B…N−1 take a random t ≤ j, or j itself if t is taken.

    The members are the last axis while it runs, the one that XLA vectorises.
    """
    last = jnp.arange(num - batch, num, dtype=jnp.int32)
    words = draws.bits((batch,), Stream.SUBSET)
    candidates = scale_to(words, jnp.expand_dims(last + 1, range(words.ndim - 1))).T

    def body(j, chosen):
        candidate = lax.dynamic_index_in_dim(candidates, j, axis=0)
        taken = jnp.any(chosen == candidate, axis=0, keepdims=True)
        return lax.dynamic_update_slice_in_dim(
            chosen, jnp.where(taken, last[j], candidate), j, axis=0
        )

    # −1 stands for «not drawn yet» and equals no candidate.
    return lax.fori_loop(0, batch, body, jnp.full_like(candidates, -1)).T


def _subset_factor(num_examples: int | None, batch: int) -> float:
    if num_examples is None:
        raise ValueError(
            "A population has no subsets: use WithReplacement, which draws fresh examples."
        )
    num_examples = check_whole("num_examples", num_examples)
    if batch > num_examples:
        raise ValueError(f"There is no subset of B={batch} of N={num_examples} examples.")
    if num_examples == 1:
        return 0.0
    return (num_examples - batch) / (batch * (num_examples - 1))


def _subset_third_factor(num_examples: int | None, batch: int) -> float:
    """(N − B)(N − 2B)/((N − 1)(N − 2)B²)."""
    ratio = _subset_factor(num_examples, batch)
    assert num_examples is not None
    if num_examples <= 2:
        return 0.0  # the two deviations are opposite: no third central moment
    return ratio * (num_examples - 2 * batch) / (batch * (num_examples - 2))


def _check_subset(sampling: AbstractSampling, landscape: AbstractLandscape) -> None:
    name, num = type(sampling).__name__, landscape.num_examples
    if num is None:
        raise ValueError(
            f"{name} needs a finite number of examples, and {type(landscape).__name__} is a "
            f"population: use WithReplacement, which draws fresh examples."
        )
    if sampling.batch_size > num:
        raise ValueError(
            f"{name} cannot take batch_size={sampling.batch_size} of N={num} examples: lower it "
            f"to at most {num}, or use WithReplacement."
        )
