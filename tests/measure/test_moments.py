"""Streaming moments against NumPy on the recorded trajectory, and their statistics."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from tools import normal

import sde_sgd as ss
from sde_sgd.measure import Tick
from sde_sgd.random.draws import Draws

FAILURE_RATE = 2e-5
MEMBERS, STEPS = 9, 23


def test_an_estimate_never_prints_a_small_error_as_zero():
    """Two significant digits of each error, six of each value, however unequal they are."""
    shown = repr(ss.Estimate(np.array([1e-7, 2.0]), np.array([1.23e-9, 0.5]), 9))
    assert shown == "Estimate(value=[1e-07 2], standard_error=[1.2e-09 0.5], num_samples=9)"


def process():
    landscape = ss.LeastSquares(normal(1, 12, 2), normal(2, 12))
    return ss.SGD(landscape, 0.2, ss.WithReplacement(3))


def simulate(**measures):
    run = ss.simulate(
        process(),
        jnp.array([1.0, -1.0]),
        num_steps=STEPS,
        ensemble_size=MEMBERS,
        key=jr.key(0),
        measures=measures,
        record_every=1,
    )
    return run, run.records[1]


def by_hand(values):
    """Mean, covariance and standard errors of (times, members, size) values, as documented."""
    num = values.shape[1]
    member_mean = values.mean(axis=0)

    def covariance(kept):
        own = values[:, kept] - member_mean[kept]
        within = np.einsum("tma,tmb->ab", own, own) / own[..., 0].size
        return within + np.cov(member_mean[kept].T, ddof=1)

    error = np.sqrt(member_mean.var(axis=0, ddof=1) / num)
    whole = covariance(np.arange(num))
    left_out = np.array([covariance(np.delete(np.arange(num), i)) for i in range(num)])
    jackknife = np.sqrt((num - 1) * left_out.var(axis=0))
    return member_mean.mean(axis=0), error, whole, jackknife


def pair(theta):
    return jnp.stack([theta[0] * theta[1], jnp.sin(theta[0]), theta[1] ** 2])


def squared(theta):
    return jnp.sum(theta**2)


def matrix(theta):
    return jnp.outer(theta, theta)


@pytest.mark.parametrize(("burn_in", "every"), [(0, 1), (4, 1), (0, 3), (5, 4), (19, 4), (22, 1)])
def test_moments_of_the_recorded_trajectory(burn_in, every):
    """Counted are k = burn_in + every, burn_in + 2 every, …; values and errors equal NumPy's."""
    run, path = simulate(m=ss.Moments(burn_in=burn_in, every=every))
    counted = path[burn_in + every :: every]
    mean, mean_error, covariance, covariance_error = by_hand(counted)
    found = run["m"]
    assert found.num_iterations == len(counted) == (STEPS - burn_in) // every
    np.testing.assert_allclose(found.mean.value, mean, rtol=1e-11)
    np.testing.assert_allclose(found.mean.standard_error, mean_error, rtol=1e-9)
    np.testing.assert_allclose(found.covariance.value, covariance, rtol=1e-9)
    np.testing.assert_allclose(found.covariance.standard_error, covariance_error, rtol=1e-9)
    np.testing.assert_allclose(found.variance.value, np.diag(covariance), rtol=1e-9)
    assert found.mean.num_samples == MEMBERS


def test_one_time_is_the_sample_covariance():
    """With a single counted iteration the covariance is NumPy's unbiased np.cov."""
    run, path = simulate(m=ss.Moments(burn_in=STEPS - 1))
    np.testing.assert_allclose(run["m"].covariance.value, np.cov(path[-1].T), rtol=1e-9)


def test_the_error_of_a_variance_of_few():
    """x = 0, 0, 3: S = 3; without one of them 4.5, 4.5, 0, so that se = √(2/3 · 13.5) = 3."""
    x = np.array([0.0, 0.0, 3.0])
    found = ss.Estimate.of_variance(np.zeros(3), (x - x.mean()) ** 2)
    assert found.value == pytest.approx(3.0) and found.standard_error == pytest.approx(3.0)
    # Two members at the same distance from their mean: a variance, and no idea of its error.
    two = ss.Estimate.of_variance(np.zeros(2), np.ones(2))
    assert two.value == 2.0 and np.isinf(two.standard_error)


