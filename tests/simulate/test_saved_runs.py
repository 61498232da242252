"""What is saved is all that there was: numbers of the run, versions, clocks, names, the dead."""

from importlib import metadata

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import xarray as xr
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate.validate import check_measures

ETA, MEMBERS = 0.1, 4


def landscape():
    return ss.LeastSquares(normal(1, 12, 2), normal(2, 12))


def saved(process, folder, **options):
    """A run that was saved, and what is read again."""
    options = dict(num_steps=20, ensemble_size=MEMBERS, key=jr.key(7)) | options
    start = options.pop("start", jnp.zeros(2))
    run = ss.simulate(process, start, **options)
    run.save(folder / "run.nc")
    return run, ss.load(folder / "run.nc")


def test_the_numbers_of_sgd(tmp_path):
    """η, B, μ, the sampling, N, d, key and versions come back with the data."""
    process = ss.SGD(landscape(), ETA, ss.RandomReshuffling(4), momentum=0.5)
    _, data = saved(process, tmp_path)
    told = {
        "process": "SGD",
        "learning_rate": ETA,
        "sampling": "RandomReshuffling",
        "sampling.batch_size": 4,
        "momentum": 0.5,
        "substeps": 1,
        "landscape": "LeastSquares",
        "landscape.num_examples": 12,
        "landscape.dimension": 2,
        "ensemble_size": MEMBERS,
        "num_steps": 20,
        "version.sde_sgd": ss.__version__,
    }
    assert {name: data.attrs[name] for name in told} == told
    np.testing.assert_array_equal(data.attrs["key"], jr.key_data(jr.key(7)))
    for package in ("jax", "equinox", "diffrax", "numpy", "sde_sgd"):
        assert data.attrs[f"version.{package}"] == metadata.version(package)
    np.testing.assert_array_equal(data["start"], np.zeros((MEMBERS, 2)))


def test_the_numbers_of_an_equation(tmp_path):
    """Solver, substeps, order and noise of an SDE come back with the data."""
    noise = ss.MinibatchNoise(ss.WithReplacement(3))
    _, data = saved(ss.ModifiedEquation(landscape(), ETA, noise, substeps=3), tmp_path)
    told = {
        "process": "ModifiedEquation",
        "solver": "Euler",
        "substeps": 3,
        "noise": "MinibatchNoise",
        "noise.sampling": "WithReplacement",
        "noise.sampling.batch_size": 3,
    }
    assert {name: data.attrs[name] for name in told} == told


def test_a_schedule_comes_back_value_by_value(tmp_path):
    """learning_rate(k) = η_k at every iteration, and t = Σ_{j<k} η_j beside k."""
    rate = optax.linear_schedule(0.2, 0.1, 10)
    process = ss.SGD(landscape(), rate, ss.WithReplacement(4))
    measures = {"late": ss.Snapshots([5, 15])}
    _, data = saved(process, tmp_path, measures=measures, record_every=10)
    rates = 0.2 - 0.01 * np.minimum(np.arange(20), 10)
    # optax computes in float32.
    np.testing.assert_allclose(data["learning_rate"], rates, rtol=1e-6)
    np.testing.assert_array_equal(data["learning_rate_k"], np.arange(20))
    np.testing.assert_allclose(data["t"], [0, rates[:10].sum(), rates.sum()], rtol=1e-6)
    np.testing.assert_allclose(data["late_t"], [rates[:5].sum(), rates[:15].sum()], rtol=1e-6)


def test_clocks_are_coordinates_and_members_one_axis(tmp_path):
    """Snapshots are found by k, and lags by lag; every member axis is `member`."""
    measures = {
        "late": ss.Snapshots([5, 15]),
        "exit": ss.FirstPassage(lambda x: x[0] > 0.1),
        "where": ss.Occupation(lambda x: (x[0] > 0).astype(int), 2),
        "time": ss.Autocovariance(lambda x: x[0], max_lag=3),
        "entropy": ss.measure.EntropyProduction(lambda x, y: jnp.sum(x - y)),
    }
    run, data = saved(ss.SGD(landscape(), ETA, ss.WithReplacement(4)), tmp_path, measures=measures)
    np.testing.assert_array_equal(data["late_values"].sel(late_k=15), run["late"].values[1])
    np.testing.assert_array_equal(
        data["time_covariance"].sel(time_lag=2), run["time"].covariance.value[2]
    )
    assert data["late_values"].dims[:2] == ("late_k", "member")
    assert data["exit_first_times"].dims == data["where_final"].dims == ("member",)
    assert data.attrs["entropy_reason"] == ""
    assert not [name for name in data.sizes if "member" in name and name != "member"]


class Odd(ss.Moments):
    """A user's measure whose result is a dictionary, with what no array holds."""

    def result(self, carry, alive, process):
        return {"mean": 1.5, "parts": [np.ones(2), np.ones(3)], "word": "good", "z": 1j, "f": abs}


