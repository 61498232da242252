"""The probability flow: exact laws of Gaussian cases, quantiles kept on the line, refusals."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy.linalg import expm
from scipy.special import ndtr
from tools import normal

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.equations import FunctionScore, GaussianScore, GridScore, KernelScore
from sde_sgd.theory.laws import Gaussian

ETA = 0.1
HESSIAN = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.3]])
NOISE = np.array([[1.0, 0.4, -0.2], [0.4, 0.8, 0.1], [-0.2, 0.1, 0.5]])
MINIMUM = np.array([0.3, 0.0, -0.2])
START = Gaussian(np.array([1.0, -1.0, 0.5]), np.diag([0.05, 0.02, 0.1]))


class Scaled(eqx.Module):
    """(t, θ) ↦ factor·s(t, θ): a number as an array, so that all factors share one compilation."""

    score: ss.theory.equations.AbstractScore
    factor: jax.Array

    def __call__(self, t, theta):
        return self.factor * self.score(t, theta)


def scaled(score, factor):
    return FunctionScore(Scaled(score, jnp.asarray(factor)), score.dimension, 0.0, score.last_time)


def exact_moments(hessian, time, start=START):
    """m_t and M_t by matrix exponentials: those from a point, and e^{−Ht}M₀e^{−Ht}."""
    point = ss.theory.stationary.linear_transient(
        hessian,
        NOISE,
        learning_rate=ETA,
        time_step=0.0,
        times=[time],
        theta0=start.mean,
        minimum=MINIMUM,
    )
    decay = expm(-hessian * time)
    return point.mean[0], point.covariance[0] + decay @ start.covariance @ decay


def pushed(flow, num_steps, law):
    """Mean and covariance after the run: the flow of a linear equation is affine."""
    points = np.concatenate([law.mean[None], law.mean + np.eye(3)])
    run = ss.simulate(
        flow, jnp.asarray(points), num_steps=num_steps, ensemble_size=4, key=jr.key(0)
    )
    matrix = (run.positions[1:] - run.positions[0]).T
    return run.positions[0], matrix @ law.covariance @ matrix.T


def equation(order=1):
    landscape = ss.quadratic(HESSIAN, NOISE, minimum=MINIMUM)
    return ss.ModifiedEquation(landscape, ETA, ss.ConstantNoise(NOISE), order=order).limit()


def gaussian_flow(factor=1.0, order=1, **options):
    score = GaussianScore(equation(order), options.pop("start", START))
    landscape = ss.quadratic(HESSIAN, NOISE, minimum=MINIMUM)
    noise = ss.ConstantNoise(NOISE)
    return ss.ProbabilityFlow(landscape, ETA, noise, scaled(score, factor), order=order, **options)


def test_gaussian_moments():
    """Mean and covariance are the SDE's to 1e-6 at t = .1, 2, 20; twice −½ηCs misses by half."""
    for num_steps in (1, 20, 200):
        mean, covariance = exact_moments(HESSIAN, ETA * num_steps)
        found = pushed(gaussian_flow(), num_steps, START)
        np.testing.assert_allclose(found[0], mean, atol=1e-7)
        assert np.abs(found[1] - covariance).max() < 1e-6 * np.abs(covariance).max()
    wrong = pushed(gaussian_flow(2.0), 20, START)[1]
    right = exact_moments(HESSIAN, 2.0)[1]
    assert np.abs(wrong - right).max() > 0.5 * np.abs(right).max()


def test_order_two():
    """dM/dt = AM + MAᵀ, A = ∂v/∂θ, with H + ηH²/2 for H; not with the flow of order one."""
    exact = HESSIAN + ETA / 2 * HESSIAN @ HESSIAN
    earlier, now, later = (exact_moments(exact, t)[1] for t in (1 - 1e-4, 1.0, 1 + 1e-4))
    for order in (1, 2):
        score = GaussianScore(equation(order=2), START)
        landscape = ss.quadratic(HESSIAN, NOISE, minimum=MINIMUM)
        flow = ss.ProbabilityFlow(landscape, ETA, ss.ConstantNoise(NOISE), score, order=order)
        slope = jax.jit(jax.jacfwd(lambda x, f=flow: f.velocity(jnp.asarray(1.0), x)))(
            jnp.asarray(MINIMUM)
        )
        rate = (later - earlier) / 2e-4
        defect = np.abs(slope @ now + now @ slope.T - rate).max() / np.abs(rate).max()
        assert defect < 1e-6 if order == 2 else defect > 0.05


