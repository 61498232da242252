"""Gaps between flow and SDE: closed forms on the line, the process itself, and the bound."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.equations import FunctionScore, gaussian_flow_gap, GaussianScore, grid_flow_gap
from sde_sgd.theory.laws import Gaussian
from sde_sgd.theory.quantiles import normal_levels

ETA = 0.1


def score_of(hessian, noise, eta, start):
    """The score of dθ = −Hθ dt + √η C^{1/2} dW."""
    landscape, model = ss.quadratic(hessian, noise), ss.ConstantNoise(np.array(noise))
    return GaussianScore(ss.ModifiedEquation(landscape, eta, model).limit(), start)


@pytest.mark.parametrize("delta", [0.2, -0.2])
def test_on_the_line_the_bound_is_the_gap(delta):
    """Q_t = M_t (M_t/M_0)^δ e^{2δht}, W₂ = |√Q − √M|, and W' = L̂W + ε with equality."""
    curvature, begin = 1.3, 0.3
    score = score_of([[curvature]], [[0.8]], 0.2, Gaussian(np.ones(1), [[begin]]))
    times = np.array([3.0, 0.0, 0.5, 1.0])
    found = gaussian_flow_gap(score, delta, times)
    variance = np.array([score.law(t).covariance[0, 0] for t in times])
    spread = variance * (variance / begin) ** delta * np.exp(2 * delta * curvature * times)
    exact = np.abs(np.sqrt(spread) - np.sqrt(variance))
    np.testing.assert_allclose(found.gap, exact, atol=2e-8)
    np.testing.assert_allclose(found.bound, exact, rtol=1e-8, atol=1e-12)
    residual = abs(delta) * 0.08 / np.sqrt(variance)
    np.testing.assert_allclose(found.residual, residual, rtol=1e-12)


class Changed(eqx.Module):
    """(t, θ) ↦ factor·s(t, θ) + shift, compiled once for all factors and shifts."""

    score: ss.theory.equations.AbstractScore
    factor: jax.Array
    shift: jax.Array

    def __call__(self, t, theta):
        return self.factor * self.score(t, theta) + self.shift


HESSIAN = np.array([[1.5, 0.4], [0.4, 0.5]])
NOISE = np.array([[1.0, -0.5], [-0.5, 0.6]])
SCORE = score_of(HESSIAN, NOISE, ETA, Gaussian(np.array([1.0, 0.0]), np.diag([0.05, 0.02])))
ERRORS = (0.4, 0.1, 0.01, -0.01)


def test_process_with_a_wrong_score_has_the_predicted_law():
    """ŝ = (1 + δ)s in the plane: covariance of the process's own affine map to 1e-6; W₂ ≤ bound.

    W₂ grows with δ as the residual does: W₂/ε within 10 % over δ from .01 to −.01.
    """
    landscape, found = ss.quadratic(HESSIAN, NOISE), {}
    start = SCORE.law(0.0)
    points = jnp.asarray(np.concatenate([start.mean[None], start.mean + np.eye(2)]))
    for delta in ERRORS[:2]:
        score = FunctionScore(Changed(SCORE, jnp.asarray(1 + delta), jnp.zeros(2)), 2)
        flow = ss.ProbabilityFlow(landscape, ETA, ss.ConstantNoise(NOISE), score)
        run = ss.simulate(flow, points, num_steps=30, ensemble_size=3, key=jr.key(0))
        matrix = (run.positions[1:] - run.positions[0]).T
        law = gaussian_flow_gap(SCORE, delta, [3.0]).laws[0]
        covariance = matrix @ start.covariance @ matrix.T
        assert np.abs(covariance - law.covariance).max() < 1e-6 * np.abs(law.covariance).max()
        np.testing.assert_allclose(run.positions[0], law.mean, atol=1e-6)
    for delta in ERRORS:
        found[delta] = gaussian_flow_gap(SCORE, delta, np.linspace(0.1, 3.0, 12))
        assert (found[delta].gap <= found[delta].bound).all()
    gaps = np.array([found[delta].gap[-1] for delta in ERRORS])
    assert (np.diff(gaps[:3]) < 0).all()
    per_error = gaps[2:] / [found[delta].residual[-1] for delta in ERRORS[2:]]
    assert per_error[0] == pytest.approx(per_error[1], rel=0.1)


