"""The modified equation in other coordinates: exact cases, pathwise and in law."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tools
from scipy import stats

import sde_sgd as ss
from sde_sgd.random.draws import Draws, Stream

FAILURE_RATE = 2e-5
ETA, SUBSTEPS, STEPS = 0.25, 2, 40
DRIFT, STRENGTH = 0.7, 1.3


def equation(order=1, substeps=SUBSTEPS, **options):
    """dX = −aX dt + sX dW on ½ax²: C^{1/2} = sx/√η."""
    noise = ss.FunctionNoise(lambda x: STRENGTH / np.sqrt(ETA) * x)
    landscape = ss.quadratic(DRIFT, 1.0)
    return ss.ModifiedEquation(landscape, ETA, noise, order=order, substeps=substeps, **options)


def logarithmic(sde):
    return ss.processes.TransformedEquation(sde, jnp.log, jnp.exp)


def simulate(process, num_steps=STEPS, start=1.0, members=64, **options):
    return ss.simulate(
        process,
        jnp.full(process.landscape.dimension, start),
        num_steps=num_steps,
        ensemble_size=members,
        key=jr.key(3),
        **options,
    )


@jax.jit
def normal(iteration, substep):
    draws = Draws.create(jr.key(3), jnp.arange(64, dtype=jnp.uint32))
    return draws.at(iteration, substep).normal((1,), Stream.NOISE, jnp.float64)[:, 0]


def numbers(steps):
    """The normal numbers of 64 members, solver step by solver step."""
    clock = [(jnp.uint32(k), jnp.uint32(j)) for k in range(steps) for j in range(SUBSTEPS)]
    return [np.asarray(normal(*now)) for now in clock]


@pytest.mark.parametrize("order", [1, 2])
def test_geometric_brownian_motion_is_exact_at_any_step(order):
    """log X_t = log x₀ − (a + s²/2)t + sW_t along the run's own Brownian path, to rounding.

    Order 2 has the drift a + ηa²/2. Without Itô's −s²/2 the paths are others.
    """
    run = simulate(logarithmic(equation(order)))
    motion = np.sqrt(ETA / SUBSTEPS) * np.sum(numbers(STEPS), axis=0)
    rate = DRIFT if order == 1 else DRIFT + ETA / 2 * DRIFT**2
    exact = -(rate + STRENGTH**2 / 2) * ETA * STEPS - STRENGTH * motion
    found = np.log(run.positions[:, 0])
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-10)
    assert np.abs(found - (exact + STRENGTH**2 / 2 * ETA * STEPS)).min() > 1


@pytest.mark.parametrize("increments", ["gaussian", "two_point"])
def test_the_identity_changes_nothing(increments):
    """φ(θ) = θ: the run of Euler in θ itself, to rounding, with correlated noise in a plane."""
    root = jnp.array([[1.0, 0.0], [0.5, 0.8]])
    noise = ss.FunctionNoise(lambda x: root * jnp.sqrt(1 + x[0] ** 2))
    landscape, options = ss.quadratic(np.diag([1.0, 2.0]), 1.0), {"increments": increments}
    sde = ss.ModifiedEquation(landscape, 0.1, noise, order=2, substeps=2, **options)
    plain, same = (
        simulate(process, 10)
        for process in (sde, ss.processes.TransformedEquation(sde, lambda x: x, lambda y: y))
    )
    np.testing.assert_allclose(same.positions, plain.positions, rtol=1e-10)


def test_a_linear_map_changes_nothing():
    """φ(θ) = Sθ + s: Euler's scheme commutes with affine maps."""
    matrix, shift = np.array([[2.0, 1.0], [0.0, -1.0]]), np.array([3.0, 4.0])
    inverse = np.linalg.inv(matrix)
    sampling = ss.WithReplacement(3)
    landscape = ss.LeastSquares(tools.normal(0, 9, 2), tools.normal(1, 9))
    sde = ss.ModifiedEquation(landscape, 0.1, ss.MinibatchNoise(sampling), substeps=2)
    moved = ss.processes.TransformedEquation(
        sde, lambda x: matrix @ x + shift, lambda y: inverse @ (y - shift)
    )
    np.testing.assert_allclose(
        simulate(moved, 12).positions, simulate(sde, 12).positions, rtol=1e-10
    )


def test_noise_of_constant_width():
    """y = sinh⁻¹x of dx = −x dt + √(2T(1 + x²)) dW: dy = −(1 + T) tanh y dt + √(2T) dW, Itô.

    Step by step, to rounding; Stratonovich's equation has −tanh y.
    """
    temperature, h = 0.25, ETA / SUBSTEPS
    noise = ss.FunctionNoise(lambda x: jnp.sqrt(2 * temperature / ETA * (1 + x**2)))
    sde = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), ETA, noise, substeps=SUBSTEPS)
    run = simulate(ss.processes.TransformedEquation(sde, jnp.arcsinh, jnp.sinh), 5)

    def by_hand(drift):
        y = np.full(64, np.arcsinh(1.0))
        for z in numbers(5):
            y = y - drift * np.tanh(y) * h - np.sqrt(2 * temperature * h) * z
        return np.sinh(y)

    np.testing.assert_allclose(run.positions[:, 0], by_hand(1 + temperature), rtol=1e-10)
    assert np.median(np.abs(run.positions[:, 0] - by_hand(1.0))) > 0.05


