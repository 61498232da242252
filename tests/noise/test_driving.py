"""Driving processes: laws of increments, and of the linear equations that they drive."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from scipy.special import gamma

import sde_sgd as ss
from sde_sgd.theory.stationary import (
    driven_covariance,
    fractional_ornstein_uhlenbeck_variance,
    stationary_scale_stable,
)

SIGMAS = 4.4  # Two-sided normal at 1e-5.


def equation(hess, noise, driving, eta, substeps=1):
    """dθ = −ηHθ ds + η S^{1/2} dZ_s, by Euler's steps."""
    landscape, model = ss.quadratic(hess, np.eye(len(hess))), ss.ConstantNoise(np.array(noise))
    return ss.DrivenEquation(landscape, eta, model, driving, substeps)


def spread(driving, times):
    """Var Z(s) of coloured noise, from the definition: Y stationary, one W."""
    rates, weights = np.array(driving.rates), np.array(driving.weights)
    total = rates[:, None] + rates[None, :]
    found = []
    for s in times:
        loss = -np.expm1(-rates * s)
        pairs = (loss[:, None] + loss[None, :]) / total
        white = driving.white**2 * s + 2 * driving.white * weights @ (loss / rates)
        found.append(white + weights @ pairs @ weights)
    return np.array(found)


@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.45, 0.5, 0.55, 0.7, 0.9])
def test_fractional_brownian_motion(hurst):
    """E Z(s)² = s^{2H} over four decades to 1 %; that of 1 − H is another."""
    times = 10.0 ** np.arange(-2, 2)
    # The ends that leave (fastest·s)^{−2H} and (slowest·s)^{2−2H} below 1 % at every s.
    fastest, slowest = (1e16 if hurst < 0.2 else 1e6), (1e-14 if hurst > 0.8 else 1e-6)
    driving = ss.noise.fractional_noise(hurst, 80, slowest=slowest, fastest=fastest)
    np.testing.assert_allclose(spread(driving, times), times ** (2 * hurst), rtol=0.01)
    if hurst != 0.5:
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(spread(driving, times), times ** (2 - 2 * hurst), rtol=0.01)


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7])
def test_fractional_ornstein_uhlenbeck(hurst):
    """σ²Γ(2H+1)/(2λ^{2H}) within 1 % at 48 states, worse with few; H and 1 − H exchanged fail."""
    eta, h, noise = 0.1, 0.5, 4.0
    exact = fractional_ornstein_uhlenbeck_variance(eta * h, eta * 2.0, hurst)
    assert exact == pytest.approx(eta**2 * noise * gamma(2 * hurst + 1) / (2 * 0.05 ** (2 * hurst)))

    def error(states, index=hurst):
        driving = ss.noise.fractional_noise(index, states)
        found = driven_covariance(equation([[h]], [[noise]], driving, eta).limit())
        return abs(found[0, 0] / exact - 1)

    assert error(48) < 0.002
    if hurst != 0.5:
        assert error(4) > 0.01 > error(24)
        assert error(48, 1 - hurst) > 0.3


