"""Histograms against NumPy on the recorded trajectory, and against a known density."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy import stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
MEMBERS, STEPS = 11, 40


def process():
    return ss.SGD(ss.quadratic(1.0, 1.0), 0.4, ss.WithReplacement(2))


def simulate(measure, **changes):
    options = dict(num_steps=STEPS, ensemble_size=MEMBERS, key=jr.key(0), record_every=1)
    return ss.simulate(process(), jnp.zeros(1), measures={"h": measure}, **(options | changes))


def shares(values, edges):
    """(members, bins + 2) fractions of a (times, members) array, by comparison with each edge."""
    walls = np.concatenate([[-np.inf], edges, [np.inf]])
    inside = (values[..., None] >= walls[:-1]) & (values[..., None] < walls[1:])
    return inside.mean(axis=0)


def test_counts_of_the_recorded_trajectory():
    """P(e_j ≤ f < e_{j+1}) over members and times, with below, above and errors, equals NumPy."""
    edges = np.array([-0.5, -0.2, 0.1, 0.2, 0.6])
    run = simulate(ss.Histogram(edges, burn_in=6, every=3))
    share = shares(run.records[1][9::3, :, 0], edges)
    mean, error = share.mean(axis=0), share.std(axis=0, ddof=1) / np.sqrt(MEMBERS)
    found = run["h"]
    assert (mean > 0).all() and (mean < 1).all()
    np.testing.assert_allclose(found.probability.value, mean[1:-1], rtol=1e-12)
    np.testing.assert_allclose(found.probability.standard_error, error[1:-1], rtol=1e-10)
    np.testing.assert_allclose(found.density.value, mean[1:-1] / np.diff(edges), rtol=1e-12)
    np.testing.assert_allclose(
        found.density.standard_error, error[1:-1] / np.diff(edges), rtol=1e-10
    )
    np.testing.assert_allclose([found.below.value, found.above.value], mean[[0, -1]], rtol=1e-12)
    total = found.probability.value.sum() + found.below.value + found.above.value
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    np.testing.assert_allclose(found.centres, [-0.35, -0.05, 0.15, 0.4])
    assert found.probability.num_samples == MEMBERS


def test_edges_belong_to_the_bin_on_their_right():
    """f = e_j counts in [e_j, e_{j+1}), f = e_last above."""
    for value, place in ((0.0, 0), (0.5, 1), (1.0, 2)):
        run = simulate(ss.Histogram([0.0, 0.5, 1.0], of=lambda x, v=value: 0 * x[0] + v))
        found = run["h"]
        everything = [*found.probability.value, found.above.value]
        assert everything == [float(j == place) for j in range(3)] and found.below.value == 0


def test_a_function_of_theta():
    """The histogram of f(θ) = θ² is that of the squared trajectory."""
    edges = np.array([0.0, 0.05, 0.3, 2.0])
    run = simulate(ss.Histogram(edges, of=lambda x: x[0] ** 2))
    share = shares(run.records[1][1:, :, 0] ** 2, edges).mean(axis=0)
    np.testing.assert_allclose(run["h"].probability.value, share[1:-1], rtol=1e-12)


def test_a_bin_that_nobody_visits_is_not_certain():
    """P = 0 and P = 1 carry the error 1/n of one member in n, not 0."""
    found = simulate(ss.Histogram([-50.0, 50.0, 51.0]))["h"]
    np.testing.assert_array_equal(found.probability.value, [1.0, 0.0])
    np.testing.assert_allclose(found.probability.standard_error, 1 / MEMBERS)
    np.testing.assert_allclose(found.density.standard_error, [0.01 / MEMBERS, 1 / MEMBERS])
    for outside in (found.below, found.above):
        assert outside.value == 0 and outside.standard_error == 1 / MEMBERS
    # A rare bin is compared with its small probability and agrees.
    verdict = ss.compare(found.probability, np.array([1 - 1e-3, 1e-3]))
    assert verdict.verdict != "disagrees"


def test_the_density_of_a_gaussian_process():
    """Gaussian SGD on ½x²: x ~ N(0, ηC/(2 − η)); bin by bin within the Šidák threshold."""
    eta, members = 0.4, 2048
    noise = ss.ConstantNoise(np.array([[1.0]]))
    made = ss.GaussianSGD(ss.quadratic(1.0, 1.0), eta, noise)
    sigma = np.sqrt(eta / (2 - eta))
    edges = sigma * np.linspace(-2.5, 2.5, 11)
    run = ss.simulate(
        made,
        jnp.zeros(1),
        num_steps=160,
        ensemble_size=members,
        key=jr.key(3),
        measures={"h": ss.Histogram(edges, burn_in=60)},
    )

    def worst(width):
        mass = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) / width))
        found = run["h"]
        value = np.array([found.below.value, *found.probability.value, found.above.value])
        error = np.array(
            [
                found.below.standard_error,
                *found.probability.standard_error,
                found.above.standard_error,
            ]
        )
        return np.abs((value - mass) / error).max()

    limit = stats.norm.isf(FAILURE_RATE / (2 * 12))
    assert worst(sigma) < limit
    # Controls: the width of the diffusion limit, and of noise × √2.
    assert worst(np.sqrt(eta / 2)) > limit
    assert worst(np.sqrt(2) * sigma) > limit
