"""Evidence: the numbers of a one-dimensional problem, Gaussian models exactly, invariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import dblquad

import sde_sgd as ss
from sde_sgd.theory.selection import evidence_by_quadrature, laplace_evidence

X = np.linspace(-2, 2, 20)
TRUE = (X > 0.3).astype(int)
ALTERNATING = np.arange(20) % 2


def logistic(labels):
    return ss.LogisticRegression(X[:, None], labels)


@pytest.mark.parametrize(
    "labels, laplace, quadrature", [(TRUE, -6.8983, -6.9109), (ALTERNATING, 1.8848, 1.8421)]
)
def test_numbers_of_the_example(labels, laplace, quadrature):
    """Theory §1: E by Laplace and by quadrature, to the digits given; the sign tells memorising."""
    found = laplace_evidence(logistic(labels), prior=1.0, num_classes=2)
    exact = evidence_by_quadrature(logistic(labels), prior=1.0, num_classes=2)
    assert found.value == pytest.approx(laplace, abs=5e-5)
    assert exact.value == pytest.approx(quadrature, abs=5e-5)
    assert found.value == pytest.approx(found.cost + found.occam - found.null, abs=1e-12)


def test_quadrature_against_scipy():
    """−ln ∫ e^{−C} √detΛ/2π dω − N ln 2 by adaptive quadrature in the plain coordinates."""
    sign = 2 * TRUE - 1

    def integrand(b, w):
        losses = np.logaddexp(0, -sign * (w * X + b)).sum()
        return np.exp(-losses - (w * w + b * b) / 2) / (2 * np.pi)

    integral = dblquad(integrand, -6, 9, -7, 7, epsabs=1e-13, epsrel=1e-9)[0]
    exact = evidence_by_quadrature(logistic(TRUE), prior=1.0, num_classes=2)
    assert exact.value == pytest.approx(-np.log(integral) - 20 * np.log(2), abs=1e-7)


def test_gaussian_model_exactly():
    """Least squares: C is quadratic, Laplace is exact, −ln ∫ = −ln N(y; 0, I + XΛ⁻¹Xᵀ) + const."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    prior = np.array([[2.0, 0.4], [0.4, 0.7]])
    spread = np.eye(7) + x @ np.linalg.solve(prior, x.T)
    marginal = y @ np.linalg.solve(spread, y) / 2 + np.linalg.slogdet(spread)[1] / 2
    landscape = ss.LeastSquares(jnp.asarray(x), jnp.asarray(y))
    for route in (laplace_evidence, evidence_by_quadrature):
        found = route(landscape, prior=prior, num_classes=2)
        assert found.value == pytest.approx(marginal - 7 * np.log(2), abs=1e-10)


def test_invariance_under_a_linear_map():
    """ω = Aφ with Λ → AᵀΛA: E the same to 1e-10, the sharpness of the mode 100 times as large."""
    map_ = np.array([[10.0, 0.0], [1.0, 0.3]])
    columns = np.stack([X, np.ones(20)], 1)
    plain = ss.LogisticRegression(columns, TRUE, bias=False)
    mapped = ss.LogisticRegression(columns @ map_, TRUE, bias=False)
    first = laplace_evidence(plain, prior=1.0, num_classes=2)
    second = laplace_evidence(mapped, prior=map_.T @ map_, num_classes=2)
    sharpness = [np.linalg.eigvalsh(e.hessian)[-1] for e in (first, second)]
    assert sharpness[1] / sharpness[0] > 60
    assert abs(first.value - second.value) < 1e-10
    # Control: with the prior left as it was the model is another one.
    assert abs(laplace_evidence(mapped, prior=1.0, num_classes=2).value - first.value) > 0.1


def test_a_hundredfold_sharpness():
    """ω = 10φ: sharpness × 100 exactly, E unchanged."""
    columns = np.stack([X, np.ones(20)], 1)
    first = laplace_evidence(
        ss.LogisticRegression(columns, TRUE, bias=False), prior=1.0, num_classes=2
    )
    second = laplace_evidence(
        ss.LogisticRegression(10 * columns, TRUE, bias=False), prior=100.0, num_classes=2
    )
    tops = [np.linalg.eigvalsh(e.hessian)[-1] for e in (first, second)]
    assert tops[1] / tops[0] == pytest.approx(100, rel=1e-9)
    assert abs(first.value - second.value) < 1e-10


def test_strong_prior_knows_nothing():
    """λ → ∞: the model says ½ to everything, E → 0."""
    found = laplace_evidence(logistic(TRUE), prior=1e8, num_classes=2)
    assert abs(found.value) < 1e-4


def test_nonconvex_start():
    """A mode is found from a start where the Hessian is indefinite; one parameter by quadrature."""
    tilts = jnp.array([[0.5], [-0.5], [0.2], [-0.2]])
    landscape = ss.Potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, tilts=tilts)
    found = laplace_evidence(landscape, prior=0.5, num_classes=2, start=[0.1])
    # C = (x² − 1)² + x²/4: 4x(x² − 1) + x/2 = 0 at x² = 7/8, C'' = 12x² − 4 + 1/2 = 7.
    assert found.mode[0] ** 2 == pytest.approx(7 / 8, rel=1e-9)
    assert found.hessian[0, 0] == pytest.approx(7, rel=1e-9)
    exact = evidence_by_quadrature(landscape, prior=0.5, num_classes=2, start=[0.1])
    x = np.linspace(-6, 6, 20001)
    cost = (x**2 - 1) ** 2 + x**2 / 4
    integral = np.exp(-cost).sum() * (x[1] - x[0]) * np.sqrt(0.5 / (2 * np.pi))
    assert exact.value == pytest.approx(-np.log(integral) - 4 * np.log(2), abs=1e-9)


BAD = [
    ({"prior": 0.0}, "flat direction"),
    ({"prior": [1.0, 0.0]}, "flat direction"),
    ({"prior": np.ones((3, 3))}, r"\(2, 2\)"),
    ({"num_classes": 1}, "num_classes"),
    ({"num_classes": 3}, "tells 2 classes apart.*give num_classes=2"),
    ({"start": [0.0]}, "start"),
]


@pytest.mark.parametrize("change, match", BAD)
@pytest.mark.parametrize("route", [laplace_evidence, evidence_by_quadrature])
def test_refuses(route, change, match):
    """λ = 0, shapes, a null of one class."""
    with pytest.raises(ValueError, match=match):
        route(logistic(TRUE), **({"prior": 1.0, "num_classes": 2} | change))


def test_refuses_landscapes():
    """A landscape with its own l2, a population, too many parameters for quadrature."""
    with pytest.raises(ValueError, match="twice: make it with l2=0 and give prior=2"):
        laplace_evidence(ss.LogisticRegression(X[:, None], TRUE, l2=0.1), prior=1.0, num_classes=2)
    population = ss.landscapes.PopulationLeastSquares(jnp.eye(2), 1.0)
    with pytest.raises(ValueError, match="finite sum"):
        laplace_evidence(population, prior=1.0, num_classes=2)  # pyright: ignore
    three = ss.LogisticRegression(jax.random.normal(jax.random.key(0), (20, 2)), TRUE)
    with pytest.raises(ValueError, match="1 or 2"):
        evidence_by_quadrature(three, prior=1.0, num_classes=2)
