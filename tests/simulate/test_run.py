"""What a run gives back: labels, files, forecast, progress, starts, memory."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.memory import compiler_bytes

MEMBERS, STEPS, ETA = 7, 30, 0.1


def process(rate=ETA):
    landscape = ss.LeastSquares(normal(1, 12, 2), normal(2, 12))
    return ss.SGD(landscape, rate, ss.WithReplacement(3))


def left(theta):
    return theta[0] > 0.3


def measures():
    return {
        "moments": ss.Moments(burn_in=5),
        "histogram": ss.Histogram([-1.0, 0.0, 1.0], of=lambda x: x[0]),
        "snapshots": ss.Snapshots([0, 10]),
        "exit": ss.FirstPassage(left),
    }


def simulate(made=None, theta0=None, **changes):
    theta0 = jnp.zeros(2) if theta0 is None else theta0
    options = dict(num_steps=STEPS, ensemble_size=MEMBERS, key=jr.key(0))
    return ss.simulate(made or process(), theta0, **(options | changes))


def test_labels():
    """to_xarray: position(member, parameter), trajectory(k, member, parameter), t = ηk."""
    run = simulate(measures=measures(), record_every=10)
    data = run.to_xarray()
    assert data["position"].dims == ("member", "parameter")
    assert data["trajectory"].dims == ("k", "member", "parameter")
    np.testing.assert_array_equal(data["k"], [0, 10, 20, 30])
    np.testing.assert_allclose(data["t"], ETA * np.array([0, 10, 20, 30]))
    np.testing.assert_array_equal(data["member"], np.arange(MEMBERS))
    np.testing.assert_array_equal(data["trajectory"].sel(k=30), run.positions)
    np.testing.assert_array_equal(data["trajectory"].sel(k=10), run["snapshots"].values[1])
    np.testing.assert_array_equal(data["moments_mean"], run["moments"].mean.value)
    np.testing.assert_array_equal(
        data["moments_covariance_standard_error"], run["moments"].covariance.standard_error
    )
    assert int(data["moments_mean_num_samples"]) == MEMBERS
    np.testing.assert_array_equal(data["exit_first_times"], run["exit"].first_times)
    assert data.attrs["process"] == "SGD" and data.attrs["num_steps"] == STEPS
    assert "trajectory" not in simulate().to_xarray()


def test_time_with_a_schedule():
    """t_k = Σ_{j<k} η_j, on the labels and of the run."""
    run = simulate(process(optax.linear_schedule(0.2, 0.0, 20)), record_every=10)
    rates = 0.2 * (1 - np.minimum(np.arange(STEPS), 20) / 20)
    total = np.concatenate([[0.0], np.cumsum(rates)])
    # optax computes in float32.
    np.testing.assert_allclose(run.to_xarray()["t"], total[[0, 10, 20, 30]], rtol=1e-5)
    assert run.time == pytest.approx(total[-1], rel=1e-5)


def test_a_saved_run_loads(tmp_path):
    """load(save(run)) = to_xarray(run), every array and attribute."""
    run = simulate(measures=measures(), record_every=10)
    run.save(tmp_path / "run.nc")
    loaded, original = ss.load(tmp_path / "run.nc"), run.to_xarray()
    assert set(loaded.variables) == set(original.variables)
    for name in original.variables:
        assert loaded[name].dims == original[name].dims
        np.testing.assert_array_equal(loaded[name], original[name], err_msg=name)
    assert set(original.attrs) <= set(loaded.attrs)
    for name, value in original.attrs.items():
        np.testing.assert_array_equal(loaded.attrs[name], value, err_msg=name)


def test_forecast():
    """A forecast leaves nothing behind, and is of the size of the run that follows."""
    options = dict(num_steps=60_000, ensemble_size=64, key=jr.key(0), record_every=100)
    forecast = ss.forecast(process(), jnp.zeros(2), **options)
    held = 601 * 64 * 2 * 8
    assert held < forecast.bytes - compiler_bytes() < 30 * held
    assert 0 < forecast.seconds_per_iteration < 1e-2
    # Compiled by the forecast: both ratios are of the same machine, minutes apart at most.
    run = ss.simulate(process(), jnp.zeros(2), **options)
    assert forecast.seconds / 10 < run.seconds < 10 * forecast.seconds
    assert run.forecast.bytes == forecast.bytes
    long, longer = (
        ss.forecast(process(), jnp.zeros(2), **(options | {"num_steps": steps})).bytes
        for steps in (1_000_000, 2_000_000)
    )
    assert longer - long == 2 * 10_000 * 64 * 2 * 8


def test_repr_and_missing_measures():
    """repr names process, members, iterations, time and measures; an unknown name says which."""
    run = simulate(measures={"moments": ss.Moments()})
    assert repr(run) == (
        "Run(SGD, 7 members, 30 iterations, t=3, complete, 0 diverged, measures=['moments'])"
    )
    with pytest.raises(KeyError, match=r"No measure 'moment' in this run; it has \['moments'\]"):
        run["moment"]


def test_progress(capsys):
    """progress=True says at once that it compiles, and the time at the end, on stderr.

    False and a pipe with None say nothing.
    """
    simulate(progress=True)
    out, err = capsys.readouterr()
    looking, first, last = err.splitlines()
    assert looking == "SGD: looking at its steps …"
    assert (
        out == "" and first == "SGD: compiling …" and last.startswith("SGD: 30/30 iterations in ")
    )
    simulate(progress=False)
    simulate(progress=None)
    assert capsys.readouterr() == ("", "")


def test_a_sampler_of_starts():
    """θ_0 of a sampler depends on key and member alone, and is what the sampler draws."""
    run = simulate(theta0=lambda key: jr.normal(key, (2,)), record_every=STEPS)
    other = simulate(
        theta0=lambda key: jr.normal(key, (2,)), record_every=STEPS, chunk_size=2, ensemble_size=40
    )
    starts, more = run.records[1][0], other.records[1][0]
    np.testing.assert_array_equal(more[:MEMBERS], starts)
    assert len(np.unique(more)) == 80
    again = simulate(theta0=lambda key: jr.normal(key, (2,)), record_every=STEPS, key=jr.key(1))
    assert not np.isin(again.records[1][0], starts).any()
    # 80 standard normal numbers: |mean| and variance within 4.3 standard errors.
    assert abs(more.mean()) < 4.3 / np.sqrt(80)
    assert abs(more.var() - 1) < 4.3 * np.sqrt(2 / 80)


def test_a_sampler_may_change_between_runs():
    """One sampler that looks at a width: twice the width, twice the starts."""
    width = [1.0]

    def sampler(key):
        return width[0] * jr.normal(key, (2,))

    starts = []
    for width[0] in (1.0, 2.0):
        starts.append(simulate(theta0=sampler, record_every=STEPS).records[1][0])
    np.testing.assert_array_equal(starts[1], 2 * starts[0])


def test_starts_of_every_form():
    """A point, one point a member and a list of numbers are the same start."""
    point = simulate(theta0=jnp.array([1.0, 2.0])).positions
    np.testing.assert_array_equal(simulate(theta0=[1.0, 2.0]).positions, point)
    each = jnp.broadcast_to(jnp.array([1.0, 2.0]), (MEMBERS, 2))
    np.testing.assert_array_equal(simulate(theta0=each).positions, point)


class LargestStep(ss.AbstractMeasure):
    """A user's measure: the longest |θ_{k+1} − θ_k| of each member."""

    watches = "iterations"

    def check(self, process, num_steps):
        if num_steps < 2:
            raise ValueError("LargestStep wants two steps.")

    def init(self, theta):
        return jnp.zeros(theta.shape[0], theta.dtype)

    def update(self, carry, before, after, tick, alive):
        return jnp.maximum(carry, jnp.linalg.norm(after - before, axis=-1))

    def finished(self, carry):
        return None

    def restart(self, carry, restarted):
        return carry

    def result(self, carry, alive, process):
        return ss.Estimate.from_samples(np.asarray(carry)[alive])


