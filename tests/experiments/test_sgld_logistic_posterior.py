"""Samplers of a logistic posterior: its prediction, and the rows on exact and on wrong data."""

import numpy as np
import xarray as xr
from scipy.linalg import solve_discrete_lyapunov
from tools import call

import sde_sgd as ss
from experiments import sgld_logistic_posterior as logistic
from experiments.framework import put

CONFIG = logistic.Config()


def test_linear_noise():
    """b of θ ← θ − ηHθ + noise: SciPy's discrete Lyapunov equation at the mode; ∇L = 0 there."""
    theta, hess, sigma = logistic.parabola(CONFIG)
    gradient = call(logistic.landscape(CONFIG).gradient, theta)
    assert np.abs(gradient).max() < 1e-12
    eta, size, num = 0.4, 2, CONFIG.num_examples
    noise = eta**2 * (num - size) / (size * (num - 1)) * sigma + 2 * eta / num * np.eye(2)
    covariance = solve_discrete_lyapunov(np.eye(2) - eta * hess, noise)
    exact = np.trace(covariance @ hess) * num / 2 - 1
    found = logistic.linear_noise(CONFIG, "SGLD", eta, size)
    np.testing.assert_allclose(found, exact, rtol=1e-8)
    assert logistic.linear_noise(CONFIG, logistic.REFERENCE, eta, num) < 0.5 * exact


def data(heat):
    """Second moments (1 + b)·1 with b = heat[name]·η/B, and errors of 1 %."""
    variables = {}
    for name, size in logistic.cases(CONFIG):
        for eta in CONFIG.learning_rates:
            value = (1 + heat[name] * eta / size) * np.eye(2)
            found = ss.Estimate(value, np.full((2, 2), 0.01), CONFIG.ensemble_size)
            put(variables, logistic.label(name, eta, size), found, ("i", "j"))
    return xr.Dataset(variables)


def test_rows():
    """First-order biases pass; SGWORLD as hot as independent batches fails, and a wrong law."""
    heat = {"SGLD": 0.9, "SGWORLD": 0.4, "SGLD-CV": 0.1, logistic.REFERENCE: 0.0}
    predicted = logistic.predict(CONFIG)
    assert all(row.as_expected for row in logistic.check(CONFIG, data(heat), predicted))
    independent = logistic.check(CONFIG, data(heat | {"SGWORLD": 0.9}), predicted)
    wrong = [row for row in independent if not row.as_expected]
    assert len(wrong) == 1 and wrong[0].process == "SGWORLD" and "that of SGLD" in wrong[0].name
    hot = data(heat)
    for name in ("SGLD B=8 η=0.4", "SGLD B=8 η=0.2"):
        hot[name] = 1.2 * hot[name]
    wrong = [row.name for row in logistic.check(CONFIG, hot, predicted) if not row.as_expected]
    assert wrong == ["B = 8: η → 0, quadrature", "B = 8: η → 0, full batches"]
