"""C = R Rᵀ of a user's root, in every process that takes a noise model."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from tools import call

import sde_sgd as ss
from sde_sgd.noise.models import covariance_operator

THETA = jnp.array([0.4, -0.7])
PLANE = ss.quadratic(np.diag([1.0, 2.0]), 1.0)


def diagonal(theta):
    return jnp.sqrt(1 + theta**2)


def wide(theta):
    return jnp.array([[1.0, 0.5, 0.0], [0.2, 0.0, 0.9]]) * (1 + theta[0] ** 2)


@pytest.mark.parametrize("root", [diagonal, wide], ids=["diagonal", "wide"])
def test_the_noise_applied_has_the_stated_covariance(root):
    """R Rᵀ = covariance = the square of z ↦ noisy_gradient − ∇L = the operator's own."""
    noise = ss.FunctionNoise(root)
    noise.check(PLANE)
    matrix = np.asarray(root(THETA))
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    exact = matrix @ matrix.T
    assert noise.dimension(PLANE) == matrix.shape[1]
    np.testing.assert_allclose(call(noise.covariance, THETA, PLANE), exact, rtol=1e-14)
    np.testing.assert_allclose(call(covariance_operator, noise, THETA, PLANE), exact, rtol=1e-14)
    operator = noise.diffusion(THETA, PLANE)
    np.testing.assert_allclose(operator.as_matrix(), matrix, rtol=1e-14)
    assert isinstance(operator, lx.DiagonalLinearOperator) == (root is diagonal)
    z = jnp.arange(1.0, matrix.shape[1] + 1)
    moved = call(noise.noisy_gradient, THETA, z, 0.5, PLANE)
    np.testing.assert_allclose(
        moved, call(PLANE.gradient, THETA) + 0.5 * matrix @ np.asarray(z), rtol=1e-14
    )


def run(process):
    return ss.simulate(process, THETA, num_steps=12, ensemble_size=8, key=jr.key(2)).positions


@pytest.mark.parametrize("root", [diagonal, wide], ids=["diagonal", "wide"])
def test_gaussian_sgd_is_eulers_scheme_with_step_eta(root):
    """θ ← θ − η(∇L + R z): GaussianSGD and Euler at h = η share every number, to rounding."""
    noise = ss.FunctionNoise(root)
    sgd = ss.GaussianSGD(PLANE, 0.1, noise)
    sde = ss.ModifiedEquation(PLANE, 0.1, noise, substeps=1)
    np.testing.assert_allclose(run(sgd), run(sde), rtol=1e-12)


def test_a_constant_root_is_constant_noise():
    """R = C^{1/2}: the run of ConstantNoise(C); the transposed root of a skew R is another."""
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    values, vectors = np.linalg.eigh(covariance)
    root = jnp.asarray((vectors * np.sqrt(values)) @ vectors.T)
    made = ss.ModifiedEquation(PLANE, 0.1, ss.FunctionNoise(lambda x: root), substeps=2)
    given = ss.ModifiedEquation(PLANE, 0.1, ss.ConstantNoise(covariance), substeps=2)
    np.testing.assert_allclose(run(made), run(given), rtol=1e-10)
    lower = np.linalg.cholesky(covariance)
    for matrix, same in ((lower, True), (lower.T, False)):
        noise = ss.FunctionNoise(lambda x, m=jnp.asarray(matrix): m)
        assert np.allclose(call(noise.covariance, THETA, PLANE), covariance) == same


def test_milstein_takes_the_diagonal_root():
    """θ' = (1 − ηh)θ + √η s√h z + ½ηs s'(hz² − h) for one step of dx = −x dt + √η s(x) dW."""
    line = ss.quadratic(1.0, 1.0)
    noise = ss.FunctionNoise(lambda x: jnp.sqrt(1 + x**2))
    eta, x = 0.2, 0.6
    sde = ss.ModifiedEquation(line, eta, noise, substeps=1, solver=dfx.ItoMilstein())
    options = dict(num_steps=1, ensemble_size=5, key=jr.key(2))
    found = ss.simulate(sde, jnp.array([x]), **options).positions[:, 0]
    euler = ss.ModifiedEquation(line, eta, noise, substeps=1)
    plain = ss.simulate(euler, jnp.array([x]), **options).positions[:, 0]
    z = (plain - (1 - eta) * x) / (eta * np.sqrt(1 + x**2))
    np.testing.assert_allclose(found - plain, 0.5 * eta**2 * x * (z**2 - 1), rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match=r"Stratonovich.*FunctionNoise depends on θ"):
        ss.ModifiedEquation(line, eta, noise, solver=dfx.Heun())


def test_roots_that_fit_nothing():
    """The root is a function with values (d,) or (d, k), of θ's dtype."""
    for root in (lambda x: x[:1], lambda x: jnp.sum(x), lambda x: jnp.ones((3, 2))):
        with pytest.raises(ValueError, match=r"must have shape \(2,\), a diagonal, or \(2, k\)"):
            ss.GaussianSGD(PLANE, 0.1, ss.FunctionNoise(root))
    with pytest.raises(ValueError, match="one dtype"):
        ss.GaussianSGD(PLANE, 0.1, ss.FunctionNoise(lambda x: jnp.ones(2, jnp.float32)))
    with pytest.raises((ValueError, TypeError)):
        ss.FunctionNoise(jax.numpy.eye(2))
