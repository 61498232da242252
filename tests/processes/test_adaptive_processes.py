"""One description of an adaptive optimiser, two processes: schedules, decay, clocks, networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy import integrate, special
from tools import call, normal

import sde_sgd as ss

NUM = 7
LANDSCAPE = ss.LeastSquares(normal(0, NUM, 2), normal(1, NUM))
ALL = ss.WithoutReplacement(NUM)  # batches of all examples: no noise
NOISE = ss.MinibatchNoise(ALL)
START = np.array([1.0, -0.5])
STEPS, DECAY, EPS = 6, 0.5, 1e-3
OPTIMISERS = {
    "SignSGD": lambda rate, decay: ss.SignSGD(rate, decay),
    "RMSprop": lambda rate, decay: ss.RMSprop(rate, 0.8, EPS, 0.3, decay),
    "RMSprop, corrected": lambda rate, decay: ss.RMSprop(
        rate, 0.8, EPS, weight_decay=decay, bias_correction=True
    ),
    "Adam": lambda rate, decay: ss.Adam(rate, 0.6, 0.8, EPS, decay),
}


def schedule(k):
    """η_k = .1, .1, .1, .04, ..."""
    return jnp.where(k < 3, 0.1, 0.04)


RATES = [0.1] * 3 + [0.04] * 3


def gradient(theta):
    inputs, targets = (np.asarray(a) for a in LANDSCAPE.data)
    return inputs.T @ (inputs @ theta - targets) / NUM


def by_hand(name, decay):
    """θ ← θ − η_k(u + λθ), u by the formula of each optimiser."""
    theta, m = START, np.zeros(2)
    v = np.full(2, 0.3 if name == "RMSprop" else 0.0)
    for k, eta in enumerate(RATES, 1):
        g = gradient(theta)
        m, v = 0.6 * m + 0.4 * g, 0.8 * v + 0.2 * g**2
        u = {
            "SignSGD": np.sign(g),
            "RMSprop": g / (np.sqrt(v) + EPS),
            "RMSprop, corrected": g / (np.sqrt(v / (1 - 0.8**k)) + EPS),
            "Adam": m / (1 - 0.6**k) / (np.sqrt(v / (1 - 0.8**k)) + EPS),
        }[name]
        theta = theta - eta * (u + decay * theta)
    return theta


def adamw_loop():
    """The loop that a user of optax writes, with optax.adamw and the same schedule."""
    optimiser = optax.adamw(schedule, 0.6, 0.8, EPS, weight_decay=DECAY)
    theta = jnp.asarray(START)
    state = optimiser.init(theta)
    update = jax.jit(optimiser.update)
    for _ in range(STEPS):
        updates, state = update(jnp.asarray(gradient(np.asarray(theta))), state, theta)
        theta = optax.apply_updates(theta, updates)
    return np.asarray(theta)


def end(process):
    options = {"num_steps": STEPS, "ensemble_size": 1, "key": jr.key(0), "progress": False}
    run = ss.simulate(process, START, **options)
    return np.asarray(run.positions)[0], run.time


@pytest.mark.parametrize("name", OPTIMISERS)
def test_schedule_and_decay_by_hand(name):
    """θ ← θ − η_k(u + λθ) on batches of all examples, and at t = Σ η_k²; optax.adamw's θ for Adam.

    λ in the loss (`l2=`) is another rule: u divides it."""
    description = OPTIMISERS[name](schedule, DECAY)
    found, time = end(ss.OptaxSGD(LANDSCAPE, description, ALL))
    np.testing.assert_allclose(found, by_hand(name, DECAY), rtol=1e-12)
    assert time == pytest.approx(np.sum(np.square(RATES)), rel=1e-6)
    assert np.abs(found - by_hand(name, 0.0)).max() > 1e-2
    if name == "Adam":
        np.testing.assert_allclose(found, adamw_loop(), rtol=1e-12)
        coupled = ss.LeastSquares(*LANDSCAPE.data, l2=DECAY)
        other, _ = end(ss.OptaxSGD(coupled, OPTIMISERS[name](schedule, 0.0), ALL))
        assert np.abs(found - other).max() > 1e-2


def flow():
    """Adam's dθ = −η(s)(u + λθ) ds without noise, from the limit at s → 0 on."""

    def weight(rate, s):
        return -np.expm1(-rate * s)

    def slope(s, y, eta):
        theta, m, v = y.reshape(3, 2)
        g = gradient(theta)
        u = m / weight(0.4, s) / (np.sqrt(np.abs(v / weight(0.2, s))) + EPS)
        return np.concatenate([-eta * (u + DECAY * theta), 0.4 * (g - m), 0.2 * (g**2 - v)])

    begin, g = 1e-10, gradient(START)
    y = np.concatenate([START, weight(0.4, begin) * g, weight(0.2, begin) * g**2])
    options = {"rtol": 1e-10, "atol": 1e-14, "method": "LSODA"}
    for k, eta in enumerate(RATES):
        y = integrate.solve_ivp(slope, (max(k, begin), k + 1), y, args=(eta,), **options).y[:, -1]
    return y[:2]


