"""Sweeps: every cell by its own key, finished ones kept, whoever computes them."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from tools import normal

import sde_sgd as ss

KEY = jr.key(3)
GRID = {"rate": [0.1, 0.2, 0.4], "size": [1, 2], "seed": range(2)}
LANDSCAPE = ss.LeastSquares(normal(0, 8, 2), normal(1, 8))


def drawn(cell, key):
    """A number of the cell's key, and its own values."""
    return {"u": jr.uniform(key), "product": cell["rate"] * cell["size"], "of": cell["seed"]}


def drawn2(cell, key):
    return jr.uniform(key)


def trained(cell, key):
    """Positions of SGD after a few iterations."""
    sgd = ss.SGD(LANDSCAPE, cell["rate"], ss.WithReplacement(cell["size"]))
    run = ss.simulate(
        sgd,
        jnp.zeros(2),
        num_steps=20,
        ensemble_size=8,
        key=key,
        measures={"m": ss.Moments()},
        progress=False,
    )
    return {"mean": run["m"].mean, "end": np.asarray(run.positions)}


def same(one, other):
    xr.testing.assert_identical(one.data.drop_vars("cell_seconds"),
                                other.data.drop_vars("cell_seconds"))  # fmt: skip


def test_values_stand_at_their_cells():
    found = ss.sweep(drawn, GRID, key=KEY)
    expected = np.multiply.outer([0.1, 0.2, 0.4], [1, 2])[:, :, None]
    np.testing.assert_array_equal(found.data["product"], np.broadcast_to(expected, (3, 2, 2)))
    np.testing.assert_array_equal(found.data["of"][0, 0], [0, 1])
    assert found.axes == ("rate", "size", "seed") and found.data["of"].dtype == int
    assert len(np.unique(found.data["u"])) == 12 and not found.failures


def test_a_key_does_not_depend_on_the_rest_of_the_grid():
    """Other values, another order of axes, whole numbers as floats: the same cell, the same key."""
    small = ss.sweep(drawn, {"seed": [1.0], "size": [2], "rate": [0.4]}, key=KEY)
    large = ss.sweep(drawn, GRID, key=KEY)
    at = large.data["u"].sel(rate=0.4, size=2, seed=1)
    assert float(small.data["u"].squeeze()) == float(at)


def test_large_whole_numbers_are_cells_of_their_own():
    """2⁵³ and 2⁵³ + 1 are one float and two seeds."""
    found = ss.sweep(drawn, {"seed": [2**53, 2**53 + 1], "rate": [1], "size": [1]}, key=KEY)
    assert len(np.unique(found.data["u"])) == 2


def test_keys_of_another_kind():
    """Each cell's key is made in the kind of the sweep's, here and in another process."""
    key, grid = jr.key(0, impl="rbg"), {"rate": [0.5], "size": [1], "seed": [7]}
    own = ss.sweeps.grid.key_of(key, cell(rate=0.5, size=1, seed=7))
    assert float(ss.sweep(drawn, grid, key=key).data["u"].squeeze()) == float(jr.uniform(own))


def test_axes_of_two_sweeps_in_one_folder_are_told(tmp_path):
    ss.sweep(drawn2, {"a": [3]}, key=KEY, path=tmp_path)
    ss.sweep(drawn2, {"a": [1], "c": [2]}, key=KEY, path=tmp_path)
    with pytest.raises(ValueError, match="sweeps over other axes: a; a, c"):
        ss.sweeps.load(tmp_path)


def test_estimates_keep_their_errors_and_arrays_their_axes():
    found = ss.sweep(trained, {"rate": [0.1, 0.2], "size": [2]}, key=KEY)
    assert found.data["mean"].dims == ("rate", "size", "mean_dim0")
    assert found.data["end"].shape == (2, 1, 8, 2)
    one = found.estimate("mean", rate=0.2, size=2)
    assert one.num_samples == 8 and (one.standard_error > 0).all()
    alone = trained({"rate": 0.2, "size": 2}, ss.sweeps.grid.key_of(KEY, cell(rate=0.2, size=2)))
    np.testing.assert_array_equal(one.value, alone["mean"].value)


