"""Growth of second moments: the radius of their map, and the rate at which it is 1."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.theory import stationary

ETA, L2 = 0.2, 0.05
X, Y = normal(1, 5, 2) * np.array([1.0, 0.7]), normal(2, 5)
H, C = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, 0.2], [0.2, 0.5]])
TWO = ss.WithReplacement(2)


def least_squares():
    return ss.LeastSquares(X, Y, l2=L2)


@pytest.mark.parametrize("model", [ss.MinibatchNoise, ss.IsotropicNoise, ss.DiagonalNoise])
def test_growth_with_noise_that_is_not_its_own_adjoint(model):
    """Radius of M ↦ (1 − ηH)M(1 − ηH) + η²K[M], K read off C itself; it is 1 at the largest η."""
    landscape, noise = least_squares(), model(ss.WithReplacement(1))
    rest, eye = jnp.asarray(landscape.rest()), np.eye(2)
    hessian = np.asarray(landscape.hessian(rest))

    def square(v):
        ends = (noise.covariance(rest + s * v, landscape) for s in (1.0, -1.0, 0.0))
        up, down, middle = (np.asarray(c) for c in ends)
        return (up + down - 2 * middle) / 2

    def radius(eta):
        columns = []
        for i, j in itertools.product(range(2), repeat=2):
            unit = (np.outer(eye[i], eye[j]) + np.outer(eye[j], eye[i])) / 2
            fed = (square(eye[i] + eye[j]) - square(eye[i] - eye[j])) / 4
            step = eye - eta * hessian
            columns.append((step @ unit @ step + eta**2 * fed).ravel())
        return np.abs(np.linalg.eigvals(np.array(columns).T)).max()

    process = ss.GaussianSGD(landscape, ETA, noise)
    assert stationary.growth(process) == pytest.approx(radius(ETA), rel=1e-9)
    most = stationary.largest_stable_learning_rate(process)
    assert radius(most) == pytest.approx(1, abs=1e-7)


def test_growth_under_constant_noise():
    """Spectral radius of F⊗F: (1 − ηλ)² of a step, e^{−2ηλ} of an iteration of the limit."""
    slow = np.linalg.eigvalsh(H)[0]
    sgd = ss.SGD(ss.quadratic(H, C), ETA, TWO)
    assert stationary.growth(sgd) == pytest.approx((1 - ETA * slow) ** 2, rel=1e-12)
    limit = ss.ModifiedEquation(ss.quadratic(H, C), ETA, ss.ConstantNoise(C)).limit()
    assert stationary.growth(limit) == pytest.approx(np.exp(-2 * ETA * slow), rel=1e-12)
