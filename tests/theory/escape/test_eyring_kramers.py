"""Eyring–Kramers: closed-form Hessians, the limit of exact times, and what must be refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.escape import (
    eyring_kramers,
    mean_exit_time,
    stationary_point,
)

WELL = ss.double_well(0.36)


def at(landscape, diffusion):
    """The first-order SDE with a constant D: a number, or (d, d)."""
    noise = (
        2 * diffusion * np.eye(landscape.dimension) if np.ndim(diffusion) == 0 else 2 * diffusion
    )
    return ss.ModifiedEquation(landscape, 1.0, ss.ConstantNoise(noise)).limit()


WELLS = ss.landscapes.sharp_and_flat_wells(1.0, flat_curvature=1.5, sharp_curvature=6.0)
MUELLER = ss.landscapes.mueller_brown(1.0)


def test_kramers():
    """(2π/√(2·1)) e^{¼/D} = 659.38 at D = .05; the exact time is 10 % longer, 1 + O(D)."""
    found = eyring_kramers(at(WELL, 0.05), minimum=[-1.1], saddle=[0.1])
    assert found.time == pytest.approx(659.38, abs=5e-3)
    assert found.rate == pytest.approx(1 / 659.38, rel=1e-4)
    assert found.exponent == pytest.approx(5.0) and found.barrier == pytest.approx(0.25)
    excess = []
    for d in (0.025, 0.0125, 0.00625):
        kramers = eyring_kramers(at(WELL, d), minimum=[-1.1], saddle=[0.1]).time
        exact = mean_exit_time(Diffusion(lambda x: x - x**3, d), start=-1.0, exits=1.0)
        excess.append(float(exact / kramers - 1))
        # Control: the time to the saddle is half.
        half = mean_exit_time(Diffusion(lambda x: x - x**3, d), start=-1.0, exits=0.0)
        assert half / kramers < 0.6
    assert 0 < excess[2] < 0.015
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.15)
    assert excess[1] / excess[2] == pytest.approx(2, rel=0.07)


@pytest.mark.parametrize("side, curvature", [(-1.0, 1.5), (1.0, 6.0)])
def test_two_dimensions(side, curvature):
    """H_m = diag(2, k), H_s = diag(−1, √(k₋k₊)): 2π √(3/(2k)) e^{¼/D} with k₋k₊ = 9."""
    found = eyring_kramers(at(WELLS, 0.05), minimum=[1.1 * side, 0.1], saddle=[0.05, -0.1])
    exact = 2 * np.pi * np.sqrt(3.0 / (2 * curvature)) * np.exp(5.0)
    assert found.time == pytest.approx(exact, rel=1e-10)
    np.testing.assert_allclose(found.saddle.theta, 0, atol=1e-10)
    assert (found.minimum.index, found.saddle.index) == (0, 1)


def test_many_dimensions():
    """d = 6, a rotated quadratic valley around the double well: determinants of all directions."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    stiff = np.array([0.5, 1.0, 2.0, 4.0, 7.0])

    def energy(theta):
        u = jnp.asarray(basis) @ theta
        x, y = u[0], u[1:]
        # Twice as stiff at the saddle as at the minima.
        return (x**2 - 1) ** 2 / 4 + 0.5 * (2 - x**2) * jnp.sum(jnp.asarray(stiff) * y**2)

    landscape = ss.Potential(energy, np.eye(6))
    noise = ss.MinibatchNoise(ss.WithReplacement(10))
    sde = ss.ModifiedEquation(landscape, 1.0, noise).limit()
    found = eyring_kramers(sde, minimum=-basis[0] + 0.05, saddle=0.05 * basis[1])
    exact = 2 * np.pi * np.sqrt(2.0**5 / 2.0) * np.exp(0.25 / 0.05)
    assert found.time == pytest.approx(exact, rel=1e-9)


def test_mueller_brown():
    """Saddles from rough guesses, at the published places and heights."""
    for guess, place, height in [
        ([0.25, 0.3], (0.2125, 0.2930), -72.249),
        ([-0.8, 0.6], (-0.8220, 0.6243), -40.665),
    ]:
        found = stationary_point(MUELLER, guess, index=1)
        np.testing.assert_allclose(found.theta, place, atol=1e-4)
        assert found.loss == pytest.approx(height, abs=1e-3)
    minimum = stationary_point(MUELLER, [0.6, 0.05], index=0)
    np.testing.assert_allclose(minimum.theta, (0.6235, 0.0280), atol=1e-4)


REFUSED = [
    (at(WELLS, np.diag([0.05, 0.06])), {}, "isotropic"),
    (at(WELLS, 0.0), {}, "positive"),
    (ss.ModifiedEquation(WELLS, 0.1, ss.HessianNoise(1.0)).limit(), {}, "isotropic"),
    (ss.ModifiedEquation(WELLS, 0.1, ss.ConstantNoise(np.eye(2))), {}, "pass the limit"),
    (ss.ModifiedEquation(WELLS, 0.1, ss.ConstantNoise(np.eye(2)), order=2).limit(), {}, "order 1"),
    (WELLS, {}, "process must be"),
    (at(WELLS, 0.05), {"saddle": [-1.0, 0.0]}, "same guess"),
    (at(WELLS, 0.05), {"saddle": [0.8, 0.1]}, "index 0"),
    (at(WELLS, 0.05), {"saddle": [0.0, 0.0, 0.0]}, r"saddle must have shape \(2,\)"),
    (at(MUELLER, 10.0), {"minimum": [-0.56, 1.44], "saddle": [0.21, 0.29]}, "does not bound"),
    (at(MUELLER, 10.0), {"minimum": [0.3, 0.2], "saddle": [0.21, 0.29]}, "elsewhere"),
]


@pytest.mark.parametrize("process, options, message", REFUSED)
def test_refused(process, options, message):
    """Noise the formula is wrong for, guesses that lead elsewhere, a saddle of another well."""
    arguments = {"minimum": [-1.0, 0.0], "saddle": [0.0, 0.0]} | options
    with pytest.raises(ValueError, match=message):
        eyring_kramers(process, **arguments)


def test_no_stationary_point():
    """A flat direction, a slope without end."""
    flat = ss.Potential(lambda x: x[0] ** 2, np.eye(2))
    with pytest.raises(ValueError, match="flat direction"):
        stationary_point(flat, [0.3, 0.2])
    slope = ss.Potential(lambda x: jnp.exp(x[0]) + x[1] ** 2, np.eye(2))
    with pytest.raises(ValueError, match="No stationary point|flat direction"):
        stationary_point(slope, [0.3, 0.2])
