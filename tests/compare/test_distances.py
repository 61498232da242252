"""Distances between ensembles against exact values, SciPy, and repetition."""

import itertools
from collections.abc import Callable

import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from sde_sgd.compare import _resample, compare
from sde_sgd.compare._resample import bootstrap_weights
from sde_sgd.compare.distances import (
    energy,
    excess,
    sliced_wasserstein,
    table,
    wasserstein_per_direction,
)
from sde_sgd.compare.distances.ensembles import _replicates, distance_change, DistanceName
from sde_sgd.estimate import Estimate

KEY = jr.key(0)
QUANTILE = stats.norm.isf(1e-5)  # two-sided failure rate 2e-5


def all_samples(population, size):
    """Every sample of `size` draws with replacement, equally likely."""
    return [np.array(draw) for draw in itertools.product(population, repeat=size)]


def spread(values):
    """Standard deviation, and the relative standard error of it."""
    values = np.asarray(values)
    kurtosis = stats.kurtosis(values, fisher=False)
    return values.std(ddof=1), np.sqrt((kurtosis - 1) / (4 * len(values)))


def calibration(estimates):
    """Root-mean-square bootstrap error over the spread of the values, and its tolerance."""
    truth, uncertainty = spread([estimate.value for estimate in estimates])
    variances = np.array([estimate.standard_error for estimate in estimates]) ** 2
    reported = variances.std() / (2 * variances.mean() * np.sqrt(len(variances)))
    return np.sqrt(variances.mean()) / truth, QUANTILE * np.hypot(uncertainty, reported)


# Exact values


def test_a_shift_moves_w1_by_its_size():
    """W₁(X, X + s) = |s| in each coordinate, exactly."""
    x = np.random.default_rng(0).standard_normal((40, 3))
    shift = np.array([0.5, -2.0, 0.0])
    distance = wasserstein_per_direction(x, x + shift, key=KEY)
    np.testing.assert_allclose(distance.value, np.abs(shift), rtol=1e-12, atol=1e-14)
    assert distance.num_samples == 40


def test_w1_of_two_widths():
    """W₁(N(0, 1), N(0, 4)) = √(2/π)."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((4000, 1)), 2 * rng.standard_normal((3000, 1))
    distance = wasserstein_per_direction(x, y, key=KEY)
    assert compare(distance, np.sqrt([2 / np.pi]), resolution=0.2).verdict == "agrees"
    assert compare(distance, [1.0]).verdict == "disagrees", "control: W₂ = 1 must be refused"


def test_distances_of_point_masses():
    """δ_a, δ_b: energy distance 2|a − b|, W₁ = |a_j − b_j|, all without error."""
    a, b = np.tile([0.0, 0.0], (5, 1)), np.tile([3.0, 4.0], (7, 1))
    for unbiased in (True, False):
        found = energy(a, b, key=KEY, unbiased=unbiased)
        np.testing.assert_allclose(found.value, 10.0, rtol=1e-14)
        np.testing.assert_allclose(found.standard_error, 0.0, atol=1e-13)
    np.testing.assert_allclose(wasserstein_per_direction(a, b, key=KEY).value, [3.0, 4.0])


def test_sliced_distance_of_point_masses_in_three_dimensions():
    """SW₁(δ_0, δ_s) = |s| E|u₁| = |s|/2 in R³; the error is that of the directions."""
    a, b = np.zeros((64, 3)), np.tile([0.0, 3.0, 4.0], (64, 1))
    distance = sliced_wasserstein(a, b, key=KEY, num_directions=1024, num_bootstrap=10)
    assert compare(distance, 2.5).verdict == "agrees"
    assert compare(distance, 5 / np.sqrt(3)).verdict == "disagrees", "control: rms of u₁"
    spread_of_u = 5 / np.sqrt(12 * 1024)  # |u₁| is uniform on (0, 1)
    np.testing.assert_allclose(distance.standard_error, spread_of_u, rtol=0.1)


def test_scipy_agrees_in_one_dimension():
    """W₁ and the square root of the V-statistic equal SciPy's, unequal sizes and ties included."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((71, 3)) + 0.3
    x[:, 2], y[:, 2] = np.round(x[:, 2]), np.round(y[:, 2])
    w1 = wasserstein_per_direction(x, y, key=KEY).value
    for j in range(3):
        a, b = x[:, j], y[:, j]
        np.testing.assert_allclose(w1[j], stats.wasserstein_distance(a, b), rtol=1e-12)
        squared = energy(a[:, None], b[:, None], key=KEY, unbiased=False).value
        np.testing.assert_allclose(np.sqrt(squared), stats.energy_distance(a, b), rtol=1e-12)


