"""Finite sums against their definition: every identity holds to rounding, nothing is sampled."""

import functools
import itertools
import math
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

from sde_sgd.landscapes import (
    cross_entropy,
    double_well,
    EmpiricalRisk,
    LeastSquares,
    LogisticRegression,
    mueller_brown,
    quadratic,
    sharp_and_flat_wells,
    squared_error,
)
from sde_sgd.random.draws import Draws

NUM = 8
BATCH = 4


class ConvNet(eqx.Module):
    """1×4×4 images to three logits, smooth."""

    conv: eqx.nn.Conv2d
    linear: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key)
        self.conv = eqx.nn.Conv2d(1, 2, 3, key=keys[0])
        self.linear = eqx.nn.Linear(8, 3, key=keys[1])

    def __call__(self, x):
        return self.linear(jnp.tanh(self.conv(x)).ravel())


def inputs(*shape):
    return normal(1, NUM, *shape)


def labels(num_classes):
    return np.arange(NUM) % num_classes


def mlp(outputs=3, **options):
    return eqx.nn.MLP(2, outputs, 4, 1, activation=jnp.tanh, key=jr.key(2), **options)


DATA_LANDSCAPES = {
    "least_squares": lambda l2=0.0: LeastSquares(inputs(3), inputs(3) @ np.ones(3) + 1, l2=l2),
    "least_squares_wide": lambda l2=0.0: LeastSquares(inputs(9), inputs(3)[:, 0], l2=l2),
    "least_squares_collinear": lambda l2=0.0: LeastSquares(
        inputs(2)[:, [0, 1, 0]], inputs(3)[:, 0], l2=l2
    ),
    "logistic_two": lambda l2=0.0: LogisticRegression(inputs(2), labels(2), l2=l2),
    "logistic_three": lambda l2=0.0: LogisticRegression(inputs(2), labels(3), l2=l2),
    "logistic_no_bias": lambda l2=0.0: LogisticRegression(inputs(2), labels(3), bias=False, l2=l2),
    "mlp": lambda l2=0.0: EmpiricalRisk(mlp(), inputs(2), labels(3), cross_entropy, l2=l2),
    "mlp_regression": lambda l2=0.0: EmpiricalRisk(
        mlp(2), inputs(2), inputs(2) ** 2, squared_error, l2=l2
    ),
    "cnn": lambda l2=0.0: EmpiricalRisk(
        ConvNet(jr.key(3)), inputs(1, 4, 4), labels(3), cross_entropy, l2=l2
    ),
}
POTENTIALS = {
    "quadratic": lambda: quadratic(np.diag([1.0, 3.0]), np.array([[1, 0.8], [0.8, 1]])),
    "double_well": lambda: double_well(0.36),
    "wells_rank_one": lambda: sharp_and_flat_wells(np.array([[1.0, 2.0], [2.0, 4.0]])),
    "mueller_brown": lambda: mueller_brown(1.0, scale=0.01),
    "no_noise": lambda: mueller_brown(0.0, scale=0.01),
}
every = pytest.mark.parametrize("name", [*DATA_LANDSCAPES, *POTENTIALS])
on_data = pytest.mark.parametrize("name", DATA_LANDSCAPES)


def point(landscape):
    """A θ that is no special point of the landscape."""
    return jnp.asarray(0.7 * normal(4, landscape.dimension))


