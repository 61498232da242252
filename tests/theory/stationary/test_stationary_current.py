"""Currents and entropy production against the densities and kernels that define them."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov
from scipy.stats import multivariate_normal

import sde_sgd as ss
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory.stationary import (
    areal_velocity,
    covariance,
    linear_covariance,
    stationary_current,
)

HESS, NOISE = np.diag([1.0, 3.0]), np.array([[1.0, 0.8], [0.8, 1.0]])
GENERAL = (
    np.array([[1.0, 0.3, 0.0], [0.3, 2.0, -0.4], [0.0, -0.4, 0.7]]),
    np.array([[1.0, 0.8, 0.1], [0.8, 1.5, 0.0], [0.1, 0.0, 0.3]]),
)


def process_of(hess, noise, eta, h, order=1):
    """Gaussian SGD at h = η, Euler's scheme at h = η/m, the equation for h = 0."""
    landscape, model = ss.quadratic(hess, np.eye(len(hess))), ss.ConstantNoise(noise)
    if h == eta and order == 1:
        return ss.GaussianSGD(landscape, eta, model)
    substeps = round(eta / h) if h else 1
    equation = ss.ModifiedEquation(landscape, eta, model, order=order, substeps=substeps)
    return equation if h else equation.limit()


def current_of(hess, noise, eta, h):
    return stationary_current(process_of(hess, noise, eta, h))


def test_continuous():
    """M = η[[.5, .2], [.2, 1/6]], areal velocity −.2η, entropy production 16/9 per unit t."""
    found = current_of(HESS, NOISE, 0.1, 0.0)
    np.testing.assert_allclose(found.covariance, 0.1 * np.array([[0.5, 0.2], [0.2, 1 / 6]]))
    np.testing.assert_allclose(found.areal_velocity, 0.1 * np.array([[0, -0.2], [0.2, 0]]))
    assert found.entropy_production == pytest.approx(16 / 9, rel=1e-13)


@pytest.mark.parametrize("eta, rate, area", [(0.1, 1.9219, 0.2162), (0.05, 1.8470, 0.2078)])
def test_finite_learning_rate(eta, rate, area):
    """Discrete Gaussian SGD: 1.9219 and −.2162η at η = .1, 1.8470 at .05; neither is 16/9."""
    found = current_of(HESS, NOISE, eta, eta)
    assert found.entropy_production == pytest.approx(rate, abs=5e-5)
    assert found.areal_velocity[0, 1] / eta == pytest.approx(-area, abs=5e-5)
    assert abs(found.entropy_production - 16 / 9) > 0.06


@pytest.mark.parametrize("h", [0.1, 0.02])
@pytest.mark.parametrize("hess, noise", [(HESS, NOISE), GENERAL])
def test_functional_is_the_log_ratio(hess, noise, h):
    """σ(x, x') = log p(x)P(x→x') − log p(x')P(x'→x) with scipy's Gaussians; antisymmetric."""
    eta = 0.1
    found = current_of(hess, noise, eta, h)
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
    found = current_of(hess, noise, eta, h)
    covariance, weight = path_law(found, hess, noise, eta, h, steps)
    assert np.linalg.det(np.eye(len(weight)) + covariance @ weight) == pytest.approx(1, abs=1e-9)
    mean = np.trace(covariance @ weight) / 2
    assert mean == pytest.approx(found.entropy_production * h * steps, rel=1e-10)
    wrong = current_of(hess, noise, eta, 0.0)
    other, _ = path_law(wrong, hess, noise, eta, h, steps)
    assert abs(np.linalg.det(np.eye(len(weight)) + other @ weight) - 1) > 1e-3  # control


