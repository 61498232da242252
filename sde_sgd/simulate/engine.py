"""One engine for every process: chunks, clock, checkpoints, interrupts, budget."""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..draws import key_words
from ..dynamics.base import AbstractProcess
from ..measure.base import AbstractMeasure
from ..types import Key
from . import checkpoint as ckpt
from .advance import advance, create, Members, step_bytes
from .fingerprint import describe
from .plan import make_mesh, make_plan, Plan
from .progress import Progress
from .run import DivergenceError, Run
from .validate import (
    check_count,
    check_key,
    check_measures,
    check_memory,
    check_stability,
    starts,
)

# Iterations are 32-bit, and measures store them signed.
_MOST_STEPS = 2**31 - 2
_SEGMENT_SECONDS = 0.5
_create = eqx.filter_jit(create)


class Forecast(eqx.Module):
    """What a run will take: seconds (compilation included) and bytes."""

    seconds: float
    bytes: int
    seconds_per_iteration: float


def simulate(
    process: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    measures: dict[str, AbstractMeasure] | None = None,
    record_every: int | None = None,
    refill: bool = False,
    progress: bool | None = None,
    checkpoint: str | Path | ckpt.Checkpoint | None = None,
    budget: float | None = None,
    memory: int | None = None,
    chunk_size: int | None = None,
    devices: int | Sequence[Any] | None = None,
    on_divergence: Literal["raise", "mask"] = "raise",
) -> Run:
    """Runs an ensemble of a process for `num_steps` SGD iterations.

    **Arguments:**

    - `theta0`: a start (d,), one a member (ensemble_size, d), or a sampler key -> (d,).
    - `key`: random numbers are functions of it, the iteration and the member alone, so that
      chunks, devices, recording and stopping change nothing.
    - `measures`: streaming measures by name; results are `run[name]`.
    - `record_every`: keep all positions every so many iterations (and the start).
    - `refill`: members that a measure has finished with start again from their start.
    - `progress`: a line on stderr; None shows it on a terminal.
    - `checkpoint`: a file. If it exists the run resumes from it, bit for bit.
    - `budget`: seconds after which the run stops with what it has; extend it later.
    - `memory`: bytes the run may hold (default: 80 % of what is free).
    - `chunk_size`: members advanced together (default: from the memory of a step).
    - `devices`: a number or list of devices over which members are split.
    - `on_divergence`: "raise" an error that carries the partial run, or "mask".

    **Raises:** `ValueError` for every impossible request and `MemoryError`, both before any
    time is spent; `DivergenceError` with the partial results.
    """
    engine = _prepare(
        process,
        theta0,
        num_steps=num_steps,
        ensemble_size=ensemble_size,
        key=key,
        measures=measures,
        record_every=record_every,
        refill=refill,
        memory=memory,
        chunk_size=chunk_size,
        devices=devices,
    )
    return engine.go(num_steps, progress, ckpt.as_checkpoint(checkpoint), budget, on_divergence)


def forecast(
    process: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    **options,
) -> Forecast:
    """Seconds and bytes of a run, from a few of its iterations. Options as in `simulate`."""
    engine = _prepare(
        process,
        theta0,
        num_steps=num_steps,
        ensemble_size=ensemble_size,
        key=key,
        **{"measures": None, "record_every": None, "refill": False, "memory": None}
        | {"chunk_size": None, "devices": None}
        | options,
    )
    return engine.rehearse(num_steps)


def _prepare(
    process,
    theta0,
    *,
    num_steps,
    ensemble_size,
    key,
    measures,
    record_every,
    refill,
    memory,
    chunk_size,
    devices,
) -> "Engine":
    if not isinstance(process, AbstractProcess):
        raise ValueError(f"simulate needs a process such as ss.SGD; got {process!r}.")
    num_steps = check_count("num_steps", num_steps, _MOST_STEPS)
    ensemble_size = check_count("ensemble_size", ensemble_size, 2**32 - 1)
    key = check_key(key)
    process.check()
    named = check_measures(measures, process, num_steps)
    if record_every is not None:
        record_every = check_count("record_every", record_every)
    if chunk_size is not None:
        chunk_size = check_count("chunk_size", chunk_size)
    if refill and not process.restartable:
        raise ValueError(
            f"refill=True puts members back to their start at any iteration, and this "
            f"{type(process).__name__} depends on the common clock (a learning-rate schedule)."
        )
    landscape = process.landscape
    probe = jax.ShapeDtypeStruct((1, landscape.dimension), landscape.dtype)
    identity = jax.ShapeDtypeStruct((1,), jnp.uint32)
    root = jax.ShapeDtypeStruct((2,), jnp.uint32)
    shape = eqx.filter_eval_shape(create, process, named, probe, identity, root)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shape))
    row = landscape.dimension * landscape.dtype.itemsize
    records = 0 if record_every is None else num_steps // record_every
    mesh = make_mesh(devices)
    step = step_bytes(process, named, landscape.dtype)
    plan = make_plan(ensemble_size, held, step, row, records, chunk_size, mesh)
    what = f"{ensemble_size} members × {held} bytes of state and measures, {records} records"
    check_memory(plan.bytes, memory, what)
    theta = starts(process, theta0, ensemble_size, key)
    check_stability(process, theta)
    return Engine(process, named, theta, key, plan, record_every, bool(refill))


