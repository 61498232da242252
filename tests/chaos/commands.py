"""The same for `python -m experiments NAME`, and for its `--replot`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5netcdf
import numpy as np

from .children import Ended, FOREIGN, INTERRUPTED, of_command
from .disks import Disk
from .problems import digest
from .trials import CLEAR, EQUAL, Outcome, require, VIOLATION, Violation

NAME = "finite_learning_rate_variance"
_ARGUMENTS = [NAME, "--ensemble-size", "64", "--num-steps", "2000", "--substeps", "2"]
# So few members are not precise enough, which is exit code 1 and a verdict.
_DONE = FOREIGN
_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def results(out: Path) -> str:
    """A digest of the numbers and verdicts of an experiment, whose files must all be whole."""
    folder = out / NAME
    try:
        with h5netcdf.File(folder / "data.nc") as file:
            numbers = digest([file[name][...] for name in sorted(file.variables)])
        json.loads((folder / "config.json").read_text())
        checks = json.loads((folder / "verdict.json").read_text())["checks"]
        picture = (folder / "figure.png").read_bytes()
        assert picture.startswith(_PNG[0]) and picture.endswith(_PNG[1]), "figure.png"
    except Exception as error:
        raise Violation(f"a result is not whole: {type(error).__name__}: {error}") from error
    return f"{numbers} {digest(np.frombuffer(json.dumps(checks).encode(), np.uint8))}"


def one_line(ended: Ended, *words: str) -> None:
    """An exit code other than 0, and one line that says all of the words."""
    lines = ended.err.strip().splitlines()
    fine = ended.code == FOREIGN and len(lines) == 1 and all(word in lines[0] for word in words)
    require(fine, f"not one line with {words}", ended)


class Command:
    """The experiment in folders of its own, its answer and its seconds when undisturbed."""

    def __init__(self, work: Path, rng: np.random.Generator):
        self.work, self.rng, self._outs = work, rng, 0
        for _ in range(2):
            self.finished = self.out()
            undisturbed = of_command([*_ARGUMENTS, "--out", str(self.finished)]).wait()
            require(undisturbed.code == _DONE, "the experiment does not run", undisturbed)
            self.answer, self.seconds = results(self.finished), undisturbed.seconds

    def out(self, copy: bool = False) -> Path:
        """A new folder; with the finished results if they are asked for."""
        self._outs += 1
        made = self.work / f"out-{self._outs}"
        if copy:
            shutil.copytree(self.finished, made)
        return made

    def start(self, out: Path, *more: str):
        """The experiment, or with "--replot" its end."""
        return of_command([*(_ARGUMENTS if not more else [NAME]), "--out", str(out), *more])

    def finish(self, out: Path, *more: str) -> None:
        """To the end, which must be the answer; nothing is left beside the results."""
        ended = self.start(out, *more).wait()
        require(ended.code == _DONE and "Traceback" not in ended.err, "it does not go on", ended)
        require(results(out) == self.answer, "other results than undisturbed", ended)
        left = {path.name for path in (out / NAME).iterdir()}
        wanted = {"config.json", "data.nc", "figure.png", "verdict.json"}
        require(left == wanted, f"left behind: {left - wanted}", ended)


def killed(command: Command, count: int) -> Iterator[Outcome]:
    """SIGKILL at random times, two in a row."""
    for first in range(0, count, 2):
        out, chain = command.out(), min(2, count - first)
        try:
            for _ in range(chain):
                _after(command, command.start(out), signal.SIGKILL)
            command.finish(out)
            came, detail = EQUAL, ""
        except Violation as violation:
            came, detail = VIOLATION, str(violation)
        for _ in range(chain):
            yield Outcome("SIGKILL", "experiment", came, detail)


def _after(command: Command, child, number: int) -> Ended:
    time.sleep(command.seconds * command.rng.uniform(0.05, 0.98))
    child.send(number)
    return child.wait()


def interrupted(command: Command) -> str:
    """Ctrl-C ends it in one line; the same command goes on."""
    out = command.out()
    ended = _after(command, command.start(out), signal.SIGINT)
    quiet = ended.code in (INTERRUPTED, -signal.SIGINT) and not ended.err
    require(quiet and "agrees" not in ended.out, "Ctrl-C was swallowed, or is an error", ended)
    command.finish(out)
    return EQUAL


def edited(command: Command) -> str:
    """A helper of the experiments edited after a kill: all is done anew, the old runs are kept."""
    out, copy = command.out(), command.work / "edited"
    child = command.start(out)
    while not list(out.rglob("0001.npz")):
        time.sleep(0.05)
    child.send(signal.SIGKILL)
    child.wait()
    old = sorted(out.rglob("*.npz"))
    shutil.copytree("experiments", copy / "experiments")
    with open(copy / "experiments" / "_escape.py", "a") as file:
        file.write("\n# Edited.\n")
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *_ARGUMENTS, "--out", str(out)],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr, 0.0)
    require("also holds runs of other arguments or code" in ended.out, "not told", ended)
    require(results(out) == command.answer, "not done anew", ended)
    require(all(path.exists() for path in old), "the old runs were removed", ended)
    return EQUAL


def full_disk(command: Command) -> str:
    """One line, the old results as they were; with room again the same command goes on."""
    with Disk(command.work / "disk", megabytes=4) as disk:
        out = disk.path / "out"
        shutil.copytree(command.finished, out)
        before = _contents(out)
        disk.fill()
        one_line(command.start(out).wait(), "--out", "No space")
        disk.free()
        # Room for the first checkpoints, and none for the results: warnings, and the same.
        disk.fill(but=16384)
        ended = command.start(out).wait()
        clear = "could not be written" in ended.message and "The same command" in ended.message
        require(ended.code == FOREIGN and clear, "no clear message", ended)
        require("Traceback" not in ended.err, "a traceback", ended)
        require(_contents(out) == before, "a good file was overwritten", ended)
        disk.free()
        command.finish(out)
    return CLEAR


def read_only(command: Command) -> str:
    """One line before time is spent, of the experiment and of `--replot`."""
    with Disk(command.work / "disk", megabytes=4) as disk:
        out = disk.path / "out"
        shutil.copytree(command.finished, out)
        before = _contents(out)
        disk.read_only()
        for more in ((), ("--replot",)):
            one_line(command.start(out, *more).wait(), "--out", "Read-only")
        require(_contents(out) == before, "a good file was overwritten")
    return CLEAR


def _contents(out: Path) -> dict[str, bytes]:
    folder = out / NAME
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def replot_killed(command: Command) -> str:
    """SIGKILL of `--replot`: all results stay whole, and it can be done again."""
    out = command.out(copy=True)
    seconds = command.start(command.out(copy=True), "--replot").wait().seconds
    child = command.start(out, "--replot")
    time.sleep(seconds * command.rng.uniform(0.0, 1.0))
    child.send(signal.SIGKILL)
    child.wait()
    require(results(out) == command.answer, "a good file was overwritten")
    command.finish(out, "--replot")
    return EQUAL


def replot_interrupted(command: Command) -> str:
    """Ctrl-C of `--replot`: the same, and no traceback."""
    out = command.out(copy=True)
    child = command.start(out, "--replot")
    time.sleep(command.rng.uniform(0.0, 0.5))
    child.send(signal.SIGINT)
    ended = child.wait()
    fine = ended.code in (-signal.SIGINT, INTERRUPTED, _DONE) and not ended.err
    require(fine, "Ctrl-C is an error", ended)
    command.finish(out, "--replot")
    return EQUAL


def replot_full_disk(command: Command) -> str:
    """One line, and the old results as they were."""
    with Disk(command.work / "disk", megabytes=4) as disk:
        out = disk.path / "out"
        shutil.copytree(command.finished, out)
        disk.fill(but=8192)
        ended = command.start(out, "--replot").wait()
        one_line(ended, "--replot", "could not be written")
        require(results(out) == command.answer, "a good file was overwritten", ended)
        disk.free()
        command.finish(out, "--replot")
    return CLEAR


def replot_broken(command: Command) -> Iterator[Outcome]:
    """`data.nc` missing, a folder, empty, truncated, of others: one line; the rest: drawn again."""
    whole = (command.finished / NAME / "data.nc").read_bytes()
    cuts = [whole[: int(command.rng.integers(1, len(whole)))] for _ in range(4)]
    foreign = command.work / "foreign.nc"
    with h5netcdf.File(foreign, "w") as file:
        file.dimensions = {"x": 3}
        file.create_variable("v", ("x",), float)
    named = whole.replace(NAME.encode(), NAME.replace("finite", "finote").encode())
    contents = [None, "folder", b"", b"{}", *cuts, foreign.read_bytes(), named]
    for content in contents:
        out = command.out(copy=True)
        path = out / NAME / "data.nc"
        path.unlink()
        if content == "folder":
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        before = _contents(out)

        def refused(out=out, before=before) -> str:
            one_line(command.start(out, "--replot").wait(), "--replot", "data.nc")
            require(_contents(out) == before, "a file was changed")
            return CLEAR

        yield attempted("broken files", "replot", refused)
    for name in ("config.json", "verdict.json", "figure.png"):
        out = command.out(copy=True)
        (out / NAME / name).write_bytes(b"{")

        def works(out=out) -> str:
            command.finish(out, "--replot")
            return EQUAL

        yield attempted("broken files", "replot", works)


def attempted(what: str, problem: str, trial) -> Outcome:
    """A trial as an outcome."""
    try:
        return Outcome(what, problem, trial())
    except Violation as violation:
        return Outcome(what, problem, VIOLATION, str(violation))
