"""The plane of `density_evolution`: its finite sum, and the stationary law of a chain on a grid."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sde_sgd as ss
from experiments import _plane

ETA = 0.1


def test_the_noise_of_the_examples_is_d():
    """ηC(θ)/2 = D(θ) and mean gradient ∇V; the rows of `slopes` are the gradients of φ_j."""
    landscape = _plane.landscape(ETA)
    noise = ss.MinibatchNoise(ss.WithReplacement(1))
    for theta in jnp.array([[0.3, -0.7], [-1.2, 1.1], [2.0, 0.4]]):
        tensor = np.asarray(_plane.diffusion(theta))
        np.testing.assert_allclose(
            ETA / 2 * noise.covariance(theta, landscape), tensor, rtol=1e-12, atol=1e-14
        )
        np.testing.assert_allclose(landscape.gradient(theta), -_plane.drift(theta), atol=1e-12)
        gradients = jax.jacobian(_plane.fields)(theta)
        np.testing.assert_allclose(_plane.slopes(theta), gradients, rtol=1e-12)
        process: Any = _plane.processes(ETA, 4)["SDE"]
        root = process.noise.root(theta)
        np.testing.assert_allclose(ETA / 2 * root @ root.T, tensor, rtol=1e-12)


def test_the_law_of_the_chain_is_stationary():
    """E f(θ − ηg_i) = E f(θ), all examples enumerated; Fokker–Planck's law is not SGD's."""
    landscape = _plane.landscape(ETA)
    wave = jnp.array([1.1, 0.6])

    def moved(theta):
        images = theta - ETA * landscape.example_gradients(theta)
        return jnp.cos(images @ wave + 0.4).mean() - jnp.cos(theta @ wave + 0.4)

    own = _plane.chain_law(ETA, True, 1)
    assert abs(own.mass - 1) < 1e-9
    assert abs(float(own.integrate(moved))) < 2e-5
    assert abs(float(_plane.density(1).integrate(moved))) > 4e-4
    # On the cells that are compared the two laws differ by more than either one's grid error.
    assert _plane.distance(own, _plane.density(1)) > 0.04
