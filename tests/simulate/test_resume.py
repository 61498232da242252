"""Killed, interrupted, budgeted and extended runs against the run that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.netcdf import _hidden
from sde_sgd.simulate import driver
from sde_sgd.simulate.driver import Engine

CASES = ("reshuffled_momentum", "modified_equation")


def least_squares():
    inputs, noise = normal(1, 24, 3), normal(2, 24)
    return ss.LeastSquares(inputs, inputs @ np.array([1.0, -2.0, 0.5]) + 0.5 * noise)


def loss_like(theta):
    return jnp.sum(theta**2)


def arguments(name):
    """Process and options of a run that uses every kind of state."""
    landscape = least_squares()
    measures = {"moments": ss.Moments(burn_in=5, every=2), "loss": ss.Moments(of=loss_like)}
    options = dict(ensemble_size=24, key=jr.key(3), measures=measures, record_every=500)
    if name == "reshuffled_momentum":
        return ss.SGD(landscape, 0.05, ss.RandomReshuffling(4), momentum=0.8), options
    noise = ss.MinibatchNoise(ss.WithReplacement(4))
    return ss.ModifiedEquation(landscape, 0.1, noise, substeps=3), options


def simulate(name, num_steps, **more):
    process, options = arguments(name)
    return ss.simulate(process, jnp.zeros(3), num_steps=num_steps, **(options | more))


def run_for_ever(name, path):
    """What the child process does until it is killed."""
    simulate(name, 10**8, checkpoint=ss.Checkpoint(path, every_seconds=0.0))


def assert_same_bits(run, other):
    assert run.num_steps == other.num_steps
    ours = (run.positions, run.records, run.alive, run.results)
    theirs = (other.positions, other.records, other.alive, other.results)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def saves(path, number, child):
    """Waits until a file has been replaced `number` times."""
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) < number:
        assert child.poll() is None and time.monotonic() < deadline
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Checkpoints of runs that a SIGKILL ended."""
    children, paths = [], {name: tmp_path_factory.mktemp(name) / "run.npz" for name in CASES}
    for name, path in paths.items():
        # What the tests share lies one folder up.
        call = (
            f"import sys; sys.path.append('..'); "
            f"import test_resume; test_resume.run_for_ever({name!r}, {str(path)!r})"
        )
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", call],
                cwd=Path(__file__).parent.resolve(),
                env=os.environ | {"PYTHONPATH": str(Path(ss.__file__).parent.parent)},
            )
        )
    try:
        for child, path in zip(children, paths.values(), strict=True):
            saves(path, 3, child)
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
    return paths


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_resumes_bit_for_bit(killed, name):
    """resume(kill(run)) = run, in positions, records and measures."""
    with np.load(killed[name]) as file:
        done = int(file["header"].tobytes().decode().split('"done": ')[1].split(",")[0])
    assert done > 8
    total = done + 700
    resumed = simulate(name, total, checkpoint=killed[name])
    assert resumed.complete
    assert_same_bits(resumed, simulate(name, total))
    (killed[name].parent / f"{_hidden(killed[name])}.0.tmp").touch()
    simulate(name, total, checkpoint=killed[name])
    assert list(killed[name].parent.iterdir()) == [killed[name]]


@pytest.mark.parametrize("name", CASES)
def test_an_extended_run_is_one_long_run(name):
    """extend(run(300), 900) = run(1200), bit for bit, whatever the recording interval."""
    first = simulate(name, 300)
    assert_same_bits(first.extend(900), simulate(name, 1200))
    with pytest.raises(ValueError, match="extend the newest result"):
        first.extend(1)


def test_recording_less_often_than_the_first_run_is_long():
    """Records of an extension exist even if the first part had room for none of them."""
    run = simulate("modified_equation", 8, record_every=10).extend(22)
    np.testing.assert_array_equal(run.records[0], [0, 10, 20, 30])
    whole = simulate("modified_equation", 30, record_every=10)
    assert_same_bits(run, whole)


