"""Constant-noise moments: numbers of the literature, residuals, and direct iteration."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import expm

from sde_sgd.theory.stationary import (
    linear_covariance,
    linear_transient,
    momentum_covariance,
)

HESS = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, -0.4], [0.0, -0.4, 0.7]])
NOISE = np.array([[1.0, 0.8, 0.1], [0.8, 1.5, 0.0], [0.1, 0.0, 0.3]])
SCALE = np.array([[1.0, 0.2, 0.0], [0.2, 0.6, 0.1], [0.0, 0.1, 1.7]])
START = np.array([1.0, -2.0, 0.5])
MINIMUM = np.array([0.3, 0.1, -0.7])


def iterate(matrix, noise, steps, mean, covariance):
    """x ← F x + ξ, Cov ξ = noise, by literal repetition."""
    for _ in range(steps):
        mean, covariance = matrix @ mean, matrix @ covariance @ matrix.T + noise
    return mean, covariance


@pytest.mark.parametrize("time_step", [0.0, 0.05, 0.4])
def test_stationary_covariance_solves_its_equation(time_step):
    """HM + MH − h HMH = η C."""
    m = linear_covariance(HESS, NOISE, learning_rate=0.4, time_step=time_step)
    residual = HESS @ m + m @ HESS - time_step * HESS @ m @ HESS - 0.4 * NOISE
    assert np.abs(residual).max() < 1e-14
    assert np.linalg.eigvalsh(m)[0] > 0


def test_euler_chain_forgets_its_start():
    """θ ← (I − hH)θ + √(hη) C^{1/2} ξ converges to M."""
    _, m = iterate(np.eye(3) - 0.1 * HESS, 0.1 * 0.4 * NOISE, 2000, START, np.zeros((3, 3)))
    predicted = linear_covariance(HESS, NOISE, learning_rate=0.4, time_step=0.1)
    np.testing.assert_allclose(predicted, m, rtol=1e-12)


def test_two_temperatures():
    """H = diag(1, 3), C = [[1, .8], [.8, 1]]: M = η [[.5, .2], [.2, 1/6]]; SGD at .1: .2162 η."""
    hess, noise = np.diag([1.0, 3.0]), np.array([[1.0, 0.8], [0.8, 1.0]])
    m = linear_covariance(hess, noise, learning_rate=0.1)
    np.testing.assert_allclose(m, 0.1 * np.array([[0.5, 0.2], [0.2, 1 / 6]]), rtol=1e-14)
    sgd = linear_covariance(hess, noise, learning_rate=0.1, time_step=0.1)
    assert sgd[0, 1] / 0.1 == pytest.approx(0.2162, abs=5e-5)


HEAVY_BALL = [(1.0, 0.0, 1.0, 1.0, 1.0, 0.5), (0.5, 0.9, 1.0, 1.0, 2.878788, 2.5)]
HEAVY_BALL += [(1.5, 0.5, 1.0, 2.0, 6.0, 3.0)]


@pytest.mark.parametrize("eta, mu, h, c, discrete, ou", HEAVY_BALL)
def test_scalar_heavy_ball(eta, mu, h, c, discrete, ou):
    """Var = ηC(1+μ)/[(1−μ)h(2(1+μ) − ηh)], and the overdamped OU limit ηC/(2h(1−μ))."""
    value = momentum_covariance([[h]], [[c]], learning_rate=eta, momentum=mu)[0, 0]
    formula = eta * c * (1 + mu) / ((1 - mu) * h * (2 * (1 + mu) - eta * h))
    assert value == pytest.approx(formula, rel=1e-12)
    assert value == pytest.approx(discrete, abs=5e-7)
    overdamped = linear_covariance([[h]], [[c]], learning_rate=eta / (1 - mu))[0, 0]
    assert overdamped == pytest.approx(ou, rel=1e-14)
    assert abs(overdamped / value - 1) > 0.1  # control: the OU limit is not the chain


def momentum_residual(m, rate, mu, hess, noise, sign=1.0):
    """Left side minus right side of the equation of Liu, Ziyin, Ueda, Λ = `rate`."""
    lh, hl = rate @ hess, hess @ rate
    left = (1 - mu) * (lh @ m + m @ hl) - sign * (1 + mu**2) / (1 - mu**2) * lh @ m @ hl
    left = left + mu / (1 - mu**2) * (lh @ lh @ m + m @ hl @ hl)
    return np.abs(left - rate @ noise @ rate).max()


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("preconditioner", [None, SCALE])
def test_momentum_equation(mu, preconditioner):
    """(1−μ)(ΛHM+MHΛ) − (1+μ²)/(1−μ²) ΛHMHΛ + μ/(1−μ²)(ΛHΛHM + MHΛHΛ) = ΛCΛ."""
    m = momentum_covariance(
        HESS, NOISE, learning_rate=0.3, momentum=mu, preconditioner=preconditioner
    )
    rate = 0.3 * (np.eye(3) if preconditioner is None else preconditioner)
    assert momentum_residual(m, rate, mu, HESS, NOISE) < 1e-13
    assert momentum_residual(m, rate, mu, HESS, NOISE, sign=-1.0) > 1e-3  # control


def test_momentum_joint_is_the_fixed_point_of_the_recursion():
    """m ← μm + Hθ + ξ, θ ← θ − ηPm, iterated: the joint covariance of (θ, m)."""
    eta, mu = 0.3, 0.7
    joint = momentum_covariance(
        HESS, NOISE, learning_rate=eta, momentum=mu, preconditioner=SCALE, joint=True
    )
    buffer = np.hstack([HESS, mu * np.eye(3)])
    step = np.vstack([np.hstack([np.eye(3), np.zeros((3, 3))]) - eta * SCALE @ buffer, buffer])
    push = np.vstack([-eta * SCALE, np.eye(3)])
    _, cov = iterate(step, push @ NOISE @ push.T, 800, np.zeros(6), np.zeros((6, 6)))
    np.testing.assert_allclose(joint, cov, atol=1e-12)


def test_momentum_zero_is_sgd():
    """μ = 0: heavy ball is SGD, h = η."""
    ball = momentum_covariance(HESS, NOISE, learning_rate=0.4, momentum=0.0)
    sgd = linear_covariance(HESS, NOISE, learning_rate=0.4, time_step=0.4)
    np.testing.assert_allclose(ball, sgd, rtol=1e-12)


def test_transient_steps():
    """E θ and Cov θ after n steps of θ ← θ − hH(θ − θ*) + √(hη) C^{1/2} ξ, times in any order."""
    h, eta, steps = 0.1, 0.4, [7, 0, 1, 40]
    found = linear_transient(
        HESS,
        NOISE,
        learning_rate=eta,
        time_step=h,
        times=h * np.array(steps),
        theta0=START,
        minimum=MINIMUM,
    )
    for i, n in enumerate(steps):
        mean, cov = iterate(
            np.eye(3) - h * HESS, h * eta * NOISE, n, START - MINIMUM, np.zeros((3, 3))
        )
        np.testing.assert_allclose(found.mean[i], MINIMUM + mean, atol=1e-14)
        np.testing.assert_allclose(found.covariance[i], cov, atol=1e-14)


@pytest.mark.parametrize("curvature", [[1.0, 2.0], [0.0, 1.0], [-0.5, 0.5], [1e-13, 3.0]])
def test_transient_continuous(curvature):
    """Cov(t) = η ∫₀ᵗ e^{−Hs} C e^{−Hs} ds, by the block exponential of Van Loan."""
    hess, noise, t = np.diag(curvature), NOISE[:2, :2], 1.7
    found = linear_transient(
        hess, noise, learning_rate=0.2, time_step=0.0, times=[t], theta0=[1.0, -1.0]
    )
    block = expm(t * np.block([[hess, 0.2 * noise], [np.zeros((2, 2)), -hess]]))
    cov = block[2:, 2:].T @ block[:2, 2:]
    np.testing.assert_allclose(found.covariance[0], cov, atol=1e-13)
    np.testing.assert_allclose(found.mean[0], expm(-t * hess) @ [1.0, -1.0], atol=1e-14)


@pytest.mark.parametrize("curvature", [0.0, 1e-12, 4.0, 10.0, 12.0, 20.0, -1.0])
def test_transient_scalar_at_every_contraction(curvature):
    """Cov_n = hη C Σ_{k<n} (1 − hλ)^{2k}: flat, critical, oscillating and unstable steps."""
    found = linear_transient(
        [[curvature]], [[2.0]], learning_rate=0.3, time_step=0.1, times=[0.5], theta0=[1.0]
    )
    geometric = sum((1 - 0.1 * curvature) ** (2 * k) for k in range(5))
    np.testing.assert_allclose(found.covariance[0, 0, 0], 0.1 * 0.3 * 2 * geometric, rtol=1e-12)


def test_transient_reaches_stationary():
    """t → ∞ is `linear_covariance`; h = 0 and h = η are told apart."""
    late = {}
    for h in (0.0, 0.4):
        moments = linear_transient(
            HESS, NOISE, learning_rate=0.4, time_step=h, times=[200.0], theta0=START
        )
        late[h] = moments.covariance[0]
        exact = linear_covariance(HESS, NOISE, learning_rate=0.4, time_step=h)
        np.testing.assert_allclose(late[h], exact, rtol=1e-12)
    assert np.abs(late[0.4] / late[0.0] - 1).max() > 0.1


BAD = [
    ({"hessian": np.ones((2, 3))}, "square"),
    ({"hessian": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
    ({"hessian": [[1.0, np.nan], [np.nan, 1.0]]}, "not finite"),
    ({"hessian": np.diag([1.0, 0.0])}, "positive definite"),
    ({"hessian": np.diag([1.0, -1.0])}, "positive definite"),
    ({"hessian": np.ones(2)}, "2 non-empty axes"),
    ({"hessian": np.eye(2) + 1j}, "real"),
    ({"gradient_noise": np.eye(3)}, r"\(2, 2\)"),
    ({"gradient_noise": np.diag([1.0, -1.0])}, "semidefinite"),
    ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0"),
    ({"learning_rate": np.inf}, "learning_rate"),
]


@pytest.mark.parametrize("change, match", BAD + [({"time_step": -0.1}, "time_step")])
def test_stationary_refuses(change, match):
    """Wrong shapes, symmetry, signs and numbers raise `ValueError`."""
    good: dict[str, Any] = {"hessian": np.eye(2), "gradient_noise": np.eye(2), "learning_rate": 0.1}
    with pytest.raises(ValueError, match=match):
        linear_covariance(**(good | change))


MOMENTUM_BAD = [
    ({"momentum": 1.0}, "0 <= momentum < 1"),
    ({"momentum": -0.1}, "momentum"),
    ({"learning_rate": 3.0}, "learning_rate < 3"),
    ({"preconditioner": np.diag([1.0, 0.0])}, "positive definite"),
]


@pytest.mark.parametrize("change, match", BAD + MOMENTUM_BAD)
def test_momentum_refuses(change, match):
    """The same faults, and η λ_max ≥ 2(1 + μ)."""
    good: dict[str, Any] = {
        "hessian": np.eye(2),
        "gradient_noise": np.eye(2),
        "learning_rate": 0.1,
        "momentum": 0.5,
    }
    with pytest.raises(ValueError, match=match):
        momentum_covariance(**(good | change))


def test_unstable_step_names_the_way_out():
    """h λ_max ≥ 2 has no stationary law."""
    with pytest.raises(ValueError, match=r"= 2 must be < 2.*time_step < 0.5"):
        linear_covariance(np.diag([1.0, 4.0]), np.eye(2), learning_rate=0.5, time_step=0.5)


@pytest.mark.parametrize("times", [[0.15], [-0.1], [np.nan], [[0.1]], []])
def test_transient_refuses_times(times):
    """Times between two steps, negative, not finite, or of the wrong shape raise."""
    with pytest.raises(ValueError, match="times"):
        linear_transient(HESS, NOISE, learning_rate=0.1, time_step=0.1, times=times, theta0=START)
