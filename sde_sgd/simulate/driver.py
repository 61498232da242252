"""The engine itself: chunks, clock, checkpoints, interrupts, budget."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import check_progress, check_whole
from sde_sgd.measure.base import AbstractMeasure
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.random.draws import stream_keys
from sde_sgd.simulate import checkpoint as ckpt
from sde_sgd.simulate.advance import advance, at_rest, create, Members
from sde_sgd.simulate.fingerprint import describe
from sde_sgd.simulate.forecast import Forecast, foreseen
from sde_sgd.simulate.plan import Plan
from sde_sgd.simulate.progress import Progress
from sde_sgd.simulate.rest import cut, halved, in_halves, next_look
from sde_sgd.simulate.run import DivergenceError, Run
from sde_sgd.simulate.validate import check_length, check_memory, check_outcome
from sde_sgd.simulate.warn import warn
from sde_sgd.terminal import ended, Interrupt
from sde_sgd.types import Key

# Iterations are 32-bit, and measures store them signed.
MOST_STEPS = 2**31 - 2
_SEGMENT_SECONDS = 0.5
_create = eqx.filter_jit(create)


class Engine:
    """Owns the integer clock, the members and what was recorded. `Run` is its public face.

    `chunks` are moved; `resting` were taken out of them. Identities put all in order again.
    """

    def __init__(
        self,
        process: AbstractProcess,
        measures: dict[str, AbstractMeasure],
        theta: jax.Array,
        key: Key,
        plan: Plan,
        record_every: int | None,
        refill: bool,
        memory: int | None,
    ):
        self.process, self.measures = process, measures
        self.plan, self.record_every, self.refill = plan, record_every, refill
        self.memory = memory
        self.key = np.asarray(key if key.dtype == jnp.uint32 else jax.random.key_data(key))
        self.streams = stream_keys(key)
        self.fingerprint = describe(
            {
                "process": process,
                "measures": measures,
                "key": np.asarray(self.streams),
                "theta0": theta,
                "ensemble_size": plan.ensemble_size,
                "record_every": record_every,
                "refill": refill,
            }
        )
        self.done = 0
        self.requested = 0
        self.seconds = 0.0
        self.stopped = ""
        self.on_divergence = "raise"
        self.forecast: Forecast | None = None
        self.chunks = self._scatter(theta)
        self.resting: list[Members] = []
        self.member_steps = 0
        self._look = self._next_look()
        start = [np.asarray(theta)[None]] if record_every is not None else []
        self._steps: list[np.ndarray] = [np.zeros(1, np.int64)] if start else []
        self._rows: list[np.ndarray] = start
        self._per_iteration: float | None = None
        self._longest = 1
        self._halved = False
        self._report: Progress | None = None

    def _scatter(self, theta: jax.Array) -> list[Members]:
        # On the host, and put on the device: slices there, and jnp.asarray, compile for each shape.
        plan, points = self.plan, np.asarray(theta)
        chunks = []
        for i in range(plan.num_chunks):
            identity = np.arange(i * plan.chunk_size, (i + 1) * plan.chunk_size, dtype=np.uint32)
            # The idle members of the last chunk begin where the last of all begins.
            rows = points[np.minimum(identity, plan.ensemble_size - 1)]
            rows, identity = jax.device_put((rows, identity))
            members = _create(self.process, self.measures, rows, identity, self.streams)
            chunks.append(plan.place(members))
        return chunks

    def gather(self) -> Members:
        """All members on the host, the idle ones left out."""
        host = [jax.device_get(members) for members in (*self.chunks, *self.resting)]
        return jax.tree.map(lambda *leaves: self._ordered(leaves), *host)

    def positions(self) -> np.ndarray:
        """θ of every member on the host, (members, d)."""
        pieces = [*self.chunks, *self.resting]
        return self._ordered([np.asarray(self.process.position(m.state)) for m in pieces])

    def _ordered(self, pieces: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
        """Rows of the chunks and of those at rest, by identity, the idle ones left out."""
        joined = np.concatenate(pieces, axis)
        if self.resting:
            every = [np.asarray(m.identity) for m in (*self.chunks, *self.resting)]
            joined = np.take(joined, np.argsort(np.concatenate(every)), axis)
        return np.moveaxis(np.moveaxis(joined, axis, 0)[: self.plan.ensemble_size], 0, axis)

    def _next_look(self) -> int:
        """When to look for members at rest; beyond every run where there can be none."""
        known = None if self.refill else at_rest(self.measures, self.chunks[0].carries)
        if known is None:
            return MOST_STEPS + 1
        rows = sum(len(chunk.identity) for chunk in self.chunks)
        return next_look(self.done, rows, self.plan.step_bytes)

    def _take_out(self) -> None:
        """Members at rest leave their chunk as soon as they are half of it."""
        chunks = []
        for chunk in self.chunks:
            resting = at_rest(self.measures, chunk.carries)
            identity = np.asarray(chunk.identity)
            needed = ~np.asarray(resting) & (identity < self.plan.ensemble_size)
            rows = halved(len(identity), int(needed.sum()), self.plan.multiple)
            if rows < len(identity):
                chunk, left = cut(chunk, needed, rows)
                self.resting.append(left)
            if rows:
                chunks.append(self.plan.place(chunk))
        self.chunks = chunks
        self._look = self._next_look() if chunks else MOST_STEPS + 1

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
        on_divergence: Literal["raise", "mask"] | None = None,
    ) -> Run:
        """Continues by `num_steps` iterations."""
        total = self.done + check_whole("num_steps", num_steps, most=MOST_STEPS - self.done)
        check_length(self.process, total)
        for measure in self.measures.values():
            measure.check(self.process, max(total, self.requested))
        if self.record_every is not None:
            new = total // self.record_every - self.done // self.record_every
            what = f"{new} more records of {self.plan.ensemble_size} members"
            check_memory(2 * new * self.plan.row_bytes * self.plan.ensemble_size, self.memory, what)
        check_progress(progress)
        saved = ckpt.as_checkpoint(checkpoint)
        outcome = self.on_divergence if on_divergence is None else on_divergence
        return self.go(total, progress, saved, budget, outcome, resume=False)

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
        self.on_divergence = on_divergence = check_outcome(on_divergence, budget)
        if checkpoint is not None:
            ckpt.sign(self.fingerprint, checkpoint)
            if resume and checkpoint.path.exists():
                self._restore(checkpoint.path, total)
        self.requested = total
        name = type(self.process).__name__
        report = self._report = Progress(name, self.plan.ensemble_size, self.done, total, progress)
        started = saved = time.monotonic()
        before = self.seconds
        stop = self._diverged()
        try:
            with Interrupt(saves=checkpoint is not None) as interrupt:
                while self.done < total and not stop:
                    self._segment(total)
                    now = time.monotonic()
                    self.seconds = before + now - started
                    report.update(self.done)
                    stop = self._reason(total, now - started, budget, interrupt)
                    due = checkpoint is not None and now - saved > checkpoint.every_seconds
                    if checkpoint is not None and (due or stop or self.done >= total):
                        self._try_to_save(checkpoint.path)
                        saved = time.monotonic()
        finally:
            report.close()
        self.stopped = stop
        run = Run(self)
        if stop == "diverged":
            raise DivergenceError(run)
        if stop:
            where = f" Its state is in {str(checkpoint.path)!r}." if checkpoint else ""
            warn(
                f"{name} stopped at iteration {self.done} of {total}: {stop}. The result is "
                f"partial; continue with run.extend({total - self.done}).{where}"
            )
        for remark in run.remarks():
            warn(remark)
        if interrupt.requested and not stop:
            raise ended(name, run)
        return run

    def _diverged(self) -> str:
        """Says "diverged" when that ends the run: at the first member, with "mask" at the last."""
        every = [np.asarray(m.diverged_at) for m in (*self.chunks, *self.resting)]
        dead = self._ordered(every) >= 0
        ends = dead.any() if self.on_divergence == "raise" else dead.all()
        return "diverged" if ends else ""

    def _reason(
        self, total: int, elapsed: float, budget: float | None, interrupt: Interrupt
    ) -> str:
        diverged = self._diverged()
        if diverged:
            return diverged
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
        # The first call compiles and the second is timed: one iteration each, which may be long.
        # A rate that was seen on few iterations is trusted for eight times as many.
        trusted = max(1, min(8 * self._longest, int(_SEGMENT_SECONDS / known))) if known else 1
        wanted = min(left, trusted)
        # A run in which nobody moves any more ends at once.
        wanted = min(wanted, self._look - self.done) if self.chunks else left
        every = self.record_every
        length, blocks = wanted, 1
        if every is not None:
            to_next = every - self.done % every
            if to_next < every or wanted < every:
                length = min(to_next, wanted)
            else:
                length, blocks = every, min(wanted // every, self.plan.capacity)
        started = time.monotonic()
        rows = self._advance_in_memory(length, blocks)
        spent = time.monotonic() - started
        steps = self.done + length * np.arange(1, blocks + 1)
        self.done = int(steps[-1])
        for chunk in self.chunks:
            self.process.check_state(chunk.state)
        self.member_steps += length * blocks * sum(len(c.identity) for c in self.chunks)
        if every is not None and steps[0] % every == 0:
            self._steps.append(steps)
            self._rows.append(rows)
        first = self.forecast is None and known is None
        if first:
            # The first call compiles; its time says nothing of the rate.
            self.forecast = foreseen(self, spent, float("nan"), total)
        else:
            self._per_iteration = max(spent, 1e-9) / (length * blocks)
            self._longest = max(self._longest, length * blocks)
            if self.forecast is not None and np.isnan(self.forecast.seconds_per_iteration):
                ahead = self._per_iteration * (total - self.done)
                seconds = self.forecast.seconds + spent + ahead
                self.forecast = foreseen(self, seconds, self._per_iteration, total)
                if self._report is not None:
                    self._report.announce(self.forecast)
        if self.done >= self._look:
            self._take_out()

    def _advance_in_memory(self, length: int, blocks: int) -> np.ndarray:
        """As `advance`; where the device runs out of memory, with halved chunks from then on."""
        while True:
            try:
                return self.advance(length, blocks)
            except jax.errors.JaxRuntimeError as error:
                most = max((len(chunk.identity) for chunk in self.chunks), default=0)
                if "RESOURCE_EXHAUSTED" not in str(error) or most <= self.plan.multiple:
                    raise
            if not self._halved:
                warn(
                    f"The device ran out of memory with {most} members at a time: the run goes on "
                    f"with fewer. Pass chunk_size={most // 2} to begin with them."
                )
            self._halved = True
            halves = [half for c in self.chunks for half in in_halves(c, self.plan.multiple)]
            self.chunks = [self.plan.place(half) for half in halves]

    def advance(self, length: int, blocks: int) -> np.ndarray:
        """Advances every chunk; positions after each block, (blocks, members, d)."""
        words = [jnp.uint32(n) for n in (self.done, blocks, length)]
        moved, recorded = [], []
        for chunk in self.chunks:
            members, buffer = advance(
                self.process,
                self.measures,
                chunk,
                self.streams,
                *words,
                capacity=self.plan.capacity,
                refill=self.refill,
                mesh=self.plan.mesh,
            )
            moved.append(members)
            recorded.append(np.moveaxis(np.asarray(buffer)[:, :blocks], 1, 0))
            if self._report is not None:
                self._report.part(len(moved), len(self.chunks))
        for members in self.resting:
            still = np.asarray(self.process.position(members.state))
            shown = blocks if self.plan.capacity else 0
            recorded.append(np.broadcast_to(still, (shown, *still.shape)))
        self.chunks = jax.block_until_ready(moved)
        return self._ordered(recorded, axis=1)

    def _try_to_save(self, path: Path) -> None:
        """A full disk costs a checkpoint, not the run."""
        try:
            self.save(path)
        except OSError as error:
            warn(f"checkpoint={str(path)!r} could not be written ({error}); the run goes on.")

    def save(self, path: Path) -> None:
        """Writes the whole state atomically."""
        leaves = jax.tree.leaves(self.gather())
        ckpt.save(path, self._header(), [*leaves, *(self.records() or ()), self._layout()])

    def _header(self) -> dict:
        return {
            "fingerprint": self.fingerprint,
            "versions": ckpt.versions(),
            "done": self.done,
            "seconds": self.seconds,
            "member_steps": self.member_steps,
            "look": self._look,
            "cut": self._cut(),
        }

    def _restore(self, path: Path, total: int) -> None:
        header, arrays = ckpt.load(path, self._header())
        if header["done"] > total:
            raise ValueError(
                f"checkpoint={str(path)!r} is at iteration {header['done']}, beyond "
                f"num_steps={total}: ask for at least as many, or choose another file."
            )
        leaves, structure = jax.tree.flatten(self.chunks[0])
        size, count = self.plan.ensemble_size, len(leaves)
        wanted = [(size, *leaf.shape[1:], leaf.dtype) for leaf in leaves]
        if wanted != [(*array.shape, array.dtype) for array in arrays[:count]]:
            raise ValueError(
                f"checkpoint={str(path)!r} was written by another version of this library: its "
                f"arrays do not fit. Choose another file or remove it."
            )
        # Idle members repeat the first; padded rows are never looked at.
        extra = self.plan.padded - size
        rows = [np.concatenate([x, np.repeat(x[:1], extra, axis=0)]) for x in arrays[:count]]
        everyone = jax.tree.unflatten(structure, rows)
        everyone = eqx.tree_at(
            lambda m: m.identity, everyone, np.arange(self.plan.padded, dtype=np.uint32)
        )
        # Other chunks or devices: everybody moves again, until the next look.
        same = header["cut"] == self._cut()
        layout = arrays[-1] if same else self._layout()

        def own(place):
            return jax.device_put(jax.tree.map(lambda x: x[layout == place], everyone))

        places = np.unique(layout[layout >= 0])
        self.chunks = [self.plan.place(own(i)) for i in places]
        self.resting = [own(-1)] if (layout < 0).any() else []
        self.done, self.seconds = int(header["done"]), float(header["seconds"])
        self.member_steps = int(header["member_steps"])
        self._look = int(header["look"]) if same else self._next_look()
        if self.record_every is not None:
            self._steps, self._rows = [arrays[count]], [arrays[count + 1]]

    def _layout(self) -> np.ndarray:
        """The chunk of every identity, −1 at rest."""
        found = np.full(self.plan.padded, -1, np.int32)
        for place, chunk in enumerate(self.chunks):
            found[np.asarray(chunk.identity)] = place
        return found

    def _cut(self) -> list[int]:
        return [self.plan.chunk_size, self.plan.num_chunks, self.plan.multiple]
