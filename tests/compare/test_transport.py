"""W₂ on the line and of Gaussians, against closed forms, brute force and its own floor."""

import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss
from sde_sgd.theory.laws import Gaussian

RNG = np.random.default_rng(2)


def test_gaussian_laws():
    """W₂² = |Δm|² + tr(…): commuting, a rotation, singular; the line by quantiles agrees."""
    diagonal = Gaussian(np.array([1.0, 0.0]), np.diag([4.0, 0.25]))
    other = Gaussian(np.array([0.0, 2.0]), np.diag([1.0, 0.0]))
    exact = np.sqrt(5 + 1 + 0.25)
    assert ss.theory.laws.wasserstein2(diagonal, other) == pytest.approx(exact, rel=1e-7)
    # tr(AB) and det give tr (A^{1/2}BA^{1/2})^{1/2} = √(tr AB + 2√det AB) in the plane.
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[0.7, -0.4], [-0.4, 1.5]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    bures = np.sqrt(np.trace(a + b) - 2 * root)
    found = ss.theory.laws.wasserstein2(Gaussian(np.zeros(2), a), Gaussian(np.zeros(2), b))
    assert found == pytest.approx(bures, rel=1e-7)
    line = ss.theory.laws.wasserstein2(stats.norm(0.3, 1.2), stats.norm())
    assert line == pytest.approx(np.hypot(0.3, 0.2), rel=1e-6)


def brute(x, quantile, cells=400_000):
    """Midpoints in u."""
    u = (np.arange(cells) + 0.5) / cells
    return np.sqrt(np.mean((np.sort(x)[(u * len(x)).astype(int)] - quantile(u)) ** 2))


def test_samples():
    """Sample and law, two samples of different size, a sample and its permutation."""
    x, y = 0.3 + 1.2 * RNG.normal(size=500), RNG.normal(size=320)
    law = ss.distances.wasserstein2(x, stats.norm(), key=jr.key(0))
    assert float(law.measured.value) == pytest.approx(brute(x, stats.norm.ppf), rel=1e-4)
    assert law.excess > 5
    both = ss.distances.wasserstein2(x, y, key=jr.key(0))
    exact = brute(x, lambda u: np.sort(y)[(u * len(y)).astype(int)])
    assert float(both.measured.value) == pytest.approx(exact, rel=1e-4)
    assert float(ss.distances.wasserstein2(x, x[::-1], key=jr.key(0)).measured.value) == 0


def test_floor_of_equal_laws():
    """The floor is the mean over samples of the law: 40 fresh ones average to it."""
    found = ss.distances.wasserstein2(RNG.logistic(size=400), stats.logistic(), key=jr.key(3))
    fresh = [
        float(
            ss.distances.wasserstein2(
                RNG.logistic(size=400), stats.logistic(), key=jr.key(4), num_bootstrap=2
            ).measured.value
        )
        for _ in range(40)
    ]
    error = np.hypot(np.std(fresh), found.floor_spread) / np.sqrt(40)
    assert abs(np.mean(fresh) - found.floor) < 4.3 * error
    assert abs(np.mean(fresh) / np.sqrt(2) - found.floor) > 4.3 * error


BAD = {
    "exact on the line": lambda: ss.distances.wasserstein2(
        np.zeros((9, 2)), np.zeros(9), key=jr.key(0)
    ),
    "Samples are compared by ss.distances": lambda: ss.theory.laws.wasserstein2(
        np.zeros(9), stats.norm()
    ),
    "1 and 2 dimensions": lambda: ss.theory.laws.wasserstein2(
        Gaussian(np.zeros(1), np.eye(1)), Gaussian(np.zeros(2), np.eye(2))
    ),
    "NaN": lambda: ss.distances.wasserstein2(np.full(9, np.nan), stats.norm(), key=jr.key(0)),
}


@pytest.mark.parametrize("match", BAD)
def test_refuses(match):
    """Planes, samples where laws are asked for, different dimensions, NaN."""
    with pytest.raises(ValueError, match=match):
        BAD[match]()
