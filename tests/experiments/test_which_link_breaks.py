"""The moment closures by enumeration and quadrature; the rows' errors; the check; a smoke run."""

import itertools

import closed_forms
import numpy as np
import pytest
import xarray as xr
from numpy.polynomial import hermite_e, polynomial
from scipy import stats

import sde_sgd as ss
from experiments import framework, which_link_breaks as experiment

RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=5)
TARGETS = INPUTS + np.array([0.3, -1.0, 0.2, 2.5, 0.1])


@pytest.mark.parametrize("batch", [1, 3])
def test_sgd_moments_by_enumeration(batch):
    """E δⁿ = mean over all 5^B batches of E(Uδ + V)ⁿ, solved as one linear system."""
    eta, minimum = 0.1, INPUTS @ TARGETS / (INPUTS @ INPUTS)
    system, constant = np.eye(4), np.zeros(4)
    batches = list(itertools.product(range(5), repeat=batch))
    for examples in batches:
        x, y = INPUTS[list(examples)], TARGETS[list(examples)]
        step = [-eta * np.mean(x * (x * minimum - y)), 1 - eta * np.mean(x**2)]
        for n in range(1, 5):
            power = np.resize(np.append(polynomial.polypow(step, n), np.zeros(4 - n)), 5)
            system[n - 1] -= power[1:] / len(batches)
            constant[n - 1] += power[0] / len(batches)
    expected = np.append(1.0, np.linalg.solve(system, constant))
    measured = experiment.moments_sgd(INPUTS, TARGETS, eta, batch)
    np.testing.assert_allclose(measured, expected, rtol=1e-10, atol=1e-14)


def three_points(moments):
    """Nodes and weights of a law on three points with E xⁿ = moments[n], n = 0…4, E x⁵ = 0."""
    hankel = np.array([moments[i : i + 3] for i in range(3)])
    cubic = np.linalg.solve(hankel, -np.append(moments[3:5], 0.0))
    nodes = np.sort(polynomial.polyroots(np.append(cubic, 1.0)).real)
    return nodes, np.linalg.solve(np.vander(nodes, 3, increasing=True).T, moments[:3])


@pytest.mark.parametrize("step", [0.2, 0.05])
def test_euler_moments_by_quadrature(step):
    """One Euler step, by Gauss–Hermite on a law with these moments, leaves E δ…δ⁴ in place."""
    eta, batch = 0.2, 2
    moments = experiment.moments_gaussian(INPUTS, TARGETS, eta, batch, step)
    delta, weights = three_points(moments)
    landscape = ss.LeastSquares(INPUTS[:, None], TARGETS)
    theta = landscape.minimum() + delta[:, None]
    drift = np.array([landscape.gradient(t)[0] for t in theta])
    spread = np.array([landscape.gradient_covariance(t)[0, 0] for t in theta])
    normal, share = hermite_e.hermegauss(8)
    share = share / share.sum()
    after = (delta - step * drift)[:, None] + np.sqrt(step * eta / batch * spread)[:, None] * normal
    for n in range(1, 5):
        np.testing.assert_allclose(weights @ after**n @ share, moments[n], rtol=1e-8, atol=1e-13)


def test_sde_moments_are_the_limit():
    """Euler's moments at h → 0: extrapolated from h and h/2 they meet those of the generator."""
    limit, coarse, fine = (
        experiment.moments_gaussian(INPUTS, TARGETS, 0.2, 2, h) for h in (0.0, 1e-4, 5e-5)
    )
    np.testing.assert_allclose(2 * fine - coarse, limit, rtol=1e-6)


@pytest.mark.parametrize("name", experiment.LANDSCAPES)
def test_variances_are_those_of_the_package(name):
    """E δ² = theory.stationary.covariance at h = η, η/m, 0; SGD's is Euler's."""
    config = experiment.Config()
    inputs, targets = experiment.problem(config, name)
    eta, batch, _ = experiment.setting(config, name)
    exact = experiment.predict(config)[name]
    steps = {"sgd": eta, "gaussian": eta, "sde": eta / config.substeps, "limit": 0.0}
    for process, step in steps.items():
        variance = closed_forms.covariance(
            inputs[:, None], targets, learning_rate=eta, noise_factor=1 / batch, time_step=step
        )
        np.testing.assert_allclose(exact[process][0], variance[0, 0], rtol=1e-9)


