"""`all`: what is done is left, what was killed goes on, and the time that is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import framework
from experiments.framework import every, protocol
from sde_sgd import _experiments

ROOT = Path(framework.__file__).parents[1]
EXPERIMENT = '''"""A walk of {seed} by itself.

Claim: its mean is 0.

Source: none (2102.12470).

Command: python -m tiny {name}
Subject: stationary
"""

import dataclasses
import time

import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import xarray as xr

import sde_sgd as ss

from .framework import get, put
{alone}

@dataclasses.dataclass(frozen=True)
class Config:
    runs: int = 3
    pause: float = 0.2
    expected: float = 0.0


PRESETS = {{
    "smoke": Config(),
    "paper": Config(pause=2.0),
    "wrong": Config(pause=0.0, expected=9.0),
}}


def measure(config, key):
    process = ss.SGD(ss.quadratic(1.0, 1.0), 0.1, ss.WithReplacement(1))
    data = {{}}
    for i in range(config.runs):
        key, own = jr.split(key)
        run = ss.simulate(process, jnp.zeros(1), num_steps=20, ensemble_size=64, key=own)
        put(data, f"x{{i}}", ss.Estimate.from_samples(run.positions[:, 0]))
        time.sleep(config.pause)
    return xr.Dataset(data)


def predict(config):
    return config.expected


def check(config, data, predicted):
    return [
        ss.compare(get(data, f"x{{i}}"), predicted, name=f"mean {{i}}", process="SGD")
        for i in range(config.runs)
    ]


def plot(config, data, predicted):
    figure = plt.figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    return figure
'''


@pytest.fixture
def tiny(tmp_path):
    """A package `tiny` of three experiments with the framework that the others have."""
    package = tmp_path / "tiny"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "_files.py", "_child.py"):
        shutil.copy(ROOT / name, package / name)
    shutil.copytree(ROOT / "framework", package / "framework")
    for i, name in enumerate(("first", "second", "last")):
        alone = "\nALONE = True\n" if name == "last" else ""
        (package / f"{name}.py").write_text(EXPERIMENT.format(seed=i, name=name, alone=alone))
    return tmp_path


def command(folder: Path, *arguments: str) -> subprocess.Popen:
    """`python -m tiny ARGUMENTS` in a folder."""
    paths = os.pathsep.join([str(folder), str(ROOT.parent)])
    return subprocess.Popen(
        [sys.executable, "-m", "tiny", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "MPLBACKEND": "Agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and progress."""
    out, err = process.communicate(timeout=300)
    return process.returncode, " ".join(out.split()), " ".join(err.split())


