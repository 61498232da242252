"""Autocovariance against NumPy on the recorded trajectory, and against exact correlations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from tools import normal

import sde_sgd as ss
from sde_sgd.measure import autocovariance, Tick
from sde_sgd.measure.autocovariance import ratio
from sde_sgd.random.draws import Draws

FAILURE_RATE = 2e-5
MEMBERS, STEPS = 7, 41


def process(dtype=jnp.float64):
    landscape = ss.quadratic(jnp.diag(jnp.array([1.0, 2.0], dtype)), jnp.asarray(1.0, dtype))
    return ss.SGD(landscape, 0.2, ss.WithReplacement(2))


def pair(theta):
    return jnp.stack([theta[0] * theta[1], theta[0]])


CASES = {
    "all": ss.Autocovariance(max_lag=6),
    "function": ss.Autocovariance(pair, max_lag=5, burn_in=4),
    "scalar": ss.Autocovariance(lambda x: x[0], lags=(0, 2, 9), burn_in=3),
    "sparse": ss.Autocovariance(max_lag=9, burn_in=2, every=3),
    "gaps": ss.Autocovariance(lags=(0, 4, 10), burn_in=1, every=2),
    "increments": ss.Autocovariance(max_lag=3, increments=True),
}


@functools.cache
def recorded():
    return ss.simulate(
        process(),
        normal(1, MEMBERS, 2),
        num_steps=STEPS,
        ensemble_size=MEMBERS,
        key=jr.key(0),
        measures=CASES,
        record_every=1,
    )


def by_hand(values, gaps):
    """C(l) of (times, members, p) values about the mean over members and times, each member."""
    mean = values.mean(axis=(0, 1))
    rows = []
    for gap in gaps:
        later, earlier = values[gap:] - mean, values[: len(values) - gap] - mean
        rows.append((later * earlier).mean(axis=0))
    spread = ((values.mean(axis=0) - mean) ** 2).sum(axis=0)
    return np.stack(rows, axis=1) + spread / (MEMBERS * (MEMBERS - 1))


@pytest.mark.parametrize("name", CASES)
def test_covariances_of_the_recorded_trajectory(name):
    """C(l), its error, C(l)/C(0) and the sum of correlations equal NumPy's on the trajectory."""
    measure, path, found = CASES[name], recorded().records[1], recorded()[name]
    every = measure.every
    values = path[measure.burn_in + every :: every]
    if measure.increments:
        values = np.diff(path, axis=0)
    if name == "function":
        values = np.stack([values[..., 0] * values[..., 1], values[..., 0]], axis=-1)
    if name == "scalar":
        values = values[..., :1]
    each = by_hand(values, np.array(measure.lags) // every)
    each = each[..., 0] if name == "scalar" else each
    mean = each.mean(axis=0)
    np.testing.assert_array_equal(found.lags, measure.lags)
    np.testing.assert_allclose(found.lag_times, 0.2 * np.array(measure.lags))
    np.testing.assert_allclose(found.covariance.value, mean, rtol=1e-9, atol=1e-12)
    error = each.std(axis=0, ddof=1) / np.sqrt(MEMBERS)
    np.testing.assert_allclose(found.covariance.standard_error, error, rtol=1e-9)
    np.testing.assert_allclose(found.correlation.value, mean / mean[0], rtol=1e-9, atol=1e-12)
    assert found.num_iterations == len(values)
    if name in ("scalar", "gaps"):
        assert found.summed is None
    else:
        summed = every * (1 + 2 * np.cumsum(mean[1:] / mean[0], axis=0))
        np.testing.assert_allclose(found.summed.value[1:], summed, rtol=1e-9)


@pytest.mark.parametrize("numbers", [1, 500])
def test_entries_are_worked_out_some_at_a_time(numbers, monkeypatch):
    """Blocks of one entry, or of a few, give the numbers of all at once, each in its place."""
    landscape = ss.quadratic(jnp.diag(jnp.arange(1.0, 6.0)), 1.0)
    sgd = ss.SGD(landscape, 0.1, ss.WithReplacement(2))
    measure = ss.Autocovariance(lags=(0, 1, 4))

    def run():
        return ss.simulate(
            sgd, normal(2, 20, 5), num_steps=30, ensemble_size=20, key=jr.key(3),
            measures={"m": measure},
        )["m"]  # fmt: skip

    whole = run()
    monkeypatch.setattr(autocovariance, "_NUMBERS", numbers)
    parts = run()
    for name in ("covariance", "correlation"):
        found, wanted = getattr(parts, name), getattr(whole, name)
        assert found.value.shape == (3, 5)
        np.testing.assert_allclose(found.value, wanted.value, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.standard_error, wanted.standard_error, 1e-10, 1e-14)


def test_the_dead_are_in_no_autocovariance():
    """Of 9 members three diverge at once: n = 6, and the numbers of the six alone."""
    landscape = ss.Potential(lambda x: jnp.where(x[0] > 1e3, -1e9, 0.5) * x[0] ** 2, np.eye(1))
    sgd = ss.GaussianSGD(landscape, 0.1, ss.ConstantNoise(np.eye(1)))
    starts = np.concatenate([np.linspace(-1, 1, 6), np.full(3, 1e4)])[:, None]
    options = dict(num_steps=20, key=jr.key(0), measures={"m": ss.Autocovariance(max_lag=3)})
    with pytest.warns(UserWarning, match="3 of 9 members"):
        found = ss.simulate(sgd, starts, ensemble_size=9, on_divergence="mask", **options)["m"]
    alone = ss.simulate(sgd, starts[:6], ensemble_size=6, **options)["m"]
    assert found.covariance.num_samples == 6
    np.testing.assert_allclose(found.covariance.value, alone.covariance.value, rtol=1e-12)


def test_float32_keeps_the_covariance_of_small_motion_about_a_large_mean():
    """The sums run about each member's first value: 1000 ± 10⁻² keeps four digits."""
    rng = np.random.default_rng(0)
    values = (1000 + 0.01 * rng.standard_normal((300, MEMBERS, 2))).astype(np.float32)
    measure = ss.Autocovariance(max_lag=3)
    alive, draws = jnp.ones(MEMBERS, bool), Draws.create(jr.key(0), jnp.arange(MEMBERS))

    def body(carry, inputs):
        k, value = inputs
        tick = Tick(k, jnp.uint32(0), draws)
        return measure.update(carry, value, value, tick, alive), None

    clock = jnp.arange(1, 301, dtype=jnp.uint32)
    carry = jax.lax.scan(body, measure.init(jnp.asarray(values[0])), (clock, values))[0]
    found = measure.result(jax.device_get(carry), np.ones(MEMBERS, bool), process(jnp.float32))
    exact = by_hand(values.astype(float), range(4))
    np.testing.assert_allclose(found.covariance.value, exact.mean(axis=0), atol=1e-4 * 1e-4)


ETA = 0.2
CURVATURES = np.array([1.0, 2.0])


@functools.cache
def gaussian():
    """Gaussian SGD, an exact AR(1) in each direction, from its stationary law."""
    noise = ss.ConstantNoise(np.eye(2))
    made = ss.GaussianSGD(ss.quadratic(np.diag(CURVATURES), 1.0), ETA, noise)
    width = jnp.sqrt(ETA / (CURVATURES * (2 - ETA * CURVATURES)))
    return ss.simulate(
        made,
        lambda key: width * jr.normal(key, (2,)),
        num_steps=400,
        ensemble_size=512,
        key=jr.key(3),
        measures={
            "c": ss.Autocovariance(max_lag=60),
            "short": ss.Autocovariance(max_lag=8),
            "third": ss.Autocovariance(max_lag=60, every=3),
        },
    )


def test_correlations_of_gaussian_sgd():
    """ρ(l) = (1 − ηh)^l and τ = (2 − ηh)/(ηh) iterations; in t, or without the 2, it fails."""
    found, limit = gaussian()["c"], stats.norm.isf(FAILURE_RATE / 2 / 14)
    lags = [1, 2, 4, 8, 16]
    exact = (1 - ETA * CURVATURES) ** np.array(lags)[:, None]
    z = (found.correlation.value[lags] - exact) / found.correlation.standard_error[lags]
    assert np.abs(z).max() < limit
    time = found.integrated_time()
    own = (2 - ETA * CURVATURES) / (ETA * CURVATURES)
    # The window leaves out e^{−10} of it.
    assert (time.standard_error < 0.05 * own).all()
    assert (np.abs(time.value - own) < limit * time.standard_error + 1e-4 * own).all()
    variance = found.covariance[0]
    exact = ETA / (CURVATURES * (2 - ETA * CURVATURES))
    assert (np.abs(variance.value - exact) < limit * variance.standard_error).all()
    for wrong in (own / 2, own * ETA, 2 / (ETA * CURVATURES)):
        assert (np.abs(time.value - wrong) > limit * time.standard_error).any()


def test_a_sum_over_every_third_iteration():
    """τ = k(1 + 2ΣC(jk)/C(0)) = k(1 + ρᵏ)/(1 − ρᵏ) iterations: more than (1 + ρ)/(1 − ρ)."""
    found, limit = gaussian()["third"].integrated_time(), stats.norm.isf(FAILURE_RATE / 2 / 2)
    factor = (1 - ETA * CURVATURES) ** 3
    own = 3 * (1 + factor) / (1 - factor)
    assert (np.abs(found.value - own) < limit * found.standard_error + 1e-4 * own).all()
    all_of_them = (2 - ETA * CURVATURES) / (ETA * CURVATURES)
    assert (np.abs(found.value - all_of_them) > limit * found.standard_error).any()


def test_the_error_of_a_ratio_of_three_members():
    """Σa/Σb of (1, 2), (2, 3), (6, 4): r = 1, residuals −1, −1, 2: √(6·3/2)/9 = 1/3."""
    found = ratio(np.array([1.0, 2.0, 6.0]), np.array([2.0, 3.0, 4.0]))
    assert found.value == pytest.approx(1.0, rel=1e-12)
    assert found.standard_error == pytest.approx(1 / 3, rel=1e-12) and found.num_samples == 3


def test_an_unfinished_sum_is_refused():
    """A window that no lag reaches, gaps, and too few correlation times are told apart."""
    with pytest.raises(ValueError, match=r"not summed up by lag 8: τ is at least .*max_lag="):
        gaussian()["short"].integrated_time()
    with pytest.raises(ValueError, match="leave gaps"):
        recorded()["gaps"].integrated_time()
    with pytest.raises(ValueError, match="fewer than 50 correlation times"):
        ss.simulate(
            process(),
            jnp.zeros(2),
            num_steps=60,
            ensemble_size=2,
            key=jr.key(0),
            measures={"c": ss.Autocovariance(max_lag=30)},
        )["c"].integrated_time(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "either max_lag or lags"),
        (dict(max_lag=3, lags=(0, 1)), "either max_lag or lags"),
        (dict(lags=(1, 2)), "increasing lags from 0"),
        (dict(max_lag=10**9), "is 1000000000 lags, more than 1000000: take every="),
        (dict(max_lag=0), "increasing lags from 0"),
        (dict(lags=(0, 3), every=2), "multiples of every=2"),
    ],
)
def test_lags_that_are_none(options, message):
    """Lags increase from 0 and are multiples of `every`."""
    with pytest.raises(ValueError, match=message):
        ss.Autocovariance(**options)


