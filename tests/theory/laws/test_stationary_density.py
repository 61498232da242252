"""One-dimensional stationary densities against closed forms, quadrature and exact moments."""

import functools
from typing import Any

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import digamma

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import stationary_density

T = 0.25
GRID = np.linspace(-4, 4, 33)


def wide(x):
    """D = T(1 + x²)."""
    return T * (1 + x**2)


def well(x):
    """V' of (x² − 1)²/4."""
    return x**3 - x


def tilted(x):
    """D = .05(1 + .3x), positive above −1/.3."""
    return 0.05 * (1 + 0.3 * x)


@pytest.mark.parametrize("convention, freedom", [("ito", 5), ("stratonovich", 4)])
def test_linear_drift_and_quadratic_diffusion_are_student(convention, freedom):
    """dx = −x dt + √(2T(1+x²)) dW, T = ¼: √ν x is Student with ν = 5 (Itô), 4 (Stratonovich)."""
    found = stationary_density(Diffusion(lambda x: -x, wide), convention=convention)
    exact = stats.t(freedom, scale=freedom**-0.5)
    np.testing.assert_allclose(found.pdf(GRID), exact.pdf(GRID), rtol=1e-9)
    np.testing.assert_allclose(found.cdf(GRID), exact.cdf(GRID), atol=1e-12)
    far = np.array([1e2, 1e4, 1e8])
    np.testing.assert_allclose(found.survival(far), exact.sf(far), rtol=1e-8)
    np.testing.assert_allclose(found.survival(2e8) / found.survival(1e8), 2.0**-freedom, rtol=1e-7)
    assert found.tail_index == pytest.approx(freedom, abs=1e-6)
    assert found.variance == pytest.approx({5: 1 / 3, 4: 1 / 2}[freedom], rel=1e-10)
    assert found.quantile(0.75) == pytest.approx({5: 0.32498, 4: 0.37035}[freedom], abs=5e-6)
    assert found.absolute_moment(freedom) == np.inf
    with pytest.raises(ValueError, match="does not exist.*bounded function"):
        found.moment(freedom)
    with pytest.raises(ValueError, match="does not exist"):
        found.expect(lambda x: jnp.abs(x[0]) ** (freedom + 0.5))


def test_gibbs_is_a_control():
    """D frozen at the minimum: Var ¼, neither 1/3 nor 1/2."""
    assert stationary_density(Diffusion(lambda x: -x, wide(0.0))).variance == pytest.approx(
        1 / 4, rel=1e-10
    )


def by_quadrature(power):
    """P(x > 0) of D^{−power} e^{−φ} with φ = ∫V'/D in closed form, by polynomial division."""
    # (x³ − x)/(1 + kx) = quotient + remainder/(1 + kx)
    k = 0.3
    quotient, remainder = np.polydiv([1.0, 0.0, -1.0, 0.0], [k, 1.0])
    integral = np.polyint(quotient)

    def density(x):
        phi = (np.polyval(integral, x) + remainder[0] / k * np.log(1 + k * x)) / 0.05
        return np.exp(-phi) * (1 + k * x) ** -power

    left = quad(density, -3.33, 0, points=[-1.0], epsabs=1e-13, epsrel=1e-12, limit=200)[0]
    right = quad(density, 0, 4, points=[1.0], epsabs=1e-13, epsrel=1e-12, limit=200)[0]
    return right / (left + right)


@pytest.mark.parametrize("convention, value", [("ito", 0.12593), ("stratonovich", 0.16209)])
def test_double_well_with_tilted_noise(convention, value):
    """V = (x²−1)²/4, D = .05(1+.3x): P(x > 0) = .12593 Itô, .16209 Stratonovich."""
    power = 1.0 if convention == "ito" else 0.5
    for lower in (-1 / 0.3, -np.inf):  # the end may be left out: no weight comes near it
        found = stationary_density(
            Diffusion(lambda x: -well(x), tilted), lower=lower, convention=convention
        )
        assert found.survival(0.0) == pytest.approx(by_quadrature(power), rel=1e-9)
        assert found.survival(0.0) == pytest.approx(value, abs=5e-6)
    assert stationary_density(Diffusion(lambda x: -well(x), 0.05)).survival(0.0) == pytest.approx(
        0.5, abs=1e-12
    )  # control


