"""What no prediction takes: each refusal is one `ValueError` that names the argument."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd._checks import check_at_least, check_flag, check_number
from sde_sgd.processes import Diffusion
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.equations import flow_gap, identification, scores

NAN = float("nan")
HESSIAN, NOISE = np.diag([1.0, 0.5]), np.eye(2)
BOX = dict(box=(-5.0, 5.0), cells=20)
LAW = Diffusion(lambda x: -x, 0.15, 0.3)
EQUATION = ss.ModifiedEquation(ss.quadratic(HESSIAN, NOISE), 0.1, ss.ConstantNoise(NOISE))
SCORE = theory.equations.GaussianScore(
    EQUATION.limit(), theory.laws.Gaussian(np.zeros(2), np.eye(2))
)
X, Y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.0, 1.5])
SGD = ss.SGD(ss.LeastSquares(X[:, None], Y), 0.1, ss.WithReplacement(2))


def density() -> theory.laws.GridDensity:
    return theory.laws.FokkerPlanck(Diffusion(lambda x: -x, 0.5), **BOX).stationary()


def refused(argument: str, call) -> None:
    with pytest.raises(ValueError, match=argument):
        call()


# What a type checker would refuse goes to the checks themselves.
ODD = [None, "10", "a", b"1", object(), [1.0, 2.0], [], [1, [2, 3]], {}, 1j, 10**400]


@pytest.mark.parametrize("value", [NAN, -1e-9])
def test_a_tolerance_is_at_least_0_and_no_nan(value):
    """NaN is no bound: lost > NaN is false whatever is lost."""
    given = dict(mass_tolerance=value)
    refused(
        "mass_tolerance",
        lambda: theory.laws.FokkerPlanck(Diffusion(lambda x: -x, 0.5), **BOX, **given),
    )
    on_nodes = dict(box=(-4.0, 4.0), nodes=40)
    refused("mass_tolerance", lambda: theory.laws.MasterEquation(LAW, **on_nodes, **given))
    refused("mass_tolerance", lambda: theory.laws.KramersMoyal(LAW, order=2, **on_nodes, **given))


def test_an_infinite_tolerance_allows_all():
    """lost ≤ ∞."""
    equation = theory.laws.FokkerPlanck(
        Diffusion(lambda x: -x, 0.5), (-0.5, 0.5), 20, mass_tolerance=np.inf
    )
    assert equation.stationary().lost > 0.1


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_number_is_no_number(value):
    """float(x) of what is no number is not asked for."""
    for check in (_arguments.tolerance, _arguments.end, check_number, check_at_least):
        refused("bound", lambda check=check: check("bound", value))
    refused("batch_size", lambda: _arguments.batch_size(value))
    refused("flag", lambda: check_flag("flag", value))
    refused("reading", lambda: identification._check_reading(value))
    refused("landscape", lambda: _arguments.landscape(value))


@pytest.mark.parametrize("value", [NAN, np.inf, True])
def test_numbers_are_finite(value):
    """|x| < ∞."""
    well, noise = ss.double_well(0.5), ss.ConstantNoise(np.eye(1))
    refused(
        "learning_rate",
        lambda: theory.stationary.linear_covariance(HESSIAN, NOISE, learning_rate=value),
    )
    refused(
        "start",
        lambda: theory.escape.quasi_potential(ss.ModifiedEquation(well, 0.1, noise), value, 0.0),
    )
    refused("relative_error", lambda: theory.equations.gaussian_flow_gap(SCORE, value, [0.0, 1.0]))
    refused("within", lambda: ss.landscapes.stationary_point(well, [0.9], within=value))
    refused(
        "wall",
        lambda: theory.escape.exit_time(
            Diffusion(lambda x: -x, 0.5), start=0.0, exits=1.0, wall=value
        ),
    )
    refused(
        "level",
        lambda: theory.matrices.InjectedNoiseLevels(
            learning_rate=0.1, batch_size=4, noise=1.0, level=value
        ),
    )


@pytest.mark.parametrize("most", [10**9, 2**63])
def test_numbers_that_would_go_on_for_ever_are_refused(most):
    """A step takes a microsecond at least, and 10⁹ of them a quarter of an hour."""
    balance = dict(learning_rate=0.1, label_noise=0.5, num_steps=most)
    refused("num_steps", lambda: theory.selection.label_noise_balance(1.0, 0.5, **balance))
    refused("cells", lambda: theory.laws.FokkerPlanck(Diffusion(lambda x: -x, 0.5), (-5, 5), most))
    refused(
        "num_lags",
        lambda: theory.equations.read_least_squares(
            SGD, 0.1, reading="extrapolated", num_lags=most
        ),
    )
    refused("nodes", lambda: theory.laws.MasterEquation(LAW, (-4, 4), most))
    online = ss.landscapes.PopulationLeastSquares([[1.0]], 0.1)
    risk = theory.equations.OnlineRisk(ss.SGD(online, 0.1, ss.WithReplacement(1)), [1.0])
    refused("iterations", lambda: risk.after([most]))


def test_a_flow_that_needs_too_many_steps_is_refused(monkeypatch):
    """Q' = AQ + QAᵀ with A of the size of δ takes δ steps per unit t."""
    monkeypatch.setattr(flow_gap, "_MOST_CALLS", 100)
    refused("relative_error", lambda: theory.equations.gaussian_flow_gap(SCORE, 1e9, [0.0, 1.0]))


