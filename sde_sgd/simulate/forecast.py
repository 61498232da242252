"""What a run will take, from a few of its iterations."""

import math
import time
from typing import TYPE_CHECKING

import equinox as eqx

from sde_sgd.memory import compiler_bytes
from sde_sgd.processes.batches import sampling_of

if TYPE_CHECKING:
    from sde_sgd.simulate.driver import Engine


class Forecast(eqx.Module):
    """What a run will take.

    - `seconds`: wall time, compilation included; `seconds_per_iteration`: of all members.
    - `bytes`: memory that the run holds; on a CPU with 64 MB for its compiled program.
    - `example_gradients`: gradients of single examples, NaN where their number is not known.
    - `gradients_over_sgd`: these over the gradients of SGD with the same batches: substeps·N/B for
      an SDE with exact minibatch noise.
    """

    seconds: float
    bytes: int
    seconds_per_iteration: float
    example_gradients: float = math.nan
    gradients_over_sgd: float = math.nan


def foreseen(engine: "Engine", seconds: float, per_iteration: float, num_steps: int) -> Forecast:
    """The forecast of a run whose times are known."""
    process, members = engine.process, engine.plan.num_members
    each, sampling = process.gradients_per_iteration, sampling_of(process)
    ratio = math.nan if sampling is None else each / sampling.batch_size
    total = each * members * num_steps
    held = engine.plan.bytes + compiler_bytes()
    return Forecast(seconds, held, per_iteration, total, ratio)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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
    return foreseen(engine, first + per_iteration * num_steps, per_iteration, num_steps)
