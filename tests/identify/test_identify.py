"""Equations read off simulated trajectories and snapshots, against exact readings."""

import copy
import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import binom

import sde_sgd as ss
from sde_sgd.identify import basis as bases

ETA, STEPS, MEMBERS = 0.2, 20, 12_000
X = np.array([0.5, 1.1, 1.4, -0.7, 0.9])
Y = np.array([1.0, 0.2, 1.9, 0.4, -0.5])
LINE, PARABOLA = ss.identify.PolynomialBasis(1, 1), ss.identify.PolynomialBasis(1, 2)


def landscape():
    return ss.LeastSquares(jnp.asarray(X)[:, None], jnp.asarray(Y))


@functools.cache
def sgd_run():
    """SGD on least squares, recorded at every iteration, from spread-out starts."""
    middle = landscape().minimum()
    return ss.simulate(
        ss.SGD(landscape(), ETA, ss.WithReplacement(2)),
        lambda k: middle + 0.3 + 0.35 * jr.normal(k, (1,)),
        num_steps=STEPS,
        ensemble_size=MEMBERS,
        key=jr.key(11),
        record_every=1,
        progress=False,
    )


def descend(gradient, theta, eta, steps):
    """All positions of θ ← θ − η ĝ(θ), written out: (steps + 1, ...)."""
    rows = [theta]
    for _ in range(steps):
        rows.append(rows[-1] - eta * gradient(rows[-1]))
    return np.stack(rows)


def exact(reading, lag=1):
    sgd = ss.SGD(landscape(), ETA, ss.WithReplacement(2))
    return ss.theory.equations.read_least_squares(sgd, lag * ETA, reading=reading)


def agree(fit, equation):
    """Verdicts on the drift and on the variance rate."""
    drift = ss.compare(fit.drift[0], equation.drift)
    rate = ss.compare(fit.variance_rate[0, 0], equation.variance_rate)
    return drift.verdict, rate.verdict


BOTH = ("agrees", "agrees")


@pytest.mark.parametrize("correction", ["naive", "centred", "extrapolated"])
@pytest.mark.parametrize("lag", [1, 2])
def test_regression_has_its_exact_reading(correction, lag):
    """Coefficients of b and a = those of E[Δθ | θ], E[Δθ² | θ] over the lag."""
    fit = ss.identify.sparse(
        sgd_run(), LINE, PARABOLA, lag=lag, correction=correction, failure_rate=None
    )
    assert agree(fit, exact(correction, lag)) == BOTH


def test_what_the_reading_is_not():
    """Controls: naive a is not ηcΣ; b is not Stratonovich's; a is not D; lags are not the limit."""
    limit = exact("centred")  # −∇L and ηcΣ
    naive = ss.identify.sparse(sgd_run(), LINE, PARABOLA, correction="naive", failure_rate=None)
    assert agree(naive, limit) == ("agrees", "disagrees")
    far = ss.identify.sparse(sgd_run(), LINE, PARABOLA, lag=3, failure_rate=None)
    assert agree(far, limit)[0] == "disagrees"
    fit = ss.identify.sparse(sgd_run(), LINE, PARABOLA, failure_rate=None)
    assert agree(fit, limit) == BOTH
    slope = np.array([limit.variance_rate[1], 2 * limit.variance_rate[2]])
    wrong = limit._replace(drift=limit.drift - slope / 4, variance_rate=limit.variance_rate / 2)
    assert agree(fit, wrong) == ("disagrees", "disagrees")


@pytest.mark.parametrize("lag", [1, 4])
def test_log_map_at_any_lag(lag):
    """G = log(P)/τ: the same equation at lags 1 and 4, and not −∇L."""
    fit = ss.identify.linear(sgd_run(), lag=lag)
    assert agree(fit, exact("log_map")) == BOTH
    assert agree(fit, exact("centred"))[0] == "disagrees"


