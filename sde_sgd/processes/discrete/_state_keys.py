"""The random keys in a state that others wrote: where they stand, and whose numbers they give.

A foreign state may hold JAX keys, typed or raw. A typed key shows in its dtype; a raw one is an
array of words like any other, and is known only by its use. So the traced update is followed: a
leaf is a raw key if JAX's random functions take it for one. In the same way a number is found
that is drawn from a key outside the state, and would be common to all members.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree, UInt32

from sde_sgd.random.draws import Draws, Stream

# The leaves of the state that a value was made from, as far as it may be a key.
_Origin: TypeAlias = frozenset[int]
_NOWHERE: _Origin = frozenset()
_DRAWING = {"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"}


class StateKeys(eqx.Module):
    """The leaves of one member's state that are keys, and the generator of each.

    A state is *stored* with every key as its words, an array like the others; it is *opened*
    for the function that it belongs to.
    """

    leaves: tuple[int, ...] = eqx.field(static=True)
    typed: tuple[bool, ...] = eqx.field(static=True)
    generators: tuple[Any, ...] = eqx.field(static=True)

    def store(self, state: PyTree[Any]) -> PyTree[Array]:
        """`state` as arrays of numbers alone."""
        arrays = jax.tree.map(jnp.asarray, state)
        return self._change(arrays, lambda leaf, n: jr.key_data(leaf) if self.typed[n] else leaf)

    def open(self, state: PyTree[Array]) -> PyTree[Array]:
        """The state whose typed keys `store` has written as words."""
        return self._change(state, lambda leaf, n: self._key(leaf, n) if self.typed[n] else leaf)

    def make_own(self, state: PyTree[Array], draws: Draws) -> PyTree[Array]:
        """A stored state, members first, with the members and the iteration folded into each key.

        Two words of `Stream.OPTIMIZER` for every key: its numbers become functions of the run's
        key, the member, this iteration and what the key was before.
        """
        words = draws.bits((len(self.leaves), 2), Stream.OPTIMIZER)

        def own(leaf, n):
            return jax.vmap(lambda data, word: self._fold(data, word, n))(leaf, words[:, n])

        return self._change(state, own)

    def _fold(self, data: UInt32[Array, "..."], word: UInt32[Array, "2"], n: int) -> Array:
        keys = self._key(data.reshape(-1, data.shape[-1]), n)
        folded = jax.vmap(lambda key: jr.fold_in(jr.fold_in(key, word[0]), word[1]))(keys)
        return jr.key_data(folded).reshape(data.shape)

    def _key(self, data: UInt32[Array, "..."], n: int) -> Array:
        return jr.wrap_key_data(data, impl=self.generators[n])

    def _change(self, state: PyTree[Any], change: Callable[[Array, int], Array]) -> PyTree[Array]:
        leaves, structure = jax.tree.flatten(state)
        for n, place in enumerate(self.leaves):
            leaves[place] = change(leaves[place], n)
        return jax.tree.unflatten(structure, leaves)


class Followed(eqx.Module):
    """A function of a state and more, followed on shapes alone.

    - `keys`: those in the state from which it draws random numbers, and all typed ones.
    - `draws_elsewhere`: whether it draws random numbers from any other key.
    - `result`: shapes and dtypes of what it gives.
    """

    keys: StateKeys
    draws_elsewhere: bool
    result: Any


def follow(function: Callable, state: PyTree[Any], *arguments: Any) -> Followed:
    """What `function(state, *arguments)` does with keys, of shapes and dtypes."""
    leaves, structure = jax.tree.flatten(state)
    found = _Found(leaves)

    def traced(leaves, *arguments):
        for i, leaf in enumerate(leaves):
            if _is_key(leaf):
                found.generators[i] = jr.key_impl(leaf)
        return function(jax.tree.unflatten(structure, leaves), *arguments)

    closed, result = jax.make_jaxpr(traced, return_shape=True)(leaves, *arguments)
    origins = [frozenset({i}) if _may_be_key(x) else _NOWHERE for i, x in enumerate(leaves)]
    others = [_NOWHERE] * (len(closed.jaxpr.invars) - len(leaves))
    _follow(closed.jaxpr, origins + others, found)
    places = tuple(sorted(found.generators))
    typed = tuple(_is_key(leaves[i]) for i in places)
    keys = StateKeys(places, typed, tuple(found.generators[i] for i in places))
    return Followed(keys, found.elsewhere, result)


class _Found:
    """What following a program has shown: generators of the keys by leaf, draws from others."""

    def __init__(self, leaves: Sequence[Any]):
        self.leaves = leaves
        self.generators: dict[int, Any] = {}
        self.elsewhere = False


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _may_be_key(value: Any) -> bool:
    """Typed keys, and words: what a raw key and each step on its way consist of."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and (_is_key(value) or (dtype == jnp.uint32 and value.ndim > 0))