def test_from_a_point_begins_later():
    """N(m_t, M_t) of a point start has a score for t > 0, and none at t = 0."""
    point = Gaussian(START.mean, np.zeros((3, 3)))
    score = GaussianScore(equation(), point)
    landscape = ss.quadratic(HESSIAN, NOISE, minimum=MINIMUM)
    with pytest.raises(ValueError, match=r"at t = 0 the law is a point.*start_time"):
        ss.ProbabilityFlow(landscape, ETA, ss.ConstantNoise(NOISE), score)
    flow = gaussian_flow(start=point, start_time=0.5)
    assert flow.time(np.array([0, 15])) == pytest.approx([0.5, 2.0])
    found = pushed(flow, 15, score.law(0.5))
    mean, covariance = exact_moments(HESSIAN, 2.0, point)
    np.testing.assert_allclose(found[0], mean, atol=1e-6)
    assert np.abs(found[1] - covariance).max() < 1e-6 * np.abs(covariance).max()


# V = (x² − 1)²/4, D = .05(1 + .3x), from N(0, .3²).
DIFFUSION, SLOPE, SPREAD, BOX = 0.05, 0.3, 0.3, (-2.4, 2.4)
TIMES = (10, 40)
Z = np.linspace(-4, 4, 81)
WEIGHTS = np.exp(-(Z**2) / 2) / np.exp(-(Z**2) / 2).sum()


class TiltedWell(eqx.Module):
    """(x² − 1)²/4 − ax: b → b + a."""

    tilt: jax.Array

    def __call__(self, theta):
        return (theta[0] ** 2 - 1) ** 2 / 4 - self.tilt * theta[0]


def start_density(x):
    return jnp.exp(-((x[0] / SPREAD) ** 2) / 2) / (SPREAD * np.sqrt(2 * np.pi))


@functools.cache
def line(cells):
    """Densities at t = 0 and TIMES, and the score."""
    equation = ss.theory.laws.FokkerPlanck(
        Diffusion(lambda x: x - x**3, lambda x: DIFFUSION * (1 + SLOPE * x)), BOX, cells
    )
    densities = equation.propagate(start_density, [0.0, *(ETA * k for k in TIMES)])
    return densities, GridScore(equation, start_density, duration=ETA * TIMES[-1], num_times=48)


NOISE_ON_THE_LINE = ss.FunctionNoise(lambda x: jnp.sqrt(2 * DIFFUSION / ETA * (1 + SLOPE * x)))
MEMBERS = 2000


@functools.cache
def on_the_line(cells, tilt=0.0, factor=1.0):
    """W₂ of members at the quantiles Φ(z) from the density, worst |F_t(θ_t) − u|, and a sample."""
    densities, score = line(cells)
    landscape = ss.Potential(TiltedWell(jnp.asarray(tilt)), [[1.0]])
    flow = ss.ProbabilityFlow(landscape, ETA, NOISE_ON_THE_LINE, scaled(score, factor))
    sample = SPREAD * np.random.default_rng(5).standard_normal(MEMBERS)
    starts = np.concatenate([densities[0].quantile(ndtr(Z)), sample])
    run = ss.simulate(
        flow,
        jnp.asarray(starts)[:, None],
        num_steps=TIMES[-1],
        ensemble_size=len(starts),
        key=jr.key(0),
        measures={"x": ss.Snapshots(TIMES)},
        on_divergence="raise" if factor == 1.0 else "mask",
    )
    places = run["x"].values[..., 0]
    if places.shape[1] < len(starts):
        return np.inf, np.inf, places[-1]
    nodes = places[:, : len(Z)]
    gaps = [nodes[i] - densities[i + 1].quantile(ndtr(Z)) for i in range(len(TIMES))]
    distance = max(float(np.sqrt(WEIGHTS @ gap**2)) for gap in gaps)
    moved = max(
        float(np.abs(densities[i + 1].cdf(nodes[i]) - ndtr(Z)).max()) for i in range(len(TIMES))
    )
    return distance, moved, places[-1, len(Z) :]


