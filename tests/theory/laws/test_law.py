"""Every law answers the same questions, each against a closed form of its own."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad, trapezoid
from scipy.special import ndtr

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import (
    AbstractLaw,
    FokkerPlanck,
    Gaussian,
    GridDensity,
    MasterEquation,
    ScalarLaw,
    stationary_density,
)
from sde_sgd.theory.matrices import MarchenkoPastur
from sde_sgd.theory.quantiles import first_double

LEVELS = np.array([[0.003, 0.2, 0.5], [0.7, 0.95, 0.9999]])
ATOMS = np.array([-1.5, -1e-9, 0.0, 2.0]), np.array([0.1, 0.2, 0.3, 0.4])
WIDTH = 0.5**0.5
# P(|z| > 4.75) = 2e-6, for at most ten numbers a test.
SIGMAS, DRAWS = 4.75, 20_000


class Case(NamedTuple):
    """A law, its closed form, and the error of its own discretisation.

    `mean`, `variance`, `cosine` = E cos θ; `cdf`, and `density` (None: atoms), or None.
    """

    law: AbstractLaw
    mean: float
    variance: float
    cosine: float
    cdf: Callable
    density: Callable | None
    error: float = 1e-9


def normal(law, mean, width, error=1e-9):
    exact = stats.norm(mean, width)
    cosine = np.cos(mean) * np.exp(-(width**2) / 2)
    return Case(law, mean, width**2, cosine, exact.cdf, exact.pdf, error)


def relaxing(step=None):
    """dθ = (0.3 − θ) dt + dW, stationary N(0.3, ½); at a step h the variance is ½/(1 − h/2)."""
    options = {} if step is None else {"step": step}
    return Diffusion(lambda x: 0.3 - x, 0.5, **options)


def student():
    """p ∝ (1 + x²)^{−3}, that is √5 x is Student's t with 5 degrees of freedom."""
    law = stationary_density(Diffusion(lambda x: -x, lambda x: 0.25 * (1 + x[0] ** 2)))
    exact = stats.t(5, scale=5**-0.5)
    # ∫ cos x (1 + x²)^{−3} dx = 7π/(8e), ∫ (1 + x²)^{−3} dx = 3π/8.
    return Case(law, 0.0, 1 / 3, 7 / (3 * np.e), exact.cdf, exact.pdf)


def marchenko_pastur():
    """At r = 1 and v = 1 the root of λ/4 has Wigner's semicircle: λ/4 ~ Beta(½, 3/2)."""
    exact = stats.beta(0.5, 1.5, scale=4.0)
    cosine = quad(lambda t: np.cos(4 * np.cos(t) ** 2) * 4 / np.pi * np.sin(t) ** 2, 0, np.pi / 2)
    return Case(MarchenkoPastur(1.0), 1.0, 1.0, cosine[0], exact.cdf, exact.pdf)


def atoms():
    places, masses = ATOMS
    mean = masses @ places
    return Case(
        ScalarLaw(places, masses, 0.0),
        mean,
        masses @ (places - mean) ** 2,
        masses @ np.cos(places),
        lambda x: np.sum(masses * (places <= np.asarray(x)[..., None]), axis=-1),
        None,
    )


CASES = {
    "Gaussian": lambda: normal(Gaussian([0.3], [[0.5]]), 0.3, WIDTH),
    "a marginal": lambda: normal(
        Gaussian([1.0, 0.3], [[2.0, 0.9], [0.9, 0.5]]).marginal(1), 0.3, WIDTH
    ),
    # Second order in the cell h = .02: Selling's scheme, and the linear pdf.
    "GridDensity": lambda: normal(
        FokkerPlanck(relaxing(), (-6.0, 6.0), 600).stationary(), 0.3, WIDTH, 2e-4
    ),
    "a marginal of a GridDensity": lambda: normal(
        FokkerPlanck(
            Diffusion(lambda x: jnp.array([0.3, 0.0]) - x, 0.5), ((-4.5, 5.0), (-4.5, 4.5)), 120
        )
        .stationary()
        .marginal(0),
        0.3,
        WIDTH,
        5e-3,
    ),
    "ScalarLaw of a mixture": lambda: normal(
        MasterEquation(relaxing(0.4), (-6.0, 6.0), 200).stationary(), 0.3, (0.5 / 0.8) ** 0.5
    ),
    "ScalarLaw of atoms": atoms,
    "StationaryDensity": lambda: normal(stationary_density(relaxing()), 0.3, WIDTH),
    "StationaryDensity, heavy": student,
    "MarchenkoPastur": marchenko_pastur,
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param]()