def test_a_time_shorter_than_a_step_is_no_step():
    """t = n h with n ≥ 1 or t = 0: t/h = 2e-10 rounds to no step."""
    refused("times", lambda: _arguments.whole_steps(np.array([0.2]), 1e9))
    assert _arguments.whole_steps(np.array([0.0, 0.2]), 0.1).tolist() == [0, 2]
    refused(
        "lag",
        lambda: theory.equations.read_least_squares(
            ss.SGD(SGD.landscape, 1e9, ss.WithReplacement(2)), 0.2
        ),
    )


def test_nan_has_no_place_in_a_law():
    """p(NaN) and P(X ≤ NaN) are no numbers, 0 and 1 least of all."""
    law, line = density(), theory.laws.stationary_density(Diffusion(lambda x: -x, 0.5))
    atoms = theory.laws.ScalarLaw(np.array([0.0, 1.0]), np.array([0.5, 0.5]), 0.0)
    for call in (law.pdf, law.cdf, line.pdf, line.cdf, line.survival, atoms.cdf):
        refused("NaN", lambda call=call: call([0.0, NAN]))
    for call in (law.quantile, line.quantile, atoms.quantile):
        refused("between 0 and", lambda call=call: call([0.5, NAN]))
    refused("NaN", lambda: theory.matrices.MarchenkoPastur(0.5).pdf(NAN))
    refused(
        "kernel_level",
        lambda: theory.matrices.boltzmann_machine_spacing(
            [0.5, NAN], mass=1.0, learning_rate=0.01, batch_size=4
        ),
    )


def test_lags_are_counted():
    """τ = s·h > 0."""
    equation = theory.laws.MasterEquation(LAW, (-5.0, 5.0), 120)
    refused(
        "time_step", lambda: theory.equations.conditional_moments(equation, [0.5], [1]).read(0.0)
    )
    refused("steps", lambda: theory.equations.conditional_moments(equation, [0.5], [-1]))


def by_if(theta):
    return -theta[0] if theta[0] > 0 else theta[0]


def by_or(theta):
    return (theta[0] > 1) or (theta[0] < -1)


def by_numpy(theta):
    return np.sin(theta[0])


def by_math(theta):
    return math.sin(theta[0])


@pytest.mark.parametrize("function", [by_if, by_or, by_numpy, by_math])
def test_a_function_that_jax_cannot_trace_is_told_the_way_out(function):
    """A traced θ has a shape and no numbers: `if`, `or`, NumPy and math need them."""
    refused("drift.*jnp", lambda: theory.laws.FokkerPlanck(Diffusion(function, 0.5), **BOX))
    refused("of.*jnp", lambda: density().expect(function))
    refused(
        "exited.*jnp",
        lambda: theory.escape.mean_exit_time_on_grid(
            theory.laws.FokkerPlanck(Diffusion(lambda x: -x, 0.5), **BOX), function
        ),
    )
    refused(
        "function.*jnp",
        lambda: theory.equations.FunctionScore(lambda t, x: function(x) * x, 1),
    )


def test_a_function_of_the_line_is_told_to_use_jax():
    """θ (1,) ↦ (1,): the truth of a traced number, or its float, is none."""
    for function in (lambda x: 1.0 if x > 0 else -1.0, lambda x: math.sin(x[0])):
        refused(
            "drift.*jnp",
            lambda function=function: theory.escape.mean_exit_time(
                Diffusion(function, 0.5), start=0.0, exits=(-1.0, 1.0)
            ),
        )


@pytest.mark.parametrize(
    "function",
    [lambda x: None, lambda x: "a", lambda x: 1j * x[0], lambda x: [x, 1.0], lambda: 1.0, object],
)
def test_a_function_takes_theta_and_returns_real_numbers(function):
    """f: R^d → R^m."""
    refused("of", lambda: density().expect(function))
    refused("drift", lambda: theory.laws.FokkerPlanck(Diffusion(function, 1.0), **BOX))


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_field_is_no_field(value):
    """A function of θ, or real numbers."""
    refused("drift", lambda: _fields.scalar("drift", value, 1))
    refused("drift", lambda: _fields.of_points("drift", value))


