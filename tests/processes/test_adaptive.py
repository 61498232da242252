"""Adaptive SDEs: coefficients by quadrature, schemes by hand, exact laws, scaling rules."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy import integrate, special, stats
from tools import call

import sde_sgd as ss
from sde_sgd.processes.discrete._signs import joint_signs

PLAIN = {"progress": False}


def both_signs(a, b, rho):
    """E sign x sign y, y | x normal: ∫ sign(a + z) erf((b + ρz)/√(2(1−ρ²))) φ(z) dz, in pieces."""
    width = np.sqrt((1 - rho) * (1 + rho))

    def integrand(z):
        return np.sign(a + z) * special.erf((b + rho * z) / width / np.sqrt(2)) * stats.norm.pdf(z)

    turn = [-b / rho + k * width for k in (-8, -2, 0, 2, 8)] if rho else []
    ends = sorted(x for x in (-12.0, 12.0, -a, *turn) if abs(x) <= 12)
    options = {"epsabs": 1e-14, "epsrel": 1e-13, "limit": 200}
    pieces = zip(ends, ends[1:], strict=False)
    return sum(integrate.quad(integrand, *piece, **options)[0] for piece in pieces)


POINTS = ((0.4, -0.4), (0.4, 0.4), (0.0, 0.0), (0.5, 0.5001), (0.0, 0.7), (2.0, -1.0), (3.0, 3.1))


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.5, 0.95, 0.9999, -0.9999, 1 - 1e-9])
def test_moments_of_the_sign(rho):
    """E sign ĝ and Cov sign ĝ = those of a bivariate normal law, up to |ρ| = 1."""
    cov = np.array([[1.0, rho * 0.5], [rho * 0.5, 0.25]])
    land, noise = ss.quadratic(np.diag([1.0, 2.0]), cov), ss.ConstantNoise(cov)
    # The rounding ε of ρ makes (2/π) ε/√(1−ρ²).
    allowed = 4e-16 * (4 + 1 / np.sqrt(1 - rho**2))
    for a, b in POINTS:
        mean, spread = call(ss.SignSGD(0.1).moments, jnp.array([a, b / 4]), land, noise)
        exact = special.erf(np.array([a, b]) / np.sqrt(2))
        np.testing.assert_allclose(mean, exact, rtol=1e-12)
        np.testing.assert_allclose(np.diag(spread), 1 - exact**2, rtol=1e-10)
        wanted = both_signs(a, b, rho) - exact[0] * exact[1]
        assert abs(spread[0, 1] - wanted) < allowed
        assert spread[0, 1] == spread[1, 0]
        assert np.linalg.eigvalsh(np.asarray(spread)).min() > -2 * allowed


def test_signs_of_one_and_the_same_noise():
    """ρ = ±1, x = z + a, y = ±(z + b): 1 − 2P(−a < z < −b) and its negative, less e e'."""
    for sign in (1.0, -1.0):
        cov = np.array([[1.0, sign], [sign, 1.0]])
        land, noise = ss.quadratic(np.eye(2), cov), ss.ConstantNoise(cov)
        for a, b in POINTS:
            start = jnp.array([a, sign * b])
            mean, spread = call(ss.SignSGD(0.1).moments, start, land, noise)
            apart = abs(stats.norm.cdf(-a) - stats.norm.cdf(-b))
            wanted = sign * (1 - 2 * apart) - mean[0] * mean[1]
            assert spread[0, 1] == pytest.approx(wanted, abs=2e-8)


def test_signs_without_noise():
    """C_ii = 0: sign ĝ_i = sign g_i for certain, 0 where g_i = 0, beside a coordinate of noise."""
    cov = np.diag([0.0, 0.0, 1.0])
    land = ss.quadratic(np.eye(3), cov)
    theta = jnp.array([0.0, -0.2, 0.3])
    mean, spread = call(ss.SignSGD(0.1).moments, theta, land, ss.ConstantNoise(cov))
    noisy = special.erf(0.3 / np.sqrt(2))
    np.testing.assert_allclose(mean, [0, -1, noisy], rtol=1e-12)
    np.testing.assert_allclose(spread, np.diag([0, 0, 1 - noisy**2]), rtol=1e-12, atol=1e-15)


