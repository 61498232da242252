"""`landscape.minimise`: known minima by every method, and why a search ended."""

import re
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.landscapes.minimise import METHODS
from sde_sgd.landscapes.search import Search


def rosenbrock(theta):
    return (1 - theta[0]) ** 2 + 100 * (theta[1] - theta[0] ** 2) ** 2


def in_the_plane(energy, dtype=float):
    return ss.Potential(energy, 0.01 * np.eye(2, dtype=dtype))


@pytest.mark.parametrize("method", METHODS)
def test_least_squares(method):
    """(XᵀX/N)θ = Xᵀy/N, curvatures 1…10⁴ at d = 6, to 1e-10."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)) * np.logspace(0, 2, 6)
    y = rng.normal(size=40)
    found = ss.LeastSquares(x, y).minimise(np.ones(6), method=method, tolerance=1e-14)
    assert found.converged, found.reason
    np.testing.assert_allclose(found.theta, np.linalg.lstsq(x, y)[0], atol=1e-10)
    spectrum = np.linalg.eigvalsh(x.T @ x / 40)
    np.testing.assert_allclose(
        [found.smallest_curvature, found.largest_curvature], spectrum[[0, -1]], rtol=1e-9
    )


@pytest.mark.parametrize("method", METHODS)
def test_rosenbrock(method):
    """(1 − x)² + 100(y − x²)² has its minimum at (1, 1)."""
    found = in_the_plane(rosenbrock).minimise([-1.2, 1.0], method=method, tolerance=1e-13)
    assert found.converged, found.reason
    np.testing.assert_allclose(found.theta, [1, 1], rtol=1e-10)
    assert abs(found.loss) < 1e-15 and 1 < found.num_steps < 1000


def test_logistic_regression_against_newton():
    """Σ_i (σ(x_i·w) − y_i) x_i/N + λw = 0, solved by Newton's iteration."""
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    w = np.zeros(3)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        hess = x.T @ (x * (p * (1 - p))[:, None]) / 60 + 0.01 * np.eye(3)
        w -= np.linalg.solve(hess, x.T @ (p - labels) / 60 + 0.01 * w)
    landscape = ss.LogisticRegression(x, labels, l2=0.01, bias=False)
    found = landscape.minimise(np.zeros(3), tolerance=1e-13)
    np.testing.assert_allclose(found.theta, w, atol=1e-11)


def test_a_population():
    """L = ½(θ − θ*)ᵀA(θ − θ*) + ½σ² has its minimum at θ*."""
    landscape = ss.landscapes.PopulationLeastSquares(np.diag([1.0, 3.0]), 0.5, [2.0, -1.0])
    found = landscape.minimise([0.0, 0.0], tolerance=1e-14)
    np.testing.assert_allclose(found.theta, [2, -1], rtol=1e-12)
    np.testing.assert_allclose(found.loss, 0.125, rtol=1e-12)


def network(dtype, **options):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 5)).astype(dtype), rng.normal(size=(50, 1)).astype(dtype)
    model = eqx.nn.MLP(5, 1, 10, 1, activation=jnp.tanh, key=jr.key(0))
    model = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, model)
    return ss.EmpiricalRisk(model, x, y, ss.squared_error, l2=0.01, **options)


@pytest.fixture(scope="module")
def net():
    return network(np.float64, example_block=16)


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_a_network(net, method):
    """d = 71, examples in blocks: |∇L| ≤ tolerance·√((1/N) Σ_i |∇ℓ_i|²) and ∇²L > 0."""
    found = net.minimise(net.initial, method=method, tolerance=1e-9)
    assert found.converged, found.reason
    sizes = np.linalg.norm(net.example_gradients(net.initial), axis=1)
    assert found.gradient_norm <= 2 * 1e-9 * np.sqrt(np.mean(sizes**2))
    hess = np.asarray(jax.jit(lambda x: net.hessian(x))(found.theta))
    values = np.linalg.eigvalsh(hess)
    np.testing.assert_allclose(found.largest_curvature, values[-1], rtol=1e-9)
    # Ritz values lie inside the spectrum.
    assert 0 < values[0] <= found.smallest_curvature * (1 + 1e-9) < 3 * values[0]


def test_float32():
    """In single precision the search ends with a reason too, at a tolerance that it can reach or
    at the rounding of θ."""
    landscape = network(np.float32)
    found = landscape.minimise(landscape.initial)
    assert found.converged and "tolerance" in found.reason, found.reason
    assert found.theta.dtype == jnp.float32
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    found = ss.LeastSquares(x, y).minimise(np.ones(6, np.float32), tolerance=1e-12)
    assert found.converged and "the rounding of float32" in found.reason, found.reason
    np.testing.assert_allclose(found.theta, np.linalg.lstsq(x, y)[0], atol=1e-6)


def wells(theta):
    return (theta[0] ** 2 - 1) ** 2 / 4 + theta[1] ** 2 / 2