def test_members_keep_their_quantile():
    """F_t(θ_t) = F_0(θ_0) for noise that depends on θ, up to the grid's O(h²); controls do not.

    The controls: without −∇·D (b + D′), as if the noise were Stratonovich's (b + D′/2), and
    with −ηCs for −½ηCs, whose members leave the box.
    """
    coarse, fine = on_the_line(120), on_the_line(240)
    assert fine[0] < 5e-4 and fine[1] < 1e-3
    assert 3 < coarse[0] / fine[0] < 5 and 3 < coarse[1] / fine[1] < 5
    for tilt in (DIFFUSION * SLOPE, DIFFUSION * SLOPE / 2):
        assert on_the_line(240, tilt)[0] > 40 * fine[0]
    assert on_the_line(240, factor=2.0)[0] > 40 * fine[0]


def test_a_sample_has_the_density():
    """2 000 members from N(0, .3²): the law of the Fokker–Planck equation, at the floor of W₂."""
    density = line(240)[0][-1]
    sample = on_the_line(240)[2]
    assert ss.compare_law(sample, density, key=jr.key(1)).verdict == "agrees"
    assert abs(ss.distances.wasserstein2(sample, density, key=jr.key(2)).excess) < 4.3
    wrong = on_the_line(240, DIFFUSION * SLOPE)[2]
    assert ss.compare_law(wrong, density, key=jr.key(1)).verdict == "disagrees"


def test_nothing_moves_in_equilibrium():
    """v = 0 where b = ∇·D − D∇φ and s = −∇φ, in the plane, D(θ) full; without −∇·D, v = ∇·D.

    In rotated coordinates y = Rᵀθ, D = diag(1 + y₁²/2, e^{y₂/3})·.1 and φ = y₁² + y₂⁴/4.
    """
    angle = 0.6
    turn = jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def widths(y):
        return 0.1 * jnp.stack([1 + y[0] ** 2 / 2, jnp.exp(y[1] / 3)])

    def energy(theta):
        # −∫(D_i' − D_i φ_i') along each axis.
        y = turn.T @ theta
        first = 0.1 * (y[0] ** 2 + y[0] ** 4 / 4) - widths(y)[0]
        u = y[1]
        exponential = 3 * jnp.exp(u / 3) * (u**3 - 9 * u**2 + 54 * u - 162)
        return first + 0.1 * exponential - widths(y)[1]

    noise = ss.FunctionNoise(lambda theta: turn * jnp.sqrt(2 / ETA * widths(turn.T @ theta)))
    score = FunctionScore(
        lambda t, theta: -turn @ jnp.stack([2 * (turn.T @ theta)[0], (turn.T @ theta)[1] ** 3]), 2
    )
    landscape = ss.Potential(energy, np.eye(2))
    flow = ss.ProbabilityFlow(landscape, ETA, noise, score)
    points = jnp.asarray(normal(4, 20, 2))
    zero = jnp.asarray(0.0)

    @jax.jit
    @jax.vmap
    def both(x):
        frozen = ETA / 2 * noise.covariance(x, landscape) @ score(zero, x)
        return flow.velocity(zero, x), -landscape.gradient(x) - frozen

    found, frozen = both(points)
    assert np.abs(found).max() < 1e-11
    y = points @ turn
    divergence = np.stack([0.1 * y[:, 0], np.exp(y[:, 1] / 3) / 30], axis=1) @ turn.T
    np.testing.assert_allclose(frozen, divergence, atol=1e-11)


