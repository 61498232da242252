"""`python -m tests.chaos [--quick] [--seed 0] [--only PROBLEM ...]`, from the repository.

Kills, interrupts and starves runs at random times. Each time the same call must go on to equal
bits, or one clear message must say why not; no good file may be lost. It prints a table and ends
with 1 where anything else came.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

# Imported here, so that no child has to.
import tyro

from experiments import framework

from . import commands, trials
from .children import share_compilations
from .disks import can_mount
from .problems import PROBLEMS
from .trials import Outcome, VIOLATION

COMMANDS = ("experiment", "replot")
KILLS = {"SGD": 12, "SDE": 12, "splitting": 10, "side_by_side": 8, "experiment": 5, "replot": 3}
INTERRUPTS = {"SGD": 2, "SDE": 2, "splitting": 2, "side_by_side": 2, "experiment": 1, "replot": 1}
BUDGETS = {"SGD": 3, "SDE": 3, "splitting": 2, "side_by_side": 2}


def of_problem(name: str, work: Path, rng: np.random.Generator, quick: bool, disks: bool):
    """All that is done to one problem."""
    problem = trials.Problem(name, work, rng)
    yield from trials.killed(problem, 2 if quick else KILLS[name])
    done = [("Ctrl-C", trials.interrupted, INTERRUPTS[name]), ("SIGTERM", trials.terminated, 2)]
    done += [("budget", trials.budgeted, BUDGETS[name])]
    done += [("edited helper", trials.edited, 1), ("broken checkpoint", trials.broken, 2)]
    if disks:
        done += [("full disk", trials.full_disk, 1), ("read-only folder", trials.read_only, 1)]
    for what, trial, count in done:
        for _ in range(1 if quick else count):
            yield commands.attempted(what, name, lambda trial=trial: trial(problem))


def of_commands(names: list[str], work: Path, rng: np.random.Generator, quick: bool, disks: bool):
    """All that is done to an experiment and to its `--replot`."""
    command = commands.Command(work, rng)
    if "experiment" in names:
        yield from commands.killed(command, 2 if quick else KILLS["experiment"])
    done = [
        ("Ctrl-C", "experiment", commands.interrupted, INTERRUPTS["experiment"]),
        ("edited helper", "experiment", commands.edited, 1),
        ("SIGKILL", "replot", commands.replot_killed, KILLS["replot"]),
        ("Ctrl-C", "replot", commands.replot_interrupted, INTERRUPTS["replot"]),
    ]
    if disks:
        done += [
            ("full disk", "experiment", commands.full_disk, 1),
            ("read-only folder", "experiment", commands.read_only, 1),
            ("full disk", "replot", commands.replot_full_disk, 1),
        ]
    for what, problem, trial, count in done:
        for _ in range(1 if quick else count) if problem in names else ():
            yield commands.attempted(what, problem, lambda trial=trial: trial(command))
    if "replot" in names:
        yield from commands.replot_broken(command)


def outcomes(names: list[str], work: Path, seed: int, quick: bool) -> Iterator[Outcome]:
    """Of everything, problem by problem, each with random times of its own."""
    disks = can_mount(work)
    if not disks:
        print("Full and read-only disks are not tried: this user may not mount a tmpfs.")
    for name in names:
        rng = np.random.default_rng([seed, [*PROBLEMS, *COMMANDS].index(name)])
        if name in PROBLEMS:
            yield from of_problem(name, work, rng, quick, disks)
    if set(names) & set(COMMANDS):
        yield from of_commands(names, work, np.random.default_rng([seed, 99]), quick, disks)


def main() -> int:
    """The table; 1 where a violation is in it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    every = [*PROBLEMS, *COMMANDS]
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--quick", action="store_true", help="each thing once, two kills")
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="PROBLEM")
    chosen = parser.parse_args()
    # What children import, and the digest of the sources that are loaded.
    assert tyro and framework.load(commands.NAME) and framework.files.code()
    started, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        share_compilations(work / "compiled")
        for outcome in outcomes(chosen.only, work, chosen.seed, chosen.quick):
            found.append(outcome)
            if outcome.came == VIOLATION:
                print(f"{outcome.what}, {outcome.problem}: {outcome.detail}", flush=True)
    rows = Counter((o.what, o.problem, o.came) for o in found)
    print(f"{'what':<20}{'to':<14}{'times':>6}  came")
    for (what, problem, came), times in sorted(rows.items()):
        print(f"{what:<20}{problem:<14}{times:>6}  {came}")
    bad = sum(outcome.came == VIOLATION for outcome in found)
    seconds = time.monotonic() - started
    print(f"{len(found)} trials, {bad} violations, seed {chosen.seed}, {seconds:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
