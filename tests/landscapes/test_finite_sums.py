"""Finite sums against their definition: every identity holds to rounding, nothing is sampled."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from sde_sgd.draws import Draws
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
    return jr.normal(jr.key(1), (NUM, *shape))


def labels(num_classes):
    return jnp.arange(NUM) % num_classes


def mlp(outputs=3, **options):
    return eqx.nn.MLP(2, outputs, 4, 1, activation=jnp.tanh, key=jr.key(2), **options)


DATA_LANDSCAPES = {
    "least_squares": lambda l2=0.0: LeastSquares(inputs(3), inputs(3) @ jnp.ones(3) + 1, l2=l2),
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
    "quadratic": lambda: quadratic(
        jnp.diag(jnp.array([1.0, 3.0])), jnp.array([[1, 0.8], [0.8, 1]])
    ),
    "double_well": lambda: double_well(0.36),
    "wells_rank_one": lambda: sharp_and_flat_wells(jnp.array([[1.0, 2.0], [2.0, 4.0]])),
    "mueller_brown": lambda: mueller_brown(1.0, scale=0.01),
    "no_noise": lambda: mueller_brown(0.0, scale=0.01),
}
every = pytest.mark.parametrize(
    "make", [*DATA_LANDSCAPES.values(), *POTENTIALS.values()], ids=[*DATA_LANDSCAPES, *POTENTIALS]
)
on_data = pytest.mark.parametrize("make", DATA_LANDSCAPES.values(), ids=DATA_LANDSCAPES)


def point(landscape):
    """A θ that is no special point of the landscape."""
    return 0.7 * jr.normal(jr.key(4), (landscape.dimension,))


def definition(landscape, theta):
    """(1/N) Σ (g_i − g)(g_i − g)ᵀ from forward-mode gradients of every example's loss."""
    rows = np.asarray(jax.jacfwd(landscape.example_losses)(theta))
    centred = rows - rows.mean(axis=0)
    return centred.T @ centred / len(rows)


def batch_moments(landscape, theta, batches):
    """Mean and covariance of ĝ_B over equally likely batches."""
    gradients = jax.jit(jax.vmap(landscape.minibatch_gradient, (None, 0)))(
        theta, jnp.asarray(batches)
    )
    return np.mean(gradients, axis=0), np.cov(np.asarray(gradients), rowvar=False, bias=True)


def close(actual, expected, scale=None, tolerance=1e-12):
    """Agreement to rounding, relative to the largest entry of either or to `scale`."""
    size = max(np.max(np.abs(expected), initial=0), np.max(np.abs(actual), initial=0))
    size = size if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, size))


@every
def test_weighted_gradient_is_the_transposed_jacobian_times_the_weights(make):
    """Jᵀw with J from `example_gradients` and from forward mode."""
    landscape = make()
    theta, weights = point(landscape), jr.normal(jr.key(5), (landscape.num_examples,))
    jacobian = landscape.example_gradients(theta)
    close(jacobian, jax.jacfwd(landscape.example_losses)(theta))
    close(landscape.weighted_gradient(theta, weights), jacobian.T @ weights)


@every
def test_gradient_is_that_of_the_mean_loss(make):
    """∇L = ∇ (1/N) Σ ℓ_i, and θ, L, ∇L agree in shape and dtype."""
    landscape = make()
    theta = point(landscape)
    close(
        landscape.gradient(theta), jax.jacfwd(lambda x: landscape.example_losses(x).mean())(theta)
    )
    close(landscape.loss(theta), landscape.example_losses(theta).mean())
    assert landscape.gradient(theta).shape == (landscape.dimension,)
    assert landscape.gradient(theta).dtype == landscape.dtype == jnp.float64


@every
def test_gradient_covariance_is_its_definition(make):
    """Σ = (1/N) Σ (g_i − g)(g_i − g)ᵀ = R Rᵀ."""
    landscape = make()
    theta = point(landscape)
    scale = float(jnp.max(landscape.example_gradients(theta) ** 2))
    close(landscape.gradient_covariance(theta), definition(landscape, theta), scale)
    root = landscape.covariance_root(theta)
    assert root.shape == (landscape.dimension, landscape.noise_dimension)
    close(root @ root.T, definition(landscape, theta), scale)


