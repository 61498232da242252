"""Exponents of escape: closed forms for two-point noise, enumeration, exact times at small η."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.escape import mean_exit_time, quasi_potential

ONE = ss.WithReplacement(1)
WELL = ss.double_well(0.36)


def process(landscape, noise):
    """SGD of a sampling scheme, the SDE of a noise model; η = .1 leaves no trace in W."""
    if isinstance(noise, ss.AbstractSampling):
        return ss.SGD(landscape, 0.1, noise)
    return ss.ModifiedEquation(landscape, 0.1, noise).limit()


def barrier(landscape, noise, start=-1.0, end=1.0):
    return quasi_potential(process(landscape, noise), start, end).barrier


def test_one_exponent_of_gaussian_steps_and_their_limit():
    """W of Gaussian SGD, of Euler and of the SDE is ∫ 2V'/C; of a slowed one (1−μ) times that."""
    noise = ss.MinibatchNoise(ONE)
    sde = ss.ModifiedEquation(WELL, 0.1, noise)
    slow = ss.OverdampedEquation(WELL, 0.1, noise, 0.4)
    for own, factor in (
        (sde, 1),
        (sde.limit(), 1),
        (ss.GaussianSGD(WELL, 0.1, noise), 1),
        (slow, 0.6),
    ):
        found = quasi_potential(own, -1.0, 0.0).barrier
        assert found == pytest.approx(factor * 0.5 / 0.36, rel=1e-12)
    with pytest.raises(ValueError, match="use momentum=0"):
        quasi_potential(ss.SGD(WELL, 0.1, ONE, momentum=0.5), -1.0, 0.0)


def test_gaussian():
    """W = ∫ 2V'/C = 2·¼/.36 = 1.3889, to the saddle or beyond; nothing downhill."""
    noise = ss.MinibatchNoise(ONE)
    assert barrier(WELL, noise) == pytest.approx(0.5 / 0.36, rel=1e-12)
    assert barrier(WELL, noise, end=0.0) == pytest.approx(0.5 / 0.36, rel=1e-12)
    assert barrier(WELL, noise, start=0.0) == 0.0
    asymmetric = ss.double_well(0.36, asymmetry=0.3)
    height = lambda x: (x**2 - 1) ** 2 / 4 + 0.3 * (x**3 / 3 - x)  # noqa: E731
    for side in (-1.0, 1.0):
        exact = 2 * (height(-0.3) - height(side)) / 0.36
        assert barrier(asymmetric, noise, start=side, end=-side) == pytest.approx(exact, rel=1e-12)


def test_two_point():
    """cosh(pσ) = e^{pV'}: W = 1.7713, not 1.3889."""

    def slope(x):
        force = x**3 - x
        if force < 1e-9:
            return 2 * force / 0.36
        return brentq(lambda p: np.logaddexp(0.6 * p, -0.6 * p) - np.log(2) - p * force, 1e-8, 60)

    exact = quad(slope, -1, 0, epsabs=1e-10)[0]
    found = quasi_potential(process(WELL, ONE), -1.0, 1.0)
    assert found.barrier == pytest.approx(1.7713, abs=5e-5)
    assert found.barrier == pytest.approx(exact, rel=1e-8)
    assert found.blocked_at is None
    np.testing.assert_allclose(found.slopes[::20], [slope(x) for x in found.positions[::20]])


@pytest.mark.parametrize("scale", [1e-13, 1e13])
def test_scale_of_the_loss(scale):
    """log E e^{−pĝ} = 0 for s·L has the root p/s: W = 1.77128504/s."""
    landscape = ss.Potential(
        lambda x: scale * (x[0] ** 2 - 1) ** 2 / 4, tilts=scale * jnp.array([[0.6], [-0.6]])
    )
    assert barrier(landscape, ONE) * scale == pytest.approx(1.77128504, rel=1e-7)