def test_a_short_run_is_refused():
    """A run shorter than burn_in + 2·max_lag holds fewer pairs than lags."""
    with pytest.raises(ValueError, match="at least burn_in .* = 45 iterations; got 40"):
        ss.simulate(
            process(),
            jnp.zeros(2),
            num_steps=40,
            ensemble_size=2,
            key=jr.key(0),
            measures={"c": ss.Autocovariance(max_lag=20, burn_in=5)},
        )


TILTS = np.array([-1.0, -0.6, 0.1, 0.2, 0.4, 0.9])[:, None]


def test_reshuffled_noise_is_coloured():
    """R(l) of Δx = −ηĝ on a flat loss: s²(1, −(M−l)/(M(M−1)), 0 beyond an epoch); M = 3, B = 2.

    By enumeration of all 6! orders; −s²/(M−1) between two steps of one epoch, and (M−l)/M of the
    pairs at lag l lie in one. A loader that draws fresh subsets has R = 0 at l > 0 and fails.
    """
    eta, batch = 0.5, 2
    orders = np.array(list(itertools.permutations(range(6))))
    means = TILTS[orders, 0].reshape(-1, 3, batch).mean(axis=2)
    within = means.T @ means / len(means)
    s2 = within[0, 0]
    np.testing.assert_allclose(within - np.diag(np.diag(within)), -s2 / 2 * (1 - np.eye(3)))
    exact = eta**2 * np.array([s2, within[0, 1] * 2 / 3, within[0, 2] / 3, 0, 0])
    flat = ss.Potential(lambda x: 0 * jnp.sum(x), tilts=TILTS)
    limit = stats.norm.isf(FAILURE_RATE / 2 / 5)

    def score(sampling):
        run = ss.simulate(
            ss.SGD(flat, eta, sampling),
            jnp.zeros(1),
            num_steps=60,
            ensemble_size=2000,
            key=jr.key(5),
            measures={"r": ss.Autocovariance(max_lag=4, increments=True)},
        )
        found = run["r"].covariance[:, 0]
        # A rounding's worth for lag 0, whose average over an epoch is no random number for N = 6.
        return np.abs(found.value - exact) / np.hypot(found.standard_error, 1e-9)

    assert score(ss.RandomReshuffling(batch)).max() < limit
    assert score(ss.WithoutReplacement(batch))[1] > 2 * limit
