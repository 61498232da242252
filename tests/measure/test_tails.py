"""Tail ratios of exact power laws, made of Gaussian SGD by its quantile function."""

import functools

import jax.numpy as jnp
import jax.random as jr
import jax.scipy.stats as jstats
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
ETA, INDEX = 0.5, 1.5
WIDTH = np.sqrt(ETA / (2 - ETA))
LEVELS = [1.5, 3.0, 6.0]


def pareto(theta):
    """±(1 − Φ(|x|/s))^{−1/β}·2^{−1/β}: P(|f| > u) = u^{−β} for u ≥ 1, x ~ N(0, s²)."""
    size = 2 * jstats.norm.sf(jnp.abs(theta[0]) / WIDTH)
    return jnp.sign(theta[0]) * size ** (-1 / INDEX)


@functools.cache
def run():
    process = ss.GaussianSGD(ss.quadratic(1.0, 1.0), ETA, ss.ConstantNoise(np.eye(1)))
    return ss.simulate(
        process,
        lambda key: WIDTH * jr.normal(key, (1,)),
        num_steps=60,
        ensemble_size=2048,
        key=jr.key(0),
        measures={
            "tail": ss.measure.TailRatios(LEVELS, pareto, burn_in=4, every=2),
            "three": ss.measure.TailRatios(LEVELS, pareto, factor=3.0),
            "thin": ss.measure.TailRatios([WIDTH, 3 * WIDTH, 20 * WIDTH]),
        },
        record_every=1,
    )


def test_counts_of_the_recorded_trajectory():
    """P(|f| > u), P(|f| > 2u) and their ratio, with errors, equal NumPy's on the trajectory."""
    x = run().records[1][6::2, :, 0]
    size = (2 * stats.norm.sf(np.abs(x) / WIDTH)) ** (-1 / INDEX)
    found = run()["tail"]
    for j, level in enumerate(LEVELS):
        near, far = (size > level).mean(axis=0), (size > 2 * level).mean(axis=0)
        np.testing.assert_allclose(found.probability.value[j], near.mean(), rtol=1e-12)
        np.testing.assert_allclose(found.far_probability.value[j], far.mean(), rtol=1e-12)
        ratio = far.mean() / near.mean()
        residual = far - ratio * near
        error = residual.std(ddof=1) / np.sqrt(len(near)) / near.mean()
        np.testing.assert_allclose(found.ratio.value[j], ratio, rtol=1e-12)
        np.testing.assert_allclose(found.ratio.standard_error[j], error, rtol=1e-3)
        np.testing.assert_allclose(found.index.value[j], -np.log2(ratio), rtol=1e-9)
        # |d log₂ r/dr| = 1/(r ln 2)
        slack = found.ratio.standard_error[j] / (ratio * np.log(2))
        np.testing.assert_allclose(found.index.standard_error[j], slack, rtol=1e-9)
        assert found.members_beyond[j] == (far > 0).sum()


def test_the_ratio_of_a_power_law():
    """P(|f| > 2u)/P(|f| > u) = 2^{−β} and 3^{−β} at every u; another index fails."""
    limit = stats.norm.isf(FAILURE_RATE / 2 / 6)
    for name, factor in (("tail", 2.0), ("three", 3.0)):
        found = run()[name]
        exact = factor**-INDEX
        assert (found.ratio.standard_error < 0.1 * exact).all()
        assert (np.abs(found.ratio.value - exact) < limit * found.ratio.standard_error).all()
        assert (np.abs(found.index.value - INDEX) < limit * found.index.standard_error + 0.02).all()
        wrong = factor**-2.0
        assert (np.abs(found.ratio.value - wrong) > limit * found.ratio.standard_error).any()


def test_a_gaussian_has_no_index():
    """Normal tails: Φ(−2z)/Φ(−z) falls with the level, and beyond everybody there is no index."""
    found = run()["thin"]
    limit = stats.norm.isf(FAILURE_RATE / 2)
    exact = stats.norm.sf(2.0) / stats.norm.sf(1.0)
    assert abs(found.ratio.value[0] - exact) < limit * found.ratio.standard_error[0]
    assert found.members_beyond[1] == 0 and found.ratio.value[1] == 0
    visitors = (np.abs(run().records[1][1:, :, 0]) > 3 * WIDTH).any(axis=0).sum()
    np.testing.assert_allclose(found.ratio.standard_error[1], 1 / visitors)
    assert np.isnan(found.index.value[1:]).all() and np.isinf(found.index.standard_error[1:]).all()
    assert np.isnan(found.ratio.value[2])


def test_what_is_refused():
    """Levels increase from above 0, the factor exceeds 1, f is scalar, increments have tails."""
    for levels in ([], [0.0, 1.0], [2.0, 1.0], [1.0, np.inf]):
        with pytest.raises(ValueError, match="increasing, finite levels > 0"):
            ss.measure.TailRatios(levels)
    with pytest.raises(ValueError, match="factor must be a finite number > 1"):
        ss.measure.TailRatios([1.0], factor=1.0)
    plane = ss.quadratic(np.eye(2), 1.0)
    with pytest.raises(ValueError, match=r"a scalar function of θ; f\(θ\) has shape \(2,\)"):
        ss.simulate(
            ss.SGD(plane, 0.1, ss.WithReplacement(1)),
            jnp.zeros(2),
            num_steps=2,
            ensemble_size=2,
            key=jr.key(0),
            measures={"t": ss.measure.TailRatios([1.0])},
        )
    cheap = ss.ModifiedEquation(plane, 0.1, ss.ConstantNoise(np.eye(2)), increments="two_point")
    with pytest.raises(ValueError, match="Two-point increments have no tails"):
        ss.simulate(
            cheap,
            jnp.zeros(2),
            num_steps=2,
            ensemble_size=2,
            key=jr.key(0),
            measures={"t": ss.measure.TailRatios([1.0], lambda x: x[0])},
        )
