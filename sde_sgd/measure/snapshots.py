"""Values of a function of θ at chosen iterations."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from sde_sgd.measure.base import (
    AbstractMeasure,
    check_of,
    evaluate,
    increasing_integers,
    MeasureResult,
    shape_of_value,
    Tick,
)
from sde_sgd.types import Alive, Positions


class SnapshotsCarry(eqx.Module):
    """Values (members, n, ...) and how many of them are taken, (members,); zeros after them."""

    values: Array
    taken: Array


class SnapshotsResult(MeasureResult):
    """Iterations k (n,), their physical times (n,), values (n, members alive, ...).

    Values of iterations that a partial run did not reach are NaN.
    """

    iterations: np.ndarray
    times: np.ndarray
    values: np.ndarray
    axes: ClassVar[dict[str, tuple[str, ...]]] = {
        "iterations": ("k",),
        "times": ("k",),
        "values": ("k", "member"),
    }
    coordinates: ClassVar[dict[str, str]] = {"k": "iterations", "t": "times"}


class Snapshots(AbstractMeasure):
    """f(θ_k) of every member at the iterations `at` (increasing integers, 0 is the start).

    **Arguments:** `at`, a list or one number; `of`, f, θ itself by default. Memory is members ×
    len(at) × size of f.
    """

    at: tuple[int, ...] = eqx.field(static=True)
    of: Callable | None
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(self, at: int | Sequence[int] | np.ndarray, of: Callable | None = None):
        self.at = increasing_integers("Snapshots: at", at, 0)
        if not self.at:
            raise ValueError("Snapshots needs one iteration at least; got at=[].")
        self.of = check_of("Snapshots", of)

    def check(self, process: Any, num_steps: int) -> None:
        shape_of_value("Snapshots", self.of, process.landscape)
        if self.at[-1] > num_steps:
            raise ValueError(
                f"Snapshots asks for iteration {self.at[-1]}, and the run ends at {num_steps}."
            )

    def init(self, theta: Positions) -> SnapshotsCarry:
        value = evaluate(self.of, theta)
        buffer = jnp.zeros((value.shape[0], len(self.at), *value.shape[1:]), value.dtype)
        begun = self.at[0] == 0
        taken = jnp.full(value.shape[0], int(begun), jnp.int32)
        return SnapshotsCarry(buffer.at[:, 0].set(value) if begun else buffer, taken)

    def update(
        self, carry: SnapshotsCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> SnapshotsCarry:
        at = jnp.asarray(self.at, jnp.uint32)
        index = jnp.minimum(jnp.searchsorted(at, tick.iteration), len(self.at) - 1)
        # The slice is always written (in place); only the function is conditional.
        old = lax.dynamic_index_in_dim(carry.values, index, axis=1, keepdims=False)
        now = at[index] == tick.iteration
        value = lax.cond(now, lambda: evaluate(self.of, after), lambda: old)
        values = lax.dynamic_update_index_in_dim(carry.values, value, index, axis=1)
        return SnapshotsCarry(values, carry.taken + now.astype(jnp.int32))

    def finished(self, carry: SnapshotsCarry) -> None:
        return None

    def restart(self, carry: SnapshotsCarry, restarted: Alive) -> SnapshotsCarry:
        return carry

    def result(self, carry: SnapshotsCarry, alive: np.ndarray, process: Any) -> SnapshotsResult:
        iterations = np.asarray(self.at)
        values = np.moveaxis(np.asarray(carry.values)[alive], 0, 1).copy()
        values[int(np.max(carry.taken, initial=0)) :] = np.nan
        times = process.time(iterations)
        return SnapshotsResult(iterations, times, values, members=np.flatnonzero(alive))