@pytest.mark.parametrize("linked", [True, False])
def test_snapshots_have_the_log_map(linked):
    """d/dt E φ = E 𝓛φ between laws at seven times; the model is not rejected; not −∇L."""
    run = sgd_run()
    at = [0, 1, 2, 4, 6, 9, 12]
    seen = run.records[1][at]
    if not linked:  # other members at every time
        seen = np.stack(np.split(seen[:, : 7 * 1700], 7, axis=1))[np.arange(7), np.arange(7)]
    found = ss.identify.from_snapshots(seen, ETA * np.array(at), LINE, PARABOLA, linked=linked)
    assert agree(found.equation, exact("log_map")) == BOTH
    assert found.p_value > 1e-4 and found.degrees_of_freedom == 7
    if linked:
        assert agree(found.equation, exact("centred"))[0] == "disagrees"
        # A family that cannot hold the laws is rejected: no drift but a constant one.
        poor = ss.identify.from_snapshots(
            seen, ETA * np.array(at), ss.identify.PolynomialBasis(1, 0), linked=True
        )
        assert poor.p_value < 1e-10


def test_linear_in_the_plane():
    """−log(1 − ηH)/η and its noise, H and C not commuting, of Gaussian SGD; a is constant."""
    hess = np.array([[1.0, 0.4], [0.4, 2.0]])
    noise = np.array([[1.0, -0.5], [-0.5, 0.6]])
    rng, root = np.random.default_rng(2), np.linalg.cholesky(noise)
    start = 0.5 * rng.normal(size=(4000, 2))
    run = descend(lambda t: t @ hess + rng.normal(size=t.shape) @ root.T, start, 0.15, 12)
    fit = ss.identify.linear(run, time_step=0.15)
    sgd = ss.GaussianSGD(ss.quadratic(hess, noise), 0.15, ss.ConstantNoise(noise))
    exact = ss.theory.equations.effective_linear(sgd)
    drift = np.concatenate([np.zeros((2, 1)), -exact.drift_matrix], axis=1)
    assert ss.compare(fit.drift, drift).verdict == "agrees"
    assert ss.compare(fit.drift[:, 1:], -hess).verdict == "disagrees"
    rate = np.zeros((2, 2, 6))
    rate[..., 0] = exact.variance_rate
    assert ss.compare(fit.variance_rate, rate).verdict == "agrees"
    half = fit.variance_rate[..., 0]
    assert ss.compare(half, exact.variance_rate / 2).verdict == "disagrees"


def test_snapshots_in_the_plane():
    """Constant a = 2D, on and off the diagonal, from laws alone: of Gaussian SGD, the log map.

    Controls: D for a, on the diagonal or off it.
    """
    hess, noise = np.array([[1.0, 0.4], [0.4, 2.0]]), np.array([[1.0, -0.5], [-0.5, 0.6]])
    rng, root = np.random.default_rng(3), np.linalg.cholesky(noise)
    start = np.array([0.4, -0.3]) + 0.1 * rng.normal(size=(8000, 2))
    run = descend(lambda t: t @ hess + rng.normal(size=t.shape) @ root.T, start, 0.1, 7)
    found = ss.identify.from_snapshots(
        run, 0.1 * np.arange(8), ss.identify.PolynomialBasis(2, 1), linked=True
    )
    sgd = ss.GaussianSGD(ss.quadratic(hess, noise), 0.1, ss.ConstantNoise(noise))
    exact = ss.theory.equations.effective_linear(sgd)
    rate, truth = found.equation.variance_rate[..., 0], exact.variance_rate
    assert ss.compare(rate, truth).verdict == "agrees" and found.p_value > 1e-4
    diagonal = np.diag(np.diag(truth))
    assert ss.compare(rate, truth - diagonal / 2).verdict == "disagrees"
    assert ss.compare(rate, (truth + diagonal) / 2).verdict == "disagrees"


