"""What is done to a problem, and what must come of it: equal bits, or one clear message."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sde_sgd.netcdf import _hidden

from .children import COMPLETE, Ended, INTERRUPTED, MESSAGE, of_problem, PARTIAL
from .disks import Disk
from .problems import EDITED, HELPER, prepare

EQUAL, CLEAR, VIOLATION = "equal bits", "clear message", "VIOLATION"


@dataclass(frozen=True)
class Outcome:
    """Of one thing that was done."""

    what: str
    problem: str
    came: str
    detail: str = ""


class Violation(Exception):
    """Neither equal bits nor one clear message, or a good file was lost."""


def require(fact: bool, text: str, ended: Ended | None = None) -> None:
    """Raises `Violation` with what the child wrote."""
    if not fact:
        told = "" if ended is None else f" (exit {ended.code}): {ended.err[-2000:]}"
        raise Violation(text + told)


class Problem:
    """One of `problems.PROBLEMS`, its answer and its seconds when nobody disturbs it."""

    def __init__(self, name: str, work: Path, rng: np.random.Generator):
        self.name, self.work, self.rng = name, work, rng
        self._folders = 0
        # The first compiles for all others.
        for _ in range(2):
            undisturbed = of_problem(name, self.folder()).wait()
            require(undisturbed.code == COMPLETE, f"{name} does not run", undisturbed)
        self.answer, self.seconds = undisturbed.answer, undisturbed.seconds

    def folder(self) -> Path:
        """A new one."""
        self._folders += 1
        made = self.work / f"{self.name}-{self._folders}"
        prepare(made)
        return made

    def moment(self, low: float = 0.0, high: float = 1.0) -> float:
        """A random time of its run."""
        return self.seconds * self.rng.uniform(low, high)

    def finish(self, folder: Path) -> None:
        """Runs to the end, which must be the answer, and leaves nothing half written behind."""
        ended = of_problem(self.name, folder).wait()
        require(ended.code == COMPLETE, "the run does not go on", ended)
        require(ended.answer == self.answer, "other bits than undisturbed", ended)
        require("Traceback" not in ended.err, "a traceback", ended)
        require(not list(folder.rglob("*.tmp")), "temporary files are left", ended)

    def partial(self, folder: Path) -> None:
        """A checkpoint of a part, by SIGTERM, which saves; tried at later times if need be."""
        for share in (0.4, 0.6, 0.8, 0.5, 0.7):
            child = of_problem(self.name, folder)
            time.sleep(share * self.seconds)
            child.send(signal.SIGTERM)
            code, files = child.wait().code, saved(folder)
            if files and code == -signal.SIGTERM:
                return
            for path in files:
                path.unlink()
        raise Violation("no checkpoint of a part was written by SIGTERM")


def saved(folder: Path) -> dict[Path, bytes]:
    """All checkpoints of a folder, each of which must be whole."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        try:
            with np.load(path) as file:
                for name in file.files:
                    file[name]
        except Exception as error:
            raise Violation(f"{path.name} is not whole: {error}") from error
        found[path] = path.read_bytes()
    return found


def killed(problem: Problem, count: int) -> Iterator[Outcome]:
    """SIGKILL at random times, up to three in a row, then to the end."""
    while count > 0:
        chain = min(count, int(problem.rng.integers(1, 4)))
        count -= chain
        folder = problem.folder()
        try:
            for _ in range(chain):
                child = of_problem(problem.name, folder)
                time.sleep(problem.moment())
                child.send(signal.SIGKILL)
                ended = child.wait()
                fine = ended.code == -signal.SIGKILL or ended.answer == problem.answer
                require(fine, "it ended by itself", ended)
                saved(folder)
            problem.finish(folder)
            came, detail = EQUAL, ""
        except Violation as violation:
            came, detail = VIOLATION, str(violation)
        for _ in range(chain):
            yield Outcome("SIGKILL", problem.name, came, detail)