@pytest.mark.parametrize("convention, drift", [("ito", 0.0), ("stratonovich", 0.5)])
def test_no_current(convention, drift):
    """Itô: (Dp)' = −V'p. Stratonovich: (Dp)' = (−V' + ½D')p. Neither holds for the other."""
    found = stationary_density(
        Diffusion(lambda x: -well(x), tilted), lower=-1 / 0.3, convention=convention
    )
    x, step = np.linspace(-1.8, 1.8, 25), 1e-4
    flux = [tilted(x + s) * found.pdf(x + s) for s in (step, -step)]
    slope = (flux[0] - flux[1]) / (2 * step)
    scale = np.abs(well(x) * found.pdf(x)).max()
    residual = [
        np.abs(slope - (-well(x) + power * 0.05 * 0.3) * found.pdf(x)).max() / scale
        for power in (drift, 0.5 - drift)
    ]
    assert residual[0] < 1e-6
    assert residual[1] > 1e-3


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [0.3, 1.0, 7.5])
def test_vanishing_diffusion_at_an_end_is_gamma(shape, mirrored):
    """dx = (a − x)dt + √(2x) dW on x > 0 is gamma(a), also where its density is infinite at 0."""
    sign = -1.0 if mirrored else 1.0
    ends = {"upper": 0.0} if mirrored else {"lower": 0.0}
    found = stationary_density(Diffusion(lambda x: sign * shape - x, lambda x: sign * x), **ends)
    exact, places = stats.gamma(shape), np.array([1e-6, 0.1, 1.0, 4.0, 20.0])
    lower = (found.survival if mirrored else found.cdf)(sign * places)
    upper = (found.cdf if mirrored else found.survival)(sign * places)
    np.testing.assert_allclose(lower, exact.cdf(places), rtol=1e-9)
    np.testing.assert_allclose(upper, exact.sf(places), rtol=1e-9)
    assert found.mean == pytest.approx(sign * shape, rel=1e-10)
    assert found.variance == pytest.approx(shape, rel=1e-10)
    logarithm = found.expect(lambda x: jnp.log(jnp.abs(x[0])))
    assert logarithm == pytest.approx(digamma(shape), abs=1e-9)
    assert found.tail_index == np.inf


def test_reflecting_box_and_jumps():
    """On a box without force p ∝ 1/D, across a jump of D; outside it is 0."""
    found = stationary_density(
        Diffusion(0.0, lambda x: jnp.where(x < 3, 1.0, 4.0)), lower=2.0, upper=5.0
    )
    np.testing.assert_allclose(found.pdf([1.0, 2.5, 4.0, 6.0]), [0, 2 / 3, 1 / 6, 0], rtol=1e-10)
    np.testing.assert_allclose(found.cdf([1.0, 2.5, 3.0, 6.0]), [0, 1 / 3, 2 / 3, 1], rtol=1e-10)
    assert found.mean == pytest.approx(2 / 3 * 2.5 + 1 / 3 * 4, rel=1e-10)


def test_kinks_are_found():
    """V = |x| has a kink that no one announced: the Laplace law."""
    found = stationary_density(Diffusion(lambda x: -jnp.sign(x + 0.3), 0.5))
    assert found.variance == pytest.approx(0.5, rel=1e-9)
    assert found.median == pytest.approx(-0.3, abs=1e-9)


@pytest.mark.parametrize("centre, width", [(0.0, 1e-6), (0.0, 1e5), (3e4, 1e-2)])
def test_any_scale(centre, width):
    """A Gaussian of any width; far from 0 it takes centre and scale."""
    found = stationary_density(
        Diffusion(lambda x: centre - x, width**2), centre=centre, scale=width
    )
    # A position far from 0 has lost digits before the function sees it.
    assert found.variance == pytest.approx(width**2, rel=1e-7)
    assert found.mean == pytest.approx(centre, abs=1e-7 * width)


def test_deep_wells_keep_their_ratio():
    """D = .002: the barrier is 125 D high, and each well still has its weight."""
    found = stationary_density(Diffusion(lambda x: -(well(x) + 1e-3), 0.002))

    def weight(x, side):
        return np.exp(-((x**2 - 1) ** 2 / 4 + 1e-3 * (x - side)) / 0.002)

    exact = [
        quad(weight, side - 0.6, side + 0.6, args=(side,), epsabs=0)[0] * np.exp(-side * 0.5)
        for side in (-1, 1)
    ]
    assert found.survival(0.0) == pytest.approx(exact[1] / sum(exact), rel=1e-7)


def test_quantile_inverts_cdf():
    """P(X ≤ quantile(p)) = p down to 1e-12."""
    found = stationary_density(Diffusion(lambda x: -x, wide))
    probability = np.array([[1e-12, 1e-3], [0.4, 0.999]])
    np.testing.assert_allclose(found.cdf(found.quantile(probability)), probability, rtol=1e-9)
    with pytest.raises(ValueError, match="between 0 and the mass 1"):
        found.quantile(1.0)


INPUTS, TARGETS = np.array([[0.5], [1.0], [-1.4], [0.2]]), np.array([0.3, 1.1, -0.6, -0.9])


