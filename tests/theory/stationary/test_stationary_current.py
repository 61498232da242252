"""Currents and entropy production against the densities and kernels that define them."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sde_sgd.theory.stationary import linear_covariance, stationary_current

HESS, NOISE = np.diag([1.0, 3.0]), np.array([[1.0, 0.8], [0.8, 1.0]])
GENERAL = (
    np.array([[1.0, 0.3, 0.0], [0.3, 2.0, -0.4], [0.0, -0.4, 0.7]]),
    np.array([[1.0, 0.8, 0.1], [0.8, 1.5, 0.0], [0.1, 0.0, 0.3]]),
)


def test_continuous():
    """M = η[[.5, .2], [.2, 1/6]], areal velocity −.2η, entropy production 16/9 per unit t."""
    found = stationary_current(HESS, NOISE, learning_rate=0.1)
    np.testing.assert_allclose(found.covariance, 0.1 * np.array([[0.5, 0.2], [0.2, 1 / 6]]))
    np.testing.assert_allclose(found.areal_velocity, 0.1 * np.array([[0, -0.2], [0.2, 0]]))
    assert found.entropy_production == pytest.approx(16 / 9, rel=1e-13)


@pytest.mark.parametrize("eta, rate, area", [(0.1, 1.9219, 0.2162), (0.05, 1.8470, 0.2078)])
def test_finite_learning_rate(eta, rate, area):
    """Discrete Gaussian SGD: 1.9219 and −.2162η at η = .1, 1.8470 at .05; neither is 16/9."""
    found = stationary_current(HESS, NOISE, learning_rate=eta, time_step=eta)
    assert found.entropy_production == pytest.approx(rate, abs=5e-5)
    assert found.areal_velocity[0, 1] / eta == pytest.approx(-area, abs=5e-5)
    assert abs(found.entropy_production - 16 / 9) > 0.06


@pytest.mark.parametrize("h", [0.1, 0.02])
@pytest.mark.parametrize("hess, noise", [(HESS, NOISE), GENERAL])
def test_functional_is_the_log_ratio(hess, noise, h):
    """σ(x, x') = log p(x)P(x→x') − log p(x')P(x'→x) with scipy's Gaussians; antisymmetric."""
    eta = 0.1
    found = stationary_current(hess, noise, learning_rate=eta, time_step=h)
    generator = np.random.default_rng(3)
    before, after = 0.3 * generator.normal(size=(2, 5, len(hess)))
    kernel = multivariate_normal(np.zeros(len(hess)), h * eta * noise)
    law = multivariate_normal(
        np.zeros(len(hess)), linear_covariance(hess, noise, learning_rate=eta, time_step=h)
    )
    step = np.eye(len(hess)) - h * hess
    forward = law.logpdf(before) + kernel.logpdf(after - before @ step)
    backward = law.logpdf(after) + kernel.logpdf(before - after @ step)
    sigma = found.step_entropy(before, after)
    np.testing.assert_allclose(sigma, forward - backward, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.step_entropy(after, before), -sigma, rtol=1e-12)
    on_jax = found.step_entropy(jnp.asarray(before), jnp.asarray(after))
    np.testing.assert_allclose(on_jax, sigma, rtol=1e-12, atol=1e-12)


def path_law(found, hess, noise, eta, h, steps):
    """Covariance of (x_0, …, x_n), and W with Σσ = ½zᵀWz."""
    dim, step = len(hess), np.eye(len(hess)) - h * hess
    powers = [np.linalg.matrix_power(step, k) for k in range(steps + 1)]
    block = [
        [
            powers[max(i - j, 0)] @ found.covariance @ powers[max(j - i, 0)].T
            for j in range(steps + 1)
        ]
        for i in range(steps + 1)
    ]
    weight = np.zeros((dim * (steps + 1), dim * (steps + 1)))
    functional = found.step_entropy
    for k in range(steps):
        a, b = slice(k * dim, (k + 1) * dim), slice((k + 1) * dim, (k + 2) * dim)
        weight[a, a] += functional.boundary
        weight[b, b] -= functional.boundary
        weight[b, a] += functional.circulation
        weight[a, b] += functional.circulation.T
    return np.block(block), weight


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("hess, noise", [(HESS, NOISE), GENERAL])
def test_fluctuation_theorem(hess, noise, steps):
    """⟨e^{−σ}⟩ = det(1 + S W)^{−½} = 1 and ⟨σ⟩ = ½ tr SW over n steps; not with another η."""
    eta = h = 0.1
    found = stationary_current(hess, noise, learning_rate=eta, time_step=h)
    covariance, weight = path_law(found, hess, noise, eta, h, steps)
    assert np.linalg.det(np.eye(len(weight)) + covariance @ weight) == pytest.approx(1, abs=1e-9)
    mean = np.trace(covariance @ weight) / 2
    assert mean == pytest.approx(found.entropy_production * h * steps, rel=1e-10)
    wrong = stationary_current(hess, noise, learning_rate=eta, time_step=0.0)
    other, _ = path_law(wrong, hess, noise, eta, h, steps)
    assert abs(np.linalg.det(np.eye(len(weight)) + other @ weight) - 1) > 1e-3  # control


