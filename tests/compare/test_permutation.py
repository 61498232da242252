"""The permutation test: exact level, power, and what it must not be used on."""

import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from sde_sgd.compare.distances import energy, permutation_test

KEY = jr.key(0)
STATISTICS = ["energy", "wasserstein", "sliced"]


def p_values(statistic, sample, repetitions=400):
    """p over independent pairs of ensembles (20, 2) and (30, 2), 99 permutations each."""
    rng = np.random.default_rng(1)
    return np.array(
        [
            permutation_test(
                sample(rng, 20),
                sample(rng, 30),
                key=key,
                statistic=statistic,
                num_permutations=99,
                num_directions=4,
            ).p_value
            for key in jr.split(KEY, repetitions)
        ]
    )


@pytest.mark.parametrize("statistic", STATISTICS)
def test_p_is_uniform_for_equal_laws(statistic):
    """P(p ≤ a) = a at a = 0.05, 0.5, 0.9 for independent members (failure rate 2e-5 in all)."""
    p = p_values(statistic, lambda rng, n: rng.standard_exponential((n, 2)))
    for level in (0.05, 0.5, 0.9):
        law = stats.binom(len(p), level)
        count = np.count_nonzero(p <= level + 1e-12)
        assert law.ppf(1e-5 / 3) <= count <= law.isf(1e-5 / 3)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_repeated_members_are_rejected_too_often(statistic):
    """Control: members that each occur five times are not independent, and p is too small."""
    p = p_values(
        statistic, lambda rng, n: np.repeat(rng.standard_exponential((n // 5, 2)), 5, axis=0)
    )
    assert np.count_nonzero(p <= 0.05) > stats.binom(len(p), 0.05).isf(1e-5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_p_is_small_under_a_shift(statistic):
    """A shift of one standard deviation at n = 100: no relabelling comes near."""
    x, y = np.random.default_rng(2).standard_normal((2, 100, 2))
    result = permutation_test(x, y + 1, key=KEY, statistic=statistic)
    assert result.p_value == 1 / 1000
    assert result.null.shape == (999,) and result.null.max() < result.statistic


def test_a_function_is_a_statistic():
    """The V-statistic as a function gives the built-in statistic, null and p-value."""
    x, y = np.random.default_rng(3).standard_normal((2, 10, 2))
    built_in = permutation_test(x, y, key=KEY, num_permutations=19)

    def own(a, b):
        return float(energy(a, b, key=KEY, num_bootstrap=2, unbiased=False).value)

    given = permutation_test(x, y, key=KEY, statistic=own, num_permutations=19)
    np.testing.assert_allclose(given.statistic, built_in.statistic, rtol=1e-12)
    np.testing.assert_allclose(given.null, built_in.null, rtol=1e-10)
    assert given.p_value == built_in.p_value


@pytest.mark.parametrize("statistic", STATISTICS)
def test_identical_ensembles_have_p_one(statistic):
    """Ties count against rejection: x = y of one repeated point gives p = 1."""
    x = np.full((10, 2), 0.1)
    assert permutation_test(x, x, key=KEY, statistic=statistic).p_value == 1


def test_bad_input_is_refused_by_name():
    """ValueError naming the offending value."""
    x = np.zeros((5, 2))
    with pytest.raises(ValueError, match="num_permutations"):
        permutation_test(x, x, key=KEY, num_permutations=0)
    with pytest.raises(ValueError, match="num_directions"):
        permutation_test(x, x, key=KEY, statistic="sliced", num_directions=1)
    with pytest.raises(ValueError, match=r"\(5, 2\).*\(5, 1\)"):
        permutation_test(x, x[:, :1], key=KEY)
    with pytest.raises((ValueError, TypeError), match="mean"):
        permutation_test(x, x, key=KEY, statistic="mean")  # pyright: ignore[reportArgumentType]
