"""Sides at which the diffusion vanishes: laws that are powers of the distance from them.

dx = (θ − x) dt + σ√x dW has D = cx, c = σ²/2, and the Gamma law of shape a = θ/c < 1, unbounded
at 0. Its scale has s' = x^{−a} e^{x/c}; with u = x^{1−a} it is a smooth integral.
"""

import numpy as np
import pytest
from scipy import integrate, special

from sde_sgd import theory
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import FokkerPlanck

LEVEL, SLOPE = 0.5, 1.125
SHAPE = LEVEL / SLOPE
ROOT = Diffusion(lambda x: LEVEL - x, lambda x: SLOPE * x)


def square_root(cells, box=(0.0, 20.0), sides=("wall", "reflecting")):
    """The square-root process with θ = ½ and σ = 1.5."""
    return FokkerPlanck(ROOT, box, cells, sides)


def scale(x):
    """s(x) = ∫₀ˣ y^{−a} e^{y/c} dy."""
    power = 1 / (1 - SHAPE)
    found, _ = integrate.quad(lambda u: np.exp(u**power / SLOPE), 0, x ** (1 - SHAPE))
    return power * found


def exit_time(x, end):
    """∫ₓᵉⁿᵈ dy s'(y) ∫₀ʸ z^{a−1} e^{−z/c} dz/c, the inner integral an incomplete Γ function."""

    def slope(y):
        inner = SLOPE ** (SHAPE - 1) * special.gamma(SHAPE) * special.gammainc(SHAPE, y / SLOPE)
        return y**-SHAPE * np.exp(y / SLOPE) * inner

    return integrate.quad(slope, x, end, epsabs=1e-13, epsrel=1e-13)[0]


def orders(errors):
    """log₄ of the ratios of errors on four times as many cells each."""
    errors = np.abs(errors)
    return np.log(errors[:-1] / errors[1:]) / np.log(4)


LAWS = {
    # b, D, box, sides, E x, power γ of p at the singular side
    "Gamma": (lambda x: LEVEL - x, lambda x: SLOPE * x, (0, 20), ("wall", "reflecting"), 0.5),
    "Gamma, above": (
        lambda x: -LEVEL - (x - 0.3),
        lambda x: SLOPE * (0.3 - x),
        (-19.7, 0.3),
        ("reflecting", "wall"),
        -0.2,
    ),
    # p ∝ x^{3/2 − 2} e^{−x}
    "noise ∝ x": (lambda x: 1.5 * x - x**2, lambda x: x**2, (0, 20), ("wall", "reflecting"), 0.5),
    # p ∝ x^{−.6} (1 − x)^{−.4}
    "Beta": (lambda x: 0.4 - x, lambda x: x * (1 - x), (0, 1), "wall", 0.4),
}


@pytest.mark.parametrize("name", LAWS)
def test_unbounded_stationary_laws(name):
    """E x of Gamma and Beta laws, p ~ x^γ with −1 < γ < 0: errors of order h^{2+γ}, not h^{1+γ}."""
    drift, diffusion, box, sides, mean = LAWS[name]
    errors, powers = [], 0.0
    for cells in (800, 3200):
        equation = FokkerPlanck(Diffusion(drift, diffusion), box, cells, sides)
        errors.append(float(equation.stationary().mean[0]) - mean)
        powers = equation.wall_powers[0]
    power = min(alpha - kappa for alpha, kappa in powers)
    assert -1 < power < -0.4
    assert orders(errors)[0] > 2 + power - 0.15
    assert abs(errors[1]) < 1e-3


def test_gamma_law_in_all():
    """Mean ½, E x² = 13/16, P(x ≤ r): errors of order h^{1+a} on 200, 800, 3200 cells."""
    edges, rows = np.array([0.1, 0.5, 2.0]), []
    for cells in (200, 800, 3200):
        density = square_root(cells).stationary()
        below = density.cdf(edges) - special.gammainc(SHAPE, edges / SLOPE)
        rows.append([density.mean[0] - 0.5, density.expect(lambda x: x[0] ** 2) - 13 / 16, *below])
    found = np.array([orders(column) for column in np.array(rows, float).T])
    assert (found[:, -1] > 1 + SHAPE - 0.2).all()
    assert np.abs(rows[-1]).max() < 5e-4


