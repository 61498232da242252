"""Four parts of an ensemble, put together, are the whole bit for bit, killed and resumed too."""

import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate.driver import Engine
from sde_sgd.simulate.fingerprint import describe

SIZE, STEPS = 24, 300
QUARTERS = [range(i, i + 6) for i in range(0, SIZE, 6)]
SCATTERED = [[0, 5, 6, 23], range(1, 5), range(22, 6, -3), [8, 9, 11, 12, 14, 15, 17, 18, 20, 21]]


def least_squares():
    inputs, noise = normal(1, 24, 3), normal(2, 24)
    return ss.LeastSquares(inputs, inputs @ np.array([1.0, -2.0, 0.5]) + 0.5 * noise)


def sampled(key):
    return 0.1 * jr.normal(key, (3,))


def around(key):
    return 0.1 * jr.normal(key, (1,))


def square(theta):
    return jnp.sum(theta**2)


def out(theta):
    return jnp.abs(theta[0]) > 1.15


def arguments(name):
    """Process, starts and options of a run that uses every kind of state."""
    measures = {"moments": ss.Moments(burn_in=5, every=2), "square": ss.Moments(of=square)}
    if name == "reshuffled with momentum":
        process = ss.SGD(least_squares(), 0.05, ss.RandomReshuffling(5), momentum=0.8)
        return process, jnp.zeros(3), dict(measures=measures, record_every=50)
    if name == "SDE":
        noise = ss.MinibatchNoise(ss.WithReplacement(4))
        process = ss.ModifiedEquation(least_squares(), 0.1, noise, substeps=3)
        late = {"late": ss.Snapshots([0, 100]), "histogram": ss.Histogram([-1.0, 0, 1], of=square)}
        return process, sampled, dict(measures=measures | late, record_every=50)
    noise = ss.ConstantNoise(np.array([[1.0]]))
    process = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), 0.4, noise, substeps=2)
    exits = {"exit": ss.FirstPassage(out, renewal=True), "moments": ss.Moments()}
    return process, around, dict(measures=exits, refill=True)


CASES = ("reshuffled with momentum", "SDE", "exits with refill")


def simulate(name, members=None, **more):
    process, start, options = arguments(name)
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(3)) | options | more
    return ss.simulate(process, start, members=members, **given)


@functools.cache
def whole(name):
    return simulate(name)