@every
def test_noise_operator_has_covariance_sigma(make):
    """z ↦ ∇L + a·Mz is affine with M Mᵀ = Σ(θ): the matrix is read off column by column."""
    landscape = make()
    theta, num = point(landscape), landscape.noise_dimension
    gradient = landscape.gradient(theta)
    scale = float(jnp.max(landscape.example_gradients(theta) ** 2))
    close(landscape.noisy_gradient(theta, jnp.zeros(num), 1.0), gradient)
    columns = jax.vmap(lambda z: landscape.noisy_gradient(theta, z, 1.0) - gradient)(jnp.eye(num))
    close(columns.T @ columns, definition(landscape, theta), scale)
    z = jr.normal(jr.key(6), (num,))
    close(landscape.noisy_gradient(theta, z, 0.5), gradient + 0.5 * z @ columns, scale)
    close(z @ columns, landscape.covariance_root(theta) @ z, scale)


@every
def test_subsets_have_the_covariance_of_the_theory(make):
    """Over all subsets E ĝ = ∇L, Cov ĝ = (N−B)/(B(N−1)) Σ: Σ/7 at N = 8, B = 4; 0 at B = N."""
    landscape = make()
    num, theta = landscape.num_examples, point(landscape)
    scale = float(jnp.max(landscape.example_gradients(theta) ** 2))
    sigma = definition(landscape, theta)
    for batch in {1, -(-num // 2), num}:
        factor = (num - batch) / (batch * (num - 1)) if num > 1 else 0.0
        subsets = list(itertools.combinations(range(num), batch))
        mean, covariance = batch_moments(landscape, theta, subsets)
        close(mean, landscape.gradient(theta))
        close(covariance, factor * sigma, scale)


@on_data
def test_batches_with_replacement_have_the_covariance_of_the_theory(make):
    """Over all 8⁴ tuples E ĝ = ∇L, Cov ĝ = Σ/4, which is not the Σ/7 of the 70 subsets."""
    landscape = make()
    theta = point(landscape)
    sigma = definition(landscape, theta)
    scale = float(jnp.max(landscape.example_gradients(theta) ** 2))
    tuples = list(itertools.product(range(NUM), repeat=BATCH))
    mean, covariance = batch_moments(landscape, theta, tuples)
    close(mean, landscape.gradient(theta))
    close(covariance, sigma / 4, scale)
    with pytest.raises(AssertionError):
        close(covariance, sigma / 7, scale)


@on_data
def test_l2_adds_to_the_loss_and_never_to_the_noise(make):
    """L_λ = L + (λ/2)|θ|², ∇L_λ = ∇L + λθ, Σ_λ = Σ, on every batch."""
    plain, penalised = make(), make(l2=0.3)
    theta, batch = point(plain), jnp.array([0, 0, 5])
    close(penalised.loss(theta), plain.loss(theta) + 0.15 * theta @ theta)
    close(penalised.gradient(theta), plain.gradient(theta) + 0.3 * theta)
    close(
        penalised.minibatch_gradient(theta, batch),
        plain.minibatch_gradient(theta, batch) + 0.3 * theta,
    )
    close(penalised.gradient_covariance(theta), plain.gradient_covariance(theta))


@every
def test_hessian_is_the_derivative_of_the_gradient(make):
    """∇²L = ∇²L ᵀ, its columns are fourth-order differences of ∇L, and Hv is its product."""
    landscape = make()
    theta, step = point(landscape), 1e-3
    hessian = jax.jit(landscape.hessian)(theta)
    close(hessian, hessian.T)

    def difference(direction):
        near, far = (
            landscape.gradient(theta + h * direction) - landscape.gradient(theta - h * direction)
            for h in (step, 2 * step)
        )
        return (8 * near - far) / (12 * step)

    # What is left: rounding eps·|∇L|/step, and the next term of order step⁴.
    close(jax.jit(jax.vmap(difference))(jnp.eye(theta.size)), hessian, tolerance=1e-10)
    vector = jr.normal(jr.key(7), (landscape.dimension,))
    close(landscape.hessian_vector_product(theta, vector), hessian @ vector)


def test_least_squares_closed_forms():
    """H = XᵀX/N + λ, ∇L(θ*) = 0, Σ = (1/N) Σ r_i² x_i x_iᵀ − ∇L∇Lᵀ at λ = 0."""
    landscape = DATA_LANDSCAPES["least_squares"]()
    x, y = landscape.data
    theta = point(landscape)
    close(landscape.hessian(theta), x.T @ x / NUM)
    residual = x @ theta - y
    second = (x * residual[:, None] ** 2).T @ x / NUM
    gradient = landscape.gradient(theta)
    close(landscape.gradient_covariance(theta), second - jnp.outer(gradient, gradient), 10)
    for l2 in (0.0, 0.4):
        penalised = DATA_LANDSCAPES["least_squares"](l2=l2)
        close(penalised.gradient(penalised.minimum()), np.zeros(3))
        close(penalised.hessian(theta), x.T @ x / NUM + l2 * np.eye(3))


def test_least_squares_minimum_is_the_shortest_when_there_are_many():
    """More features than examples: θ* = X⁺y interpolates with the least norm."""
    x = jr.normal(jr.key(8), (3, 5))
    landscape = LeastSquares(x, jnp.ones(3))
    close(landscape.minimum(), np.linalg.pinv(x) @ np.ones(3), tolerance=1e-10)


def test_logistic_regression_is_minus_log_softmax():
    """ℓ_i = −log softmax(Wx_i + b)_{y_i}; two classes are the softmax of (0, w·x + b)."""
    three = DATA_LANDSCAPES["logistic_three"]()
    theta = point(three)
    weights, bias = np.asarray(theta[:6]).reshape(2, 3), np.asarray(theta[6:])
    logits = np.asarray(inputs(2)) @ weights + bias
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(NUM), np.arange(NUM) % 3]
    close(three.example_losses(theta), expected)
    two = DATA_LANDSCAPES["logistic_two"]()
    theta = np.asarray(point(two))
    logit = np.asarray(inputs(2)) @ theta[:2] + theta[2]
    expected = np.log(1 + np.exp(logit)) - logit * (np.arange(NUM) % 2)
    close(two.example_losses(jnp.asarray(theta)), expected)


def test_logistic_hessian_is_that_of_the_bernoulli_model():
    """H = (1/N) Σ p_i(1 − p_i) x̃_i x̃_iᵀ with x̃ = (x, 1)."""
    landscape = DATA_LANDSCAPES["logistic_two"]()
    theta = point(landscape)
    x = np.column_stack([inputs(2), np.ones(NUM)])
    p = 1 / (1 + np.exp(-x @ np.asarray(theta)))
    close(landscape.hessian(theta), (x * (p * (1 - p))[:, None]).T @ x / NUM)


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
    one_by_one = [cross_entropy(model(x), y) for x, y in zip(inputs(2), labels(3), strict=True)]
    close(landscape.example_losses(landscape.initial), jnp.stack(one_by_one))
    assert landscape.dimension == sum(leaf.size for leaf in jax.tree.leaves(landscape.initial))


def test_empirical_risk_of_a_linear_model_is_least_squares():
    """ℓ = ½|Wx − y|² of eqx.nn.Linear without bias: the same L, ∇L, Σ as `LeastSquares`."""
    x, y = inputs(3), inputs(3)[:, 0] + 1
    model = eqx.nn.Linear(3, "scalar", use_bias=False, key=jr.key(9))
    risk, exact = EmpiricalRisk(model, x, y, squared_error), LeastSquares(x, y)
    theta = point(exact)
    close(risk.example_losses(theta), exact.example_losses(theta))
    close(risk.gradient(theta), exact.gradient(theta))
    close(risk.gradient_covariance(theta), exact.gradient_covariance(theta))


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
def test_everything_stays_in_the_dtype_of_theta(make):
    """float32 data give float32 L, ∇L, Σ, ĝ and noise, also next to float64 numbers."""
    landscape = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, make()
    )
    theta = point(landscape).astype(jnp.float32)
    z = jnp.ones(landscape.noise_dimension, jnp.float32)
    batch = jnp.zeros(2, int)
    results = {
        "loss": landscape.loss(theta),
        "gradient": landscape.gradient(theta),
        "minibatch_gradient": landscape.minibatch_gradient(theta, batch),
        "gradient_covariance": landscape.gradient_covariance(theta),
        "covariance_root": landscape.covariance_root(theta),
        "noisy_gradient": landscape.noisy_gradient(theta, z, jnp.asarray(0.1, jnp.float64)),
        "hessian": landscape.hessian(theta),
    }
    assert {name: str(x.dtype) for name, x in results.items()} == dict.fromkeys(results, "float32")


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear


