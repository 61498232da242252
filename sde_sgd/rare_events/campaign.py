"""Waves of repetitions, with their budget, interrupts and checkpoints."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd.rare_events.passage import Passage
from sde_sgd.rare_events.wave import Finished, in_turn, ReactivePath, Settings, Wave
from sde_sgd.simulate import checkpoint as ckpt
from sde_sgd.simulate.fingerprint import describe
from sde_sgd.simulate.members import in_ranges
from sde_sgd.simulate.warn import warn
from sde_sgd.terminal import Interrupt

_SEGMENT_SECONDS = 1.0


class Campaign:
    """Waves of repetitions, their results, budget and checkpoints. `Splitting` is its face."""

    def __init__(
        self,
        passage: Passage,
        streams: jax.Array,
        starts: Callable[[np.ndarray], jax.Array],
        settings: Settings,
        num_repetitions: int,
        part: np.ndarray | None = None,
    ):
        """`part`: identities of the repetitions to run, among `num_repetitions`; None for all.

        `starts` gives where replicas begin, (replicas, d); the first of repetition r is number
        r·num_replicas.
        """
        self.passage, self.streams, self.starts, self.settings = passage, streams, starts, settings
        self.num_repetitions, self.part = num_repetitions, part
        own = {}
        if part is not None:
            own = {"num_repetitions": num_repetitions, "repetitions": in_ranges(part)}
        self.fingerprint = describe(
            {
                "passage": passage,
                "key": np.asarray(streams),
                "theta0": starts(np.arange(settings.num_replicas)),
                "settings": [settings.num_replicas, settings.killed, settings.stride],
                # Of repetitions that are over no path can be had.
                "num_paths": settings.num_paths,
                **own,
            }
        )
        self.done: list[Finished] = []
        self.paths: list[ReactivePath] = []
        self.wave: Wave | None = None
        self.requested = 0
        self.seconds = 0.0
        self.iterations = 0
        self._length = 16

    @property
    def num_done(self) -> int:
        """Repetitions in finished waves."""
        return sum(len(part.probability) for part in self.done)

    def identities(self, first: int, count: int) -> np.ndarray:
        """Which repetitions the `first`-th and those after it are, (count,), increasing."""
        places = np.arange(first, first + count)
        return places if self.part is None else self.part[places]

    def go(self, total: int, budget: float | None, checkpoint: ckpt.Checkpoint | None) -> bool:
        """Runs until `total` repetitions are finished, the budget is used or Ctrl-C is pressed.

        Returns whether Ctrl-C came when all were finished.
        """
        self.requested = max(total, self.requested)
        if checkpoint is not None:
            ckpt.sign(self.fingerprint, checkpoint)
        started = saved = time.monotonic()
        before, stop = self.seconds, ""
        with Interrupt(saves=checkpoint is not None) as interrupt:
            while not stop and (self.wave is not None or self.num_done < self.requested):
                if self.wave is None:
                    # Waves of one size share their executables.
                    left = self.requested - self.num_done
                    waves = -(-left // self.settings.reps_at_once)
                    self.wave = Wave(self, self.num_done, -(-left // waves))
                turned = time.monotonic()
                work, ended = self.wave.turn(self._length)
                now = time.monotonic()
                self.iterations += work
                self._adapt(now - turned, ended)
                if self.wave.finished.all():
                    self._close()
                self.seconds = before + now - started
                if interrupt.requested:
                    stop = "interrupted"
                elif budget is not None and now - started >= budget:
                    stop = f"the budget of {budget:g} s is used up"
                over = self.wave is None and self.num_done >= self.requested
                due = checkpoint is not None and now - saved > checkpoint.every_seconds
                if checkpoint is not None and (due or stop or over):
                    self._try_to_save(checkpoint.path)
                    saved = time.monotonic()
        whole = self.wave is None and self.num_done >= self.requested
        if stop and not whole:
            done = self.num_done + (self.wave.prefix() if self.wave else 0)
            warn(
                f"splitting stopped after {done} of {self.requested} repetitions: {stop}. The "
                f"result is partial; continue with result.resume()."
            )
        return whole and interrupt.requested

    def _adapt(self, spent: float, ended: float) -> None:
        """Segments in which a fair share of the lanes ends: longer ones idle, shorter ones wait."""
        if ended > 0.3:
            self._length = max(8, self._length // 2)
        elif ended < 0.15 and spent < _SEGMENT_SECONDS:
            self._length = min(1 << 16, self._length * 2)

    def _close(self) -> None:
        assert self.wave is not None
        count = len(self.wave.finished)
        self.done.append(self.wave.results(count))
        wanted = self.settings.num_paths
        if wanted:
            last = self.paths[-1] if len(self.paths) == wanted else None
            self.paths = in_turn([*self.paths, *self.wave.paths(count, wanted, last)], wanted)
        self.wave = None

    def finished(self) -> Finished | None:
        """All finished repetitions without a gap: who is fast is not preferred."""
        parts = list(self.done)
        if self.wave is not None and self.wave.prefix():
            parts.append(self.wave.results(self.wave.prefix()))
        return Finished.join(parts) if parts else None

    def _try_to_save(self, path: Path) -> None:
        try:
            self.save(path)
        except OSError as error:
            warn(f"checkpoint={str(path)!r} could not be written ({error}); splitting goes on.")

    def save(self, path: Path) -> None:
        """Writes everything atomically."""
        arrays = [x for part in self.done for x in jax.tree.leaves(part)]
        arrays += [path.positions for path in self.paths]
        header = self.header()
        if self.wave is not None:
            header["wave"] = [self.wave.first, len(self.wave.finished)]
            header["lineages"] = self.wave.lineages
            arrays += self.wave.arrays
            arrays += jax.device_get(jax.tree.leaves((self.wave.replicas, self.wave.rungs)))
        ckpt.save(path, header, arrays)

    def header(self) -> dict[str, Any]:
        """What a checkpoint says of it, beside its arrays."""
        return {
            "fingerprint": self.fingerprint,
            "versions": ckpt.versions(),
            "repetitions": None if self.part is None else self.part.tolist(),
            "lanes": self.settings.lanes,
            "parts": len(self.done),
            "paths": [[path.turn, path.repetition] for path in self.paths],
            "requested": self.requested,
            "seconds": self.seconds,
            "iterations": self.iterations,
            "wave": None,
        }

    def restore(self, checkpoint: ckpt.Checkpoint) -> None:
        """Continues from what `save` wrote."""
        ckpt.sign(self.fingerprint, checkpoint)
        path = checkpoint.path
        header, arrays = ckpt.load(path, self.header())
        self.done, self.paths, arrays = in_file(header, arrays)
        self.requested, self.seconds = header["requested"], header["seconds"]
        self.iterations = header["iterations"]
        if header["wave"] is None:
            return
        self.wave = wave = Wave(self, *header["wave"])
        for old in wave.arrays:
            old[...] = arrays.pop(0)
        wave.lineages = header["lineages"]
        leaves, structure = jax.tree.flatten((wave.replicas, wave.rungs))
        if [x.shape for x in leaves] != [x.shape for x in arrays]:
            raise ValueError(
                f"checkpoint={str(path)!r} was written by another version of this library: its "
                f"arrays do not fit. Choose another file or remove it."
            )
        filled = [jnp.asarray(x) for x in arrays]
        wave.replicas, wave.rungs = jax.tree.unflatten(structure, filled)


def in_file(
    header: dict[str, Any], arrays: list[np.ndarray]
) -> tuple[list[Finished], list[ReactivePath], list[np.ndarray]]:
    """Finished repetitions and paths of a checkpoint, and the arrays of a wave under way."""
    width, done = len(Finished.__dataclass_fields__), []
    for _ in range(header["parts"]):
        done.append(Finished(*arrays[:width]))
        arrays = arrays[width:]
    labels = header["paths"]
    pairs = zip(labels, arrays, strict=False)
    paths = [ReactivePath(turn, repetition, x) for (turn, repetition), x in pairs]
    return done, paths, arrays[len(labels) :]


def check_streams(num_repetitions: int, num_replicas: int, stride: int) -> None:
    """Raises `ValueError` where the identities of all repetitions are no 32-bit integers."""
    if num_repetitions * stride > 2**32:
        raise ValueError(
            f"num_repetitions={num_repetitions} of {num_replicas} replicas need more than 2**32 "
            f"random streams: at most {2**32 // stride} repetitions of that size."
        )
