"""Edges and levels between the numbers of a dtype: counted exactly, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.measure.histogram import bins, check_resolved, round_up

NEAR = np.float32(1e6) + np.arange(40, dtype=np.float32) * np.float32(0.0625)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_up_keeps_every_comparison(seed):
    """x ≥ e for a float32 x and a float64 e is x ≥ ⌈e⌉, the next float32; x > e is x > ⌊e⌋."""
    edges = 1e6 + np.sort(np.random.default_rng(seed).uniform(0, 2.4, 9))
    exact = NEAR.astype(float)[:, None]
    up, down = round_up(edges, np.float32), -round_up(-edges, np.float32)
    np.testing.assert_array_equal(NEAR[:, None] >= up, exact >= edges)
    np.testing.assert_array_equal(NEAR[:, None] > down, exact > edges)
    # To the nearest it would be another bin.
    assert ((NEAR[:, None] >= edges.astype(np.float32)) != (exact >= edges)).any()


def test_edges_that_a_dtype_cannot_tell_apart_are_refused():
    """Around 10⁶ float32 has a number every 1/16: bins of 1/40 are empty or twice as full."""
    fine = 1e6 + np.linspace(0, 0.1, 5)
    check_resolved("Histogram", fine, np.float64)
    with pytest.raises(ValueError, match=r"too narrow for float32.*0.0625 apart.*subtract an offs"):
        check_resolved("Histogram", fine, np.float32)
    check_resolved("Histogram", fine - 1e6, np.float32)
    # Widths of .25 that become .3125 or .1875, a quarter more or less, are no more the bins asked.
    with pytest.raises(ValueError, match="too narrow for float32"):
        check_resolved("Histogram", 1e6 + np.array([0.0, 0.03, 0.28]), np.float32)
    with jax.enable_x64(False):
        for make in (
            lambda: ss.Histogram(fine),
            lambda: ss.ConditionalIncrements(lambda x: x[0], fine),
            lambda: ss.Spectrum(lambda x: jnp.eye(2), edges=fine),
        ):
            with pytest.raises(ValueError, match="too narrow for float32"):
                make()
        with pytest.raises(ValueError, match="different numbers of float32"):
            ss.measure.TailRatios(1e8 + np.arange(4.0))
        np.testing.assert_array_equal(bins("Histogram", [0, 0.1]), [0, np.float32(0.1)])


def test_a_float32_landscape_is_asked_in_its_own_dtype():
    """Edges that float64 tells apart and θ does not."""
    landscape = ss.LeastSquares(jnp.ones((2, 1), jnp.float32), jnp.zeros(2, jnp.float32))
    process = ss.SGD(landscape, 0.1, ss.WithReplacement(1))
    with pytest.raises(ValueError, match="too narrow for float32"):
        ss.Histogram(1e6 + np.linspace(0, 0.1, 5)).check(process, 10)


def test_gaps_that_are_not_a_number_show():
    """Levels of a matrix that is not symmetric are NaN, and so is the law of their gaps."""
    landscape = ss.quadratic(np.eye(2), 1.0)
    process = ss.GaussianSGD(landscape, 0.1, ss.ConstantNoise(np.zeros((2, 2))))
    measure = ss.Spectrum(
        lambda x: jnp.array([[0.0, 1.0], [1.0, 2.0]]) + jnp.where(x[0] < 1, jnp.nan, 0.0),
        edges=[0.0, 1.0, 4.0],
    )
    run = ss.simulate(
        process,
        np.ones(2),
        num_steps=2,
        ensemble_size=3,
        key=jax.random.key(0),
        measures={"gaps": measure},
    )
    assert np.isnan(run["gaps"].probability.value).all()