@pytest.mark.parametrize("dimension", [5, 100])
def test_energy_distance_is_its_definition(dimension, monkeypatch):
    """2Σ|x−y|/nm − Σ|x−x'|/n(n−1) − Σ|y−y'|/m(m−1), in blocks and by matrix product too."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((23, dimension)) + 1e3, rng.standard_normal((31, dimension)) + 1e3
    expected = (
        2 * cdist(x, y).mean() - cdist(x, x).sum() / (23 * 22) - cdist(y, y).sum() / (31 * 30)
    )
    whole = energy(x, y, key=KEY)
    np.testing.assert_allclose(whole.value, expected, rtol=0, atol=1e-11)
    monkeypatch.setattr(_resample, "_BLOCK_ENTRIES", 100)
    blocked = energy(x, y, key=KEY)
    # Rounding is relative to the mean distances, √(2d) ≤ 15, not to what is left of them.
    np.testing.assert_allclose(blocked.value, whole.value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(blocked.standard_error, whole.standard_error, rtol=0, atol=1e-12)


def test_the_energy_distance_is_unbiased_over_all_samples():
    """Mean over all 3²·3² samples of one population: U gives 0, V gives 2 E|X − X'|/n."""
    population = [(0.0,), (1.0,), (5.0,)]
    samples = all_samples(population, 2)
    pairs = list(itertools.product(samples, samples))
    mean = {
        unbiased: np.mean(
            [energy(x, y, key=KEY, num_bootstrap=2, unbiased=unbiased).value for x, y in pairs]
        )
        for unbiased in (True, False)
    }
    within = cdist(population, population).mean()
    np.testing.assert_allclose(mean[True], 0.0, atol=1e-14)
    np.testing.assert_allclose(mean[False], within, rtol=1e-14)


# Bootstrap errors