def test_signs_in_float32():
    """E and Cov keep the dtype of θ, and agree with float64 to 1e-6."""
    ratio, correlation = np.array([0.5, -0.2, 1.4]), np.array([0.3, 0.999, -0.7])
    matrix = np.eye(3)
    matrix[np.triu_indices(3, 1)] = matrix.T[np.triu_indices(3, 1)] = correlation
    found, exact = (
        call(joint_signs, jnp.asarray(ratio, dtype), jnp.asarray(matrix, dtype))
        for dtype in (jnp.float32, jnp.float64)
    )
    assert found.dtype == np.float32
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(found[off], exact[off], atol=1e-6)


@functools.cache
def sign_variance(eta):
    """Stationary variance of x ← x − η sign(x + ξ) on the lattice ηZ: a birth–death chain."""
    x = eta * np.arange(-80, 81)
    down = stats.norm.cdf(x)
    log = np.concatenate([[0], np.cumsum(np.log((1 - down)[:-1] / down[1:]))])
    p = np.exp(log - log.max())
    return float(np.sum(p * x**2) / np.sum(p))


def test_sign_variance_of_theory():
    """m/√(1+m) = (η/2)√(π/2): .0062862 at η = .01; the lattice chain has it to .3 %."""
    root = 0.005 * np.sqrt(np.pi / 2)
    m = root * (root + np.sqrt(root**2 + 4)) / 2
    assert m == pytest.approx(0.0062862, abs=5e-8)
    assert sign_variance(0.01) == pytest.approx(m, rel=3e-3)
    assert abs(sign_variance(0.01) / (0.01 / 2) - 1) > 0.2  # Control: without √(π/2)


def hand(optimizer, theta, gradient, power, steps):
    """Adam's or RMSprop's recursion without noise but with E ĝ² = `power`(g)."""
    m, v, weights = 0.0, float(getattr(optimizer, "initial", 0.0)), [0.0, 0.0]
    adam = isinstance(optimizer, ss.Adam)
    b1 = float(optimizer.beta1) if adam else 0.0
    b2 = float(optimizer.beta2) if adam else float(optimizer.beta)
    for _ in range(steps):
        g = gradient(theta)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * power(g)
        weights = [b1 * weights[0] + 1 - b1, b2 * weights[1] + 1 - b2]
        first, second = (m / weights[0], v / weights[1]) if adam else (m, v)
        rate, eps = optimizer.learning_rate.constant(), float(optimizer.epsilon)
        theta = theta - rate * first / (np.sqrt(second) + eps)
    return theta


OPTIMIZERS = (ss.Adam(0.02, 0.8, 0.9, 1e-3), ss.RMSprop(0.02, 0.9, 1e-3, 0.3))
IDS = ("adam", "rmsprop")


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=IDS)
def test_full_batch_is_optax(optimizer):
    """Without noise and at one substep the equation is the optimiser, here optax's."""
    land = ss.quadratic([[1.5]], [[0.0]])
    options = {"num_steps": 25, "ensemble_size": 1, "key": jr.key(0), **PLAIN}
    sde = ss.AdaptiveEquation(land, optimizer, ss.ConstantNoise(np.zeros((1, 1))), substeps=1)
    discrete = ss.OptaxSGD(land, optimizer, ss.WithReplacement(1))
    found = [ss.simulate(p, jnp.ones(1), **options) for p in (sde, discrete)]
    assert found[0].time == pytest.approx(25 * 0.02**2) == found[1].time
    own = hand(optimizer, 1.0, lambda x: 1.5 * x, lambda g: g**2, 25)
    for run in found:
        np.testing.assert_allclose(np.asarray(run.positions)[0, 0], own, rtol=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=IDS)
def test_second_moment_of_the_equation(optimizer):
    """dv has diag C + (∇L)², or diag C alone: mean motion on a flat direction of noise."""
    kind = type(optimizer)
    fields = [float(x) for x in jax.tree.leaves(optimizer)]
    land, tiny = ss.quadratic([[1.5]], [[1.0]]), 4.0
    for dominated in (False, True):
        own = kind(*fields, noise_dominated=dominated)
        gone = hand(
            own, 1.0, lambda x: 1.5 * x, lambda g, d=dominated: tiny + (0 if d else g**2), 9
        )
        theta, memory = jnp.ones(1), own.init(jnp.ones(1))
        noise = ss.ConstantNoise(np.array([[tiny]]))
        for _ in range(9):
            u, memory = own.direction(theta, memory, jnp.zeros(1), 1.0, land, noise)
            theta = theta - 0.02 * u
        assert float(theta[0]) == pytest.approx(gone, rel=1e-12)


