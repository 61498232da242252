"""Members that leave the range of their dtype: found, named, left out, never averaged in."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss

ETA, STEPS = 0.1, 60
# V = x − x³/3 has its minimum at −1; beyond its maximum at +1 a member runs away.
SURVIVORS = np.array([-1.2, -1.0, -0.8, -0.5, 0.0, 0.5])
DOOMED = np.array([1.6, 2.0, 3.0, 8.0])
STARTS = np.concatenate([SURVIVORS, DOOMED])[:, None]
BOUND = np.sqrt(np.finfo(float).max)


def cubic(theta):
    (x,) = theta
    return x - x**3 / 3


def process(noise=0.01):
    return ss.SGD(ss.Potential(cubic, np.array([[noise]])), ETA, ss.WithReplacement(1))


def measures():
    return {
        "moments": ss.Moments(),
        "histogram": ss.Histogram(np.linspace(-3, 3, 13), every=2),
        "snapshots": ss.Snapshots([0, 7, STEPS]),
        "exit": ss.FirstPassage(lambda theta: theta[0] < -5),
    }


def simulate(starts=STARTS, noise=0.01, **options):
    return ss.simulate(
        process(noise),
        jnp.asarray(starts),
        num_steps=STEPS,
        ensemble_size=len(starts),
        key=jr.key(0),
        **({"measures": measures()} | options),
    )


def leaves(run):
    values = jax.tree.leaves(run.results)
    assert len(values) > 15
    return [np.asarray(v) for v in values]


def test_the_step_of_divergence():
    """diverged[member] is the first k with |x_k| ≥ √max of x ← x − η(1 − x²), by hand."""
    expected = {}
    for member, x in enumerate(STARTS[:, 0]):
        for k in range(1, STEPS + 1):
            x = x - ETA * (1 - x * x)
            if not abs(x) < BOUND:
                expected[member] = k
                break
    assert sorted(expected) == [6, 7, 8, 9] and len(set(expected.values())) == 4
    run = simulate(noise=0.0, on_divergence="mask")
    assert run.diverged == expected
    np.testing.assert_array_equal(run.alive, np.arange(10) < 6)
    np.testing.assert_array_equal(run.diverged_at[:6], -1)
    assert "4 diverged" in repr(run)


def test_survivors_are_averaged_as_if_alone():
    """Results with the dead masked = results of a run of the survivors, whose keys are theirs."""
    run, alone = simulate(on_divergence="mask"), simulate(SURVIVORS[:, None])
    assert run.complete and run.num_steps == STEPS
    np.testing.assert_allclose(run.positions[:6], alone.positions, rtol=1e-12)
    for ours, theirs in zip(leaves(run), leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert run["moments"].mean.num_samples == 6
    assert run["snapshots"].values.shape == (3, 6, 1)


def test_nothing_that_is_not_finite_leaks():
    """Every value of a masked run is finite, in the results and in the labelled arrays."""
    run = simulate(on_divergence="mask", record_every=10)
    result = {k: v for k, v in run.results.items() if k != "exit"}
    for value in jax.tree.leaves(result):
        assert np.isfinite(np.asarray(value, dtype=float)).all()
    exits = run["exit"]
    assert exits.num_exits == 0 and exits.rate.value == 0 and np.isfinite(exits.rate.standard_error)
    assert np.isfinite(run.positions[run.alive]).all()
    assert not np.isfinite(run.positions[~run.alive]).any()
    data = run.to_xarray()
    living = data.isel(member=data["alive"].values)
    for name in data:
        if name.startswith(("moments", "histogram", "snapshots")):
            assert np.isfinite(living[name].values).all()
    assert np.isnan(data["snapshots_values"].isel(member=~data["alive"].values)).all()


def test_the_dead_would_spoil_the_averages():
    """Control: the same carries without the mask give averages that are not finite."""
    run = simulate(on_divergence="mask")
    carry = run._engine.gather().carries["moments"]
    with np.errstate(all="ignore"):
        spoiled = ss.Moments().result(carry, np.ones(10, bool), run.process)
    assert not np.isfinite(spoiled.mean.value).any()
    assert not np.isfinite(spoiled.covariance.value).any()


def test_the_error_names_and_keeps():
    """DivergenceError counts and names the dead with their steps; .run has the others' results."""
    with pytest.raises(ss.DivergenceError) as caught:
        simulate()
    run = caught.value.run
    assert str(caught.value).startswith(f"{len(run.diverged)} of 10 members of SGD diverged: ")
    assert "member 9 at iteration" in str(caught.value) and "mask" in str(caught.value)
    assert 9 in run.diverged and set(run.diverged) <= {6, 7, 8, 9}
    assert not run.complete and run.num_steps < STEPS
    kept = jax.tree.leaves((run["moments"].mean, run["moments"].covariance))
    assert all(np.isfinite(np.asarray(v)).all() for v in kept)
    assert run["moments"].mean.num_samples == 10 - len(run.diverged)
    with pytest.raises(ss.DivergenceError):
        run.extend(1)
    rest = run.extend(STEPS - run.num_steps, on_divergence="mask")
    whole = simulate(on_divergence="mask")
    np.testing.assert_array_equal(rest.positions[:6], whole.positions[:6])
    assert rest.diverged == whole.diverged


def test_a_masked_run_stays_masked():
    """extend() keeps on_divergence of the run, and equals the long masked run."""
    long = simulate(on_divergence="mask")
    run = ss.simulate(
        process(),
        jnp.asarray(STARTS),
        num_steps=30,
        ensemble_size=10,
        key=jr.key(0),
        measures={"moments": ss.Moments()},
        on_divergence="mask",
    ).extend(30)
    np.testing.assert_array_equal(run["moments"].mean.value, long["moments"].mean.value)
    assert run.diverged == long.diverged


def test_a_resumed_divergence_is_raised_again(tmp_path):
    """A checkpoint of a diverged run never becomes a silent success."""
    for _ in range(2):
        with pytest.raises(ss.DivergenceError):
            simulate(checkpoint=tmp_path / "run.npz")


def test_everyone_dead_is_an_error_even_when_masked():
    """No survivor, no average: an error whose results say NaN ± ∞ of 0 samples."""
    with pytest.raises(ss.DivergenceError, match="4 of 4 members") as caught:
        simulate(DOOMED[:, None], on_divergence="mask")
    mean = caught.value.run["moments"].mean
    assert np.isnan(mean.value).all() and np.isinf(mean.standard_error).all()
    assert mean.num_samples == 0


def test_float32_diverges_at_its_own_bound():
    """The bound √max belongs to the dtype: 1.8e19 in float32."""
    landscape = ss.Potential(cubic, np.zeros((1, 1), np.float32))
    run = ss.simulate(
        ss.SGD(landscape, ETA, ss.WithReplacement(1)),
        jnp.asarray([[-1.0], [8.0]], jnp.float32),
        num_steps=STEPS,
        ensemble_size=2,
        key=jr.key(0),
        on_divergence="mask",
    )
    x, k = np.float32(8.0), 0
    while abs(x) < np.sqrt(np.finfo(np.float32).max):
        x, k = x - np.float32(ETA) * (1 - x * x), k + 1
    assert run.diverged == {1: k}


def test_a_padding_member_is_nobody():
    """Idle members that fill the last chunk start as member 0, and never count."""
    starts = np.array([[8.0], [-1.0], [-1.0]])
    run = simulate(starts, on_divergence="mask", chunk_size=2)
    assert list(run.diverged) == [0] and run.alive.shape == (3,)