def _follow(jaxpr: Any, origins: list[_Origin], found: _Found) -> list[_Origin]:
    """The origins of a program's results, those of its arguments given."""
    known = dict(zip(jaxpr.invars, origins, strict=True))

    def origin(var):
        return _NOWHERE if isinstance(var, jex.Literal) else known.get(var, _NOWHERE)

    for equation in jaxpr.eqns:
        results = _follow_one(equation, [origin(var) for var in equation.invars], found)
        for var, result in zip(equation.outvars, results, strict=True):
            known[var] = result if _may_be_key(var.aval) else _NOWHERE
    return [origin(var) for var in jaxpr.outvars]


def _follow_one(equation: Any, inputs: list[_Origin], found: _Found) -> list[_Origin]:
    name, count = equation.primitive.name, len(equation.outvars)
    everything = frozenset().union(*inputs)
    if name in _DRAWING and not everything & found.generators.keys():
        found.elsewhere = True
    if name == "random_seed":
        return [_NOWHERE]
    if name == "random_fold_in":
        return [inputs[0]]
    if name == "random_wrap":
        generator = equation.params["impl"]
        shape = generator.key_shape
        words = {i for i in everything if found.leaves[i].shape[-len(shape) :] == shape}
        found.generators |= {i: generator.name for i in words}
        return [frozenset(words)]
    if name == "cond":
        each = [_follow(b.jaxpr, inputs[1:], found) for b in equation.params["branches"]]
        return [frozenset().union(*outcome) for outcome in zip(*each, strict=True)]
    if name == "while":
        first = equation.params["cond_nconsts"]
        constants = equation.params["body_nconsts"]
        shared, carry = inputs[first : first + constants], inputs[first + constants :]
        _follow(equation.params["cond_jaxpr"].jaxpr, [*inputs[:first], *carry], found)
        return _follow_loop(equation.params["body_jaxpr"].jaxpr, shared, carry, [], found)
    if name == "scan":
        first, last = equation.params["num_consts"], equation.params["num_carry"]
        last += first
        shared, carry, rows = inputs[:first], inputs[first:last], inputs[last:]
        return _follow_loop(equation.params["jaxpr"].jaxpr, shared, carry, rows, found)
    for inner in _programs(equation):
        if len(inner.invars) == len(inputs):
            outcome = _follow(inner, inputs, found)
        else:
            outcome = _follow(inner, [everything] * len(inner.invars), found)
        if len(outcome) == count:
            return outcome
    return [everything] * count


def _follow_loop(body: Any, shared, carry, rows, found: _Found) -> list[_Origin]:
    """As often as the origins of what goes round still grow."""
    while True:
        outcome = _follow(body, [*shared, *carry, *rows], found)
        grown = [old | new for old, new in zip(carry, outcome, strict=False)]
        if grown == carry:
            return [*carry, *outcome[len(carry) :]]
        carry = grown


def _programs(equation: Any):
    """The programs inside an equation, such as the function that a jit calls."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