def test_a_measure_of_ones_own():
    """max_k |θ_{k+1} − θ_k| by a user's subclass = the same from the recorded trajectory."""
    run = simulate(measures={"step": LargestStep()}, record_every=1)
    steps = np.linalg.norm(np.diff(run.records[1], axis=0), axis=-1).max(axis=0)
    np.testing.assert_allclose(run["step"].value, steps.mean(), rtol=1e-12)
    assert float(run.to_xarray()["step"]) == run["step"].value
    with pytest.raises(ValueError, match="wants two steps"):
        simulate(measures={"step": LargestStep()}, num_steps=1)


def test_a_partial_run_has_partial_results(monkeypatch):
    """Before burn-in: NaN ± ∞ of 0 samples; a snapshot not reached is NaN, never zero."""
    from sde_sgd.simulate import driver

    ticks = iter(np.arange(10**6) * 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(driver.time, "monotonic", lambda: float(next(ticks)))
        with pytest.warns(UserWarning, match="partial"):
            run = simulate(
                num_steps=1000,
                budget=0.05,
                measures={
                    "moments": ss.Moments(burn_in=500),
                    "histogram": ss.Histogram([-1.0, 1.0], of=lambda x: x[0], burn_in=500),
                    "snapshots": ss.Snapshots([0, 1, 500]),
                },
            )
    assert run.num_steps == 1
    for estimate in (run["moments"].mean, run["moments"].covariance, run["histogram"].density):
        assert np.isnan(estimate.value).all() and np.isinf(estimate.standard_error).all()
        assert estimate.num_samples == 0
    values = run["snapshots"].values
    np.testing.assert_array_equal(values[1], run.positions)
    assert np.isnan(values[2]).all()


PEAK = """
import resource, sys
import jax.numpy as jnp, jax.random as jr, numpy as np
import sde_sgd as ss
landscape = ss.quadratic(1.0, 1.0)
process = ss.SGD(landscape, 0.1, ss.WithReplacement(1))
measures = {
    "moments": ss.Moments(),
    "histogram": ss.Histogram(np.linspace(-1, 1, 50)),
    "exit": ss.FirstPassage(lambda x: x[0] > 0.5),
}
run = ss.simulate(process, jnp.zeros(1), num_steps=int(sys.argv[1]), ensemble_size=64,
                  key=jr.key(0), measures=measures, refill=True)
assert run.complete
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_steps():
    """Peak memory of 10⁵ streaming steps = that of 10³, within 10 %."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PEAK, str(steps)], stdout=subprocess.PIPE, text=True
        )
        for steps in (10**3, 10**5)
    ]
    few, many = (int(child.communicate(timeout=300)[0]) for child in children)
    assert [child.returncode for child in children] == [0, 0]
    assert many < 1.1 * few


