"""The mean time of a life in a window of few lives: renewal theory, without noise and with it."""

import re
import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss
from sde_sgd.measure.first_passage import FirstPassageCarry

FAILURE_RATE = 2e-5
ETA, TOP, NOISE = 0.1, 0.95, 4.0


def passed(theta):
    return theta[0] > TOP


def climb(noise=NOISE, substeps=1):
    """dx = dt + η√C dW: x rises by η an iteration, and leaves at .95."""
    slope, matrix = ss.Potential(lambda x: -x[0], np.eye(1)), ss.ConstantNoise([[noise]])
    return ss.ModifiedEquation(slope, ETA, matrix, substeps=substeps)


def simulate(process, steps, members=2048, renewal=True, **measures):
    return ss.simulate(
        process,
        jnp.zeros(1),
        num_steps=steps,
        ensemble_size=members,
        key=jr.key(7),
        measures={"exit": ss.FirstPassage(passed, renewal=renewal)} | measures,
        refill=True,
    )


def expected(law, steps):
    """E of risk, exits and of the sums of `renewal_time` after so many iterations, exactly.

    u_k = Σ_j P(τ = j) u_{k−j}, u_0 = 1, is the chance of an exit at k; a life of age a runs at n
    with chance u_{n−a} P(τ > a), and a = n is a member that has never left.
    """
    flux = np.zeros(steps + 1)
    flux[0] = 1.0
    for k in range(1, steps + 1):
        flux[k] = law[:k] @ flux[k - 1 :: -1] if k > 1 else law[0]
    ages = np.arange(1, steps + 1)
    running = flux[steps - ages] * (1 - np.cumsum(law)[ages - 1])
    never = running[-1]
    exits = flux[1:].sum()
    return {
        "risk": steps,
        "exits": exits,
        "top": steps + ages @ running - never,
        "lives": exits + running.sum() - never,
    }


