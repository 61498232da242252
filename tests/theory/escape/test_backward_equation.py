"""Backward equations on a grid: one-dimensional quadrature, closed forms, linear maps of them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.escape import (
    committor,
    committor_on_grid,
    eyring_kramers,
    mean_exit_time,
    mean_exit_time_on_grid,
)
from sde_sgd.theory.laws import FokkerPlanck


def force(x):
    return x - x**3


@functools.cache
def well(cells, diffusion=0.05):
    process = Diffusion(force, lambda x: jnp.full((1, 1), diffusion))
    return FokkerPlanck(process, (-2.2, 2.0), cells)


def test_one_dimension():
    """−1 → 1: the quadrature's 729.671, with an error that falls as the square of the cell."""
    errors = []
    for cells in (100, 200, 400):
        found = mean_exit_time_on_grid(well(cells), lambda x: x[0] >= 1.0)
        errors.append(float(found([-1.0])) / 729.67069 - 1)
    assert abs(errors[2]) < 2e-4
    assert errors[0] / errors[2] == pytest.approx(16, rel=0.3)
    half = mean_exit_time_on_grid(well(200, 0.025), lambda x: x[0] >= 1.0)
    assert half([-1.0]) == pytest.approx(102108, rel=1e-2)
    assert abs(half([-1.0]) / 729.671 - 1) > 100  # control: D off by 2


def test_state_dependent_diffusion():
    """D = .1(1 + .3x), two exits: mean time and committor of the quadrature (Itô)."""
    equation = FokkerPlanck(Diffusion(force, lambda x: 0.1 * (1 + 0.3 * x)), (-1.5, 1.4), 300)
    time = mean_exit_time_on_grid(equation, lambda x: (x[0] <= -1.3) | (x[0] >= 1.1))
    share = committor_on_grid(equation, lambda x: x[0] <= -1.3, lambda x: x[0] >= 1.1)
    d = lambda x: 0.1 * (1 + 0.3 * x)  # noqa: E731
    start = np.array([-0.9, -0.2, 0.6])
    exact = mean_exit_time(Diffusion(force, d), start=start, exits=(-1.3, 1.1))
    # The grid's error: 4.7e-3, 1.2e-3, 2.3e-4 at 150, 300, 600 cells.
    np.testing.assert_allclose(time(start[:, None]), exact, rtol=2e-3)
    q = committor(Diffusion(force, d), start=start, lower=-1.3, upper=1.1)
    np.testing.assert_allclose(share(start[:, None]), q, atol=3e-4)
    other = Diffusion(lambda x: force(x) + 0.03, d)
    ito = mean_exit_time(other, start=start, exits=(-1.3, 1.1))
    assert np.abs(ito / exact - 1).max() > 0.02  # control: Stratonovich


def test_absorbing_side():
    """A side of the box that absorbs is an exit like any other."""
    equation = FokkerPlanck(Diffusion(force, 0.05), (-2.2, 1.0), 400, ("reflecting", "absorbing"))
    assert mean_exit_time_on_grid(equation)([-1.0]) == pytest.approx(729.671, rel=2e-4)


def test_disc():
    """Brownian motion out of the unit disc: T = (1 − r²)/(4D); a curved set costs no order."""
    half = lambda x: 0.5 * jnp.eye(2)  # noqa: E731
    errors = []
    for cells in (40, 80):
        equation = FokkerPlanck(Diffusion(jnp.zeros(2), half), ((-1.2, 1.2),) * 2, cells)
        found = mean_exit_time_on_grid(equation, lambda x: x @ x >= 1.0)
        points = np.array([[0.0, 0.0], [0.3, 0.4], [-0.6, 0.1]])
        errors.append(np.abs(found(points) - (1 - (points**2).sum(axis=1)) / 2).max())
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] > 2.8


