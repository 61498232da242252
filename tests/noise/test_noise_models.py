"""Noise models apply the covariance that they state, without sampling."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call, normal

import sde_sgd as ss
from sde_sgd.noise.models import covariance_operator
from sde_sgd.noise.paths import IterationNoise

THETA = jnp.array([0.4, -0.7, 0.2])
SAMPLING = ss.WithoutReplacement(4)


def least_squares():
    inputs = normal(0, 10, 3)
    return ss.LeastSquares(inputs, np.sin(inputs[:, 0]), l2=0.1)


def logistic():
    return ss.LogisticRegression(normal(1, 12, 2), np.arange(12) % 2)


def population():
    return ss.landscapes.PopulationLeastSquares(np.diag([1.0, 0.5, 0.2]), 0.7)


MODELS = {
    "minibatch": lambda s: ss.MinibatchNoise(s),
    "constant": lambda s: ss.ConstantNoise(jnp.array([[1.0, 0.2, 0], [0.2, 0.5, 0], [0, 0, 0]])),
    "isotropic": ss.IsotropicNoise,
    "diagonal": ss.DiagonalNoise,
    "hessian": lambda s: ss.HessianNoise(0.25),
    "hessian_times_loss": lambda s: ss.HessianNoise(0.25, True),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("place", [least_squares, logistic, population])
def test_noise_has_the_stated_covariance(make, place):
    """The linear map z ↦ noise has M Mᵀ = C(θ) = D Dᵀ, to 1e-12."""
    landscape = place()
    noise = make(ss.WithReplacement(4) if place is population else SAMPLING)

    def compute(landscape, theta):
        root = noise.diffusion(theta, landscape).as_matrix()
        stated = noise.covariance(theta, landscape)
        return stated, covariance_operator(noise, theta, landscape), root

    stated, operator, root = call(compute, landscape, THETA)
    size = np.max(np.abs(stated))
    np.testing.assert_allclose(operator, stated, atol=1e-12 * size)
    np.testing.assert_allclose(root @ root.T, stated, atol=1e-12 * size)
    assert noise.dimension(landscape) == root.shape[1]


def test_models_differ_as_they_say():
    """Trace, diagonal and Hessian of c Σ: what each keeps and what it drops."""
    landscape = least_squares()
    full = call(ss.MinibatchNoise(SAMPLING).covariance, THETA, landscape)
    np.testing.assert_allclose(
        full, 6 / 36 * call(landscape.gradient_covariance, THETA), rtol=1e-12
    )
    isotropic = call(ss.IsotropicNoise(SAMPLING).covariance, THETA, landscape)
    np.testing.assert_allclose(isotropic, np.trace(full) / 3 * np.eye(3), rtol=1e-12)
    diagonal = call(ss.DiagonalNoise(SAMPLING).covariance, THETA, landscape)
    np.testing.assert_allclose(diagonal, np.diag(np.diag(full)), rtol=1e-12)
    hessian = call(ss.HessianNoise(0.5).covariance, THETA, landscape)
    np.testing.assert_allclose(hessian, 0.5 * call(landscape.hessian, THETA), rtol=1e-10)
    assert not np.allclose(full, diagonal, rtol=1e-3)
    frozen = ss.ConstantNoise.at(landscape, THETA, SAMPLING)
    np.testing.assert_allclose(call(frozen.covariance, 2 * THETA, landscape), full, rtol=1e-12)


def test_weighted_gradient_noise_is_c_sigma_as_an_operator():
    """Jᵀ(z − z̄)√(c/N) has covariance c Σ for weights of every finite sum, to 1e-12."""
    for landscape in (least_squares(), logistic()):
        num = landscape.num_examples
        factor = SAMPLING.noise_factor(num)

        def noise(z, landscape=landscape, num=num, factor=factor):
            return landscape.weighted_gradient(THETA, jnp.sqrt(factor / num) * (z - z.mean()))

        matrix = call(jax.jacfwd(noise), np.zeros(num))
        np.testing.assert_allclose(
            matrix @ matrix.T, factor * call(landscape.gradient_covariance, THETA), atol=1e-12
        )


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.ones((2, 3)), "covariance"),
        (np.array([[1.0, 0.0], [0.5, 1.0]]), "symmetric"),
        (np.diag([1.0, -1.0]), "semi-definite"),
        (np.diag([1.0, np.nan]), "finite"),
    ],
)
def test_bad_constant_noise_is_refused(bad, match):
    """Shapes, symmetry, sign and NaN are checked before a run."""
    with pytest.raises(ValueError, match=match):
        ss.ConstantNoise(jnp.asarray(bad))


def test_other_bad_noise_is_refused():
    """A covariance of another dimension, a scale that is not positive."""
    with pytest.raises(ValueError, match="d=3"):
        ss.ConstantNoise(jnp.eye(2)).check(least_squares())
    with pytest.raises(ValueError, match="scale"):
        ss.HessianNoise(0.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_path_is_the_draws_at_its_integer_iteration(dtype):
    """ΔW over step j of iteration base + i is √(1/m)·ξ(base + i, j), at base = 2²⁴ + 1."""
    base, substeps = 2**24 + 1, 4
    draws = ss.Draws.create(jr.key(2), 5, base)
    path = IterationNoise(draws, size=3, substeps=substeps, dtype=dtype)
    seen = []
    for step in range(12):
        start = jnp.asarray(step / substeps, dtype)
        increment = path.evaluate(start, start + jnp.asarray(1 / substeps, dtype))
        own = ss.Draws.create(jr.key(2), 5, base + step // substeps, step % substeps)
        expected = own.normal((3,), ss.Stream.NOISE, dtype) / np.sqrt(substeps)
        np.testing.assert_allclose(increment, expected, rtol=1e-6)
        seen.append(np.asarray(increment))
    assert len(np.unique(np.stack(seen).ravel())) == 36


def test_path_refuses_steps_that_are_not_its_own():
    """Other lengths and other starting points are errors, also under jit."""
    path = IterationNoise(ss.Draws.create(jr.key(2), 0, 0), size=1, substeps=4, dtype=jnp.float64)
    for start, stop in ((0.0, 0.5), (0.1, 0.35), (-0.25, 0.0)):
        with pytest.raises(Exception, match="dt0=1/4"):
            eqx.filter_jit(path.evaluate)(jnp.asarray(start), jnp.asarray(stop))
    with pytest.raises(ValueError, match="no values"):
        path.evaluate(0.0)
