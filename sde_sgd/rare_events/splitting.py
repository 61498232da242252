"""Adaptive multilevel splitting: how often a process does what it almost never does."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import (
    check_key,
    check_landscape,
    check_number,
    check_part,
    check_whole,
    in_brief,
    output_shape,
    real_values,
)
from sde_sgd._user_functions import refuse_tracing
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.memory import available_memory, working_bytes
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.random.draws import STREAM_KEYS, stream_keys
from sde_sgd.rare_events.campaign import Campaign, check_streams
from sde_sgd.rare_events.compiled import create
from sde_sgd.rare_events.passage import Passage
from sde_sgd.rare_events.result import run, Splitting
from sde_sgd.rare_events.wave import Settings
from sde_sgd.simulate.advance import step_cost
from sde_sgd.simulate.checkpoint import as_checkpoint, Checkpoint
from sde_sgd.simulate.members import as_array, check_identities, refuse_joined
from sde_sgd.simulate.stability import judge_stability
from sde_sgd.simulate.validate import check_memory, check_outcome, check_state, starts
from sde_sgd.types import Key, RealLike


def splitting(
    process: AbstractProcess,
    theta0: Any,
    *,
    level: Callable,
    origin: RealLike | Callable,
    target: RealLike,
    surface: RealLike | None = None,
    num_replicas: int = 128,
    num_repetitions: int = 32,
    repetitions: Sequence[int] | np.ndarray | None = None,
    key: Key,
    num_levels: int = 100,
    kill_fraction: float = 0.25,
    num_loops: int = 4,
    burn_in_loops: int = 2,
    longest: int = 1_000_000,
    num_paths: int = 0,
    budget: float | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    memory: int | None = None,
    chunk_size: int | None = None,
) -> Splitting:
    """Chance, rate and mean time of reaching B = {level(θ) ≥ target}, however small.

    A repetition runs `num_replicas` paths until each is in B or in A (`origin`). In rounds, the
    paths whose highest level is among the lowest `kill_fraction` die, ties included, and
    each is replaced by a clone of a random survivor, which copies it up to the first
    iteration that ended above the level of the dead and goes on with random numbers of its own.
    With K_j of n killed in round j and R in B at the end, the chance to reach B before A is

        p = (R/n) ∏_j (1 − K_j/n) ,

    without bias for every chain, number of replicas and level function; a level that rises along
    the way to B (the best is the chance itself) gives it with little variance, at best |ln p|/n
    relative. Levels and sets are watched after every solver step (substeps of an SDE).

    *Without* `surface` the paths start at `theta0`: p is the committor there.

    *With* `surface` the start lies inside and the process first loops: from A out across the
    surface {level ≥ surface}, back into A, and so on; if it reaches B it starts again at `theta0`.
    After `burn_in_loops` the time of `num_loops` loops is taken and the path that follows
    the last of them is split. In this stationary regime (Hill's relation) the mean time
    from `theta0` to B is exactly E[loop]/p, in iterations; what is left is how well
    `burn_in_loops` loops forget their start.

    **Arguments:**

    - `process`: any of the library's that may restart: SGD with its real batches, momentum,
      optax, Gaussian SGD, SDEs.
    - `theta0`: a start (d,), or without `surface` also a sampler key -> (d,).
    - `level`: a real function of θ. `origin`: A = {level(θ) ≤ origin}, or a function of θ
      that gives a boolean (such as "the loss is below 0.1"). `target`: B.
    - `num_replicas` n; `num_repetitions`: independent, run as one batch, for the errors.
    - `repetitions`: those to run, a range or a list of integers in [0, num_repetitions); None for
      all. `merge` makes one result of such parts.
    - `key`: repetition r is a function of it and r alone.
    - `num_levels`: rungs at which states are kept. More cost memory, fewer efficiency.
    - `longest`: iterations after which a path that is in neither set is an error.
    - `num_paths`: reactive paths to return: the first of each repetition, then the second, …
    - `budget`: seconds after which it stops with what it has; `checkpoint`: a file,
      resumed from if it exists; `memory`: bytes that it may hold (default: half of what is free).
    - `chunk_size`: replicas advanced together (default: from the memory of a step and the size of
      the whole, so that a part has its bits; a quarter of a part's own replicas is quicker).

    **Raises:** `ValueError` for impossible requests and `MemoryError`, before time is spent;
    `SplittingError` when no replica of any repetition gets to B, a path leaves the finite
    numbers, or neither returns nor arrives.

    **Source:** Cérou and Guyader 2007; Bréhier, Gazeau, Goudenège, Lelièvre and Rousset 2016 (no
    bias for Markov chains, Ann. Appl. Probab. 26, 3559); Hill's relation: Cérou, Guyader,
    Lelièvre and Pommier 2011.
    """
    if repetitions is None:
        refuse_joined("repetitions", num_repetitions)
    refuse_tracing("splitting", process, theta0, key)
    _check_process(process)
    check_outcome("raise", budget)
    num_replicas = check_whole("num_replicas", num_replicas, 2, 2**24)
    num_repetitions = check_whole("num_repetitions", num_repetitions)
    part = check_identities("repetitions", repetitions, num_repetitions, "num_repetitions")
    num_levels = check_whole("num_levels", num_levels, most=2**16)
    num_loops = check_whole("num_loops", num_loops)
    burn_in_loops = check_whole("burn_in_loops", burn_in_loops)
    longest = check_whole("longest", longest, most=(2**31 - 1) // (2 * process.substeps))
    key = check_key(key)
    num_paths = check_whole("num_paths", num_paths, 0)
    kill_fraction = check_number("kill_fraction", kill_fraction, above=0, below=1)
    target = check_number("target", target)
    origin = origin if callable(origin) else check_number("origin", origin)
    surface = None if surface is None else check_number("surface", surface)
    if memory is not None:
        memory = int(check_number("memory", memory, above=0))
    if chunk_size is not None:
        chunk_size = check_whole("chunk_size", chunk_size)
    killed = min(max(1, round(kill_fraction * num_replicas)), num_replicas - 1)
    saved = as_checkpoint(checkpoint)

    landscape = process.landscape
    _check_function("level", level, landscape, jnp.floating, "one real number")
    if callable(origin):
        _check_function("origin", origin, landscape, bool, "one boolean")
    streams = stream_keys(key)

    def start(replicas: np.ndarray) -> jax.Array:
        return starts(process, theta0, int(replicas.max()) + 1, key, replicas)

    one_point = not callable(theta0) and real_values("theta0", theta0).ndim == 1
    if surface is not None and not one_point:
        raise ValueError(
            "With a surface, theta0 must be one point (d,): who reached B starts there."
        )
    if not callable(theta0) and not one_point:
        raise ValueError("theta0 must be one point (d,) or a sampler key -> (d,).")
    theta = start(np.arange(num_replicas))
    judge_stability(process, theta, "sample")
    levels = np.asarray(jax.vmap(level)(theta), dtype=float)
    ends = float(target), None if callable(origin) else float(origin)
    base = _check_sets(levels, ends, surface, origin, theta)
    number = landscape.dtype.type
    passage = Passage(
        process,
        level,
        origin if callable(origin) else None,
        jnp.asarray(number(0.0 if ends[1] is None else ends[1])),
        jnp.asarray(number(base)),
        jnp.asarray(number(target)),
        theta[0] if surface is not None else None,
        jnp.int32(0 if surface is None else burn_in_loops),
        jnp.int32(0 if surface is None else burn_in_loops + num_loops),
        num_levels,
    )
    settings = _plan(
        passage, num_replicas, num_repetitions, killed, longest, num_paths, memory, chunk_size
    )
    own = None if len(part) == num_repetitions else as_array(part)
    campaign = Campaign(passage, streams, start, settings, num_repetitions, own)
    if saved is not None and saved.path.exists():
        campaign.restore(saved)
    return run(campaign, len(part), budget, saved)


def _check_process(process: Any) -> None:
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    check_landscape(process.landscape, AbstractLandscape)
    process.check()
    if process.deterministic:
        name = type(process).__name__
        raise ValueError(f"{name} has no noise: a clone would repeat its parent for ever.")
    if not process.autonomous:
        raise ValueError(
            f"splitting clones members at any age, and this {type(process).__name__} depends on "
            f"the common clock (a learning-rate schedule), or does not say that it is "
            f"`autonomous`: take a constant learning rate."
        )
    if process.two_point:
        raise ValueError(
            "Two-point increments give wrong escape rates (their tails are cut): use "
            'increments="gaussian" with splitting.'
        )


def _check_function(name: str, function: Any, landscape: Any, kind: Any, what: str) -> None:
    if not callable(function):
        raise ValueError(f"{name} must be a function of θ; got {in_brief(function)}.")
    probe = jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
    out = output_shape(f"{name}(θ)", function, probe)
    if out.shape != () or not jnp.issubdtype(out.dtype, kind):
        raise ValueError(
            f"{name}(θ) must give {what} for θ of shape {probe.shape}; it gives shape {out.shape} "
            f"and dtype {out.dtype}."
        )


def _check_sets(levels, ends, surface, origin, theta) -> float:
    """The base of the ladder, after A, the surface, B and the start have been put in order."""
    target, low = ends
    if not np.isfinite(levels).all():
        raise ValueError(f"level(theta0) must be finite; it is {levels[~np.isfinite(levels)][0]}.")
    if levels.max() >= target:
        raise ValueError(
            f"level(theta0) = {levels.max():.6g} is already ≥ target = {target:.6g}: start outside "
            f"B, raise the target, or turn the level function round."
        )
    if surface is not None:
        line = float(surface)
        if not line < target or (low is not None and not low < line):
            raise ValueError(
                f"The surface lies between A and B, origin < surface < target; got "
                f"{'A given by a function' if low is None else f'{low:g}'}, {line:g}, {target:g}."
            )
        if levels.max() >= line:
            raise ValueError(
                f"level(theta0) = {levels.max():.6g} is not below surface = {line:g}: with a "
                f"surface the start lies inside. Leave surface out for the committor at theta0."
            )
        return line
    home = np.asarray(jax.vmap(origin)(theta)) if low is None else levels <= low
    if home.any():
        raise ValueError(
            f"theta0 lies in A (level {levels[home][0]:.6g}): without a surface paths start "
            f"outside. For the rate of leaving A give surface=, a level that it crosses often."
        )
    return float(levels.min()) if low is None else low


def _plan(
    passage: Passage,
    num_replicas: int,
    num_repetitions: int,
    killed: int,
    longest: int,
    num_paths: int,
    memory: int | None,
    chunk_size: int | None,
) -> Settings:
    """Lanes from the memory of a step, repetitions at once from that of the ladders."""
    landscape = passage.process.landscape
    probe = jax.ShapeDtypeStruct((1, landscape.dimension), landscape.dtype)
    identity = jax.ShapeDtypeStruct((1,), jnp.uint32)
    shape = eqx.filter_eval_shape(create, passage, probe, identity, STREAM_KEYS)
    check_state(shape)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shape))
    step = step_cost(passage.process, {}, landscape.dtype).bytes
    # Twice, as an update may copy.
    repetition = 2 * held * num_replicas
    allowed = available_memory() // 2 if memory is None else memory
    what = (
        f"one repetition of {num_replicas} replicas with {passage.num_levels} levels, {held} bytes "
        f"each; lower num_levels or num_replicas"
    )
    check_memory(repetition + step * min(64, num_replicas), allowed, what)
    # Identities are 32 bits: a block of them for each repetition.
    stride = 1 << max(10, (256 * num_replicas - 1).bit_length())
    check_streams(num_repetitions, num_replicas, stride)
    at_once = max(1, min(num_repetitions, (allowed - step * 64) // max(repetition, 1)))
    total = at_once * num_replicas
    fitting = max(1, min(max(total // 4, 64), total, working_bytes() // max(step, 1)))
    lanes = fitting if chunk_size is None else chunk_size
    return Settings(num_replicas, killed, longest, stride, lanes, num_paths, at_once)