@pytest.mark.parametrize("h", [0.0, 0.1])
@pytest.mark.parametrize("hess, noise", [(HESS, NOISE), GENERAL])
def test_current_of_the_definition(hess, noise, h):
    """K = (E[x'|x] − E[x₋|x])/2h and areas ½⟨x_i x'_j − x_j x'_i⟩/h; −H + D M⁻¹ for h = 0."""
    eta = 0.1
    found = current_of(hess, noise, eta, h)
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
        found = current_of(HESS, noise, 0.1, h)
        np.testing.assert_allclose(found.velocity, 0, atol=1e-14)
        assert found.entropy_production == pytest.approx(0, abs=1e-12)
        assert np.abs(found.step_entropy.circulation).max() < 1e-12


def test_transposed_root_is_a_control():
    """Noise through Rᵀ instead of R, C = RRᵀ Cholesky: areal velocity −.12η, not −.2η."""
    root = np.linalg.cholesky(NOISE)
    right, wrong = (
        current_of(HESS, c, 1.0, 0.0).areal_velocity[0, 1] for c in (root @ root.T, root.T @ root)
    )
    assert right == pytest.approx(-0.2)
    assert wrong == pytest.approx(-0.12)


def test_small_steps_lose_no_digits():
    """h = 1e-8 is the SDE to 1e-7."""
    near = current_of(HESS, NOISE, 0.1, 1e-8)
    assert near.entropy_production == pytest.approx(16 / 9, rel=1e-7)


@pytest.mark.parametrize("hess, noise", [(HESS, NOISE), GENERAL])
def test_second_order_and_overdamped_equations(hess, noise):
    """Order 2 has the curvature H + ηH²/2; overdamped motion H/(1 − μ) and C/(1 − μ)²."""
    eta, mu = 0.1, 0.5
    landscape, model = ss.quadratic(hess, np.eye(len(hess))), ss.ConstantNoise(noise)
    cases = (
        (process_of(hess, noise, eta, eta / 4, order=2), hess + eta / 2 * hess @ hess, noise),
        (
            ss.OverdampedEquation(landscape, eta, model, mu, substeps=4),
            hess / (1 - mu),
            noise / (1 - mu) ** 2,
        ),
    )
    for process, slope, spread in cases:
        for found, h in ((process, eta / 4), (process.limit(), 0.0)):
            found, exact = stationary_current(found), current_of(slope, spread, eta, h)
            np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-12)
            np.testing.assert_allclose(found.velocity, exact.velocity, atol=1e-13)
            rate = exact.entropy_production
            assert found.entropy_production == pytest.approx(rate, rel=1e-11)


INPUTS = np.array([[1.0, 0.3], [-0.4, 0.8], [0.2, -1.1], [0.9, 0.6], [0.1, 0.5]])
DATA = ss.LeastSquares(INPUTS, np.array([1.0, -0.5, 0.3, 0.2, -0.7]))


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_areal_velocity_of_batches(momentum):
    """½⟨x_i x'_j − x_j x'_i⟩/η over all batches, from 3000 steps of exact joint second moments."""
    eta, (inputs, targets) = 0.3, (np.asarray(part) for part in DATA.data)
    rest, dim = np.asarray(DATA.minimum()), 2
    pairs = [(i, j) for i in range(5) for j in range(5)]
    steps = []  # (u, m, 1) ← A (u, m, 1) of every batch
    for pair in pairs:
        x = inputs[list(pair)]
        hess, pull = x.T @ x / 2, x.T @ (x @ rest - targets[list(pair)]) / 2
        move = np.eye(5)
        move[2:4, :2], move[2:4, 2:4], move[2:4, 4] = hess, momentum * np.eye(2), pull
        move[:2] -= eta * move[2:4]
        steps.append(move)
    second = np.zeros((5, 5))
    second[4, 4] = 1.0
    for _ in range(3000):
        second = np.mean([a @ second @ a.T for a in steps], axis=0)
    onward = (np.mean(steps, axis=0) @ second)[:dim, :dim]  # E u' uᵀ
    exact = (onward.T - onward) / (2 * eta)
    found = areal_velocity(ss.SGD(DATA, eta, ss.WithReplacement(2), momentum))
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-13)
    assert abs(found[0, 1]) > 1e-5  # else nothing is checked


