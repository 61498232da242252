"""What splitting watches: loops out of A, and the path that ends in A or in B."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sde_sgd.processes.base import AbstractProcess
from sde_sgd.random.draws import Draws
from sde_sgd.types import Identity, Positions, Vector

RUNNING, BACK, REACHED, BROKEN = 0, 1, 2, 3


class Replica(eqx.Module):
    """Everything that one replica needs to go on; arrays of replicas have them first.

    - `state` of the process; `identity` and `age` (iterations) key its random numbers.
    - `outside`: whether it has crossed the surface since it was last in A.
    - `crossings` of the surface so far; the path begins with the last of them.
    - `steps`: solver steps since the loops were counted, then since the path began.
    - `cycle`: solver steps that the counted loops took together.
    - `rung`: highest rung of the ladder that the path has been on, −1 before it begins.
    - `outcome`: RUNNING, BACK (in A), REACHED (B) or BROKEN (not finite).
    """

    state: PyTree[Array]
    identity: Identity
    age: Identity
    outside: Bool[Array, "..."]
    crossings: Int[Array, "..."]
    steps: Int[Array, "..."]
    cycle: Int[Array, "..."]
    rung: Int[Array, "..."]
    outcome: Int[Array, "..."]


class _Walk(eqx.Module):
    """The part of a replica that every solver step may change; `resting` until it restarts."""

    outside: Array
    crossings: Array
    steps: Array
    cycle: Array
    rung: Array
    outcome: Array
    resting: Array


class Passage(eqx.Module):
    """A process, the sets A and B, and a ladder of rungs between them.

    A = {level ≤ origin}, or where `returned(θ)` holds; B = {level ≥ target}. The ladder has
    `num_levels` equal rungs from `base` to `target`; rung `num_levels` is B itself. With
    loops (`last_crossing` > 0) a replica begins inside, and its path begins when it crosses
    the surface {level ≥ base} for the `last_crossing`-th time, each time from A; one that reaches
    B earlier starts again from `start`. Without loops it begins outside.
    """

    process: AbstractProcess
    level: Callable
    returned: Callable | None
    origin: Float[Array, ""]
    base: Float[Array, ""]
    target: Float[Array, ""]
    start: Vector | None
    first_crossing: Int[Array, ""]
    last_crossing: Int[Array, ""]
    num_levels: int = eqx.field(static=True)

    def rung(self, level: Array) -> Array:
        """Rung of a level: ⌊(level − base)/(target − base)·num_levels⌋, num_levels in B."""
        share = (level - self.base) / (self.target - self.base)
        rung = jnp.floor(jnp.clip(share, 0, 1) * self.num_levels).astype(jnp.int32)
        return jnp.where(
            level >= self.target, self.num_levels, jnp.minimum(rung, self.num_levels - 1)
        )

    def in_origin(self, theta: Vector, level: Array) -> Array:
        """Whether θ is in A."""
        if self.returned is None:
            return level <= self.origin
        return jnp.asarray(self.returned(theta), bool)

    def create(self, theta: Positions, identity: Identity, streams: Array) -> Replica:
        """Replicas at age 0, (members, d) starts."""
        members = theta.shape[0]
        zero = jnp.zeros(members, jnp.int32)
        state = self.process.init(theta, Draws(streams, identity, jnp.uint32(0), jnp.uint32(0)))
        outside = jnp.broadcast_to(self.last_crossing == 0, (members,))
        rung = jnp.where(outside, self.rung(jax.vmap(self.level)(theta)), -1)
        age = zero.astype(jnp.uint32)
        return Replica(state, identity, age, outside, zero, zero, zero, rung, zero)

    def advance(self, streams: Array, once: Array, replica: Replica) -> tuple[Replica, Vector]:
        """One SGD iteration of one replica (no leading axis), and its position after it.

        `once` is 1, traced: a loop of that length is the one barrier that keeps XLA (CPU) from
        computing the whole step again for each number that depends on where it went.
        """
        draws = Draws(streams, replica.identity[None], replica.age, jnp.uint32(0))
        walk = _Walk(
            replica.outside,
            replica.crossings,
            replica.steps,
            replica.cycle,
            replica.rung,
            replica.outcome,
            jnp.zeros((), bool),
        )

        def observe(walk, before, after, substep):
            # Each position is looked at when the next step begins, the last one below.
            seen = self._observe(walk, before[0])
            return jax.tree.map(lambda x, y: jnp.where(substep > 0, x, y), seen, walk)

        state = jax.tree.map(lambda x: x[None], replica.state)
        if self.process.substeps == 1:
            state = lax.fori_loop(
                0, once, lambda _, s: self.process.step(s, draws, lambda c, *_: c, None)[0], state
            )
        else:
            state, walk = self.process.step(state, draws, observe, walk)
        position = self.process.position(state)[0]
        walk = self._observe(walk, position)
        sound = jnp.all(jnp.isfinite(position)) & ~jnp.isnan(self.level(position))
        outcome = jnp.where((walk.outcome == RUNNING) & ~sound, BROKEN, walk.outcome)
        if self.start is not None:
            fresh = self.process.init(self.start[None], draws)
            state = jax.tree.map(lambda new, old: jnp.where(walk.resting, new, old), fresh, state)
            outcome = jnp.where(walk.resting, RUNNING, outcome)
        moved = Replica(
            jax.tree.map(lambda x: x[0], state),
            replica.identity,
            replica.age + jnp.uint32(1),
            walk.outside,
            walk.crossings,
            walk.steps,
            walk.cycle,
            walk.rung,
            outcome,
        )
        return moved, position

    def _observe(self, walk: _Walk, theta: Vector) -> _Walk:
        """One solver step: cross the surface, reach B, come back to A, climb the ladder."""
        level = self.level(theta)
        running = (walk.outcome == RUNNING) & ~walk.resting
        crosses = running & ~walk.outside & (level >= self.base)
        crossings = walk.crossings + crosses.astype(jnp.int32)
        steps = walk.steps + running.astype(jnp.int32)
        begins = crosses & (crossings == self.last_crossing)
        cycle = jnp.where(begins, steps, walk.cycle)
        steps = jnp.where(begins | (crosses & (crossings == self.first_crossing)), 0, steps)
        outside = walk.outside | crosses
        reached = running & outside & (level >= self.target)
        back = running & outside & ~reached & self.in_origin(theta, level)
        begun = crossings == self.last_crossing
        climbed = jnp.maximum(walk.rung, self.rung(level))
        ended = jnp.where(reached, REACHED, jnp.where(back, BACK, walk.outcome))
        return _Walk(
            outside & (begun | ~(reached | back)),
            crossings,
            steps,
            cycle,
            jnp.where(running & outside & begun, climbed, walk.rung),
            jnp.where(begun, ended, walk.outcome),
            walk.resting | (reached & ~begun),
        )