def test_equation_without_noise_is_its_flow():
    """The equation extrapolated to step 0 is the ordinary equation with schedule and decay, the
    other side of `weak_error` the optimiser: all without noise, so that both are exact."""
    own = OPTIMISERS["Adam"](schedule, DECAY)
    sgd = ss.OptaxSGD(LANDSCAPE, own, ALL)
    sde = ss.AdaptiveEquation(LANDSCAPE, own, NOISE, substeps=16)
    found = ss.weak_error(
        sgd, sde, START, num_steps=STEPS, ensemble_size=2, key=jr.key(0), of=lambda x: x
    )
    np.testing.assert_allclose(found.sgd.value, by_hand("Adam", DECAY), rtol=1e-12)
    np.testing.assert_allclose(found.sde.value, flow(), atol=5e-5)
    # What the extrapolation has removed, of order h.
    assert np.abs(found.step_error.value).max() > 5e-4


def test_corrected_averages_of_squares():
    """RMSprop with bias correction is Adam with β₁ = 0, iteration by iteration."""
    both = (OPTIMISERS["RMSprop, corrected"](0.1, 0.0), ss.Adam(0.1, 0.0, 0.8, EPS))
    noise = ss.MinibatchNoise(ss.WithReplacement(2))

    def directions(optimiser, theta, z):
        memory, found = optimiser.init(theta), []
        for own in z:
            u, memory = optimiser.direction(theta, memory, own, 1.0, LANDSCAPE, noise)
            found.append(u)
            theta = theta - 0.1 * u
        return jnp.stack(found)

    found = [call(directions, own, START, normal(7, 3, 2)) for own in both]
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_adam_of_pure_noise_from_its_start():
    """On a flat loss θ = −η C^{-1/2} ∫ (m/γ₁) ds is Gaussian, with a = 1 − β₁ of variance

        η² ∫₀^S e^{2au} ln²[(1 − e^{−aS})/(1 − e^{−au})] du.

    The scheme has it to order h, n·error → a constant; m/γ₁ at the end of each step would leave
    h ln(1/h), n·error growing by ln 2 with each halving."""
    a, duration, eta = 0.1, 30, 0.2
    flat, noise = ss.quadratic([[0.0]], [[1.0]]), ss.ConstantNoise([[1.0]])
    adam = ss.Adam(eta, 1 - a, 0.99, 0.0, noise_dominated=True)

    def density(u):
        return (np.exp(a * u) * np.log(np.expm1(-a * duration) / np.expm1(-a * u))) ** 2

    exact, _ = integrate.quad(density, 0, duration, epsrel=1e-11, limit=400)

    def variance(n):
        def final(z):
            def body(state, own):
                theta, memory = state
                u, memory = adam.direction(theta, memory, own[None], 1 / n, flat, noise)
                return (theta - eta / n * u, memory), None

            start = (jnp.zeros(1), adam.init(jnp.zeros(1)))
            return jax.lax.scan(body, start, z)[0][0][0]

        slopes = call(jax.grad(final), np.zeros(n * duration))
        return np.sum(slopes**2) / eta**2

    errors = [n * (variance(n) - exact) for n in (8, 16, 32)]
    growth = np.abs(np.diff(errors))
    assert growth[1] < 0.8 * growth[0] < 0.8 * np.log(2) / 2
    assert abs(errors[-1]) < 0.1 * exact


