"""Exit times against recorded trajectories, arithmetic and the exact kernel equation."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss
from sde_sgd.measure.few_exits import few_exits as remark_of
from sde_sgd.measure.first_passage import FirstPassageCarry

FAILURE_RATE = 2e-5
BARRIER = 0.8


def left(theta):
    return jnp.abs(theta[0]) > BARRIER


def never(theta):
    return theta[0] > 1e6


def gaussian(eta=0.4, noise=1.0):
    return ss.GaussianSGD(ss.quadratic(1.0, 1.0), eta, ss.ConstantNoise(np.array([[noise]])))


def sde(eta=0.4, substeps=3):
    noise = ss.ConstantNoise(np.array([[1.0]]))
    return ss.ModifiedEquation(ss.quadratic(1.0, 1.0), eta, noise, substeps=substeps)


def simulate(process, num_steps=30, members=16, key=0, measures=None, **options):
    return ss.simulate(
        process,
        jnp.zeros(1),
        num_steps=num_steps,
        ensemble_size=members,
        key=jr.key(key),
        measures={"exit": ss.FirstPassage(left)} if measures is None else measures,
        **options,
    )


class Trajectory(ss.AbstractMeasure):
    """Where every solver step of every member ends (or begins), for short runs."""

    length: int
    begins: bool = False
    watches = "substeps"

    def check(self, process, num_steps):
        pass

    def init(self, theta):
        return jnp.zeros((theta.shape[0], self.length + 1))

    def update(self, carry, before, after, tick, alive):
        place = jnp.asarray(carry[0, -1], int)
        where = before if self.begins else after
        return carry.at[:, place].set(where[:, 0]).at[:, -1].add(1)

    def finished(self, carry):
        return None

    def restart(self, carry, restarted):
        return carry

    def result(self, carry, alive, process):
        return np.asarray(carry)[:, :-1]


def ratio(top, bottom):
    """Σ top/Σ bottom and its error √(n/(n−1) Σ (top − ratio·bottom)²)/Σ bottom."""
    value, num = top.sum() / bottom.sum(), len(top)
    return value, np.sqrt(num / (num - 1) * ((top - value * bottom) ** 2).sum()) / bottom.sum()


def check_estimates(found, exits, risk):
    assert found.num_exits == exits.sum()
    for estimate, numbers in ((found.rate, (exits, risk)), (found.mean_time, (risk, exits))):
        value, error = ratio(*numbers)
        np.testing.assert_allclose(estimate.value, value, rtol=1e-12)
        np.testing.assert_allclose(estimate.standard_error, error, rtol=1e-9)


@pytest.mark.parametrize("substeps", [1, 3])
def test_exits_of_the_recorded_trajectory(substeps):
    """Without refill: first k with |x_k| > b, in iterations; time at risk ends there."""
    steps = 12
    measures = {"exit": ss.FirstPassage(left), "path": Trajectory(steps * substeps)}
    run = simulate(sde(substeps=substeps), steps, measures=measures)
    exits, risk, first = [], [], []
    for path in run["path"]:
        out = np.flatnonzero(np.abs(path) > BARRIER)
        exits.append(float(len(out) > 0))
        first.append((out[0] + 1) / substeps if len(out) else np.nan)
        risk.append((out[0] + 1 if len(out) else steps * substeps) / substeps)
    assert 2 < sum(exits) < 16
    np.testing.assert_allclose(run["exit"].first_times, first, rtol=1e-14)
    check_estimates(run["exit"], np.array(exits), np.array(risk))


@pytest.mark.parametrize("substeps", [1, 3])
def test_exits_with_refill(substeps):
    """With refill: lives end at the first exit, the next begins at the next iteration from x₀."""
    steps = 40
    measures = {
        "exit": ss.FirstPassage(left),
        "path": Trajectory(steps * substeps),
        "begins": Trajectory(steps * substeps, begins=True),
    }
    run = simulate(sde(substeps=substeps), steps, measures=measures, refill=True, record_every=1)
    begins = run["begins"].reshape(16, steps, substeps)[:, :, 0]
    exits, risk, first = np.zeros(16), np.zeros(16), np.full(16, np.nan)
    for member, path in enumerate(run["path"].reshape(16, steps, substeps)):
        age = 0
        for k, iteration in enumerate(path):
            out = np.flatnonzero(np.abs(iteration) > BARRIER)
            age += out[0] + 1 if len(out) else substeps
            assert run.records[1][k + 1, member, 0] == iteration[-1]
            if k + 1 < steps:
                assert begins[member, k + 1] == (0.0 if len(out) else iteration[-1])
            if len(out):
                exits[member] += 1
                risk[member] += age / substeps
                first[member] = age / substeps if exits[member] == 1 else first[member]
                age = 0
        risk[member] += age / substeps
    assert exits.sum() > 30
    np.testing.assert_allclose(run["exit"].first_times, first, rtol=1e-14)
    check_estimates(run["exit"], exits, risk)


def test_a_motion_known_by_hand():
    """x_k = k/10 leaves x > 0.95 at k = 10; with refill at 10, 20, 30 of 35, 3 exits in 35."""
    climb = ss.SGD(ss.Potential(lambda x: -x[0], np.zeros((1, 1))), 0.1, ss.WithReplacement(1))
    measures = {"exit": ss.FirstPassage(lambda x: x[0] > 0.95)}
    once = simulate(climb, 35, measures=measures)["exit"]
    np.testing.assert_array_equal(once.first_times, 10)
    assert (once.num_exits, once.mean_time.value, once.rate.value) == (16, 10.0, 0.1)
    again = simulate(climb, 35, measures=measures, refill=True)["exit"]
    assert again.num_exits == 3 * 16
    np.testing.assert_allclose(again.rate.value, 3 / 35)
    np.testing.assert_array_equal(again.first_times, 10)


def test_two_measures_share_a_refill():
    """A life that another measure ends is censored: its time at risk still counts."""
    measures = {"near": ss.FirstPassage(left), "far": ss.FirstPassage(lambda x: x[0] > 1.2)}
    steps = 200
    run = simulate(gaussian(), steps, measures=measures, refill=True)
    for name in measures:
        found = run[name]
        assert found.num_exits > 5
        np.testing.assert_allclose(found.num_exits / found.rate.value, 16 * steps, rtol=1e-12)
    assert run["far"].num_exits < run["near"].num_exits


def test_no_exit_is_not_certainty():
    """0 exits in time R at risk: rate 0 ± 1/R, mean time NaN ± ∞."""
    found = simulate(gaussian(), 30, measures={"exit": ss.FirstPassage(never)})["exit"]
    assert found.num_exits == 0 and found.rate.value == 0
    assert found.rate.standard_error == 1 / (16 * 30)
    assert np.isnan(found.mean_time.value) and np.isinf(found.mean_time.standard_error)
    assert np.isnan(found.first_times).all()
    # A rate that explains three exits is refused by no fair test; a hundred times it is.
    assert ss.compare(found.rate, 3 / (16 * 30)).verdict != "disagrees"
    assert ss.compare(found.rate, 300 / (16 * 30)).verdict == "disagrees"


def test_a_member_that_diverges_after_its_exit_has_left():
    """Escape over the top of x − x³/3: who ran to infinity counts with the exit time it had."""
    cubic = ss.Potential(lambda x: x[0] - x[0] ** 3 / 3, np.zeros((1, 1)))
    starts = jnp.array([[-1.0], [0.0], [1.5], [2.0]])

    def run_with(**more):
        return ss.simulate(
            ss.SGD(cubic, 0.1, ss.WithReplacement(1)),
            starts,
            num_steps=60,
            ensemble_size=4,
            key=jr.key(0),
            measures={"exit": ss.FirstPassage(lambda x: x[0] > 3)} | more,
            on_divergence="mask",
        )

    run = run_with(path=Trajectory(60))
    assert sorted(run.diverged) == [2, 3]
    # Alone, an exit is the end: nobody runs on to infinity.
    rested = run_with()
    assert rested.diverged == {} and (abs(rested.positions) < 10).all()
    np.testing.assert_array_equal(rested["exit"].first_times, run["exit"].first_times)
    first = []
    for x in (1.5, 2.0):
        k = 0
        while not x > 3:
            x, k = x - 0.1 * (1 - x * x), k + 1
        first.append(k)
    found = run["exit"]
    np.testing.assert_array_equal(found.first_times, [np.nan, np.nan, *first])
    assert found.num_exits == 2
    np.testing.assert_allclose(found.rate.value, 2 / (120 + sum(first)))


def kernel(eta, noise, nodes=80):
    """Survival operator of x ← (1 − η)x + η√C ξ on |x| ≤ b, on Gauss–Legendre nodes."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    x, w = BARRIER * x, BARRIER * w
    scale = eta * np.sqrt(noise)

    def row(start):
        return stats.norm.pdf(x, (1 - eta) * np.asarray(start)[..., None], scale) * w

    return row(x), row(np.array(0.0))