def test_moments(case):
    """E θ, Var θ and E cos θ; mean (1,) and covariance (1, 1) as a measured one."""
    law, error = case.law, case.error
    assert law.mean.shape == (1,) and law.covariance.shape == (1, 1)
    np.testing.assert_allclose(law.mean, [case.mean], atol=error)
    np.testing.assert_allclose(law.covariance, [[case.variance]], atol=error)
    assert law.variance == law.covariance[0, 0]
    np.testing.assert_allclose(law.expect(lambda x: jnp.cos(x[0])), case.cosine, atol=error)


def test_expectations_are_the_moments(case):
    """E θ = mean, E (θ − m)(θ − m)ᵀ = covariance, whatever the shape of the value."""
    law = case.law
    mean = law.expect(lambda x: x)
    np.testing.assert_allclose(mean, law.mean, rtol=1e-9, atol=1e-12)
    spread = law.expect(lambda x: jnp.outer(x - law.mean, x - law.mean))
    np.testing.assert_allclose(spread, law.covariance, rtol=1e-9)


def test_levels(case):
    """cdf(quantile(u)) ≥ u, equal where there are no atoms; x just below has less; the exact F."""
    found = case.law.quantile(LEVELS)
    assert found.shape == LEVELS.shape
    reached, below = case.law.cdf(found), case.law.cdf(np.nextafter(found, -np.inf))
    assert (reached >= LEVELS).all() and (below < LEVELS).all()
    if case.density is not None:
        np.testing.assert_allclose(reached, LEVELS, rtol=1e-10)
    else:
        np.testing.assert_array_equal(found, ATOMS[0][[[0, 1, 2], [3, 3, 3]]])
    np.testing.assert_allclose(case.law.cdf(found), case.cdf(found), atol=case.error)
    assert case.law.median == case.law.quantile(0.5)
    for level in (0.0, 1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="level must lie between 0 and"):
            case.law.quantile(level)


def test_density(case):
    """p, and that it adds up to 1; atoms have none."""
    if case.density is None:
        with pytest.raises(ValueError, match="no density"):
            case.law.pdf(0.0)
        return
    places = case.law.quantile(LEVELS)
    np.testing.assert_allclose(case.law.pdf(places), case.density(places), atol=10 * case.error)
    ends = case.law.quantile(ndtr(np.linspace(-5, 5, 400)))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = np.diff(ends)[:, None] / 2
    total = np.sum(half * weights * case.law.pdf(ends[:-1, None] + half * (1 + nodes)))
    assert total == pytest.approx(ndtr(5) - ndtr(-5), abs=max(case.error, 1e-9))


def test_samples(case):
    """Means of θ and cos θ over independent draws, one key one sample.

    Control: the same draws, moved by a tenth, are seen.
    """
    drawn = case.law.sample(jr.key(3), DRAWS)
    assert drawn.shape == (DRAWS, 1)
    np.testing.assert_array_equal(drawn, case.law.sample(jr.key(3), DRAWS))
    assert not np.array_equal(drawn, case.law.sample(jr.key(4), DRAWS))

    def excess(values, exact):
        return abs(values.mean() - exact) / (values.std() / DRAWS**0.5)

    assert excess(drawn, case.mean) < SIGMAS and excess(np.cos(drawn), case.cosine) < SIGMAS
    assert excess(drawn + 0.1, case.mean) > 2 * SIGMAS
    assert ss.compare_law(drawn, case.law, key=jr.key(5)).verdict == "agrees"


def test_a_law_is_compared_as_it_is(case):
    """`compare` and `wasserstein2` take mean, covariance and law without reshaping."""
    values = case.law.sample(jr.key(3), DRAWS)
    measured = ss.Estimate.from_samples(values)
    assert ss.compare(measured, case.law.mean).verdict == "agrees"
    assert ss.compare(measured, case.law.mean + 0.1).verdict == "disagrees"
    assert ss.theory.laws.wasserstein2(case.law, case.law) == 0