def test_local_reading_in_a_double_well():
    """b = x − x³ and a = ηC at lag η (local cubics), over four iterations the master equation's."""
    eta = 0.05
    problem, rng = ss.double_well(1.5), np.random.default_rng(4)
    run = descend(
        lambda x: x**3 - x + np.sqrt(1.5) * rng.choice([-1.0, 1.0], x.shape),
        rng.uniform(-1.6, 1.6, 4000),
        eta,
        24,
    )
    read = functools.partial(ss.identify.kramers_moyal, run, bandwidth=0.35, time_step=eta)
    points = np.linspace(-1.2, 1.2, 6)
    found = read(points, degree=3)
    assert ss.compare(found.drift, points - points**3).verdict == "agrees"
    # a is constant, and ±1 squared is 1: what is left is (τb̂ − τb)², of second order in the error.
    np.testing.assert_allclose(found.variance_rate.value, 1.5 * eta, rtol=3e-3)
    naive = read(points, degree=3, correction="naive")
    square = 1.5 * eta + eta * (points - points**3) ** 2
    assert ss.compare(naive.variance_rate, square).verdict == "agrees"
    assert ss.compare(naive.variance_rate, 1.5 * eta).verdict == "disagrees"
    far = read(points, degree=3, lag=4, correction="naive")
    sgd = ss.SGD(problem, eta, ss.WithReplacement(1))
    chain = ss.theory.laws.MasterEquation(sgd, (-4, 4), 16)
    drift, rate = ss.theory.equations.conditional_moments(chain, points, [4]).read(eta)
    assert ss.compare(far.drift, drift).verdict == "agrees"
    assert ss.compare(far.variance_rate, rate).verdict == "agrees"
    assert ss.compare(far.drift, points - points**3).verdict == "disagrees"
    alone = read([0.0, 9.0])
    assert np.isnan(alone.drift.value[1]) and np.isinf(alone.drift.standard_error[1])


def test_intervals_cover():
    """200 readings of 96 members each: 95 % intervals hold the exact value as often as a
    binomial of .95 may (2e-5 in all, both ways); intervals of half the width do not."""
    repetitions, members = 200, 96
    rng, middle = np.random.default_rng(5), (X @ Y) / (X @ X)

    def gradient(theta):
        batch = rng.integers(len(X), size=(2, len(theta)))
        return (X[batch] * (X[batch] * theta - Y[batch])).mean(axis=0)

    start = middle + 0.2 * rng.normal(size=repetitions * members)
    run = descend(gradient, start, ETA, 15)
    target = exact("centred")
    value = np.concatenate([target.drift, target.variance_rate])
    hits, narrow = np.zeros(5, int), np.zeros(5, int)
    for block in np.split(run, repetitions, axis=1):
        fit = ss.identify.sparse(block, LINE, PARABOLA, time_step=ETA, failure_rate=None)
        found = np.concatenate([fit.drift.value[0], fit.variance_rate.value[0, 0]])
        error = np.concatenate(
            [fit.drift.standard_error[0], fit.variance_rate.standard_error[0, 0]]
        )
        z = np.abs(found - value) / error
        hits += z < 1.985  # Student's t, 95 degrees of freedom
        narrow += z < 1.985 / 2
    low, high = binom.ppf([1e-5 / 5, 1 - 1e-5 / 5], repetitions, 0.95)
    assert ((low <= hits) & (hits <= high)).all(), hits
    assert (narrow < low).all()