def test_times_and_ways_out_near_the_side():
    """T to x = 2 from .02 and ½, and P(2 before 0) = s/s(2), by quadrature: order h^{1+a}."""
    rows = []
    for cells in (100, 400):
        inside = square_root(cells, (0.0, 2.0), ("wall", "absorbing"))
        time = theory.escape.mean_exit_time_on_grid(inside)
        both = square_root(cells, (0.0, 2.0), "absorbing")
        (late,) = both.propagate([0.5], [20.0])
        rows.append(
            [
                *(float(time([x])) / exit_time(x, 2.0) - 1 for x in (0.02, 0.5)),
                late.absorbed[0, 1] - scale(0.5) / scale(2.0),
            ]
        )
    assert (np.array([orders(column) for column in np.array(rows).T]) > 1 + SHAPE - 0.2).all()
    assert np.abs(rows[-1]).max() < 1e-3


def test_exits_by_quadrature():
    """T to x = 2 with the wall at 0, its mirror image, and s(x)/s(2), to 1e-10.

    With b = 0, D = x and exits at 0 and 2, T = x ln(2/x); with b = 3/2 and a wall, T = 2 − x
    to 2 times 2/3.
    """
    starts = np.array([1e-3, 0.02, 0.5])
    exact = [exit_time(x, 2.0) for x in starts]
    found = theory.escape.mean_exit_time(ROOT, start=starts, exits=2.0, wall=0.0)
    np.testing.assert_allclose(found, exact, rtol=1e-10)
    mirrored = theory.escape.mean_exit_time(
        Diffusion(lambda x: -LEVEL - x, lambda x: -SLOPE * x),
        start=-starts,
        exits=-2.0,
        wall=0.0,
    )
    np.testing.assert_allclose(mirrored, exact, rtol=1e-10)
    found = theory.escape.committor(ROOT, start=starts, lower=0.0, upper=2.0)
    np.testing.assert_allclose(found, [scale(x) / scale(2.0) for x in starts], rtol=1e-9)
    both = theory.escape.mean_exit_time(Diffusion(0.0, lambda x: x), start=starts, exits=(0.0, 2.0))
    np.testing.assert_allclose(both, starts * np.log(2 / starts), rtol=1e-10)
    process = Diffusion(1.5, lambda x: x)
    away = theory.escape.mean_exit_time(process, start=starts, exits=2.0, wall=0.0)
    np.testing.assert_allclose(away, (2 - starts) * 2 / 3, rtol=1e-10)


def test_stationary_density_by_quadrature():
    """Mean ½, E x² = 13/16 and P(x ≤ r) of the Gamma law to 1e-10."""
    law = theory.laws.stationary_density(ROOT, lower=0.0)
    np.testing.assert_allclose([law.mean[0], law.moment(2)], [0.5, 13 / 16], rtol=1e-10)
    places = np.array([1e-6, 0.1, 2.0])
    np.testing.assert_allclose(law.cdf(places), special.gammainc(SHAPE, places / SLOPE), rtol=1e-10)


def test_an_unattainable_side_absorbs_nothing():
    """b = 3/2, D = x: α = 3/2 ≥ 1, and 0 is not reached."""
    equation = FokkerPlanck(Diffusion(1.5, lambda x: x), (0.0, 2.0), 50, "absorbing")
    assert equation.absorption[0, 0, 0] == 0
    assert equation.absorption[-1, 0, 1] > 0


REFUSED = {
    "exit at x=0 is never reached": lambda: theory.escape.committor(
        Diffusion(1.5, lambda x: x), start=0.5, lower=0.0, upper=2.0
    ),
    "stops at the wall at x=0": lambda: theory.escape.mean_exit_time(
        Diffusion(0.0, lambda x: x), start=0.5, exits=2.0, wall=0.0
    ),
    "shift x so that this end is at 0": lambda: theory.escape.mean_exit_time(
        Diffusion(0.5, lambda x: x - 0.3), start=0.5, exits=2.0, wall=0.3
    ),
    r"grows like distance\^-1, whose integral": lambda: FokkerPlanck(
        Diffusion(lambda x: -x, lambda x: x), (0, 9), 50, ("wall", "reflecting")
    ),
    r"axis 1.* grows like distance\^-0.5, which equal cells": lambda: FokkerPlanck(
        Diffusion(lambda x: 0.5 - x, lambda x: np.array([1.0, 0.0]) + np.array([0.0, 1.0]) * x),
        (
            (-4, 4),
            (0, 9),
        ),
        20,
        (("reflecting", "reflecting"), ("wall", "reflecting")),
    ),
    "GridScore needs a diffusion that is positive": lambda: theory.equations.GridScore(
        square_root(40), lambda x: 1 / 20.0, duration=1.0
    ),
}


@pytest.mark.parametrize("match", REFUSED)
def test_refuses(match):
    """Mass that collapses onto a side; an unbounded density in the plane, or for its score."""
    with pytest.raises(ValueError, match=match):
        REFUSED[match]()