@pytest.mark.parametrize("name", CASES)
def test_control_c_ends_with_a_partial_run(name, monkeypatch):
    """extend(interrupt(run), rest) = run, bit for bit; the interrupt is a warning."""
    whole = simulate(name, 1000)
    calls, advance = [], Engine.advance

    def interrupted(self, length, blocks):
        calls.append(length)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self, length, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", interrupted)
        patch.setattr(driver, "_SEGMENT_SECONDS", 1e-4)
        with pytest.warns(UserWarning, match=r"interrupted.*run\.extend"):
            part = simulate(name, 1000)
    assert 0 < part.num_steps < 1000 and not part.complete
    assert len(calls) == 3
    assert "stopped short of 1000" in repr(part)
    assert_same_bits(part.extend(1000 - part.num_steps), whole)


def test_the_second_control_c_is_raised(monkeypatch):
    """Two interrupts are a KeyboardInterrupt, and the previous handler comes back."""
    before = signal.getsignal(signal.SIGINT)

    def twice(self, length, blocks):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Engine, "advance", twice)
    with pytest.raises(KeyboardInterrupt):
        simulate("modified_equation", 100)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("every", [None, 150, 10**6])
def test_a_budget_stops_and_extends(every, monkeypatch):
    """extend(budgeted(run), rest) = run, bit for bit, also when records are far apart."""
    ticks = iter(np.arange(10**6) * 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(driver.time, "monotonic", lambda: float(next(ticks)))
        with pytest.warns(UserWarning, match="budget of 1 s is used up"):
            part = simulate("reshuffled_momentum", 1000, budget=1.0, record_every=every)
    assert 0 < part.num_steps < 1000
    whole = simulate("reshuffled_momentum", 1000, record_every=every)
    assert_same_bits(part.extend(1000 - part.num_steps), whole)


def test_a_budget_saves_a_checkpoint(tmp_path, monkeypatch):
    """resume(budgeted(run)) = run, bit for bit."""
    path = tmp_path / "run.npz"
    ticks = iter(np.arange(10**6) * 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(driver.time, "monotonic", lambda: float(next(ticks)))
        with pytest.warns(UserWarning, match="Its state is in"):
            part = simulate("modified_equation", 400, budget=0.7, checkpoint=path)
    assert part.num_steps < 400
    whole = simulate("modified_equation", 400)
    assert_same_bits(simulate("modified_equation", 400, checkpoint=path), whole)
    with pytest.raises(ValueError, match="is at iteration 400, beyond num_steps=300"):
        simulate("modified_equation", 300, checkpoint=path)


def scaled(rate):
    return lambda k: rate * 0.99**k


def nested(factor):
    return lambda x: jnp.sum(jax.vmap(lambda y: factor * y)(x))


ETA = 0.1


def global_rate(k):
    return ETA * 0.5**k


def base():
    return dict(
        rate=0.1,
        batch=4,
        momentum=0.5,
        measures={"m": ss.Moments(burn_in=2)},
        key=jr.key(0),
        theta0=jnp.zeros(3),
        members=6,
        record_every=None,
        sampling=ss.WithReplacement,
        landscape=least_squares(),
    )


def short_run(path, num_steps=10, **changes):
    c = base() | changes
    process = ss.SGD(c["landscape"], c["rate"], c["sampling"](c["batch"]), c["momentum"])
    return ss.simulate(
        process,
        c["theta0"],
        num_steps=num_steps,
        ensemble_size=c["members"],
        key=c["key"],
        measures=c["measures"],
        record_every=c["record_every"],
        checkpoint=path,
    )


def other_landscape():
    inputs, targets = least_squares().data
    return ss.LeastSquares(inputs, targets.at[7].add(1e-9))


DIFFERENT = {
    "learning rate": (dict(), dict(rate=0.11), r"learning_rate.value.*0\.1 and is 0\.11"),
    "batch size": (dict(), dict(batch=5), r"sampling.batch_size was 4 and is 5"),
    "momentum": (dict(), dict(momentum=0.6), r"momentum.*0\.5 and is 0\.6"),
    "sampling": (dict(), dict(sampling=ss.WithoutReplacement), r"sampling.type was .*WithRepl"),
    "measure": (dict(), dict(measures={"m": ss.Moments(burn_in=3)}), r"measures.m.burn_in was 2"),
    "measure's name": (dict(), dict(measures={"n": ss.Moments(burn_in=2)}), r"measures.m was"),
    "key": (dict(), dict(key=jr.key(1)), r"started with another key"),
    "theta0": (dict(), dict(theta0=jnp.array([0, 0, 0.1])), r"theta0.sha256"),
    "members": (dict(), dict(members=7), r"ensemble_size was 6 and is 7"),
    "records": (dict(), dict(record_every=5), r"record_every was None and is 5"),
    "data": (dict(), dict(landscape=other_landscape()), r"landscape.data\[1\].sha256"),
    "schedule": (dict(rate=scaled(0.1)), dict(rate=scaled(0.2)), r"closure.rate was"),
    "function": (
        dict(measures={"m": ss.Moments(of=nested(1.0))}),
        dict(measures={"m": ss.Moments(of=nested(2.0))}),
        r"measures.m.of.closure.factor",
    ),
    "code of an inner function": (
        dict(measures={"m": ss.Moments(of=lambda x: jax.vmap(lambda y: 2 * y)(x))}),
        dict(measures={"m": ss.Moments(of=lambda x: jax.vmap(lambda y: 3 * y)(x))}),
        r"measures.m.of.constants\[1\].constants\[1\] was 2 and is 3",
    ),
    "method of another object": (
        dict(measures={"m": ss.Moments(of=least_squares().loss)}),
        dict(measures={"m": ss.Moments(of=other_landscape().loss)}),
        r"measures.m.of.__self__.data\[1\]",
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_checkpoint_of_another_configuration_is_refused(what, tmp_path):
    """A checkpoint resumes its own configuration only, and the error names the difference."""
    old, new, message = DIFFERENT[what]
    path = tmp_path / "run.npz"
    short_run(path, **old)
    assert short_run(path, num_steps=12, **old).num_steps == 12
    content = path.read_bytes()
    with pytest.raises(ValueError, match="belongs to another configuration") as caught:
        short_run(path, **(old | new))
    caught.match(message)
    assert path.read_bytes() == content


def test_a_global_number_is_part_of_the_configuration(tmp_path, monkeypatch):
    """A schedule that reads a changed global number is another schedule."""
    path = tmp_path / "run.npz"
    short_run(path, rate=global_rate)
    monkeypatch.setattr(sys.modules[__name__], "ETA", 0.2)
    with pytest.raises(ValueError, match=r"globals\.ETA was 0\.1 and is 0\.2"):
        short_run(path, rate=global_rate)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "truncated", "flipped", "npz"])
def test_a_corrupt_checkpoint_is_refused(content, tmp_path):
    """A file that is no whole checkpoint is an error that names it, and is left alone."""
    path = tmp_path / "run.npz"
    if content == "npz":
        np.savez(path, leaf0=np.zeros(3))
    elif isinstance(content, str):
        short_run(path)
        whole = bytearray(path.read_bytes())
        if content == "truncated":
            whole = whole[: len(whole) // 2]
        else:
            at = whole.index(bytes(np.zeros(6, "<u4") + np.arange(6, dtype="<u4")))
            whole[at + 5] ^= 0xFF
        path.write_bytes(whole)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"run\.npz.*is not a checkpoint of this library"
    ) as caught:
        short_run(path)
    assert "pickle" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_header_without_a_field_is_refused(tmp_path):
    """One line that names what the header of another version does not hold."""
    path = tmp_path / "run.npz"
    short_run(path)
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(bytes(arrays["header"]).decode())
    del header["look"], header["seconds"]
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"run\.npz.*its header has no seconds, look\. Choose"):
        short_run(path)


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("anything else")])
def test_a_failed_write_leaves_the_old_checkpoint(error, tmp_path, monkeypatch):
    """The file is the old state or the new one, never a part; a full disk costs no run."""
    path = tmp_path / "run.npz"
    short_run(path)
    content = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", broken)
        if isinstance(error, OSError):
            with pytest.warns(UserWarning, match="could not be written"):
                assert short_run(path, num_steps=20).num_steps == 20
        else:
            with pytest.raises(RuntimeError, match="anything else"):
                short_run(path, num_steps=20)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    assert short_run(path, num_steps=20).num_steps == 20


def test_a_checkpoint_needs_a_folder(tmp_path):
    """A path that cannot be written is refused before the run."""
    with pytest.raises(ValueError, match="does not exist"):
        short_run(tmp_path / "nowhere" / "run.npz")
    with pytest.raises(ValueError, match="is a folder"):
        short_run(tmp_path)