class Engine:
    """Owns the integer clock, the members and what was recorded. `Run` is its public face."""

    def __init__(
        self,
        process: AbstractProcess,
        measures: dict[str, AbstractMeasure],
        theta: jax.Array,
        key: Key,
        plan: Plan,
        record_every: int | None,
        refill: bool,
    ):
        self.process, self.measures = process, measures
        self.plan, self.record_every, self.refill = plan, record_every, refill
        self.root = key_words(key)
        self.fingerprint = describe(
            {
                "process": process,
                "measures": measures,
                "key": np.asarray(self.root),
                "theta0": theta,
                "ensemble_size": plan.ensemble_size,
                "record_every": record_every,
                "refill": refill,
            }
        )
        self.done = 0
        self.requested = 0
        self.seconds = 0.0
        self.forecast: Forecast | None = None
        self.chunks = self._scatter(theta)
        start = [np.asarray(theta)[None]] if record_every is not None else []
        self._steps: list[np.ndarray] = [np.zeros(1, np.int64)] if start else []
        self._rows: list[np.ndarray] = start
        self._per_iteration: float | None = None

    def _scatter(self, theta: jax.Array) -> list[Members]:
        plan = self.plan
        extra = plan.padded - plan.ensemble_size
        filled = jnp.concatenate([theta, jnp.broadcast_to(theta[:1], (extra, theta.shape[1]))])
        chunks = []
        for i in range(plan.num_chunks):
            own = slice(i * plan.chunk_size, (i + 1) * plan.chunk_size)
            identity = jnp.arange(own.start, own.stop, dtype=jnp.uint32)
            members = _create(self.process, self.measures, filled[own], identity, self.root)
            chunks.append(plan.place(members))
        return chunks

    def gather(self) -> Members:
        """All members on the host, the idle ones left out."""
        size = self.plan.ensemble_size
        host = [jax.device_get(chunk) for chunk in self.chunks]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *host)

    def positions(self) -> np.ndarray:
        """θ of every member on the host, (members, d)."""
        rows = [np.asarray(self.process.position(chunk.state)) for chunk in self.chunks]
        return np.concatenate(rows)[: self.plan.ensemble_size]

    def records(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Recorded iterations (n,) and positions (n, members, d)."""
        if not self._steps:
            return None
        return np.concatenate(self._steps), np.concatenate(self._rows)

    def extend(
        self,
        num_steps: int,
        progress: bool | None = None,
        checkpoint: str | Path | ckpt.Checkpoint | None = None,
        budget: float | None = None,
        on_divergence: Literal["raise", "mask"] = "raise",
    ) -> Run:
        """Continues by `num_steps` iterations."""
        more = check_count("num_steps", num_steps, _MOST_STEPS - self.done)
        saved = ckpt.as_checkpoint(checkpoint)
        return self.go(self.done + more, progress, saved, budget, on_divergence, resume=False)

    def rehearse(self, num_steps: int) -> Forecast:
        """Runs a few iterations, puts everything back, and extrapolates."""
        kept = self.chunks
        started = time.monotonic()
        self._advance(min(2, num_steps), 1)
        first = time.monotonic() - started
        length, per_iteration = 2, first
        while True:
            started = time.monotonic()
            self._advance(length, 1)
            spent = time.monotonic() - started
            per_iteration = spent / length
            if spent > 0.2 or length >= num_steps:
                break
            length = min(4 * length, num_steps)
        self.chunks = kept
        return Forecast(first + per_iteration * num_steps, self.plan.bytes, per_iteration)

    def go(
        self,
        total: int,
        progress: bool | None,
        checkpoint: ckpt.Checkpoint | None,
        budget: float | None,
        on_divergence: str,
        resume: bool = True,
    ) -> Run:
        """Advances to iteration `total`; every way out leaves consistent members behind."""
        if on_divergence not in ("raise", "mask"):
            raise ValueError(f'on_divergence must be "raise" or "mask"; got {on_divergence!r}.')
        if budget is not None and not budget > 0:
            raise ValueError(f"budget must be a number of seconds > 0; got {budget!r}.")
        if checkpoint is not None and resume and checkpoint.path.exists():
            self._restore(checkpoint.path)
        self.requested = total
        name = type(self.process).__name__
        report = Progress(name, self.plan.ensemble_size, self.done, total, progress)
        started = saved = time.monotonic()
        before = self.seconds
        stop = ""
        try:
            with _Interrupt() as interrupt:
                while self.done < total and not stop:
                    self._segment(total)
                    now = time.monotonic()
                    self.seconds = before + now - started
                    report.update(self.done)
                    stop = self._reason(total, now - started, budget, interrupt, on_divergence)
                    due = checkpoint is not None and now - saved > checkpoint.every_seconds
                    if checkpoint is not None and (due or stop or self.done >= total):
                        self.save(checkpoint.path)
                        saved = time.monotonic()
        finally:
            report.close()
        run = Run(self)
        if stop == "diverged":
            raise DivergenceError(run)
        if stop:
            where = f" Its state is in {str(checkpoint.path)!r}." if checkpoint else ""
            warnings.warn(
                f"{name} stopped at iteration {self.done} of {total}: {stop}. The result is "
                f"partial; continue with run.extend({total - self.done}).{where}",
                stacklevel=3,
            )
        return run

    def _reason(self, total, elapsed, budget, interrupt, on_divergence) -> str:
        size = self.plan.ensemble_size
        dead = np.concatenate([np.asarray(c.diverged_at) for c in self.chunks])[:size] >= 0
        if dead.any() and (on_divergence == "raise" or dead.all()):
            return "diverged"
        if interrupt.requested and self.done < total:
            return "interrupted"
        if budget is not None and self.done < total:
            ahead = 0.0 if self._per_iteration is None else self._per_iteration
            if elapsed + ahead >= budget:
                return f"the budget of {budget:g} s is used up"
        return ""

    def _segment(self, total: int) -> None:
        """A stretch of about half a second, cut so that records fall on its ends."""
        left = total - self.done
        known = self._per_iteration
        wanted = min(left, 8 if known is None else max(1, int(_SEGMENT_SECONDS / known)))
        every = self.record_every
        length, blocks = wanted, 1
        if every is not None:
            to_next = every - self.done % every
            if to_next < every or left < every:
                length = min(to_next, left)
            else:
                blocks = max(1, min(wanted // every, self.plan.capacity, left // every))
                length = every
        started = time.monotonic()
        rows = self._advance(length, blocks)
        spent = time.monotonic() - started
        steps = self.done + length * np.arange(1, blocks + 1)
        self.done = int(steps[-1])
        if every is not None and steps[0] % every == 0:
            self._steps.append(steps)
            self._rows.append(rows[:blocks])
        first = self.forecast is None and known is None
        if first:
            # The first call compiles; its time says nothing of the rate.
            self._per_iteration = _SEGMENT_SECONDS / 8 if spent > 4 * _SEGMENT_SECONDS else None
            self.forecast = Forecast(spent, self.plan.bytes, float("nan"))
        else:
            self._per_iteration = spent / (length * blocks)
            if self.forecast is not None and np.isnan(self.forecast.seconds_per_iteration):
                ahead = self._per_iteration * (total - self.done)
                seconds = self.forecast.seconds + spent + ahead
                self.forecast = Forecast(seconds, self.plan.bytes, self._per_iteration)

    def _advance(self, length: int, blocks: int) -> np.ndarray:
        """Advances every chunk; positions after each block, (capacity, members, d)."""
        words = [jnp.uint32(n) for n in (self.done, blocks, length)]
        moved, recorded = [], []
        for chunk in self.chunks:
            members, buffer = advance(
                self.process,
                self.measures,
                chunk,
                self.root,
                *words,
                capacity=self.plan.capacity,
                refill=self.refill,
                mesh=self.plan.mesh,
            )
            moved.append(members)
            recorded.append(np.moveaxis(np.asarray(buffer), 1, 0))
        self.chunks = jax.block_until_ready(moved)
        return np.concatenate(recorded, axis=1)[:, : self.plan.ensemble_size]

    def save(self, path: Path) -> None:
        """Writes the whole state atomically."""
        leaves = jax.tree.leaves(self.gather())
        recorded = self.records()
        extra = [] if recorded is None else list(recorded)
        header = {
            "fingerprint": self.fingerprint,
            "versions": ckpt.versions(),
            "done": self.done,
            "seconds": self.seconds,
            "num_leaves": len(leaves) + len(extra),
        }
        ckpt.save(path, header, [*leaves, *extra])

    def _restore(self, path: Path) -> None:
        header, arrays = ckpt.load(path, self.fingerprint)
        structure = jax.tree.structure(self.chunks[0])
        count = structure.num_leaves
        plan, chunks = self.plan, []
        extra = plan.padded - plan.ensemble_size
        for i, old in enumerate(self.chunks):
            own = slice(i * plan.chunk_size, (i + 1) * plan.chunk_size)
            rows = [
                np.concatenate([x, np.repeat(x[:1], extra, axis=0)])[own] for x in arrays[:count]
            ]
            members = jax.tree.unflatten(structure, [jnp.asarray(x) for x in rows])
            members = eqx.tree_at(lambda m: m.identity, members, old.identity)
            chunks.append(plan.place(members))
        self.chunks, self.done = chunks, int(header["done"])
        self.seconds = float(header["seconds"])
        if self.record_every is not None:
            self._steps, self._rows = [arrays[count]], [arrays[count + 1]]


class _Interrupt:
    """Turns the first Ctrl-C into a request to stop after the segment; the second is raised."""

    def __init__(self):
        self.requested = False
        self._previous: Callable | int | None = None

    def __enter__(self) -> "_Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)  # pyright: ignore
        return self

    def __exit__(self, *_) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