# Law of balance, ℓ = (uwx − y)², x ~ N(0, 1), y = x + N(0, 1): α = (2, 2, 3), β = (1, 1).
TEMPERATURE, RATE = 0.15, 0.04


def balance_noise(theta):
    """√Var ∂ℓ/∂v times (w, u), v = uw, per √T of a batch of B = η/T."""
    u, w = theta
    v = u * w
    deviation = 2 * jnp.sqrt(2 * v**2 - 4 * v + 3)
    return (jnp.sqrt(TEMPERATURE / RATE) * deviation * jnp.stack([w, u]))[:, None]


def balance(substeps):
    def energy(theta):
        v = theta[0] * theta[1]
        return v**2 - 2 * v

    landscape = ss.Potential(energy, np.zeros((2, 2)))
    noise = ss.FunctionNoise(balance_noise)
    return ss.ModifiedEquation(landscape, RATE, noise, substeps=substeps)


def product(theta):
    return theta[0] * theta[1]


@functools.cache
def stationary_law():
    """(log v, mass) of p(v) ∝ D⁻¹ exp(∫b/D): b = −2vG + Tvs², D = 2Tv²s², G = 2(v − 1)."""
    grid = np.linspace(np.log(1e-7), np.log(1e3), 400_001)
    v = np.exp(grid)
    square = 4 * (2 * v**2 - 4 * v + 3)
    slope = (-4 * (v - 1) / (2 * TEMPERATURE * square) + 0.5) / v  # b/D
    integral = np.concatenate([[0], np.cumsum(0.5 * np.diff(v) * (slope[1:] + slope[:-1]))])
    log_density = integral - np.log(v**2 * square) + grid
    mass = np.exp(log_density - log_density.max())
    return grid, mass / mass.sum()


def exact_quantiles(levels):
    grid, mass = stationary_law()
    return np.exp(np.interp(levels, np.cumsum(mass), grid))


def test_the_density_has_the_reference_mean():
    """E v = .72587 at T = .15 (the integral in log v)."""
    grid, mass = stationary_law()
    assert mass @ np.exp(grid) == pytest.approx(0.72587, abs=2e-5)


def test_law_of_balance_in_logarithms():
    """Median and quartiles of v = uw, and E 1/(1 + v), in (log u, log w), extrapolated in h.

    Stratonovich's equation (no Itô term) fails, and so does Euler in (u, w) itself.
    """
    levels = np.array([0.25, 0.5, 0.75])
    edges = np.concatenate([[0], np.geomspace(1e-3, 20, 240)])
    measures = {
        "v": ss.Histogram(edges, of=product, burn_in=150, every=6),
        "bounded": ss.Moments(lambda x: 1 / (1 + product(x)), 150, 6, covariance=False),
    }

    def run(substeps):
        process = ss.processes.TransformedEquation(balance(substeps), jnp.log, jnp.exp, tamed=True)
        return simulate(process, 450, start=0.9, members=1024, measures=measures)

    fine = run(8)
    grid, mass = stationary_law()
    bounded = float(mass @ (1 / (1 + np.exp(grid))))
    exact = exact_quantiles(levels)
    quantile, mean = fine["v"].quantile(levels), fine["bounded"].mean
    # Of weak order one: the error at h is that between h and 2h, again.
    coarse = run(4)
    bias = np.abs(coarse["v"].quantile(levels).value - quantile.value)
    bias_mean = abs(float(coarse["bounded"].mean.value - mean.value))
    limit = stats.norm.isf(FAILURE_RATE / 8)
    assert (quantile.standard_error < 0.03 * exact).all()
    slack = limit * 2 * quantile.standard_error + bias
    assert (np.abs(quantile.value - exact) < slack).all()
    assert abs(float(mean.value) - bounded) < limit * 2 * float(mean.standard_error) + bias_mean
    # Control: Stratonovich's density, p ∝ D^{−1/2}exp(∫b/D).
    v = np.exp(grid)
    other = mass * v * np.sqrt(2 * v**2 - 4 * v + 3)
    wrong = np.exp(np.interp(levels, np.cumsum(other / other.sum()), grid))
    assert (np.abs(quantile.value - wrong) > slack).any()


@pytest.mark.filterwarnings("ignore:learning_rate=0.04")
def test_plain_euler_cannot_carry_superlinear_noise():
    """From v = 25 Euler in (u, w) leaves the range of float64; in logarithms everybody returns."""
    start = jnp.full(2, 5.0)
    options = dict(num_steps=60, ensemble_size=64, key=jr.key(0), on_divergence="mask")
    plain = ss.simulate(balance(1), start, **options)
    assert (~plain.alive).mean() > 0.1
    tamed = ss.processes.TransformedEquation(balance(1), jnp.log, jnp.exp, tamed=True)
    safe = ss.simulate(tamed, start, **options)
    assert safe.alive.all() and (safe.positions > 0).all()