def test_sparse_basis_finds_the_terms_and_no_others():
    """V = (x² − 1)²/4 + ½(y − x²)² out of ten monomials a component; naive squares add terms."""
    noise, rng = np.array([[1.0, 0.6], [0.6, 1.0]]), np.random.default_rng(6)
    root = np.linalg.cholesky(noise / 2)

    def gradient(t):
        x, y = t.T
        slope = np.stack([x**3 - x - 2 * x * (y - x**2), y - x**2], axis=1)
        return slope + rng.normal(size=t.shape) @ root.T

    run = descend(gradient, 0.8 * rng.normal(size=(2000, 2)), 0.05, 20)
    read = functools.partial(ss.identify.sparse, run, time_step=0.05, failure_rate=1e-4)
    basis, squares = ss.identify.PolynomialBasis(2, 3), ss.identify.PolynomialBasis(2, 2)
    fit = read(basis, squares)
    true = np.zeros((2, 10))
    for axis, terms in enumerate(({"x": 1, "x³": -3, "xy": 2}, {"y": -1, "x²": 1})):
        for name, value in terms.items():
            true[axis, basis.names.index(name)] = value
    np.testing.assert_array_equal(fit.drift.value != 0, true != 0)
    kept = true != 0
    assert ss.compare(fit.drift[kept], true[kept]).verdict == "agrees"
    assert (fit.variance_rate.value[..., 1:] == 0).all()
    rate = np.asarray(0.05 / 2 * noise)
    assert ss.compare(fit.variance_rate[..., 0], rate).verdict == "agrees"
    # The equation at points is that of its terms, with their errors.
    point = np.array([[0.4, -0.2]])
    expected = bases.values(basis, point) @ fit.drift.value.T
    np.testing.assert_allclose(fit.drift_at(point).value, expected)
    assert (fit.drift_at(point).standard_error > 0).all()
    assert "x³" in fit.equations()[0] and fit.equations()[1].count("(±") == 2
    naive = read(basis, squares, correction="naive")
    assert (naive.variance_rate.value[..., 1:] != 0).any()


def test_runs_as_they_come():
    """A Run knows its times and who is alive; without records, or equal spacing, it is refused."""
    run = copy.copy(sgd_run())
    with pytest.raises(ValueError, match="leave out time_step"):
        ss.identify.linear(run, time_step=ETA)
    same = ss.identify.linear(run.records[1][:, 50:], time_step=ETA)
    run.alive = np.arange(MEMBERS) >= 50
    np.testing.assert_allclose(ss.identify.linear(run).drift.value, same.drift.value, rtol=1e-9)
    run.process = ss.SGD(landscape(), lambda k: 0.1 / (1.0 + k), ss.WithReplacement(2))
    with pytest.raises(ValueError, match="equally spaced"):
        ss.identify.linear(run)
    run._records = None
    with pytest.raises(ValueError, match="record_every=1"):
        ss.identify.linear(run)


def test_bases():
    """Monomials in two routes; derivatives; a basis of one's own."""
    basis = ss.identify.PolynomialBasis(2, 3, [0.3, -0.1])
    points = np.random.default_rng(0).normal(size=(5, 2))
    rows = np.stack([np.asarray(basis(jnp.asarray(p))) for p in points])
    np.testing.assert_allclose(bases.values(basis, points), rows, rtol=1e-12)
    x, y = (points - basis.centre).T
    np.testing.assert_allclose(rows[:, basis.names.index("x²y")], x**2 * y)
    slope, curvature = bases.derivatives(basis, points)
    place = basis.names.index("x²y")
    np.testing.assert_allclose(slope[:, place], np.stack([2 * x * y, x**2], 1), atol=1e-12)
    np.testing.assert_allclose(curvature[:, place, 0, 1], 2 * x, atol=1e-12)
    own = ss.identify.FunctionBasis(2, [lambda t: jnp.sin(t[0]), lambda t: t[1]], ["sin x", "y"])
    np.testing.assert_allclose(bases.values(own, points)[:, 0], np.sin(points[:, 0]))
    with pytest.raises(ValueError, match="one name for each"):
        ss.identify.FunctionBasis(2, [jnp.sum], ["a", "b"])
    with pytest.raises(ValueError, match="scalar"):
        ss.identify.FunctionBasis(2, [lambda t: t], ["t"])
