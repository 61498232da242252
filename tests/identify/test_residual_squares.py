"""Squares of residuals are too small by the leverage: exact expectations, coverage, errors."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, t as student

import sde_sgd as ss
from sde_sgd.identify._regression import covariance, expected_squares, normal_equations

LINE, PARABOLA, QUINTIC = (ss.identify.PolynomialBasis(1, degree) for degree in (1, 2, 5))
TAU = 0.01
STARTS = np.array([-1.6, -1.1, -0.7, -0.2, 0.3, 0.6, 1.2, 1.5])
RATES = {"sparse": np.array([0.09, 0.03, 0.02]), "local": np.array([0.09, 0.03])}


def readings():
    """Drift 0.4 − x and errors ±√(τa), all signs of eight members: (256, 2, 8, 2 readers)."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=len(STARTS))))
    for name, rate in RATES.items():
        error = np.sqrt(TAU * np.polynomial.polynomial.polyval(STARTS, rate)) * signs
        ends = STARTS + TAU * (0.4 - STARTS) + error
        yield name, [np.stack([STARTS, end]) for end in ends]


def test_the_mean_over_all_signs_of_the_errors():
    """E b̂ = b and E â = a exactly, starts fixed; the mean of plain squares falls short."""
    for name, paths in readings():
        found, plain = [], []
        for path in paths:
            if name == "sparse":
                fit = ss.identify.sparse(path, LINE, PARABOLA, time_step=TAU, failure_rate=None)
                found.append([*fit.drift.value[0], *fit.variance_rate.value[0, 0]])
            else:
                fit = ss.identify.kramers_moyal(path, [0.2], bandwidth=2.0, time_step=TAU)
                found.append([fit.drift.value[0], fit.variance_rate.value[0]])
            line = np.stack([np.ones(8), STARTS], axis=1)
            change = (path[1] - path[0]) / TAU
            rest = change - line @ np.linalg.lstsq(line, change, rcond=None)[0]
            plain.append(np.polyfit(STARTS, TAU * rest**2, 2)[::-1])
        rate = np.polynomial.polynomial.polyval(0.2, RATES[name])
        exact = [0.4, -1.0, *RATES[name]] if name == "sparse" else [0.2, rate]
        np.testing.assert_allclose(np.mean(found, axis=0), exact, rtol=1e-8)
        if name == "sparse":
            assert np.mean(plain, axis=0)[0] < 0.95 * RATES[name][0]


@pytest.mark.parametrize("lag", [1, 3])
def test_expected_squares_of_two_components(lag):
    """E r_i r′_i = [M C M′ᵀ]_ii, M = 1 − F P Fᵀ W: weights, other terms, changes that overlap."""
    rng = np.random.default_rng(0)
    times = np.array([[0.0, 1, 2, 4, 5], [3, 4, 6, 7, 9]]).T
    features, weights = rng.normal(size=(5, 2, 3)), rng.uniform(0.2, 1, size=(5, 2))
    noise = np.stack([np.ones((5, 2)), rng.uniform(1, 2, size=(5, 2))], axis=-1)
    flat, pull = features.reshape(10, 3), (features * weights[..., None]).reshape(10, 3)
    inverses, residual = [], []
    for kept in ([0, 1, 2], [0, 2]):
        inverse = np.zeros((3, 3))
        inverse[np.ix_(kept, kept)] = np.linalg.inv((pull.T @ flat)[np.ix_(kept, kept)])
        inverses.append(inverse)
        residual.append(np.eye(10) - flat @ inverse @ pull.T)
    found = expected_squares(noise, features, (inverses[0], inverses[1]), times, lag, weights)
    clock, member = times.ravel(), np.tile([0, 1], 5)
    share = np.maximum(1 - np.abs(clock[:, None] - clock) / lag, 0) * (member[:, None] == member)
    # A constant rate has one covariance; of others the rate is that at one of the two starts.
    exact = np.einsum("ij,jk,ik->i", residual[0], share, residual[1])
    np.testing.assert_allclose(found[..., 0].ravel(), exact, rtol=1e-10)
    if lag == 1:
        exact = (residual[0] * residual[1]) @ noise[..., 1].ravel()
        np.testing.assert_allclose(found[..., 1].ravel(), exact, rtol=1e-10)
    else:
        assert not np.allclose(share, np.eye(10))


def test_coefficients_are_quenouilles_jackknife():
    """n c − (n − 1) × the mean of c without a member, each fitted anew; the error is its spread."""
    rng = np.random.default_rng(1)
    features, response = rng.normal(size=(3, 9, 2)), rng.normal(size=(3, 9, 1))
    fit = normal_equations(features, response).solve(("a", "b"))

    def least(members):
        rows = features[:, members].reshape(-1, 2), response[:, members].ravel()
        return np.linalg.lstsq(*rows, rcond=None)[0]

    every = np.arange(9)
    without = np.stack([least(every[every != k]) for k in every])
    np.testing.assert_allclose(fit.solution[:, 0], least(every), rtol=1e-10)
    exact = 9 * least(every) - 8 * without.mean(axis=0)
    np.testing.assert_allclose(fit.coefficients[:, 0], exact, rtol=1e-9)
    np.testing.assert_allclose(fit.influence[..., 0], 8 / 9 * (least(every) - without), rtol=1e-8)


