"""The variance of each coordinate: the diagonal of C(θ), without C(θ)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call, normal

import sde_sgd as ss
from sde_sgd.memory import peak_bytes

SAMPLING = ss.WithoutReplacement(2)


def network(block=None):
    """A tanh network of 13 numbers on N = 11 examples."""
    model = eqx.nn.MLP(2, "scalar", 3, 1, jnp.tanh, key=jr.key(0))
    inputs = normal(0, 11, 2)
    return ss.EmpiricalRisk(
        model, inputs, np.sin(inputs[:, 0]), ss.squared_error, example_block=block
    )


def least_squares(dimension):
    return ss.LeastSquares(normal(1, 12, dimension), normal(2, 12), l2=0.1)


PLACES = {
    "example weights": lambda: least_squares(10),
    "residual moments": lambda: least_squares(3),
    "constant root": lambda: ss.quadratic(np.eye(3), np.diag([1.0, 0.5, 0.0])),
    "logistic": lambda: ss.LogisticRegression(normal(1, 12, 2), np.arange(12) % 2),
    "population": lambda: ss.landscapes.PopulationLeastSquares(np.diag([1.0, 0.5, 0.2]), 0.7),
    "network, blocks of 4": lambda: network(4),
    "network": network,
    "anchored": lambda: ss.landscapes.ControlVariate(least_squares(10), np.ones(10)),
}


ROOT = normal(5, 3, 2)
MINIBATCH = ss.MinibatchNoise(SAMPLING)
MODELS = {
    "constant": ss.ConstantNoise(ROOT @ ROOT.T),
    "isotropic": ss.IsotropicNoise(SAMPLING),
    "diagonal": ss.DiagonalNoise(SAMPLING),
    "hessian": ss.HessianNoise(0.25, True),
    "function": ss.FunctionNoise(lambda x: x[:, None] * ROOT),
    "function of one coordinate": ss.FunctionNoise(lambda x: 0.2 * x),
    "bath": ss.ThermalNoise(MINIBATCH, 0.3, 0.1),
}


def test_variance_is_the_diagonal_of_the_covariance():
    """noise.variance(θ) = diag C(θ) to 1e-12 for every noise."""
    theta = normal(3, 3)

    def compute(theta, place):
        return [(m.variance(theta, place), m.covariance(theta, place)) for m in MODELS.values()]

    found = call(compute, theta, least_squares(3))
    for name, (variance, covariance) in zip(MODELS, found, strict=True):
        np.testing.assert_allclose(variance, np.diag(covariance), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_variance_of_batches(make):
    """c (1/N) Σ_i (∂_jℓ_i − ∂_jL)² = diag C(θ), whatever way a landscape draws its noise."""
    place, noise = make(), MINIBATCH
    if place.num_examples is None:
        noise = ss.MinibatchNoise(ss.WithReplacement(2))

    def compute(theta, place):
        return noise.variance(theta, place), jnp.diagonal(noise.covariance(theta, place))

    variance, exact = call(compute, 0.5 * normal(3, place.dimension), place)
    np.testing.assert_allclose(variance, exact, rtol=1e-12, atol=1e-14)


def test_a_small_variance_beside_a_large_mean():
    """Gradients 10⁶ + δ_i of variance 1: centred before they are squared they keep ten digits."""
    shifts = normal(6, 10, 10)
    steep = Steep(jnp.asarray(shifts - shifts.mean(0) + 1e6))
    found = call(ss.MinibatchNoise(ss.WithReplacement(1)).variance, jnp.zeros(10), steep)
    np.testing.assert_allclose(found, shifts.var(0), rtol=1e-9)


class Steep(ss.AbstractFiniteSum):
    """ℓ_i = g_i·θ."""

    data: jax.Array
    noise_form: ss.landscapes.noise_forms.ExampleWeights

    def __init__(self, data):
        self.data, self.noise_form = data, ss.landscapes.noise_forms.ExampleWeights()

    @property
    def dimension(self):
        return self.data.shape[1]

    @property
    def dtype(self):
        return self.data.dtype

    def losses(self, theta, data):
        return data @ theta


def test_memory_does_not_grow_with_the_number_of_examples():
    """N·d numbers for ten times as many examples would be ten times the bytes; a block is a block,
    and d×d numbers are never there."""
    size, held = 20_000, {}
    noise = ss.MinibatchNoise(ss.WithReplacement(8))
    for num in (1000, 10_000):
        place = Steep(jax.ShapeDtypeStruct((num, size), jnp.float32))
        theta = jax.ShapeDtypeStruct((size,), jnp.float32)
        held[num] = peak_bytes(noise.variance, theta, place)
    assert held[10_000] < 1.1 * held[1000]
    assert held[1000] < 4 * size * 1000 < 4 * size * size
