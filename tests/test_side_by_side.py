"""The main job: what it runs, what it reports, what it refuses."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss

ETA = 0.2


@pytest.fixture(scope="module")
def problem():
    inputs = normal(0, 16, 2)
    landscape = ss.LeastSquares(inputs, inputs[:, 0] + 0.5 * np.cos(np.arange(16.0)))
    sampling = ss.WithReplacement(4)
    sgd = ss.SGD(landscape, ETA, sampling)
    sde = ss.ModifiedEquation(landscape, ETA, ss.MinibatchNoise(sampling), substeps=2)
    return landscape, sampling, sgd, sde


def test_reports_its_own_exact_discretisation_error(problem):
    """2·(coarse − fine) is the error of E L at h = η/2 against h → 0, up to O(h²)."""
    landscape, _, sgd, sde = problem
    theta0, steps = jnp.array([2.0, -1.0]), 10
    both = ss.side_by_side(
        sgd, sde, theta0, num_steps=steps, ensemble_size=8000, key=jr.key(1), snapshots=[steps],
        step_check=1.0, distances=("energy",), num_bootstrap=20,
    )  # fmt: skip

    def loss(step):
        exact = ss.theory.transient_moments_least_squares(
            *(np.asarray(a) for a in landscape.data), learning_rate=ETA, noise_factor=1 / 4,
            time_step=step, times=[steps * ETA], theta0=theta0,
        )  # fmt: skip
        offset = exact.mean[0] - np.asarray(landscape.minimum())
        second = exact.covariance[0] + np.outer(offset, offset)
        hessian = np.asarray(landscape.hessian(theta0))
        return float(landscape.loss(landscape.minimum())) + 0.5 * np.trace(hessian @ second)

    error = both.observables["loss"].step_error
    assert error is not None
    # What 2·(coarse − fine) estimates, exactly, and what it stands for.
    estimated, true = 2 * (loss(ETA / 2) - loss(ETA / 4)), loss(ETA / 2) - loss(0.0)
    assert ss.compare(error[-1], estimated).verdict == "agrees"
    assert abs(estimated - true) < 0.35 * abs(true)
    assert ss.compare(error[-1], 0.5 * estimated).verdict == "disagrees"
    mean = both.observables["loss"].means
    assert ss.compare(mean["SDE"][-1], loss(ETA / 2)).verdict == "agrees"
    assert ss.compare(mean["SGD"][-1], loss(ETA)).verdict == "agrees"
    assert ss.compare(mean["SDE"][-1], loss(ETA)).verdict == "disagrees"


def test_figure_table_and_arrays(problem):
    """Axes carry names and a legend; arrays are labelled in k and t; rows are judged."""
    _, _, sgd, sde = problem
    both = ss.side_by_side(
        sgd, sde, jnp.zeros(2), num_steps=12, ensemble_size=32, key=jr.key(2),
        observables={"first": lambda x: x[0]}, distances=("sliced", "energy", "wasserstein"),
        num_bootstrap=20, measures={"moments": ss.Moments()}, resolution={"first": 0.5},
    )  # fmt: skip
    for axis in both.figure().axes:
        assert axis.get_xlabel() and axis.get_ylabel() and axis.get_legend() is not None
    data = both.to_xarray()
    np.testing.assert_allclose(data.t, ETA * data.k)
    assert "discretisation error" in both.table
    assert both.runs["SGD"]["moments"].mean.value.shape == (2,)
    assert len(both.comparisons) == 2 + 3
    np.testing.assert_allclose(both.runs["SGD"].starts, both.runs["SDE"].starts)


def test_common_random_numbers(problem):
    """paired=True: Gaussian SGD and its Euler scheme differ by nothing, member by member."""
    landscape, sampling, _, _ = problem
    noise = ss.MinibatchNoise(sampling)
    both = ss.side_by_side(
        ss.GaussianSGD(landscape, ETA, noise),
        ss.ModifiedEquation(landscape, ETA, noise, substeps=1),
        lambda key: jr.normal(key, (2,)),
        num_steps=20, ensemble_size=16, key=jr.key(3), paired=True, step_check=0,
        distances=("energy",), num_bootstrap=20,
    )  # fmt: skip
    assert both.paired is not None
    assert np.max(np.abs(both.paired["loss"].value)) < 1e-13
    assert both.observables["loss"].step_error is None


def test_refuses_what_cannot_be_compared(problem):
    """Other landscapes, other clocks, vector observables, wrong fractions."""
    landscape, sampling, sgd, sde = problem

    def attempt(first=sgd, second=sde, **changed):
        options = {"num_steps": 4, "ensemble_size": 4, "key": jr.key(0)} | changed
        ss.side_by_side(first, second, jnp.zeros(2), **options)

    faster = ss.ModifiedEquation(landscape, 2 * ETA, ss.MinibatchNoise(sampling))
    with pytest.raises(ValueError, match="clocks differ"):
        attempt(second=faster)
    line = ss.SGD(ss.LeastSquares(jnp.ones((4, 1)), jnp.zeros(4)), ETA, sampling)
    with pytest.raises(ValueError, match="one landscape"):
        attempt(first=line)
    with pytest.raises(ValueError, match="scalar"):
        attempt(observables={"theta": lambda x: x})
    with pytest.raises(ValueError, match="step_check"):
        attempt(step_check=2)
    with pytest.raises(ValueError, match="snapshots"):
        attempt(snapshots=0)
    with pytest.raises(ValueError, match="theta0"):
        ss.side_by_side(sgd, sde, jnp.zeros((2, 2)), num_steps=4, ensemble_size=4, key=jr.key(0))
