"""The level that scales with the noise, and a look once an iteration, by other routes."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.linalg import solve_continuous_lyapunov

import sde_sgd as ss
from experiments import escape_from_a_digits_minimum as digits
from experiments.escape_from_a_digits_minimum import Config, excess, OnceAnIteration


def test_mean_excess_of_the_loss(monkeypatch):
    """½ tr HM with HM + MH = (η/B)Σ at θ*, by Lyapunov's equation, is η tr Σ/(4B)."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, 3)), rng.normal(size=20)
    landscape, eta = ss.LeastSquares(inputs, targets), Config().learning_rate
    theta = np.linalg.lstsq(inputs, targets)[0]
    monkeypatch.setattr(digits, "trained", lambda config: (landscape, theta, 0.0))
    examples = (inputs @ theta - targets)[:, None] * inputs
    hess, sigma = inputs.T @ inputs / 20, examples.T @ examples / 20
    covariance = solve_continuous_lyapunov(hess, eta / 4 * sigma)
    exact = np.trace(hess @ covariance) / 2
    np.testing.assert_allclose(excess(Config(), 4), exact, rtol=1e-8)
    # Control: another batch size.
    assert abs(excess(Config(), 3) / exact - 1) > 0.3


def test_looked_at_once_an_iteration():
    """First k at which the recorded θ_k is outside, of an SDE of 4 substeps; later than at each."""

    def outside(theta):
        return jnp.abs(theta[0]) > 0.9

    noise = ss.ConstantNoise([[1.0]])
    process = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), 0.4, noise, substeps=4)
    clock = ss.GaussianSGD(ss.quadratic(1.0, 1.0), 0.4, noise)
    passage = ss.FirstPassage(outside)
    found = ss.simulate(
        process,
        jnp.zeros(1),
        measures={"exit": OnceAnIteration(passage, clock), "every": passage, "m": ss.Moments()},
        num_steps=60,
        ensemble_size=128,
        key=jr.key(0),
        record_every=1,
    )
    out = np.abs(found.records[1][:, :, 0]) > 0.9
    first = np.where(out.any(axis=0), out.argmax(axis=0), np.nan)
    np.testing.assert_array_equal(found["exit"].first_times, first)
    assert np.isfinite(first).sum() > 60
    np.testing.assert_allclose(
        found["exit"].mean_time_t.value, 0.4 * found["exit"].mean_time.value, rtol=1e-12
    )
    # Control: watched at every solver step it leaves earlier.
    assert np.nanmean(found["every"].first_times) < np.nanmean(first) - 0.5