@pytest.mark.parametrize("h", [0.0, 0.1])
@pytest.mark.parametrize("hess, noise", [(HESS, NOISE), GENERAL])
def test_current_of_the_definition(hess, noise, h):
    """K = (E[x'|x] − E[x₋|x])/2h and areas ½⟨x_i x'_j − x_j x'_i⟩/h; −H + D M⁻¹ for h = 0."""
    eta = 0.1
    found = stationary_current(hess, noise, learning_rate=eta, time_step=h)
    m = found.covariance
    if h == 0:
        drift = -hess + eta / 2 * noise @ np.linalg.inv(m)
        np.testing.assert_allclose(found.velocity, drift, atol=1e-12)
        area = (m @ drift.T - drift @ m) / 2
        local = np.linalg.solve(eta / 2 * noise, drift)
        rate = np.trace(drift.T @ local @ m)
        assert found.entropy_production == pytest.approx(rate, rel=1e-10)
        # The probability current Kx p has no divergence.
        assert np.trace(drift) == pytest.approx(0, abs=1e-12)
        twist = drift.T @ np.linalg.inv(m)
        np.testing.assert_allclose(twist + twist.T, 0, atol=1e-10)
    else:
        step = np.eye(len(hess)) - h * hess
        pair = m @ step.T  # E x x'ᵀ
        backward = np.linalg.solve(m, step @ m).T  # E[x₋|x]
        np.testing.assert_allclose(found.velocity, (step - backward) / (2 * h), atol=1e-12)
        area = (pair - pair.T) / (2 * h)
    np.testing.assert_allclose(found.areal_velocity, area, atol=1e-12)


def test_equilibrium():
    """HC = CH: no current and no entropy production, at any h."""
    noise = HESS @ HESS + 0.3 * np.eye(2)
    for h in (0.0, 0.1):
        found = stationary_current(HESS, noise, learning_rate=0.1, time_step=h)
        np.testing.assert_allclose(found.velocity, 0, atol=1e-14)
        assert found.entropy_production == pytest.approx(0, abs=1e-12)
        assert np.abs(found.step_entropy.circulation).max() < 1e-12


def test_transposed_root_is_a_control():
    """Noise through Rᵀ instead of R, C = RRᵀ Cholesky: areal velocity −.12η, not −.2η."""
    root = np.linalg.cholesky(NOISE)
    right, wrong = (
        stationary_current(HESS, c, learning_rate=1.0).areal_velocity[0, 1]
        for c in (root @ root.T, root.T @ root)
    )
    assert right == pytest.approx(-0.2)
    assert wrong == pytest.approx(-0.12)


def test_small_steps_lose_no_digits():
    """h = 1e-8 is the SDE to 1e-7."""
    near = stationary_current(HESS, NOISE, learning_rate=0.1, time_step=1e-8)
    assert near.entropy_production == pytest.approx(16 / 9, rel=1e-7)


def test_refuses():
    """A direction without noise, unstable steps and bad matrices."""
    with pytest.raises(ValueError, match="entropy production is infinite"):
        stationary_current(HESS, np.diag([1.0, 0.0]), learning_rate=0.1)
    with pytest.raises(ValueError, match="no stationary covariance"):
        stationary_current(HESS, NOISE, learning_rate=0.7, time_step=0.7)
    with pytest.raises(ValueError, match="symmetric"):
        stationary_current(np.array([[1.0, 0.5], [0.0, 1.0]]), NOISE, learning_rate=0.1)
