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
from sde_sgd.simulate import checkpoint as ckpt, stored
from sde_sgd.simulate.advance import advance, at_rest, create, Members
from sde_sgd.simulate.fingerprint import describe
from sde_sgd.simulate.forecast import duration, Forecast, foreseen
from sde_sgd.simulate.members import Ensemble
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
# Seconds from which on a part is told that most of its rows are idle.
_LONG = 60
_create = eqx.filter_jit(create)


class Engine:
    """Owns the integer clock, the members and what was recorded. `Run` is its public face.

    `chunks` are moved; `resting` were taken out of them. Identities put all in order again. `look`:
    the iteration at which members at rest are looked for again.
    """

    def __init__(
        self,
        process: AbstractProcess,
        measures: dict[str, AbstractMeasure],
        ensemble: Ensemble,
        key: Key,
        plan: Plan,
        record_every: int | None,
        refill: bool,
        memory: int | None,
    ):
        self.process, self.measures = process, measures
        self.plan, self.record_every, self.refill = plan, record_every, refill
        self.ensemble, self.memory, self.key = ensemble, memory, key
        self.streams = stream_keys(key)
        self.fingerprint = describe(
            {
                "process": process,
                "measures": measures,
                "key": np.asarray(self.streams),
                **ensemble.described(),
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
        self.chunks = self._scatter(ensemble.starts)
        self.resting: list[Members] = []
        self.member_steps = 0
        self.look = self._next_look()
        start = [np.asarray(ensemble.starts)[None]] if record_every is not None else []
        self._steps: list[np.ndarray] = [np.zeros(1, np.int64)] if start else []
        self._rows: list[np.ndarray] = start
        self._per_iteration: float | None = None
        self._longest = 1
        self._halved = False
        self._report: Progress | None = None

    def _scatter(self, theta: jax.Array) -> list[Members]:
        # On the host, and put on the device: slices there, and jnp.asarray, compile for each shape.
        plan, points = self.plan, np.asarray(theta)
        everyone = self.ensemble.rows(plan.padded)
        chunks = []
        for i in range(plan.num_chunks):
            own = np.arange(i * plan.chunk_size, (i + 1) * plan.chunk_size)
            # The idle members of the last chunk begin where the last of all begins.
            rows = points[np.minimum(own, plan.num_members - 1)]
            rows, identity = jax.device_put((rows, everyone[own]))
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
        return np.moveaxis(np.moveaxis(joined, axis, 0)[: self.plan.num_members], 0, axis)

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
            needed = ~np.asarray(resting) & (identity < self.ensemble.size)
            rows = halved(len(identity), int(needed.sum()), self.plan.multiple)
            if rows < len(identity):
                chunk, left = cut(chunk, needed, rows)
                self.resting.append(left)
            if rows:
                chunks.append(self.plan.place(chunk))
        self.chunks = chunks
        self.look = self._next_look() if chunks else MOST_STEPS + 1

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
            what = f"{new} more records of {self.plan.num_members} members"
            check_memory(2 * new * self.plan.row_bytes * self.plan.num_members, self.memory, what)
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
                stored.restore(self, checkpoint.path, total)
        self.requested = total
        name = type(self.process).__name__
        report = self._report = Progress(name, self.plan.num_members, self.done, total, progress)
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
        """Says "diverged" when that ends the run: at the first member, with "mask" at the last.

        With "mask" a part goes on: the others of the ensemble may be alive.
        """
        every = [np.asarray(m.diverged_at) for m in (*self.chunks, *self.resting)]
        dead = self._ordered(every) >= 0
        masked = self.on_divergence == "mask"
        ends = dead.all() and self.ensemble.is_whole if masked else dead.any()
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
        wanted = min(wanted, self.look - self.done) if self.chunks else left
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
        rested = sum(int((np.asarray(m.identity) < self.ensemble.size).sum()) for m in self.resting)
        self.member_steps += length * blocks * (self.plan.num_members - rested)
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
                self._tell_of_idle_rows()
        if self.done >= self.look:
            self._take_out()

    def _tell_of_idle_rows(self) -> None:
        """Says that a long run of a part computes more rows that are idle than members."""
        plan, ahead = self.plan, self.forecast
        if plan.padded >= 2 * plan.num_members and ahead is not None and ahead.seconds > _LONG:
            warn(
                f"This part will take about {duration(ahead.seconds)}, as its {plan.num_members} "
                f"members move with {plan.padded - plan.num_members} idle rows, in chunks of the "
                f"whole, so that they have its bits. With chunk_size={plan.num_members} in every "
                f"part no row is idle; merged they have the bits of the whole in such chunks."
            )

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
            stored.save(self, path)
        except OSError as error:
            warn(f"checkpoint={str(path)!r} could not be written ({error}); the run goes on.")

    @property
    def form(self) -> Members:
        """Some members, for the shapes and dtypes of what the engine knows of one."""
        return (*self.chunks, *self.resting)[0]

    def layout(self) -> np.ndarray:
        """The chunk of every row, by identity, −1 at rest."""
        everyone = self.ensemble.rows(self.plan.padded)
        found = np.full(self.plan.padded, -1, np.int32)
        for place, chunk in enumerate(self.chunks):
            found[np.searchsorted(everyone, np.asarray(chunk.identity))] = place
        return found

    def put(self, members: Members, layout: np.ndarray) -> None:
        """Puts members on the host, in the order of identities, where a layout has their rows."""
        # Idle rows repeat the first member; they are never looked at.
        extra = self.plan.padded - self.plan.num_members
        rows = [
            np.concatenate([x, np.repeat(x[:1], extra, axis=0)]) for x in jax.tree.leaves(members)
        ]
        everyone = jax.tree.unflatten(jax.tree.structure(members), rows)
        identity = self.ensemble.rows(self.plan.padded)
        everyone = eqx.tree_at(lambda m: m.identity, everyone, identity)

        def own(place):
            return jax.device_put(jax.tree.map(lambda x: x[layout == place], everyone))

        self.chunks = [self.plan.place(own(i)) for i in np.unique(layout[layout >= 0])]
        self.resting = [own(-1)] if (layout < 0).any() else []
        self.look = self._next_look() if self.chunks else MOST_STEPS + 1

    def replace_records(self, steps: np.ndarray, positions: np.ndarray) -> None:
        """Recorded iterations (n,) and positions (n, members, d) in place of its own."""
        self._steps, self._rows = [steps], [positions]
