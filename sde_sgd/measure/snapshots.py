"""Values of a function of θ at chosen iterations."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from ..types import Alive, Positions
from .base import AbstractMeasure, evaluate, MeasureResult, Tick


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

    **Arguments:** `at`; `of`, f, θ itself by default. Memory is members × len(at) × size of f.
    """

    at: tuple[int, ...] = eqx.field(static=True)
    of: Callable | None
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(self, at: Sequence[int], of: Callable | None = None):
        times = tuple(int(k) for k in at)
        if (
            list(times) != list(at)
            or not times
            or times[0] < 0
            or any(b <= a for a, b in zip(times, times[1:], strict=False))
        ):
            raise ValueError(f"Snapshots needs increasing iterations ≥ 0; got {list(at)}.")
        self.at, self.of = times, of

    def check(self, process: Any, num_steps: int) -> None:
        if self.at[-1] > num_steps:
            raise ValueError(
                f"Snapshots asks for iteration {self.at[-1]}, and the run ends at {num_steps}."
            )

    def init(self, theta: Positions) -> Array:
        value = evaluate(self.of, theta)
        buffer = jnp.full((value.shape[0], len(self.at), *value.shape[1:]), jnp.nan, value.dtype)
        return buffer.at[:, 0].set(value) if self.at[0] == 0 else buffer

    def update(self, carry, before: Positions, after: Positions, tick: Tick, alive: Alive):
        at = jnp.asarray(self.at, jnp.uint32)
        index = jnp.minimum(jnp.searchsorted(at, tick.iteration), len(self.at) - 1)
        # The slice is always written (in place); only the function is conditional.
        old = lax.dynamic_index_in_dim(carry, index, axis=1, keepdims=False)
        value = lax.cond(at[index] == tick.iteration, lambda: evaluate(self.of, after), lambda: old)
        return lax.dynamic_update_index_in_dim(carry, value, index, axis=1)

    def finished(self, carry) -> None:
        return None

    def restart(self, carry, restarted: Alive):
        return carry

    def result(self, carry, alive: np.ndarray, process: Any) -> SnapshotsResult:
        iterations = np.asarray(self.at)
        values = np.moveaxis(np.asarray(carry)[alive], 0, 1)
        times = process.time(iterations)
        return SnapshotsResult(iterations, times, values, members=np.flatnonzero(alive))