def cell(**values):
    return ss.sweeps.grid.Cell((), values, ss.sweeps.grid.name_of(values))


def test_cells_that_differ_in_numbers_share_one_compilation():
    """η, seeds and keys are traced: the loop of SGD is compiled once for each B."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    counts = []

    def counted(cell, key):
        before = len(compiled)
        trained(cell, key)
        counts.append(len(compiled) - before)
        return 0.0

    ss.sweep(counted, {"size": [3, 4], "rate": [0.1, 0.2], "seed": [0, 1]}, key=KEY)
    jax.monitoring.clear_event_listeners()
    by_size = np.reshape(counts, (2, 4))
    assert (by_size[:, 0] > 0).all() and (by_size[:, 1:] == 0).all()


def test_a_failed_cell_is_told_and_tried_again(tmp_path):
    broken = tmp_path / "broken"
    broken.touch()

    def sometimes(cell, key):
        if cell["seed"] == 1 and os.path.exists(broken):
            raise RuntimeError("no luck")
        return ss.Estimate(cell["seed"] + 1.0, 0.5, 4)

    grid = {"seed": [0, 1, 2]}
    with pytest.warns(UserWarning, match="1 of 3 cells of the sweep failed, .* seed=1 Runtime"):
        found = ss.sweep(sometimes, grid, key=KEY, path=tmp_path / "s")
    assert found.failures["seed=1"].startswith("RuntimeError: no luck (test_sweep.py, line ")
    np.testing.assert_array_equal(found.data["value"], [1, np.nan, 3])
    assert "failed at seed=1" in repr(found)
    broken.unlink()
    again = ss.sweep(sometimes, grid, key=KEY, path=tmp_path / "s")
    np.testing.assert_array_equal(again.data["value"], [1, 2, 3])
    same(again, ss.sweeps.load(tmp_path / "s"))


def test_finished_cells_are_not_computed_again(tmp_path):
    """Also with a larger grid: what is new is computed, and the file is that of one sweep."""
    log = tmp_path / "log"

    def logged(cell, key):
        with open(log, "a") as file:
            file.write("x")
        return jr.uniform(key)

    ss.sweep(logged, {"a": [1, 2], "b": ["x"]}, key=KEY, path=tmp_path / "s")
    grown = ss.sweep(logged, {"a": [1, 2, 3], "b": ["w", "x"]}, key=KEY, path=tmp_path / "s")
    assert log.read_text() == 6 * "x"
    same(grown, ss.sweep(logged, {"a": [1, 2, 3], "b": ["w", "x"]}, key=KEY))
    with xr.open_dataset(tmp_path / "s" / "sweep.nc", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data["value"], grown.data["value"])


def test_another_function_or_key_is_refused(tmp_path):
    ss.sweep(lambda cell, key: 1.0, {"a": [1]}, key=KEY, path=tmp_path)
    for function, key in ((lambda cell, key: 2.0, KEY), (lambda cell, key: 1.0, jr.key(4))):
        told = (
            "another key:" if key is not KEY else "another function .*closure, another function.:"
        )
        with pytest.raises(ValueError, match=told):
            ss.sweep(function, {"a": [1]}, key=key, path=tmp_path)


def test_two_kinds_of_keys_with_the_same_words_are_two_keys(tmp_path):
    kinds = [jr.key(0, impl=name) for name in ("rbg", "unsafe_rbg")]
    np.testing.assert_array_equal(*map(jr.key_data, kinds))
    ss.sweep(drawn2, {"a": [1]}, key=kinds[0], path=tmp_path)
    with pytest.raises(ValueError, match="computed with another key:"):
        ss.sweep(drawn2, {"a": [1]}, key=kinds[1], path=tmp_path)


def test_a_damaged_cell_is_named(tmp_path):
    ss.sweep(drawn, GRID, key=KEY, path=tmp_path)
    file = sorted((tmp_path / "cells").glob("*.nc"))[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{file.name}.*delete it"):
        ss.sweep(drawn, GRID, key=KEY, path=tmp_path)
    file.unlink()
    same(ss.sweep(drawn, GRID, key=KEY, path=tmp_path), ss.sweep(drawn, GRID, key=KEY))


def test_cells_of_other_axes_than_the_first_are_refused(tmp_path):
    def uneven(cell, key):
        return np.zeros(cell["n"])

    with pytest.raises(ValueError, match=r"'value' is .*: 2.* at n=2 and .*: 3.* at n=3"):
        ss.sweep(uneven, {"n": [2, 3]}, key=KEY, path=tmp_path)
    assert len(list((tmp_path / "cells").glob("*.nc"))) == 2


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({}, "grid must name the axes"),
        ({"a": []}, "grid..a.. has no values"),
        ({"a": [1, 1.0]}, "has a value twice"),
        ({"a": [np.nan]}, "must be finite"),
        ({"a": [print]}, "must hold numbers or texts.*Give it a name"),
        ({"a": [1, "x"]}, "mixes texts with numbers"),
        ({"cell_seconds": [1]}, "none of cell_failure"),
        ({"not a name": [1]}, "must be a name such as learning_rate"),
    ],
)
def test_bad_grids(grid, told):
    with pytest.raises(ValueError, match=told):
        ss.sweep(drawn, grid, key=KEY)


def test_bad_executors_and_results():
    with pytest.raises(ValueError, match="executor must have a method submit"):
        ss.sweep(drawn, GRID, key=KEY, executor=3)
    with pytest.raises(ValueError, match="Every cell .*at a=1 .*must return an Estimate"):
        ss.sweep(lambda cell, key: object(), {"a": [1]}, key=KEY)


def pool():
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def test_what_cannot_be_pickled_is_named():
    with pool() as executor, pytest.raises(ValueError, match="top of a file.*Dask"):
        ss.sweep(lambda cell, key: 1.0, {"a": [1]}, key=KEY, executor=executor)


def test_threads_and_processes_give_the_numbers_of_one(tmp_path):
    alone = ss.sweep(drawn, GRID, key=KEY)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        same(alone, ss.sweep(drawn, GRID, key=KEY, executor=executor))
    with pool() as executor:
        same(alone, ss.sweep(drawn, GRID, key=KEY, executor=executor, path=tmp_path))


@pytest.mark.parametrize("kind", ["loky", "submitit", "distributed"])
def test_executors_of_others_give_the_same_numbers(kind, tmp_path):
    """Functions inside functions are sent along by value."""
    module = pytest.importorskip(kind)

    def nested(cell, key):
        import jax.random as jr  # a worker has none of this file's names

        return {"u": jr.uniform(key), "rate": cell["rate"]}

    grid = {"rate": [0.1, 0.2]}
    if kind == "submitit":
        executor = module.LocalExecutor(folder=tmp_path / "log")
        found = ss.sweep(nested, grid, key=KEY, executor=executor, path=tmp_path / "s")
    elif kind == "loky":
        with module.get_reusable_executor(2) as executor:
            found = ss.sweep(nested, grid, key=KEY, executor=executor)
    else:
        options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
        with module.Client(**options) as client:
            found = ss.sweep(nested, grid, key=KEY, executor=client.get_executor())
    same(found, ss.sweep(nested, grid, key=KEY))


SCRIPT = """
    import sys, time
    import jax.random as jr
    import sde_sgd as ss

    def slow(cell, key):
        time.sleep(0.2)
        return jr.uniform(key, (3,))

    if __name__ == "__main__":
        print("begun", flush=True)
        ss.sweep(slow, {"a": range(12)}, key=jr.key(5), path=sys.argv[1])
        print("ended", flush=True)