@functools.cache
def line():
    """The double well with D = .05(1 + .3x) from N(0, .3²), and its score, until t = 2."""
    equation = ss.theory.laws.FokkerPlanck(
        Diffusion(lambda x: x - x**3, lambda x: 0.05 * (1 + 0.3 * x)), (-2.4, 2.4), 160
    )

    def start(x):
        return jnp.exp(-((x[0] / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))

    return (
        equation,
        start,
        ss.theory.equations.GridScore(equation, start, duration=2.0, num_times=32),
    )


@jax.jit
def moved(begin, tilt):
    """Quantiles moved to t = 2 by the flow with ŝ = s + a: Runge–Kutta by hand."""
    score = line()[2]

    def velocity(t, x):
        wrong = jax.vmap(lambda y: score(t, y[None])[0])(x) + tilt
        return x - x**3 - 0.015 - 0.05 * (1 + 0.3 * x) * wrong

    h = 0.02

    def one(k, x):
        t = h * k
        a = velocity(t, x)
        b = velocity(t + h / 2, x + h / 2 * a)
        c = velocity(t + h / 2, x + h / 2 * b)
        return x + h / 6 * (a + 2 * b + 2 * c + velocity(t + h, x + h * c))

    return jax.lax.fori_loop(0, 100, one, begin)


LEVELS, WEIGHTS = normal_levels(101, 3.0)


def test_on_a_grid():
    """ŝ = s + a: to first order −(1/p)∫ p D a ds, exact for a → 0; residual a‖D‖; below the bound.

    A score without error has no gap.
    """
    equation, start, score = line()
    times = np.linspace(0, 2, 26)
    begin = jnp.asarray(equation.propagate(start, [0.0])[0].quantile(LEVELS))
    right = moved(begin, 0.0)
    for tilt, tolerance in ((0.02, 5e-3), (0.3, 0.05)):
        changed = Changed(score, jnp.asarray(1.0), jnp.full(1, tilt))
        wrong = FunctionScore(changed, 1, 0.0, 2.0)
        found = grid_flow_gap(equation, start, score, wrong, times, reach=3.0, nodes=101)
        exact = float(np.sqrt(WEIGHTS @ np.asarray(moved(begin, tilt) - right) ** 2))
        assert found.gap[-1] == pytest.approx(exact, rel=tolerance)
        assert exact < found.bound[-1]
        assert (np.diff(found.gap) > 0).all() and found.gap[0] == 0
        density = equation.propagate(start, [2.0])[0]
        strength = density.expect(lambda x: (0.05 * (1 + 0.3 * x[0])) ** 2)
        assert found.residual[-1] == pytest.approx(tilt * np.sqrt(strength), rel=0.01)
    none = grid_flow_gap(equation, start, score, score, times[::5], nodes=51)
    assert none.gap.max() == 0 and none.bound.max() == 0


def test_slope_of_the_flow_where_the_noise_is_curved():
    """L̂ = max ∂_x(b − D′ − Dŝ), b = x − x³, D = .05(1 + x²), ŝ = −x/.09 at the start."""
    equation = ss.theory.laws.FokkerPlanck(
        Diffusion(lambda x: x - x**3, lambda x: 0.05 * (1 + x**2)), (-2.4, 2.4), 160
    )
    score = FunctionScore(lambda t, x: -x / 0.09, 1)
    density = np.exp(-(equation.grid.axis_centres(0) ** 2) / 0.18)
    start = density / (density.sum() * equation.grid.volume)
    found = grid_flow_gap(equation, start, score, score, [0.0, 0.01], reach=2.0, nodes=51)
    x = np.linspace(-0.72, 0.72, 1001)  # ±2 standard deviations, and a tenth beyond
    bare = 1 - 3 * x**2 + 0.05 / 0.09 * (1 + 3 * x**2)
    assert found.lipschitz[0] == pytest.approx((bare - 0.1).max(), rel=1e-3)
    assert (bare - 0.1).max() < 0.95 * bare.max()


def with_the_score_of_the_start(equation):
    """FlowGap of ŝ = s + .1 until t = .1 from N(0, .3²), both scores those of the start."""
    density = np.exp(-(equation.grid.axis_centres(0) ** 2) / 0.18)
    start = density / (density.sum() * equation.grid.volume)
    scores = [FunctionScore(lambda t, x, e=e: e - x / 0.09, 1) for e in (0.0, 0.1)]
    return grid_flow_gap(equation, start, *scores, [0.0, 0.05, 0.1], reach=3.0, nodes=51)


def cubic_drift(x):
    """b = −θ|θ|², with the square of the norm as a sum over the coordinates."""
    return -x * jnp.sum(x**2)


FORMS = {
    "number": 0.05,
    "diagonal": [0.05],
    "matrix": [[0.05]],
    "gives a number": lambda x: 0.05,
    "gives a diagonal": lambda x: jnp.full(1, 0.05),
    "gives a matrix": lambda x: jnp.full((1, 1), 0.05),
}


@functools.cache
def elementwise():
    """b = −θ³ and D = .05, written for arrays of any shape."""
    equation = ss.theory.laws.FokkerPlanck(
        Diffusion(lambda x: -(x**3), lambda x: 0.05 + 0 * x), (-2.2, 2.2), 120
    )
    return with_the_score_of_the_start(equation)


@pytest.mark.parametrize("form", [*FORMS, "of_sgd"])
def test_functions_of_one_theta_in_any_form(form):
    """b = −θ|θ|² = −θ³ and D = .05 in each form: the same numbers; ε = .1 D; the gap is below.

    L̂ = D/.09 at θ = 0, where −3θ² vanishes.
    """
    box = dict(box=(-2.2, 2.2), cells=120)
    if form == "of_sgd":
        landscape = ss.Potential(lambda x: jnp.sum(x**2) ** 2 / 4, np.eye(1))
        equation = ss.theory.laws.FokkerPlanck(
            ss.ModifiedEquation(landscape, 0.1, ss.ConstantNoise(np.eye(1))).limit(), **box
        )
    else:
        equation = ss.theory.laws.FokkerPlanck(Diffusion(cubic_drift, FORMS[form]), **box)
    found = with_the_score_of_the_start(equation)
    for name in ("gap", "residual", "lipschitz", "bound"):
        expected = getattr(elementwise(), name)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.residual, 0.005, rtol=1e-9)
    assert found.lipschitz[0] == pytest.approx(0.05 / 0.09, rel=2e-3)
    assert (found.gap[1:] > 0).all() and (found.gap <= found.bound).all()


BAD = {
    "increase from 0": lambda: grid_flow_gap(*line(), line()[2], [0.5, 1.0]),
    "known for 0 <= t <= 2": lambda: grid_flow_gap(*line(), line()[2], [0.0, 3.0]),
    "in one dimension": lambda: grid_flow_gap(*line(), SCORE, [0.0, 1.0]),
    "times must be >= start_time": lambda: gaussian_flow_gap(SCORE, 0.1, [0.5], start_time=1.0),
    "the law is a point": lambda: gaussian_flow_gap(
        score_of([[1.0]], [[1.0]], 0.1, Gaussian(np.zeros(1), [[0.0]])),
        0.1,
        [1.0],
    ),
}


@pytest.mark.parametrize("match", BAD)
def test_refuses(match):
    """Times out of order or out of range, other dimensions, point starts."""
    with pytest.raises(ValueError, match=match):
        BAD[match]()