def test_signs_taken_for_independent():
    """diagonal=True: E sign ĝ = erf(g/√2C_ii), Var = 1 − that², from the variances alone."""
    cov = np.array([[1.0, 0.9], [0.9, 2.0]])
    land, noise = ss.quadratic(np.diag([1.0, 2.0]), cov), ss.ConstantNoise(cov)
    theta, z = np.array([0.3, -0.4]), np.array([0.7, -1.1])
    sign = ss.SignSGD(0.1, diagonal=True)
    mean, variance = call(sign.moments, theta, land, noise)
    exact = special.erf(np.array([0.3, -0.8]) / np.sqrt(2 * np.diag(cov)))
    np.testing.assert_allclose(mean, exact, rtol=1e-12)
    np.testing.assert_allclose(variance, 1 - exact**2, rtol=1e-12)
    u, _ = call(lambda x, z: sign.direction(x, None, z, 0.25, land, noise), theta, z)
    np.testing.assert_allclose(u, exact + 2 * np.sqrt(1 - exact**2) * z, rtol=1e-12)


@pytest.mark.slow
def test_adam_beside_its_equation_on_a_network():
    """Ten lines: a network, Adam with a schedule and decay, its equation, a table of verdicts."""
    data = normal(3, 12, 2)
    model = eqx.nn.MLP(2, "scalar", 2, 1, jnp.tanh, key=jr.key(0))
    landscape = ss.EmpiricalRisk(model, data, np.sin(data[:, 0]), ss.squared_error)
    adam = ss.Adam(optax.linear_schedule(1e-2, 1e-3, 8), weight_decay=0.1)
    sampling = ss.WithReplacement(4)
    sgd = ss.OptaxSGD(landscape, adam, sampling)
    sde = ss.AdaptiveEquation(landscape, adam, ss.MinibatchNoise(sampling), substeps=2)
    both = ss.side_by_side(
        sgd, sde, landscape.initial, num_steps=8, ensemble_size=8, key=jr.key(1), snapshots=1,
        distances=("energy",), num_bootstrap=2, progress=False,
    )  # fmt: skip
    assert "discretisation error" in both.table and both.observables["loss"].step_error is not None
    rates = np.asarray(jax.vmap(adam.learning_rate.given)(jnp.arange(8)))
    assert both.times[-1] == pytest.approx(np.sum(rates**2))


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: ss.AdaptiveEquation(LANDSCAPE, ss.RMSprop(0.1), NOISE),
            "infinite variance.*bias_correction=True, or initial > 0",
        ),
        (lambda: ss.RMSprop(0.1, initial=0.1, bias_correction=True), "start at 0; got initial=0.1"),
        (
            lambda: ss.AdaptiveEquation(
                ss.LeastSquares(normal(4, 2, 2001), normal(5, 2)),
                ss.SignSGD(0.1),
                ss.MinibatchNoise(ss.WithReplacement(1)),
            ),
            "d=2001. SignSGD.*diagonal=True",
        ),
        (
            lambda: ss.OptaxSGD(LANDSCAPE, ss.Adam(0.1), ALL, 0.1),
            "ss.Adam has its own, t = η²k: leave it out; got 0.1",
        ),
        (lambda: ss.Adam(0.1, weight_decay=-1.0), "weight_decay must be"),
        (lambda: ss.Adam(optax.adam(0.1)), "is an optax optimiser"),
        (
            lambda: ss.Stages([ss.OptaxSGD(LANDSCAPE, ss.Adam(schedule), ALL)], [3]),
            "constant learning rates",
        ),
    ],
)
def test_refusals(call, words):
    """What has no meaning, with the way out."""
    with pytest.raises(ValueError, match=words):
        call()


def test_clocks_explain_themselves():
    """t = k, ηk and η²k: which side has which, and how to make them one."""
    adam, options = ss.Adam(0.1), {"num_steps": 10, "ensemble_size": 2, "key": jr.key(0)}
    sde = ss.AdaptiveEquation(LANDSCAPE, adam, NOISE)
    modified = ss.ModifiedEquation(LANDSCAPE, 0.1, NOISE)
    cases = [
        (ss.OptaxSGD(LANDSCAPE, optax.adam(0.1), ALL), sde, r"t=10 \(t = k, in.*ss.Adam\(1e-3\)"),
        (ss.SGD(LANDSCAPE, 0.1, ALL), sde, r"t=1 \(t = ηk\) .* t=0.1 \(t = η²k\)"),
        (ss.OptaxSGD(LANDSCAPE, adam, ALL), modified, "keep η²k: give both sides the same"),
        (ss.OptaxSGD(LANDSCAPE, ss.Adam(0.2), ALL), sde, "same learning rate or schedule"),
    ]
    for sgd, equation, words in cases:
        with pytest.raises(ValueError, match=f"The clocks differ: after 10.*{words}"):
            ss.weak_error(sgd, equation, START, of=lambda x: x[0], **options)