def test_substeps_without_noise_by_hand():
    """Steps of h = ¼: v ← v + h(1−β)(C + g² − v), θ ← θ − ηhg/(√v + ε); Adam's m and γ alike, their
    ratio taken (1 − h)(1 − γ)/2 of the step before its end."""
    h, eta, c = 0.25, 0.3, 0.5
    land, noise = ss.quadratic([[1.5]], [[c]]), ss.ConstantNoise(np.array([[c]]))
    x, v = 1.0, 0.2
    y, m, u, one, two = 1.0, 0.0, 0.0, 0.0, 0.0
    for _ in range(4):
        g = 1.5 * x
        v = v + h * 0.4 * (c + g**2 - v)
        x = x - eta * h * g / (np.sqrt(v) + 1e-3)
        g, before = 1.5 * y, np.array([m, one])
        m, one = m + h * 0.5 * (g - m), one + h * 0.5 * (1 - one)
        u, two = u + h * 0.2 * (c + g**2 - u), two + h * 0.2 * (1 - two)
        early = 0.375 * (1 - before[1])
        middle = early * before + (1 - early) * np.array([m, one])
        y = y - eta * h * (middle[0] / middle[1]) / (np.sqrt(u / two) + 1e-3)
    for exact, optimizer in (
        (x, ss.RMSprop(eta, 0.6, 1e-3, 0.2)),
        (y, ss.Adam(eta, 0.5, 0.8, 1e-3)),
    ):

        def four(theta, own=optimizer):
            memory = own.init(theta)
            for _ in range(4):
                u, memory = own.direction(theta, memory, jnp.zeros(1), h, land, noise)
                theta = theta - eta * h * u
            return theta

        assert call(four, jnp.ones(1))[0] == pytest.approx(exact, rel=1e-12)


def linear_variance(optimizer, h, c, step, count):
    """Var θ on ½hθ² with constant C, `noise_dominated`: v is then not random, θ and m linear."""
    cov, mean = np.zeros((2, 2)), np.array([1.0, 0.0])
    v, weights = float(getattr(optimizer, "initial", 0.0)), [0.0, 0.0]
    adam = isinstance(optimizer, ss.Adam)
    slow = step * (1 - float(optimizer.beta1)) if adam else 1.0
    slower = step * (1 - float(optimizer.beta2 if adam else optimizer.beta))
    eta, eps = optimizer.learning_rate.constant(), float(optimizer.epsilon)
    for _ in range(count):
        v, before = v + slower * (c - v), weights[0]
        weights = [w + s * (1 - w) for w, s in zip(weights, (slow, slower), strict=True)]
        late = 1 - (1 - step) * (1 - before) / 2 if adam else 1.0  # where in a step m/γ is taken
        first = late * weights[0] + (1 - late) * before if adam else 1.0
        scale = eta * step / first / (np.sqrt(v / (weights[1] if adam else 1.0)) + eps)
        row = np.array([slow * h, 1 - slow])
        taken = late * row + (1 - late) * np.array([0.0, 1.0])
        chain = np.vstack([np.array([1.0, 0.0]) - scale * taken, row])
        kick = np.array([-scale * late, 1.0]) * slow * np.sqrt(c / step)
        mean, cov = chain @ mean, chain @ cov @ chain.T + np.outer(kick, kick)
    return mean[0], cov[0, 0]


DOMINATED = (
    ss.Adam(0.1, 0.8, 0.9, 1e-3, noise_dominated=True),
    ss.RMSprop(0.1, 0.9, 1e-3, 0.5, noise_dominated=True),
)


@functools.cache
def dominated(index):
    sde = ss.AdaptiveEquation(
        ss.quadratic([[1.5]], [[1.0]]), DOMINATED[index], ss.ConstantNoise(np.ones((1, 1))), 2
    )
    run = ss.simulate(sde, jnp.ones(1), num_steps=12, ensemble_size=2**15, key=jr.key(5), **PLAIN)
    return np.asarray(run.positions)[:, 0]


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_noise_of_the_equation(index):
    """Mean and variance of a run at its step are those of the linear recursion; √2 noise fails."""
    mean, variance = linear_variance(DOMINATED[index], 1.5, 1.0, 0.5, 24)
    x = dominated(index)
    assert ss.compare(ss.Estimate.from_samples(x), mean).verdict == "agrees"
    spread = ss.Estimate.from_samples((x - mean) ** 2)
    assert ss.compare(spread, variance).verdict == "agrees"
    assert ss.compare(spread, 2 * variance).verdict == "disagrees"


