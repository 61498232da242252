"""Batches: every subset and every order equally likely, and the covariance they give."""

import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from tools import call

from sde_sgd.landscapes import LeastSquares, PopulationLeastSquares
from sde_sgd.noise import (
    MinibatchNoise,
    RandomReshuffling,
    sampling as sampling_module,
    WithoutReplacement,
    WithReplacement,
)
from sde_sgd.noise.sampling import ReshufflingState
from sde_sgd.random.draws import Draws

FAILURE_RATE = 2e-5
KEY = jr.key(21)
SCHEMES = (WithReplacement, WithoutReplacement, RandomReshuffling)
SUBSETS = (WithoutReplacement, RandomReshuffling)


def examples(num):
    """A landscape of N examples, whose values do not matter to the sampling."""
    return LeastSquares(np.ones((num, 1)), np.arange(num) * 1.0)


def members(num, iteration=0):
    return Draws.create(KEY, np.arange(num), iteration)


def batches(sampling, num, ensemble, steps=1):
    """(steps, members, B) indices of consecutive iterations."""
    landscape = examples(num)
    draw = jax.jit(lambda state, draws: sampling.draw(state, draws, landscape))
    state, drawn = jax.jit(lambda draws: sampling.init(draws, landscape))(members(ensemble)), []
    for iteration in range(steps):
        state, indices = draw(state, members(ensemble, iteration))
        drawn.append(np.asarray(indices))
    return np.array(drawn)


def distinct(indices):
    """Whether every batch (last axis) has distinct indices."""
    ordered = np.sort(indices, axis=-1)
    return bool((ordered[..., 1:] > ordered[..., :-1]).all())


def uniformity(outcomes, num_outcomes):
    """p-value of χ² for equally likely outcomes, given as rows."""
    _, counts = np.unique(outcomes, axis=0, return_counts=True)
    counts = np.concatenate([counts, np.zeros(max(num_outcomes - len(counts), 0))])
    expected = len(outcomes) / num_outcomes
    assert expected > 100, "too few samples for χ²"
    return stats.chi2.sf(((counts - expected) ** 2).sum() / expected, num_outcomes - 1)


def inclusion(indices, num):
    """p-value of χ² for the number of batches that hold each example, each B/N of them.

    Counts of one batch sum to B, so they have covariance B(N−B)/N² (δ_ij N − 1)/(N − 1).
    """
    count, batch = indices.shape
    held = np.bincount(indices.ravel(), minlength=num)
    share = batch / num
    statistic = ((held - count * share) ** 2).sum() / (count * share * (1 - share))
    return stats.chi2.sf(statistic * (num - 1) / num, num - 1)


@pytest.fixture(params=["floyd", "sort"])
def branch(request, monkeypatch):
    """Both ways to draw a subset, on small problems too."""
    if request.param == "sort":
        monkeypatch.setattr(sampling_module, "_FLOYD_LIMIT", 0)
    return request.param


def test_with_replacement_all_pairs_are_equally_likely():
    """P(i, j) = 1/N² for N = 5, B = 2; fresh subsets fail that."""
    pairs = batches(WithReplacement(2), 5, 20_000)[0]
    assert uniformity(pairs, 25) > FAILURE_RATE
    assert uniformity(batches(WithoutReplacement(2), 5, 20_000)[0], 25) < FAILURE_RATE


def test_subsets_are_equally_likely(branch):
    """P(S) = 1/C(5, 2) and distinct indices, by Floyd's algorithm and by sorting."""
    landscape = examples(5)
    draw = jax.jit(lambda draws: WithoutReplacement(2).draw(None, draws, landscape)[1])
    for iteration in (0, 7):
        subsets = np.sort(draw(members(20_000, iteration)), axis=-1)
        assert distinct(subsets) and subsets.min() == 0 and subsets.max() == 4
        assert uniformity(subsets, 10) > FAILURE_RATE


