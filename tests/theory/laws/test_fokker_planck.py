"""Fokker–Planck on a box: exact densities, orders of convergence, currents, conservation."""

import functools

import closed_forms
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.stats import norm

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import _markov_chain, FokkerPlanck


def order(errors):
    """Slope of log error over halvings of the cell."""
    errors = np.abs(np.asarray(errors, dtype=float))
    return np.log2(errors[:-1] / errors[1:])


def refinements(equation, count=3):
    """The equation, and its refinements by 2, 4, ..."""
    return [equation] + [equation.refined(2**k) for k in range(1, count)]


# --- One dimension ---


def growing(x):
    """D = .05(1 + .3x)."""
    return 0.05 * (1 + 0.3 * x[0])


def right_mass(power):
    """P(x > 0) for p ∝ D^{−power} exp(−∫V′/D), V = (x² − 1)²/4, by adaptive quadrature."""

    def density(x):
        d = 0.05 * (1 + 0.3 * x)
        return np.exp(-quad(lambda y: (y**3 - y) / (0.05 * (1 + 0.3 * y)), 0, x)[0]) / d**power

    left, right = quad(density, -2.6, 0, limit=200)[0], quad(density, 0, 2.6, limit=200)[0]
    return right / (left + right)


def test_double_well_is_ito():
    """V=(x²−1)²/4, D=.05(1+.3x): P(x>0) = .12593 (Itô); Stratonovich, D^{−1/2}, has .16209."""
    found = {}
    for name, extra in (("Itô", 0.0), ("Stratonovich", 0.05 * 0.3 / 2)):
        both = refinements(
            FokkerPlanck(Diffusion(lambda x, e=extra: x - x**3 + e, growing), (-2.8, 2.8), 400), 2
        )
        coarse, fine = (float(e.stationary().expect(lambda x: x[0] > 0)) for e in both)
        found[name] = fine + (fine - coarse) / 3  # second order: Richardson
    assert found["Itô"] == pytest.approx(right_mass(1.0), abs=1e-6)
    assert found["Itô"] == pytest.approx(0.12593, abs=1e-5)
    assert found["Stratonovich"] == pytest.approx(right_mass(0.5), abs=1e-6)
    assert found["Stratonovich"] == pytest.approx(0.16209, abs=1e-5)
    assert abs(found["Stratonovich"] - found["Itô"]) > 0.03


def test_heavy_tails_by_their_median():
    """dx = −x dt + √(2T(1+x²)) dW, T=¼: median |x| .32498 (Stratonovich .37035), orders 2."""

    def upper_quartiles(drift):
        equation = FokkerPlanck(
            Diffusion(lambda x: drift * x, lambda x: 0.25 * (1 + x**2)), (-30, 30), 750
        )
        return [float(e.stationary().quantile(0.75)) for e in refinements(equation)]

    ito, stratonovich = upper_quartiles(-1.0), upper_quartiles(-0.75)  # + D′/2 = T x
    assert ito[2] + (ito[2] - ito[1]) / 3 == pytest.approx(0.32498, abs=1e-5)
    assert order(np.diff(ito)) == pytest.approx(2, abs=0.1)
    assert stratonovich[2] + (stratonovich[2] - stratonovich[1]) / 3 == pytest.approx(
        0.37035, abs=1e-5
    )


@functools.cache
def gaussian_runs():
    """dx = −x dt + √.2 dW from N(1, .09): the densities at t = .5 and 2 on 100, 200, 400 cells."""

    def start(x):
        return jnp.exp(-((x[0] - 1) ** 2) / 0.18) / np.sqrt(0.18 * np.pi)

    equation = FokkerPlanck(Diffusion(lambda x: -x, lambda x: 0.1), (-4, 4), 100)
    return [e.propagate(start, [2.0, 0.5]) for e in refinements(equation)]