COLOURED = ss.noise.ColouredNoise([0.3, 2.0], [0.7, -1.4], 0.5)


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_lyapunov_of_the_augmented_system(step):
    """Substitution agrees with a dense Lyapunov solver for (θ₁, θ₂, Y₁, Y₂), d = 2 rotated."""
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    hess = turn @ np.diag([1.0, 3.0]) @ turn.T
    root = np.array([[1.0, 0.0], [0.6, 0.8]])
    eta = 0.2
    rates, weights = np.array(COLOURED.rates), np.array(COLOURED.weights)
    # One Z for each column of the root; each has its own two states.
    drift = np.zeros((6, 6))
    drift[:2, :2] = -eta * hess
    inject = np.zeros((6, 2))
    for j in range(2):
        states = slice(2 + 2 * j, 4 + 2 * j)
        drift[:2, states] = -eta * np.outer(root[:, j], weights * rates)
        drift[states, states] = -np.diag(rates)
        inject[:2, j] = eta * root[:, j] * (COLOURED.white + weights.sum())
        inject[states, j] = 1.0
    if step == 0:
        exact = solve_continuous_lyapunov(drift, -inject @ inject.T)[:2, :2]
    else:
        move, noise = np.eye(6), np.zeros((6, 6))
        move[:2, :2] -= step * eta * hess
        loss = -np.expm1(-rates * step)
        total = rates[:, None] + rates[None, :]
        joint = np.zeros((3, 3))
        joint[:2, :2] = -np.expm1(-total * step) / total
        joint[:2, 2] = joint[2, :2] = loss / rates
        joint[2, 2] = step
        for j in range(2):
            states = slice(2 + 2 * j, 4 + 2 * j)
            move[:2, states] = -eta * np.outer(root[:, j], weights * loss)
            move[states, states] = np.diag(1 - loss)
            read = np.zeros((6, 3))
            read[:2] = eta * np.outer(root[:, j], [*weights, COLOURED.white])
            read[states, :2] = np.eye(2)
            noise += read @ joint @ read.T
        exact = solve_discrete_lyapunov(move, noise)[:2, :2]
    process = equation(hess, root @ root.T, COLOURED, eta, substeps=2)
    found = driven_covariance(process if step else process.limit())
    np.testing.assert_allclose(found, exact, rtol=1e-10)


def test_white_noise_in_theory():
    """With Brownian motion the covariance is that of `linear_covariance`."""
    hess, noise = np.diag([1.0, 2.0]), np.array([[1.0, 0.3], [0.3, 0.5]])
    for substeps in (1, 4):
        found = driven_covariance(equation(hess, noise, ss.noise.WhiteNoise(), 0.3, substeps))
        exact = ss.theory.stationary.linear_covariance(
            hess, noise, learning_rate=0.3, time_step=0.3 / substeps
        )
        np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_epochs_are_matched_where_the_curvature_is_small():
    """η²s²(M+1)/6 as ηhM → 0: within 1 % at .002; white noise is off by a factor."""
    for batches in (2, 20):
        exact = ss.theory.stationary.epoch_covariance(
            [[1e-3]], [[1.0]], learning_rate=0.1, batches_per_epoch=batches
        ).average[0, 0]
        driving = ss.noise.epoch_noise(batches)
        found = driven_covariance(equation([[1e-3]], [[1.0]], driving, 0.1).limit())[0, 0]
        assert found == pytest.approx(exact, rel=0.01)
        assert 100 * exact < 0.1 / (2 * 1e-3)


def draws(members, iteration=0):
    return ss.Draws.create(jr.key(4), jnp.arange(members, dtype=jnp.uint32), iteration)