def test_the_bootstrap_mean_is_biased_up_by_the_noise_floor():
    """All 3³·3³ resamples: E* D* = D + E|X−X'|/n + E|Y−Y'|/m (V), and E* W₁* ≥ W₁."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((3, 1)), rng.standard_normal((3, 1))
    counts = [np.bincount(draw, minlength=3) / 3 for draw in all_samples(range(3), 3)]
    pairs = list(itertools.product(counts, counts))
    u, v = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    plain = np.full((1, 3), 1 / 3)
    energy = _replicates("energy", x, u, y, v, unbiased=False).mean()
    value = _replicates("energy", x, plain, y, plain, unbiased=False)[0]
    floor = cdist(x, x).mean() / 3 + cdist(y, y).mean() / 3
    np.testing.assert_allclose(energy, value + floor, rtol=1e-12)
    w1 = _replicates("wasserstein", x, u, y, v).mean()
    assert w1 > _replicates("wasserstein", x, plain, y, plain)[0, 0]


@pytest.mark.parametrize("distance", [wasserstein_per_direction, energy])
def test_bootstrap_errors_match_repetition_away_from_equality(distance):
    """Error/spread = 1 over 400 repetitions at a shift of 1; 1/√2 if each member counts twice."""
    rng = np.random.default_rng(5)
    honest, repeated = [], []
    for _ in range(400):
        x, y = rng.standard_normal((100, 1)), rng.standard_normal((100, 1)) + 1
        honest.append(distance(x, y, key=KEY))
        repeated.append(distance(np.repeat(x[:50], 2, 0), np.repeat(y[:50], 2, 0), key=KEY))
    honest, repeated = (
        [estimate if estimate.value.ndim == 0 else estimate[0] for estimate in estimates]
        for estimates in (honest, repeated)
    )
    ratio, tolerance = calibration(honest)
    assert tolerance < 0.25 and abs(ratio - 1) < tolerance
    ratio, tolerance = calibration(repeated)
    assert abs(ratio - 1) > tolerance, "control: correlated members must be caught"


def test_the_bootstrap_error_of_equal_laws_is_too_large_by_root_three():
    """D = |a|², a Gaussian; D* = |a + b|², b a copy: E Var* = 3 Var, for the energy distance."""
    rng = np.random.default_rng(6)
    draws = rng.standard_normal((400, 2, 100, 8))
    estimates = [energy(x, y, key=KEY) for x, y in draws]
    ratio, tolerance = calibration(estimates)
    tolerance += 2 / 100  # O(1/n) of the Gaussian limit
    assert tolerance < 0.35 and abs(ratio / np.sqrt(3) - 1) < tolerance
    assert abs(ratio - 1) > tolerance, "control: it is not the true error"


# Excess over the noise floor


def test_the_excess_is_the_difference_and_antisymmetric():
    """D(x, y) − D(x, r), which changes sign with y ↔ r."""
    x, y, r = np.random.default_rng(7).standard_normal((3, 30, 2))
    functions: dict[DistanceName, Callable[..., Estimate]] = {
        "energy": energy,
        "sliced": sliced_wasserstein,
        "wasserstein": wasserstein_per_direction,
    }
    for name, distance in functions.items():
        forward = excess(x, y, r, key=KEY, distance=name)
        backward = excess(x, r, y, key=KEY, distance=name)
        expected = distance(x, y, key=KEY).value - distance(x, r, key=KEY).value
        np.testing.assert_allclose(forward.value, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(forward.value, -backward.value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("distance", ["energy", "sliced"])
def test_the_excess_of_equal_laws_rarely_disagrees(distance):
    """P(compare(excess, 0) disagrees | y ~ x) ≤ failure_rate; a shift of 1 always does."""
    rng = np.random.default_rng(8)
    null = shifted = 0
    for _ in range(200):
        x, y, r = rng.standard_normal((3, 50, 2))
        same = excess(x, y, r, key=KEY, distance=distance, num_directions=8)
        moved = excess(x, y + 1, r, key=KEY, distance=distance, num_directions=8)
        null += compare(same, 0.0, failure_rate=0.05).verdict == "disagrees"
        shifted += compare(moved, 0.0, failure_rate=0.05).verdict == "disagrees"
    assert null <= stats.binom(200, 0.05).isf(1e-5)
    assert shifted > stats.binom(200, 0.05).isf(1e-5), "control: the check has power"


def test_the_joint_bootstrap_has_the_error_of_a_shared_x():
    """Var[D(x,y) − D(x,r)] counts x once: error/spread = 1, unlike the sum of both errors."""
    rng = np.random.default_rng(9)
    joint, independent = [], []
    for _ in range(300):
        x, y, r = rng.standard_normal((3, 100, 1))
        row = table(2 * x, y / 2 + 1, r / 2 + 1, key=KEY, distances=("energy",))["energy"]
        joint.append(row.excess)
        independent.append(np.hypot(row.distance.standard_error, row.floor.standard_error))
    ratio, tolerance = calibration(joint)
    assert tolerance < 0.3 and abs(ratio - 1) < tolerance
    truth, _ = spread([estimate.value for estimate in joint])
    assert abs(np.mean(independent) / truth - 1) > tolerance, "control: separate bootstraps"


def test_the_table_reads_by_name_and_prints():
    """Rows distance, floor, excess by name; one line each."""
    x, y, r = np.random.default_rng(10).standard_normal((3, 30, 2))
    found = table(x, y, r, key=KEY)
    assert [row.name for row in found.rows] == ["wasserstein", "sliced", "energy"]
    row = found["energy"]
    np.testing.assert_allclose(row.excess.value, row.distance.value - row.floor.value, rtol=1e-12)
    assert len(str(found).splitlines()) == 5
    with pytest.raises(KeyError, match="w2"):
        found["w2"]


# Change between two versions of the same members


def test_the_change_is_the_difference_of_two_distances():
    """D(x, coarse) − D(x, fine), and none between equal versions, without error."""
    x, y, z = np.random.default_rng(12).standard_normal((3, 30, 2))
    functions: dict[DistanceName, Callable[..., Estimate]] = {
        "energy": energy,
        "sliced": sliced_wasserstein,
        "wasserstein": wasserstein_per_direction,
    }
    for name, distance in functions.items():
        change = distance_change(x[:20], y, z + 1, key=KEY, distance=name)
        far, near = (distance(x[:20], other, key=KEY).value for other in (y, z + 1))
        np.testing.assert_allclose(change.value, far - near, rtol=1e-12, atol=1e-14)
        assert change.num_samples == 20
        none = distance_change(x, y, y, key=KEY, distance=name)
        assert not np.any(none.value) and not np.any(none.standard_error)


def test_the_error_of_a_change_counts_shared_members_once():
    """Var[D(x, y) − D(x, y + y³/50)] has y in both: error/spread = 1, a tenth of unpaired ones."""
    rng = np.random.default_rng(13)
    paired, unpaired = [], []
    for _ in range(100):
        x, y = rng.standard_normal((2, 40, 1))
        versions = (y / 2 + 1, y / 2 + 1 + y**3 / 50)
        paired.append(distance_change(2 * x, *versions, key=KEY, num_bootstrap=50))
        if len(unpaired) < 10:
            unpaired.append(excess(2 * x, *versions, key=KEY).standard_error)
    ratio, tolerance = calibration(paired)
    assert tolerance < 0.5 and abs(ratio - 1) < tolerance
    truth, _ = spread([estimate.value for estimate in paired])
    assert np.mean(unpaired) > 5 * truth, "control: versions drawn apart"


def test_versions_of_unequal_size_are_refused():
    """Member i of both versions shares its random numbers, so that there are as many."""
    x, y = np.zeros((5, 1)), np.zeros((6, 1))
    with pytest.raises(ValueError, match="same members; got 6 and 5"):
        distance_change(x, y, x, key=KEY)
    assert distance_change(y, x, x, key=KEY).value == 0
    with pytest.raises(ValueError, match="num_bootstrap"):
        distance_change(x, x, x, key=KEY, num_bootstrap=1)


# Keys and bad input


def test_an_estimate_is_a_function_of_its_key():
    """The same key gives the same bits; another key another resampling of the same value."""
    x, y = np.random.default_rng(11).standard_normal((2, 30, 2))
    first, again = (energy(x, y, key=jr.key(3)) for _ in range(2))
    other = energy(x, y, key=jr.key(4))
    assert first.standard_error == again.standard_error != other.standard_error
    assert first.value == other.value
    assert energy(x, y, key=jr.PRNGKey(3)).standard_error == first.standard_error


@pytest.mark.parametrize(
    ("x", "y", "kwargs", "message"),
    [
        (np.zeros(5), np.zeros((5, 1)), {}, r"x must have shape \(members, d\); got \(5,\)"),
        (np.zeros((5, 2)), np.zeros((5, 3)), {}, r"\(5, 2\).*\(5, 3\)"),
        (np.zeros((5, 2)), np.zeros((1, 2)), {}, "at least 2"),
        (np.zeros((5, 2)), np.array([[0.0, 0.0], [0.0, np.nan]]), {}, "member 1"),
        (np.zeros((5, 2)), np.zeros((5, 2)), {"num_bootstrap": 1}, "num_bootstrap"),
        (np.zeros((5, 2)), np.zeros((5, 2)), {"num_directions": 1}, "num_directions"),
        (np.zeros((5, 2)), np.zeros((5, 2)), {"key": jr.split(KEY)}, "one JAX key"),
    ],
)
def test_bad_ensembles_are_refused_by_name(x, y, kwargs, message):
    """ValueError naming the offending value."""
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(x, y, **{"key": KEY, **kwargs})


def test_floors_of_unequal_size_are_refused():
    """W₁ between equal laws is O(n^{-1/2}): y and reference must have one size; energy may not."""
    x, y, r = np.zeros((5, 1)), np.zeros((5, 1)), np.zeros((6, 1))
    with pytest.raises(ValueError, match="5 members and reference 6"):
        excess(x, y, r, key=KEY, distance="wasserstein")
    assert excess(x, y, r, key=KEY).value == 0


def test_the_bootstrap_error_of_a_mean_of_few():
    """E w = 1/n, Cov w = (1 − 1/n)/(n(n − 1)): x = 0, 0, 3 has the error of its mean, 1, by all 9.

    Weights of n draws, instead of n − 1, give 1·√(2/3).
    """
    weights = bootstrap_weights(np.random.default_rng(0), 3, 20_000)
    assert weights[0] @ np.array([0.0, 0.0, 3.0]) == pytest.approx(1.0)
    means = weights[1:] @ np.array([0.0, 0.0, 3.0])
    # Resampled means are 0, 1.5, 3 with chances 4/9, 4/9, 1/9: the variance is 1.
    assert set(means) == {0.0, 1.5, 3.0}
    assert means.var() == pytest.approx(1.0, abs=stats.norm.isf(1e-5) * np.sqrt(1.25 / 20_000))
