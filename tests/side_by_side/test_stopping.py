"""A comparison that the budget or Ctrl-C ends stops as one, and goes on from its folder."""

import signal
import time
import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate.driver import Engine

INPUTS = normal(0, 16, 2)
LANDSCAPE = ss.LeastSquares(INPUTS, INPUTS[:, 0])
SAMPLING = ss.WithReplacement(4)
SGD = ss.SGD(LANDSCAPE, 0.2, SAMPLING)
SDE = ss.ModifiedEquation(LANDSCAPE, 0.2, ss.MinibatchNoise(SAMPLING), substeps=2)


def compared(**changed):
    options = dict(
        num_steps=6, ensemble_size=8, key=jr.key(0), num_bootstrap=10, snapshots=2,
        distances=("energy",), progress=False,
    )  # fmt: skip
    return ss.side_by_side(SGD, SDE, jnp.ones(2), **(options | changed))


@pytest.fixture
def disturbed(monkeypatch):
    """Calls something once, in the second segment of the first run of a process."""
    original = Engine._segment

    def arrange(process, disturb):
        state = {"left": 1}

        def segment(self, total):
            if isinstance(self.process, process) and self.done == 1 and state["left"]:
                state["left"] = 0
                disturb()
            original(self, total)

        monkeypatch.setattr(Engine, "_segment", segment)

    return arrange


def test_ctrl_c_stops_the_whole_and_the_folder_resumes_it(disturbed, tmp_path):
    """Stopped in the check: no further run, no verdict, one warning; resumed, the same bits."""
    whole = compared()
    disturbed(ss.ModifiedEquation, lambda: signal.raise_signal(signal.SIGINT))
    folder = tmp_path / "runs"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        part = compared(checkpoint=folder)
    told = [str(w.message) for w in caught if "stopped" in str(w.message)]
    assert len(told) == 1 and "side_by_side stopped: interrupted" in told[0]
    assert str(folder) in told[0]
    assert not part.complete and part.stopped == "interrupted"
    assert list(part.runs) == ["SGD", "SGD (second ensemble)", "SDE (coarse)"]
    assert [run.num_steps for run in part.runs.values()] == [6, 6, 2]
    assert [run.stopped for run in part.runs.values()] == ["", "", "interrupted"]
    assert part.comparisons == [] and part.observables == {} and part.verdict == ""
    assert "SDE (coarse) 2 of 6" in part.table and "no verdicts" in part.table
    for use in (part.figure, part.to_xarray):
        with pytest.raises(ValueError, match="not complete .interrupted."):
            use()
    # SIGINT means what it meant before.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    begun = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = compared(checkpoint=folder)
    assert again.complete and again.table == whole.table
    for label, run in whole.runs.items():
        np.testing.assert_array_equal(again.runs[label].positions, run.positions)
    assert again.to_xarray().identical(whole.to_xarray())
    # What was finished is loaded, not run again.
    for name in ("sgd.npz", "sgd-second-ensemble.npz"):
        assert (folder / name).stat().st_mtime_ns == begun[name]
    names = {"sgd.npz", "sgd-second-ensemble.npz", "sde-2.npz"}
    assert {path.name for path in folder.iterdir()} == names | {
        "sde-coarse-2-of-2.npz", "sde-fine-2-of-2.npz",
    }  # fmt: skip


def test_the_budget_is_of_the_whole(disturbed):
    """Seconds that the first run used up end it there, and no other begins."""
    compared()  # compiled
    disturbed(ss.SGD, lambda: time.sleep(4.1))
    with pytest.warns(UserWarning, match="budget of 4 s is used up.*checkpoint= .a folder"):
        part = compared(budget=4)
    assert list(part.runs) == ["SGD"] and part.runs["SGD"].num_steps < 6
    assert part.stopped == "the budget of 4 s is used up"
    with pytest.warns(UserWarning, match="No run was begun"):
        none = compared(budget=1e-9)
    assert none.runs == {} and not none.complete


def test_a_folder_of_another_comparison_is_refused(tmp_path):
    """Another key is another run: the checkpoint's own refusal, with the file's name."""
    compared(checkpoint=tmp_path, step_check=0)
    with pytest.raises(ValueError, match=r"sgd.npz' belongs to another configuration: .* key"):
        compared(checkpoint=tmp_path, step_check=0, key=jr.key(1))
