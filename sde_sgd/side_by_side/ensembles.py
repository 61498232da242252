"""Several runs as one: one clock of the budget, one Ctrl-C, one folder of checkpoints."""

import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sde_sgd._checks import check_path
from sde_sgd.measure.base import AbstractMeasure
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.simulate.checkpoint import Checkpoint
from sde_sgd.simulate.engine import simulate
from sde_sgd.simulate.run import DivergenceError, Run
from sde_sgd.terminal import Interrupt, StatusLine
from sde_sgd.types import Key


class Stopped(Exception):
    """The budget or Ctrl-C has ended the whole; the reason is its text."""


class Ensembles:
    """Runs by label. Each has its own file in the folder of checkpoints.

    Use as a context: within it the first Ctrl-C ends the run that is under way and starts no other.
    `run` raises `Stopped` when that or the budget has ended one; `runs` has what there is.
    """

    def __init__(
        self,
        starts: Any,
        num_steps: int,
        budget: float | int | None,
        folder: Checkpoint | None,
        progress: bool | None,
        options: Mapping[str, Any],
    ):
        self.starts, self.num_steps, self.budget = starts, num_steps, budget
        self.folder, self.progress, self.options = folder, progress, options
        self.runs: dict[str, Run] = {}
        self._started = time.monotonic()
        self._interrupt = Interrupt()
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> "Ensembles":
        self._interrupt.__enter__()
        self._warnings.__enter__()
        # The whole says it once, with the way to go on with all of it.
        warnings.filterwarnings("ignore", message=".* stopped at iteration ")
        return self

    def __exit__(self, *error) -> None:
        self._warnings.__exit__(*error)
        self._interrupt.__exit__(*error)

    def run(
        self,
        label: str,
        process: AbstractProcess,
        key: Key,
        members: int,
        measures: Mapping[str, AbstractMeasure],
        file: str | None = None,
    ) -> Run:
        """One run, kept under its label; `file` names its checkpoint, the label by default."""
        left = None
        if self.budget is not None:
            left = self.budget - (time.monotonic() - self._started)
        self.runs.pop(label, None)
        if self._interrupt.requested:
            raise Stopped("interrupted")
        if left is not None and left <= 0:
            raise Stopped(self._used_up())
        StatusLine(self.progress).close(f"{label}, {members} members:")
        try:
            made = simulate(
                process,
                starts_of(self.starts, members),
                num_steps=self.num_steps,
                ensemble_size=members,
                key=key,
                measures=dict(measures),
                progress=self.progress,
                checkpoint=self._file(file or label),
                budget=left,
                **self.options,
            )
        except KeyboardInterrupt as error:
            # Ctrl-C came when this run was complete.
            done = getattr(error, "result", None)
            if done is None:
                raise
            self.runs[label] = done
            raise Stopped("interrupted") from None
        except DivergenceError as error:
            error.add_note(f"It was the ensemble {label!r} of a comparison.")
            raise
        self.runs[label] = made
        if not made.complete:
            interrupted = made.stopped == "interrupted"
            raise Stopped(made.stopped if interrupted else self._used_up())
        return made

    def _used_up(self) -> str:
        return f"the budget of {self.budget:g} s is used up"

    def _file(self, name: str) -> Checkpoint | None:
        if self.folder is None:
            return None
        plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        own = self.folder.path / f"{plain}.npz"
        return Checkpoint(own, self.folder.every_seconds, self.folder.version)


def starts_of(starts: Any, members: int) -> Any:
    """One start for all, or those of the first members."""
    return starts if starts.ndim == 1 else starts[:members]


def as_folder(checkpoint: str | Path | Checkpoint | None) -> Checkpoint | None:
    """A folder for the checkpoints of several runs, made if it is not there."""
    if checkpoint is None:
        return None
    made = (
        checkpoint
        if isinstance(checkpoint, Checkpoint)
        else Checkpoint(check_path("checkpoint", checkpoint))
    )
    if made.path.exists() and not made.path.is_dir():
        raise ValueError(
            f"checkpoint={str(made.path)!r} is a file: a comparison has several runs, and keeps "
            f"them in a folder. Name another."
        )
    if not made.path.parent.is_dir():
        raise ValueError(
            f"The folder in which checkpoint={str(made.path)!r} would be made does not exist: "
            f"create it."
        )
    try:
        made.path.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"The folder checkpoint={str(made.path)!r} cannot be made ({reason}): name another."
        ) from None
    return made
