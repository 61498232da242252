"""Ctrl-C is never swallowed, SIGTERM saves before it ends, and what cannot be cut is said."""

import os
import signal
import subprocess
import sys
import time
import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.rare_events.wave import Wave
from sde_sgd.simulate.checkpoint import checkpoints_in
from sde_sgd.simulate.driver import Engine
from sde_sgd.simulate.warn import warn
from sde_sgd.terminal import Interrupt

OPTIONS = dict(num_steps=40, ensemble_size=3, key=jr.key(0))


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Also where the tests run in the background of a shell, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def process():
    return ss.SGD(ss.quadratic(1.0, 1.0), 0.1, ss.WithReplacement(1))


def interrupt_last(monkeypatch):
    """Ctrl-C in the stretch that ends the run."""
    advance = Engine.advance

    def pressed(self, length, blocks):
        if self.done + length * blocks >= self.requested:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self, length, blocks)

    monkeypatch.setattr(Engine, "advance", pressed)


def test_ctrl_c_in_the_last_stretch_ends_a_loop_and_loses_nothing(tmp_path, monkeypatch):
    """The run is whole, in the error and in its checkpoint; a loop of such runs stops at once."""
    whole = ss.simulate(process(), jnp.zeros(1), **OPTIONS)
    before, runs, path = signal.getsignal(signal.SIGINT), 0, tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        interrupt_last(patch)
        with pytest.raises(KeyboardInterrupt, match="complete when Ctrl-C came") as caught:
            for _ in range(3):
                runs += 1
                ss.simulate(process(), jnp.zeros(1), **OPTIONS, checkpoint=path)
    assert runs == 1 and signal.getsignal(signal.SIGINT) is before
    assert caught.value.result.complete
    np.testing.assert_array_equal(caught.value.result.positions, whole.positions)
    resumed = ss.simulate(process(), jnp.zeros(1), **OPTIONS, checkpoint=path)
    np.testing.assert_array_equal(resumed.positions, whole.positions)


def test_ctrl_c_in_the_last_wave_of_splitting(monkeypatch):
    """The same of splitting: all repetitions are there, in the error."""
    turn = Wave.turn

    def pressed(self, length):
        done = turn(self, length)
        if self.finished.all():
            os.kill(os.getpid(), signal.SIGINT)
        return done

    monkeypatch.setattr(Wave, "turn", pressed)
    with pytest.raises(KeyboardInterrupt, match="splitting was complete") as caught:
        ss.splitting(
            process(),
            jnp.zeros(1),
            level=lambda x: x[0],
            origin=-0.2,
            target=0.3,
            num_replicas=4,
            num_repetitions=1,
            key=jr.key(0),
        )
    assert caught.value.result.complete


def test_ctrl_c_of_an_inner_run_ends_the_program_around_it(tmp_path, monkeypatch):
    """`at_once`: the run under way saves itself, KeyboardInterrupt, and no other run starts."""
    whole = ss.simulate(process(), jnp.zeros(1), **OPTIONS)
    advance = Engine.advance

    def pressed(self, length, blocks):
        moved = advance(self, length, blocks)
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return moved

    def program():
        return [ss.simulate(process(), jnp.zeros(1), **OPTIONS).positions for _ in range(3)]

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(Engine, "advance", pressed)
        saved = checkpoints_in(tmp_path, 0.0, "1")
        with pytest.raises(KeyboardInterrupt), Interrupt(at_once=True), saved:
            program()
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in tmp_path.iterdir()] == ["0000.npz"]
    with checkpoints_in(tmp_path, 0.0, "1"):
        again = program()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"000{n}.npz" for n in range(3)]
    for positions in again:
        np.testing.assert_array_equal(positions, whole.positions)
    # Where no run is under way there is nothing to wait for.
    with pytest.raises(KeyboardInterrupt), Interrupt(at_once=True):
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_of_a_run_is_told_to_the_comparison_around_it():
    """requested(inner) = requested(outer), as soon as the inner one has ended."""
    with Interrupt() as outer:
        with Interrupt() as inner:
            os.kill(os.getpid(), signal.SIGINT)
        assert inner.requested and outer.requested


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch):
    """Under nohup and in the background of a shell SIGINT is ignored: it interrupts no run."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt_last(monkeypatch)
        assert ss.simulate(process(), jnp.zeros(1), **OPTIONS).complete
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


TERMINATED = """
import sys, jax.numpy as jnp, jax.random as jr, sde_sgd as ss
process = ss.SGD(ss.quadratic(1.0, 1.0), 0.1, ss.WithReplacement(1))
saved = ss.Checkpoint(sys.argv[1], every_seconds=1e9)
ss.simulate(process, jnp.zeros(1), num_steps=10**9, ensemble_size=3, key=jr.key(0),
            checkpoint=saved, progress=True)
