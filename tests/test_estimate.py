"""Arithmetic of estimates: values exact, errors against the spread of simulated pairs."""

import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss

A = ss.Estimate(np.array([2.0, -3.0]), np.array([0.02, 0.03]), 50)
B = ss.Estimate(np.array([4.0, 0.5]), np.array([0.04, 0.01]), 30)


def both(one, other):
    np.testing.assert_allclose(one.value, other[0], rtol=1e-14)
    np.testing.assert_allclose(one.standard_error, other[1], rtol=1e-14)


def test_numbers_scale_and_shift():
    """aX + b has the error |a|se."""
    both(3 * A, ([6, -9], [0.06, 0.09]))
    both(A / -2, ([-1, 1.5], [0.01, 0.015]))
    both(1 - A, ([-1, 4], [0.02, 0.03]))
    both(A + np.array([1.0, 2.0]), ([3, -1], [0.02, 0.03]))
    both(np.array([1.0, 2.0]) * A, ([2, -6], [0.02, 0.06]))
    both(-A, ([-2, 3], [0.02, 0.03]))
    assert (3 * A).num_samples == 50


def test_a_reciprocal():
    """d(1/x) = −dx/x²."""
    both(1 / A, ([0.5, -1 / 3], [0.005, 0.03 / 9]))


def test_two_independent_ones():
    """Errors add in squares: of a sum as they are, of a product and a ratio relative ones."""
    both(A - B, ([-2, -3.5], np.hypot([0.02, 0.03], [0.04, 0.01])))
    relative = np.hypot([0.01, 0.01], [0.01, 0.02])
    both(A * B, ([8, -1.5], relative * [8, 1.5]))
    both(A / B, ([0.5, -6], relative * [0.5, 6]))
    assert (A / B).num_samples == 30


def test_the_error_of_a_ratio_is_its_spread():
    """Of 20 000 pairs of measured means, to the 2 % that first order and the sample leave."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 0.05, 20_000), rng.normal(4, 0.1, 20_000)
    told = ss.Estimate(2.0, 0.05, 9) / ss.Estimate(4.0, 0.1, 9)
    assert float(told.standard_error) == pytest.approx((x / y).std(), rel=0.02)


def test_a_function_of_one():
    """f(v) ± |f′(v)|se, here of a square root and of a flat function."""
    both(B.map(jnp.sqrt), ([2, 0.5**0.5], [0.01, 0.005 / 0.5**0.5]))
    both(A.map(lambda x: 0 * x), ([0, 0], [0, 0]))
    both(A**2, ([4, 9], [0.08, 0.18]))


def test_unmeasured_entries_stay_unmeasured():
    """NaN ± ∞ stays that, and a division by 0 has no error bar."""
    none = ss.Estimate(np.array(np.nan), np.array(np.inf), 0)
    found = 2 * none + 1
    assert np.isnan(found.value) and np.isinf(found.standard_error)
    assert np.isinf((A[0] / 0.0).standard_error)
    unknown, zero = ss.Estimate(5.0, np.inf, 1), ss.Estimate(0.0, 0.1, 10)
    for found in (zero * unknown, zero / unknown, 0 * unknown):
        assert np.isinf(found.standard_error)


def test_quotients_of_very_large_and_small_numbers():
    """1/(1e200 ± 1e198) = 1e-200 ± 1e-202, and (1 ± .01)/(1 ± .01) = 1 ± .01 √2 at any scale."""
    found = 1 / ss.Estimate(1e200, 1e198, 5)
    np.testing.assert_allclose(found.standard_error, 1e-202, rtol=1e-12)
    small = [ss.Estimate(1e-200, 1e-202, 5) for _ in range(2)]
    found = small[0] / small[1]
    np.testing.assert_allclose(found.standard_error, 0.01 * np.sqrt(2), rtol=1e-12)


def test_shapes_broadcast_and_others_are_refused():
    assert (A[0] * B).value.shape == (2,)
    with pytest.raises(ValueError, match="other has shape .3,., and the Estimate .2,."):
        A + np.ones(3)


def test_an_estimate_is_not_independent_of_itself():
    with pytest.raises(ValueError, match="not independent of itself"):
        A - A


def test_an_error_is_not_negative():
    with pytest.raises(ValueError, match="standard_error must not be negative; got -0.1"):
        ss.Estimate(1.0, -0.1, 5)


def test_text_is_no_number():
    with pytest.raises(ValueError, match="other"):
        A + "one"


def test_as_arrays():
    data = A.to_xarray("mean", ["coordinate"])
    np.testing.assert_array_equal(data["mean"], A.value)
    np.testing.assert_array_equal(data.mean_standard_error, A.standard_error)
    assert data["mean"].dims == ("coordinate",) and int(data["mean_num_samples"]) == 50
    assert A.to_xarray()["value"].dims == ("value_dim0",)
    with pytest.raises(ValueError, match="dims must name the 1 axes"):
        A.to_xarray("mean", [])