def test_the_error_of_a_mean():
    """Of c = x̄ the influences are (x_i − x̄)/n, and their covariance is Σ(x_i − x̄)²/(n(n − 1)).

    A member without any data has no influence, and is not counted.
    """
    x = np.array([0.0, 1.0, 5.0, 4.0])
    features = np.ones((1, 4, 1))
    influence = normal_equations(features, x[None, :, None]).solve(("1",)).influence[..., 0]
    np.testing.assert_allclose(influence[:, 0], (x - x.mean()) / 4, rtol=1e-12, atol=1e-15)
    for rows in (influence, np.append(influence, [[0.0]], axis=0)):
        np.testing.assert_allclose(covariance(rows), x.var(ddof=1) / 4, rtol=1e-12)
    assert np.isinf(covariance(np.zeros((4, 1)))).all()


def diffusing(seed, repetitions, members, times=1):
    """Brownian paths, a = 1, from starts uniform on (−1, 1): (repetitions, times + 1, members)."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-1, 1, size=(repetitions, 1, members))
    steps = np.sqrt(TAU) * rng.normal(size=(repetitions, times, members))
    return np.concatenate([start, start + np.cumsum(steps, axis=1)], axis=1)


def test_intervals_of_a_variance_cover():
    """95 % intervals of a constant a, beside a drift of ten terms, hold it in 95 % of 400 readings.

    Within a binomial's 2e-5, both ways; the mean of squares as they are, one tenth less, does not.
    """
    basis, repetitions, members = ss.identify.PolynomialBasis(1, 9), 400, 100
    width = student.isf(0.025, members - 1)
    hits, plain = 0, 0
    for path in diffusing(2, repetitions, members):
        fit = ss.identify.sparse(path, basis, time_step=TAU, failure_rate=None)
        rate = fit.variance_rate[0, 0, 0]
        hits += abs(rate.value - 1) < width * rate.standard_error
        change = path[1] - path[0]
        rest = change - np.polynomial.Polynomial.fit(path[0], change, 9)(path[0])
        square = ss.Estimate.from_samples(rest**2 / TAU)
        plain += abs(square.value - 1) < width * square.standard_error
    low, high = binom.ppf([1e-5, 1 - 1e-5], repetitions, 0.95)
    # Squares of 100 normal numbers are skewed: the interval without a drift holds 93.9 %.
    assert low <= hits <= high, hits
    assert plain < low, plain


def test_irrelevant_terms_are_kept_at_the_familys_rate():
    """Of K = 6 terms that are not there, one or more is kept in `failure_rate` of the readings.

    The threshold of a single term would keep one in more than half of them.
    """
    repetitions, rate, kept = 120, 0.3, 0
    for path in diffusing(3, repetitions, 100):
        fit = ss.identify.sparse(path, QUINTIC, time_step=TAU, failure_rate=rate)
        kept += bool((fit.drift.value != 0).any())
    assert kept <= binom.isf(2e-5, repetitions, rate), kept


def test_errors_away_from_the_centre():
    """f(x)ᵀ Cov(β) f(x): errors of b and a at x are those of the constant of a basis about x."""
    path = diffusing(4, 1, 60, 4)[0] + 2.0
    fit = ss.identify.sparse(path, LINE, PARABOLA, time_step=TAU, failure_rate=None)
    there = ss.identify.sparse(
        path,
        ss.identify.PolynomialBasis(1, 1, [2.7]),
        ss.identify.PolynomialBasis(1, 2, [2.7]),
        time_step=TAU,
        failure_rate=None,
    )
    drift, rate = fit.drift_at([[2.7]]), fit.variance_rate_at([[2.7]])
    np.testing.assert_allclose(drift.value[0, 0], there.drift.value[0, 0], rtol=1e-8)
    np.testing.assert_allclose(
        drift.standard_error[0, 0], there.drift.standard_error[0, 0], rtol=1e-8
    )
    np.testing.assert_allclose(
        rate.standard_error[0, 0, 0], there.variance_rate.standard_error[0, 0, 0], rtol=1e-7
    )


def test_members_at_a_point():
    """`visitors` counts members, not starts; the fewest at any point with an estimate bound t."""
    path = np.tile(np.linspace(-1, 1, 40), (4, 1))
    path += 0.01 * np.random.default_rng(5).normal(size=path.shape)
    found = ss.identify.kramers_moyal(path, [0.0, 0.9, 5.0], bandwidth=0.35, time_step=0.2)
    exact = [(np.abs(path[:3] - x) < 0.35).any(axis=0).sum() for x in (0.0, 0.9, 5.0)]
    np.testing.assert_array_equal(found.visitors, exact)
    assert found.drift.num_samples == min(exact[:2]) == found.variance_rate.num_samples
    assert exact[2] == 0 and np.isnan(found.drift.value[2])


@pytest.mark.parametrize(
    ("count", "quadrature", "order"), [(4, "spline", 4), (3, "spline", 3), (4, "trapezoid", 2)]
)
def test_order_of_the_quadrature(count, quadrature, order):
    """`error_order`: 4 of a spline through four times or more, 3 through three, 2 of trapezoids."""
    times = 0.3 * np.arange(count)
    noise = np.random.default_rng(6).normal(size=(count, 400))
    seen = np.exp(-times)[:, None] * (2 + 0.1 * noise)
    found = ss.identify.from_snapshots(seen, times, LINE, quadrature=quadrature)
    assert found.equation.error_order == order