@pytest.mark.parametrize("position, t", [(1, 0.5), (0, 2.0)])
def test_transient_density_is_second_order(position, t):
    """∫|p − N(e^{−t}, .09e^{−2t} + .1(1 − e^{−2t}))| falls as h²; mass to 1e-12, p ≥ 0."""
    errors = []
    for run in gaussian_runs():
        p = run[position]
        std = np.sqrt(0.09 * np.exp(-2 * t) + 0.1 * (1 - np.exp(-2 * t)))
        exact = norm.pdf(p.grid.axis_centres(0), np.exp(-t), std)
        errors.append(np.abs(p.values - exact).sum() * p.grid.volume)
        assert abs(p.mass - 1) < 1e-12 and p.values.min() >= 0
        assert p.pdf(0.3) == pytest.approx(norm.pdf(0.3, np.exp(-t), std), rel=0.03)
        assert p.cdf(0.3) == pytest.approx(norm.cdf(0.3, np.exp(-t), std), abs=0.02)
    assert order(errors) == pytest.approx([2, 2], abs=0.1)
    assert errors[-1] < 1e-3


def test_propagation_is_the_matrix_exponential():
    """e^{Qᵀt} p0 by uniformisation and by rational Krylov, against the dense exponential."""
    equation = FokkerPlanck(Diffusion(lambda x: x - x**3, growing), (-2.4, 2.4), 60)
    start = np.zeros(60)
    start[20] = 1 / equation.grid.volume
    dense = expm(equation.generator.toarray().T * 3.0) @ start
    (series,) = equation.propagate(start, [3.0])
    np.testing.assert_allclose(series.values, dense, atol=1e-12 * dense.max())
    flat = equation.absorption.reshape(60, -1)
    limit, _markov_chain._MAX_WORK = _markov_chain._MAX_WORK, 0
    try:
        masses, negative, _ = _markov_chain.propagate(
            equation.generator, flat, start * equation.grid.volume, np.zeros(2), 3.0
        )
    finally:
        _markov_chain._MAX_WORK = limit
    np.testing.assert_allclose(masses, dense * equation.grid.volume, atol=1e-9)
    assert masses.min() >= 0 and abs(masses.sum() - 1) < 1e-12 and negative > -1e-8


@pytest.mark.parametrize("rounding", [(), (3e-17,), (-3e-17,), (2e-17, -1e-18, -4e-17)])
def test_the_function_of_a_projected_resolvent(rounding):
    """f(H)e₁, f(μ) = e^{10(1 − 1/μ)}, of H = V diag(μ) V⁻¹; f = 0 where μ is rounding or below it.

    Modes with 1/μ = 1, 1.3, 2 ± .5i, 5, 8, and some that have died out, not orthogonal.
    """
    mu = [1.0, 1 / 1.3, 1 / 2, 1 / (2 + 0.5j), 1 / (2 - 0.5j), 1 / 5, 1 / 8, *rounding]
    mu, size = np.array(mu), len(mu)
    vectors = np.random.default_rng(3).normal(size=(size, size)) + 2 * np.eye(size) + 0j
    vectors[:, 3] += 1j * np.random.default_rng(4).normal(size=size)
    vectors[:, 4] = vectors[:, 3].conj()
    inverse = np.linalg.inv(vectors)
    projected = (vectors * mu) @ inverse
    assert np.abs(projected.imag).max() < 1e-13
    f = np.array([np.exp(10 * (1 - 1 / m)) if m.real > 1e-10 else 0.0 for m in mu])
    exact = ((vectors * f) @ inverse)[:, 0].real
    with np.errstate(all="raise", under="ignore"):
        column = _markov_chain._propagated(projected.real)
    np.testing.assert_allclose(column, exact, atol=1e-12 * np.abs(exact).max())