def test_uniformity_test_sees_a_wrong_floyd(monkeypatch):
    """Control: t < j in place of t ≤ j in Floyd's algorithm, still distinct, is not uniform."""
    right = sampling_module.scale_to
    monkeypatch.setattr(sampling_module, "scale_to", lambda word, n: right(word, n - 1))
    subsets = np.sort(batches(WithoutReplacement(2), 5, 20_000)[0], axis=-1)
    assert distinct(subsets)
    assert uniformity(subsets, 10) < FAILURE_RATE
    assert inclusion(subsets, 5) < FAILURE_RATE


@pytest.mark.parametrize(
    "num, batch", [(70, 64), (70, 69), (200, 160), (200, 161), (5000, 100), (5000, 1250)]
)
def test_large_subsets_hold_every_example_equally_often(num, batch):
    """Distinct indices and P(i ∈ S) = B/N on either side of B² = 128 N and of N = 4 096."""
    indices = batches(WithoutReplacement(batch), num, 400)[0]
    assert indices.shape == (400, batch) and distinct(indices)
    assert indices.min() >= 0 and indices.max() < num
    assert inclusion(indices, num) > FAILURE_RATE


@pytest.mark.parametrize("num", [1, 70])
def test_a_batch_of_all_examples_is_all_examples(num):
    """B = N: the indices are 0…N−1 for every member."""
    for scheme in SUBSETS:
        indices = np.sort(batches(scheme(num), num, 6, steps=2), axis=-1)
        np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(num), (2, 6, num)))


@pytest.mark.parametrize("num, batch", [(6, 2), (7, 2), (5, 5), (5000, 1250)])
def test_epochs_visit_every_example_once(num, batch):
    """⌊N/B⌋ steps of one epoch hold ⌊N/B⌋·B distinct examples: all N when B divides N."""
    steps = num // batch
    drawn = batches(RandomReshuffling(batch), num, 20, steps=4 * steps)
    for epoch in range(4):
        visited = drawn[epoch * steps : (epoch + 1) * steps].transpose(1, 0, 2).reshape(20, -1)
        assert visited.shape[1] == num - num % batch
        assert distinct(visited)


def test_a_member_in_the_middle_of_its_epoch_keeps_its_order():
    """Members at different places of their epochs: only those at a start are shuffled."""
    landscape, sampling = examples(6), RandomReshuffling(2)
    order = np.broadcast_to(np.arange(6, dtype=np.int32)[::-1], (40, 6))
    used = np.arange(40, dtype=np.int32) % 3
    state = ReshufflingState(jnp.asarray(order), jnp.asarray(used))
    following, indices = call(sampling.draw, state, members(40), landscape)
    started = used == 0
    np.testing.assert_array_equal(following.order[~started], order[~started])
    taken = order[0].reshape(3, 2)[used]
    np.testing.assert_array_equal(indices[~started], taken[~started])
    np.testing.assert_array_equal(following.used, (used + 1) % 3)
    assert distinct(following.order)
    # 14 fresh orders of 720: that at most two of them differ has a chance of 1e-29.
    assert len(np.unique(following.order[started], axis=0)) > 2


def test_epochs_and_members_have_orders_of_their_own():
    """20 members × 4 epochs of 12 examples: 80 different orders (80²/2/12! = 7e-6)."""
    drawn = batches(RandomReshuffling(3), 12, 20, steps=16)
    orders = drawn.reshape(4, 4, 20, 3).transpose(0, 2, 1, 3).reshape(80, 12)
    assert len(np.unique(orders, axis=0)) == 80


def test_all_orders_are_equally_likely():
    """P(order) = 1/4! in the first and in the third epoch; an order that only rotates fails."""
    drawn = batches(RandomReshuffling(1), 4, 10_000, steps=12)[:, :, 0]
    for epoch in (0, 2):
        assert uniformity(drawn[4 * epoch : 4 * epoch + 4].T, 24) > FAILURE_RATE
    rotated = (drawn[:1] + np.arange(4)[:, None]) % 4
    assert uniformity(rotated.T, 24) < FAILURE_RATE


