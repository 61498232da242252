"""Scores against derivatives of log-densities that are known otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.equations import GaussianScore, GridScore, KernelScore
from sde_sgd.theory.laws import Gaussian


def score_of(hessian, noise, eta, start):
    """The score of dθ = −Hθ dt + √η C^{1/2} dW."""
    landscape, model = ss.quadratic(hessian, noise), ss.ConstantNoise(np.array(noise))
    return GaussianScore(ss.ModifiedEquation(landscape, eta, model).limit(), start)


def numeric(log_density, theta, step=1e-5):
    """Central differences, (d,)."""
    steps = step * np.eye(len(theta))
    return np.array([(log_density(theta + h) - log_density(theta - h)) / (2 * step) for h in steps])


def test_gaussian_score_is_the_slope_of_its_law():
    """∇log N(m_t, M_t), with a flat and an unstable direction."""
    hessian, noise = np.diag([1.0, 0.0, -0.4]), np.eye(3) + 0.3
    start = Gaussian(np.array([1.0, 0.5, 0.0]), 0.1 * np.eye(3) + 0.02)
    score = score_of(hessian, noise, 0.2, start)
    theta, evaluate = np.array([0.3, -0.4, 0.8]), jax.jit(lambda t, x: score(t, x))
    for t in (0.0, 1.7):
        law = stats.multivariate_normal(score.law(t).mean, score.law(t).covariance)
        found = evaluate(jnp.asarray(t), jnp.asarray(theta))
        np.testing.assert_allclose(found, numeric(law.logpdf, theta), rtol=1e-6)
    flat = score.law(1.7).covariance[1, 1]
    assert flat == pytest.approx(0.12 + 0.2 * 1.3 * 1.7)


def test_grid_score_of_a_gaussian_law():
    """Ornstein–Uhlenbeck, D = .2: −(x − m_t)/M_t to O(h²), a quarter at half the cell."""
    exact = score_of([[1.0]], [[1.0]], 0.4, Gaussian([0.5], [[0.1]]))
    points, errors = np.linspace(-1, 1.5, 26), []
    for cells in (60, 120):
        equation = ss.theory.laws.FokkerPlanck(
            Diffusion(lambda x: -x, lambda x: 0.2), (-3.0, 3.5), cells
        )
        score = GridScore(
            equation,
            lambda x: jnp.exp(-((x[0] - 0.5) ** 2) / 0.2) / np.sqrt(0.2 * np.pi),
            duration=1.5,
            num_times=24,
        )
        both = jax.jit(
            jax.vmap(
                lambda x, score=score: (
                    score(jnp.asarray(0.77), x[None])[0],
                    exact(jnp.asarray(0.77), x[None])[0],
                )
            )
        )(jnp.asarray(points))
        errors.append(float(np.abs(both[0] - both[1]).max()))
    assert errors[1] < 1e-2 and 3.5 < errors[0] / errors[1] < 4.5
    low, high = score.domain
    assert np.isnan(score(jnp.asarray(0.5), jnp.asarray([high + 0.1]))[0])
    assert list(score.inside(jnp.array([[low - 0.01], [0.0]]))) == [False, True]


def test_kernel_score_is_the_slope_of_the_estimate():
    """∇log of scipy's estimate with factor h; between two records their linear mean."""
    rows = np.random.default_rng(1).normal(size=(2, 60, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])
    score = KernelScore(rows, [0.0, 0.5], 0.3)
    theta = np.array([0.6, -1.1])
    each = [numeric(lambda x, r=r: stats.gaussian_kde(r.T, 0.3).logpdf(x)[0], theta) for r in rows]
    evaluate = jax.jit(lambda t: score(t, jnp.asarray(theta)))
    for t, expected in ((0.0, each[0]), (0.5, each[1]), (0.2, 0.6 * each[0] + 0.4 * each[1])):
        np.testing.assert_allclose(evaluate(jnp.asarray(t)), expected, rtol=1e-6)


def test_kernel_score_of_a_gaussian_sample():
    """s/(1 + h²) for a sample of even quantiles: a score error of −h²/(1 + h²); not s itself."""
    quantiles = ndtri((np.arange(2000) + 0.5) / 2000)
    score = KernelScore(np.stack([quantiles, quantiles])[..., None], [0.0, 1.0], 0.4)
    evaluate = jax.jit(lambda x: score(jnp.asarray(0.3), x))
    for x in (-1.5, 0.7):
        found = float(evaluate(jnp.asarray([x]))[0])
        assert found == pytest.approx(-x / 1.16, rel=5e-3)
    silverman = KernelScore(np.stack([quantiles, quantiles])[..., None], [0.0, 1.0])
    assert float(silverman.bandwidth) == pytest.approx((4 / 6000) ** 0.2)