def test_wall_is_no_truncation():
    """b = −1 on [0, ∞), wall at 0, D = ½: p = 2e^{−2x}, exactly in ratios of neighbours."""
    equation = FokkerPlanck(
        Diffusion(lambda x: -jnp.ones(1), lambda x: 0.5), (0, 12), 240, ("wall", "reflecting")
    )
    p = equation.stationary()
    np.testing.assert_allclose(np.diff(np.log(p.values)), -2 * p.grid.spacing[0], rtol=1e-9)
    assert np.abs(equation.current(p)).max() < 1e-13
    with pytest.raises(ValueError, match="loses mass.*low side of axis 0"):
        FokkerPlanck(Diffusion(lambda x: -jnp.ones(1), lambda x: 0.5), (0, 12), 240).stationary()


def test_absorbing_sides_take_what_is_lost():
    """b = v on (0, 1): P(leave above) = (1 − e^{−vx/D})/(1 − e^{−v/D}); survival by its series."""
    v, d, x0, t = 0.4, 0.2, 0.3, 0.7
    above, alive = [], []
    for equation in refinements(
        FokkerPlanck(Diffusion(lambda x: jnp.full(1, v), lambda x: d), (0, 1), 40, "absorbing")
    ):
        now, late = equation.propagate([x0], [t, 60.0])
        assert now.mass + now.absorbed.sum() == pytest.approx(1, abs=1e-13)
        above.append(late.absorbed[0, 1])
        alive.append(now.mass)
    n = np.arange(1, 60)
    decay = np.exp(-(d * (n * np.pi) ** 2 + v**2 / (4 * d)) * t)
    tilt = v / (2 * d)
    ends = n * np.pi * (1 - (-1.0) ** n * np.exp(tilt)) / (tilt**2 + (n * np.pi) ** 2)
    series = 2 * np.exp(-tilt * x0) * np.sum(np.sin(n * np.pi * x0) * ends * decay)
    exact = (1 - np.exp(-v * x0 / d)) / (1 - np.exp(-v / d))
    assert above[-1] == pytest.approx(exact, abs=2e-4)
    assert alive[-1] == pytest.approx(series, abs=2e-4)
    assert order(np.array(above) - exact)[-1] == pytest.approx(2, abs=0.3)
    assert order(np.array(alive) - series)[-1] == pytest.approx(2, abs=0.3)


# --- From landscapes ---


def test_modified_equations_in_the_stationary_state():
    """½x², unit noise: variance η/2 at order 1 and η/(2+η) at order 2 (SGD: η/(2−η))."""
    landscape, eta = ss.quadratic(1.0, 1.0), 0.4
    noise = ss.MinibatchNoise(ss.WithReplacement(1))
    for weak, exact in ((1, eta / 2), (2, eta / (2 + eta))):
        equation = FokkerPlanck(
            ss.ModifiedEquation(landscape, eta, noise, order=weak).limit(), (-4, 4), 400
        )
        assert equation.stationary().covariance[0, 0] == pytest.approx(exact, rel=1e-3)
        assert abs(exact / (eta / (2 - eta)) - 1) > 0.1


def test_noise_that_depends_on_the_place():
    """Least squares ½(xθ−y)²: Var = ηcΣ*/(2h − ηc(m₄ − h²)), the exact covariance at h = 0."""
    x, y = np.array([1.0, -0.5, 2.0, 1.5]), np.array([0.7, 0.4, 1.1, 2.4])
    landscape = ss.LeastSquares(x[:, None], y)
    sampling = ss.WithReplacement(2)
    minimum = x @ y / (x @ x)
    equation = FokkerPlanck(
        ss.ModifiedEquation(landscape, 0.1, ss.MinibatchNoise(sampling)).limit(),
        (minimum - 2.5, minimum + 2.5),
        1000,
    )
    exact = closed_forms.covariance(
        x[:, None], y, learning_rate=0.1, noise_factor=0.5, time_step=0.0
    )
    p = equation.stationary()
    assert p.covariance[0, 0] == pytest.approx(exact[0, 0], rel=1e-3)
    assert p.mean[0] == pytest.approx(minimum, abs=1e-4)