def test_the_error_of_a_variance_by_gauss_hermite_quadrature():
    """Of n = 4 normal members E se² = 2σ⁴/(n − 2), where the variance of S is 2σ⁴/(n − 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    x = np.stack(np.meshgrid(*[nodes] * 4), axis=-1).reshape(-1, 4).T
    weight = np.prod(np.meshgrid(*[weights / weights.sum()] * 4), axis=0).ravel()
    each = [
        ss.Estimate.of_variance(np.zeros(4), (row - row.mean()) ** 2).standard_error ** 2
        for row in x.T
    ]
    assert weight @ np.array(each) == pytest.approx(1.0, rel=1e-12)
    assert weight @ x.var(axis=0, ddof=1) ** 2 - 1 == pytest.approx(2 / 3, rel=1e-12)


def test_covariance_full_diagonal_or_none():
    """ "diagonal" is the diagonal of True, with its errors; False keeps the mean alone."""
    run, _ = simulate(
        full=ss.Moments(),
        diagonal=ss.Moments(covariance="diagonal"),
        none=ss.Moments(covariance=False),
    )
    full, diagonal, none = run["full"], run["diagonal"], run["none"]
    assert diagonal.covariance is None and none.covariance is None and none.variance is None
    np.testing.assert_allclose(diagonal.variance.value, np.diag(full.covariance.value), rtol=1e-11)
    np.testing.assert_allclose(
        diagonal.variance.standard_error, np.diag(full.covariance.standard_error), rtol=1e-9
    )
    for other in (diagonal, none):
        np.testing.assert_array_equal(other.mean.value, full.mean.value)


@pytest.mark.parametrize("of", [squared, pair, matrix])
def test_moments_of_a_function(of):
    """E f and Cov f for a scalar, a vector and a matrix f(θ), against NumPy."""
    run, path = simulate(m=ss.Moments(of=of, burn_in=2))
    values = np.asarray(jax.vmap(jax.vmap(of))(jnp.asarray(path[3:])))
    mean, error, covariance, _ = by_hand(values.reshape(*values.shape[:2], -1))
    found, shape = run["m"], values.shape[2:]
    assert found.mean.value.shape == found.variance.value.shape == shape
    np.testing.assert_allclose(found.mean.value, mean.reshape(shape), rtol=1e-11)
    np.testing.assert_allclose(found.mean.standard_error, error.reshape(shape), rtol=1e-9)
    np.testing.assert_allclose(found.covariance.value, covariance, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.variance.value, np.diag(covariance).reshape(shape), rtol=1e-9)


def stream(measure, values):
    """The carry after `values` (times, members, size) went through update()."""
    members = values.shape[1]
    draws = Draws.create(jr.key(0), jnp.arange(members))
    alive = jnp.ones(members, bool)

    def body(carry, inputs):
        k, value = inputs
        return measure.update(carry, value, value, Tick(k, jnp.uint32(0), draws), alive), None

    clock = jnp.arange(1, len(values) + 1, dtype=jnp.uint32)
    return jax.jit(lambda v: jax.lax.scan(body, measure.init(v[0]), (clock, v))[0])(values)


def repetitions(number, members, times, seed):
    """(times, number·members, 2) values a_i + e_it: members agree with themselves in time."""
    rng = np.random.default_rng(seed)
    root = np.array([[1.0, 0.0], [0.6, 0.5]])
    constant = rng.standard_normal((1, number * members, 2))
    return (constant + rng.standard_normal((times, number * members, 2))) @ root.T, root @ root.T


def estimates(values, members):
    """One MomentsResult for each block of `members` members."""
    carry = jax.device_get(stream(ss.Moments(), jnp.asarray(values)))
    made, alive = process(), np.ones(members, bool)
    blocks = [slice(i, i + members) for i in range(0, values.shape[1], members)]
    carries = [jax.tree.map(lambda x, own=own: x[own], carry) for own in blocks]
    return [ss.Moments().result(each, alive, made) for each in carries]


def z_scores(samples, truth):
    samples = np.asarray(samples).reshape(len(samples), -1)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return (samples.mean(axis=0) - np.ravel(truth)) / error


def test_the_covariance_is_unbiased():
    """E[(1/n) Σ V_i + S] = Cov f for 3 members correlated in time; about the common mean is low."""
    number, members, times = 1500, 3, 4
    values, root = repetitions(number, members, times, 0)
    truth = 2 * root
    found = estimates(values, members)
    limit = stats.norm.isf(FAILURE_RATE / 8)
    assert np.abs(z_scores([f.covariance.value for f in found], truth)).max() < limit
    assert np.abs(z_scores([f.mean.value for f in found], np.zeros(2))).max() < limit
    # Control: without S/n the value is short by S/n = 5/12 of the time-constant part.
    blocks = values.reshape(times, number, members, 2)
    centred = blocks - blocks.mean(axis=(0, 2), keepdims=True)
    plug_in = np.einsum("trma,trmb->rab", centred, centred) / (times * members)
    assert np.abs(z_scores(plug_in, truth)).min() > limit
    # Control: so does the unbiased formula that takes every iteration for a sample.
    naive = plug_in * (times * members) / (times * members - 1)
    assert np.abs(z_scores(naive, truth)).min() > limit


def test_standard_errors_are_calibrated():
    """Spread of repetitions = reported error: (R − 1) s²/E[se²] within its χ² interval."""
    number, members, times = 400, 128, 4
    values, _ = repetitions(number, members, times, 1)
    found = estimates(values, members)
    low = stats.chi2.ppf(FAILURE_RATE / 10, number - 1)
    high = stats.chi2.isf(FAILURE_RATE / 10, number - 1)

    def statistic(estimate, scale=1.0):
        value = np.array([np.ravel(estimate(f).value)[[0, -1]] for f in found])
        error = np.array([np.ravel(estimate(f).standard_error)[[0, -1]] for f in found])
        return (number - 1) * value.var(axis=0, ddof=1) / (scale * error**2).mean(axis=0)

    for estimate in (lambda f: f.mean, lambda f: f.covariance, lambda f: f.variance):
        assert (low < statistic(estimate)).all() and (statistic(estimate) < high).all()
        # Control: the error of n·T independent samples, 1/√T of it, is too small.
        assert (statistic(estimate, scale=1 / times) > high).all()


def test_one_member_has_no_error():
    """One member: a value, and an infinite error."""
    values, _ = repetitions(1, 1, 5, 2)
    (found,) = estimates(values, 1)
    np.testing.assert_allclose(found.mean.value, values[:, 0].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.value, np.cov(values[:, 0].T, ddof=0), rtol=1e-9)
    assert np.isinf(found.mean.standard_error).all()
    assert np.isinf(found.covariance.standard_error).all()


def test_a_long_float32_sum_keeps_its_digits():
    """10⁶ float32 terms 0.1 after one 0 (the shift): mean and variance to 1e-6 by Kahan's sum."""
    steps, eta = 10**6, 1e-3
    downhill = ss.Potential(jnp.sum, np.zeros((1, 1), np.float32))

    def after_the_first(theta):
        return jnp.where(theta[0] > -1.5 * eta, 0.0, 0.1)

    run = ss.simulate(
        ss.SGD(downhill, eta, ss.WithReplacement(1)),
        jnp.zeros(1, jnp.float32),
        num_steps=steps,
        ensemble_size=2,
        key=jr.key(0),
        measures={"m": ss.Moments(of=after_the_first)},
    )
    tenth = float(np.float32(0.1))
    mean = tenth * (steps - 1) / steps
    assert run["m"].mean.value == pytest.approx(mean, rel=1e-6)
    variance = tenth**2 * (steps - 1) / steps - mean**2
    assert run["m"].variance.value == pytest.approx(variance, abs=1e-6 * tenth**2)
    # Control: the plain sum is off by percents.
    plain = jax.jit(
        lambda: jax.lax.fori_loop(1, steps, lambda k, s: s + jnp.float32(0.1), jnp.float32(0))
    )()
    assert abs(float(plain) / steps / mean - 1) > 1e-3


def test_a_small_variance_about_a_large_mean():
    """float32 values 1000 ± 10⁻³-ish keep their variance: sums run about the first value."""
    rng = np.random.default_rng(0)
    values = (1000 + 0.01 * rng.standard_normal((500, 4, 2))).astype(np.float32)
    carry = jax.device_get(stream(ss.Moments(), jnp.asarray(values)))
    found = ss.Moments().result(carry, np.ones(4, bool), process())
    exact = values.astype(float).reshape(-1, 2).var(axis=0)
    _, _, covariance, _ = by_hand(values.astype(float))
    np.testing.assert_allclose(found.variance.value, np.diag(covariance), rtol=1e-4)
    # Control: E f² − (E f)² in float32 has lost every digit.
    plain = (values**2).mean(axis=(0, 1)) - values.mean(axis=(0, 1)) ** 2
    assert (np.abs(plain / exact - 1) > 0.5).all()