def verdicts(out: Path) -> dict[str, dict]:
    """Of every experiment, without what differs from call to call."""
    found = {p.parent.name: json.loads(p.read_text()) for p in out.glob("*/verdict.json")}
    return {
        name: {k: v for k, v in told.items() if k not in ("seconds", "resumed")}
        for name, told in found.items()
    }


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_verdicts_of_an_uninterrupted_call(tiny):
    """verdicts(kill -9 at two random times, started again each time) = verdicts(one call)."""
    whole = command(tiny, "all", "--out", "whole", "--jobs", "2")
    started = time.monotonic()
    code, out, err = ended(whole)
    seconds = time.monotonic() - started
    assert code == 0, (out, err)
    assert "3 experiments, 3 as expected" in out and "3 of 3 done" in err
    # Timings run alone, after all others.
    assert err.index("3 of 3 done: last") > err.index("2 of 3 done")

    moments = np.random.default_rng(0).uniform(0.15 * seconds, 0.5 * seconds, 2)
    for moment in moments:
        process = command(tiny, "all", "--out", "killed", "--jobs", "2")
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert ended(command(tiny, "all", "--out", "killed", "--jobs", "2"))[0] == 0
    assert verdicts(tiny / "killed") == verdicts(tiny / "whole")
    assert len(verdicts(tiny / "killed")) == 3

    # Nothing is done twice.
    before = {p: p.stat().st_mtime_ns for p in (tiny / "killed").glob("*/*") if p.is_file()}
    code, out, err = ended(command(tiny, "all", "--out", "killed"))
    assert code == 0 and out.count("as expected, done before") == 3 and not err
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.slow
def test_ctrl_c_saves_what_is_under_way(tiny):
    """Ctrl-C: exit code 130 and one line; the same command goes on with what was saved."""
    # Two seconds between runs: it is at work when the signal comes.
    call = ["all", "--preset", "paper", "--out", "out", "--only", "first"]
    process = command(tiny, *call)
    for _ in range(600):
        if list((tiny / "out" / "first").glob("unfinished/*/0000.npz")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130 and "The same command goes on" in err
    assert list((tiny / "out" / "first").glob("unfinished/*/0000.npz"))
    assert not (tiny / "out" / "first" / "verdict.json").exists()
    code, _, err = ended(command(tiny, *call))
    assert code == 0 and "1 of 1 done: first as expected" in err
    assert json.loads((tiny / "out" / "first" / "verdict.json").read_text())["resumed"]


@pytest.mark.slow
def test_what_is_not_as_expected_or_fails_is_the_exit_code_and_does_not_stop_the_rest(tiny):
    """Exit code 1; the summary names what disagrees and what failed, with its last line."""
    broken = tiny / "tiny" / "second.py"
    broken.write_text(
        broken.read_text().replace("return xr.Dataset(data)", "raise RuntimeError('out of luck')")
    )
    code, out, err = ended(command(tiny, "all", "--preset", "wrong", "--out", "out"))
    assert code == 1 and "3 experiments, 0 as expected; not: first, last, second" in out
    assert "RuntimeError: out of luck" in err and "exit code 1" in err
    assert (tiny / "out" / "second" / "log.txt").read_text().count("out of luck")
    assert not (tiny / "out" / "second" / "verdict.json").exists()
    assert "0 of 3" in out


def test_bad_input_is_one_line(tmp_path):
    """jobs = 0, unknown presets and names, a folder that is a file: before anything is made."""
    (tmp_path / "file").write_text("")
    good = {"preset": "smoke", "seed": 0, "out": tmp_path / "out", "jobs": 1, "only": ("probe",)}
    for change, text in (
        ({"jobs": 0}, "--jobs 0 runs nothing"),
        ({}, "No experiment 'probe'; the nearest are: "),
        ({"only": ("side_by_side",), "preset": "papr"}, "'papr'; the nearest are: paper"),
        ({"only": ("side_by_side",), "out": tmp_path / "file"}, "name another folder"),
    ):
        with pytest.raises(SystemExit, match=text) as error:
            framework.run_all(**(good | change), console=None)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_time_left():
    """By hand: jobs of 60, 30 and 20 s on two processes, one of them alone; paces and unknowns."""

    def job(expected, alone=False):
        return every.Job("x", {}, alone, expected)

    def left(*arguments):
        return every.time_left(*arguments)

    waiting = [job(60.0), job(30.0), job(20.0)]
    assert left([], waiting, [], 2) == "about 60 s left"  # 60 | 30 + 20
    assert left([], waiting, [], 1) == "about 2 min left"  # 110 s
    assert left([], [*waiting, job(20.0, alone=True)], [], 2) == "about 80 s left"
    # Earlier jobs took half as long as was expected, and the unknown one takes the median, 20 s.
    assert left([], [job(60.0), job(None)], [(40.0, 20.0), (20.0, 10.0)], 1) == "about 50 s left"
    running = [
        SimpleNamespace(job=job(60.0), elapsed=20.0),
        SimpleNamespace(job=job(9.0), elapsed=99.0),
    ]
    assert left(running, [job(30.0)], [], 2) == "about 40 s left"
    assert left([], [job(None)], [], 1) == "the time left is not known yet"


def test_every_experiment_has_a_subject(monkeypatch, tmp_path):
    """One of SUBJECTS, and a sentence for one without."""
    listed = [name for found in framework.by_subject().values() for name in found]
    assert sorted(listed) == framework.names()
    assert all(framework.by_subject().values())
    assert not set(protocol.COMMANDS) & set(framework.names())
    (tmp_path / "homeless.py").write_text('"""No place.\n\nClaim: x.\nSubject: elsewhere\n"""\n')
    monkeypatch.setattr(protocol, "_ROOT", tmp_path)
    monkeypatch.setattr(protocol, "_names", lambda: ("homeless",))
    with pytest.raises(SystemExit, match=r"homeless\.py has the subject 'elsewhere'.*stationary"):
        framework.by_subject()


def test_the_readme_groups_them_by_subject():
    """The table of the README has the subjects, in their order, with their experiments."""
    text = (ROOT.parent / "README.md").read_text()
    table = text[text.index("| experiment |") :].split("\n\n")[0]
    groups = re.split(r"^\| \*\*(.+)\*\* \| \|$", table, flags=re.M)[1:]
    titles, rows = groups[::2], groups[1::2]
    found = framework.by_subject()
    assert titles == [framework.SUBJECTS[subject] for subject in found]
    for named, own in zip(rows, found.values(), strict=True):
        assert sorted(re.findall(r"^\| `(\w+)`", named, flags=re.M)) == sorted(own)


def test_a_folder_is_one_process_s_own(tmp_path, monkeypatch):
    """A second process in the folder waits, and is refused in one line; then the lock is free."""
    told = []
    monkeypatch.setattr(framework.files, "_PATIENCE", 0.1)
    with (
        framework.files.owned(tmp_path, told.append),
        pytest.raises(SystemExit, match="another process is at work"),
        framework.files.owned(tmp_path, told.append),
    ):
        pass
    assert len(told) == 1 and "waits" in told[0]
    with framework.files.owned(tmp_path, told.append):
        pass
    assert len(told) == 1


def test_the_console_command(monkeypatch):
    """sde-sgd-experiments = python -m experiments; a package that is missing is named."""
    run = []
    monkeypatch.setattr(_experiments.runpy, "run_module", lambda name, **how: run.append(name))
    _experiments.main()
    assert run == ["experiments"]
    find = _experiments.importlib.util.find_spec
    hidden = lambda name: None if name in ("tyro", "PIL") else find(name)  # noqa: E731
    monkeypatch.setattr(_experiments.importlib.util, "find_spec", hidden)
    with pytest.raises(SystemExit, match=r"need tyro, PIL: pip install 'sde_sgd\[experiments\]'"):
        _experiments.main()
    assert len(run) == 1
    script = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert script == {"sde-sgd-experiments": "sde_sgd._experiments:main"}
