"""Exact readings of SGD and of SDEs at a finite step and lag, against enumeration and algebra."""

import itertools

import closed_forms
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import sde_sgd as ss

theory = ss.theory
X, Y = np.array([0.6, 1.1, 1.4, -0.7]), np.array([1.0, 0.2, 1.5, 0.4])
ETA, BATCH = 0.3, 2


LANDSCAPE, SAMPLING = ss.LeastSquares(X[:, None], Y), ss.WithReplacement(BATCH)
SGD = ss.SGD(LANDSCAPE, ETA, SAMPLING)
EQUATION = ss.ModifiedEquation(LANDSCAPE, ETA, ss.MinibatchNoise(SAMPLING), substeps=3)
LIMIT = EQUATION.limit()


def read(reading, lag=1, process=SGD, **options):
    return theory.equations.read_least_squares(process, lag * ETA, reading=reading, **options)


def enumerated(theta, steps):
    """Mean and mean square of the displacement over all sequences of batches."""
    points, start = np.array([theta]), theta
    batches = np.array(list(itertools.product(range(len(X)), repeat=BATCH)))
    slope, offset = (X**2)[batches].mean(axis=1), (X * Y)[batches].mean(axis=1)
    for _ in range(steps):
        points = (points[:, None] - ETA * (slope * points[:, None] - offset)).ravel()
    change = points - start
    return change.mean(), (change**2).mean()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_naive_reading_is_the_enumeration_of_all_batches(steps):
    """b = E[Δθ | θ]/τ and a = E[Δθ² | θ]/τ over 1, 2, 3 iterations of SGD, every batch."""
    found = read("naive", steps)
    for theta in (-0.4, 0.3, 1.7):
        first, second = enumerated(theta, steps)
        tau = steps * ETA
        np.testing.assert_allclose(np.polyval(found.drift[::-1], theta), first / tau, rtol=1e-12)
        value = np.polyval(found.variance_rate[::-1], theta)
        np.testing.assert_allclose(value, second / tau, rtol=1e-12)


def test_one_iteration_reads_the_first_order_equation():
    """Centred at lag η: b = −∇L and a = ηcΣ at any η; naive a = ηcΣ + η∇L²."""
    landscape = ss.LeastSquares(jnp.asarray(X)[:, None], jnp.asarray(Y))
    centred, naive = read("centred"), read("naive")
    for theta in (-0.4, 0.3, 1.7):
        point = jnp.array([theta])
        gradient = float(landscape.gradient(point)[0])
        sigma = float(landscape.gradient_covariance(point)[0, 0])
        np.testing.assert_allclose(np.polyval(centred.drift[::-1], theta), -gradient, rtol=1e-12)
        rate = np.polyval(centred.variance_rate[::-1], theta)
        np.testing.assert_allclose(rate, ETA * sigma / BATCH, rtol=1e-11)
        raw = np.polyval(naive.variance_rate[::-1], theta)
        np.testing.assert_allclose(raw, ETA * (sigma / BATCH + gradient**2), rtol=1e-11)


def test_two_lags_read_the_second_order_drift():
    """2M₁(η)/η − M₁(2η)/(2η) = −∇(L + (η/4)|∇L|²), exactly on a quadratic."""
    slope = np.mean(X**2)
    limit = read("log_map", process=LIMIT)
    found = read("extrapolated")
    np.testing.assert_allclose(found.drift, (1 + ETA * slope / 2) * limit.drift, rtol=1e-12)
    assert abs(found.drift[1] - limit.drift[1]) > 0.1


def test_log_map_is_the_generator_of_every_iteration():
    """e^{ηG} maps 1, θ, θ² as SGD does, drift slope log(1 − ηh)/η; the same at every lag."""
    found = read("log_map")
    np.testing.assert_allclose(found.drift[1], np.log(1 - ETA * np.mean(X**2)) / ETA, rtol=1e-12)
    generator = np.zeros((3, 3))
    generator[1, :2] = found.drift
    generator[2] = found.variance_rate + np.array([0, *(2 * found.drift)])
    theta = 0.7
    for steps in (1, 3):
        after = expm(steps * ETA * generator) @ theta ** np.arange(3)
        first, second = enumerated(theta, steps)
        np.testing.assert_allclose(after[1] - theta, first, rtol=1e-10)
        moved = after[2] - 2 * theta * after[1] + theta**2
        np.testing.assert_allclose(moved, second, rtol=1e-10)