@pytest.mark.parametrize("h", [0.1, 0.025, 0.0])
def test_areal_velocity_is_that_of_the_current(h):
    """(HM − MH)/2, of the same process."""
    process = process_of(*GENERAL, 0.1, h)
    exact = stationary_current(process).areal_velocity
    np.testing.assert_allclose(areal_velocity(process), exact, atol=1e-14)


def test_areal_velocity_of_the_underdamped_equation():
    """½⟨θ_i V_j − θ_j V_i⟩ of the joint covariance of (θ, V), dθ = V dt."""
    eta, mu = 0.1, 0.5
    landscape, model = ss.quadratic(HESS, np.eye(2)), ss.ConstantNoise(NOISE)
    process = ss.UnderdampedEquation(landscape, eta, model, mu).limit()
    zero, eye = np.zeros((2, 2)), np.eye(2)
    drift = np.block([[zero, eye], [-HESS / eta, -(1 - mu) / eta * eye]])
    push = np.block([[zero, zero], [zero, NOISE / eta]])
    joint = solve_continuous_lyapunov(drift, -push)
    exact = (joint[:2, 2:] - joint[2:, :2]) / 2
    np.testing.assert_allclose(areal_velocity(process), exact, rtol=1e-10, atol=1e-14)


def test_about_a_point():
    """About θ: the Newton step's point of rest, and the Hessian and the noise there."""
    landscape = ss.LogisticRegression(INPUTS, np.array([0, 1, 1, 0, 1]), l2=0.5, bias=False)
    point = jnp.asarray(landscape.minimise(np.zeros(2)).theta)
    noise = ss.ConstantNoise.at(landscape, point, ss.WithReplacement(1))
    found = stationary_current(ss.GaussianSGD(landscape, 0.2, noise), point)
    hess = np.asarray(landscape.hessian(point))
    exact = current_of(hess, np.asarray(noise.matrix), 0.2, 0.2)
    np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-10)
    np.testing.assert_allclose(found.areal_velocity, exact.areal_velocity, atol=1e-13)
    assert found.entropy_production == pytest.approx(exact.entropy_production, rel=1e-8)


def test_minibatch_noise_of_one_hessian_is_constant():
    """Tilted copies of one quadratic: their noise is cΣ everywhere."""
    landscape, sampling = ss.quadratic(HESS, NOISE), ss.WithReplacement(2)
    found = stationary_current(ss.GaussianSGD(landscape, 0.1, ss.MinibatchNoise(sampling)))
    exact = current_of(HESS, NOISE / 2, 0.1, 0.1)
    np.testing.assert_allclose(found.velocity, exact.velocity, atol=1e-13)
    assert found.entropy_production == pytest.approx(exact.entropy_production, rel=1e-11)


def test_refuses():
    """A direction without noise, unstable steps, and what is not known, with what is."""
    with pytest.raises(ValueError, match="entropy production is infinite"):
        current_of(HESS, np.diag([1.0, 0.0]), 0.1, 0.0)
    with pytest.raises(ValueError, match="grow at learning_rate=0.7.*stable below 0.666"):
        current_of(HESS, NOISE, 0.7, 0.7)
    sampling = ss.WithReplacement(2)
    sgd = ss.SGD(DATA, 0.1, sampling)
    with pytest.raises(NotKnown, match="cannot be undone.*areal_velocity"):
        stationary_current(sgd)
    with pytest.raises(NotKnown, match="depends on θ.*ConstantNoise.at"):
        stationary_current(ss.GaussianSGD(DATA, 0.1, ss.MinibatchNoise(sampling)))
    constant = ss.ConstantNoise(NOISE)
    with pytest.raises(NotKnown, match="momentum"):
        stationary_current(ss.GaussianSGD(DATA, 0.1, constant, 0.5))
    with pytest.raises(NotKnown, match="shuffled epochs"):
        areal_velocity(ss.SGD(DATA, 0.1, ss.RandomReshuffling(1)))
    assert covariance(sgd).shape == areal_velocity(sgd).shape