def stateful_model():
    model, _ = eqx.nn.make_with_state(
        lambda: Stateful(
            eqx.nn.BatchNorm(2, "batch", mode="batch"), eqx.nn.Linear(2, 1, key=jr.key(0))
        )
    )()
    return model


def dropout_model():
    return eqx.nn.Sequential([eqx.nn.Linear(2, 3, key=jr.key(0)), eqx.nn.Dropout(0.5)])


NAN = jnp.ones((NUM, 2)).at[3, 1].set(jnp.nan)
BAD = {
    "nan": (lambda: LeastSquares(NAN, jnp.ones(NUM)), r"inputs has 1 entries.*\(3, 1\)"),
    "infinite": (lambda: LeastSquares(inputs(2), jnp.full(NUM, jnp.inf)), "targets has 8"),
    "lengths": (lambda: LeastSquares(inputs(2), jnp.ones(7)), r"\(8, 2\) and \(7,\)"),
    "empty": (lambda: LeastSquares(jnp.ones((0, 2)), jnp.ones(0)), "N = 0"),
    "target_rank": (lambda: LeastSquares(inputs(2), jnp.ones((NUM, 1))), r"shape \(N,\)"),
    "input_rank": (lambda: LeastSquares(inputs(), jnp.ones(NUM)), r"inputs \(N, d\)"),
    "dtypes": (
        lambda: LeastSquares(inputs(2).astype(jnp.float32), jnp.ones(NUM)),
        "inputs are float32 and targets float64",
    ),
    "negative_l2": (lambda: LeastSquares(inputs(2), jnp.ones(NUM), l2=-1.0), "l2 must be.*-1.0"),
    "one_class": (lambda: LogisticRegression(inputs(2), jnp.zeros(NUM)), "num_classes=1"),
    "negative_label": (lambda: LogisticRegression(inputs(2), labels(2) - 1), "labels -1…0"),
    "large_label": (
        lambda: LogisticRegression(inputs(2), labels(3), num_classes=2),
        "labels 0…2 and num_classes=2",
    ),
    "fractional_label": (lambda: LogisticRegression(inputs(2), labels(2) / 2), "must be integers"),
    "logistic_inputs": (
        lambda: LogisticRegression(inputs(2, 2), labels(2)),
        r"inputs \(N, features\)",
    ),
    "batch_norm": (
        lambda: EmpiricalRisk(stateful_model(), inputs(2), labels(2), cross_entropy),
        "BatchNorm carries running state.*no finite sum",
    ),
    "dropout": (
        lambda: EmpiricalRisk(dropout_model(), inputs(2), labels(2), cross_entropy),
        "active dropout.*inference_mode",
    ),
    "no_parameters": (
        lambda: EmpiricalRisk(eqx.nn.Identity(), inputs(2), labels(2), cross_entropy),
        "nothing to train",
    ),
    "vector_loss": (
        lambda: EmpiricalRisk(mlp(), inputs(2), labels(3), lambda p, y: p - y),
        r"one float64 scalar an example; got shape \(3,\)",
    ),
    "model_dtype": (
        lambda: EmpiricalRisk(mlp(dtype=jnp.float32), inputs(2), labels(3), cross_entropy),
        "parameters are.*float32.*inputs float64",
    ),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value."""
    with pytest.raises(ValueError, match=match):
        make()


def test_dropout_that_is_switched_off_is_accepted():
    """eqx.nn.inference_mode(model) is stateless and deterministic."""
    model = eqx.nn.inference_mode(dropout_model())
    landscape = EmpiricalRisk(model, inputs(2), labels(3), cross_entropy)
    close(landscape.loss(landscape.initial), landscape.example_losses(landscape.initial).mean())