def test_only_the_centred_reading_loses_the_stationary_variance():
    """2b₁M + a(m) + a₂M = 0: naive, extrapolated and log map have SGD's M, centred has not."""
    exact = closed_forms.covariance(
        X[:, None], Y, learning_rate=ETA, noise_factor=1 / BATCH, time_step=ETA
    )[0, 0]

    def variance(equation):
        b, a = equation
        return -np.polyval(a[::-1], -b[0] / b[1]) / (2 * b[1] + a[2])

    for reading, lag in (("naive", 1), ("naive", 3), ("extrapolated", 1), ("log_map", 1)):
        np.testing.assert_allclose(variance(read(reading, lag)), exact, rtol=1e-11)
    assert variance(read("centred")) < 0.95 * exact


def test_order_of_the_remaining_bias():
    """Of the SDE (h = 0): O(τ) naive and centred, O(τ²) and O(τ³) extrapolated, none log map."""
    limit = read("log_map", process=LIMIT)
    cases = (("naive", 1, 1), ("centred", 1, 1), ("extrapolated", 2, 2), ("extrapolated", 3, 3))
    for reading, lags, order in cases:
        errors = []
        for lag in (0.02, 0.01):
            found = read(reading, lag, process=LIMIT, num_lags=lags)
            difference = [found.drift - limit.drift, found.variance_rate - limit.variance_rate]
            errors.append([np.abs(part).max() for part in difference])
        slopes = np.log2(np.array(errors[0]) / errors[1])
        np.testing.assert_allclose(slopes, order, atol=0.05)


def test_leading_bias():
    """(τ/2)𝓛b and τ(b² + ab′ + ½ba′ + ¼aa″), and without b² if centred, as τ → 0."""
    limit = read("log_map", process=LIMIT)
    points = np.array([-0.4, 0.9])
    for reading in ("naive", "centred"):
        drift, rate = theory.equations.finite_lag_bias(
            lambda t: jnp.polyval(jnp.asarray(limit.drift[::-1]), t[0]),
            lambda t: jnp.polyval(jnp.asarray(limit.variance_rate[::-1]), t[0]),
            points,
            lag=1e-4 * ETA,
            reading=reading,
        )
        found = read(reading, 1e-4, process=LIMIT)
        change = np.polyval((found.drift - limit.drift)[::-1], points)
        np.testing.assert_allclose(drift, change, rtol=1e-3)
        change = np.polyval((found.variance_rate - limit.variance_rate)[::-1], points)
        np.testing.assert_allclose(rate, change, rtol=1e-3)


def held(hess, noise, eta, substeps=1):
    """Euler's scheme under constant noise; Gaussian SGD for one substep."""
    landscape, model = ss.quadratic(hess, noise), ss.ConstantNoise(np.array(noise))
    return ss.ModifiedEquation(landscape, eta, model, substeps=substeps)


