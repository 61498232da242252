"""How batches are made: with replacement, fresh subsets, shuffled epochs."""

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from sde_sgd._checks import check_landscape, check_part, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.random.draws import Draws, scale_to, Stream

# Floyd's algorithm compares each new index with all others, B² in all; beyond B² = 128 N
# sorting N random keys is cheaper (measured on a CPU: .13 ns a comparison, 25 ns a key).
_FLOYD_LIMIT = 128


class AbstractSampling(eqx.Module):
    """A law of batches. `draw` serves all members of an ensemble at once.

    The covariance of a batch gradient is `noise_factor`(N) · Σ(θ), its third central moments are
    `third_factor`(N) times those of one example's gradient; `joint_factor` gives the moments of
    every order, `cumulant_generating`, `largest_mean` and `batches` the law itself.

    A law of your own has a field `batch_size` B and two methods, `noise_factor` and `draw`; with
    a memory from step to step also `init`, whose arrays have the members first. `check` accepts
    every landscape and the rest of the law is not known, unless you write it.

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
        raise _unsaid(self, "third_factor", "1/B² for independent examples")

    def joint_factor(self, sizes: Sequence[int], num_examples: int | None) -> float:
        """w in E ∏_k ā_k = Σ w(sizes) ∏_blocks mean over all examples of ∏_{k in block} a_k.

        ā_k are means over one batch. The sum is over the set partitions of the factors k, and
        `sizes` are those of a partition's blocks. For centred numbers with the moments m_r

            E ā² = w(2) m₂ ,    E ā³ = w(3) m₃ ,    E ā⁴ = w(4) m₄ + 3 w(2, 2) m₂² .
        """
        raise _unsaid(self, "joint_factor", "(B)_m/Bⁿ for n factors in m blocks, if independent")

    def cumulant_generating(self, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " n"]:
        """log E exp(mean of `values` over a batch), exactly, without enumerating batches."""
        raise _unsaid(self, "cumulant_generating", "B log⟨e^{v/B}⟩ for independent examples")

    def largest_mean(self, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " n"]:
        """The largest mean of `values` that a batch can have."""
        raise _unsaid(self, "largest_mean", "the largest value for independent examples")

    def batches(
        self, num_examples: int, most: int
    ) -> tuple[Int[np.ndarray, "batches B"], Float[np.ndarray, " batches"]]:
        """Every different batch, as sorted indices, and its probability in one step.

        **Raises:** `ValueError` for more than `most` of them.
        """
        raise _unsaid(self, "batches", "all of them, with their probabilities")


def check_batches(landscape: Any, sampling: Any) -> None:
    """Raises `ValueError` for what is no landscape or sampling, or where there are no batches."""
    check_landscape(landscape, AbstractLandscape)
    check_part("sampling", sampling, AbstractSampling, "a scheme such as WithReplacement(8)")
    sampling.check(landscape)


def _unsaid(sampling: AbstractSampling, what: str, example: str) -> ValueError:
    return ValueError(
        f"The law of a batch is asked for, and {type(sampling).__name__} does not say its {what}: "
        f"define it ({example})."
    )


class WithReplacement(AbstractSampling):
    """B independent examples each step: c = 1/B. On a population, B fresh examples."""

    batch_size: int = eqx.field(static=True, converter=partial(check_whole, "batch_size"))

    def noise_factor(self, num_examples: int | None) -> float:
        return 1 / self.batch_size

    def third_factor(self, num_examples: int | None) -> float:
        return 1 / self.batch_size**2

    def joint_factor(self, sizes: Sequence[int], num_examples: int | None) -> float:
        """(B)_m/Bⁿ: n factors fall on m different, independent slots in (B)_m ways."""
        return math.perm(self.batch_size, len(sizes)) / self.batch_size ** sum(sizes)

    def cumulant_generating(self, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " n"]:
        exponents = values / self.batch_size
        top = exponents.max(axis=0)
        return self.batch_size * (top + np.log(np.exp(exponents - top).mean(axis=0)))

    def largest_mean(self, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " n"]:
        return values.max(axis=0)

    def batches(self, num_examples: int, most: int):
        size, choose = self.batch_size, itertools.combinations_with_replacement
        batches = _every(choose, math.comb(num_examples + size - 1, size), num_examples, size, most)
        # Ordered draws of one multiset: B!/Π n_i!, built from the runs of equal members.
        run = np.ones(len(batches))
        chances = run / num_examples
        for k in range(1, size):
            run = np.where(batches[:, k] == batches[:, k - 1], run + 1, 1)
            chances *= (k + 1) / (run * num_examples)
        return batches, chances

    def draw(self, state: None, draws: Draws, landscape: AbstractLandscape):
        return None, landscape.draw_examples(draws, self.batch_size)


class _AbstractSubsets(AbstractSampling):
    """One step takes any subset of B examples with equal chance."""

    def noise_factor(self, num_examples: int | None) -> float:
        num, size = self._num(num_examples), self.batch_size
        return 0.0 if num == 1 else (num - size) / (size * (num - 1))

    def third_factor(self, num_examples: int | None) -> float:
        """(N − B)(N − 2B)/((N − 1)(N − 2)B²)."""
        if self._num(num_examples) <= 2:
            return 0.0  # the two deviations are opposite: no third central moment
        return self.joint_factor((3,), num_examples)

    def joint_factor(self, sizes: Sequence[int], num_examples: int | None) -> float:
        """N^m/Bⁿ Σ ∏_j S(n_j, b_j) (−1)^{b_j − 1} (b_j − 1)! (B)_s/(N)_s, s = Σ b_j.

        (B)_s/(N)_s is the chance that s given examples are all drawn. Block j of n_j factors falls
        on 1 ≤ b_j ≤ n_j different examples, S(n, b) partitions of it; Möbius' function turns the
        means over different examples into means over all.
        """
        num, size, total = self._num(num_examples), self.batch_size, Fraction(0)
        for parts in itertools.product(*(range(1, n + 1) for n in sizes)):
            slots = sum(parts)
            if slots <= size:
                ways = math.prod(
                    (-1) ** (b - 1) * math.factorial(b - 1) * _stirling(n, b)
                    for n, b in zip(sizes, parts, strict=True)
                )
                total += Fraction(ways * math.perm(size, slots), math.perm(num, slots))
        return float(total * num ** len(sizes) / size ** sum(sizes))

    def cumulant_generating(self, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " n"]:
        """The average A_B of ∏ e^{v_i/B} over all subsets, by the recursion over m = 1…N

        A_k ← (1 − k/m) A_k + (k/m) e^{v_m/B} A_{k−1} .
        """
        size = self.batch_size
        exponents = values / size
        top = exponents.max(axis=0)
        average = np.zeros((size + 1, values.shape[1]))
        average[0] = 1.0
        for m, weight in enumerate(np.exp(exponents - top), start=1):
            share = np.arange(1, min(size, m) + 1)[:, None] / m
            last = len(share)
            average[1 : last + 1] = (1 - share) * average[1 : last + 1] + share * (
                weight * average[:last]
            )
        return size * top + np.log(average[size])

    def largest_mean(self, values: Float[np.ndarray, "N n"]) -> Float[np.ndarray, " n"]:
        return np.sort(values, axis=0)[-self.batch_size :].mean(axis=0)

    def batches(self, num_examples: int, most: int):
        num, size = self._num(num_examples), self.batch_size
        count = math.comb(num, size)
        batches = _every(itertools.combinations, count, num, size, most)
        return batches, np.full(count, 1 / count)

    def check(self, landscape: AbstractLandscape) -> None:
        name, num = type(self).__name__, landscape.num_examples
        if num is None:
            raise ValueError(
                f"{name} needs a finite number of examples, and {type(landscape).__name__} is a "
                f"population: use WithReplacement, which draws fresh examples."
            )
        if self.batch_size > num:
            raise ValueError(
                f"{name} cannot take batch_size={self.batch_size} of N={num} examples: lower it "
                f"to at most {num}, or use WithReplacement."
            )

    def _num(self, num_examples: int | None) -> int:
        if num_examples is None:
            raise ValueError(
                "A population has no subsets: use WithReplacement, which draws fresh examples."
            )
        num_examples = check_whole("num_examples", num_examples)
        if self.batch_size > num_examples:
            raise ValueError(
                f"There is no subset of B={self.batch_size} of N={num_examples} examples."
            )
        return num_examples


class WithoutReplacement(_AbstractSubsets):
    """A fresh subset of B examples each step: c = (N − B)/(B(N − 1)), zero at B = N.

    Subsets are drawn by Floyd's algorithm (Bentley & Floyd 1987), or, for B² > 128 N, as the
    B smallest of N random keys.
    """

    batch_size: int = eqx.field(static=True, converter=partial(check_whole, "batch_size"))

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


class RandomReshuffling(_AbstractSubsets):
    """Epochs: each member walks through its own random order, a new one each epoch.

    An epoch has M = ⌊N/B⌋ steps. When B does not divide N, the last N − MB examples of an
    order are not used in that epoch (PyTorch's `drop_last=True`).

    c = (N − B)/(B(N − 1)) is only the covariance of *one* step: steps of one epoch are
    correlated, −1/(M − 1) of it for a pair when B divides N, and no SDE driven by white noise
    has that.
    """

    batch_size: int = eqx.field(static=True, converter=partial(check_whole, "batch_size"))

    def epoch(self, num_examples: int | None) -> int:
        return (num_examples or 0) // self.batch_size

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


def _stirling(n: int, b: int) -> int:
    """S(n, b), the partitions of n things into b blocks."""
    signed = ((-1) ** (b - k) * math.comb(b, k) * k**n for k in range(b + 1))
    return sum(signed) // math.factorial(b)


def _every(
    choose: Callable, count: int, num: int, size: int, most: int
) -> Int[np.ndarray, "batches B"]:
    if count > most:
        raise ValueError(
            f"{count} different batches of B={size} from N={num} examples are more than {most}: "
            f"take a smaller batch or fewer examples, or a Gaussian law of the gradient."
        )
    return np.array(list(choose(range(num), size)))
