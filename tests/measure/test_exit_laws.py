"""What exit counts and times say: intervals, the exponential law, the path between the steps."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from tools import normal

import sde_sgd as ss
from sde_sgd.measure import FirstPassageResult

FAILURE_RATE = 2e-5


def result(lives, horizon, step=1e-9):
    """What `FirstPassage` would report of lives (members,) watched until a horizon (members,)."""
    left = lives <= horizon
    risk = np.minimum(lives, horizon)
    nothing = ss.Estimate(np.asarray(np.nan), np.asarray(np.inf), 0)
    return FirstPassageResult(
        *[nothing] * 4,
        int(left.sum()),
        np.where(left, lives, np.nan),
        float(risk.sum()),
        risk,
        step,
    )


@pytest.mark.parametrize("exits", [1, 7, 400])
def test_the_interval_of_a_count(exits):
    """P(N ≥ n | λ_low R) = P(N ≤ n | λ_high R) = 2.5 % for a Poisson count N."""
    found = result(np.full(exits, 2.5), np.full(exits, 3.0))
    low, high = found.rate_interval()
    np.testing.assert_allclose(stats.poisson.sf(exits - 1, low * 2.5 * exits), 0.025, rtol=1e-9)
    np.testing.assert_allclose(stats.poisson.cdf(exits, high * 2.5 * exits), 0.025, rtol=1e-9)
    limit = found.rate_limit(0.99)
    np.testing.assert_allclose(stats.poisson.cdf(exits, limit * 2.5 * exits), 0.01, rtol=1e-9)


def test_the_limit_of_a_set_that_is_never_left():
    """No exit in time R: rate < −ln(.05)/R at 95 %."""
    found = result(np.full(30, np.inf), np.full(30, 40.0))
    np.testing.assert_allclose(found.rate_limit(), -np.log(0.05) / 1200, rtol=1e-12)
    assert found.rate_interval() == (0.0, pytest.approx(-np.log(0.025) / 1200))
    with pytest.raises(ValueError, match="at least 5"):
        found.exponential_test()
    with pytest.raises(ValueError, match=r"confidence must be .* between 0 and 1; got 95"):
        found.rate_limit(95.0)


def censored(kind, rng, members):
    lives = rng.exponential(size=members)
    if kind == "all exit":
        return lives, np.full(members, np.inf), 1e-9
    if kind == "one horizon":
        return lives, np.full(members, 0.8), 1e-9
    if kind == "random":
        return lives, rng.exponential(1.5, size=members), 1e-9
    # Seen at steps of a quarter of the mean time.
    return np.ceil(lives / 0.25) * 0.25, np.full(members, 2.0), 0.25


@pytest.mark.parametrize("kind", ["all exit", "one horizon", "random", "coarse steps"])
def test_the_p_value_is_uniform(kind):
    """P(p < 5 %) = 5 % for exponential lives, however censored; 500 experiments, binomially."""
    rng = np.random.default_rng(0)
    count, tests, members = 0, 500, 60
    for _ in range(tests):
        lives, horizon, step = censored(kind, rng, members)
        count += result(lives, horizon, step).exponential_test() < 0.05
    most = stats.binom.ppf(1 - FAILURE_RATE / 2, tests, 0.05)
    # Spreading ties takes some of their scatter away: then it may only be too careful.
    least = 0 if kind == "coarse steps" else stats.binom.ppf(FAILURE_RATE / 2, tests, 0.05)
    assert least <= count <= most


def test_other_laws_are_seen():
    """Control: lives with a rising or a falling hazard, and with censoring forgotten."""
    rng = np.random.default_rng(1)
    horizon = np.full(400, 0.8)
    assert result(rng.gamma(2.0, 0.5, size=400), horizon).exponential_test() < FAILURE_RATE
    assert result(rng.weibull(0.6, size=400), horizon).exponential_test() < FAILURE_RATE
    cut = np.minimum(rng.exponential(size=400), 0.8)
    assert result(cut, np.full(400, np.inf)).exponential_test() < FAILURE_RATE


def outside(theta):
    return jnp.abs(theta[0]) - 1


def brownian(substeps, eta=0.1):
    """dx = dW: a flat landscape, ηC = 1."""
    flat = ss.Potential(lambda x: 0.0 * x[0], np.array([[1 / eta]]))
    return ss.ModifiedEquation(flat, eta, ss.ConstantNoise([[1 / eta]]), substeps=substeps)


def exact_exit(h, bridged, count=200):
    """E τ/h of Brownian motion from 0 out of |x| < 1, seen at steps of h: (I − P) τ = 1.

    P(x, y) = N(y − x; h)(1 − exp(−2(1 − |x|)(1 − |y|)/h)) with a bridge, without the last factor
    if only the steps are looked at.
    """
    x, w = np.polynomial.legendre.leggauss(count)
    x, w = np.concatenate([x - 1, x + 1]) / 2, np.concatenate([w, w]) / 2

    def row(at):
        at = np.asarray(at)[..., None]
        stay = -np.expm1(-2 * (1 - abs(at)) * (1 - abs(x)) / h) if bridged else 1.0
        return stats.norm.pdf(x, at, np.sqrt(h)) * w * stay

    tau = np.linalg.solve(np.eye(len(x)) - row(x), np.ones(len(x)))
    return 1 + row(np.array(0.0)) @ tau


def test_the_bridge_takes_the_bias_of_the_steps_away():
    """E τ = 1 in continuous time; 1 + h/2 with bridges (the step's end), more at steps alone.

    At steps the barrier seems .5826 √h further away, up to O(h).
    """
    for h in (0.1, 0.01):
        shifted = (1 + 0.5826 * np.sqrt(h)) ** 2
        np.testing.assert_allclose(h * exact_exit(h, False), shifted, atol=0.3 * h)
        np.testing.assert_allclose(h * exact_exit(h, True), 1 + h / 2, rtol=2e-3 * h / 0.01)


def test_exit_of_brownian_motion_with_bridges():
    """Mean exit time of dx = dW from |x| < 1 with bridges, 2 steps an iteration: z < 4.3."""
    process, eta = brownian(2), 0.1
    measures = {
        "bridged": ss.FirstPassage.bridged(process, outside),
        "steps": ss.FirstPassage(lambda x: outside(x) >= 0),
    }
    run = ss.simulate(
        process, jnp.zeros(1), num_steps=150, ensemble_size=8192, key=jr.key(0), measures=measures
    )
    exact = {name: eta / 2 * exact_exit(eta / 2, name == "bridged") for name in measures}
    for name in measures:
        assert run[name].num_exits == 8192
        found = run[name].mean_time_t
        assert ss.compare(found, exact[name], failure_rate=FAILURE_RATE).verdict == "agrees"
        np.testing.assert_allclose(found.value, eta * run[name].mean_time.value)
        np.testing.assert_allclose(run[name].rate_t.value, run[name].rate.value / eta)
    # Controls: one taken for the other, and iterations taken for t.
    bridged = run["bridged"]
    for estimate, wrong in (
        (bridged.mean_time_t, exact["steps"]),
        (bridged.mean_time, exact["bridged"]),
    ):
        assert ss.compare(estimate, wrong, failure_rate=FAILURE_RATE).verdict == "disagrees"


def test_the_variance_of_a_level_is_that_of_its_gradient():
    """v = h ∇gᵀ η c Σ(θ) ∇g on a finite sum, with its own Σ(θ) from the examples."""
    inputs, targets = normal(1, 12, 3), normal(2, 12)
    landscape = ss.LeastSquares(inputs, targets)
    noise = ss.MinibatchNoise(ss.WithReplacement(4))
    process = ss.ModifiedEquation(landscape, 0.2, noise, substeps=5)
    bridge = ss.measure.BrownianBridge(process, lambda x: jnp.sum(x**2) - 9)
    theta = jnp.array([0.3, -1.0, 2.0])
    slope, sigma = 2 * np.asarray(theta), np.asarray(landscape.gradient_covariance(theta))
    expected = 0.2 / 5 * slope @ (0.2 / 4 * sigma) @ slope
    np.testing.assert_allclose(
        eqx.filter_jit(lambda b, x: b.variance(x))(bridge, theta), expected, rtol=1e-12
    )


def test_bridges_that_make_no_sense_are_refused():
    """A bridge needs the SDE of the run, with its step; SGD has none."""
    sgd = ss.SGD(ss.double_well(1.0), 0.1, ss.WithReplacement(1))
    with pytest.raises(ValueError, match="SGD has no Brownian path"):
        ss.FirstPassage.bridged(sgd, outside)
    flat, noise = ss.double_well(1.0), ss.ConstantNoise([[1.0]])
    with pytest.raises(ValueError, match="take a constant learning rate"):
        ss.measure.BrownianBridge(ss.ModifiedEquation(flat, lambda k: 0.1, noise), outside)
    measure = ss.FirstPassage.bridged(brownian(2), outside)
    with pytest.raises(ValueError, match=r"made for steps of 0\.05 .* steps of 0\.025"):
        measure.check(brownian(4), 10)
