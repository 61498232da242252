"""All experiments, each a process of its own: what is done already is left, the longest first."""

import dataclasses
import heapq
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, IO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sde_sgd.terminal import Interrupt

from .. import _child, _files as files
from .protocol import as_json, load, names, preset as preset_of
from .results import Damaged, find, is_current, read, Result

_PACKAGE = __name__.rsplit(".", 2)[0]


@dataclasses.dataclass(frozen=True)
class Job:
    """One experiment that is to be run."""

    name: str
    config: dict[str, Any]
    alone: bool
    """nothing else may run meanwhile"""
    expected: float | None
    """seconds that it took before, if that is known"""


@dataclasses.dataclass(frozen=True)
class Running:
    """A job at work."""

    job: Job
    process: subprocess.Popen
    gate: IO[bytes]
    """its standard input: it ends when this is closed"""
    started: float

    @property
    def elapsed(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one experiment ended."""

    name: str
    came: str
    good: bool
    rows: str
    seconds: float | None


def run_all(
    *, preset: str, seed: int, out: Path, jobs: int, only: Iterable[str], console: Console
) -> int:
    """Runs what has no verdict of this version, preset and seed yet.

    The exit code: 0 if every verdict is as expected, 1 if one is not or an experiment failed, 130
    after Ctrl-C. What was under way then, or when this process was killed, saves itself, and goes
    on when the same command is given again.
    """
    if jobs < 1:
        raise SystemExit(f"--jobs {jobs} runs nothing: take 1 or more.")
    chosen = list(dict.fromkeys(only)) or names()
    configs = {name: as_json(preset_of(load(name), preset)) for name in chosen}
    files.make_writable(out)
    known = {r.experiment: r.seconds for r in find(out)[0] if r.preset == preset and not r.resumed}
    outcomes, waiting = [], []
    for name, config in configs.items():
        result = _current(out / name, preset, seed, config)
        if result is not None:
            outcomes.append(_outcome(result, None, "done before"))
            continue
        files.make_writable(out / name)
        alone = getattr(load(name), "ALONE", False)
        waiting.append(Job(name, config, alone, known.get(name)))
    usual = statistics.median(known.values()) if known else 0.0
    waiting.sort(key=lambda job: (job.alone, -(usual if job.expected is None else job.expected)))
    interrupted = _work(waiting, outcomes, len(configs), preset, seed, out, jobs)
    return 130 if interrupted else _summary(outcomes, out, console)


def _work(
    waiting: list[Job],
    outcomes: list[Outcome],
    total: int,
    preset: str,
    seed: int,
    out: Path,
    jobs: int,
) -> bool:
    """Starts the jobs and adds their outcomes; whether Ctrl-C ended it."""
    running: list[Running] = []
    pace: list[tuple[float | None, float]] = []
    terminal = Console(stderr=True)
    common = ["--preset", preset, f"--seed={seed}", "--out", str(out)]
    try:
        with Interrupt(at_once=True), terminal.status("") as status:
            while waiting or running:
                while waiting and len(running) < jobs and not _excluded(waiting[0], running):
                    running.append(_start(waiting.pop(0), common, out))
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    pace.append((one.job.expected, one.elapsed))
                    outcomes.append(_ended(one, preset, seed, out))
                    left = time_left(running, waiting, pace, jobs)
                    came = f"{one.job.name} {outcomes[-1].came}, {one.elapsed:.0f} s"
                    text = f"{len(outcomes)} of {total} done: {came}; {left}"
                    terminal.print(text, markup=False, highlight=False, soft_wrap=True)
                under_way = ", ".join(one.job.name for one in running)
                left = time_left(running, waiting, pace, jobs)
                status.update(f"{len(outcomes)} of {total} done; {left}; at work: {under_way}")
                time.sleep(0.1)
    except KeyboardInterrupt:
        _stop(running, terminal)
        return True
    return False


def _excluded(job: Job, running: list[Running]) -> bool:
    return bool(running) and (job.alone or any(other.job.alone for other in running))


def _start(job: Job, common: list[str], out: Path) -> Running:
    command = [sys.executable, "-m", f"{_PACKAGE}._child", job.name, *common]
    with open(out / job.name / "log.txt", "wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            # Ctrl-C is for this process: a run that got it twice would not save itself.
            start_new_session=True,
        )
    assert process.stdin is not None
    return Running(job, process, process.stdin, started)


def _stop(running: list[Running], terminal: Console) -> None:
    """Tells what is running to save itself, and waits for it."""
    terminal.print("Interrupted: what is under way saves itself.")
    for one in running:
        one.gate.close()
    deadline = time.monotonic() + _child.GRACE + 5
    for one in running:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
    terminal.print("The same command goes on from here.")


def _ended(one: Running, preset: str, seed: int, out: Path) -> Outcome:
    """What a process that has ended has left."""
    one.gate.close()
    name, code = one.job.name, one.process.returncode
    result = _current(out / name, preset, seed, one.job.config)
    if result is not None:
        return _outcome(result, one.elapsed)
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    log = out / name / "log.txt"
    lines = log.read_text("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return Outcome(name, f"failed ({how}; {log}: {last[:200]})", False, "–", one.elapsed)


def _current(folder: Path, preset: str, seed: int, config: dict[str, Any]) -> Result | None:
    """The result of just this run, if it is there."""
    try:
        result = read(folder)
    except Damaged:
        return None
    whole = (folder / "data.nc").is_file() and is_current(result, preset, seed, config)
    return result if whole else None


def _outcome(result: Result, seconds: float | None, when: str = "") -> Outcome:
    fine = sum(row.as_expected for row in result.rows)
    came = "as expected" if result.as_expected else "not as expected"
    told = f"{came}, {when}" if when else came
    return Outcome(
        result.experiment, told, result.as_expected, f"{fine} of {len(result.rows)}", seconds
    )


def _summary(outcomes: list[Outcome], out: Path, console: Console) -> int:
    table = Table("experiment", "came", "rows as expected", "seconds")
    for column in table.columns[2:]:
        column.justify = "right"
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.good, outcome.name)):
        style = "green" if outcome.good else "bold red"
        seconds = "–" if outcome.seconds is None else f"{outcome.seconds:.0f}"
        came = f"[{style}]{escape(outcome.came)}[/{style}]"
        table.add_row(outcome.name, came, outcome.rows, seconds)
    console.print(table)
    bad = sorted(outcome.name for outcome in outcomes if not outcome.good)
    console.print(
        f"{len(outcomes)} experiments, {len(outcomes) - len(bad)} as expected"
        f"{'; not: ' + ', '.join(bad) if bad else ''}. Their page: "
        f"python -m {_PACKAGE} atlas --out {out}"
    )
    return 1 if bad else 0


def time_left(
    running: list[Running], waiting: list[Job], pace: list[tuple[float | None, float]], jobs: int
) -> str:
    """«about 9 min left», by the times of earlier results.

    They are scaled to those of this call, Σ elapsed/Σ expected; a job that was never seen takes
    the median of all.
    """
    seen = [(before, now) for before, now in pace if before]
    scale = sum(now for _, now in seen) / sum(before for before, _ in seen) if seen else 1.0
    times, jobs_left = [now for _, now in pace], [*(one.job for one in running), *waiting]
    times += [scale * job.expected for job in jobs_left if job.expected is not None]
    if not times:
        return "the time left is not known yet"
    usual = statistics.median(times)

    def needs(job: Job) -> float:
        return usual if job.expected is None else scale * job.expected

    free = [max(0.0, needs(one.job) - one.elapsed) for one in running]
    free += [0.0] * (jobs - len(free))
    heapq.heapify(free)
    for job in waiting:
        if not job.alone:
            heapq.heappush(free, heapq.heappop(free) + needs(job))
    seconds = max(free) + sum(needs(job) for job in waiting if job.alone)
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