def test_a_run_can_be_continued():
    """20 iterations are 10 and 10: the score's clock is that of the run.

    The velocity has the landscape's dtype, whatever those of the score, of t and of θ are.
    """
    flow, theta = gaussian_flow(), jnp.asarray(START.mean)
    options = dict(ensemble_size=4, key=jr.key(0))
    whole = ss.simulate(flow, theta, num_steps=20, **options)
    halves = ss.simulate(flow, theta, num_steps=10, **options).extend(10)
    np.testing.assert_array_equal(whole.positions, halves.positions)
    hessian, noise, minimum = (np.float32(x) for x in (HESSIAN, NOISE, MINIMUM))
    landscape = ss.quadratic(hessian, noise, minimum=minimum)
    single = ss.ProbabilityFlow(landscape, ETA, ss.ConstantNoise(noise), flow.score)
    assert jax.eval_shape(single.velocity, jnp.asarray(0.3), theta).dtype == jnp.float32


WELL = ss.Potential(TiltedWell(jnp.asarray(0.0)), [[1.0]])


def flow_on_the_line(score=None, **options):
    given = line(120)[1] if score is None else score
    return ss.ProbabilityFlow(
        WELL, options.pop("learning_rate", ETA), NOISE_ON_THE_LINE, given, **options
    )


def run_of(flow, theta, num_steps=10):
    return ss.simulate(flow, theta, num_steps=num_steps, ensemble_size=2, key=jr.key(0))


def sample_of(spread):
    rows = np.random.default_rng(0).normal(size=(2, 50, 1))
    rows[0] *= spread
    return rows


BAD = {
    "score of 3 coordinates": lambda: flow_on_the_line(scaled(gaussian_flow().score, 1.0)),
    r"it has shape \(1,\)": lambda: FunctionScore(lambda t, x: x[:1], 2),
    "constant learning_rate": lambda: flow_on_the_line(learning_rate=optax.constant_schedule(0.1)),
    "known for 0 <= t <= 4": lambda: flow_on_the_line(start_time=5.0),
    "ends after 40 iterations": lambda: run_of(flow_on_the_line(), jnp.zeros(1), 41),
    "starts lie where the score": lambda: run_of(flow_on_the_line(), jnp.full(1, 2.39)),
    "such as ss.theory.equations.GaussianScore": lambda: flow_on_the_line(lambda t, x: -x),
    "start_time must be": lambda: flow_on_the_line(start_time=-1.0),
    "positive in every cell": lambda: GridScore(
        ss.theory.laws.FokkerPlanck(Diffusion(lambda x: -x, lambda x: 0.1), (-2.0, 2.0), 40),
        [0.0],
        duration=1.0,
    ),
    "do not absorb": lambda: GridScore(
        ss.theory.laws.FokkerPlanck(
            Diffusion(lambda x: -x, lambda x: 0.1), (-2.0, 2.0), 40, "absorbing"
        ),
        start_density,
        duration=1.0,
    ),
    "one dimension: in the plane": lambda: GridScore(
        ss.theory.laws.FokkerPlanck(Diffusion(lambda x: -x, lambda x: 0.1), ((-2.0, 2.0),) * 2, 10),
        start_density,
        duration=1.0,
    ),
    "no spread": lambda: KernelScore(sample_of(0.0), [0.0, 1.0]),
    "increasing times": lambda: KernelScore(sample_of(1.0), [1.0, 0.0]),
    "10 members at least": lambda: KernelScore(np.zeros((2, 5, 1)), [0.0, 1.0]),
    "must be a theory.laws.Gaussian": lambda: GaussianScore(equation(), np.zeros(3)),
    "first order at solver step 0": lambda: GaussianScore(
        ss.GaussianSGD(ss.quadratic(HESSIAN, NOISE), ETA, ss.ConstantNoise(NOISE)), START
    ),
    "its noise depends on θ": lambda: GaussianScore(
        ss.ModifiedEquation(
            ss.landscapes.PopulationLeastSquares(HESSIAN, 0.1),
            ETA,
            ss.MinibatchNoise(ss.WithReplacement(2)),
        ).limit(),
        START,
    ),
}


@pytest.mark.parametrize("match", BAD)
def test_refuses(match):
    """Scores of another shape, times and places where there is none, point masses, schedules."""
    with pytest.raises(ValueError, match=match):
        BAD[match]()