def batches(num):
    """All subsets of three sizes, and of N = 8 examples all 8⁴ tuples of four."""
    found = {
        size: np.array(list(itertools.combinations(range(num), size)))
        for size in {1, (num + 1) // 2, num}
    }
    if num == NUM:
        found[BATCH] = np.array(list(itertools.product(range(NUM), repeat=BATCH)))
    return found


@functools.cache
def facts(name):
    """All that a landscape says at one θ, compiled once, with the definitions it is held to."""
    landscape = {**DATA_LANDSCAPES, **POTENTIALS}[name]()
    theta, num = point(landscape), landscape.num_examples
    sizes = (num, landscape.noise_dimension, landscape.dimension)
    weights, z, vector = (jnp.asarray(normal(5 + i, size)) for i, size in enumerate(sizes))
    every_batch = jax.tree.map(jnp.asarray, batches(num))

    @eqx.filter_jit
    def compute(landscape, theta):
        gradient = landscape.gradient(theta)

        # Central differences at three distances, from one compiled gradient of all points.
        distances = jnp.array([4e-3, 2e-3, 1e-3])
        along = jax.vmap(lambda h, e: landscape.gradient(theta + h * e), in_axes=(None, 0))
        values = jax.vmap(along, in_axes=(0, None))(
            jnp.concatenate([distances, -distances]), jnp.eye(theta.size)
        )
        coarse, middle, fine = (values[:3] - values[3:]) / (2 * distances[:, None, None])
        first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3

        return {
            "losses": landscape.example_losses(theta),
            "loss": landscape.loss(theta),
            "gradient": gradient,
            "forward_jacobian": jax.jacfwd(landscape.example_losses)(theta),
            "jacobian": landscape.example_gradients(theta),
            "weighted": landscape.weighted_gradient(theta, weights),
            "covariance": landscape.gradient_covariance(theta),
            "root": landscape.covariance_root(theta),
            "no_noise": landscape.noisy_gradient(theta, jnp.zeros_like(z), 1.0),
            "half_noise": landscape.noisy_gradient(theta, z, 0.5),
            "columns": jax.vmap(lambda z: landscape.noisy_gradient(theta, z, 1.0) - gradient)(
                jnp.eye(z.size)
            ),
            "hessian": landscape.hessian(theta),
            "product": landscape.hessian_vector_product(theta, vector),
            "differences": (16 * second - first) / 15,
            "batch_gradients": {
                size: jax.vmap(landscape.minibatch_gradient, in_axes=(None, 0))(theta, examples)
                for size, examples in every_batch.items()
            },
        }

    values = jax.tree.map(np.asarray, compute(landscape, theta))
    rows = values["forward_jacobian"]
    centred = rows - rows.mean(axis=0)
    sigma = centred.T @ centred / num
    return SimpleNamespace(
        landscape=landscape,
        theta=theta,
        weights=np.asarray(weights),
        z=np.asarray(z),
        vector=np.asarray(vector),
        sigma=sigma,
        scale=np.max(rows**2),
        **values,
    )


def moments(gradients):
    """Mean and covariance of ĝ_B over equally likely batches."""
    return np.mean(gradients, axis=0), np.cov(gradients.T, bias=True)


def close(actual, expected, scale=1.0, tolerance=1e-12):
    """Agreement to rounding relative to `scale`, the size of what was added up."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, scale))


@every
def test_weighted_gradient_is_the_transposed_jacobian_times_the_weights(name):
    """Jᵀw, with J the same from `example_gradients` and from forward mode."""
    fact = facts(name)
    close(fact.jacobian, fact.forward_jacobian, fact.scale)
    close(fact.weighted, fact.forward_jacobian.T @ fact.weights, fact.scale)


@every
def test_gradient_is_that_of_the_mean_loss(name):
    """L = (1/N) Σ ℓ_i, ∇L = (1/N) Σ ∇ℓ_i, in the shape and dtype of θ."""
    fact = facts(name)
    close(fact.loss, fact.losses.mean(), fact.scale)
    close(fact.gradient, fact.forward_jacobian.mean(axis=0), fact.scale)
    assert fact.gradient.shape == (fact.landscape.dimension,)
    assert fact.gradient.dtype == fact.landscape.dtype == np.float64


@every
def test_gradient_covariance_is_its_definition(name):
    """Σ = (1/N) Σ (g_i − g)(g_i − g)ᵀ = R Rᵀ."""
    fact = facts(name)
    close(fact.covariance, fact.sigma, fact.scale)
    assert fact.root.shape == (fact.landscape.dimension, fact.landscape.noise_dimension)
    close(fact.root @ fact.root.T, fact.sigma, fact.scale)


@every
def test_noise_operator_has_covariance_sigma(name):
    """z ↦ ∇L + a·Mz is affine with M Mᵀ = Σ(θ): M is read off column by column."""
    fact = facts(name)
    close(fact.no_noise, fact.gradient, fact.scale)
    close(fact.columns.T @ fact.columns, fact.sigma, fact.scale)
    close(fact.half_noise, fact.gradient + 0.5 * fact.z @ fact.columns, fact.scale)
    close(fact.columns.T, fact.root, fact.scale)


@every
def test_subsets_have_the_covariance_of_the_theory(name):
    """Over all subsets E ĝ = ∇L, Cov ĝ = (N−B)/(B(N−1)) Σ: Σ/7 at N = 8, B = 4; 0 at B = N."""
    fact = facts(name)
    num = fact.landscape.num_examples
    for batch, examples in batches(num).items():
        factor = (num - batch) / (batch * (num - 1)) if num > 1 else 0.0
        # Of all tuples those in ascending order are the subsets.
        subset = (np.diff(examples) > 0).all(axis=1)
        assert subset.sum() == math.comb(num, batch)
        mean, covariance = moments(fact.batch_gradients[batch][subset])
        close(mean, fact.gradient, fact.scale)
        close(covariance, factor * fact.sigma, fact.scale)
    assert name in POTENTIALS or (num - BATCH) / (BATCH * (num - 1)) == 1 / 7


@on_data
def test_batches_with_replacement_have_the_covariance_of_the_theory(name):
    """Over all 8⁴ tuples E ĝ = ∇L, Cov ĝ = Σ/4, which is not the Σ/7 of the 70 subsets."""
    fact = facts(name)
    assert len(fact.batch_gradients[BATCH]) == NUM**BATCH
    mean, covariance = moments(fact.batch_gradients[BATCH])
    close(mean, fact.gradient, fact.scale)
    close(covariance, fact.sigma / 4, fact.scale)
    with pytest.raises(AssertionError):
        close(covariance, fact.sigma / 7, fact.scale)


@on_data
def test_l2_adds_to_the_loss_and_never_to_the_noise(name):
    """L_λ = L + (λ/2)|θ|², ĝ_λ = ĝ + λθ on every batch, so Σ_λ = Σ."""
    fact = facts(name)
    theta, batch = fact.theta, jnp.asarray(np.array([0, 0, 5]))
    penalised = DATA_LANDSCAPES[name](l2=0.3)

    @eqx.filter_jit
    def compute(landscape):
        minibatch = landscape.minibatch_gradient(theta, batch)
        return landscape.loss(theta), landscape.gradient_covariance(theta), minibatch

    (loss, covariance, minibatch), plain = compute(penalised), compute(fact.landscape)
    close(loss, plain[0] + 0.15 * theta @ theta, fact.scale)
    close(covariance, fact.sigma, fact.scale)
    close(minibatch, plain[2] + 0.3 * theta, fact.scale)


@every
def test_hessian_is_the_derivative_of_the_gradient(name):
    """∇²L = ∇²L ᵀ, its columns are sixth-order differences of ∇L, and Hv is its product."""
    fact = facts(name)
    size = max(fact.scale, np.abs(fact.hessian).max())
    close(fact.hessian, fact.hessian.T, size)
    close(fact.product, fact.hessian @ fact.vector, size)
    # Extrapolated differences: rounding eps·|∇L|/1e-3 is what is left of their error.
    close(fact.differences, fact.hessian, size, tolerance=1e-10)


def test_least_squares_closed_forms():
    """H = XᵀX/N + λ, ∇L(θ*) = 0, Σ = (1/N) Σ r_i² x_i x_iᵀ − ∇L∇Lᵀ at λ = 0."""
    fact = facts("least_squares")
    x, y = map(np.asarray, fact.landscape.data)
    close(fact.hessian, x.T @ x / NUM)
    residual = x @ np.asarray(fact.theta) - y
    second = (x * residual[:, None] ** 2).T @ x / NUM
    close(fact.covariance, second - np.outer(fact.gradient, fact.gradient), 10)

    @eqx.filter_jit
    def derivatives(landscape, theta):
        return landscape.gradient(theta), landscape.hessian(theta)

    for l2 in (0.0, 0.4):
        penalised = DATA_LANDSCAPES["least_squares"](l2=l2)
        gradient, hessian = derivatives(penalised, penalised.minimum())
        close(gradient, np.zeros(3))
        close(hessian, x.T @ x / NUM + l2 * np.eye(3))


def test_least_squares_minimum_is_the_shortest_when_there_are_many():
    """More features than examples: θ* = X⁺y interpolates with the least norm."""
    x = normal(8, 3, 5)
    landscape = LeastSquares(x, np.ones(3))
    close(landscape.minimum(), np.linalg.pinv(x) @ np.ones(3), tolerance=1e-10)


def test_logistic_regression_is_minus_log_softmax():
    """ℓ_i = −log softmax(Wx_i + b)_{y_i}; two classes are the softmax of (0, w·x + b)."""
    three = facts("logistic_three")
    theta = np.asarray(three.theta)
    logits = inputs(2) @ theta[:6].reshape(2, 3) + theta[6:]
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(NUM), np.arange(NUM) % 3]
    close(three.losses, expected)
    two = facts("logistic_two")
    theta = np.asarray(two.theta)
    logit = inputs(2) @ theta[:2] + theta[2]
    expected = np.log(1 + np.exp(logit)) - logit * (np.arange(NUM) % 2)
    close(two.losses, expected)


def test_logistic_hessian_is_that_of_the_bernoulli_model():
    """H = (1/N) Σ p_i(1 − p_i) x̃_i x̃_iᵀ with x̃ = (x, 1)."""
    fact = facts("logistic_two")
    x = np.column_stack([inputs(2), np.ones(NUM)])
    p = 1 / (1 + np.exp(-x @ np.asarray(fact.theta)))
    close(fact.hessian, (x * (p * (1 - p))[:, None]).T @ x / NUM)


def test_logistic_accuracy_counts_the_right_guesses():
    """accuracy = fraction of argmax logits = labels, in both forms."""
    x = jnp.array([[1.0], [2.0], [-1.0], [-3.0]])
    two = LogisticRegression(x, jnp.array([1, 1, 0, 1]), bias=False)
    assert float(two.accuracy(jnp.ones(1), *two.data)) == 0.75
    three = LogisticRegression(x, jnp.array([1, 1, 0, 1]), num_classes=3, bias=False)
    assert float(three.accuracy(jnp.array([0.0, 1.0, -9.0]), *three.data)) == 0.5


def test_empirical_risk_gives_the_model_back():
    """model(initial) is the model, and losses are example_loss(model(x_i), y_i) one by one."""
    model = mlp()
    landscape = EmpiricalRisk(model, inputs(2), labels(3), cross_entropy)
    assert eqx.tree_equal(landscape.model(landscape.initial), model)
    loss = eqx.filter_jit(lambda x, y: cross_entropy(model(x), y))
    one_by_one = [loss(*map(jnp.asarray, pair)) for pair in zip(inputs(2), labels(3), strict=True)]
    losses = eqx.filter_jit(landscape.example_losses)(landscape.initial)
    close(losses, np.stack(one_by_one))
    assert landscape.dimension == sum(leaf.size for leaf in jax.tree.leaves(landscape.initial))


def test_empirical_risk_of_a_linear_model_is_least_squares():
    """ℓ = ½|Wx − y|² of eqx.nn.Linear without bias: the same L, ∇L, Σ as `LeastSquares`."""
    x, y = inputs(3), inputs(3)[:, 0] + 1
    model = eqx.nn.Linear(3, "scalar", use_bias=False, key=jr.key(9))
    risk, exact = EmpiricalRisk(model, x, y, squared_error), LeastSquares(x, y)

    @eqx.filter_jit
    def compute(landscape, theta):
        covariance = landscape.gradient_covariance(theta)
        return landscape.example_losses(theta), landscape.gradient(theta), covariance

    theta = point(exact)
    for one, two in zip(compute(risk, theta), compute(exact, theta), strict=True):
        close(one, two)


def test_draw_examples_are_indices_of_examples():
    """(members, B) integers in [0, N), the same for a member whoever else is drawn."""
    landscape = DATA_LANDSCAPES["least_squares"]()
    draws = Draws.create(jr.key(0), jnp.arange(6), iteration=3)
    examples = landscape.draw_examples(draws, BATCH)
    assert examples.shape == (6, BATCH)
    assert int(examples.min()) >= 0 and int(examples.max()) < NUM
    alone = landscape.draw_examples(Draws.create(jr.key(0), jnp.arange(4, 5), iteration=3), BATCH)
    np.testing.assert_array_equal(alone[0], examples[4])


@every
def test_everything_stays_in_the_dtype_of_theta(name):
    """float32 data give float32 L, ∇L, Σ, ĝ and noise, also next to float64 numbers."""
    landscape = jax.tree.map(
        lambda leaf: (
            jnp.asarray(np.asarray(leaf, np.float32)) if eqx.is_inexact_array(leaf) else leaf
        ),
        facts(name).landscape,
    )
    theta = jnp.asarray(np.asarray(point(landscape), np.float32))
    z = jnp.ones(landscape.noise_dimension, jnp.float32)

    def compute(landscape, theta):
        return {
            "loss": landscape.loss(theta),
            "gradient": landscape.gradient(theta),
            "minibatch_gradient": landscape.minibatch_gradient(theta, jnp.zeros(2, int)),
            "gradient_covariance": landscape.gradient_covariance(theta),
            "covariance_root": landscape.covariance_root(theta),
            "noisy_gradient": landscape.noisy_gradient(theta, z, jnp.asarray(0.1, jnp.float64)),
            "hessian": landscape.hessian(theta),
        }

    results = eqx.filter_eval_shape(compute, landscape, theta)
    assert {name: str(x.dtype) for name, x in results.items()} == dict.fromkeys(results, "float32")