def increments(driving, members, step, count):
    """ΔZ of `count` steps, (count, members, 2)."""

    def member(identity):
        own = ss.Draws.create(jr.key(4), identity, 0)
        memory, moves = driving.init(own, 2, jnp.float64), []
        for k in range(count):
            memory, move = driving.increment(memory, own.at(iteration=k), 2, step, jnp.float64)
            moves.append(move)
        return jnp.stack(moves)

    found = jax.jit(jax.vmap(member))(jnp.arange(members, dtype=jnp.uint32))
    return np.swapaxes(np.asarray(found), 0, 1)


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_simulated_increments(hurst):
    """Cov(ΔZ_0, ΔZ_k) = ½(|k+1|^{2H} − 2k^{2H} + |k−1|^{2H}) h^{2H}, components independent."""
    step, members = 0.5, 100_000
    found = increments(ss.noise.fractional_noise(hurst), members, step, 3)
    k = np.arange(3)
    exact = 0.5 * (abs(k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + abs(k - 1) ** (2 * hurst))
    for lag in range(3):
        product = ss.Estimate.from_samples((found[0] * found[lag]).mean(axis=1))
        assert (
            abs(product.value - exact[lag] * step ** (2 * hurst)) < SIGMAS * product.standard_error
        )
        mixed = ss.Estimate.from_samples(found[0, :, 0] * found[lag, :, 1])
        assert abs(mixed.value) < SIGMAS * mixed.standard_error
    wrong = step ** (2 - 2 * hurst)  # Control: H and 1 − H exchanged.
    variance = ss.Estimate.from_samples((found[0] ** 2).mean(axis=1))
    assert abs(variance.value - wrong) > SIGMAS * variance.standard_error


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
def test_stable_characteristic_function(alpha):
    """E cos(uΔZ) = exp(−|σu|^α h) at five u, E sin = 0; the α next to it fails."""
    scale, step = 0.7, 0.25
    found = increments(ss.noise.StableNoise(alpha, scale), 100_000, step, 1)[0]
    frequencies = np.array([0.3, 1.0, 2.0, 4.0, 9.0])
    phase = found[:, :, None] * frequencies
    even = ss.Estimate.from_samples(np.cos(phase).mean(axis=1))
    odd = ss.Estimate.from_samples(np.sin(phase).mean(axis=1))
    exact = np.exp(-((scale * frequencies) ** alpha) * step)
    assert (np.abs(even.value - exact) < SIGMAS * even.standard_error).all()
    assert (np.abs(odd.value) < SIGMAS * odd.standard_error).all()
    other = np.exp(-((scale * frequencies) ** (alpha - 0.1)) * step)
    assert (np.abs(even.value - other) > SIGMAS * even.standard_error).any()
    if alpha == 2:
        assert found.var() == pytest.approx(2 * scale**2 * step, rel=0.02)


def run(process, measures, steps=60, members=8192, record=None):
    return ss.simulate(
        process,
        jnp.zeros(process.landscape.dimension),
        num_steps=steps,
        ensemble_size=members,
        key=jr.key(6),
        measures=measures,
        record_every=record,
    )


@pytest.mark.parametrize(
    "noise", [ss.MinibatchNoise(ss.WithReplacement(4)), ss.ConstantNoise(jnp.eye(2) + 0.3)]
)
def test_white_noise_is_the_modified_equation(noise):
    """Number for number: bit for bit where drift and noise are one product, else to 1e-12."""
    rng = np.random.default_rng(0)
    landscape = ss.LeastSquares(rng.normal(size=(10, 2)), rng.normal(size=10))
    driven = ss.DrivenEquation(landscape, 0.2, noise, ss.noise.WhiteNoise(), substeps=3)
    equation = ss.ModifiedEquation(landscape, 0.2, noise, substeps=3)
    runs = [run(p, {}, 20, 8, record=1) for p in (driven, equation)]
    one, two = (r.records[1] for r in runs if r.records is not None)
    np.testing.assert_allclose(one, two, rtol=0, atol=0 if noise.fused else 1e-12)
    assert np.abs(one[-1]).min() > 0


@pytest.mark.parametrize("name", ["H = .3", "H = .7", "epochs"])
def test_simulated_stationary_variance(name):
    """Variance of θ at Euler's step against the exact one; Brownian motion has another."""
    driving = {
        "H = .3": ss.noise.fractional_noise(0.3),
        "H = .7": ss.noise.fractional_noise(0.7),
        "epochs": ss.noise.epoch_noise(10),
    }[name]
    noise, eta = ss.ConstantNoise([[2.0]]), 0.5
    process = ss.DrivenEquation(ss.quadratic([[1.0]], 1.0), eta, noise, driving, substeps=2)
    found = run(process, {"m": ss.Moments(burn_in=30, covariance="diagonal")})["m"].variance
    exact, white = (
        driven_covariance(equation([[1.0]], [[2.0]], d, eta, substeps=2))[0]
        for d in (driving, ss.noise.WhiteNoise())
    )
    # H = .7 forgets its start as s^{2H−2}; 30 iterations at rate ½ leave e^{−15} of it in θ.
    assert ss.compare(found, exact).verdict == "agrees"
    assert ss.compare(found, white).verdict == "disagrees"


def test_stable_stationary_law():
    """E cos(uθ) = exp(−|su|^α) with s^α = (σA)^α h/(1 − (1−λh)^α): sums of stable numbers."""
    driving, eta = ss.noise.StableNoise(1.5), 0.5
    noise = ss.ConstantNoise([[2.0]])
    process = ss.DrivenEquation(ss.quadratic([[1.0]], 1.0), eta, noise, driving, substeps=2)
    theta = run(process, {"end": ss.Snapshots([40])}, 40, 32768)["end"].values[0, :, 0]
    exact, limit = stationary_scale_stable(process), stationary_scale_stable(process.limit())
    for u in (0.5, 1.0, 2.0):
        measured = ss.Estimate.from_samples(np.cos(u * theta))
        assert (
            abs(measured.value - np.exp(-((exact * u) ** 1.5))) < SIGMAS * measured.standard_error
        )
    measured = ss.Estimate.from_samples(np.cos(theta))
    assert abs(measured.value - np.exp(-(limit**1.5))) > SIGMAS * measured.standard_error
    near = stationary_scale_stable(equation([[1.0]], [[2.0]], driving, eta, substeps=10**7))
    assert near == pytest.approx(limit, rel=1e-6)


QUADRATIC = ss.quadratic([[1.0]], 1.0)
BAD = {
    "between 0 and 1": lambda: ss.noise.fractional_noise(1.0),
    "between 0 and 1; got 0": lambda: ss.noise.fractional_noise(0.0),
    "num_states": lambda: ss.noise.fractional_noise(0.3, 0),
    "fastest must be a finite number > 1": lambda: ss.noise.fractional_noise(
        0.3, slowest=1.0, fastest=0.1
    ),
    r"in \(0, 2\]": lambda: ss.noise.StableNoise(2.1),
    "index must be a finite number > 0": lambda: ss.noise.StableNoise(0.0),
    "scale": lambda: ss.noise.StableNoise(1.0, 0.0),
    "one weight for each rate": lambda: ss.noise.ColouredNoise([1.0, 2.0], [1.0]),
    "> 0, per iteration": lambda: ss.noise.ColouredNoise([0.0], [1.0]),
    "batches_per_epoch": lambda: ss.noise.epoch_noise(1),
    "rougher than Brownian": lambda: ss.DrivenEquation(
        QUADRATIC, 0.1, ss.MinibatchNoise(ss.WithReplacement(1)), ss.noise.fractional_noise(0.3)
    ),
    "no covariance to predict": lambda: driven_covariance(
        equation([[1.0]], [[1.0]], ss.noise.StableNoise(1.5), 0.1)
    ),
    "must be < 2": lambda: stationary_scale_stable(
        equation([[3.0]], [[1.0]], ss.noise.StableNoise(1.5), 1.0)
    ),
    "more substeps": lambda: driven_covariance(
        equation([[30.0]], [[1.0]], ss.noise.WhiteNoise(), 0.1)
    ),
    "positive definite": lambda: driven_covariance(
        equation([[-1.0]], [[1.0]], ss.noise.WhiteNoise(), 0.1)
    ),
    "known for StableNoise in one dimension; got WhiteNoise": lambda: stationary_scale_stable(
        equation([[1.0]], [[1.0]], ss.noise.WhiteNoise(), 0.1)
    ),
    "not driven by a process of its own choice": lambda: driven_covariance(
        ss.SGD(QUADRATIC, 0.1, ss.WithReplacement(1))
    ),
    "depends on θ: hold it": lambda: driven_covariance(
        ss.DrivenEquation(
            ss.landscapes.PopulationLeastSquares([[1.0]], 1.0),
            0.1,
            ss.MinibatchNoise(ss.WithReplacement(1)),
            ss.noise.fractional_noise(0.7),
        )
    ),
}


@pytest.mark.parametrize("match", BAD)
def test_refuses(match):
    """Indices outside (0, 1) and (0, 2], bad rates, rough noise that depends on θ."""
    with pytest.raises(ValueError, match=match):
        BAD[match]()