def test_clock_measures_and_restarts_are_those_of_the_equation():
    """time, substeps, increments and restartable are passed on; first passage sees solver steps."""
    process = logarithmic(equation())
    assert process.substeps == SUBSTEPS and process.autonomous
    np.testing.assert_allclose(process.time(np.arange(3)), ETA * np.arange(3))
    run = simulate(process, measures={"out": ss.FirstPassage(lambda x: x[0] < 0.1)}, refill=True)
    assert run["out"].num_exits > 0
    cheap = logarithmic(equation(increments="two_point"))
    assert simulate(cheap).alive.all()
    with pytest.raises(ValueError, match="Two-point increments"):
        simulate(cheap, measures={"out": ss.FirstPassage(lambda x: x[0] < 0.1)})


REFUSED = {
    "outside": (
        lambda: simulate(logarithmic(equation()), start=-1.0),
        r"differs from θ for 64 of 64 starts.*domain of the coordinates",
    ),
    "no inverse": (
        lambda: simulate(
            ss.processes.TransformedEquation(equation(), jnp.log, lambda y: y + 1), start=2.0
        ),
        r"inverse\(forward\(θ\)\) differs from θ",
    ),
    "scalar": (
        lambda: ss.processes.TransformedEquation(equation(), jnp.sum, jnp.exp),
        "forward must take θ",
    ),
    "solver": (
        lambda: logarithmic(equation(substeps=1, solver=dfx.ItoMilstein())),
        "has ItoMilstein. Make it with diffrax.Euler",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    """Starts outside the domain, functions that are no inverses, other solvers."""
    request, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        request()


def test_the_second_derivative_is_itos():
    """½ Σ_j D²φ(R_j, R_j) of φ = |θ|² is tr RRᵀ: one step with frozen numbers, by hand."""
    matrix = jnp.array([[1.0, 0.3, 0.0], [0.2, 0.5, 0.7]])
    noise = ss.FunctionNoise(lambda x: matrix)
    sde = ss.ModifiedEquation(ss.quadratic(np.diag([1.0, 2.0]), 1.0), 0.1, noise, substeps=1)

    def forward(x):
        return jnp.stack([x @ x, x[1]])

    def inverse(y):
        return jnp.stack([jnp.sqrt(y[0] - y[1] ** 2), y[1]])

    start = np.array([1.5, 0.4])
    run = ss.simulate(
        ss.processes.TransformedEquation(sde, forward, inverse),
        jnp.asarray(start),
        num_steps=1,
        ensemble_size=4,
        key=jr.key(3),
    )
    draws = Draws.create(jr.key(3), jnp.arange(4, dtype=jnp.uint32))
    z = np.asarray(jax.device_get(draws.normal((3,), Stream.NOISE, jnp.float64)))
    moved = -0.1 * start * [1.0, 2.0] - 0.1 * z @ np.asarray(matrix).T
    trace = 0.1**2 * np.trace(matrix @ matrix.T)
    y = start @ start + 2 * moved @ start + trace, start[1] + moved[:, 1]
    np.testing.assert_allclose((run.positions**2).sum(axis=1), y[0], rtol=1e-12)
    np.testing.assert_allclose(run.positions[:, 1], y[1], rtol=1e-12)


BRANCHES = {
    "a clip": (jnp.log, lambda y: jnp.where(y < -0.5, 0.7, jnp.exp(y)), r"forward\(inverse\(y\)\)"),
    "a root": (
        lambda x: x**2 - 0.5,
        lambda y: jnp.sqrt(jnp.abs(y + 0.5)),
        r"forward\(inverse\(y\)\)",
    ),
    "another map": (lambda x: jnp.log1p(x - 1), lambda y: 1 + y, r"inverse\(forward\(θ\)\)"),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_coordinates_are_asked_about_where_the_run_goes(name):
    """ψ(φ(θ)) = θ and φ(ψ(y)) = y hold at θ = 1, and not where 20 iterations lead."""
    forward, inverse, words = BRANCHES[name]
    process = ss.processes.TransformedEquation(equation(), forward, inverse)
    with pytest.raises(ValueError, match=f"{words} differs.* where the run has come"):
        simulate(process, num_steps=20)


def test_rounding_and_underflow_are_no_other_branch():
    """θ = 0 of e^{−800}, and the logit of a θ that rounds to 1 − 10⁻¹⁶, are θ and y to rounding."""
    sde = equation()
    state = ss.processes.continuous.transformed.TransformedState
    logarithmic(sde).check_state(state(jnp.array([[-800.0], [-3.0], [300.0], [jnp.nan]])))
    logit = ss.processes.TransformedEquation(sde, lambda x: jnp.log(x / (1 - x)), jax.nn.sigmoid)
    logit.check_state(state(jnp.array([[36.0], [-600.0], [0.0], [3.0]])))