def exact_mean(eta, noise):
    """τ(0) of (I − P) τ = 1."""
    matrix, first = kernel(eta, noise)
    return 1 + first @ np.linalg.solve(np.eye(len(matrix)) - matrix, np.ones(len(matrix)))


def exact_law(eta, noise, steps):
    """P(τ = k) from x = 0, k = 1…steps."""
    matrix, first = kernel(eta, noise)
    survival, tail = [1.0], np.ones(len(matrix))
    for _ in range(steps):
        survival.append(first @ tail)
        tail = matrix @ tail
    return -np.diff(survival)


def test_the_kernel_equation_is_itself_right():
    """Σ k P(τ = k) = τ(0) of (I − P)τ = 1; more nodes change nothing."""
    law = exact_law(0.4, 1.0, 1500)
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-10)
    np.testing.assert_allclose(np.arange(1, 1501) @ law, exact_mean(0.4, 1.0), rtol=1e-8)
    matrix, first = kernel(0.4, 1.0, nodes=40)
    coarse = 1 + first @ np.linalg.solve(np.eye(40) - matrix, np.ones(40))
    np.testing.assert_allclose(coarse, exact_mean(0.4, 1.0), rtol=1e-10)


def test_mean_exit_time_of_gaussian_sgd():
    """Mean first exit of x ← (1 − η)x + ηξ from |x| ≤ b is τ(0), (I − P)τ = 1: z < 4.3."""
    eta, members = 0.4, 4096
    run = simulate(gaussian(eta), 400, members, key=1)
    times = run["exit"].first_times
    assert not np.isnan(times).any()
    limit = stats.norm.isf(FAILURE_RATE / 2)
    error = times.std(ddof=1) / np.sqrt(members)
    exact = exact_mean(eta, 1.0)
    assert abs(times.mean() - exact) / error < limit
    # All have left: Σ risk/Σ exits is the mean time, with the same error.
    found = run["exit"].mean_time
    np.testing.assert_allclose(found.value, times.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-9)
    # The law itself, not only its mean: P(τ > k) at its quartiles.
    law = np.cumsum(exact_law(eta, 1.0, 400))
    for k in np.searchsorted(law, [0.25, 0.5, 0.75]) + 1:
        p = law[k - 1]
        assert abs((times <= k).mean() - p) / np.sqrt(p * (1 - p) / members) < limit
    # Controls: noise × √2, and a time counted from 0.
    for wrong in (exact_mean(eta, 2.0), exact - 1):
        assert abs(times.mean() - wrong) / error > limit