def assert_same_bits(run, other):
    """Equal results, states, records and settings; a checkpoint of one is one of the other."""

    def found(run):
        state = run._engine.gather()
        return run.results, run.positions, run.starts, run.diverged_at, run.records, state

    assert jax.tree.structure(found(run)) == jax.tree.structure(found(other))
    for a, b in zip(jax.tree.leaves(found(run)), jax.tree.leaves(found(other)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert (run.num_steps, run.requested_steps) == (other.num_steps, other.requested_steps)
    assert run.member_steps == other.member_steps and run.complete and run.stopped == ""
    assert describe(run.settings) == describe(other.settings)
    assert _unsigned(run) == _unsigned(other)
    np.testing.assert_array_equal(run.members, np.arange(SIZE))


def _unsigned(run):
    return {k: v for k, v in run._engine.fingerprint.items() if k != "version"}


@pytest.mark.parametrize("cut", [QUARTERS, SCATTERED], ids=["quarters", "scattered"])
@pytest.mark.parametrize("name", CASES)
def test_four_parts_are_the_whole(name, cut, tmp_path):
    """merge(parts) = run, in any order of the parts; and extend(merge(parts)) = extend(run)."""
    parts = [simulate(name, members) for members in cut]
    merged = ss.merge([parts[i] for i in (2, 0, 3, 1)])
    assert_same_bits(merged, whole(name))
    assert merged.seconds == pytest.approx(sum(part.seconds for part in parts))
    if cut is QUARTERS:
        merged.save(tmp_path / "merged.nc")
        whole(name).save(tmp_path / "whole.nc")
        ours, theirs = (ss.load(tmp_path / f"{file}.nc") for file in ("merged", "whole"))
        assert isinstance(ours, xr.Dataset) and ours.attrs.pop("seconds")
        assert theirs.attrs.pop("seconds") and ours.identical(theirs)
        once = simulate(name, num_steps=STEPS + 100)
        assert_same_bits(merged.extend(100), once)
        # The parts are as they were, and can be extended before they are merged.
        assert_same_bits(ss.merge([part.extend(100) for part in parts]), once)


def test_exits_of_merged_parts_are_those_of_all_lives():
    """Rate = Σ exits/Σ time at risk of all members, with the error from their spread."""
    parts = [simulate("exits with refill", members) for members in QUARTERS]
    merged = ss.merge(parts)["exit"]
    exits = np.array([part["exit"].num_exits for part in parts])
    risk = np.array([part["exit"].time_at_risk for part in parts])
    assert merged.num_exits == exits.sum() and merged.time_at_risk == risk.sum()
    np.testing.assert_allclose(merged.rate.value, exits.sum() / risk.sum(), rtol=1e-14)
    assert merged.rate.num_samples == SIZE
    # Control: the mean of the four rates is another number.
    assert abs(np.mean([p["exit"].rate.value for p in parts]) / merged.rate.value - 1) > 1e-6


def test_members_by_their_place_in_the_part_are_seen(monkeypatch):
    """Control: parts whose random numbers are keyed by the row in the part are not the whole."""
    scatter = Engine._scatter

    def by_row(self, theta):
        chunks = scatter(self, theta)
        rows = [jnp.arange(len(c.identity), dtype=jnp.uint32) for c in chunks]
        return [
            type(c)(own, c.start, c.state, c.carries, c.diverged_at)
            for c, own in zip(chunks, rows, strict=True)
        ]

    parts = [simulate("SDE", members) for members in QUARTERS[:2]]
    monkeypatch.setattr(Engine, "_scatter", by_row)
    wrong = simulate("SDE", QUARTERS[1])
    right = whole("SDE").positions
    np.testing.assert_array_equal(parts[1].positions, right[6:12])
    assert np.abs(wrong.positions - right[6:12]).max(axis=1).min() > 1e-3


def test_members_that_rest_are_merged():
    """First exits without refill: who left stays where it was, and a part of those is over."""
    process, start, options = arguments("exits with refill")
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(3))
    given["measures"] = {"exit": options["measures"]["exit"]}
    once = ss.simulate(process, start, **given)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"measures\['exit'\]: the error bars")
        parts = [ss.simulate(process, start, members=members, **given) for members in QUARTERS]
    assert_same_bits(ss.merge(parts), once)


def test_the_dead_of_all_parts(tmp_path):
    """With "mask" a merged run has the dead of the whole, by identity, one part all dead."""
    starts = np.where(np.arange(SIZE) < 6, 1.5, np.linspace(-1.2, 0.9, SIZE))[:, None]
    landscape = ss.Potential(lambda x: x[0] - x[0] ** 3 / 3, np.zeros((1, 1)))
    process = ss.SGD(landscape, 0.1, ss.WithReplacement(1))
    given = dict(num_steps=60, ensemble_size=SIZE, key=jr.key(0), on_divergence="mask")
    given |= dict(measures={"moments": ss.Moments(), "late": ss.Snapshots([60])}, record_every=30)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*members of SGD diverged")
        once = ss.simulate(process, starts, **given)
        parts = [ss.simulate(process, starts, members=members, **given) for members in QUARTERS]
    with pytest.warns(UserWarning, match="6 of 24 members of SGD diverged"):
        merged = ss.merge(parts)
    assert list(merged.diverged) == list(range(6)) and merged["moments"].num_diverged == 6
    assert_same_bits(merged, once)