def test_names_and_values_of_every_kind(tmp_path):
    """Any text is a measure's name; what no array can hold is named in a warning, not dropped."""
    measures = {"loss/train": ss.Moments(), "2nd, θ": ss.Moments(), "": Odd(), "position": Odd()}
    process = ss.SGD(landscape(), ETA, ss.WithReplacement(4))
    with pytest.warns(UserWarning, match=r"No array can hold .f, position.f: left out"):
        run, data = saved(process, tmp_path, measures=measures)
    mean = run["loss/train"].mean.value
    np.testing.assert_array_equal(data["loss_train_mean"], mean)
    np.testing.assert_array_equal(data["_2nd__θ_mean"], mean)
    assert data["loss_train_mean"].attrs["measure"] == "loss/train"
    assert data["position"].dims == ("member", "parameter")
    assert data["position_mean"] == 1.5 and data["position_parts_1"].shape == (3,)
    assert data.attrs["position_word"] == "good"
    assert (data["position_z_real"], data["position_z_imaginary"]) == (0, 1)
    with pytest.raises(ValueError, match="would both be 'a_b' in a file"):
        saved(process, tmp_path, measures={"a b": ss.Moments(), "a/b": ss.Moments()})
    with pytest.raises(ValueError, match="names of measures must be text; got 1"):
        check_measures({1: ss.Moments()}, process, 20)


def runaway(theta):
    (x,) = theta
    return x - x**3 / 3


def masked(potential=runaway, **options):
    """Ten members of which those that start beyond 1 run away, by ẋ = x² − 1."""
    starts = np.array([-1.2, -1.0, 0.0, 1.5, 2.0, 3.0])[:, None]
    process = ss.SGD(ss.Potential(potential, np.zeros((1, 1))), ETA, ss.WithReplacement(1))
    options = dict(num_steps=60, ensemble_size=6, key=jr.key(0)) | options
    return ss.simulate(process, jnp.asarray(starts), on_divergence="mask", **options)


def test_the_dead_are_counted_and_named():
    """3 of 6 diverge: a warning says so, and every result holds the number."""
    measures = {
        "moments": ss.Moments(),
        "late": ss.Snapshots([0, 60]),
        "joint": ss.Histogram([[-3.0, 0, 3], [-3.0, 0, 3]], of=lambda x: jnp.tile(x, 2)),
    }
    with pytest.warns(UserWarning, match=r"3 of 6 members of SGD diverged\. Every mean.*survivors"):
        run = masked(measures=measures)
    assert [run[name].num_diverged for name in measures] == [3, 3, 3]
    assert run["joint"].x.num_diverged == 3
    np.testing.assert_array_equal(run["late"].members, [0, 1, 2])
    data = run.to_xarray()
    assert data.attrs["num_diverged"] == 3 and int(data["moments_num_diverged"]) == 3
    np.testing.assert_array_equal(
        data["late_values"][0, :, 0], [-1.2, -1, 0, np.nan, np.nan, np.nan]
    )


def test_a_death_is_no_exit():
    """NaN is nowhere: whom a gradient that is NaN beyond 4 takes has not left {|x| < 100}."""

    def undefined_beyond(theta):
        return runaway(theta) + 0 * jnp.sqrt(4 - theta[0])

    measures = {"exit": ss.FirstPassage(lambda x: ~(jnp.abs(x[0]) < 100))}
    with pytest.warns(UserWarning, match="3 of 6 members"):
        run = masked(undefined_beyond, measures=measures)
    assert run["exit"].num_exits == 0 and len(run["exit"].first_times) == 3
    left = masked(measures={"exit": ss.FirstPassage(lambda x: x[0] > 5)})
    assert left["exit"].num_exits == 3


def test_one_lost_result_is_not_all():
    """A measure that fails at the end has a reason for a result; the others have theirs."""

    class Broken(ss.Moments):
        def result(self, carry, alive, process):
            raise ZeroDivisionError("nobody to divide by")

    process = ss.SGD(landscape(), ETA, ss.WithReplacement(4))
    measures = {"good": ss.Moments(), "bad": Broken()}
    options = dict(num_steps=5, ensemble_size=3, key=jr.key(0), measures=measures)
    with pytest.warns(UserWarning, match=r"measures\['bad'\] has no result: nobody to divide by"):
        run = ss.simulate(process, jnp.zeros(2), **options)
    with pytest.raises(ZeroDivisionError, match="nobody to divide by"):
        run["bad"]
    assert np.isfinite(run["good"].mean.value).all()
    data = run.to_xarray()
    assert data.attrs["bad_error"] == "nobody to divide by" and "good_mean" in data


def test_a_function_that_becomes_nan_is_not_stationary():
    """Stationarity of f = √(1/2 − t) says in how many members f was NaN."""
    process = ss.GradientFlow(ss.Potential(lambda x: -x[0], np.zeros((1, 1))), ETA)
    measures = {"still": ss.Stationarity(lambda x: jnp.sqrt(5.05 - x[0]))}
    options = dict(num_steps=64, ensemble_size=8, key=jr.key(0), measures=measures)
    found = ss.simulate(process, jnp.zeros(1), **options)["still"]
    assert not found.stationary and found.needed == 0
    assert "f was NaN or infinite in 8 of them" in found.verdict


def test_records_that_cannot_be_joined(monkeypatch):
    """Records that do not fit twice cost the records, and not the results."""
    from sde_sgd.simulate.driver import Engine

    def full(self):
        raise MemoryError("Unable to allocate")

    process = ss.SGD(landscape(), ETA, ss.WithReplacement(4))
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "records", full)
        with pytest.warns(UserWarning, match="records could not be joined"):
            run = ss.simulate(
                process,
                jnp.zeros(2),
                num_steps=4,
                ensemble_size=2,
                key=jr.key(0),
                record_every=1,
                measures={"m": ss.Moments()},
            )
    assert np.isfinite(run["m"].mean.value).all() and "position" in run.to_xarray()
    with pytest.raises(MemoryError, match="Unable to allocate"):
        _ = run.records
    assert isinstance(run.to_xarray(), xr.Dataset)