def test_dropped_examples_change_from_epoch_to_epoch():
    """N = 7, B = 2: each example is the dropped one with probability 1/7."""
    drawn = batches(RandomReshuffling(2), 7, 2_000, steps=6)
    for epoch in (drawn[:3], drawn[3:]):
        visited = epoch.transpose(1, 0, 2).reshape(2_000, 6)
        assert inclusion(visited, 7) > FAILURE_RATE


def test_steps_of_an_epoch_are_anticorrelated():
    """Over all 6! orders, B = 2: Cov(ĝ, ĝ) = s² = cΣ in a step, −s²/(M−1) between two, M = 3."""
    orders = np.array(list(itertools.permutations(range(6))), np.int32)
    sampling, landscape = RandomReshuffling(2), examples(6)
    values = np.array([0.3, -1.0, 2.0, 0.7, 1.9, -0.4])
    means = []
    for used in range(3):
        # At `used` = 0 an order would be drawn: the first batch is read from the given one.
        state = ReshufflingState(jnp.asarray(orders), jnp.asarray(np.full(720, used, np.int32)))
        drawn = (
            orders[:, :2] if used == 0 else call(sampling.draw, state, members(720), landscape)[1]
        )
        means.append(values[drawn].mean(-1))
    variance = sampling.noise_factor(6) * values.var()
    expected = np.where(np.eye(3) == 1, variance, -variance / 2)
    np.testing.assert_allclose(np.cov(means, bias=True), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("num, batch", [(6, 2), (7, 2)])
def test_correlation_in_time_of_the_schemes(num, batch):
    """Sampled: −σ²/(N−1) between steps of an epoch (also B∤N), 0 across epochs, 0 for subsets."""
    ensemble = 40_000
    values = np.arange(num) ** 1.5
    steps = num // batch
    inside = -values.var() / (num - 1)

    def scores(sampling, expected):
        drawn = values[batches(sampling, num, ensemble, steps + 1)].mean(-1)
        centred = drawn - values.mean()
        products = {
            "first, second": centred[0] * centred[1],
            "first, last": centred[0] * centred[steps - 1],
            "last, next epoch": centred[steps - 1] * centred[steps],
        }
        return np.array(
            [
                (product.mean() - exact) / (product.std() / math.sqrt(ensemble))
                for product, exact in zip(products.values(), expected, strict=True)
            ]
        )

    threshold = stats.norm.isf(FAILURE_RATE / 2 / 3)
    assert np.abs(scores(RandomReshuffling(batch), (inside, inside, 0))).max() < threshold
    assert np.abs(scores(WithoutReplacement(batch), (0, 0, 0))).max() < threshold
    # Control: fresh subsets do not have the correlation of an epoch.
    assert np.abs(scores(WithoutReplacement(batch), (inside, inside, 0))).max() > threshold


@pytest.mark.parametrize("scheme", SCHEMES)
def test_batch_means_have_the_covariance_of_the_noise_factor(scheme):
    """Sampled: Var(batch mean) = c σ², of one step; the factor of another scheme fails."""
    num, batch, ensemble = 8, 4, 40_000
    values = np.arange(num) ** 1.5
    means = values[batches(scheme(batch), num, ensemble)[0]].mean(-1)
    squares = (means - values.mean()) ** 2
    error = squares.std() / math.sqrt(ensemble)
    threshold = stats.norm.isf(FAILURE_RATE / 2)

    def score(factor):
        return abs(squares.mean() - factor * values.var()) / error

    assert score(scheme(batch).noise_factor(num)) < threshold
    others = {c.noise_factor(num) for c in (WithReplacement(batch), WithoutReplacement(batch))}
    for wrong in others - {scheme(batch).noise_factor(num)}:
        assert score(wrong) > threshold


def test_members_draw_the_same_batches_in_any_company():
    """Batches of members 10…19 alone are those of the block, for every scheme."""
    landscape = examples(200)
    everyone, few = members(32, 5), Draws.create(KEY, jnp.arange(10, 20), 5)
    for scheme, batch in itertools.product(SCHEMES, (3, 170)):
        sampling = scheme(batch)

        @jax.jit
        def draw(draws, sampling=sampling):
            return sampling.draw(sampling.init(draws, landscape), draws, landscape)[1]

        np.testing.assert_array_equal(draw(few), draw(everyone)[10:20])


def test_noise_factors():
    """c = 1/B; (N − B)/(B(N − 1)); 0 at B = N; theory.md: N = 8, B = 4 gives 1/4 and 1/7."""
    assert WithReplacement(4).noise_factor(8) == 1 / 4
    assert WithReplacement(4).noise_factor(None) == 1 / 4
    assert WithReplacement(4).noise_factor(2) == 1 / 4
    for scheme in SUBSETS:
        assert scheme(4).noise_factor(8) == pytest.approx(1 / 7, rel=1e-15)
        assert scheme(1).noise_factor(8) == 1
        assert scheme(8).noise_factor(8) == 0
        assert scheme(1).noise_factor(1) == 0


def test_third_factors():
    """E(m_B − m)³ = k E(m_i − m)³, all batches of N = 5 enumerated; N = 2 has no third moment."""
    values = np.array([2.0, 0.5, 0.3, 0.4, 0.6])
    third = np.mean((values - values.mean()) ** 3)
    for batch in (1, 2, 3, 4, 5):
        everyone = itertools.product(values, repeat=batch)
        for scheme, all_batches in (
            (WithReplacement, list(everyone)),
            *((subset, list(itertools.combinations(values, batch))) for subset in SUBSETS),
        ):
            exact = np.mean((np.mean(all_batches, axis=1) - values.mean()) ** 3)
            assert scheme(batch).third_factor(5) * third == pytest.approx(exact, abs=1e-14)
    assert WithReplacement(3).third_factor(None) == 1 / 9
    assert WithoutReplacement(1).third_factor(2) == WithoutReplacement(2).third_factor(2) == 0


def test_smith_and_le_noise_scale():
    """η c Σ = ε(N/B − 1)/N · N/(N − 1) Σ with ε = Nη (1710.06451): two names of one number."""
    num, batch = 60, 12
    smith_le = (num / batch - 1) / num * num / (num - 1)
    assert WithoutReplacement(batch).noise_factor(num) == pytest.approx(smith_le, rel=1e-14)


def test_populations_give_fresh_examples():
    """(members, B, d) inputs and (members, B) targets, all different."""
    landscape = PopulationLeastSquares(np.eye(2), 1.0)
    inputs, targets = call(WithReplacement(3).draw, None, members(50), landscape)[1]
    assert inputs.shape == (50, 3, 2) and targets.shape == (50, 3)
    assert len(np.unique(targets)) == 150


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("batch", [0, -1, True, 2.0, "4", None])
def test_batch_sizes_that_are_no_counts_are_refused(scheme, batch):
    """B is an integer ≥ 1, and True is none."""
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        scheme(batch)


@pytest.mark.parametrize("scheme", SUBSETS)
def test_subsets_larger_than_the_data_are_refused(scheme):
    """B ≤ N without replacement, with the way out in the message."""
    for refused in (
        lambda: scheme(6).check(examples(5)),
        lambda: MinibatchNoise(scheme(6)).check(examples(5)),
    ):
        with pytest.raises(ValueError, match=r"batch_size=6 of N=5.*WithReplacement"):
            refused()
    with pytest.raises(ValueError, match="B=6 of N=5"):
        scheme(6).noise_factor(5)
    WithReplacement(6).check(examples(5))


@pytest.mark.parametrize("scheme", SUBSETS)
def test_populations_have_no_subsets(scheme):
    """Subsets of a population are refused, with the way out in the message."""
    with pytest.raises(ValueError, match=r"population.*WithReplacement"):
        scheme(2).check(PopulationLeastSquares(np.eye(2), 1.0))
    with pytest.raises(ValueError, match=r"population.*WithReplacement"):
        scheme(2).noise_factor(None)
