"""Rates and committors by splitting against the kernel equation of the same chain."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy import stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
BARRIER = 1.1


def first(theta):
    return theta[0]


def nodes(low, high, count):
    x, w = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (x + 1) / 2, w * (high - low) / 2


def kernel_mean(step, scale, low, start, count=120):
    """τ(start) of (I − P)τ = 1 on (low, b), x ← x + step(x) + scale·ξ, in steps."""
    x, w = nodes(low, BARRIER, count)

    def row(at):
        at = np.asarray(at)[..., None]
        return stats.norm.pdf(x, at + step(at), scale) * w

    tau = np.linalg.solve(np.eye(count) - row(x), np.ones(count))
    return 1 + row(np.array(start)) @ tau


def kernel_committor(step, scale, low, high, start, count):
    """q(start) of q = P q + P(· → ≥ high) on (low, high)."""
    x, w = nodes(low, high, count)

    def row(at):
        at = np.asarray(at)[..., None]
        return stats.norm.pdf(x, at + step(at), scale) * w

    def out(at):
        return stats.norm.sf(high, at + step(at), scale)

    q = np.linalg.solve(np.eye(count) - row(x), out(x))
    return row(np.array(start)) @ q + out(np.array(start))


def agrees(estimate, value):
    return ss.compare(estimate, value, failure_rate=FAILURE_RATE).verdict == "agrees"


def escape(process, **options):
    """Out of the parabola's bottom, A = {x ≤ 0}, over x = 0.4, to x ≥ b."""
    given = dict(level=first, origin=0.0, surface=0.4, target=BARRIER, key=jr.key(1))
    given |= dict(num_replicas=64, num_repetitions=64, num_levels=20)
    return ss.splitting(process, jnp.zeros(1), **(given | options))


def parabola(x):
    return -x


def test_mean_time_of_gaussian_sgd():
    """E[loop]/p is τ(0) of the kernel equation, also where p is not small: z < 4.3."""
    eta, noise = 0.4, 1.2
    landscape = ss.quadratic(1.0, noise)
    matrix = ss.ConstantNoise(np.array([[noise]]))
    exact = kernel_mean(lambda x: eta * parabola(x), eta * np.sqrt(noise), -5.0, 0.0)
    found = escape(ss.GaussianSGD(landscape, eta, matrix))
    assert found.probability.value > 0.03
    assert agrees(found.mean_time, exact) and agrees(found.rate, 1 / exact)
    assert found.mean_time.standard_error < 0.05 * exact
    np.testing.assert_allclose(found.mean_time_t.value, eta * found.mean_time.value)
    np.testing.assert_allclose(found.rate_t.value, found.rate.value / eta)
    # Controls: iterations taken for t, loops not counted, one loop too few.
    inverse = 1 / found.probability.value
    assert not agrees(found.mean_time_t, exact)
    assert not agrees(found.mean_time, inverse)
    assert not agrees(found.mean_time, found.cycle_time.value * (inverse - 1))


def test_mean_time_of_euler_at_its_step():
    """An SDE with 4 substeps, watched at each: τ(0) of the kernel at h = η/4, z < 4.3."""
    eta, noise, substeps = 0.8, 0.5, 4
    h = eta / substeps
    matrix = ss.ConstantNoise(np.array([[noise]]))
    process = ss.ModifiedEquation(ss.quadratic(1.0, noise), eta, matrix, substeps=substeps)
    exact = kernel_mean(lambda x: h * parabola(x), np.sqrt(eta * noise * h), -5.0, 0.0) / substeps
    coarse = kernel_mean(lambda x: eta * parabola(x), eta * np.sqrt(noise), -5.0, 0.0)
    found = escape(process)
    assert agrees(found.mean_time, exact)
    # Control: the kernel at the iterations alone.
    assert not agrees(found.mean_time, coarse)


def well(x):
    return x - x**3


def committor(process, **options):
    given = dict(level=first, origin=-0.9, target=0.9, num_levels=60, key=jr.key(2))
    given |= dict(num_replicas=128, num_repetitions=24)
    return ss.splitting(process, jnp.array([-0.8]), **(given | options))


@functools.cache
def exact_committor(h, diffusion, count=160):
    scale = np.sqrt(2 * diffusion * h)
    return kernel_committor(lambda x: h * well(x), scale, -0.9, 0.9, -0.8, count)


def test_the_kernel_tends_to_the_committor_of_the_equation():
    """q(−.8) → 1.7163e-3 (D = .05), 2.5633e-5 (.025) as h → 0: a series in √h."""
    for diffusion, limit in ((0.05, 1.7163e-3), (0.025, 2.5633e-5)):
        coarse, middle, fine = (
            exact_committor(h, diffusion, count)
            for h, count in ((0.01, 150), (0.0025, 300), (0.000625, 600))
        )
        np.testing.assert_allclose((8 * fine - 6 * middle + coarse) / 3, limit, rtol=1e-4)
        np.testing.assert_allclose(coarse, exact_committor(0.01, diffusion), rtol=1e-8)


def test_committors_of_sgd_and_sde():
    """q(−.8) of Gaussian SGD (η = .1) and of Euler (h = .02), at D = .05 and .025: z < 4.3."""
    eta = 0.1
    for diffusion in (0.05, 0.025):
        noise = 2 * diffusion / eta
        landscape = ss.double_well(noise)
        matrix = ss.ConstantNoise(np.array([[noise]]))
        sgd = committor(ss.GaussianSGD(landscape, eta, matrix))
        sde = committor(ss.ModifiedEquation(landscape, eta, matrix, substeps=5))
        for found, h in ((sgd, eta), (sde, eta / 5)):
            assert agrees(found.probability, exact_committor(h, diffusion))
            assert found.probability.standard_error < 0.1 * found.probability.value
        # Control: diffusion off by 2.
        assert not agrees(sgd.probability, exact_committor(eta, 2 * diffusion))


def test_momentum_and_real_batches_against_direct_simulation():
    """Heavy-ball SGD with two-point gradients: splitting's rate and first passage with refill."""
    process = ss.SGD(ss.double_well(0.6), 0.1, ss.WithReplacement(1), momentum=0.5)
    options = dict(origin=-0.7, surface=-0.5, target=0.7, num_repetitions=32, num_levels=40)
    found = ss.splitting(process, jnp.array([-1.0]), level=first, key=jr.key(3), **options)
    run = ss.simulate(
        process,
        jnp.array([-1.0]),
        num_steps=4000,
        ensemble_size=1024,
        key=jr.key(4),
        measures={"exit": ss.FirstPassage(lambda x: x[0] >= 0.7)},
        refill=True,
    )
    direct = run["exit"].rate
    assert 1e-5 < direct.value < 1e-2
    assert agrees(found.rate, direct)
    assert found.rate.standard_error < 0.1 * found.rate.value