def interrupted(problem: Problem) -> str:
    """Ctrl-C ends it, with a warning or a KeyboardInterrupt; the same call goes on."""
    folder = problem.folder()
    child = of_problem(problem.name, folder)
    time.sleep(problem.moment())
    child.send(signal.SIGINT)
    sent = time.monotonic()
    ended = child.wait()
    late = ended.code == COMPLETE and time.monotonic() - sent < 0.05
    fine = ended.code == INTERRUPTED or late
    partial = ended.code == PARTIAL and "interrupted" in ended.err
    require(fine or partial, "Ctrl-C was swallowed, or ended in an error", ended)
    require("Traceback" not in ended.err, "a traceback", ended)
    problem.finish(folder)
    return EQUAL


def terminated(problem: Problem) -> str:
    """SIGTERM saves and ends it."""
    folder = problem.folder()
    child = of_problem(problem.name, folder)
    time.sleep(problem.moment())
    child.send(signal.SIGTERM)
    ended = child.wait()
    fine = ended.code == -signal.SIGTERM or ended.answer == problem.answer
    require(fine and "Traceback" not in ended.err, "SIGTERM does not end it", ended)
    saved(folder)
    problem.finish(folder)
    return EQUAL


def budgeted(problem: Problem) -> str:
    """A budget ends it with a warning; the same call goes on."""
    folder = problem.folder()
    ended = of_problem(problem.name, folder, budget=problem.moment(0.02, 0.7)).wait()
    partial = ended.code == PARTIAL and "budget" in ended.err
    require(partial or ended.answer == problem.answer, "the budget ends in an error", ended)
    problem.finish(folder)
    return EQUAL


def edited(problem: Problem) -> str:
    """An edited helper is refused by name, and nothing is overwritten; the old one goes on."""
    folder = problem.folder()
    problem.partial(folder)
    before = saved(folder)
    (folder / "helper.py").write_text(EDITED)
    ended = of_problem(problem.name, folder).wait()
    refused = ended.code == MESSAGE and "belongs to another configuration" in ended.message
    require(refused and "SCALE" in ended.message, "not refused by name", ended)
    require(saved(folder) == before, "a good file was overwritten", ended)
    (folder / "helper.py").write_text(HELPER)
    problem.finish(folder)
    return CLEAR


def broken(problem: Problem) -> str:
    """A truncated checkpoint is refused by name and left as it is."""
    folder = problem.folder()
    problem.partial(folder)
    path = min(saved(folder))
    part = path.read_bytes()[: int(problem.rng.integers(0, path.stat().st_size))]
    path.write_bytes(part)
    ended = of_problem(problem.name, folder).wait()
    refused = ended.code == MESSAGE and "is not a checkpoint of this library" in ended.message
    require(refused and path.read_bytes() == part, "not refused by name", ended)
    return CLEAR


def full_disk(problem: Problem) -> str:
    """The run is what it is, its good checkpoint too; with room again it goes on."""
    with Disk(problem.work / "disk", megabytes=4) as disk:
        folder = disk.path / "run"
        prepare(folder)
        problem.partial(folder)
        before = saved(folder)
        disk.fill()
        ended = of_problem(problem.name, folder).wait()
        require(ended.answer == problem.answer, "a full disk costs the run", ended)
        require(saved(folder) == before, "a good file was overwritten", ended)
        disk.free()
        problem.finish(folder)
        # SIGTERM in the last stretch saves all there is: nothing is left to write.
        complete = saved(folder) == before
        require(complete or "could not be written" in ended.err, "nothing is said", ended)
    return EQUAL


def read_only(problem: Problem) -> str:
    """A folder that cannot be written costs the checkpoints, not the run, or is refused at once."""
    with Disk(problem.work / "disk", megabytes=4) as disk:
        folder, fresh = disk.path / "run", disk.path / "fresh"
        prepare(folder)
        prepare(fresh)
        problem.partial(folder)
        before = saved(folder)
        for path in before:
            # Of a kill in the middle of a write.
            path.with_name(f"{_hidden(path)}.0.tmp").touch()
        disk.read_only()
        ended = of_problem(problem.name, folder).wait()
        require(ended.answer == problem.answer, "a read-only folder costs the run", ended)
        require(saved(folder) == before, "a good file was overwritten", ended)
        ended = of_problem(problem.name, fresh).wait()
        refused = ended.code == MESSAGE and "checkpoint=" in ended.message
        require(refused or ended.answer == problem.answer, "no clear message", ended)
    return EQUAL