"""


def test_sigterm_saves_and_ends(tmp_path):
    """The process dies of SIGTERM, as it would have, and its checkpoint holds what was done."""
    path = tmp_path / "run.npz"
    child = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(path)],
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
    )
    # Said before the first iteration, and just before signals are requests.
    assert b"looking at its steps" in child.stderr.readline()
    assert b"compiling" in child.stderr.readline()
    time.sleep(0.5)
    child.terminate()
    assert child.wait(timeout=60) == -signal.SIGTERM
    with np.load(path) as file:
        header = bytes(file["header"]).decode()
    assert 0 < int(header.split('"done": ')[1].split(",")[0]) < 10**9


def test_an_iteration_that_outlasts_its_budget_says_so(monkeypatch):
    """10⁹ solver steps an iteration with a budget of a second: a warning before the first."""

    def refuse(self, length, blocks):
        raise AssertionError("a step was run")

    monkeypatch.setattr(Engine, "advance", refuse)
    noise = ss.MinibatchNoise(ss.WithReplacement(1))
    slow = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), 0.1, noise, substeps=10**9)
    match = r"substeps=1000000000 solver steps, 200 s at the very least, and cannot be cut"
    with pytest.warns(UserWarning, match=match), pytest.raises(AssertionError, match="a step"):
        ss.simulate(slow, jnp.zeros(1), **OPTIONS, budget=1.0)


class Broken:
    """A stream that breaks at every call."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError("no such device")


class Logger:
    """A stream without isatty and flush, as loggers put in place of stderr."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


@pytest.mark.parametrize("show", [None, True, False])
def test_a_stderr_that_is_none_costs_no_run(show, tmp_path, monkeypatch):
    """Missing, closed, broken or plain streams in place of stderr: the run is what it is."""
    with open(tmp_path / "log", "w") as closed:
        pass
    logger = Logger()
    for stream in (None, closed, Broken(), logger):
        monkeypatch.setattr(sys, "stderr", stream)
        assert ss.simulate(process(), jnp.zeros(1), **OPTIONS, progress=show).complete
    assert ("SGD: 40/40 iterations in" in logger.text) == (show is True)


@pytest.mark.parametrize("closed", [True, False])
def test_a_warning_that_cannot_be_shown_costs_no_run(closed, tmp_path, monkeypatch):
    """A closed stderr gets none, one without Greek letters question marks."""
    path = tmp_path / "log"
    with open(path, "w", encoding="ascii", errors="strict") as stream, warnings.catch_warnings():
        warnings.simplefilter("always")
        if closed:
            stream.close()

        def show(message, category, *where, **more):
            stream.write(f"{message}\n")

        warnings.showwarning = show
        warn("η is too large")
    assert path.read_text() == ("" if closed else "? is too large\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_all_letters(encoding, tmp_path, monkeypatch):
    """What an encoding does not have is a question mark."""
    with open(tmp_path / "log", "w", encoding=encoding, errors="strict") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert ss.simulate(process(), jnp.zeros(1), **OPTIONS, progress=True).complete
    second = (tmp_path / "log").read_bytes().splitlines()[1]
    assert second == {"ascii": b"SGD: compiling ?", "cp1252": b"SGD: compiling \x85"}[encoding]
