"""The exact values of the experiment by enumeration and sigma points; its check; a smoke run."""

import itertools

import jax
import numpy as np
import pytest
import xarray as xr

import sde_sgd as ss
from experiments import framework, stationary_covariance as experiment

TINY = experiment.Config(
    num_directions=2, learning_rate=0.2, batch_size=1, subset_size=6, subset_batch_size=2
)


def fixed_point(inputs, targets, eta, batches):
    """M of E[(I − ηH_B) M (I − ηH_B)ᵀ] + η² E g_B g_Bᵀ = M, all batches enumerated."""
    minimum = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    size = inputs.shape[1]
    system, constant = np.zeros((size**2, size**2)), np.zeros((size, size))
    for batch in batches:
        x, y = inputs[list(batch)], targets[list(batch)]
        shrink = np.eye(size) - eta * x.T @ x / len(x)
        gradient = x.T @ (x @ minimum - y) / len(x)
        system += np.kron(shrink, shrink) / len(batches)
        constant += eta**2 * np.outer(gradient, gradient) / len(batches)
    return np.linalg.solve(np.eye(size**2) - system, constant.ravel()).reshape(size, size)


@pytest.mark.parametrize("name", experiment.REAL)
def test_sgd_by_enumeration(name):
    """predict "h = η" = the fixed point of one step over all N batches of one example."""
    inputs, targets = experiment.problems(TINY)[name]
    batches = [(i,) for i in range(len(inputs))]
    expected = fixed_point(inputs, targets, TINY.learning_rate, batches)
    np.testing.assert_allclose(experiment.predict(TINY)[name]["h = η"], expected, rtol=1e-9)


def test_schemes_by_enumeration():
    """predict for c: 36 ordered batches of 2 from 6 with replacement, 15 subsets without."""
    inputs, targets = experiment.problems(TINY)[experiment.SUBSET]
    exact = experiment.predict(TINY)[experiment.SUBSET]
    every = list(itertools.product(range(6), repeat=2))
    subsets = list(itertools.combinations(range(6), 2))
    for value, batches in (("c = 1/B", every), ("c = (N−B)/(B(N−1))", subsets)):
        expected = fixed_point(inputs, targets, TINY.learning_rate, batches)
        np.testing.assert_allclose(exact[value], expected, rtol=1e-9)


@pytest.mark.parametrize("name", experiment.REAL)
def test_steps_by_sigma_points(name):
    """HM + MH − hHMH = ηc E Σ(θ* + δ), the mean over 2d points ±√d L e_j with LLᵀ = M."""
    config = experiment.Config()
    inputs, targets = experiment.problems(config)[name]
    landscape, size = ss.LeastSquares(inputs, targets), config.num_directions
    hessian, minimum = inputs.T @ inputs / len(inputs), np.asarray(landscape.minimum())
    steps = {
        "h = η": config.learning_rate,
        "h = η/substeps": config.learning_rate / config.substeps,
        "h = 0": 0.0,
        "frozen noise": config.learning_rate,
    }
    exact = experiment.predict(config)[name]
    for value, step in steps.items():
        m = exact[value]
        spread = 0.0 if value == "frozen noise" else np.sqrt(size) * np.linalg.cholesky(m)
        points = minimum + np.concatenate([spread.T, -spread.T]) if np.ndim(spread) else [minimum]
        noise = np.mean([landscape.gradient_covariance(jax.numpy.asarray(p)) for p in points], 0)
        left = hessian @ m + m @ hessian - step * hessian @ m @ hessian
        scale = config.learning_rate / config.batch_size
        np.testing.assert_allclose(left, scale * noise, rtol=1e-8, atol=1e-12)


def planned_errors(config, data, m):
    """Standard errors of a stationary Gaussian process with autocorrelation e^{−η(λ_i+λ_j)k}."""
    inputs, _ = experiment.problems(config)[data]
    rate = (inputs**2).mean(axis=0)
    samples = config.ensemble_size * (config.num_steps - config.burn_in)
    square = np.outer(np.diag(m), np.diag(m)) + m**2
    return np.sqrt(2 * square / (config.learning_rate * (rate[:, None] + rate)) / samples)


@pytest.mark.parametrize("preset", experiment.PRESETS)
def test_presets_are_large_enough(preset):
    """Planned: |wrong − own|/se > 2 thresholds, se < precision·tr M/1.3, the start forgotten."""
    config = experiment.PRESETS[preset]
    threshold = ss.compare(ss.Estimate(np.zeros((6, 6)), np.ones((6, 6)), 10**6), 0.0).threshold
    for data, exact in experiment.predict(config).items():
        pairs = experiment.pairs(data)
        own = {process: value for process, value, expected in pairs if expected == "agree"}
        for process, value, expected in pairs:
            m = exact[own[process]]
            error = planned_errors(config, data, m)
            assert 1.3 * error.max() < config.precision * np.trace(m)
            if expected == "deviate":
                assert (np.abs(exact[value] - m) / error).max() > 2 * threshold
    for data in experiment.REAL:
        inputs, _ = experiment.problems(config)[data]
        landscape = ss.LeastSquares(inputs, np.zeros(len(inputs)))
        scheme = ss.WithReplacement(config.batch_size)
        decay = ss.theory.stationary.growth(ss.SGD(landscape, config.learning_rate, scheme))
        left = decay**config.burn_in / (1 - decay) / (config.num_steps - config.burn_in)
        assert left < 1e-5


def synthetic(config, predicted, noise=1.0, error=1.0, seed=0):
    """Data with own exact values times `noise`², and planned errors times `error`."""
    rng, variables = np.random.default_rng(seed), {}
    for data, exact in predicted.items():
        for process, value, expected in experiment.pairs(data):
            if expected == "agree":
                m = exact[value]
                se = error * planned_errors(config, data, m)
                jitter = np.triu(rng.normal(size=m.shape))
                measured = noise**2 * m + se * (jitter + np.triu(jitter, 1).T)
                estimate = ss.Estimate(measured, se, config.ensemble_size)
                framework.put(variables, f"{data} {process}", estimate, ("row", "column"))
    return xr.Dataset(variables)


def test_check_and_its_controls():
    """Right data passes; noise × √2 fails every "agree" row; errors × 2.5 agree with nothing."""
    config = experiment.Config()
    predicted = experiment.predict(config)
    rows = experiment.check(config, synthetic(config, predicted), predicted)
    assert len(rows) == 16 and all(row.as_expected for row in rows)
    wrong = experiment.check(config, synthetic(config, predicted, noise=np.sqrt(2)), predicted)
    assert {row.verdict for row in wrong if row.expected == "agree"} == {"disagrees"}
    coarse = experiment.check(config, synthetic(config, predicted, error=2.5), predicted)
    verdicts = [row.verdict for row in coarse if row.expected == "agree"]
    assert "inconclusive" in verdicts and "disagrees" not in verdicts
