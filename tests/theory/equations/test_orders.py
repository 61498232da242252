"""Weak orders without sampling errors: the tables of theory, other routes, controls that fail."""

import closed_forms
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.sparse.linalg import expm_multiply

import sde_sgd as ss
from sde_sgd import theory

PAIR = (np.array([[1.0], [1.0]]), np.array([1.0, -1.0]))  # ½(x − γ)², γ = ±1
RATES = 2.0 ** -np.arange(4, 9)
COARSE = 2.0 ** -np.arange(3, 7)


def weak_errors(landscape, sampling, order, rates, theta0):
    sgd = ss.SGD(landscape, 0.1, sampling)
    equation = ss.ModifiedEquation(landscape, 0.1, ss.MinibatchNoise(sampling), order=order)
    return theory.equations.weak_errors(
        sgd, equation.limit(), learning_rates=rates, time=1.0, theta0=theta0
    )


def pair_errors(order, rates=RATES):
    return weak_errors(ss.LeastSquares(*PAIR), ss.WithReplacement(1), order, rates, [1.0])


def logistic():
    """Four examples, one weight: not quadratic, Σ depends on θ."""
    inputs = jnp.array([[1.0], [-0.5], [1.5], [0.7]])
    return ss.LogisticRegression(inputs, jnp.array([1.0, 1.0, 0.0, 1.0]), l2=0.5, bias=False)


SAMPLING = ss.WithReplacement(1)


def square(x):
    return x[0] ** 2


def fourth(x):
    return x[0] ** 4


def logistic_errors(order=1, of=square, rates=COARSE, **options):
    return theory.equations.weak_errors_scalar(
        logistic(),
        options.pop("sampling", SAMPLING),
        of=of,
        learning_rates=rates,
        time=1.0,
        theta0=1.5,
        box=(-4, 4),
        order=order,
        **options,
    )


def test_table_of_the_mean():
    """|E x errors| 1.181e-2 / 4.869e-4 at η = 1/16 and 5.824e-3 / 1.207e-4 at 1/32."""
    found = np.abs([pair_errors(order).mean[:2, 0] for order in (1, 2)])
    table = [[1.181e-2, 5.824e-3], [4.869e-4, 1.207e-4]]
    np.testing.assert_allclose(found, table, rtol=5e-4)


def test_table_of_the_second_moment():
    """|E x² errors| 7.40e-3 / 1.371e-3 and 3.97e-3 / 3.383e-4."""
    found = np.abs([pair_errors(order).second[:2, 0, 0] for order in (1, 2)])
    np.testing.assert_allclose(found, [[7.40e-3, 3.97e-3], [1.371e-3, 3.383e-4]], rtol=2e-3)


def test_pair_by_hand():
    """E x_k = (1−η)^k, E x² ← (1−η)²E x² + η² against e^{−t} and 1·e^{−2t} + η(1−e^{−2t})/2."""
    eta = 1 / 16
    mean, second = 1.0, 1.0
    for _ in range(16):
        mean, second = (1 - eta) * mean, (1 - eta) ** 2 * second + eta**2
    decay = np.exp(-2)
    found = pair_errors(1, rates=[eta])
    assert found.mean[0, 0] == pytest.approx(np.exp(-1) - mean, rel=1e-10)
    exact = decay + eta * (1 - decay) / 2 - second
    assert found.second[0, 0, 0] == pytest.approx(exact, rel=1e-10)


def test_orders_of_the_quadratic():
    """Fits over 2⁻⁴…2⁻⁸: 1.009 and 2.005 for the mean, .957 and 2.008 for E x²."""
    for order, mean, second in ((1, 1.009, 0.957), (2, 2.005, 2.008)):
        errors = pair_errors(order)
        fits = [
            theory.equations.fit_order(RATES, e)
            for e in (errors.mean[:, 0], errors.second[:, 0, 0])
        ]
        assert [f.order for f in fits] == pytest.approx([mean, second], abs=6e-4)
        assert all(abs(f.order - order) < min(0.1, 3 * f.uncertainty) for f in fits)


