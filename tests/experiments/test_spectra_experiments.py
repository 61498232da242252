"""Rules of the experiments on levels: fits of exact data, places of pairs, distances, decisions."""

import jax
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import sde_sgd as ss
from experiments import (
    boltzmann_machine_levels,
    dyson_level_repulsion,
    marchenko_pastur_departure,
)
from experiments.framework import put


def test_pairs_of_the_machine():
    """The gap of each pair lies between two equal levels μ² − κ_k, and overlaps are left out."""
    config = boltzmann_machine_levels.Config()
    landscape = boltzmann_machine_levels.machine(config)
    weights = np.asarray(landscape.matrix(landscape.minimum()))
    levels = np.linalg.eigvalsh(weights @ weights.T)
    where = boltzmann_machine_levels.places(config)
    np.testing.assert_allclose(levels[where], levels[where + 1], rtol=1e-9)
    kappa = boltzmann_machine_levels.kernel_levels(config, boltzmann_machine_levels.pairs(config))
    np.testing.assert_allclose(levels[where], 9 - kappa, rtol=1e-9)
    exact = [np.delete(levels, [i, i + 1]) for i in where]
    nearest = [np.abs(x - levels[i]).min() for x, i in zip(exact, where, strict=True)]
    np.testing.assert_allclose(boltzmann_machine_levels.distances(config), nearest, rtol=1e-7)
    predicted = boltzmann_machine_levels.predict(config)
    assert not predicted["B=16 alone"].any() and predicted["B=64 alone"].sum() == 2


def machine_data(config, gamma):
    """Gaps exactly ∝ (η(μ² − κ)/B)^γ."""
    variables = {}
    for batch in config.batch_sizes:
        size = 2 * boltzmann_machine_levels.scale(config, batch) ** gamma
        for name in ("SGD", "SDE", boltzmann_machine_levels.CONTROL):
            put(variables, f"B={batch} {name}", ss.Estimate(size, 0.01 * size, 100), ("pair",))
    return xr.Dataset(variables)


@pytest.mark.parametrize("gamma", [0.5, 0.6])
def test_exponent_of_exact_powers(gamma):
    """The fit returns γ and ln 2 to rounding, and only γ = ½ agrees with ½."""
    config = boltzmann_machine_levels.Config()
    data, predicted = machine_data(config, gamma), boltzmann_machine_levels.predict(config)
    found = boltzmann_machine_levels.fitted(config, data, predicted, "SGD")
    np.testing.assert_allclose(found.value, [gamma, np.log(2)], rtol=1e-9)
    row = boltzmann_machine_levels.check(config, data, predicted)[0]
    assert row.as_expected == (gamma == 0.5)


def test_distance_is_kolmogorovs():
    """sup |F − F_MP| of SciPy, matrix by matrix."""
    law = ss.theory.matrices.MarchenkoPastur(0.5)
    levels = np.random.default_rng(0).uniform(0.1, 3.5, (3, 2, 9))
    found = marchenko_pastur_departure.distance(levels, law)
    for index in np.ndindex(3, 2):
        exact = stats.kstest(levels[index], lambda x: law.cdf(x)).statistic
        np.testing.assert_allclose(found[index], exact, rtol=1e-12)


def test_the_test_at_the_start():
    """Levels at quantiles of a law pass its test, and not those of another ratio or variance."""
    config = marchenko_pastur_departure.Config()
    predicted = marchenko_pastur_departure.predict(config)
    chances = (np.arange(config.num_matrices) + 0.5) / config.num_matrices
    levels = np.interp(
        chances, predicted["law"].cdf(np.linspace(0, 3.2, 4000)), np.linspace(0, 3.2, 4000)
    )
    for name, passes in (("law", 1.0), ("another ratio", 0.0), ("another variance", 0.0)):
        assert float(marchenko_pastur_departure.passes(levels, predicted[name]).value) == passes


def test_starts_have_their_variances():
    """Weights of each layer have the variance 1/fan-in, biases are 0, networks differ."""
    config = marchenko_pastur_departure.Config()
    theta = marchenko_pastur_departure.starts(config, jr.key(1), 40)
    risk = marchenko_pastur_departure.landscape(config)
    matrix = ss.measure.weight_matrix(risk, lambda x: x.layers[2].weight)
    weights = np.asarray(jax.vmap(matrix)(theta))
    assert weights.shape == (40, config.inner, config.outer)
    variance = (weights**2).mean() * config.outer
    assert abs(variance - 1) < 4.3 * np.sqrt(2 / weights.size)
    assert np.asarray(risk.model(theta[0]).layers[2].bias).max() == 0
    assert np.abs(weights[0] - weights[1]).max() > 0.1


def test_controls_have_the_right_variance_in_the_wrong_entries():
    """Noise σ²/B on the entries of one row, or of the diagonal, and nowhere else."""
    config = dyson_level_repulsion.Config()
    _, batch = config.cases[0]
    for name, process in dyson_level_repulsion.controls(config).items():
        matrix = np.asarray(process.noise.matrix)  # pyright: ignore
        kept = np.diag(matrix) > 0
        assert kept.sum() == 2 and np.abs(matrix - np.diag(np.diag(matrix))).max() == 0
        np.testing.assert_allclose(np.diag(matrix)[kept], 1 / batch)
        assert (name == "one row") == (kept[:2].all())