@functools.cache
def line():
    """Four examples of one-dimensional least squares."""
    return ss.LeastSquares(jnp.asarray(INPUTS), jnp.asarray(TARGETS))


def test_landscape_agrees_with_its_exact_moments():
    """Least squares with matched noise: mean and variance of the second-moment closure, h = 0."""
    landscape = line()
    noise = ss.MinibatchNoise(ss.WithReplacement(2))
    found = stationary_density(ss.ModifiedEquation(landscape, 0.3, noise).limit())
    exact = closed_forms.covariance(
        INPUTS, TARGETS, learning_rate=0.3, noise_factor=1 / 2, time_step=0.0
    )[0, 0]
    assert found.variance == pytest.approx(exact, rel=1e-9)
    minimum = closed_forms.mean(INPUTS, TARGETS)[0]
    assert found.mean == pytest.approx(minimum, abs=1e-9)
    frozen = ss.ConstantNoise.at(landscape, jnp.asarray([minimum]), ss.WithReplacement(2))
    wrong = stationary_density(ss.ModifiedEquation(landscape, 0.3, frozen).limit()).variance
    assert abs(wrong / exact - 1) > 0.05  # control


def test_landscape_refusals():
    """Two dimensions, float32 and steps are refused."""
    noise = ss.MinibatchNoise(ss.WithReplacement(2))
    plane = ss.LeastSquares(jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(ValueError, match="d = 1.*d=2"):
        stationary_density(ss.ModifiedEquation(plane, 0.1, noise).limit())
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), line())
    with pytest.raises(ValueError, match="float32, and float64 is needed"):
        stationary_density(ss.ModifiedEquation(single, 0.1, noise).limit())
    with pytest.raises(ValueError, match="at solver step 0, and ModifiedEquation takes steps"):
        stationary_density(ss.ModifiedEquation(line(), 0.1, noise))


REFUSED = [
    ({"drift": lambda x: 0 * x}, "normalised.*lower end"),
    ({"drift": lambda x: x}, "normalised"),
    ({"drift": lambda x: -x * jnp.tanh(x)}, "normalised.*lower end"),
    ({"diffusion": lambda x: x**2, "lower": 0.0}, "normalised.*lower end.*collapse"),
    ({"diffusion": lambda x: x}, "positive where the law has weight"),
    ({"diffusion": lambda x: 0.1 * (1 + x)}, r"must not be negative.*but is -.* at x = -.*D > 0"),
    (
        {"drift": lambda x: 1.3 - x, "diffusion": lambda x: x - 1, "lower": 1.0},
        "is at 0",
    ),
    ({"diffusion": -1.0}, "diffusion must be a finite number > 0"),
    ({"drift": lambda x: jnp.ones(3)}, "drift must map one θ"),
    ({"drift": lambda x: x * jnp.nan}, "not finite"),
    ({"lower": 1.0, "upper": 1.0}, "lower=1 must be below upper=1"),
    ({"convention": "isothermal"}, "convention must be one of"),
    ({"scale": 0.0}, "scale"),
]


@pytest.mark.parametrize("change, match", REFUSED)
def test_refuses(change, match):
    """Laws that do not exist, and functions that are none, are told apart."""
    good: dict[str, Any] = {"drift": lambda x: -x, "diffusion": lambda x: 1.0} | change
    process = Diffusion(good.pop("drift"), good.pop("diffusion"))
    with pytest.raises(ValueError, match=match):
        stationary_density(process, **good)


def mixture(place, width, weight):
    """The limit whose density is that of two normals, at 0 and at `place`."""

    def energy(theta):
        wide = jnp.log(1 - weight) - theta[0] ** 2 / 2
        narrow = jnp.log(weight / width) - ((theta[0] - place) / width) ** 2 / 2
        return -0.05 * jnp.logaddexp(wide, narrow)

    landscape = ss.Potential(energy, np.eye(1))
    return ss.ModifiedEquation(landscape, 0.1, ss.ConstantNoise(np.eye(1))).limit()


@pytest.mark.parametrize(
    ("place", "width", "weight"),
    [(200.0, 1.0, 0.5), (7.3, 0.003, 0.1), (2.1, 0.001, 0.5), (100.0, 0.01, 0.5)],
)
def test_a_narrow_well_is_seen(place, width, weight):
    """Mean w a and variance 1 − w + w s² + w(1 − w)a² of (1 − w)N(0, 1) + w N(a, s²)."""
    law = stationary_density(mixture(place, width, weight))
    np.testing.assert_allclose(law.mean, [weight * place], rtol=1e-9)
    variance = 1 - weight + weight * width**2 + weight * (1 - weight) * place**2
    np.testing.assert_allclose(law.variance, variance, rtol=1e-9)