def test_orders_in_three_dimensions():
    """A finite sum with Σ(θ), both sampling schemes: 1 ± .1 and 2 ± .1 in every moment's norm."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(8, 3)), rng.normal(size=8)
    landscape = ss.LeastSquares(inputs, targets)
    for scheme in (ss.WithReplacement(2), ss.WithoutReplacement(2)):
        for order in (1, 2):
            errors = weak_errors(landscape, scheme, order, RATES / 2, [1.0, -0.5, 0.3])
            for rows in (errors.mean, errors.second.reshape(len(RATES), -1)):
                size = np.linalg.norm(rows, axis=1)
                assert abs(theory.equations.fit_order(RATES / 2, size).order - order) < 0.1


@pytest.mark.parametrize("order", [1, 2])
def test_orders_of_a_logistic_loss(order):
    """Master equation against Fokker–Planck, η = 2⁻³…2⁻⁶: slopes 1 ± .1 and 2 ± .1, also of x⁴."""
    for of in (square, fourth):
        errors = logistic_errors(order, of)
        fit = theory.equations.fit_order(COARSE, errors.errors)
        assert abs(fit.order - order) < 0.1
        assert np.all(errors.accuracy < 1e-4 * np.abs(errors.errors))


def test_without_replacement():
    """Fresh pairs of four: c = (N−B)/(B(N−1)); with the c of replacement the order is lost."""
    scheme = ss.WithoutReplacement(2)
    right = logistic_errors(2, sampling=scheme).errors
    assert abs(theory.equations.fit_order(COARSE, right).order - 2) < 0.1

    def wrong(eta, g, bent, c):
        return -g - eta / 2 * bent, eta / 2 * c * (1 / 2) / (2 / 6)

    errors = logistic_errors(sampling=scheme, equation=wrong).errors
    assert theory.equations.fit_order(COARSE, errors).order < 1.3


def test_sgd_side_by_atoms():
    """E f after 8 steps = the master equation's, all 4⁸ batches followed."""
    chain = theory.laws.MasterEquation(ss.SGD(logistic(), 0.125, SAMPLING), [-4.0, 4.0], 8)
    (end,) = chain.propagate(1.5, [8])
    found = logistic_errors(rates=[0.125]).sgd[0]
    assert found == pytest.approx(float(end.expect(square)), rel=1e-10)


def test_sde_side_by_finite_volumes():
    """E f(X_1) = u(θ0), ∂u/∂t = 𝓛u by the jump chain on cells, extrapolated from its h² error."""
    values = []
    for cells in (480, 960):
        solver = theory.laws.FokkerPlanck(
            ss.ModifiedEquation(logistic(), 0.125, ss.MinibatchNoise(SAMPLING), order=2).limit(),
            (-4.0, 4.0),
            cells,
        )
        x = solver.grid.centres[:, 0]
        end = expm_multiply(solver.generator, x**2)
        values.append(float(CubicSpline(x, end)(1.5)))
    limit = (4 * values[1] - values[0]) / 3
    found = logistic_errors(2, rates=[0.125]).sde[0]
    assert abs(found - limit) < 0.05 * abs(values[1] - limit) < 1e-4


def variant(bend, power=1.0, scale=1.0):
    """Order 2 with bend·η for η/2 in the drift, and scale·η^power for η in D."""
    return lambda eta, g, bent, c: (-g - bend * eta * bent, scale * eta**power / 2 * c)


def test_controls_lose_the_order():
    """(η/2)|∇L|² for (η/4), its sign, √η for η in the noise, Σ/2: none is of order 2."""
    own = logistic_errors(equation=variant(0.5)).errors
    np.testing.assert_allclose(own, logistic_errors(2).errors, rtol=1e-9)
    for wrong in (variant(1.0), variant(-0.5), variant(0.5, power=0.5), variant(0.5, scale=0.5)):
        errors = logistic_errors(equation=wrong).errors
        assert theory.equations.fit_order(COARSE, errors).order < 1.3


