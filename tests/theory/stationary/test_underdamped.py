"""The underdamped SDE of heavy ball: scalar values, its Lyapunov equation, and order in η."""

import numpy as np
import pytest

from sde_sgd.theory.stationary import (
    linear_covariance,
    momentum_covariance,
    underdamped_covariance,
)

HESS = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, -0.4], [0.0, -0.4, 0.7]])
NOISE = np.array([[1.0, 0.8, 0.1], [0.8, 1.5, 0.0], [0.1, 0.0, 0.3]])
SCALE = np.array([[1.0, 0.2, 0.0], [0.2, 0.6, 0.1], [0.0, 0.1, 1.7]])


@pytest.mark.parametrize(
    "eta, mu, c, value", [(1.0, 0.0, 1.0, 0.5), (0.5, 0.9, 1.0, 2.5), (1.5, 0.5, 2.0, 3.0)]
)
def test_scalar(eta, mu, c, value):
    """Var = ηC/(2h(1−μ)): the values of the overdamped limit, ½, 2.5 and 3."""
    joint = underdamped_covariance([[1.0]], [[c]], learning_rate=eta, momentum=mu, joint=True)
    np.testing.assert_allclose(joint, [[value, 0], [0, value / eta]], atol=1e-12)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("preconditioner", [None, SCALE])
def test_kronecker(mu, preconditioner):
    """(A⊗1 + 1⊗A) vec S = −vec Q of the equation as printed, by brute force."""
    eta, eye = 0.2, np.eye(3)
    scale = eye if preconditioner is None else preconditioner
    drift = np.block([[0 * eye, eye], [-scale @ HESS / eta, -(1 - mu) / eta * eye]])
    push = np.zeros((6, 6))
    push[3:, 3:] = scale @ NOISE @ scale / eta
    big = np.kron(drift, np.eye(6)) + np.kron(np.eye(6), drift)
    exact = np.linalg.solve(big, -push.ravel()).reshape(6, 6)
    options = {"learning_rate": eta, "momentum": mu, "preconditioner": preconditioner}
    joint = underdamped_covariance(HESS, NOISE, joint=True, **options)
    np.testing.assert_allclose(joint, exact, atol=1e-11)
    theta = underdamped_covariance(HESS, NOISE, **options)
    np.testing.assert_allclose(theta, exact[:3, :3], atol=1e-11)


def test_first_order_in_the_learning_rate():
    """The chain's covariance over η approaches the equation's at relative order η, fixed μ."""
    gaps = []
    for eta in (0.02, 0.01):
        options = {"learning_rate": eta, "momentum": 0.6, "preconditioner": SCALE}
        chain = momentum_covariance(HESS, NOISE, **options)
        flow = underdamped_covariance(HESS, NOISE, **options)
        gaps.append(np.abs(chain - flow).max() / np.abs(flow).max())
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)


def test_not_overdamped():
    """In d > 1 it is not the first-order SDE at η/(1−μ), unless H and C commute."""
    options = {"learning_rate": 0.5, "momentum": 0.5}
    for noise, agrees in ((NOISE, False), (HESS @ HESS, True)):
        flow = underdamped_covariance(HESS, noise, **options)
        overdamped = linear_covariance(HESS, noise, learning_rate=0.5 / (1 - 0.5))
        assert np.allclose(flow, overdamped, rtol=1e-9) == agrees


@pytest.mark.parametrize(
    "change, match",
    [
        ({"momentum": 1.0}, "momentum"),
        ({"hessian": np.diag([1.0, 0.0])}, "positive definite"),
        ({"preconditioner": np.diag([1.0, -1.0])}, "positive definite"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_refuses(change, match):
    """Numbers and matrices that are not as said raise `ValueError`."""
    good = {"hessian": np.eye(2), "gradient_noise": np.eye(2)}
    good |= {"learning_rate": 0.1, "momentum": 0.5}
    with pytest.raises(ValueError, match=match):
        underdamped_covariance(**(good | change))