def test_the_state_does_not_grow_with_the_number_of_steps():
    """Bytes of state and carries after 10⁴ steps = those after 10."""

    def size(run):
        return sum(x.nbytes for x in jax.tree.leaves(run._engine.gather()))

    run = simulate(measures=measures(), num_steps=10)
    before = size(run)
    assert size(run.extend(10_000)) == before > 0


def test_records_hold_their_own_memory_only():
    """Records of short segments keep no buffer of the compiled loop alive."""
    run = simulate(num_steps=40, record_every=4, ensemble_size=100)
    for rows in run._engine._rows:
        base = rows if rows.base is None else rows.base
        assert base.nbytes <= 2 * rows.nbytes


def test_a_forecast_counts_gradients():
    """substeps·N of an SDE and B of SGD, for each of 7 iterations of 3 members.

    Adam's equation takes the variance of the gradients and their mean too: 3·substeps·N.
    """
    landscape = ss.LeastSquares(np.eye(5)[:, :2] + 0.5, np.arange(5.0))
    sampling = ss.WithReplacement(2)
    sgd = ss.SGD(landscape, learning_rate=0.1, sampling=sampling)
    sde = ss.ModifiedEquation(
        landscape, learning_rate=0.1, noise=ss.MinibatchNoise(sampling), substeps=4
    )
    adam = ss.AdaptiveEquation(landscape, ss.Adam(0.1), ss.MinibatchNoise(sampling), substeps=3)
    common = dict(num_steps=7, ensemble_size=3, key=jr.key(0), progress=False, budget=60.0)
    prices = [ss.forecast(process, np.zeros(2), **common) for process in (sgd, sde, adam)]
    assert [p.example_gradients for p in prices] == [7 * 3 * 2, 7 * 3 * 4 * 5, 7 * 3 * 3 * 3 * 5]
    assert [p.gradients_over_sgd for p in prices] == [1, 4 * 5 / 2, 3 * 3 * 5 / 2]
    with pytest.raises(ValueError, match="on_divergence"):
        ss.forecast(sgd, np.zeros(2), **common, on_divergence="hide")


def test_a_long_run_says_so_first(capsys):
    """More than a minute is announced with bytes and the price beside SGD; less is not."""
    from sde_sgd.simulate.progress import Progress

    report = Progress("SDE", 3, 0, 100, True)
    report.announce(ss.Forecast(59.0, 10**9, 0.6, 1.0, 2.0))
    report.announce(ss.Forecast(3600.0, 2 * 10**9, 36.0, 1.0, 312.5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "compiling" in lines[0]
    assert lines[1] == (
        "SDE: about 60 min and 2 GB, 312 times the gradients of SGD with these batches"
    )
