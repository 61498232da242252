"""Which η, B and κ would be valid: proposals against closed forms and against `validity` itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_validity import quadratic, TILTS, verdict

import sde_sgd as ss
from sde_sgd.validity.lines import _follow, Predictor
from sde_sgd.validity.local_model import LocalModel, Settings
from sde_sgd.validity.rule import State, View

KURTOSIS = np.mean(TILTS**4) / TILTS.var() ** 2 - 3


def stationary_distance(rate, batch):
    """D on ½z² after long times: variance x/(1 − x/2) against x, tails κ₄/B over the memory."""
    decay = 1 - rate
    spread = 2 * (1 / np.sqrt(1 - rate / 2) - 1)
    tails = KURTOSIS / batch * (1 - decay**2) / (1 + decay**2)
    return np.hypot(spread, tails / np.sqrt(24))


def ends_are_right(line, tolerance):
    """Every value inside passes by two errors; the next one on either side, if any, does not."""
    states = np.array([state is State.PASSES for state in line.states(tolerance)])
    inside = (line.values >= line.low) & (line.values <= line.high)
    assert inside.any() and states[inside].all()
    first, last = np.flatnonzero(inside)[[0, -1]]
    assert line.values[first] == line.low and line.values[last] == line.high
    assert first == 0 or not states[first - 1]
    assert last == len(states) - 1 or not states[last + 1]


def test_largest_learning_rate_in_closed_form():
    """η at which D(η) = tolerance, to the 1 % of the search; the next one looked at fails."""
    found = verdict(rate=0.5, num_steps=400)
    assert found.valid is False and f"η ≤ {found.largest_learning_rate:.6g}" in found.verdict
    highest = found.largest_learning_rate
    assert stationary_distance(highest, 4) <= 0.1 < stationary_distance(1.015 * highest, 4)
    ends_are_right(found.by_learning_rate, 0.1)
    assert found.steps_at(highest) == round(400 * 0.5 / highest)


@pytest.mark.parametrize(
    ("momentum", "sampling"), [(0.0, ss.WithoutReplacement(4)), (0.9, ss.WithReplacement(4))]
)
def test_proposed_learning_rate_is_valid(momentum, sampling):
    """`validity` at the η that it proposes says valid, at the next one that failed it does not."""
    rng = np.random.default_rng(0)
    landscape = ss.LeastSquares(rng.normal(size=(40, 2)), rng.normal(size=40))
    start = landscape.minimum()
    options = {"theta": start, "sampling": sampling, "momentum": momentum}
    first = verdict(landscape, 0.6, num_steps=300, **options)
    assert first.valid is False
    rate = first.largest_learning_rate
    again = verdict(landscape, rate, num_steps=first.steps_at(rate), **options)
    assert again.valid is True and again.largest_learning_rate >= rate
    line = first.by_learning_rate
    above = line.values[line.values > rate][0]
    beyond = verdict(landscape, above, num_steps=first.steps_at(above), **options)
    assert beyond.valid is False


def test_batch_sizes_in_closed_form():
    """Least B with κ₄/B small enough: tilts ±3 of probability 1/50 have kurtosis 22."""
    tilts = np.repeat([0.0, 3.0, -3.0], [96, 2, 2])
    found = verdict(quadratic(tilts), rate=0.05, sampling=ss.WithReplacement(1), num_steps=400)
    kurtosis = np.mean(tilts**4) / tilts.var() ** 2 - 3
    spread = 2 * (1 / np.sqrt(1 - 0.025) - 1)
    tails = kurtosis * (1 - 0.95**2) / (1 + 0.95**2) / np.sqrt(24)
    least = next(b for b in range(1, 101) if np.hypot(spread, tails / b) <= 0.1)
    assert found.batch_sizes == (least, 100) and least > 1
    assert found.valid is False and f"B ≥ {least}" in found.verdict
    ends_are_right(found.by_batch_size, 0.1)


def test_scaling_range_agrees_with_its_curve():
    """Every κ of the curve between both ends passes, the next beyond either end fails.

    Subsets of skewed tilts have less skewness the nearer B is to N/2, and more again beyond.
    """
    tilts = np.repeat([-1.0, 31.0], [62, 2])
    found = verdict(quadratic(tilts), 0.0512, ss.WithoutReplacement(16), num_steps=400)
    low, high = found.scaling_range
    assert found.scaling.values[0] < low < high < found.scaling.values[-1]
    ends_are_right(found.scaling, 0.1)


def test_shuffled_epochs_have_no_learning_rate():
    """No η passes where epochs take the noise away: NaN, and the verdict says what is nearest."""
    found = verdict(tolerance=1e-3, sampling=ss.RandomReshuffling(8), num_steps=400)
    assert np.isnan(found.largest_learning_rate) and "no η from" in found.verdict


def predictor_of(distances):
    """A predictor of paths that disagree: curvatures h, so that D = 2(1/√(1 − ηh/2) − 1)."""
    views = [
        View.of(LocalModel(TILTS[:, None], np.full((64, 1, 1), h)), ("u",), np.eye(1), 64)
        for h in distances
    ]
    return Predictor(views[0], views, [], 0.0)


def test_what_cannot_be_decided():
    """Values whose D ± 2 errors straddles the tolerance lie between those that pass and fail."""
    predict = predictor_of([1.0, 1.2, 0.8])
    settings = Settings(0.1, 0.25, 0.0, 400)

    def at(rate):
        return predict.distance(settings._replace(learning_rate=rate), ss.WithReplacement(4))

    grid = [float(x) for x in np.geomspace(0.01, 0.5, 30)]
    line = _follow(at, grid, 0.1, lambda low, high: None, 0.1)
    said = [state.value for state in line.states(0.1)]
    assert said == sorted(said, key=["valid", "undecided", "not valid"].index)
    assert set(said) == {"valid", "undecided", "not valid"}
    low, high = line.undecided(0.1)
    assert line.high < low < high and line.errors.min() > 0
    (first, error), (last, other) = at(low), at(high)
    assert first + 2 * error > 0.1 > last * np.exp(-2 * other / last)
    # Control: without errors there is nothing undecided.
    exact = _follow(lambda x: (at(x)[0], 0.0), grid, 0.1, lambda low, high: None, 0.1)
    assert np.isnan(exact.undecided(0.1)).all() and exact.high > line.high


def test_diverged_runs_propose_nothing():
    """dx/dt = x² from x = 1 is infinite at t = 1: not valid, no η is proposed, and it says why."""
    cubic = ss.Potential(lambda x: -jnp.sum(x**3) / 3, tilts=1e-3 * TILTS[:, None])
    found = verdict(cubic, rate=0.05, theta=jnp.ones(1), explore_steps=60)
    assert found.valid is False and found.diverged == 2
    assert np.isnan(found.largest_learning_rate) and np.isnan(found.batch_sizes).all()
    assert "2 of 2 runs of SGD" in found.reason and found.reason in found.verdict