def test_an_error_of_the_users_own_function_is_told_with_its_name():
    """What a function raises is its own."""

    def broken(theta):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as found:
        density().expect(broken)
    assert "Raised by the function given as of." in found.value.__notes__


def test_a_list_of_arrays_is_a_value():
    """θ ↦ [θ₀, 2] is θ ↦ (θ₀, 2)."""
    values = _fields.evaluate("of", lambda x: [x[0], 2.0], np.array([[1.0], [3.0]]))
    np.testing.assert_array_equal(values, [[1.0, 2.0], [3.0, 2.0]])


def test_a_score_is_asked_at_a_time_and_one_place():
    """s(t, θ), t ∈ R, θ ∈ R^d; a Python number is an array."""
    time, place = scores.check_place(0.5, [0.3, -0.2], 2)
    assert time.shape == () and place.shape == (2,)
    refused("theta", lambda: scores.check_place(0.5, jnp.zeros(3), 2))
    refused("theta", lambda: SCORE(jnp.asarray(0.5), jnp.zeros(3)))
    refused("time", lambda: SCORE.law(NAN))


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_posterior_is_that_of_loss_over_temperature(scale):
    """e^{−sL/(sT)} = e^{−L/T}, N(θ*, T/⟨x²⟩) for least squares, in single precision too."""
    landscape = ss.LeastSquares(
        np.float32(np.sqrt(scale) * X[:, None]), np.float32(np.sqrt(scale) * Y)
    )
    found = theory.stationary.posterior_by_quadrature(landscape, temperature=0.01 * scale)
    np.testing.assert_allclose(found.mean, [np.sum(X * Y) / np.sum(X**2)], atol=1e-4)
    np.testing.assert_allclose(found.covariance, [[0.01 / np.mean(X**2)]], rtol=1e-3)


def test_a_temperature_below_the_rounding_of_the_losses_is_refused():
    """ℓ_i = 1e-9 U ± θ in float32: ±θ rounds by 1e-7, and T = 1e-12."""
    tilts = np.array([[1.0], [-1.0]], np.float32)
    landscape = ss.Potential(lambda x: 1e-9 * jnp.sum(x**2), tilts=tilts)
    refused(
        "temperature",
        lambda: theory.stationary.posterior_by_quadrature(landscape, temperature=1e-12),
    )


def test_the_dual_of_a_diagonal_network_converges():
    """Xβ = y to rounding where the descent of the dual is below it."""
    x = np.array([[-2.32503077, -0.21879166]])
    y = np.array([0.90347018])
    for start in ([0.0, 0.1], [0.0, 1.0]):
        found = theory.selection.diagonal_network_limit(x, y, scale=0.5, start=start)
        np.testing.assert_allclose(x @ found.beta, y, rtol=1e-12)


def test_a_quasi_potential_needs_a_gradient_all_the_way():
    """W = ∫ 2V'/C over V' > 0, which NaN is not."""
    landscape = ss.Potential(lambda x: jnp.sum(x**2 + jnp.sqrt(0.5 - x)), np.eye(1))
    noise = ss.ConstantNoise(np.eye(1))
    sde = ss.ModifiedEquation(landscape, 0.1, noise)
    refused("gradient", lambda: theory.escape.quasi_potential(sde, 0.0, 1.0))


def test_constants_may_be_integers():
    """b = −1 has the bias of b = −1.0: (τ/2)𝓛b = 0, τb²."""
    for drift in (-1, -1.0, np.int64(-1)):
        first, second = theory.equations.finite_lag_bias(drift, 2, [0.5], lag=0.1)
        np.testing.assert_allclose([first[0], second[0]], [0.0, 0.1], atol=1e-7)


@pytest.mark.parametrize("batch", [2, 8, 1000, 10**6])
def test_levels_of_a_large_batch(batch):
    """v (2η − η²(B + 3)/B) = η²σ²/B, as E S² = (1 + 3/B) I."""
    found = theory.matrices.teacher_student_spacing(
        learning_rate=0.1, batch_size=batch, label_noise=0.5
    )
    exact = 0.1**2 * 0.25 / batch / (0.2 - 0.01 * (1 + 3 / batch))
    np.testing.assert_allclose(found.variance, exact, rtol=1e-9)
    assert np.isfinite(found.ratio)


def test_lags_may_be_unsigned():
    """R(k) = 0 for |k| ≥ M: 4 − 5 is −1 and not 255."""
    for dtype in (np.int8, np.uint8, np.uint64):
        found = theory.stationary.epoch_noise_autocovariance(4, np.array([0, 1, 5], dtype))
        np.testing.assert_allclose(found, [1.0, -0.25, 0.0])


def test_times_may_come_twice():
    """The gap at t is the gap at t."""
    found = theory.equations.gaussian_flow_gap(SCORE, 0.1, [1.0, 0.5, 1.0]).gap
    assert found[0] == found[2] != found[1]