def test_cross_diffusion():
    """z = Rθ, θ = (well, OU): D_z = D R Rᵀ has cross terms, exit and committor stay those of x."""
    matrix = np.array([[1.0, 0.0], [0.6, 0.8]])
    inverse = jnp.asarray(np.linalg.inv(matrix))

    def drift(z):
        x, y = inverse @ z
        return jnp.asarray(matrix) @ jnp.stack([x - x**3, -2 * y])

    tensor = 0.1 * matrix @ matrix.T
    box = ((-2.2, 1.5), (-2.6, 2.3))
    equation = FokkerPlanck(Diffusion(drift, tensor), box, (120, 120))
    found = mean_exit_time_on_grid(equation, lambda z: z[0] >= 1.0)
    exact = mean_exit_time(Diffusion(force, 0.1), start=[-1.0, 0.0], exits=1.0)
    starts = np.array([[-1.0, 0.0], [0.0, 0.0]]) @ matrix.T
    np.testing.assert_allclose(found(starts), exact, rtol=3e-3)
    share = committor_on_grid(equation, lambda z: z[0] <= -0.9, lambda z: z[0] >= 0.9)
    q = committor(Diffusion(force, 0.1), start=-0.3, lower=-0.9, upper=0.9)
    assert share(matrix @ [-0.3, 0.1]) == pytest.approx(float(q), rel=5e-3)


def sharp_and_flat(diffusion):
    """Times from the flat and from the sharp well to the other one, over Eyring–Kramers."""
    landscape = ss.landscapes.sharp_and_flat_wells(1.0)
    noise = ss.ConstantNoise(2 * diffusion * np.eye(2))
    box = ((-2.0, 2.0), (-2.2, 2.2))
    sde = ss.ModifiedEquation(landscape, 1.0, noise).limit()
    equation = FokkerPlanck(sde, box, 80)
    ratios = []
    for side in (-1.0, 1.0):
        time = mean_exit_time_on_grid(equation, lambda z, side=side: -side * z[0] >= 1.0)
        kramers = eyring_kramers(sde, [side, 0.0], [0.0, 0.0])
        ratios.append(float(time([side, 0.0])) / kramers.time)
    return np.array(ratios)


def test_sharp_and_flat_wells():
    """T/T_EK → 1 linearly in D: the flat well holds √10 times as long as the sharp one."""
    coarse, fine = sharp_and_flat(0.04), sharp_and_flat(0.02)
    np.testing.assert_allclose((coarse - 1) / (fine - 1), 2, rtol=0.15)
    np.testing.assert_allclose(2 * fine - coarse, 1, atol=0.015)
    assert np.abs(fine / 2 - 1).min() > 0.3  # control: half the time, that to the saddle


def test_refused():
    """No exit, overlapping or empty sets, no boolean, a box too small, a time too long."""
    with pytest.raises(ValueError, match="no exit"):
        mean_exit_time_on_grid(well(100))
    with pytest.raises(ValueError, match="no exit"):
        mean_exit_time_on_grid(well(100), lambda x: x[0] > 5.0)
    with pytest.raises(ValueError, match="boolean"):
        mean_exit_time_on_grid(well(100), lambda x: x[0] - 1.0)
    with pytest.raises(ValueError, match="overlap"):
        committor_on_grid(well(100), lambda x: x[0] < 0.5, lambda x: x[0] > 0.0)
    with pytest.raises(ValueError, match="upper.*no cell"):
        committor_on_grid(well(100), lambda x: x[0] < 0.5, lambda x: x[0] > 7.0)
    small = FokkerPlanck(Diffusion(force, 0.05), (-1.2, 2.0), 100)
    with pytest.raises(ValueError, match="loses mass"):
        mean_exit_time_on_grid(small, lambda x: x[0] >= 1.0)
    with pytest.raises(ValueError, match="too rare"):
        mean_exit_time_on_grid(well(400, 0.006), lambda x: x[0] >= 1.0)
    found = mean_exit_time_on_grid(well(100), lambda x: x[0] >= 1.0)
    with pytest.raises(ValueError, match="outside the box"):
        found([3.0])
