"""The plane of `density_evolution`: its finite sum, and the stationary law of a chain on a grid."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools import call

import sde_sgd as ss
from experiments import _plane

ETA = 0.1


def test_the_noise_of_the_examples_is_d():
    """ηC(θ)/2 = D(θ) and mean gradient ∇V; the rows of `slopes` are the gradients of φ_j."""
    landscape = _plane.landscape(ETA)
    noise = ss.MinibatchNoise(ss.WithReplacement(1))
    process: Any = _plane.processes(ETA, 4)["SDE"]

    def compute(theta):
        return {
            "tensor": _plane.diffusion(theta),
            "covariance": noise.covariance(theta, landscape),
            "gradient": landscape.gradient(theta),
            "drift": _plane.drift(theta),
            "jacobian": jax.jacobian(_plane.fields)(theta),
            "slopes": _plane.slopes(theta),
            "root": process.noise.root(theta),
        }

    for theta in np.array([[0.3, -0.7], [-1.2, 1.1], [2.0, 0.4]]):
        at = call(compute, theta)
        tensor = at["tensor"]
        np.testing.assert_allclose(ETA / 2 * at["covariance"], tensor, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(at["gradient"], -at["drift"], atol=1e-12)
        np.testing.assert_allclose(at["slopes"], at["jacobian"], rtol=1e-12)
        np.testing.assert_allclose(ETA / 2 * at["root"] @ at["root"].T, tensor, rtol=1e-12)


def test_the_law_of_the_chain_is_stationary():
    """E f(θ − ηg_i) = E f(θ), all examples enumerated; Fokker–Planck's law is not SGD's."""
    landscape = _plane.landscape(ETA)
    wave = jnp.array([1.1, 0.6])

    def moved(theta):
        images = theta - ETA * landscape.example_gradients(theta)
        return jnp.cos(images @ wave + 0.4).mean() - jnp.cos(theta @ wave + 0.4)

    own = _plane.chain_law(ETA, True, 1)
    assert abs(own.mass - 1) < 1e-9
    assert abs(float(own.expect(moved))) < 2e-5
    assert abs(float(_plane.density(1).expect(moved))) > 4e-4
    # On the cells that are compared the two laws differ by more than either one's grid error.
    assert _plane.distance(own, _plane.density(1)) > 0.04