"""


def test_a_sweep_that_is_killed_goes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    run = [sys.executable, str(script), str(tmp_path / "s")]

    def finished():
        return list((tmp_path / "s" / "cells").glob("*.nc"))

    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout and process.stdout.readline() == b"begun\n"
        done = len(finished())
        while len(finished()) < done + 2:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) != 0
        assert done + 2 <= len(finished()) < 12
        assert ss.sweeps.load(tmp_path / "s").data.sizes["a"] == len(finished())
    subprocess.run(run, check=True, capture_output=True, timeout=120)
    found = ss.sweeps.load(tmp_path / "s").data["value"]
    keys = [ss.sweeps.grid.key_of(jr.key(5), cell(a=a)) for a in range(12)]
    np.testing.assert_array_equal(found, [jr.uniform(k, (3,)) for k in keys])


def test_a_cell_goes_on_from_its_own_checkpoint(tmp_path):
    """The third parameter is a file of the cell; it is gone when the cell is finished."""
    seen = []

    def long(cell, key, checkpoint):
        seen.append(checkpoint)
        with open(checkpoint, "a") as file:
            file.write("x")
        if len(seen) == 1:
            raise RuntimeError("time limit")
        return len(open(checkpoint).read())

    with pytest.raises(ValueError, match="Every cell of the sweep failed.*time limit"):
        ss.sweep(long, {"a": [1]}, key=KEY, path=tmp_path)
    found = ss.sweep(long, {"a": [1]}, key=KEY, path=tmp_path)
    assert seen[0] == seen[1] and not os.path.exists(seen[0])
    assert int(found.data["value"].squeeze()) == 2


def test_the_mean_over_seeds():
    """x̄ of two cells 1 ± .3 and 3 ± .4 is 2 ± .25; of plain numbers the spread's error."""

    def known(cell, key):
        seed = cell["seed"]
        measured = ss.Estimate(1.0 + 2 * seed, 0.3 + 0.1 * seed, 5 + seed)
        return {"x": measured * cell["a"], "plain": cell["a"] + seed}

    whole = ss.sweep(known, {"a": [1, 10], "seed": [0, 1]}, key=KEY)
    assert whole.estimate("x", a=1).num_samples == 5  # the fewest of its cells
    found = whole.mean("seed")
    one = found.estimate("x")
    np.testing.assert_allclose(one.value, [2, 20], rtol=1e-14)
    np.testing.assert_allclose(one.standard_error, [0.25, 2.5], rtol=1e-14)
    assert one.num_samples == 11 and found.axes == ("a",)
    plain = found.estimate("plain", a=10)
    np.testing.assert_allclose([plain.value, plain.standard_error], [10.5, 0.5], rtol=1e-14)
    assert found.figure(x="a", y="x").axes[0].get_xlabel() == "a"
    assert "2 a: 2 of 2 cells" in repr(found)


def test_a_figure_has_a_colour_for_each_hue():
    found = ss.sweep(trained, {"rate": [0.1, 0.2], "size": [1, 2]}, key=KEY)
    figure = found.figure(x="rate", y="mean", hue="size", mean_dim0=0)
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["size = 1", "size = 2"]
    assert axis.get_xlabel() == "rate" and "± 1 s.e." in axis.get_ylabel()
    with pytest.raises(ValueError, match="further axes size, mean_dim0"):
        found.figure(x="rate", y="mean")
    with pytest.raises(ValueError, match="'colour' is no axis"):
        found.figure(x="rate", y="mean", hue="colour")
    with pytest.raises(ValueError, match="gave no 'loss'; it gave mean"):
        found.figure(x="rate", y="loss")
    with pytest.raises(ValueError, match="rate has no 0.3"):
        found.estimate("mean", rate=0.3)
