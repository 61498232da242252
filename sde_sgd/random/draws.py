"""Keyed random numbers: a function of (key, stream, iteration, substep, member).

The generator is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), the one behind `jax.random`. JAX numbers the entries of an
array; here the *counter is the member's identity and the entry's index*, so that a number
never depends on how the ensemble was cut into chunks, devices or lives. The rounds are
written out because XLA then fuses them with whatever consumes the numbers, which the rolled
loop of `jax.random` on the CPU prevents. `tests/random/test_draws.py` holds it to JAX's
own primitive, word for word.
"""

import functools
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from sde_sgd._checks import check_key, check_list, check_whole, in_brief, real_values
from sde_sgd.random.normal_quantile import normal_quantile
from sde_sgd.types import Identity, Key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
# Below this many entries a member, numbers are made with the members last: XLA vectorises
# the innermost axis only.
_FEW = 16


class Stream(IntEnum):
    """What a random number is for. Numbers of different streams are independent.

    Runs with one key share the numbers of a stream, entry by entry, on purpose:

    - `BATCH`: examples drawn with replacement, and fresh ones, of SGD, SAM, SGLD and SVAG (whose
      step j takes the batches 2j and 2j + 1: with l = 1 it is SGD).
    - `NOISE`: the Brownian path. Euler's scheme at one substep is Gaussian SGD, and all equations
      with one number of fine steps, substeps·refinement, see one path. With other numbers of fine
      steps, m < n, they share the first m numbers of an iteration: correlation √(m/n) of ΔW.
    - `MEASURE`: one number a step decides about every unseen crossing.

    Each of the others has one consumer: `INITIAL` the sampled starts, `LEVY_AREA` the areas beside
    the path, `RESTART` the parents in splitting, `TWO_POINT` the signs of two-point increments,
    `SUBSET` the batches of `WithoutReplacement`, `ORDER` the epochs of `RandomReshuffling`,
    `DRIVING` the stationary start of coloured noise, `COLOURED` and `STABLE` the increments of
    `ColouredNoise` and `StableNoise`, `BATH` the bath of `SGLD`, `OPTIMIZER` what is folded into
    the keys that an optimiser of `OptaxSGD` keeps. Bootstraps and permutations use
    NumPy's generators.
    """

    INITIAL = 0
    BATCH = 1
    NOISE = 2
    LEVY_AREA = 3
    RESTART = 4
    MEASURE = 5
    TWO_POINT = 6
    SUBSET = 7
    ORDER = 8
    DRIVING = 9
    COLOURED = 10
    STABLE = 11
    BATH = 12
    OPTIMIZER = 13


@functools.partial(jax.jit, inline=True)
def threefry(
    key: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
    high: UInt32[Array, "..."],
    low: UInt32[Array, "..."],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Threefry-2x32-20 of the counter (high, low): two words, elementwise, broadcasting."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = high + schedule[0], low + schedule[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x = x + y
            y = (y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation))
            y = x ^ y
        x = x + schedule[(block + 1) % 3]
        y = y + schedule[(block + 2) % 3] + jnp.uint32(block + 1)
    return x, y


