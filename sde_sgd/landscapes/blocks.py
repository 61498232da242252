"""Sums and lists over examples, some of them in memory at a time.

A network's activations for all N examples need not fit into memory: what is summed over the
examples, or kept for each of them, is computed block by block. Derivatives of any order compute
a block again rather than keep what it held (rematerialisation), and only the block under way is
in memory. The numbers are those of one pass over all examples, to rounding.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from sde_sgd.memory import peak_bytes, working_bytes

# Eight members' blocks fill what one compiled step should hold.
_MEMBERS = 8


def map_blocks(function: Callable, examples: PyTree[Array], size: int) -> Array:
    """`function` of all examples, (N, ...), from `function(block)` (size, ...) of each block.

    **Arguments:** `examples`: arrays with N rows each; `size`: rows of a block.
    """
    num = _length(examples)
    if size >= num:
        return function(examples)
    count, size = _cut(num, size)

    def block(k):
        return function(_rows(examples, jnp.minimum(k * size, num - size), size))

    values = lax.map(_rematerialised(block), jnp.arange(count))
    # The last block is a full one, and its first rows were in the block before.
    fresh = num - (count - 1) * size
    head = values[:-1].reshape(-1, *values.shape[2:])
    return jnp.concatenate([head, values[-1, size - fresh :]])


def sum_blocks(
    function: Callable, examples: PyTree[Array], weights: Array, size: int
) -> PyTree[Array]:
    """Σ over blocks of `function(block, weights of the block)`, linear in the weights (N,).

    **Arguments:** as `map_blocks`.
    """
    num = _length(examples)
    if size >= num:
        return function(examples, weights)
    count, size = _cut(num, size)

    def block(k):
        first = jnp.minimum(k * size, num - size)
        own = lax.dynamic_slice_in_dim(weights, first, size)
        if count * size > num:
            # Rows of the last block that the one before has counted.
            own = jnp.where(first + jnp.arange(size) >= k * size, own, 0)
        return function(_rows(examples, first, size), own)

    compute = _rematerialised(block)

    def add(total, k):
        return jax.tree.map(jnp.add, total, compute(k)), None

    shape = jax.eval_shape(block, jax.ShapeDtypeStruct((), jnp.int32))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    return lax.scan(add, zero, jnp.arange(count))[0]


def fitting_block(gradient: Callable, point: Any, examples: PyTree[Any]) -> int:
    """Examples that a block may have, so that the blocks of eight members fit a step's memory.

    **Arguments:** `gradient(θ, examples, weights)`, whose bytes for one example more are counted
    without running it; `point`: the shape and dtype of θ; `examples`: all of them.
    """
    each = max(_bytes(gradient, point, examples, 2) - _bytes(gradient, point, examples, 1), 1)
    return max(1, min(_length(examples), working_bytes() // (_MEMBERS * each)))


def _bytes(gradient: Callable, point: Any, examples: PyTree[Any], num: int) -> int:
    some = jax.tree.map(lambda a: jax.ShapeDtypeStruct((num, *a.shape[1:]), a.dtype), examples)
    return peak_bytes(gradient, point, some, jax.ShapeDtypeStruct((num,), point.dtype))


def _length(examples: PyTree[Any]) -> int:
    return jax.tree.leaves(examples)[0].shape[0]


def _cut(num: int, size: int) -> tuple[int, int]:
    """Number of blocks, and their size made as even as it can be."""
    count = math.ceil(num / size)
    return count, math.ceil(num / count)


def _rows(examples: PyTree[Array], first: Array, size: int) -> PyTree[Array]:
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, first, size), examples)


def _rematerialised(block: Callable) -> Callable:
    # The rows are taken inside, or derivatives would keep a second copy of the data.
    return jax.checkpoint(block, prevent_cse=False)
