"""The compiled parts of splitting: many replicas for some iterations, and their branching.

Only the replicas that still run are stepped: they are gathered into lanes, advanced, and put
back. A replica's numbers depend on (key, identity, age) alone, so that lanes, the length of a
segment and the other repetitions change nothing.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from sde_sgd.random.draws import Draws, Stream
from sde_sgd.rare_events.passage import Passage, Replica, RUNNING
from sde_sgd.types import Identity


class Rungs(eqx.Module):
    """The state in which each replica first stood on each rung, replicas × rungs in one axis.

    `clock` holds age, steps and outcome at that moment, age −1 where a rung was jumped over
    or never reached. Rungs are entered at the end of an iteration.
    """

    state: PyTree[Array]
    clock: Int[Array, "entries 3"]


def create(passage: Passage, theta: Array, identity: Identity, streams: Array):
    """Replicas at age 0, and their empty ladders."""
    replicas = passage.create(theta, identity, streams)
    height = passage.num_levels + 1
    rungs = Rungs(
        jax.tree.map(
            lambda x: jnp.zeros((x.shape[0] * height, *x.shape[1:]), x.dtype), replicas.state
        ),
        jnp.full((theta.shape[0] * height, 3), -1, jnp.int32),
    )
    begun = replicas.rung >= 0
    return replicas, _write(
        rungs, replicas, _entry(passage, jnp.arange(len(begun), dtype=jnp.int32), replicas, begun)
    )


def _entry(passage: Passage, index: Array, replicas: Replica, where: Array) -> Array:
    """Place of the rung on which each replica stands; out of range (not written) elsewhere."""
    return jnp.where(where, index * (passage.num_levels + 1) + replicas.rung, -1)


def _write(rungs: Rungs, replicas: Replica, entry: Array) -> Rungs:
    clock = jnp.stack([replicas.age.astype(jnp.int32), replicas.steps, replicas.outcome], axis=-1)
    # −1 would count from the end.
    place = jnp.where(entry < 0, len(rungs.clock), entry)

    def put(old, new):
        return old.at[place].set(new, mode="drop")

    return Rungs(jax.tree.map(put, rungs.state, replicas.state), put(rungs.clock, clock))


@eqx.filter_jit(donate="all-except-first")
def segment(fixed: tuple, replicas: Replica, rungs: Rungs) -> tuple[Replica, Rungs, Replica, Array]:
    """At most `length` iterations of the replicas `index` (out of range: an idle lane).

    `fixed` is (passage, streams, index, length). Also returns the lanes, whose states are
    dropped, and the iterations done: fewer than `length` if all lanes have ended.
    """
    passage, streams, index, length = fixed
    # NumPy's where compilation is disabled.
    index = jnp.asarray(index)
    valid, once = index < len(replicas.age), jnp.minimum(length, 1)
    lanes = jax.tree.map(lambda x: x.at[index].get(mode="clip"), replicas)

    def going(loop):
        k, lanes, _ = loop
        return (k < length) & jnp.any(valid & (lanes.outcome == RUNNING))

    def body(loop):
        k, old, rungs = loop
        moves = valid & (old.outcome == RUNNING)
        new, _ = jax.vmap(passage.advance, in_axes=(None, None, 0))(streams, once, old)

        def choose(x, y):
            return jnp.where(moves.reshape(moves.shape + (1,) * (x.ndim - 1)), x, y)

        new = jax.tree.map(choose, new, old)
        rungs = _write(rungs, new, _entry(passage, index, new, moves & (new.rung > old.rung)))
        return k + 1, new, rungs

    k, lanes, rungs = lax.while_loop(going, body, (jnp.int32(0), lanes, rungs))
    replicas = jax.tree.map(lambda x, y: x.at[index].set(y, mode="drop"), replicas, lanes)
    return replicas, rungs, eqx.tree_at(lambda r: r.state, lanes, None), k


@eqx.filter_jit(donate="all-except-first")
def branch(fixed: tuple, replicas: Replica, rungs: Rungs) -> tuple[Replica, Rungs, Replica]:
    """Puts the replicas `child` where each `parent` first stood above rung `below`.

    `fixed` is (passage, child, parent, below, identity), children out of range do nothing.
    The child has a new identity, so that its future is its own.
    """
    passage, *numbers = fixed
    child, parent, below, identity = map(jnp.asarray, numbers)
    height = passage.num_levels + 1
    rows = jnp.arange(height, dtype=jnp.int32)[None]
    place = parent[:, None] * height + rows
    entered = (rungs.clock[place, 0] >= 0) & (rows > below[:, None])
    rung = jnp.argmax(entered, axis=1).astype(jnp.int32)
    source = parent * height + rung
    age, steps, outcome = jnp.moveaxis(rungs.clock[source], -1, 0)
    zero = jnp.zeros_like(age)
    born = Replica(
        jax.tree.map(lambda x: x[source], rungs.state),
        identity,
        age.astype(jnp.uint32),
        jnp.ones(age.shape, bool),
        zero + passage.last_crossing,
        steps,
        zero,
        rung,
        outcome,
    )
    valid = child < len(replicas.age)
    rungs = _write(rungs, born, _entry(passage, child, born, valid))
    replicas = jax.tree.map(lambda x, y: x.at[child].set(y, mode="drop"), replicas, born)
    return replicas, rungs, eqx.tree_at(lambda r: r.state, born, None)


@eqx.filter_jit
def words(streams: Array, identity: Identity) -> Array:
    """One random word for each new identity: whose child it is."""
    return Draws(streams, identity, jnp.uint32(0), jnp.uint32(0)).bits((), Stream.RESTART)


@eqx.filter_jit
def replay(
    passage: Passage, streams: Array, theta: Array, identities: Array, ages: Array, length: int
) -> tuple[Array, Array]:
    """Positions (paths, length + 1, d) of lineages, and whether their path had begun by then.

    A lineage is the identity from which a path takes its random numbers from each age on,
    (paths, generations), ages increasing and padded with the largest integer.
    """
    first = identities[:, 0]
    replicas = passage.create(theta, first, streams)

    one = jnp.int32(1)

    def step(replicas, k):
        generation = jnp.sum(ages <= k, axis=1) - 1
        now = jnp.take_along_axis(identities, generation[:, None], axis=1)[:, 0]
        replicas = eqx.tree_at(lambda r: r.identity, replicas, now)
        moved, position = jax.vmap(passage.advance, in_axes=(None, None, 0))(streams, one, replicas)
        return moved, (position, moved.rung >= 0)

    start = passage.process.position(replicas.state)
    _, (positions, begun) = lax.scan(step, replicas, jnp.arange(length, dtype=jnp.int32))
    positions = jnp.concatenate([start[:, None], jnp.moveaxis(positions, 0, 1)], axis=1)
    begun = jnp.concatenate([(replicas.rung >= 0)[:, None], begun.T], axis=1)
    return positions, begun
