"""Exact identities between processes, without statistics."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.processes.continuous.terms import separate_terms

ETA = 0.1
FALLING = optax.linear_schedule(0.2, 0.01, 6)
SAMPLING = ss.WithReplacement(4)


def least_squares():
    inputs = normal(0, 20, 3)
    return ss.LeastSquares(inputs, inputs @ np.array([1.0, -1.0, 0.5]) + 0.3)


def logistic():
    labels = np.random.default_rng(3).integers(0, 3, 20)
    return ss.LogisticRegression(normal(2, 20, 4), labels, num_classes=3)


def network():
    model = eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=jr.key(4))
    inputs = normal(5, 16, 2)
    return ss.EmpiricalRisk(model, inputs, inputs[:, :1] ** 2, ss.squared_error)


# Noise of the first comes from a d×d root, that of the others from N weights.
LANDSCAPES = {f.__name__: f for f in (least_squares, logistic, network)}


@pytest.fixture(params=LANDSCAPES.values(), ids=LANDSCAPES)
def landscape(request):
    return request.param()


def start(landscape):
    return jnp.asarray(0.1 * normal(9, landscape.dimension))


def run(process, steps, members=8, key=7, theta=None, **options):
    theta = start(process.landscape) if theta is None else theta
    return ss.simulate(
        process, theta, num_steps=steps, ensemble_size=members, key=jr.key(key), **options
    )


def close(actual, expected, tolerance=1e-12):
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def test_euler_at_eta_is_gaussian_sgd(landscape):
    """ModifiedEquation(substeps=1) = GaussianSGD, same key, 1e-12 over 50 steps."""
    noise = ss.MinibatchNoise(SAMPLING)
    euler = run(ss.ModifiedEquation(landscape, ETA, noise, substeps=1), 50).positions
    gaussian = ss.GaussianSGD(landscape, ETA, noise)
    close(euler, run(gaussian, 50).positions)
    other = run(gaussian, 50, key=8).positions
    assert np.max(np.abs(other - euler)) > 1e-3


def test_users_own_diffeqsolve_gives_the_same_numbers(landscape):
    """diffeqsolve(terms(key, member), dt0=1/substeps) = that member of the run, also resumed."""
    sde = ss.ModifiedEquation(landscape, ETA, ss.MinibatchNoise(SAMPLING), substeps=4)
    whole, half = run(sde, 12).positions, run(sde, 5).positions

    # Compiled once for both members and both spans.
    @eqx.filter_jit
    def solve(terms, theta, iterations):
        times = {"t0": 0.0, "t1": iterations, "dt0": 0.25}
        return dfx.diffeqsolve(terms, dfx.Euler(), **times, y0=theta, max_steps=48).ys[-1]

    for member in (0, 5):
        first = sde.terms(jr.key(7), member)
        close(solve(first, start(landscape), jnp.asarray(12.0)), whole[member])
        later = sde.terms(jr.key(7), member, iteration=5)
        close(solve(later, jnp.asarray(half[member]), jnp.asarray(7.0)), whole[member])


@pytest.mark.parametrize("solver", [dfx.Heun(), dfx.Midpoint()], ids=["Heun", "Midpoint"])
def test_fused_terms_refuse_other_solvers(solver):
    """A Stratonovich solver would run on the fused term and be wrong."""
    sde = ss.ModifiedEquation(least_squares(), ETA, ss.MinibatchNoise(SAMPLING), substeps=4)
    with pytest.raises(ValueError, match="Euler"):
        dfx.diffeqsolve(sde.terms(jr.key(7)), solver, t0=0.0, t1=2.0, dt0=0.25, y0=jnp.zeros(3))


def test_another_step_than_the_paths_own_is_refused():
    """The path has increments over steps of 1/substeps only."""
    sde = ss.ModifiedEquation(least_squares(), ETA, ss.MinibatchNoise(SAMPLING), substeps=4)
    with pytest.raises(Exception, match="dt0=1/4"):
        dfx.diffeqsolve(sde.terms(jr.key(7)), dfx.Euler(), t0=0.0, t1=2.0, dt0=0.5, y0=jnp.zeros(3))


def test_fused_and_separate_terms_agree(landscape):
    """One VJP gives −η(∇L ds + C^{1/2} dW) = drift·ds + diffusion·dW, at both orders."""
    noise, theta = ss.MinibatchNoise(SAMPLING), start(landscape)

    def of_order(order):
        sde = ss.ModifiedEquation(landscape, ETA, noise, order=order, substeps=2)
        fused = sde.terms(jr.key(3), 2)
        return fused, separate_terms(landscape, sde.learning_rate, noise, fused.path, order)

    @eqx.filter_jit
    def step(pairs):
        return [
            [dfx.Euler().step(terms, 0.0, 0.5, theta, None, None, False)[0] for terms in pair]
            for pair in pairs
        ]

    orders = step([of_order(1), of_order(2)])
    for fused, separate in orders:
        close(fused, separate)
        assert np.max(np.abs(fused - theta)) > 1e-4
    assert np.max(np.abs(orders[0][0] - orders[1][0])) > 1e-6


def test_second_order_drift_is_a_gradient(landscape):
    """−∇(L + (η/4)|∇L|²)."""
    noise = ss.ConstantNoise(np.zeros((landscape.dimension,) * 2))
    sde = ss.ModifiedEquation(landscape, ETA, noise, order=2, substeps=1)
    theta = start(landscape)

    def modified(x):
        gradient = landscape.gradient(x)
        return landscape.loss(x) + ETA / 4 * jnp.dot(gradient, gradient)

    expected = theta - ETA * eqx.filter_jit(jax.grad(modified))(theta)
    close(run(sde, 1, members=1).positions[0], expected)


def test_diffusion_is_the_root_of_eta_c_sigma(landscape):
    """√η C^{1/2} applied to every direction has D Dᵀ = η c Σ(θ)."""
    sde = ss.ModifiedEquation(landscape, ETA, ss.MinibatchNoise(SAMPLING))
    theta = start(landscape)

    @eqx.filter_jit
    def compute(sde, directions):
        along = jax.vmap(lambda v: sde.diffusion(theta, v))
        return along(directions), landscape.gradient_covariance(theta)

    columns, sigma = map(np.asarray, compute(sde, jnp.asarray(np.eye(landscape.noise_dimension))))
    close(columns.T @ columns, ETA / 4 * sigma)


def test_refinement_is_the_same_brownian_path():
    """A coarse increment is the sum of the fine ones: on L = 0 the two runs end together."""
    flat = ss.Potential(lambda x: 0.0 * jnp.sum(x), np.eye(2))
    noise = ss.ConstantNoise(np.eye(2))
    coarse = ss.ModifiedEquation(flat, ETA, noise, substeps=2, refinement=3)
    fine = ss.ModifiedEquation(flat, ETA, noise, substeps=6)
    theta = jnp.ones(2)
    close(run(coarse, 9, theta=theta).positions, run(fine, 9, theta=theta).positions)


# Momentum and schedules see no landscape: all four pairs on one, the fullest on the others.
HEAVY_BALL = [(least_squares, ETA, 0.0), (least_squares, ETA, 0.9), (least_squares, FALLING, 0.0)]
HEAVY_BALL += [(make, FALLING, 0.9) for make in LANDSCAPES.values()]


@pytest.mark.parametrize("make, rate, momentum", HEAVY_BALL)
def test_sgd_is_the_heavy_ball_by_hand(make, rate, momentum):
    """m ← μm + ĝ, θ ← θ − η_k m with the batches that the sampling draws."""
    landscape = make()
    sgd = ss.SGD(landscape, rate, SAMPLING, momentum=momentum)
    gradients = eqx.filter_jit(jax.vmap(landscape.example_gradients))
    batches = eqx.filter_jit(
        lambda k: SAMPLING.draw(None, ss.Draws.create(jr.key(7), jnp.arange(8), k), landscape)[1]
    )
    theta = np.broadcast_to(start(landscape), (8, landscape.dimension))
    velocity = np.zeros_like(theta)
    for k in range(8):
        index = batches(jnp.asarray(k))
        gradient = np.asarray(gradients(jnp.asarray(theta)))
        batch = np.stack(
            [g[i].mean(axis=0) for g, i in zip(gradient, np.asarray(index), strict=True)]
        )
        velocity = momentum * velocity + batch
        theta = theta - (float(rate(k)) if callable(rate) else rate) * velocity
    close(run(sgd, 8).positions, theta, 1e-11)


def test_optax_sgd_is_sgd(landscape):
    """optax.sgd(η, μ) on the library's batches = SGD(η, momentum=μ); its clock is ηk."""
    plain = ss.SGD(landscape, ETA, SAMPLING, momentum=0.5)
    through = ss.OptaxSGD(landscape, optax.sgd(ETA, momentum=0.5), SAMPLING, learning_rate=ETA)
    close(run(through, 20).positions, run(plain, 20).positions, 1e-11)
    assert run(through, 2).time == pytest.approx(2 * ETA)