def test_flat_direction_spreads():
    """H = diag(1, 0): after k iterations the variance along the flat direction is k η² c Σ."""
    eta, steps = 0.1, 40
    landscape = ss.quadratic(np.diag([1.0, 0.0]), np.array([[1.0, 0.5], [0.5, 2.0]]))
    equation = FokkerPlanck(
        ss.ModifiedEquation(landscape, eta, ss.MinibatchNoise(ss.WithReplacement(4))).limit(),
        ((-1, 1), (-3.5, 3.5)),
        (40, 100),
    )
    (p,) = equation.propagate([0.0, 0.0], [eta * steps])
    spread = steps * eta**2 * 2.0 / 4
    # A point shared between neighbouring centres starts with the variance of that sharing.
    begin = equation.propagate([0.0, 0.0], [0.0])[0].covariance[1, 1]
    assert p.covariance[1, 1] - begin == pytest.approx(spread, rel=1e-2)


# --- Bad input ---


def make(drift=lambda x: -x, diffusion=lambda x: 0.1, box=(-3, 3), cells=40, **options):
    return FokkerPlanck(Diffusion(drift, diffusion), box, cells, **options)


FLAT = jnp.array([[1.0, 2.0], [2.0, 1.0]])
BAD = [
    ({"diffusion": lambda x: 0.05 * (1 + x[0])}, r"semi-definite; at θ = \[-2.925\].*-0.09625"),
    (
        {"diffusion": lambda x: FLAT, "box": ((-1, 1), (-1, 1)), "drift": lambda x: -x},
        "smallest eigenvalue is -1",
    ),
    ({"diffusion": lambda x: FLAT}, "diffusion must map"),
    ({"drift": lambda x: 1 / (x - 0.0)}, "drift is not finite at 1 of 81"),
    ({"drift": lambda x: jnp.ones(3)}, "drift must map"),
    ({"box": (1, 1)}, "low < high"),
    ({"box": ((0, 1), (0, 1), (0, 1))}, "box must be"),
    ({"cells": 3}, "cells must be integers >= 4"),
    ({"cells": (10, 10)}, "cells must be"),
    ({"sides": "open"}, "sides must be"),
]


@pytest.mark.parametrize("change, match", BAD)
def test_refuses(change, match):
    """A tensor that is no diffusion (place and eigenvalue), NaN, shapes."""
    with pytest.raises(ValueError, match=match):
        make(**change)


def test_a_box_that_loses_mass_is_refused():
    """Mass at a reflecting side, at a start outside, at an absorbing side: each said apart."""
    with pytest.raises(ValueError, match=r"about 0.00\d+ of the stationary law lies beyond"):
        make(box=(-3, 0.9)).stationary()
    with pytest.raises(ValueError, match="about 1 of the density at t=1 lies beyond its high"):
        make(drift=lambda x: jnp.ones(1)).propagate([1.8], [1.0])
    with pytest.raises(ValueError, match="absorb leave no stationary"):
        make(sides="absorbing").stationary()
    with pytest.raises(ValueError, match="outside the centres"):
        make().propagate([3.5], [1.0])
    with pytest.raises(ValueError, match="start has mass 0.499989 on the box"):
        make().propagate(lambda x: jnp.exp(-(x[0] ** 2)) / np.sqrt(4 * np.pi), [1.0])
    with pytest.raises(ValueError, match="2 stationary densities"):
        make(diffusion=lambda x: 0.1 * (jnp.abs(x[0]) > 1), drift=lambda x: x - x**3).stationary()
    with pytest.raises(ValueError, match="too rare|rarer than"):
        FokkerPlanck(
            Diffusion(lambda x: jnp.array([x[0] - x[0] ** 3, -x[1]]), lambda x: 0.004),
            ((-1.6, 1.6), (-0.5, 0.5)),
            (80, 40),
        ).stationary()
    with pytest.raises(ValueError, match="d=3"):
        FokkerPlanck(
            ss.ModifiedEquation(
                ss.quadratic(np.eye(3), 1.0), 0.1, ss.ConstantNoise(np.eye(3))
            ).limit(),
            ((-1, 1), (-1, 1)),
            20,
        )