def test_exit_rate_with_refill():
    """E[exits by n] of the renewal m_n = Σ_j P(τ = j)(1 + m_{n−j}), and its rate m_n/n: z < 4.3."""
    eta, steps, members = 0.4, 120, 2048
    law = exact_law(eta, 1.0, steps)
    renewals = np.zeros(steps + 1)
    for n in range(1, steps + 1):
        renewals[n] = law[:n] @ (1 + renewals[n - 1 :: -1])
    found = simulate(gaussian(eta), steps, members, key=2, refill=True)["exit"]
    limit = stats.norm.isf(FAILURE_RATE / 2)

    def z(rate):
        return abs(found.rate.value - rate) / found.rate.standard_error

    assert z(renewals[-1] / steps) < limit
    wrong = exact_law(eta, 2.0, steps)
    assert z(1 / (np.arange(1, steps + 1) @ wrong)) > limit


def test_two_point_increments_are_refused_with_reason():
    """±1 noise: |x_k| ≤ 1 − (1 − η)^k, so that nobody leaves by k = 3; of Gaussian 19 % have."""
    eta = 0.4
    assert 1 - (1 - eta) ** 3 < BARRIER
    assert exact_law(eta, 1.0, 3).sum() > 0.19
    noise = ss.ConstantNoise(np.array([[1.0]]))
    process = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), eta, noise, increments="two_point")
    with pytest.raises(ValueError, match="Two-point increments give wrong exit times"):
        ss.FirstPassage(left).check(process, 10)


def few_exits(exits):
    """8 members, watched 100 steps each, of which the first `exits` left at the last."""
    left = np.arange(8) < exits
    stayed = np.where(left, 99, 100)
    counts = (jnp.asarray(count) for count in (3 * left, stayed, stayed))
    carry = FirstPassageCarry(*counts, None)
    process = ss.GaussianSGD(ss.quadratic(1.0, 1.0), 0.1, ss.ConstantNoise(np.eye(1)))
    return ss.FirstPassage(lambda x: x[0] > 1).result(carry, np.ones(8, bool), process)


def test_one_exit_gives_no_error_bar():
    """One exit in R = 800 steps: T = 800 ± 800, which is no error; χ²(2)/2R … χ²(4)/2R is told."""
    found = few_exits(1)
    assert float(found.mean_time.value) == pytest.approx(800)
    low, high = stats.chi2.ppf(0.025, 2) / 1600, stats.chi2.ppf(0.975, 4) / 1600
    assert found.rate_interval() == pytest.approx((low, high))
    assert "one exit gives no error bar" in found.remark
    assert f"{low:.3g} to {high:.3g}" in found.remark
    assert "error bars of 3 exits are rough" in few_exits(3).remark
    assert few_exits(0).remark is None
    # The error of ten is known to 22 %.
    assert "error bars of 9 exits are rough" in (remark_of(9, 800.0) or "")
    assert remark_of(10, 800.0) is None
