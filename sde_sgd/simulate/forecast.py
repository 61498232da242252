"""What a run will take, from a few of its iterations."""

import time
from typing import TYPE_CHECKING

import equinox as eqx

if TYPE_CHECKING:
    from .driver import Engine


class Forecast(eqx.Module):
    """What a run will take: seconds (compilation included) and bytes."""

    seconds: float
    bytes: int
    seconds_per_iteration: float


def rehearse(engine: "Engine", num_steps: int) -> Forecast:
    """Runs a few iterations of an engine's first chunk, puts it back, and extrapolates."""
    kept = engine.chunks
    engine.chunks = kept[:1]
    started = time.monotonic()
    engine.advance(1, 1)
    first = time.monotonic() - started
    length = 1
    while True:
        started = time.monotonic()
        engine.advance(length, 1)
        spent = time.monotonic() - started
        per_iteration = spent / length * len(kept)
        if spent > 0.2 or length >= num_steps:
            break
        length = min(4 * length, num_steps)
    engine.chunks = kept
    return Forecast(first + per_iteration * num_steps, engine.plan.bytes, per_iteration)