def test_print(case):
    """One line: kind, mean, standard deviation."""
    text = repr(case.law)
    assert text.startswith(type(case.law).__name__) and "\n" not in text and len(text) < 160
    assert f"standard deviation {case.law.variance**0.5:.6g}" in text


def test_more_dimensions():
    """In the plane: moments, E θθᵀ, densities and samples; what a line needs is refused there.

    E e^{a·θ} = e^{a·m + ½ aᵀMa} of a Gaussian.
    """
    mean, spread, tilt = np.array([1.0, 0.3]), np.array([[2.0, 0.9], [0.9, 0.5]]), [0.4, -0.7]
    law = Gaussian(mean, spread)
    found = law.expect(lambda x: jnp.exp(x @ jnp.array(tilt)))
    assert found == pytest.approx(np.exp(tilt @ mean + tilt @ spread @ tilt / 2), rel=1e-12)
    np.testing.assert_allclose(
        law.expect(lambda x: jnp.outer(x, x)), spread + np.outer(mean, mean), rtol=1e-12
    )
    points = np.random.default_rng(0).normal(size=(3, 2, 2))
    exact = stats.multivariate_normal(mean, spread)
    np.testing.assert_allclose(law.pdf(points), exact.pdf(points), rtol=1e-12)
    drawn = law.sample(jr.key(0), DRAWS)
    errors = (np.cov(drawn.T) - spread) / np.sqrt(
        (np.outer(np.diag(spread), np.diag(spread)) + spread**2) / DRAWS
    )
    assert np.abs(errors).max() < SIGMAS
    grid = FokkerPlanck(Diffusion(lambda x: -x, 0.5), ((-4, 4), (-4, 4)), 40).stationary()
    assert grid.sample(jr.key(0), 7).shape == (7, 2)
    # Spread over its cell, a draw has h²/12 more than the centres.
    spread = np.cov(grid.sample(jr.key(0), DRAWS).T)
    wanted = grid.covariance + 0.2**2 / 12 * np.eye(2)
    assert np.abs(spread - wanted).max() < SIGMAS * 0.5 * (2 / DRAWS) ** 0.5
    for plane in (law, grid):
        for ask in (
            lambda law: law.cdf(0.0),
            lambda law: law.quantile(0.5),
            lambda law: law.median,
            lambda law: law.variance,
        ):
            with pytest.raises(ValueError, match=r"d = 2: take `marginal\(axis\)` first"):
                ask(plane)


def test_degenerate_gaussians():
    """A point: F steps from 0 to 1, its quantiles are it, and it has no density."""
    point = Gaussian([2.0], [[0.0]])
    np.testing.assert_array_equal(point.cdf([1.9, 2.0, 2.1]), [0, 1, 1])
    assert point.quantile(0.3) == 2.0
    assert point.expect(lambda x: x[0] ** 2) == pytest.approx(4.0, rel=1e-14)
    np.testing.assert_array_equal(point.sample(jr.key(0), 3), np.full((3, 1), 2.0))
    with pytest.raises(ValueError, match="singular covariance has no density"):
        point.pdf(2.0)
    with pytest.raises(ValueError, match="positive semidefinite"):
        Gaussian([0.0], [[-1.0]])
    with pytest.raises(ValueError, match=r"average over law.sample\(key, n\)"):
        Gaussian(np.zeros(4), np.eye(4)).expect(lambda x: x)


def test_absorbed_mass():
    """Brownian motion between absorbing walls: what is left of it is sin(πx), and half of P.

    p(x, t) = e^{−π²t} sin(πx)·π/2 from such a start, with D = 1.
    """
    start = lambda x: jnp.pi / 2 * jnp.sin(jnp.pi * x[0])  # noqa: E731
    equation = FokkerPlanck(Diffusion(0.0, 1.0), (0.0, 1.0), 400, "absorbing")
    law = equation.propagate(start, [np.log(2) / np.pi**2])[0]
    assert law.mass == pytest.approx(0.5, abs=1e-5)
    assert law.mean[0] == pytest.approx(0.5, abs=1e-12)
    assert law.variance == pytest.approx(0.25 - 2 / np.pi**2, abs=1e-5)
    assert law.expect(lambda x: jnp.sin(jnp.pi * x[0])) == pytest.approx(np.pi / 4, abs=1e-5)
    assert law.cdf(1.0) == pytest.approx(0.5, abs=1e-5)
    assert law.quantile(0.25) == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(ValueError, match="between 0 and the mass 0.5"):
        law.quantile(0.75)
    assert "of which 0.5" in repr(law)


