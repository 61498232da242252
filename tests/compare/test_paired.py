"""Paired differences under common random numbers."""

import jax
import numpy as np
import pytest
from scipy import stats

from sde_sgd.compare import compare, paired_difference
from sde_sgd.estimate import Estimate


def test_the_error_is_that_of_the_differences():
    """Var of the mean difference = (Var x + Var y − 2 Cov(x, y))/n."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2))
    y = x + 0.1 * rng.standard_normal((200, 2))
    paired = paired_difference(x, y)
    for j in range(2):
        (xx, xy), (_, yy) = np.cov(x[:, j], y[:, j])
        np.testing.assert_allclose(paired.standard_error[j] ** 2, (xx + yy - 2 * xy) / 200)
    np.testing.assert_allclose(paired.value, x.mean(0) - y.mean(0))


def test_pairing_sees_what_independent_errors_do_not():
    """A bias of 0.05 at n = 200: seen paired (ρ = .995), hidden by independent errors."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 1))
    y = x + 0.05 + 0.1 * rng.standard_normal((200, 1))
    assert compare(paired_difference(x, y), 0.0).verdict == "disagrees"
    unpaired = compare(Estimate.from_samples(x), Estimate.from_samples(y))
    assert unpaired.verdict == "agrees", "control: without pairing the bias is not seen"


def test_paired_errors_are_calibrated():
    """P(disagrees | no difference) = 0.05; treating mates as independent rejects far too rarely."""
    rng = np.random.default_rng(2)
    paired = unpaired = 0
    for _ in range(1000):
        x = rng.standard_normal(20)[:, None]
        y = x + 0.5 * rng.standard_normal((20, 1))
        mates = compare(paired_difference(x, y), 0.0, failure_rate=0.05)
        first, second = Estimate.from_samples(x), Estimate.from_samples(y)
        strangers = compare(first, second, failure_rate=0.05)
        paired += mates.verdict == "disagrees"
        unpaired += strangers.verdict == "disagrees"
    law = stats.binom(1000, 0.05)
    assert law.ppf(1e-5) <= paired <= law.isf(1e-5)
    assert unpaired < law.ppf(1e-5), "control"


def test_of_is_any_function_of_the_ensemble():
    """Second moments E[x²] − E[y²], and a jax.vmap of a function of one θ."""
    x, y = np.random.default_rng(3).standard_normal((2, 50, 3))
    second = paired_difference(x, y, of=lambda theta: theta**2)
    np.testing.assert_allclose(second.value, (x**2 - y**2).mean(0))
    norm = paired_difference(x, y, of=jax.vmap(lambda theta: theta @ theta))
    np.testing.assert_allclose(norm.value, second.value.sum(), rtol=1e-4)
    assert norm.value.shape == () and norm.num_samples == 50


def test_bad_pairs_are_refused_by_name():
    """ValueError naming the shapes, the member, or the function at fault."""
    x = np.ones((5, 2))
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(4, 2\)"):
        paired_difference(x, x[:4])
    with pytest.raises(ValueError, match="member 0"):
        paired_difference(x, x * np.nan)
    with pytest.raises(ValueError, match="vmap"):
        paired_difference(x, x, of=lambda theta: theta.sum())
    with pytest.raises(ValueError, match="NaN"):
        paired_difference(x, x, of=lambda theta: theta * np.nan)