class Killed(BaseException):
    """What ends a process between two of its saves."""


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_parts_are_the_whole(name, tmp_path, monkeypatch):
    """merge(resume(kill(part))) = run; the files of the other parts do as well as their runs."""
    advance, files = Engine.advance, [tmp_path / f"part{i}.npz" for i in range(4)]
    saved = [ss.Checkpoint(path, every_seconds=0.0) for path in files]

    def ended(self, length, blocks):
        if self.done >= 5:
            raise Killed
        return advance(self, length, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", ended)
        for i, members in enumerate(QUARTERS):
            with pytest.raises(Killed):
                simulate(name, members, checkpoint=saved[i])
    one = simulate(name, QUARTERS[0], checkpoint=saved[0])
    done = rf"parts\[1\] \('.*part1.npz'\) has done \d+ iterations and parts\[0\] {STEPS}: .*resume"
    with pytest.raises(ValueError, match=done):
        ss.merge([one, *files[1:]])
    rest = zip(QUARTERS[1:], saved[1:], strict=True)
    parts = [one, *(simulate(name, members, checkpoint=file) for members, file in rest)]
    assert_same_bits(ss.merge(parts), whole(name))
    assert_same_bits(ss.merge([str(files[3]), one, *files[1:3]]), whole(name))


def run_for_ever(part, path):
    """What a child process does until it is killed."""
    saved = ss.Checkpoint(path, every_seconds=0.0)
    simulate("reshuffled with momentum", QUARTERS[part], num_steps=10**8, checkpoint=saved)


@pytest.mark.slow
def test_four_processes_that_were_killed(tmp_path):
    """Four processes, each ended by SIGKILL after it has saved; resumed and merged: the whole."""
    files = [tmp_path / f"part{i}.npz" for i in range(4)]
    children = []
    try:
        for part, path in enumerate(files):
            # What the tests share lies one folder up.
            call = (
                f"import sys; sys.path.append('..'); "
                f"import test_merge; test_merge.run_for_ever({part}, {str(path)!r})"
            )
            children.append(
                subprocess.Popen(
                    [sys.executable, "-c", call],
                    cwd=Path(__file__).parent.resolve(),
                    env=os.environ | {"PYTHONPATH": str(Path(ss.__file__).parent.parent)},
                )
            )
        deadline, running = time.monotonic() + 240, dict(zip(children, files, strict=True))
        while running:
            for child, path in list(running.items()):
                assert child.poll() is None and time.monotonic() < deadline
                if path.exists() and done(path) > 8:
                    child.kill()
                    assert child.wait() == -signal.SIGKILL
                    del running[child]
            time.sleep(0.01)
    finally:
        for child in children:
            child.kill()
            child.wait()
    total = max(map(done, files)) + 100
    name = "reshuffled with momentum"
    for members, path in zip(QUARTERS, files, strict=True):
        one = simulate(name, members, num_steps=total, checkpoint=path)
    assert_same_bits(ss.merge([*files[:3], one]), simulate(name, num_steps=total))


def done(path):
    """Iterations that a checkpoint is at."""
    with np.load(path) as file:
        return json.loads(bytes(file["header"]).decode())["done"]


@functools.cache
def quarters():
    return [simulate("SDE", members) for members in QUARTERS]


def changed(**more):
    return lambda: [*quarters()[:3], simulate("SDE", QUARTERS[3], **more)]


def other_process():
    process, start, options = arguments("SDE")
    noise = ss.MinibatchNoise(ss.WithReplacement(4))
    process = ss.ModifiedEquation(least_squares(), 0.11, noise, substeps=3)
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(3)) | options
    return [*quarters()[:3], ss.simulate(process, start, members=QUARTERS[3], **given)]


def other_start():
    process, _, options = arguments("SDE")
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(3)) | options
    run = ss.simulate(process, jnp.zeros(3), members=QUARTERS[3], **given)
    return [*quarters()[:3], run]


def extended():
    run = simulate("SDE", QUARTERS[3])
    run.extend(1)
    return [*quarters()[:3], run]