def test_gradient_flow_is_the_exponential():
    """θ_t = θ* + e^{−Ht}(θ_0 − θ*) to the solver's accuracy."""
    landscape = least_squares()
    best = np.asarray(landscape.minimum())
    values, vectors = np.linalg.eigh(landscape.hessian(landscape.minimum()))
    offset = np.asarray(start(landscape)) - best
    exact = best + vectors @ (np.exp(-values * 10 * ETA) * (vectors.T @ offset))
    flow = ss.GradientFlow(landscape, ETA, substeps=4)
    close(run(flow, 10, members=1).positions[0], exact, 1e-9)


def test_time_of_a_schedule_is_the_sum_of_its_rates():
    """t_k = Σ_{j<k} η_j for SGD and its SDE alike."""
    schedule = optax.linear_schedule(0.2, 0.0, 10)
    sgd = ss.SGD(least_squares(), schedule, SAMPLING)
    sde = ss.ModifiedEquation(least_squares(), schedule, ss.MinibatchNoise(SAMPLING))
    k = np.array([0, 1, 4, 10])
    exact = [sum(float(schedule(j)) for j in range(n)) for n in k]
    np.testing.assert_allclose(sgd.time(k), exact)
    np.testing.assert_allclose(sde.time(k), exact)


def test_a_scheduled_sde_follows_its_schedule():
    """Without noise, Euler at one step an iteration is gradient descent with η_k."""
    landscape, schedule = least_squares(), optax.linear_schedule(0.3, 0.05, 5)
    sde = ss.ModifiedEquation(landscape, schedule, ss.ConstantNoise(np.zeros((3, 3))), substeps=1)
    theta, gradient = np.asarray(start(landscape)), eqx.filter_jit(landscape.gradient)
    for k in range(7):
        theta = theta - float(schedule(k)) * np.asarray(gradient(jnp.asarray(theta)))
    close(run(sde, 7, members=1).positions[0], theta)
