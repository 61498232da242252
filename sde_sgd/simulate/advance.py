"""The compiled loop: some members, some iterations, all measures."""

import functools
import operator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from sde_sgd.landscapes.convolutions import convolves, patch_bytes
from sde_sgd.measure.base import AbstractMeasure, Tick
from sde_sgd.memory import peak_of
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.random.draws import Draws, STREAM_KEYS
from sde_sgd.types import Alive, Identity, Positions


class Members(eqx.Module):
    """Everything that the engine knows of some members; the members come first on every leaf.

    - `identity`: what their random numbers are keyed by.
    - `start`: where they began and, with refill, begin again, (members, d).
    - `state`: of the process. `carries`: of the measures, by name.
    - `diverged_at`: completed iterations at which a member was first not finite; −1 if alive.
    """

    identity: Identity
    start: Positions
    state: PyTree[Array]
    carries: dict[str, PyTree[Array]]
    diverged_at: Array

    @property
    def alive(self) -> Alive:
        """Members that have not diverged."""
        return self.diverged_at < 0


def create(
    process: AbstractProcess,
    measures: dict[str, AbstractMeasure],
    start: Positions,
    identity: Identity,
    streams: Array,
) -> Members:
    """Members at k = 0."""
    draws = Draws(streams, identity, jnp.uint32(0), jnp.uint32(0))
    carries = {name: measure.init(start) for name, measure in measures.items()}
    state = process.init(start, draws)
    return Members(identity, start, state, carries, jnp.full(identity.shape, -1, jnp.int32))


def iterate(
    process: AbstractProcess,
    measures: dict[str, AbstractMeasure],
    refill: bool,
    streams: Array,
    iteration: Array,
    members: Members,
) -> Members:
    """One SGD iteration of all members: put back the finished, step, observe, find the diverged."""
    draws = Draws(streams, members.identity, iteration, jnp.uint32(0))
    if refill:
        # Before the step, where everything lies in memory: selecting after it would make the
        # compiler draw the step's random numbers again for each consumer.
        members = _restart(process, measures, draws, members)
    resting = None if refill else at_rest(measures, members.carries)
    alive = members.alive
    inner = {name: m for name, m in measures.items() if m.watches == "substeps"}

    asked = False

    def observe(carries, before, after, substep):
        nonlocal asked
        asked = True
        tick = Tick(iteration + 1, substep, draws)
        # What is not a number is nowhere: no exit, and no step.
        there = alive & jnp.all(jnp.isfinite(after), axis=-1)
        return {
            name: m.update(carries[name], before, after, tick, there) for name, m in inner.items()
        }

    before = process.position(members.state)
    carries = dict(members.carries)
    moved = process.step(members.state, draws, observe, {name: carries[name] for name in inner})
    if not isinstance(moved, tuple) or len(moved) != 2:
        raise ValueError(
            f"{type(process).__name__}.step must return the state and the carry that observe gave, "
            f"(state, carry)."
        )
    state, watched = moved
    _check_moved(process, members.state, state)
    if not asked:
        raise ValueError(
            f"{type(process).__name__}.step has not called observe, without which measures of "
            f"every step see nothing: return state, observe(carry, before, after, jnp.uint32(0))."
        )
    carries.update(watched)
    after = process.position(state)
    sound = jnp.all(jnp.abs(after) < _bound(after.dtype), axis=-1)
    if resting is not None:
        # Their step is taken back: it can lead nowhere.
        sound = sound | resting
    diverged_at = jnp.where(alive & ~sound, (iteration + 1).astype(jnp.int32), members.diverged_at)
    tick = Tick(iteration + 1, jnp.uint32(process.substeps - 1), draws)
    for name, measure in measures.items():
        if measure.watches == "iterations":
            carries[name] = measure.update(carries[name], before, after, tick, alive & sound)
    return Members(members.identity, members.start, state, carries, diverged_at)


def _check_moved(process: AbstractProcess, before: PyTree[Array], after: PyTree[Array]) -> None:
    """Refuses a step that returns a state of another form, as the compiled loop cannot hold it."""

    def form(state: PyTree[Array]) -> list[str]:
        leaves = jax.tree_util.tree_flatten_with_path(state)[0]
        name = jax.tree_util.keystr
        return [f"{name(path)} {jnp.result_type(x)}{[*jnp.shape(x)]}" for path, x in leaves]

    one, other = form(before), form(after)
    if one != other:
        pairs = zip(one + [""] * len(other), other + [""] * len(one), strict=False)
        first = next(f"{b or 'nothing'} in place of {a or 'nothing'}" for a, b in pairs if a != b)
        raise ValueError(
            f"{type(process).__name__}.step must return a state of the form that it got, members "
            f"first, in the same dtypes; it returned {' '.join(first.split())}."
        )


def at_rest(
    measures: dict[str, AbstractMeasure], carries: dict[str, PyTree[Array]]
) -> Alive | None:
    """Members with which every measure has finished; None where one never does."""
    ends = [measure.finished(carries[name]) for name, measure in measures.items()]
    known = [end for end in ends if end is not None]
    if not known or len(known) < len(ends):
        return None
    return functools.reduce(operator.and_, known)


def _choose(mask: Alive, chosen: PyTree[Array], other: PyTree[Array]) -> PyTree[Array]:
    """`chosen` for the members of a mask, `other` for the rest."""

    def choose(one, two):
        return jnp.where(mask.reshape(mask.shape + (1,) * (two.ndim - 1)), one, two)

    return jax.tree.map(choose, chosen, other)


