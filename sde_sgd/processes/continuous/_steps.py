"""What processes share inside one iteration: the loop over its solver steps, and its noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from sde_sgd.noise.paths import Increments, IterationNoise
from sde_sgd.processes.base import Observe
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions


def over_substeps(substeps: int, body: Callable, loop: Any) -> Any:
    """`body(j, loop)` for every solver step j of one iteration."""
    if substeps == 1:
        return body(jnp.uint32(0), loop)

    def step(j, loop):
        # A Python integer where compilation is disabled.
        return body(jnp.asarray(j, jnp.uint32), loop)

    return lax.fori_loop(jnp.uint32(0), jnp.uint32(substeps), step, loop)


def step_members(
    substeps: int,
    advance: Callable,
    state: Any,
    draws: Draws,
    observe: Observe,
    carry: Any,
    position: Callable[[Any], Positions] = lambda state: state,
) -> tuple[Any, Any]:
    """All solver steps of one iteration, for all members.

    `advance(state, draws, j)` moves one member, with draws of its own, through solver step j;
    `position` reads θ (members, d) out of the states of all.
    """

    def member(state, identity, j):
        own = eqx.tree_at(lambda d: d.identity, draws, identity)
        return advance(state, own, j)

    def body(j, loop):
        before, carry = loop
        after = jax.vmap(member, in_axes=(0, 0, None))(before, draws.identity, j)
        return after, observe(carry, position(before), position(after), j)

    return over_substeps(substeps, body, (state, carry))


def brownian_increment(
    process: Any, size: int, draws: Draws, j: Array, increments: Increments = "gaussian"
) -> Array:
    """ΔW_s (size,) of one member in solver step j of its iteration, s in iterations.

    Of a process with `landscape`, `substeps` and `refinement`.
    """
    path = IterationNoise(
        draws,
        size=size,
        substeps=process.substeps,
        increments=increments,
        dtype=process.landscape.dtype,
        refinement=process.refinement,
        checked=False,
    )
    start = j.astype(path.dtype) / process.substeps
    return jnp.asarray(path.evaluate(start, start + 1 / process.substeps))


def standard_normal(process: Any, size: int, draws: Draws, j: Array) -> Array:
    """ΔW_s/√Δs (size,) of one member in solver step j of its iteration."""
    return brownian_increment(process, size, draws, j) * float(np.sqrt(process.substeps))