def test_expected_links():
    """The exact values alone: each link that must hold does so within resolution/1.5, and each
    that must break is off by more than twice the resolution."""
    config = experiment.Config()
    for name, exact in experiment.predict(config).items():
        for link, one, other in ((1, "sgd", "gaussian"), (3, "gaussian", "limit")):
            gap = np.abs(exact[one] - exact[other])
            gap[0] /= exact[other][0]
            parts = zip((gap[:1], gap[1:]), experiment.EXPECTED[name, link], strict=True)
            for part, expected in parts:
                if expected == "agree":
                    assert part.max() < config.resolution / 1.5
                else:
                    assert part.max() > 2 * config.resolution


def test_member_rows():
    """Mean: skewness and kurtosis about 0 of all numbers; error: that of the jackknife."""
    delta = np.random.default_rng(0).gamma(3.0, size=(7, 400)) - 3.0
    rows = experiment.member_rows(delta)
    pooled = delta.ravel()
    two = np.mean(pooled**2)
    expected = [two, np.mean(pooled**3) / two**1.5, np.mean(pooled**4) / two**2 - 3]
    np.testing.assert_allclose(rows.mean(axis=0), expected)
    mirrored = np.concatenate([delta, -delta], axis=0)
    kurtosis = stats.kurtosis(mirrored.ravel())
    np.testing.assert_allclose(experiment.member_rows(mirrored).mean(axis=0)[2], kurtosis)
    left_out = np.array(
        [experiment.member_rows(np.delete(delta, i, axis=1)).mean(axis=0) for i in range(400)]
    )
    jackknife = np.sqrt(399 / 400 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    error = ss.Estimate.from_samples(rows).standard_error
    np.testing.assert_allclose(error, jackknife, rtol=0.05)


def synthetic(config, predicted, **changed):
    """Data with exact values, errors of half a percent; `changed`: "landscape process" -> value."""
    variables = {}
    for name, exact in predicted.items():
        for process in experiment.LABELS:
            value = exact["gaussian" if process == "euler" else process]
            value = changed.get(f"{name}_{process}", value)
            error = 0.005 * np.array([value[0], 1.0, 1.0])
            estimate = ss.Estimate(value, error, config.ensemble_size)
            framework.put(variables, f"{name} {process}", estimate, ("observable",))
        variables[f"{name} link 2"] = ((), changed.get(f"{name}_link", 0.0))
        variables[f"{name} link 2 steps"] = ((), 400)
    return xr.Dataset(variables)


def test_check_and_its_controls():
    """Right data passes. Noise × √2, Gaussian noise for minibatches, independent paths across
    link 2, and a solver that ignores its step each turn the verdict they should."""
    config = experiment.Config()
    predicted = experiment.predict(config)

    def wrong(**changed):
        rows = experiment.check(config, synthetic(config, predicted, **changed), predicted)
        return {row.name for row in rows if not row.as_expected}

    assert wrong() == set()
    exact = predicted["mislabelled"]
    louder = exact["sde"] * np.array([2.0, 1.0, 1.0])
    assert wrong(mislabelled_sde=louder) == {"mislabelled: own exact values"}
    assert wrong(mislabelled_sgd=exact["gaussian"]) == {
        "mislabelled: own exact values",
        "mislabelled: link 1, skewness and kurtosis to 0.1",
    }
    assert wrong(diabetes_link=1e-9) == {"diabetes: link 2, max |Δθ|/σ in 400 steps"}
    same = predicted["diabetes"]["limit"]
    assert wrong(diabetes_euler=same) == {"diabetes: link 3, variance to 10%"}