@pytest.mark.parametrize(
    "energy, start, options, reason",
    [
        (wells, [0.0, 0.0], {}, "eigenvalue -1: a saddle or a maximum, move the start"),
        (wells, [0.0, 0.0], {"method": "gradient-flow"}, "a saddle or a maximum"),
        (rosenbrock, [-1.2, 1.0], {"max_steps": 3}, "max_steps=3 are over: go on from this theta"),
        (rosenbrock, [-1.2, 1.0], {"budget": 1e-9}, "budget=1e-09 s is over: go on"),
        (lambda x: jnp.abs(x[0] - 0.1) + x[1] ** 2, [1.0, 1.0], {}, "no step leads lower.*kink"),
        (lambda x: jnp.exp(-x[0]) + x[1] ** 2, [0.0, 1.0], {}, "Newton's step.*add l2"),
    ],
)
def test_what_is_no_minimum(energy, start, options, reason):
    """Saddles, kinks, a fall for ever, no steps or seconds left: not converged, in one line."""
    found = in_the_plane(energy).minimise(start, **options)
    assert not found.converged
    assert re.search(reason, found.reason), found.reason
    assert "\n" not in found.reason and len(found.reason) < 300
    assert np.isfinite(found.theta).all()


ALONG = (0.8, 0.6)


def along(theta):
    """A coordinate that is none of the axes, and the one across."""
    return ALONG[0] * theta[0] + ALONG[1] * theta[1], ALONG[0] * theta[1] - ALONG[1] * theta[0]


def valley(power, offset):
    """U = u^n/n + v²/2 + offset, flat along u at the origin."""

    def energy(theta):
        u, v = along(theta)
        return u**power / power + v**2 / 2 + offset

    return energy


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(
    "energy",
    [
        lambda u, v: -(u**4),
        lambda u, v: u**3 - 3 * u * v**2,
        lambda u, v: u**3 + v**2,
        lambda u, v: v**2 / 2 - u**4 + u**6,
        lambda u, v: -(u**4) - v**4,
        lambda u, v: u**2 * v**2 - u**4,
    ],
)
def test_degenerate_saddles_are_no_minima(energy, offset):
    """∇U = 0 and ∇²U ≥ 0 at the origin, and U falls from there with the third or fourth power."""
    landscape = in_the_plane(lambda theta: energy(*along(theta)) + offset)
    found = landscape.minimise([0.0, 0.0])
    assert not found.converged
    assert "degenerate saddle or maximum, move the start" in found.reason, found.reason


def test_an_inflection_point_is_no_minimum():
    """dx/dt = −3x² ends above 0 in x³, where U′ and U″ vanish."""
    found = in_the_plane(lambda x: x[0] ** 3 + x[1] ** 2 + 1).minimise(
        [0.5, 0.5], method="gradient-flow", max_steps=300
    )
    assert not found.converged, found.reason


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("power", [4, 6])
def test_degenerate_minima_are_minima(power, offset):
    """u^n/n + v²/2 from u = 1: converged, and Newton's step u/(n − 1) is below √tolerance."""
    landscape = in_the_plane(valley(power, offset))
    found = landscape.minimise(ALONG)
    assert found.converged, found.reason
    assert abs(along(found.theta)[0]) < (power - 1) * 1e-3
    at_rest = landscape.minimise([0.0, 0.0])
    assert at_rest.converged, at_rest.reason


def test_a_valley_of_minima_is_flat_and_no_saddle():
    """(xy − 1)²: minima along xy = 1, where one curvature is zero and U does not fall."""
    found = in_the_plane(lambda x: (x[0] * x[1] - 1) ** 2).minimise([2.0, 1.0], tolerance=1e-9)
    assert found.converged, found.reason
    np.testing.assert_allclose(found.theta[0] * found.theta[1], 1, rtol=1e-8)


def test_interruption_and_progress(capsys, monkeypatch):
    """Ctrl-C gives the best point so far; progress=True writes where the search is."""
    landscape = in_the_plane(rosenbrock)
    begin = Search.begin

    def interrupted(search, start):
        begin(search, start)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Search, "begin", interrupted)
    found = landscape.minimise([-1.2, 1.0], progress=True)
    assert not found.converged and "interrupted" in found.reason
    assert found.smallest_curvature is None
    np.testing.assert_allclose(found.loss, 24.2, rtol=1e-12)
    lines = capsys.readouterr().err.splitlines()
    assert "compiling" in lines[0] and re.match(r"minimise: 0 steps, L = 24.2, .* s$", lines[-1])
    landscape.minimise([-1.2, 1.0], progress=False, max_steps=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "theta, options, message",
    [
        ([0.0, 0.0, 0.0], {}, r"theta must have shape \(2,\), got \(3,\)"),
        (eqx.nn.Linear(1, 1, key=jr.key(0)), {}, "theta is a Linear, and must be flat"),
        ([0.0, np.nan], {}, "must be finite there: start elsewhere"),
        ([0.0, 0.0], {"method": "adam"}, "method must be one of.*got 'adam'"),
        ([0.0, 0.0], {"tolerance": 0.0}, "tolerance must be a finite number > 0"),
        ([0.0, 0.0], {"budget": -1.0}, "budget must be a finite number > 0"),
        ([0.0, 0.0], {"max_steps": 0}, "max_steps must be an integer"),
    ],
)
def test_bad_arguments(theta, options, message):
    """Shapes, models, numbers and names that cannot be meant."""
    with pytest.raises(ValueError, match=message):
        in_the_plane(rosenbrock).minimise(theta, **options)