@pytest.mark.parametrize("reading", ["naive", "centred"])
def test_euler_reads_the_moments_of_its_steps(reading):
    """E θ' and E θ'² of three steps θ + hb + √(hηcΣ) ξ, ξ by Gauss–Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights, h, found = weights / weights.sum(), ETA / 3, read(reading, 1, EQUATION)
    for start in (-0.4, 1.7):
        theta, chance = np.array([start]), np.array([1.0])
        for _ in range(3):
            slopes = np.outer(theta, X**2) - X * Y
            noise = np.sqrt(h * ETA / BATCH * slopes.var(axis=1))
            theta = ((theta - h * slopes.mean(1))[:, None] + noise[:, None] * nodes).ravel()
            chance = np.outer(chance, weights).ravel()
        first, second = (chance @ (theta - start) ** n / ETA for n in (1, 2))
        np.testing.assert_allclose(np.polyval(found.drift[::-1], start), first, rtol=1e-11)
        exact = second - (ETA * first**2 if reading == "centred" else 0)
        np.testing.assert_allclose(np.polyval(found.variance_rate[::-1], start), exact, rtol=1e-10)


def test_linear_equation_of_gaussian_sgd():
    """e^{−hΛ} = 1 − hH and ∫₀^h e^{−Λs} a e^{−Λs} ds = hηC, H and C not commuting."""
    hess, noise = np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[1.0, -0.4], [-0.4, 0.5]])
    found = theory.equations.effective_linear(held(hess, noise, 0.2, 2))
    np.testing.assert_allclose(expm(-0.1 * found.drift_matrix), np.eye(2) - 0.1 * hess, rtol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = np.zeros((2, 2))
    for s, w in zip(0.05 * (nodes + 1), 0.05 * weights, strict=True):
        decay = expm(-found.drift_matrix * s)
        total += w * decay @ found.variance_rate @ decay
    np.testing.assert_allclose(total, 0.1 * 0.2 * noise, rtol=1e-12)
    limit = theory.equations.effective_linear(held(hess, noise, 0.2).limit())
    np.testing.assert_allclose(limit.drift_matrix, hess, rtol=1e-13)
    np.testing.assert_allclose(limit.variance_rate, 0.2 * noise, rtol=1e-13)
    # With its stationary covariance, of the continuous equation.
    m = theory.stationary.linear_covariance(hess, noise, learning_rate=0.2, time_step=0.1)
    balance = found.drift_matrix @ m + m @ found.drift_matrix
    np.testing.assert_allclose(balance, found.variance_rate, rtol=1e-10)


def test_conditional_moments_of_the_master_equation():
    """All batches enumerated on least squares: the polynomial reading at its points."""
    landscape = ss.LeastSquares(jnp.asarray(X)[:, None], jnp.asarray(Y))
    sgd = ss.SGD(landscape, ETA, ss.WithReplacement(BATCH))
    chain = theory.laws.MasterEquation(sgd, (-6, 8), 16)
    points = np.array([-0.4, 1.7])
    for reading, steps in (("naive", [2]), ("centred", [2]), ("extrapolated", [1, 2])):
        moments = theory.equations.conditional_moments(chain, points, steps)
        drift, rate = moments.read(ETA, reading)
        exact = read(reading, steps[0])
        np.testing.assert_allclose(drift, np.polyval(exact.drift[::-1], points), rtol=1e-10)
        expected = np.polyval(exact.variance_rate[::-1], points)
        np.testing.assert_allclose(rate, expected, rtol=1e-10)


def test_bad_input():
    """Steps that no SDE makes, lags between two steps, unknown readings: with the way out."""
    with pytest.raises(ValueError, match="alternates"):
        steep = ss.SGD(ss.LeastSquares(2 * X[:, None], Y), 1.0, SAMPLING)
        theory.equations.read_least_squares(steep, 1.0, reading="log_map")
    with pytest.raises(ValueError, match="alternates"):
        theory.equations.effective_linear(held([[2.0]], [[1.0]], 0.6))
    with pytest.raises(ValueError, match="multiples of one step"):
        read("naive", 1.5)
    with pytest.raises(ValueError, match="num_lags"):
        read("extrapolated", num_lags=0)
    with pytest.raises(ValueError, match="no Markov chain"):
        read("naive", process=ss.SGD(LANDSCAPE, ETA, SAMPLING, 0.5))
    with pytest.raises(ValueError, match="known in one dimension; got d=2"):
        read("naive", process=held(np.eye(2), np.eye(2), ETA))
    with pytest.raises(ValueError, match="depends on θ.*ConstantNoise.at"):
        theory.equations.effective_linear(EQUATION)
    landscape = ss.LeastSquares(jnp.asarray(X)[:, None], jnp.asarray(Y))
    sgd = ss.SGD(landscape, ETA, ss.WithReplacement(BATCH))
    chain = theory.laws.MasterEquation(sgd, (-6, 8), 16)
    moments = theory.equations.conditional_moments(chain, [0.1], [1, 3])
    with pytest.raises(ValueError, match="s, 2s"):
        moments.read(ETA, "extrapolated")