def test_batches_of_fixed_variance_become_gaussian():
    """B examples of variance .36 B: W → 1.3889 as 1/B; B of variance .36 multiply W by B."""
    gap = [barrier(ss.double_well(0.36 * b), ss.WithReplacement(b)) - 0.5 / 0.36 for b in (8, 32)]
    assert gap[0] / gap[1] == pytest.approx(4, rel=0.05)
    assert barrier(WELL, ss.WithReplacement(3)) == pytest.approx(3 * 1.77128504, rel=1e-7)


def test_exponent_of_exact_times():
    """η log τ → W: exact two-point times have the slope 1.7713 in 1/η, the SDE's 1.3889."""
    etas = np.array([0.25, 0.16])
    times = [
        mean_exit_time(ss.SGD(WELL, e, ONE), start=-1.0, exits=1.0, cells=700) / e for e in etas
    ]
    slope = np.diff(np.log(times))[0] / np.diff(1 / etas)[0]
    # τ·η tends to a constant times e^{W/η}: its factor 1/η is taken out.
    slope -= np.diff(np.log(1 / etas))[0] / np.diff(1 / etas)[0]
    assert slope == pytest.approx(1.7713, rel=0.03)
    sde = [float(mean_exit_time(Diffusion(lambda x: x - x**3, e * 0.18), -1.0, 1.0)) for e in etas]
    assert np.diff(np.log(sde))[0] / np.diff(1 / etas)[0] == pytest.approx(1.3889, rel=0.05)


def test_never_leaves():
    """σ < max|V'|: W = ∞, blocked where V' = σ; and where the noise C ∝ V'' vanishes."""
    found = quasi_potential(process(ss.double_well(0.14), ONE), -1.0, 1.0)
    assert np.isinf(found.barrier)
    # The stretch begins at the smaller root of x³ − x = σ with x < 0.
    edge = np.sort(np.roots([1, 0, -1, -np.sqrt(0.14)]).real)[0]
    assert 0 <= found.blocked_at - edge < 0.02
    assert np.isfinite(barrier(ss.double_well(0.16), ONE))
    # Σ ∝ H⁺ has no noise beyond the inflexion −1/√3, where the barrier still rises.
    curved = quasi_potential(process(WELL, ss.HessianNoise(1.0)), -1.0, 1.0)
    assert np.isinf(curved.barrier)
    assert curved.blocked_at == pytest.approx(-1 / np.sqrt(3), abs=0.01)


SAMPLINGS = [ss.WithReplacement(3), ss.WithoutReplacement(3), ss.WithoutReplacement(5)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_cumulants_by_enumeration(sampling):
    """log E e^{pĝ} over all batches of N = 5, and the most extreme batch."""
    tilts = np.array([-2.0, -0.7, 0.1, 0.9, 1.7])
    landscape = ss.Potential(lambda x: 0.5 * x[0] ** 2, tilts=jnp.asarray(tilts)[:, None])
    law = ss.SGD(landscape, 1.0, sampling).law().jumps()
    points, p = np.array([0.3, -0.4, 1.0]), np.array([0.8, -25.0, 400.0])
    values = np.array([law.gradients(jnp.array([x])) for x in points])
    top = (p[:, None] * values).max(axis=1)
    exact = top + np.log(np.exp(p[:, None] * values - top[:, None]) @ law.probabilities)
    examples = points + tilts[:, None]
    found = sampling.cumulant_generating(p * examples)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)
    for sign in (1.0, -1.0):
        extreme = sampling.largest_mean(sign * examples)
        np.testing.assert_allclose(extreme, (sign * values).max(axis=1), rtol=1e-12)


def test_refused():
    """Two dimensions, epochs, populations, no way."""
    with pytest.raises(ValueError, match="d=2"):
        barrier(ss.landscapes.sharp_and_flat_wells(1.0), ONE)
    with pytest.raises(ValueError, match="RandomReshuffling"):
        barrier(WELL, ss.RandomReshuffling(1))
    population = ss.landscapes.PopulationLeastSquares([[1.0]], 1.0)
    with pytest.raises(ValueError, match="population"):
        barrier(population, ONE)
    with pytest.raises(ValueError, match="different points"):
        barrier(WELL, ONE, end=-1.0)