def key_words(key: Key | UInt32[Array, "2"]) -> UInt32[Array, "2"]:
    """The two words that identify a run's key, whatever generator the key belongs to."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data = jr.key_data(key)
        return data if data.shape == (2,) else jr.bits(key, (2,), jnp.uint32)
    return jnp.asarray(key, jnp.uint32)


def stream_keys(key: Key | UInt32[Array, "2"]) -> UInt32[Array, "streams 2"]:
    """The key of each `Stream` of a run, (streams, 2) words: threefry(key, (stream, 0)).

    A run computes them once: hashed in its compiled loop they would be constants, each with
    kernels of its own to compile.
    """
    words = key_words(key)
    each = jnp.arange(len(Stream), dtype=jnp.uint32)
    return jnp.stack(threefry((words[0], words[1]), each, jnp.uint32(0)), axis=-1)


STREAM_KEYS = jax.ShapeDtypeStruct((len(Stream), 2), jnp.uint32)
"""What `stream_keys` gives, for those who ask for shapes alone."""


class Draws(eqx.Module):
    """The random numbers of one iteration (and substep) of some members.

    **Fields:**

    - `streams`: (streams, 2) keys of the run's streams.
    - `identity`: (members,) or () unsigned identities; every array drawn has this shape
      in front. Under `vmap` over members it is a scalar.
    - `iteration`: () common clock, or (members,) if members have ages of their own.
    - `substep`: () solver step inside the iteration.

    Identities, iterations and substeps are 32-bit integers: a run has at most 2³²
    iterations, and neighbouring iterations stay distinct in any floating dtype.
    """

    streams: UInt32[Array, "streams 2"]
    identity: Identity
    iteration: Identity
    substep: Identity

    @staticmethod
    def create(key: Key, identity: Any, iteration: Any = 0, substep: Any = 0) -> "Draws":
        """Draws of a key, of members `identity`, at an iteration and substep (integers)."""
        named = {"identity": identity, "iteration": iteration, "substep": substep}
        return Draws(stream_keys(check_key(key)), *(as_counter(*pair) for pair in named.items()))

    def at(self, iteration=None, substep=None) -> "Draws":
        """The same members at another iteration or substep."""
        iteration = self.iteration if iteration is None else as_counter("iteration", iteration)
        substep = self.substep if substep is None else as_counter("substep", substep)
        return Draws(self.streams, self.identity, iteration, substep)

    def _key(self, stream: int) -> tuple[Array, Array]:
        """The key whose counters are the members' identities and the entries' indices."""
        words = self.streams[stream]
        # Behind a barrier: fused into an elementwise loop these scalars would be compiled once
        # for each path to them, 2²⁰ in twenty rounds (CPU, jax 0.12: minutes).
        return lax.optimization_barrier(
            threefry((words[0], words[1]), self.iteration, self.substep)
        )

    def _rows(self, index: UInt32[Array, " size"], stream: int) -> tuple[Array, Array]:
        """(members, size) pairs of words, of the entries `index`."""
        # All of one rank, as JAX's strict mode for ranks wants.
        rank = self.identity.ndim
        key = [_of_rank(jnp.expand_dims(word, -1), rank + 1) for word in self._key(stream)]
        counter = _of_rank(index, rank + 1)
        return threefry((key[0], key[1]), self.identity[..., None], counter)

    def _words(self, size: int, stream: int) -> tuple[Array, Array]:
        """(members, size) pairs of words."""
        index = lax.iota(jnp.uint32, size)
        if size >= _FEW:
            return self._rows(index, stream)
        index = jnp.expand_dims(index, tuple(range(1, 1 + self.identity.ndim)))
        key = [_of_rank(word, self.identity.ndim + 1) for word in self._key(stream)]
        high, low = threefry((key[0], key[1]), self.identity[None], index)
        return jnp.moveaxis(high, 0, -1), jnp.moveaxis(low, 0, -1)

    def _alone(self, make: Callable, shape: tuple[int, ...], stream: int, *rest: Any) -> Array:
        """make(self, shape, stream, *rest), of few numbers a member written to memory."""
        shape, stream = _shape(shape), check_whole("stream", stream, 0, len(Stream) - 1)
        if 1 < int(np.prod(shape, dtype=int)) < _FEW:
            return _written(self, make, (shape, stream, *rest))
        return make(self, shape, stream, *rest)

    def bits(self, shape: tuple[int, ...], stream: int) -> UInt32[Array, "..."]:
        """(members, *shape) uniform 32-bit words."""
        return self._alone(Draws._bits, shape, stream)

    def _bits(self, shape: tuple[int, ...], stream: int) -> UInt32[Array, "..."]:
        if np.prod(shape, dtype=int) == 0:
            return jnp.zeros((*self.identity.shape, *shape), jnp.uint32)
        words = self._words(int(np.prod(shape, dtype=int)), stream)[0]
        return words.reshape(*self.identity.shape, *shape)

    def uniform(self, shape: tuple[int, ...], stream: int, dtype=None) -> Float[Array, "..."]:
        """(members, *shape) uniform numbers in [0, 1), multiples of 2⁻²³ (2⁻⁵² in float64)."""
        return self._alone(Draws._uniform, shape, stream, _floating(dtype))

    def _uniform(self, shape: tuple[int, ...], stream: int, dtype) -> Float[Array, "..."]:
        if np.prod(shape, dtype=int) == 0:
            return jnp.zeros((*self.identity.shape, *shape), dtype)
        high, low = self._words(int(np.prod(shape, dtype=int)), stream)
        if dtype == jnp.float64:
            word = (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
            mantissa = (word >> 12) | jnp.uint64(0x3FF0000000000000)
        else:
            mantissa = (high >> 9) | jnp.uint32(0x3F800000)
        unit = lax.bitcast_convert_type(mantissa, dtype) - jnp.ones((), dtype)
        return unit.reshape(*self.identity.shape, *shape)

    def normal(self, shape: tuple[int, ...], stream: int, dtype=None) -> Float[Array, "..."]:
        """(members, *shape) standard normal numbers, √2·erf⁻¹(u), u uniform on (−1, 1).

        float32 numbers have 23 random bits and end at |z| = 5.4 (float64: 52 bits, 8.2),
        as those of `jax.random.normal`; far tails need float64.
        """
        return self._alone(Draws._normal, shape, stream, _floating(dtype))

    def _normal(self, shape: tuple[int, ...], stream: int, dtype) -> Float[Array, "..."]:
        unit = self._uniform(shape, stream, dtype)
        low = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
        symmetric = jnp.maximum(low, unit * (1 - low) + low)
        if dtype == jnp.float64:
            return normal_quantile(symmetric)
        return jnp.asarray(np.sqrt(2), dtype) * lax.erf_inv(symmetric)

    def two_point(self, shape: tuple[int, ...], stream: int, dtype=None) -> Float[Array, "..."]:
        """(members, *shape) signs ±1 with equal probability, 64 of them to a hash.

        Their first three moments are those of a normal number, so that a weak scheme of
        order one keeps its order; their tails are not, so that exit rates come out wrong.
        """
        shape, stream = _shape(shape), check_whole("stream", stream, 0, len(Stream) - 1)
        dtype, size = _floating(dtype), int(np.prod(shape, dtype=int))
        if size == 0:
            return jnp.zeros((*self.identity.shape, *shape), dtype)
        # Shift each random bit to the sign bit and or it into 1.0. The two words of a hash are
        # chosen from and never concatenated: XLA would fuse the concatenation with the hash,
        # and then compile for minutes or hash once for every sign (CPU, jax 0.10).
        if size <= 64:
            high, low = self._words(1, stream)
            place = _of_rank(lax.iota(jnp.uint32, size), high.ndim)
            word = high if size <= 32 else jnp.where(place < 32, high, low)
            shifted = word << (place & jnp.uint32(31))
        else:
            index = lax.iota(jnp.uint32, 2 * -(-size // 64))
            high, low = self._rows(index // 2, stream)
            word = jnp.where(_of_rank(index % 2 == 0, high.ndim), high, low)
            shifted = word[..., None] << _of_rank(lax.iota(jnp.uint32, 32), word.ndim + 1)
            shifted = shifted.reshape(*self.identity.shape, -1)[..., :size]
        sign = shifted & jnp.uint32(0x80000000)
        one = jnp.uint32(0x3F800000)
        signs = lax.bitcast_convert_type(sign | one, jnp.float32)
        return signs.astype(dtype).reshape(*self.identity.shape, *shape)

    def integers(self, shape: tuple[int, ...], maximum: int, stream: int) -> Int[Array, "..."]:
        """(members, *shape) integers in [0, maximum), as ⌊maximum·word/2³²⌋.

        Probabilities are off by at most maximum/2³² relative (4e-7 at 1 797 examples).
        """
        maximum = check_whole("maximum", maximum, most=2**31 - 1)
        return self._alone(Draws._integers, shape, stream, maximum)

    def _integers(self, shape: tuple[int, ...], stream: int, maximum: int) -> Int[Array, "..."]:
        return scale_to(self._bits(shape, stream), maximum)


def as_counter(name: str, value: Any) -> UInt32[Array, "..."]:
    """Unsigned words of 32 bits of a count, or of an array of counts."""
    if isinstance(value, jax.Array):
        whole = jnp.issubdtype(value.dtype, jnp.integer)
    else:
        value = np.asarray(real_values(name, value))
        whole = value.dtype.kind in "iu" and ((value >= 0) & (value < 2**32)).all()
    if not whole:
        raise ValueError(f"{name} must be integers from 0 to 2**32 - 1; got {in_brief(value)}.")
    if isinstance(value, jax.Array):
        return value.astype(jnp.uint32)
    # A conversion on the device would be compiled for each shape.
    return jax.device_put(value.astype(np.uint32))


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(check_whole("shape", size, 0) for size in check_list("shape", shape, "(2, 3)"))


def _floating(dtype: Any) -> np.dtype:
    """float32 or float64; JAX's default if it is not said."""
    if dtype is None:
        return jnp.dtype(jnp.result_type(float))
    try:
        found = jnp.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64; got {in_brief(dtype)}.")
    return found


