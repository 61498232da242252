"""The names a user types, as written in the design."""

import jax
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss


@pytest.mark.slow
def test_contract_runs():
    """The design's program at N = 64, d = 3 runs as written, and finds what it must."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 3))
    targets = inputs @ np.array([1.0, -1.0, 0.5]) + 0.5 * rng.normal(size=64)
    theta0 = np.zeros(3)

    jax.config.update("jax_enable_x64", True)

    landscape = ss.LeastSquares(inputs, targets)
    sampling = ss.WithReplacement(batch_size=8)
    sgd = ss.SGD(landscape, learning_rate=0.3, sampling=sampling, momentum=0.0)
    sde = ss.ModifiedEquation(
        landscape,
        learning_rate=0.3,
        noise=ss.MinibatchNoise(sampling),
        order=1,
        substeps=8,
        increments="gaussian",
    )

    run = ss.simulate(
        sgd,
        theta0,
        num_steps=2000,
        ensemble_size=4096,
        key=jr.key(0),
        measures={"moments": ss.Moments(burn_in=500)},
        record_every=None,
        progress=False,
        checkpoint=None,
    )
    measured = run["moments"].covariance
    predicted = ss.theory.stationary.covariance(sgd)
    verdict = ss.compare(measured, predicted)

    both = ss.side_by_side(sgd, sde, theta0, num_steps=2000, ensemble_size=4096, key=jr.key(1))

    assert measured.value.shape == measured.standard_error.shape == (3, 3)
    assert measured.num_samples == 4096
    assert verdict.verdict == "agrees"
    of_the_limit = ss.theory.stationary.covariance(sde.limit())
    assert ss.compare(measured, of_the_limit).verdict == "disagrees"
    assert both.table and both.figure() is not None