REFUSED = {
    "gap": (lambda: quarters()[1:], r"members 0 … 5 of 24 are in none of the parts"),
    "gaps": (
        lambda: [simulate("SDE", [3]), *quarters()[1:3]],
        r"members 0 … 2, 4 … 5, 18 … 23 of 24 are in none",
    ),
    "overlap": (
        lambda: [*quarters(), simulate("SDE", [5, 6])],
        r"members 5 are both in parts\[0\] and in parts\[4\]",
    ),
    "twice": (
        lambda: [*quarters(), quarters()[2]],
        r"members 12 … 17 are both in parts\[2\] and in parts\[4\]",
    ),
    "another learning rate": (
        other_process,
        r"parts\[3\] is of another configuration than parts\[0\]: .*was 0\.1 and is 0\.11",
    ),
    "another key": (changed(key=jr.key(4)), r"parts\[3\] .*it was started with another key"),
    "another size": (changed(ensemble_size=25), r"ensemble_size was 24 and is 25"),
    "other records": (changed(record_every=60), r"record_every was 50 and is 60"),
    "another theta0": (
        other_start,
        r"parts\[3\] has another theta0 than parts\[0\]: its member 18",
    ),
    "fewer iterations": (
        changed(num_steps=200),
        r"parts\[3\] has done 200 iterations and parts\[0\] 300: extend it",
    ),
    "extended": (extended, r"parts\[3\] ended at iteration 300 and has been extended to 301"),
    "a copy": (
        lambda: [*quarters()[:3], pickle.loads(pickle.dumps(quarters()[3]))],
        r"parts\[3\] is a copy.*give each part a checkpoint",
    ),
    "nothing": (lambda: [], "parts is empty"),
    "files alone": (lambda: ["a.npz"], "merge needs a run among the parts"),
    "a file that is not there": (
        lambda: [*quarters()[:3], "nowhere.npz"],
        r"parts\[3\] \('nowhere.npz'\) is no file",
    ),
    "no runs": (lambda: [1, 2], "parts must be runs, splittings or files of their checkpoints"),
    "two kinds": (lambda: [quarters()[0], 1], r"parts\[1\] is a int and another part is a Run"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_are_not_the_whole(name):
    """Gaps, overlaps and other configurations are refused, with what is wrong by name."""
    make, match = REFUSED[name]
    with pytest.raises(ValueError, match=match):
        ss.merge(make())


def test_a_file_of_another_configuration(tmp_path):
    """A checkpoint of another key, a damaged one, and one of another version text."""
    path = tmp_path / "part.npz"
    simulate("SDE", QUARTERS[3], key=jr.key(4), checkpoint=path)
    with pytest.raises(ValueError, match=r"part.npz'\) is of another configuration.*another key"):
        ss.merge([*quarters()[:3], path])
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="is not a checkpoint of this library, or is damaged"):
        ss.merge([*quarters()[:3], path])
    files = [tmp_path / f"{i}.npz" for i in range(4)]
    for i, members in enumerate(QUARTERS):
        saved = ss.Checkpoint(files[i], version="two" if i == 3 else "one")
        last = simulate("SDE", members, checkpoint=saved)
    with pytest.raises(ValueError, match="version was two and is one"):
        ss.merge([*files[:3], last])


def test_starts_that_the_user_changes_afterwards():
    """The array of starts belongs to the user again once the parts have been run."""
    process, _, options = arguments("SDE")
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(3)) | options
    starts = normal(5, SIZE, 3)
    once = ss.simulate(process, starts.copy(), **given)
    parts = [ss.simulate(process, starts, members=members, **given) for members in QUARTERS]
    starts += 1
    assert_same_bits(ss.merge(parts), once)


def test_chunks_of_other_sizes_are_told():
    """Parts in chunks of 6 and 24 are right to rounding, which is said; of one size to the bit."""
    mixed = [*quarters()[:3], simulate("SDE", QUARTERS[3], chunk_size=6)]
    with pytest.warns(UserWarning, match=r"parts\[3\] moved in chunks of 6 members.*of 24"):
        merged = ss.merge(mixed)
    np.testing.assert_allclose(merged.positions, whole("SDE").positions, rtol=1e-9)
    small = [simulate("SDE", members, chunk_size=6) for members in QUARTERS]
    assert_same_bits(ss.merge(small), simulate("SDE", chunk_size=6))


def test_merged_runs_that_do_not_fit(monkeypatch):
    """Memory for the whole is looked at before anything is put together."""
    from sde_sgd.simulate import validate

    monkeypatch.setattr(validate, "available_memory", lambda: 10**4)
    with pytest.raises(MemoryError, match="the 24 members of 4 parts"):
        ss.merge(quarters())


def test_a_saved_run_is_no_part(tmp_path):
    """It has results and no states; nobody is told to delete it."""
    one, other = (simulate("SDE", members) for members in QUARTERS[:2])
    other.save(tmp_path / "run.nc")
    with pytest.raises(ValueError, match=r"run.nc' is a data set.*Give the file that checkpoint="):
        ss.merge([one, str(tmp_path / "run.nc")])