def test_another_clock_loses_the_order():
    """SDE at t = η(k+1) for ηk: order 1 at best; on the clock √η·k: no order."""
    late, slow = [], []
    for eta in RATES:
        k = round(1 / eta)
        ticks = {"learning_rate": eta, "noise_factor": 1.0, "theta0": [1.0]}
        sgd = closed_forms.transient(*PAIR, time_step=eta, times=[1.0], **ticks)
        for clock, row in ((eta * (k + 1), late), (np.sqrt(eta) * k, slow)):
            sde = closed_forms.transient(*PAIR, time_step=0.0, times=[clock], order=2, **ticks)
            row.append(float((sde.mean - sgd.mean)[0, 0]))
    assert theory.equations.fit_order(RATES, late).order < 1.1
    assert theory.equations.fit_order(RATES, slow).order < 0.1


def test_order_two_is_worse_in_the_stationary_state():
    """Var η/(2+η), η/2 and, of SGD, η/(2−η): order 2 misses by twice as much as order 1."""
    eta = 0.1
    options = {"learning_rate": eta, "noise_factor": 1.0}
    cov = closed_forms.covariance
    sgd = cov(*PAIR, time_step=eta, **options)[0, 0]
    one, two = (cov(*PAIR, time_step=0.0, order=p, **options)[0, 0] for p in (1, 2))
    assert (sgd, one, two) == pytest.approx((eta / (2 - eta), eta / 2, eta / (2 + eta)))
    assert abs(two - sgd) > 1.9 * abs(one - sgd)


def test_fit_of_a_power_law():
    """3η² is fitted exactly; with errors the slope's is (Σ w (x − x̄)²)^{−1/2}."""
    eta = np.array([0.5, 0.25, 0.125])
    fit = theory.equations.fit_order(eta, -3 * eta**2)
    assert (fit.order, fit.prefactor) == pytest.approx((2, 3))
    assert fit.uncertainty < 1e-12
    fit = theory.equations.fit_order(eta[:2], 3 * eta[:2] ** 2, 0.1 * 3 * eta[:2] ** 2)
    assert fit.uncertainty == pytest.approx(0.1 * np.sqrt(2) / np.log(2))


def test_uncertainty_covers():
    """Noisy power laws: the fitted order lies within 2 uncertainties in 95 % of 600 cases."""
    rng = np.random.default_rng(1)
    eta, hits = 2.0 ** -np.arange(4.0), []
    for _ in range(600):
        sd = 0.05 * eta
        fit = theory.equations.fit_order(eta, eta + sd * rng.normal(size=4), sd)
        hits.append(abs(fit.order - 1) < 2 * fit.uncertainty)
    assert np.mean(hits) > 0.915  # 95 % less 4 standard errors of .9 %


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: theory.equations.fit_order([0.1], [1.0]), "at least 2 rates"),
        (lambda: theory.equations.fit_order([0.1, 0.1], [1.0, 2.0]), "differ"),
        (
            lambda: theory.equations.fit_order([0.1, 0.2], [1.0, 0.0]),
            "learning_rate=0.2 is not resolved",
        ),
        (lambda: theory.equations.fit_order([0.1, 0.2], [1e-3, 1.0], [1e-3, 0.1]), "more members"),
        (lambda: logistic_errors(rates=[0.3]), "multiples of time_step"),
        (lambda: logistic_errors(degree=12), "Raise degree"),
        (lambda: logistic_errors(order=3), "order must be one of 1, 2"),
        (
            lambda: theory.equations.weak_errors_scalar(
                logistic(),
                SAMPLING,
                of=lambda x: x[0],
                learning_rates=[0.5],
                time=1.0,
                theta0=0.2,
                box=(-0.3, 0.4),
            ),
            "leaves the box",
        ),
    ],
)
def test_bad_input(call, words):
    """One clear error each."""
    with pytest.raises(ValueError, match=words):
        call()