def _of_rank(array: Array, rank: int) -> Array:
    """The same array with axes of length 1 in front; a number stays a number."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape) if array.ndim else array


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _written(draws: Draws, make: Callable, arguments: tuple) -> Array:
    """make(draws, *arguments), which XLA may not make again for each use.

    A branch is what it never fuses; its condition is always true, and XLA cannot know it.
    """
    sure = (draws.streams[0, 0] | jnp.uint32(1)) != 0
    kind = jax.eval_shape(lambda: make(draws, *arguments))
    return lax.cond(
        sure, lambda: make(draws, *arguments), lambda: jnp.zeros(kind.shape, kind.dtype)
    )


def scale_to(word: UInt32[Array, "..."], maximum) -> Int[Array, "..."]:
    """⌊maximum·word/2³²⌋ in 32-bit arithmetic (JAX has no 64-bit integers by default)."""
    maximum = jnp.asarray(maximum).astype(jnp.uint32)
    mask = jnp.uint32(0xFFFF)
    word_high, word_low = word >> 16, word & mask
    high, low = maximum >> 16, maximum & mask
    middle = word_high * low + ((word_low * low) >> 16)
    carry = (word_low * high + (middle & mask)) >> 16
    return (word_high * high + (middle >> 16) + carry).astype(jnp.int32)