def _stretch(
    process: AbstractProcess,
    measures: dict[str, AbstractMeasure],
    refill: bool,
    streams: Array,
    first: Array,
    last: Array,
    members: Members,
) -> Members:
    """Iterations first…last − 1. Without refill members at rest stay where they left.

    A member at rest makes a step that the next iteration takes back: selecting after the step
    would make the compiler draw its random numbers again for each consumer.
    """

    def move(k, members):
        # A Python integer where compilation is disabled.
        return iterate(process, measures, refill, streams, jnp.asarray(k, jnp.uint32), members)

    if refill or at_rest(measures, members.carries) is None:
        return lax.fori_loop(first, last, move, members)

    def take_back(members, before, rested):
        state = _choose(rested, before, members.state)
        return eqx.tree_at(lambda m: m.state, members, state)

    def move_or_rest(k, loop):
        members = take_back(*loop)
        return move(k, members), members.state, at_rest(measures, members.carries)

    nobody = jnp.zeros(members.identity.shape, bool)
    loop = (members, members.state, nobody)
    return take_back(*lax.fori_loop(first, last, move_or_rest, loop))


def _bound(dtype) -> float:
    """√max: beyond it a square overflows, and no average of the member is finite."""
    return float(jnp.finfo(dtype).max) ** 0.5


def _restart(process, measures, draws: Draws, members: Members) -> Members:
    flags = [m.finished(members.carries[name]) for name, m in measures.items()]
    finished = jnp.zeros(members.identity.shape, bool)
    for flag in flags:
        finished = finished if flag is None else finished | flag

    def put_back():
        fresh = process.init(members.start, draws)
        carries = {name: m.restart(members.carries[name], finished) for name, m in measures.items()}
        return _choose(finished, fresh, members.state), carries

    if _start_is_random(process, members.start, draws):
        kept = (members.state, members.carries)
        state, carries = lax.cond(jnp.any(finished), put_back, lambda: kept)
    else:
        # Selecting is cheaper than a branch, which copies every carry.
        state, carries = put_back()
    return Members(members.identity, members.start, state, carries, members.diverged_at)


def _start_is_random(process: AbstractProcess, start: Positions, draws: Draws) -> bool:
    """Whether a state's beginning draws random numbers, as the order of an epoch does."""

    def begin(identity):
        return process.init(start, eqx.tree_at(lambda d: d.identity, draws, identity))

    jaxpr = jax.make_jaxpr(begin)(draws.identity).jaxpr
    (identity,) = jaxpr.invars
    return any(var is identity for equation in jaxpr.eqns for var in equation.invars)


@eqx.filter_jit
def advance(
    process: AbstractProcess,
    measures: dict[str, AbstractMeasure],
    members: Members,
    streams: Array,
    iteration: Array,
    blocks: Array,
    length: Array,
    *,
    capacity: int,
    refill: bool,
    mesh: Mesh | None,
) -> tuple[Members, Array]:
    """`blocks` blocks of `length` iterations, and the positions after each block.

    Bounds are traced: every length of a run shares one executable. The buffer of
    positions has room for `capacity` blocks (0: nothing is recorded), members first.
    """
    arrays, static = eqx.partition((process, measures), eqx.is_array)

    def run(arrays, members, streams, iteration, blocks, length):
        process, measures = eqx.combine(arrays, static)

        def block(i, loop):
            members, buffer = loop
            first = iteration + i * length
            members = _stretch(process, measures, refill, streams, first, first + length, members)
            if capacity:
                position = process.position(members.state)
                buffer = lax.dynamic_update_index_in_dim(buffer, position, i, axis=1)
            return members, buffer

        shape = process.position(members.state).shape
        buffer = jnp.zeros((shape[0], capacity, shape[1]), members.start.dtype)
        return lax.fori_loop(jnp.uint32(0), blocks, block, (members, buffer))

    if mesh is not None:
        alone, shared = PartitionSpec("members"), PartitionSpec()
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(shared, alone, shared, shared, shared, shared),
            out_specs=alone,
            check_vma=False,
        )
    return run(arrays, members, streams, iteration, blocks, length)


class StepCost(NamedTuple):
    """Of one member's iteration: bytes at its fullest, before fusion (an upper bound); whether
    members should move one by one.

    On a CPU they should where a landscape convolves: XLA has no fast routine for convolutions
    whose weights differ between members, and does them two to three times faster in turn.
    """

    bytes: int
    one_by_one: bool


def step_cost(
    process: AbstractProcess, measures: dict[str, AbstractMeasure], dtype: Any
) -> StepCost:
    """What a member's iteration takes, from its program, which is not run."""

    def one(start, identity, streams):
        members = create(process, measures, start, identity, streams)
        return iterate(process, measures, False, streams, jnp.uint32(0), members)

    start = jax.ShapeDtypeStruct((1, process.landscape.dimension), dtype)
    identity = jax.ShapeDtypeStruct((1,), jnp.uint32)
    program = jax.make_jaxpr(one)(start, identity, STREAM_KEYS).jaxpr
    if jax.default_backend() != "cpu" or not convolves(program):
        return StepCost(peak_of(program), False)
    return StepCost(peak_of(program) + patch_bytes(program), True)