def test_gauss_rule_of_marchenko_pastur():
    """E λ^k is exact, with the atom; E log λ = −1 − (1 − r)/r log(1 − r) for r < 1, v = 1."""
    for ratio in (0.3, 1.0, 2.5):
        law = MarchenkoPastur(ratio, 1.7)
        powers = law.expect(lambda x: jnp.array([x[0] ** k for k in range(7)]))
        np.testing.assert_allclose(powers, [law.moment(k) for k in range(7)], rtol=1e-11)
        assert law.sample(jr.key(0), DRAWS)[:, 0].min() >= 0
    rest = 0.4
    exact = -1 - (1 - rest) / rest * np.log(1 - rest)
    logarithm = MarchenkoPastur(rest).expect(lambda x: jnp.log(x[0]))
    assert logarithm == pytest.approx(exact, rel=1e-12)
    assert MarchenkoPastur(2.0).quantile(0.4) == 0.0


def test_tails_without_moments():
    """p ∝ (1 + x²)^{−0.9}, √.8 x is Student's t with .8 degrees: no mean, as all say."""
    law = stationary_density(Diffusion(lambda x: 0.2 * x, lambda x: 1 + x[0] ** 2))
    exact = stats.t(0.8, scale=0.8**-0.5)
    np.testing.assert_allclose(law.cdf(law.quantile(LEVELS)), LEVELS, rtol=1e-9)
    np.testing.assert_allclose(law.quantile(LEVELS), exact.ppf(LEVELS), rtol=1e-8, atol=1e-8)
    for ask in (lambda: law.mean, lambda: law.variance, lambda: law.expect(lambda x: x)):
        with pytest.raises(ValueError, match="does not exist"):
            ask()
    assert "mean" not in repr(law) and "tail index 0.8," in repr(law)


def test_the_first_double():
    """The last digit of any size; `high` where nothing is reached."""
    for wanted in (0.0, 5e-324, 1e-100, -1e-100, np.pi, -np.pi, 1e300):
        found = first_double(lambda x, wanted=wanted: x >= wanted, -1e308, 1e308)
        assert found == wanted
    assert first_double(lambda x: x > 2, -1.0, 1.0) == 1.0
    each = np.array([[-3.0, 0.25], [1e-9, 7.0]])
    np.testing.assert_array_equal(first_double(lambda x: x >= each, -10, 10), each)


def test_other_forms_of_a_law():
    """W₂ of N(0, 1) and N(.3, 1.44), √(.3² + .2²), as laws, of scipy, and as functions."""
    forms = [
        (Gaussian([0.0], [[1.0]]), Gaussian([0.3], [[1.44]])),
        (stats.norm, stats.norm(0.3, 1.2)),
        (stats.norm.cdf, stats.norm(0.3, 1.2).cdf),
    ]
    for first in forms:
        for second in forms:
            found = ss.theory.laws.wasserstein2(first[0], second[1])
            assert found == pytest.approx(0.13**0.5, rel=1e-6)


def test_laws_are_modules_and_final():
    """No law is left abstract, and each is an Equinox module."""
    for kind in (Gaussian, GridDensity, ScalarLaw, MarchenkoPastur):
        assert issubclass(kind, AbstractLaw) and issubclass(kind, eqx.Module)
        assert not kind.__abstractmethods__


def test_a_node_stands_for_the_cell_around_it():
    """E x = b − ∫F over (a, b): a cdf of shared nodes that is shifted has another mean."""
    nodes, masses = np.array([-0.5, -0.25, 0.0, 0.25]), np.array([0.1, 0.4, 0.2, 0.3])
    law = ss.theory.laws.ScalarLaw(nodes, masses, 0.0, spacing=0.25)
    x = np.linspace(-1, 1, 33)  # edges of cells among them: the rule is exact
    mean = 1 - trapezoid(law.cdf(x), x)
    np.testing.assert_allclose(mean, law.mean[0], rtol=1e-12)
    np.testing.assert_allclose(law.cdf(0.125), 0.7, rtol=1e-12)
