"""Joint histograms against NumPy on the recorded trajectory; quantiles with their errors."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
MEMBERS, STEPS = 13, 30
X, Y = np.array([-0.6, -0.1, 0.0, 0.4]), np.array([-0.5, -0.05, 0.2])


def process():
    return ss.SGD(ss.quadratic(np.diag([1.0, 2.0]), 1.0), 0.3, ss.WithReplacement(2))


def pair(theta):
    return jnp.stack([theta[0] + theta[1], theta[1]])


@functools.cache
def recorded():
    measures = {
        "plain": ss.Histogram((X, Y)),
        "late": ss.Histogram([X, Y], of=pair, burn_in=5, every=5),
        "x": ss.Histogram(X, of=lambda x: x[0]),
    }
    return ss.simulate(
        process(),
        jnp.zeros(2),
        num_steps=STEPS,
        ensemble_size=MEMBERS,
        key=jr.key(0),
        measures=measures,
        record_every=1,
    )


def shares(values, *edges):
    """(members, cells...) fractions of (times, members, 2) values, by comparison with the edges."""
    inside = np.ones((*values.shape[:2], 1, 1), bool)
    for axis, e in enumerate(edges):
        wall = np.concatenate([[-np.inf], e, [np.inf]])
        v = values[:, :, axis, None]
        hit = (v >= wall[:-1]) & (v < wall[1:])
        inside = inside & np.expand_dims(hit, 3 - axis)
    return inside.mean(axis=0)


@pytest.mark.parametrize("name", ["plain", "late"])
def test_counts_of_the_recorded_trajectory(name):
    """P of each cell, of outside and of both marginals, with errors, equal NumPy's."""
    path, found = recorded().records[1], recorded()[name]
    values = path[1:] if name == "plain" else np.stack([path.sum(-1), path[..., 1]], -1)[10::5]
    share = shares(values, X, Y)
    inside, area = share[:, 1:-1, 1:-1], np.outer(np.diff(X), np.diff(Y))
    mean = inside.mean(axis=0)
    error = inside.std(axis=0, ddof=1) / np.sqrt(MEMBERS)
    seen = (mean > 0) & (mean < 1)
    assert seen.sum() >= 4
    np.testing.assert_allclose(found.probability.value, mean, rtol=1e-12)
    np.testing.assert_allclose(found.probability.standard_error[seen], error[seen], rtol=1e-10)
    np.testing.assert_allclose(found.probability.standard_error[~seen], 1 / MEMBERS)
    np.testing.assert_allclose(found.density.value, mean / area, rtol=1e-12)
    np.testing.assert_allclose(found.outside.value, 1 - mean.sum(), rtol=1e-12)
    for line, share_of in ((found.x, share.sum(axis=2)), (found.y, share.sum(axis=1))):
        everything = [line.below.value, *line.probability.value, line.above.value]
        np.testing.assert_allclose(everything, share_of.mean(axis=0), rtol=1e-12)


def test_the_marginal_is_the_histogram_of_one_coordinate():
    """Rows summed over all y, inside the edges or not, equal the histogram of x alone."""
    joint, alone = recorded()["plain"].x, recorded()["x"]
    np.testing.assert_allclose(joint.probability.value, alone.probability.value, rtol=1e-12)
    np.testing.assert_allclose(joint.cumulative.value, alone.cumulative.value, rtol=1e-12)
    np.testing.assert_allclose(
        joint.cumulative.standard_error, alone.cumulative.standard_error, rtol=1e-10
    )


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: ss.Histogram((X, Y), of=lambda x: x[0]), r"pair of functions.*shape \(\)"),
        (lambda: ss.Histogram(X), "needs `of=`, a scalar function"),
        (lambda: ss.Histogram((X, Y[::-1])), "increasing edges"),
        (lambda: ss.Histogram((X, [0.0])), "at least two finite edges"),
    ],
)
def test_what_has_no_cells_is_refused(measure, message):
    """Edges increase, two at least, and f has one entry for each array of them."""
    with pytest.raises(ValueError, match=message):
        made = measure()
        ss.simulate(
            process(),
            jnp.zeros(2),
            num_steps=4,
            ensemble_size=2,
            key=jr.key(0),
            measures={"h": made},
        )


EDGES = np.linspace(-2, 2, 401)
LEVELS = np.array([0.1, 0.5, 0.9])


@functools.cache
def gaussian():
    """Gaussian SGD on ½x²: x ~ N(0, ηC/(2 − η)), of width ½ at η = .4, C = 1."""
    made = ss.GaussianSGD(ss.quadratic(1.0, 1.0), 0.4, ss.ConstantNoise(np.eye(1)))
    return ss.simulate(
        made,
        jnp.zeros(1),
        num_steps=120,
        ensemble_size=512,
        key=jr.key(4),
        measures={"h": ss.Histogram(EDGES, burn_in=20)},
        record_every=1,
    )


def test_quantiles_of_a_gaussian():
    """x_q = Φ⁻¹(q)/2 within the errors; the width of the diffusion limit fails."""
    found = gaussian()["h"].quantile(LEVELS)
    limit = stats.norm.isf(FAILURE_RATE / 2 / len(LEVELS))
    exact = stats.norm.ppf(LEVELS, scale=0.5)
    assert (found.standard_error < 0.01).all()
    assert (np.abs(found.value - exact) < limit * found.standard_error).all()
    wrong = stats.norm.ppf(LEVELS, scale=np.sqrt(0.2))
    assert np.abs((found.value - wrong) / found.standard_error).max() > 2 * limit


def test_quantiles_of_the_recorded_trajectory():
    """The quantile is NumPy's to a bin's width; its error is that of a bootstrap over members."""
    values = gaussian().records[1][21:, :, 0]
    found = gaussian()["h"].quantile(LEVELS)
    width = EDGES[1] - EDGES[0]
    np.testing.assert_allclose(found.value, np.quantile(values, LEVELS), atol=width)
    rng = np.random.default_rng(0)
    rows = [values[:, rng.integers(0, 512, 512)] for _ in range(200)]
    spread = np.std([np.quantile(r, LEVELS) for r in rows], axis=0, ddof=1)
    # 200 resamples know a deviation to 1/√400 = 5 %, 600 values in a bin its density to 4 %.
    limit = stats.norm.isf(FAILURE_RATE / 2 / len(LEVELS)) * np.hypot(0.05, 0.04)
    np.testing.assert_allclose(found.standard_error / spread, 1, atol=limit)


def test_quantiles_outside_are_refused():
    """Levels beyond the edges, or outside (0, 1), have no quantile."""
    found = gaussian()["h"]
    for level in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match=r"levels in \(0, 1\)"):
            found.quantile(level)
    narrow = recorded()["x"]
    with pytest.raises(ValueError, match="widen the edges"):
        narrow.quantile(1 - float(narrow.above.value) / 2)