def kernel(substeps=1, nodes=160, low=-1.5):
    """Survival operator of the climb's steps on (low, .95), and its first row, from 0."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    x, w = (low + TOP + (TOP - low) * x) / 2, w * (TOP - low) / 2
    spread = ETA * np.sqrt(NOISE / substeps)

    def row(at):
        return stats.norm.pdf(x, np.asarray(at)[..., None] + ETA / substeps, spread) * w

    return row(x), row(np.array(0.0))


def mean_steps(substeps=1):
    matrix, first = kernel(substeps)
    return 1 + first @ np.linalg.solve(np.eye(len(matrix)) - matrix, np.ones(len(matrix)))


def climb_law(steps):
    """P(τ = k), k = 1…steps."""
    matrix, first = kernel()
    survival, tail = [1.0], np.ones(len(matrix))
    for _ in range(steps):
        survival.append(first @ tail)
        tail = matrix @ tail
    return -np.diff(survival)


@pytest.mark.parametrize("steps", [1, 4, 10, 30, 200])
def test_exponential_times_have_no_bias(steps):
    """P(τ = k) = p(1 − p)^{k−1}: E[top]/E[lives] = E[risk]/E[exits] = 1/p, with .1 to 20 lives."""
    p = 0.1
    found = expected(p * (1 - p) ** np.arange(steps), steps)
    assert found["risk"] / found["exits"] == pytest.approx(1 / p, rel=1e-12)
    assert found["top"] / found["lives"] == pytest.approx(1 / p, rel=1e-12)
    # Control: the age alone for a member that has never left.
    never = (1 - p) ** steps
    naive = (found["top"] + never) / (found["lives"] + never)
    assert naive == pytest.approx((1 - never * (1 - p) / (steps * p + 1 - p)) / p, rel=1e-12)


def counted(exits, at_risk, first, left, started):
    """The carry of members with these exits, steps at risk, first exits, outside now or not."""
    waited = np.where(exits > 0, first - 1, at_risk)
    counts = 2 * exits + left, at_risk - exits, waited, started
    carry = FirstPassageCarry(*(jnp.asarray(x) for x in counts))
    np.testing.assert_array_equal(carry.exits, exits)
    np.testing.assert_array_equal(carry.at_risk, at_risk)
    np.testing.assert_array_equal(carry.first, np.where(exits > 0, first, 0))
    np.testing.assert_array_equal(carry.just_left, left)
    return carry


def carry_of(windows, length):
    """What a member has counted whose lives all take `length` steps, after a window of steps."""
    exits, age = windows // length, windows % length
    left = (age == 0) & (exits > 0)
    return counted(exits, windows, np.full_like(exits, length), left, windows - age)


@pytest.mark.parametrize("lives", [1, 3, 8])
def test_times_that_are_always_the_same(lives):
    """τ = 10, windows of 10n … 10n + 9: renewal_time is 10 exactly, risk/exits 4.5/n too long."""
    windows = 10 * lives + np.arange(10)
    passage = ss.FirstPassage(passed, renewal=True)
    found = passage.result(carry_of(windows, 10), np.ones(10, bool), climb())
    assert found.renewal_time.value == pytest.approx(10, rel=1e-13)
    assert found.mean_time.value == pytest.approx(10 + 4.5 / lives, rel=1e-13)
    np.testing.assert_allclose(found.renewal_time_t.value, 1.0, rtol=1e-13)
    assert "few lives" in found.remark


@pytest.mark.parametrize("lives", [1, 5])
def test_lives_that_end_within_an_iteration(lives):
    """τ = 10, 11, 12 steps of which 3 are an iteration: renewal_time is 11/3 exactly.

    A life begins with an iteration, so that of four ends of iterations three see it, at ages 3, 6
    and 9; it has τ − age left, on average one step (m − 1)/2 less than its age.
    """
    length, window = (x.ravel() for x in np.meshgrid([10, 11, 12], 4 * lives + np.arange(4)))
    exits, running = window // 4, 3 * (window % 4)
    left = running == 0
    at_risk = exits * length + running
    carry = counted(exits, at_risk, length, left, at_risk - running)
    passage = ss.FirstPassage(passed, renewal=True)
    found = passage.result(carry, np.ones(12, bool), climb(substeps=3))
    assert found.renewal_time.value == pytest.approx(11 / 3, rel=1e-13)
    assert found.mean_time.value > (1 + 0.2 / lives) * 11 / 3


def test_what_is_left_falls_with_the_lives():
    """cv² = .37: the bias is (1 − cv²)/2 a life; of it renewal_time leaves little by 4 lives."""
    mean = mean_steps()
    law = climb_law(100)
    k = np.arange(1, 101)
    square = law @ k**2 / mean**2 - 1
    assert law @ k == pytest.approx(mean, rel=1e-5) and 0.3 < square < 0.45
    biases = []
    for lives in (2, 4, 8):
        found = expected(law, round(lives * mean))
        raw = found["risk"] / found["exits"] / mean - 1
        # Of a lattice: + 1/(2T) in E N.
        assert raw == pytest.approx((1 - square - 1 / mean) / (2 * lives), rel=0.25)
        biases.append((found["top"] / found["lives"] / mean - 1) / raw)
    assert np.abs(biases[0]) < 0.25 and np.abs(biases[1:]).max() < 0.02


def z(estimate, value):
    return abs(float(estimate.value) - value) / float(estimate.standard_error)


@pytest.mark.parametrize("substeps", [1, 3])
def test_few_lives_of_a_simulation(substeps):
    """Five lives a member: renewal_time is τ(0), (I − P)τ = 1, in iterations; mean_time is not."""
    mean, limit = mean_steps(substeps) / substeps, stats.norm.isf(FAILURE_RATE / 2)
    steps = round(5 * mean)
    with pytest.warns(UserWarning, match=r"measures\['exit'\]: mean_time=.*take renewal_time="):
        found = simulate(climb(substeps=substeps), steps)["exit"]
    assert z(found.renewal_time, mean) < limit
    # Control: without the correction, 7 % too long.
    assert z(found.mean_time, mean) > limit
    if substeps == 1:
        sums = expected(climb_law(steps), steps)
        assert z(found.mean_time, sums["risk"] / sums["exits"]) < limit
        assert z(found.renewal_time, sums["top"] / sums["lives"]) < limit


@pytest.mark.parametrize("substeps", [1, 3])
def test_what_is_said_without_ages(substeps):
    """By the first exit times alone the warning knows the bias to a fifth, and the way out."""
    mean = mean_steps(substeps) / substeps
    with pytest.warns(UserWarning, match="take renewal=True and its renewal_time"):
        found = simulate(climb(substeps=substeps), round(5 * mean), renewal=False)["exit"]
    assert found.renewal_time is None and found.renewal_time_t is None
    said = float(re.search(r"off by about ([-+.\de]+)", found.remark)[1].rstrip("."))
    assert said == pytest.approx(float(found.mean_time.value) - mean, rel=0.2)
    # The ages change nothing else.
    other = simulate(climb(substeps=substeps), round(5 * mean))["exit"]
    assert other.mean_time.value == found.mean_time.value
    np.testing.assert_array_equal(other.first_times, found.first_times)


@pytest.mark.parametrize("renewal", [True, False])
def test_when_nothing_is_said(renewal):
    """Exponential times of few lives, single lives, lives that another measure ends: no remark."""
    rare = ss.SGD(ss.quadratic(1.0, 1.0), 1.0, ss.WithReplacement(1))
    # x jumps to ±1 with equal chance: x < 0 at once with ½, an exponential time.
    down = ss.FirstPassage(lambda theta: theta[0] < 0, renewal=renewal)
    options = dict(num_steps=5, ensemble_size=2048, key=jr.key(1), measures={"exit": down})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ss.simulate(rare, jnp.ones(1), refill=True, **options)["exit"]
        single = ss.simulate(rare, jnp.ones(1), **options)["exit"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cut = simulate(
            climb(), 60, renewal=renewal, near=ss.FirstPassage(lambda theta: theta[0] > 0.5)
        )
    assert not any("exit" in str(warning.message) for warning in said)
    assert found.remark is None
    assert z(found.renewal_time, 2.0) < 4.3 if renewal else found.renewal_time is None
    assert z(found.mean_time, 2.0) < 4.3
    assert single.renewal_time is None and single.remark is None
    assert cut["exit"].renewal_time is None
