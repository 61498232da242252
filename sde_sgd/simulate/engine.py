"""What a user calls: checks, a plan, and the engine is handed the rest."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import (
    check_flag,
    check_key,
    check_landscape,
    check_number,
    check_part,
    check_progress,
    check_whole,
)
from sde_sgd._user_functions import naming, refuse_tracing
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.measure.base import AbstractMeasure
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.random.draws import STREAM_KEYS
from sde_sgd.simulate import checkpoint as ckpt
from sde_sgd.simulate.advance import create, step_cost
from sde_sgd.simulate.driver import Engine, MOST_STEPS
from sde_sgd.simulate.forecast import Forecast, rehearse
from sde_sgd.simulate.members import as_array, check_identities, Ensemble, refuse_joined
from sde_sgd.simulate.plan import make_mesh, make_plan
from sde_sgd.simulate.run import Run
from sde_sgd.simulate.stability import judge_stability
from sde_sgd.simulate.validate import (
    check_length,
    check_measures,
    check_memory,
    check_outcome,
    check_refill,
    check_state,
    starts,
    warn_of_long_iterations,
)
from sde_sgd.terminal import StatusLine
from sde_sgd.types import Key

# Identities are 32-bit integers, and those beyond the ensemble belong to idle rows.
MOST_MEMBERS = 2**31 - 1


def simulate(
    process: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    measures: Mapping[str, AbstractMeasure] | None = None,
    record_every: int | None = None,
    refill: bool = False,
    members: Sequence[int] | np.ndarray | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | ckpt.Checkpoint | None = None,
    budget: float | None = None,
    memory: int | None = None,
    chunk_size: int | None = None,
    devices: int | Sequence[Any] | None = None,
    on_divergence: Literal["raise", "mask"] = "raise",
    check_stability: Literal["sample", "full", False] = "sample",
) -> Run:
    """Runs an ensemble of a process for `num_steps` SGD iterations.

    Members with which every measure has finished (those that have left, of `FirstPassage` alone)
    rest where they are: nothing of them changes, they leave the batch once they are half of it,
    and a run in which all rest is over. With `refill` they start again instead.

    **Arguments:**

    - `theta0`: a start (d,), one a member (ensemble_size, d), or a sampler key -> (d,).
    - `key`: random numbers are functions of it, the iteration and the member alone, so that
      chunks, devices, recording and stopping change nothing.
    - `measures`: streaming measures by name; results are `run[name]`.
    - `record_every`: keep all positions every so many iterations (and the start).
    - `refill`: members that a measure has finished with start again from their start.
    - `members`: identities of those to run, a range or a list of integers in [0, ensemble_size);
      None for all. `ensemble_size`, `theta0` and `key` stay those of the whole: member i takes row
      i of (ensemble_size, d) starts, and has in every part the random numbers that it has in the
      whole. `merge` makes one run of the parts, and `members=[17]` repeats one member alone.
    - `progress`: a line on stderr; None shows it on a terminal.
    - `checkpoint`: a file. If it exists the run resumes from it, bit for bit.
    - `budget`: seconds after which the run stops with what it has; extend it later. Ctrl-C does
      the same; where it finds all iterations done, the `KeyboardInterrupt` carries the run as
      `.result`. With a checkpoint SIGTERM saves the run before it ends the process.
    - `memory`: bytes the run may hold (default: 80 % of what is free).
    - `chunk_size`: members advanced together (default: from the memory of a step; one on a CPU
      where a network convolves). Compiled code rounds by the shape of its arrays, so that a part
      has the chunks of the whole, rows that it has no members for idle, and its bits. Where a
      part is less than a chunk, `chunk_size=len(members)` in all parts leaves no row idle; merged
      they have the bits of the whole in chunks of that size.
    - `devices`: a number or list of devices of this process, over which members are split.
    - `on_divergence`: "raise" an error that carries the partial run, or "mask".
    - `check_stability`: whether steps at the first start overshoot is judged by the Hessian of
      128 examples ("sample"), of all ("full"), or not at all (False). Least squares is judged
      exactly.

    Processes that `jax.distributed` has joined compute nothing together: each takes its own
    `members`, devices and files, and without `members` it is refused.

    **Raises:** `ValueError` for every impossible request and `MemoryError`, both before any
    time is spent; `DivergenceError` with the partial results.
    """
    if members is None:
        refuse_joined("members", ensemble_size)
    check_outcome(on_divergence, budget)
    saved = ckpt.as_checkpoint(checkpoint)
    StatusLine(progress).write(f"{type(process).__name__}: looking at its steps …")
    engine = prepare(
        process,
        theta0,
        num_steps=num_steps,
        ensemble_size=ensemble_size,
        key=key,
        measures=measures,
        record_every=record_every,
        refill=refill,
        members=members,
        memory=memory,
        chunk_size=chunk_size,
        devices=devices,
        check_stability=check_stability,
    )
    warn_of_long_iterations(process, budget)
    return engine.go(num_steps, progress, saved, budget, on_divergence)


def forecast(
    process: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    progress: bool | None = None,
    **options,
) -> Forecast:
    """Seconds (compilation included), bytes and gradients of a run, from a few of its iterations.

    At least two iterations of one chunk of members are run. Options as in `simulate`; those that
    say how a run ends or is kept (`budget`, `checkpoint`, `on_divergence`) do not change it.
    """
    refuse_tracing("forecast", process, theta0, key)
    check_progress(progress)
    check_outcome(options.pop("on_divergence", "raise"), options.pop("budget", None))
    options.pop("checkpoint", None)
    StatusLine(progress).write(f"{type(process).__name__}: trying some iterations …")
    unknown = sorted(set(options) - set(inspect.signature(prepare).parameters))
    if unknown:
        raise TypeError(f"forecast has no option {unknown[0]!r}: it takes those of simulate.")
    engine = prepare(
        process, theta0, num_steps=num_steps, ensemble_size=ensemble_size, key=key, **options
    )
    return rehearse(engine, num_steps)


def prepare(
    process: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    measures: Mapping[str, AbstractMeasure] | None = None,
    record_every: int | None = None,
    refill: bool = False,
    members: Sequence[int] | np.ndarray | None = None,
    memory: int | None = None,
    chunk_size: int | None = None,
    devices: int | Sequence[Any] | None = None,
    check_stability: Literal["sample", "full", False] = "sample",
) -> Engine:
    """An engine at k = 0, everything checked. Arguments as in `simulate`."""
    refuse_tracing("simulate", process, theta0, key, measures)
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    check_landscape(process.landscape, AbstractLandscape)
    num_steps = check_whole("num_steps", num_steps, most=MOST_STEPS)
    ensemble_size = check_whole("ensemble_size", ensemble_size, most=MOST_MEMBERS)
    identities = check_identities("members", members, ensemble_size, "ensemble_size")
    key = check_key(key)
    process.check()
    check_length(process, num_steps)
    named = check_measures(measures, process, num_steps)
    refill = check_flag("refill", refill)
    if memory is not None:
        memory = int(check_number("memory", memory, above=0))
    if record_every is not None:
        record_every = check_whole("record_every", record_every)
    if chunk_size is not None:
        chunk_size = check_whole("chunk_size", chunk_size)
    landscape = process.landscape
    probe = jax.ShapeDtypeStruct((1, landscape.dimension), landscape.dtype)
    identity = jax.ShapeDtypeStruct((1,), jnp.uint32)
    with naming(f"{type(process).__name__}.init"):
        shape = eqx.filter_eval_shape(create, process, named, probe, identity, STREAM_KEYS)
    check_state(shape)
    if refill:
        check_refill(process, named, shape.carries)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shape))
    row = landscape.dimension * landscape.dtype.itemsize
    records = None if record_every is None else num_steps // record_every + 1
    mesh = make_mesh(devices)
    with naming(f"{type(process).__name__}.step"):
        cost = step_cost(process, named, landscape.dtype)
    number = len(identities)
    plan = make_plan(ensemble_size, number, held, cost, row, records, chunk_size, mesh)
    what = f"{number} members × {held} bytes of state and measures, {records or 0} records"
    check_memory(plan.bytes, memory, what)
    identities = as_array(identities)
    theta = starts(process, theta0, ensemble_size, key, identities)
    process.check_start(theta)
    for measure in named.values():
        measure.check_start(theta)
    judge_stability(process, theta, check_stability)
    # Where it is an array, a copy that the user cannot change; of all members `theta` is one.
    given = theta0 if callable(theta0) else theta if number == ensemble_size else np.array(theta0)
    ensemble = Ensemble(ensemble_size, identities, theta, given)
    return Engine(process, named, ensemble, key, plan, record_every, refill, memory)