@pytest.mark.parametrize("optimizer", DOMINATED, ids=IDS)
def test_square_root_rule_keeps_the_equation(optimizer):
    """C → C/κ under the rule: the mean and variance at equal η²k are equal as the step → 0."""
    kappa, gaps = 4, {}
    scaled = ss.processes.square_root_scaling(optimizer, kappa)
    for name, own in (("rule", scaled), ("linear", linear_scaled(optimizer, kappa))):
        values = []
        for steps in (64, 128):
            base = linear_variance(optimizer, 1.5, 1.0, 1 / steps, 12 * steps)
            fine = linear_variance(own, 1.5, 1 / kappa, 1 / steps, 12 * steps // kappa)
            values.append(np.array(fine) / np.array(base) - 1)
        gaps[name] = np.abs(2 * values[1] - values[0]).max()
    assert gaps["rule"] < 2e-3 < 0.2 < gaps["linear"]


def linear_scaled(optimizer, kappa):
    """η → κη with the memories of the square-root rule, the control."""
    own = ss.processes.square_root_scaling(optimizer, kappa)
    fields = [float(x) for x in jax.tree.leaves(own)]
    rate = kappa * optimizer.learning_rate.constant()
    return type(own)(rate, *fields[1:], noise_dominated=True)


def test_rules_by_their_numbers():
    """κ = 4: η_k → 2η_{4k}, 1−β → 4(1−β), ε → ε/2, λ → 2λ; η → κη, B → κB for SGD."""
    adam = ss.processes.square_root_scaling(ss.Adam(0.01, 0.95, 0.99, 1e-6, 0.3), 4)
    numbers = [float(x) for x in jax.tree.leaves(adam)]
    assert numbers == pytest.approx([0.02, 0.8, 0.96, 5e-7, 0.6])
    sign = ss.processes.square_root_scaling(ss.SignSGD(0.01), 9)
    assert sign.learning_rate.constant() == pytest.approx(0.03)
    falling = ss.processes.square_root_scaling(ss.RMSprop(lambda k: 0.1 / (1 + k)), 4).learning_rate
    assert float(falling.at(3, jnp.float64)) == pytest.approx(0.2 / 13)
    assert ss.processes.linear_scaling(0.1, 8, 4) == (0.4, 32)
    assert ss.processes.linear_scaling(0.1, 8, 0.5) == (0.05, 4)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: ss.processes.square_root_scaling(ss.Adam(0.01), 16),
            "-0.6 is negative.*beta1 ≥ 0.9375",
        ),
        (lambda: ss.processes.square_root_scaling(ss.RMSprop(0.01, 0.5), 4), "κ ≤ 2"),
        (lambda: ss.processes.square_root_scaling(ss.Adam(0.01), -1.0), "kappa must be"),
        (lambda: ss.processes.linear_scaling(0.1, 8, 0.3), "no whole number"),
        (lambda: ss.processes.linear_scaling(0.1, 8, 4, num_examples=20), "ends at kappa = 2.5"),
        (lambda: ss.Adam(0.01, beta1=1.0), r"beta1 must be a number in \[0, 1\)"),
        (lambda: ss.SignSGD(0.0), "learning_rate must be"),
        (lambda: ss.RMSprop(0.1, epsilon=-1.0), "epsilon must be"),
    ],
)
def test_bad_numbers(call, words):
    """One clear error each."""
    with pytest.raises(ValueError, match=words):
        call()


def test_unknown_optimiser():
    """An optimiser whose SDE is not known: the error says which are."""
    land, noise = ss.quadratic([[1.0]], [[1.0]]), ss.ConstantNoise(np.ones((1, 1)))
    with pytest.raises(ValueError, match="not known. Known are those of ss.Adam, ss.RMSprop"):
        ss.AdaptiveEquation(land, optax.adagrad(0.1), noise)
    with pytest.raises(ValueError, match=r"is for ss.Adam.*ss.processes.linear_scaling"):
        ss.processes.square_root_scaling(optax.sgd(0.1), 4)
