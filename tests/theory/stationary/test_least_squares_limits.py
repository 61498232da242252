"""Finite-sum least squares: weak orders, symmetries, flat directions, sizes and refusals."""

import time
from typing import Any

import closed_forms
import numpy as np
import pytest

N, D, ETA = 5, 2, 0.12
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=N)
THETA0 = np.array([1.5, -0.8])

MODIFIED = [
    (4, (1.181e-2, 4.869e-4, 7.40e-3, 1.371e-3)),
    (5, (5.824e-3, 1.207e-4, 3.97e-3, 3.383e-4)),
]


@pytest.mark.parametrize("power, published", MODIFIED)
def test_modified_equations_weak_error(power, published):
    """½(x − γ)², γ = ±1, x0 = 1, T = 1: errors of E x and E x² at η = 2^−power, orders 1, 2."""
    eta = 2.0**-power
    options: dict[str, Any] = {
        "learning_rate": eta,
        "noise_factor": 1.0,
        "times": [1.0],
        "theta0": [1.0],
    }
    data = np.ones((2, 1)), np.array([1.0, -1.0])
    sgd = closed_forms.transient(*data, time_step=eta, **options)
    errors = []
    for order in (1, 2):
        sde = closed_forms.transient(*data, time_step=0.0, order=order, **options)
        first = sde.mean - sgd.mean
        second = sde.covariance[:, 0] + sde.mean**2 - sgd.covariance[:, 0] - sgd.mean**2
        errors.append((abs(first.item()), abs(second.item())))
    found = (errors[0][0], errors[1][0], errors[0][1], errors[1][1])
    np.testing.assert_allclose(found, published, rtol=2e-3)


def test_second_order_equation_has_the_worse_stationary_variance():
    """Order 1: η/2, order 2: η/(2 + η), SGD: η/(2 − η)."""
    eta, data = 0.25, (np.ones((2, 1)), np.array([1.0, -1.0]))
    options: dict[str, Any] = {"learning_rate": eta, "noise_factor": 1.0}
    value = [
        closed_forms.covariance(*data, time_step=h, order=order, **options)[0, 0]
        for h, order in ((0.0, 1), (0.0, 2), (eta, 1))
    ]
    np.testing.assert_allclose(value, [eta / 2, eta / (2 + eta), eta / (2 - eta)], rtol=1e-14)


@pytest.mark.parametrize("order", [1, 2])
def test_weak_order_on_finite_sums(order):
    """SGD minus the modified equation is O(η^order) in E θ and E θθᵀ at T = 1."""
    etas, errors = 2.0 ** -np.arange(5, 10), []
    for eta in etas:
        options: dict[str, Any] = {
            "learning_rate": eta,
            "noise_factor": 0.5,
            "times": [1.0],
            "theta0": THETA0,
            "l2": 0.3,
        }
        sgd = closed_forms.transient(X, Y, time_step=eta, **options)
        sde = closed_forms.transient(X, Y, time_step=0.0, order=order, **options)
        second = sgd.covariance - sde.covariance
        second = second + np.outer(sgd.mean, sgd.mean) - np.outer(sde.mean, sde.mean)
        errors.append((np.abs(sgd.mean - sde.mean).max(), np.abs(second).max()))
    slopes = np.diff(np.log(errors), axis=0)[-1] / np.diff(np.log(etas))[-1]
    np.testing.assert_allclose(slopes[0], order, atol=0.05)
    np.testing.assert_allclose(slopes[1], order, atol=0.05)


def test_flat_directions():
    """N < d: no stationary law without l2, flat directions never move, the rest is unchanged."""
    x = np.hstack([X, np.zeros((N, 1))]) @ np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    options: dict[str, Any] = {"learning_rate": ETA, "noise_factor": 0.5, "time_step": ETA}
    with pytest.raises(ValueError, match="1 of 3 directions"):
        closed_forms.covariance(x, Y, **options)
    with pytest.raises(ValueError, match="1 of 3 directions"):
        closed_forms.mean(x, Y)
    low, high = (closed_forms.growth(inputs, **options) for inputs in (X, x))
    assert high == pytest.approx(low, rel=1e-12)
    assert closed_forms.largest_stable(x, noise_factor=0.5) == pytest.approx(
        closed_forms.largest_stable(X, noise_factor=0.5), rel=1e-12
    )
    few = X[:1] / np.linalg.norm(X[0])
    start = np.array([1.0, 2.0])
    flat = np.array([-few[0, 1], few[0, 0]])
    found = closed_forms.transient(few, Y[:1], times=[600 * ETA], theta0=start, **options)
    assert found.mean[0] @ flat == pytest.approx(start @ flat, abs=1e-13)
    assert (few @ found.mean[0])[0] == pytest.approx(Y[0], abs=1e-12)
    penalised = closed_forms.covariance(x, Y, l2=0.1, **options)
    assert np.linalg.matrix_rank(penalised, tol=1e-12) == 2


