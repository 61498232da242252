"""A stationary run is called so; one that drifts, has not mixed or shows too little is not."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.measure import Tick
from sde_sgd.random.draws import Draws

ETA = 0.1
DECAY = 1 - ETA


def process(curvature=1.0):
    noise = ss.ConstantNoise(np.eye(1))
    return ss.GaussianSGD(ss.quadratic(curvature, 1.0), ETA, noise)


WIDTH = np.sqrt(ETA / (2 - ETA))
TIME = (2 - ETA) / ETA


def spread_out(key):
    return WIDTH * jr.normal(key, (1,))


def simulate(start, num_steps, made=None, members=256, key=0, **measures):
    measures = measures or {"s": ss.Stationarity()}
    return ss.simulate(
        process() if made is None else made,
        start,
        num_steps=num_steps,
        ensemble_size=members,
        key=jr.key(key),
        measures=measures,
    )


@functools.cache
def long():
    measures = {
        "s": ss.Stationarity(),
        "coarse": ss.Stationarity(burn_in=17),
        "strict": ss.Stationarity(resolution=1e-3),
    }
    return ss.simulate(
        process(),
        spread_out,
        num_steps=717,
        ensemble_size=256,
        key=jr.key(0),
        measures=measures,
        record_every=1,
    )


def test_a_stationary_run_is_called_stationary():
    """An AR(1) from its own law over 36 τ: no drift, R̂ = √(1 + 2τ/n), τ = (2 − η)/η, its width."""
    found = long()["s"]
    assert found.stationary and found.needed == 0, found.verdict
    assert found.verdict.startswith("stationary")
    # Half means of n/2 = 352 iterations: their variance falls short of τ/(n/2) by (τ/n)-ish.
    assert found.correlation_time.value[0] == pytest.approx(TIME, rel=0.2)
    n = found.num_iterations
    assert found.r_hat.value[0] == pytest.approx(np.sqrt(1 + 2 * TIME / n), rel=0.01)
    assert found.scale[0] == pytest.approx(WIDTH, rel=0.05)


@pytest.mark.parametrize(("name", "burn_in"), [("s", 0), ("coarse", 17)])
def test_halves_of_the_recorded_trajectory(name, burn_in):
    """drift, spread drift, R̂ and τ equal NumPy's on the blocks that the run kept."""
    values = long().records[1][1 + burn_in :, :, 0]
    length = next(2**j for j in range(20) if 32 * 2**j >= len(values))
    half = len(values) // length // 2 * length
    halves = values[: 2 * half].reshape(2, half, -1)
    found = long()[name]
    mean = halves.mean()
    square = (halves - mean) ** 2
    for estimate, of in ((found.drift, halves), (found.spread_drift, square)):
        moved = of[1].mean(0) - of[0].mean(0)
        error = moved.std(ddof=1) / np.sqrt(256)
        np.testing.assert_allclose(estimate.value[0], moved.mean(), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(estimate.standard_error[0], error, rtol=1e-6)
    assert found.num_iterations == 2 * half
    chains = halves.transpose(0, 2, 1).reshape(512, half)
    within = chains.var(axis=1, ddof=1).mean()
    r_hat = np.sqrt((half - 1) / half + chains.mean(axis=1).var(ddof=1) / within)
    np.testing.assert_allclose(found.r_hat.value[0], r_hat, rtol=1e-6)
    # Unbiased: the common mean moves with the members, Σ(x̄_i − x̄)²/(n(n−1)).
    moves = halves.mean(axis=(0, 1)).var(ddof=1) / 256
    own = halves.mean(axis=1).var(axis=1, ddof=1).mean() * half / (square.mean() + moves)
    np.testing.assert_allclose(found.correlation_time.value[0], own, rtol=1e-6)


def test_blocks_hold_any_number_of_iterations():
    """After n values, 32·2^j blocks hold sums of 2^j values in order, for n around each merger."""
    measure, members = ss.Stationarity(), 2
    draws, alive = Draws.create(jr.key(0), jnp.arange(members)), jnp.ones(members, bool)
    values = np.random.default_rng(0).standard_normal((300, members, 1))

    @jax.jit
    def body(carry, k, value):
        return measure.update(carry, value, value, Tick(k, jnp.uint32(0), draws), alive)

    carry = measure.init(jnp.asarray(values[0]))
    for n in range(1, 301):
        carry = body(carry, jnp.uint32(n), jnp.asarray(values[n - 1]))
        if n in (1, 31, 32, 33, 34, 64, 65, 66, 128, 129, 131, 256, 257, 300):
            length = next(2**j for j in range(20) if 32 * 2**j >= n)
            moved = values[:n] - values[0]
            starts = np.arange(0, n, length)
            sums = np.zeros((members, 32, 2, 1))
            for power in (1, 2):
                sums[:, : len(starts), power - 1] = np.moveaxis(
                    np.add.reduceat(moved**power, starts, axis=0), 0, 1
                )
            np.testing.assert_allclose(carry.sums, sums, atol=1e-10)


def test_a_drifting_run_is_not_stationary():
    """From 10 widths away: told; the advice, followed at most three times, ends in a yes.

    The transient 10 (1 − η)^k falls to a hundredth of a width in 66 iterations.
    """
    steps, burn_in, answers = 100, 0, []
    while len(answers) < 4 and not (answers and answers[-1].stationary):
        measure = ss.Stationarity(burn_in=burn_in)
        answers.append(simulate(jnp.array([10 * WIDTH]), steps, s=measure)["s"])
        steps, burn_in = steps + answers[-1].needed, answers[-1].discard
    first = answers[0]
    assert not first.stationary and first.needed > 0
    assert (
        "the mean of f[0] drifts" in first.verdict and f"burn_in={first.discard}" in first.verdict
    )
    assert 30 < first.discard < 200
    assert answers[-1].stationary, answers[-1].verdict
    assert 20 * TIME / 2 < steps < 100 * TIME


def test_a_growing_variance_is_a_drift():
    """All members at the minimum: the mean stands still, and the variance grows to η/(2 − η)."""
    found = simulate(jnp.zeros(1), 64, members=2048)["s"]
    assert not found.stationary and "variance of f[0] drifts" in found.verdict
    assert abs(found.drift.value[0]) < 4 * found.drift.standard_error[0]


def test_a_random_walk_is_never_stationary():
    """On a flat loss the variance grows kη²: refused however long, with no end in sight."""
    flat = process(0.0)
    for steps in (64, 512):
        found = simulate(jnp.zeros(1), steps, flat)["s"]
        assert not found.stationary and found.needed >= 4 * found.num_iterations
        assert "at least" in found.verdict


def test_members_that_stay_where_they_began_have_not_mixed():
    """Two wells, half of the members in each, no drift: R̂ ≫ 1 refuses what the means do not."""
    deep = ss.GaussianSGD(ss.double_well(1.0), 0.05, ss.ConstantNoise(0.2 * np.eye(1)))

    def either(key):
        return jnp.where(jr.bernoulli(key, shape=(1,)), 1.0, -1.0)

    measures = {"s": ss.Stationarity(burn_in=100)}
    found = simulate(either, 500, deep, members=512, **measures)["s"]
    assert not found.stationary and found.r_hat.value[0] > 2
    assert "members have not mixed in f[0]" in found.verdict and "at least" in found.verdict
    assert found.needed >= found.num_iterations
    # Control: what stays the same in both wells has mixed.
    measures = {"s": ss.Stationarity(lambda x: x[0] ** 2, burn_in=100)}
    assert simulate(either, 500, deep, members=512, **measures)["s"].stationary


def test_too_little_to_see_a_drift():
    """A sample that could not show a drift of `resolution` widths is not called stationary."""
    found = long()["strict"]
    assert not found.stationary and "could not be seen" in found.verdict
    few = simulate(spread_out, 400, members=4)["s"]
    assert not few.stationary and few.verdict.startswith("unknown: 4 members")
    with pytest.raises(ValueError, match="at least 32 iterations after burn_in=10; the run has 40"):
        simulate(spread_out, 40, s=ss.Stationarity(burn_in=10))


def test_constants_are_stationary():
    """A function that does not change has nothing to drift."""
    found = simulate(spread_out, 400, s=ss.Stationarity(lambda x: 0 * x[0] + 3.0))["s"]
    assert found.stationary, found.verdict


@pytest.mark.parametrize("options", [dict(resolution=0.0), dict(failure_rate=1.0)])
def test_options_that_mean_nothing(options):
    """resolution > 0, failure_rate in (0, 1)."""
    with pytest.raises(ValueError, match=next(iter(options))):
        ss.Stationarity(**options)
