"""Population least squares: closed forms against exact Gaussian quadrature."""

import itertools
from statistics import NormalDist

import closed_forms
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call

from sde_sgd.landscapes import PopulationLeastSquares
from sde_sgd.random.draws import Draws

A = np.array([[1.0, 0.3], [0.3, 0.5]])
MINIMUM = np.array([0.4, -0.7])
THETA = np.array([1.1, 0.2])
SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
CASES = {
    "general": (A, 0.6, THETA),
    "at_the_minimum": (A, 0.6, MINIMUM),
    "no_label_noise": (A, 0.0, THETA),
    "no_noise_at_all": (A, 0.0, MINIMUM),
    "singular": (SINGULAR, 0.6, THETA),
}
cases = pytest.mark.parametrize(("features", "noise", "theta"), CASES.values(), ids=CASES)


def close(actual, expected, tolerance=1e-12):
    size = max(1.0, np.max(np.abs(expected), initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * size)


def closed_form(features, noise, theta):
    """Σ = (σ² + δᵀAδ) A + A δδᵀ A."""
    delta = theta - MINIMUM
    pushed = features @ delta
    return (noise**2 + delta @ pushed) * features + np.outer(pushed, pushed)


@cases
def test_mean_and_covariance_of_one_example(features, noise, theta):
    """E ℓ = L, E ∇ℓ = ∇L, Cov ∇ℓ = Σ, by a Gauss–Hermite rule exact for these polynomials."""
    landscape = PopulationLeastSquares(features, noise, MINIMUM)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    z = np.array(list(itertools.product(nodes, repeat=3)))
    weight = np.array([np.prod(w) for w in itertools.product(weights, repeat=3)])
    eigenvalues, basis = np.linalg.eigh(features)
    x = z[:, :2] @ (basis * np.sqrt(np.maximum(eigenvalues, 0))).T
    examples = x, x @ MINIMUM + noise * z[:, 2]

    def compute(landscape, theta, examples):
        example_losses = jax.vmap(landscape.example_loss, (None, 0))(theta, examples)
        rows = jax.vmap(jax.grad(landscape.example_loss), (None, 0))(theta, examples)
        loss, gradient = landscape.loss(theta), landscape.gradient(theta)
        return example_losses, rows, loss, gradient, landscape.gradient_covariance(theta)

    losses, gradients, loss, gradient, sigma = call(compute, landscape, theta, examples)
    close(loss, weight @ losses)
    mean = weight @ gradients
    close(gradient, mean)
    covariance = (gradients - mean).T @ (weight[:, None] * (gradients - mean))
    close(sigma, covariance)
    close(covariance, closed_form(features, noise, theta))


@cases
def test_noise_operator_has_covariance_sigma(features, noise, theta):
    """z ↦ ∇L + a·Rz with R Rᵀ = Σ(θ), R (d, rank A)."""
    landscape = PopulationLeastSquares(features, noise, MINIMUM)
    num = landscape.noise_dimension
    assert num == np.linalg.matrix_rank(features)
    root = call(landscape.covariance_root, theta)
    close(root @ root.T, closed_form(features, noise, theta))
    gradient = call(landscape.gradient, theta)
    noisy = jax.vmap(landscape.noisy_gradient, in_axes=(None, 0, None))
    columns = call(noisy, theta, np.eye(num), 2.0) - gradient
    close(columns.T, 2 * root)


@cases
def test_root_has_finite_derivatives(features, noise, theta):
    """∂R/∂θ has no NaN, forwards and backwards, not even where R = 0."""
    landscape = PopulationLeastSquares(features, noise, MINIMUM)

    def both(theta):
        return [d(landscape.covariance_root)(theta) for d in (jax.jacfwd, jax.jacrev)]

    assert np.isfinite(call(both, theta)).all()


def test_hessian_is_the_feature_covariance():
    """∇²L = A, ∇L(θ*) = 0, L(θ*) = σ²/2."""
    landscape = PopulationLeastSquares(A, 0.6, MINIMUM)
    close(call(landscape.hessian, THETA), A)
    close(call(landscape.gradient, landscape.minimum()), np.zeros(2))
    close(call(landscape.loss, landscape.minimum()), 0.18)
    assert landscape.num_examples is None and landscape.dimension == 2


def test_theory_is_the_fixed_point_of_this_landscape():
    """M = (I − ηA)M(I − ηA) + (η²/B) E_M Σ(θ* + δ), with E_M by a rule of degree three."""
    eta, batch = 0.5, 4
    landscape = PopulationLeastSquares(np.diag([1.0, 0.5]), 1.0)
    m = closed_forms.population(
        landscape.feature_covariance, label_noise=1.0, learning_rate=eta, batch_size=batch
    )
    np.testing.assert_allclose(np.diag(m), [0.104247, 0.084942], rtol=0, atol=1e-6)
    columns = np.sqrt(2) * np.linalg.cholesky(m).T
    sigma = call(jax.vmap(landscape.gradient_covariance), np.concatenate([columns, -columns]))
    shrink = np.eye(2) - eta * call(landscape.hessian, jnp.zeros(2))
    close(shrink @ m @ shrink + eta**2 / batch * sigma.mean(axis=0), m)


def test_minibatch_gradient_is_the_mean_of_its_examples():
    """ĝ_B = (1/B) Σ (x_i·θ − y_i) x_i."""
    landscape = PopulationLeastSquares(A, 0.6, MINIMUM)
    x, y = landscape.draw_examples(Draws.create(jr.key(0), jnp.arange(3)), 5)
    expected = ((x[1] @ THETA - y[1])[:, None] * x[1]).mean(axis=0)
    close(call(landscape.minibatch_gradient, THETA, (x[1], y[1])), expected)


def test_examples_belong_to_their_member():
    """(members, B, d) and (members, B), the same alone, under vmap, and other at other times."""
    landscape = PopulationLeastSquares(A, 0.6, MINIMUM)
    x, y = landscape.draw_examples(Draws.create(jr.key(0), jnp.arange(6), 7), 4)
    assert x.shape == (6, 4, 2) and y.shape == (6, 4)
    one_x, one_y = jax.vmap(
        lambda member: landscape.draw_examples(Draws.create(jr.key(0), member, 7), 4)
    )(jnp.arange(6))
    close(one_x, x)
    close(one_y, y)
    later, _ = landscape.draw_examples(Draws.create(jr.key(0), jnp.arange(6), 8), 4)
    assert not bool(jnp.any(later == x))


def test_examples_have_the_law_of_the_population():
    """(x, y) has covariance [[A, Aθ*], [θ*ᵀA, θ*ᵀAθ* + σ²]]; a label noise of √2 σ is found out."""
    noise, members, batch = 0.6, 256, 256
    landscape = PopulationLeastSquares(A, noise, MINIMUM)
    x, y = landscape.draw_examples(Draws.create(jr.key(11), jnp.arange(members)), batch)
    rows = np.concatenate([x, y[..., None]], axis=-1).reshape(-1, 3)
    sample = rows.T @ rows / len(rows)
    entries = np.triu_indices(3)
    # Šidák over the six entries at a failure rate of 2e-5.
    level = 1 - (1 - 2e-5) ** (1 / len(entries[0]))
    threshold = NormalDist().inv_cdf(1 - level / 2)

    def largest_z(noise):
        joint = np.block(
            [[A, (A @ MINIMUM)[:, None]], [A @ MINIMUM, MINIMUM @ A @ MINIMUM + noise**2]]
        )
        variance = (np.outer(np.diag(joint), np.diag(joint)) + joint**2) / len(rows)
        return np.max(np.abs(sample - joint)[entries] / np.sqrt(variance)[entries])

    assert largest_z(noise) < threshold
    assert largest_z(np.sqrt(2) * noise) > threshold


def test_everything_stays_in_float32():
    """A float32 A gives float32 L, ∇L, Σ, examples and noise, and Σ to its rounding."""
    landscape = PopulationLeastSquares(A.astype(jnp.float32), 0.6, MINIMUM)
    theta = THETA.astype(jnp.float32)
    examples = landscape.draw_examples(Draws.create(jr.key(0), jnp.arange(3)), 2)
    first = jax.tree.map(lambda leaf: leaf[0], examples)
    values = (
        call(landscape.loss, theta),
        call(landscape.gradient_covariance, theta),
        call(landscape.minibatch_gradient, theta, first),
        call(
            landscape.noisy_gradient, theta, jnp.ones(2, jnp.float32), jnp.asarray(0.1, jnp.float64)
        ),
        *examples,
    )
    assert {str(value.dtype) for value in values} == {"float32"}
    close(values[1], closed_form(A, 0.6, THETA), tolerance=1e-5)


BAD = {
    "negative": (lambda: PopulationLeastSquares(-A, 1.0), "feature_covariance.*semidefinite"),
    "shape": (lambda: PopulationLeastSquares(jnp.ones((2, 3)), 1.0), r"\(d, d\).*\(2, 3\)"),
    "asymmetric": (lambda: PopulationLeastSquares(jnp.triu(A), 1.0), "symmetric"),
    "nan": (lambda: PopulationLeastSquares(A * jnp.nan, 1.0), "feature_covariance has 4"),
    "noise": (lambda: PopulationLeastSquares(A, -1.0), "label_noise.*-1.0"),
    "minimum": (lambda: PopulationLeastSquares(A, 1.0, jnp.ones(3)), r"minimum.*\(2,\).*\(3,\)"),
    "minimum_nan": (lambda: PopulationLeastSquares(A, 1.0, MINIMUM / 0), "minimum has 2"),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value."""
    with pytest.raises(ValueError, match=match):
        make()