def test_rotation_covariance():
    """Rotating the features, X → XQ, rotates the covariance, M → QᵀMQ."""
    q = np.linalg.qr(RNG.normal(size=(D, D)))[0]
    options: dict[str, Any] = {
        "learning_rate": ETA,
        "noise_factor": 0.5,
        "time_step": ETA / 2,
        "l2": 0.2,
    }
    m = closed_forms.covariance(X, Y, **options)
    rotated = closed_forms.covariance(X @ q, Y, **options)
    np.testing.assert_allclose(rotated, q.T @ m @ q, atol=1e-14)


def test_many_examples_in_blocks():
    """N beyond one block of rows: the residual of the stationary equation vanishes."""
    x, y = RNG.normal(size=(5000, 3)), RNG.normal(size=5000)
    m = closed_forms.covariance(x, y, learning_rate=0.3, noise_factor=0.25, time_step=0.3)
    a = x.T @ x / 5000
    seen = np.einsum("ni,nj,jk,nk,nl->il", x, x, m, x, x, optimize=True) / 5000
    gradients = x * (x @ closed_forms.mean(x, y) - y)[:, None]
    left = a @ m + m @ a - 0.3 * a @ m @ a - 0.3 * 0.25 * (seen - a @ m @ a)
    np.testing.assert_allclose(left, 0.075 * np.cov(gradients.T, bias=True), atol=1e-13)


def test_twenty_features_take_less_than_a_second():
    """d = 20 stationary law in under a second of processor time per core."""
    x, y = RNG.normal(size=(300, 20)), RNG.normal(size=300)
    begin = time.process_time()
    closed_forms.covariance(x, y, learning_rate=0.05, noise_factor=0.1, time_step=0.05)
    assert time.process_time() - begin < 2.0


def test_unstable_names_the_growth_and_the_way_out():
    """Above η_max the error states the rate below which the process is stable."""
    limit = closed_forms.largest_stable(X, noise_factor=0.5)
    rate = 1.1 * limit
    options: dict[str, Any] = {"learning_rate": rate, "noise_factor": 0.5, "time_step": rate}
    with pytest.raises(ValueError, match=rf"SGD grow .*stable below {limit:.6g}"):
        closed_forms.covariance(X, Y, **options)
    with pytest.raises(ValueError, match="stable below"):
        closed_forms.covariance(
            X, Y, momentum=0.5, learning_rate=9.0, noise_factor=0.5, time_step=9.0
        )
    with pytest.raises(ValueError, match="ModifiedEquation grow|ContinuousLimit grow"):
        closed_forms.covariance(X, Y, learning_rate=50.0, noise_factor=1.0, time_step=0.0)
    with pytest.raises(ValueError, match=rf"moments overflow.*rate is {limit:.6g}"):
        closed_forms.transient(X, Y, times=[rate * 10**6], theta0=THETA0, **options)


@pytest.mark.parametrize("change", [{"times": [0.3]}, {"times": [-ETA]}, {"theta0": [1.0]}])
def test_transient_refuses(change):
    """Times between two steps or negative, and a θ0 of another dimension, raise."""
    good: dict[str, Any] = {"learning_rate": ETA, "noise_factor": 0.5, "time_step": ETA}
    good |= {"times": [ETA], "theta0": THETA0}
    with pytest.raises(ValueError, match="times|theta0"):
        closed_forms.transient(X, Y, **(good | change))


def test_many_directions_are_refused():
    """Noise that depends on θ needs d⁴ numbers: for d ≤ 64, with the way out."""
    with pytest.raises(ValueError, match="d ≤ 64.*ConstantNoise.at"):
        closed_forms.covariance(
            np.ones((5, 65)), Y, learning_rate=1e-3, noise_factor=0.5, time_step=1e-3
        )
