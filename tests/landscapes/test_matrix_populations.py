"""Matrix-valued populations: closed forms against exact Gaussian quadrature over the examples."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call

import sde_sgd as ss
from sde_sgd.landscapes.matrix_populations import symmetric_gaussian
from sde_sgd.random.draws import Draws

TEACHER = jnp.array([[1.0, 0.2, -0.4], [0.3, -0.7, 0.5]])
FEATURES = jnp.array([[1.0, 0.3, 0.1], [0.3, 0.8, -0.2], [0.1, -0.2, 0.5]])
THETA = jnp.array([0.3, -0.1, 0.2, 0.9, 0.4, -0.6])


def close(actual, expected, tolerance=1e-11):
    size = max(1.0, np.max(np.abs(expected), initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * size)


def rule(size, nodes=3):
    """Nodes (·, size) and weights of a Gauss–Hermite rule, exact to degree 2·nodes − 1 each."""
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    points = np.array(list(itertools.product(z, repeat=size)))
    weights = np.array([np.prod(w) for w in itertools.product(weight / weight.sum(), repeat=size)])
    return points, weights


def mean_and_covariance(landscape, theta, examples, weight):
    one = jax.tree.map(lambda leaf: leaf[:, None], examples)
    rows = call(jax.vmap(lambda e: landscape.minibatch_gradient(theta, e)), one)
    mean = weight @ rows
    return mean, (rows - mean).T @ (weight[:, None] * (rows - mean))


def test_teacher_student_gradient_and_covariance():
    """E ĝ = ∇L = d/dθ loss and Cov ĝ = Σ of every example; rows of W share their noise."""
    landscape = ss.landscapes.LinearTeacherStudent(TEACHER, 0.6, FEATURES)
    z, weight = rule(5)
    x = z[:, :3] @ np.linalg.cholesky(FEATURES).T
    y = x @ np.asarray(TEACHER).T + 0.6 * z[:, 3:]
    mean, covariance = mean_and_covariance(
        landscape, THETA, (jnp.asarray(x), jnp.asarray(y)), weight
    )
    close(call(landscape.gradient, THETA), mean)
    close(call(jax.grad(landscape.loss), THETA), mean)
    close(call(landscape.gradient_covariance, THETA), covariance)
    loss = 0.5 * weight @ ((x @ np.asarray(landscape.matrix(THETA)).T - y) ** 2).sum(axis=1)
    close(call(landscape.loss, THETA), loss)
    # Control: separate regressions for the rows would have no block between them.
    assert np.abs(covariance[:3, 3:]).max() > 0.05
    close(call(landscape.gradient, landscape.minimum()), np.zeros(6))


def test_one_row_is_population_least_squares():
    """m = 1: loss, gradient and Σ of `PopulationLeastSquares`."""
    row = ss.landscapes.LinearTeacherStudent(TEACHER[:1], 0.6, FEATURES)
    known = ss.landscapes.PopulationLeastSquares(FEATURES, 0.6, TEACHER[0])
    theta = THETA[:3]
    for name in ("loss", "gradient", "gradient_covariance"):
        close(call(getattr(row, name), theta), call(getattr(known, name), theta))


@pytest.mark.parametrize("kind", ["teacher", "machine"])
def test_noise_is_linear_with_covariance_sigma(kind):
    """noisy_gradient = ∇L + a R z with R Rᵀ = Σ, R (d, noise_dimension)."""
    if kind == "teacher":
        landscape, theta = ss.landscapes.LinearTeacherStudent(TEACHER, 0.6, FEATURES), THETA
    else:
        landscape = ss.landscapes.GaussianRBM(ss.landscapes.scalar_field_kernel(3, 2.0), 3.0, 2)
        theta = landscape.minimum() + 0.1 * THETA
    z = jnp.linspace(-1, 1, landscape.noise_dimension)
    root = call(landscape.covariance_root, theta)
    assert root.shape == (landscape.dimension, landscape.noise_dimension)
    close(
        call(landscape.noisy_gradient, theta, z, 0.7),
        call(landscape.gradient, theta) + 0.7 * root @ z,
    )


def test_symmetric_gaussian():
    """E S_ab S_cd = δ_ac δ_bd + δ_ad δ_bc from the columns, and of `symmetric_noise_covariance`."""
    columns = jax.vmap(lambda z: symmetric_gaussian(z, 3).ravel())(jnp.eye(6))
    close(columns.T @ columns, ss.landscapes.symmetric_noise_covariance(3, 1.0))
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    push = np.kron(rotation, rotation)
    close(push @ (columns.T @ columns) @ push.T, columns.T @ columns)


def test_boltzmann_gradient_and_covariance():
    """∇L is the derivative of −ln p's mean, E ĝ = ∇L and Cov ĝ = Σ over the field's Gauss rule."""
    machine = ss.landscapes.GaussianRBM(ss.landscapes.scalar_field_kernel(3, 2.0), 3.0, 2)
    theta = machine.minimum() + 0.1 * THETA
    z, weight = rule(3)
    fields = z @ np.linalg.cholesky(np.linalg.inv(machine.kernel)).T
    mean, covariance = mean_and_covariance(machine, theta, jnp.asarray(fields), weight)
    close(call(machine.gradient, theta), mean)
    close(call(jax.grad(machine.loss), theta), mean)
    close(call(machine.gradient_covariance, theta), covariance)
    # −ln p(φ), the normaliser by the determinant, averaged over the rule.
    model = 9 * np.eye(3) - np.asarray(machine.matrix(theta) @ machine.matrix(theta).T)
    values = 0.5 * np.einsum("na,ab,nb->n", fields, model, fields)
    close(call(machine.loss, theta), weight @ values - 0.5 * np.linalg.slogdet(model)[1])


def test_boltzmann_minimum_and_kernel():
    """κ_k = m² + 2 − 2cos(2πk/N); WWᵀ = μ² − κ on learnt modes; L = ∞ where K is not positive."""
    kernel = ss.landscapes.scalar_field_kernel(10, 2.0)
    exact = np.sort(4 + 2 - 2 * np.cos(2 * np.pi * np.arange(10) / 10))
    close(np.linalg.eigvalsh(kernel), exact)
    machine = ss.landscapes.GaussianRBM(kernel, 3.0)
    weights = np.asarray(machine.matrix(machine.minimum()))
    close(np.linalg.eigvalsh(weights @ weights.T), np.sort(9 - exact))
    close(call(machine.gradient, machine.minimum()), np.zeros(100))
    few = ss.landscapes.GaussianRBM(kernel, 2.2, 3)
    levels = np.linalg.svd(np.asarray(few.matrix(few.minimum())), compute_uv=False) ** 2
    close(np.sort(levels), np.sort(np.clip(2.2**2 - exact[:3], 0, None)), 1e-8)
    assert float(call(machine.loss, 10 * machine.minimum())) == np.inf
    assert not bool(jnp.isfinite(call(machine.gradient, 10 * machine.minimum())).all())


def test_gaussian_tilts():
    """∇L = ∇U, Σ as given, a batch of B has the gradient ∇U + mean tilt, tilts have the law."""
    covariance = ss.landscapes.symmetric_noise_covariance(2, 0.3)
    landscape = ss.landscapes.GaussianTilts(
        lambda x: 0.5 * jnp.sum(x**2) + jnp.sum(x**4), covariance
    )
    theta = jnp.array([0.1, -0.2, 0.3, 0.5])
    assert landscape.noise_dimension == 3
    close(call(landscape.gradient, theta), theta + 4 * theta**3)
    close(call(landscape.gradient_covariance, theta), covariance)
    draws = Draws.create(jr.key(5), jnp.arange(2000))
    tilts = jax.jit(lambda: landscape.draw_examples(draws, 8))()
    close(
        call(landscape.minibatch_gradient, theta, tilts[0]),
        call(landscape.gradient, theta) + tilts[0].mean(axis=0),
    )
    close(tilts[..., 1], tilts[..., 2])
    rows = np.asarray(tilts).reshape(-1, 4)
    sample, exact = rows.T @ rows / len(rows), np.asarray(covariance)
    error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / len(rows))
    assert np.abs((sample - exact) / error).max() < 5.2
    assert np.abs((sample - 2 * exact) / error).max() > 20


@pytest.mark.parametrize("kind", ["teacher", "machine"])
def test_examples_belong_to_their_member(kind):
    """(members, B, ...), the same alone and under vmap."""
    landscape = (
        ss.landscapes.LinearTeacherStudent(TEACHER, 0.6, FEATURES)
        if kind == "teacher"
        else ss.landscapes.GaussianRBM(ss.landscapes.scalar_field_kernel(4, 1.0), 3.0)
    )

    def draw(member):
        return landscape.draw_examples(Draws.create(jr.key(0), member, 7), 3)

    together, alone = jax.jit(lambda i: (draw(i), jax.vmap(draw)(i)))(jnp.arange(5))
    jax.tree.map(close, together, alone)
    assert all(leaf.shape[:2] == (5, 3) for leaf in jax.tree.leaves(together))


def test_examples_have_the_law_of_the_population():
    """(x, y) and φ have their covariances; a field without its kernel is found out."""
    landscape = ss.landscapes.LinearTeacherStudent(TEACHER, 0.6, FEATURES)
    draws = Draws.create(jr.key(2), jnp.arange(4000))
    x, y = jax.jit(lambda: landscape.draw_examples(draws, 8))()
    machine = ss.landscapes.GaussianRBM(ss.landscapes.scalar_field_kernel(4, 1.0), 3.0)
    cross = np.asarray(TEACHER @ FEATURES)
    output = cross @ np.asarray(TEACHER).T + 0.36 * np.eye(2)
    joint = np.block([[np.asarray(FEATURES), cross.T], [cross, output]])
    fields = np.asarray(jax.jit(lambda: machine.draw_examples(draws, 8))()).reshape(-1, 4)

    def largest(rows, exact):
        error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / len(rows))
        return np.abs((rows.T @ rows / len(rows) - exact) / error).max()

    pairs = np.concatenate([x, y], axis=-1).reshape(-1, 5)
    assert largest(pairs, joint) < 5.4
    assert largest(fields, np.linalg.inv(machine.kernel)) < 5.4
    assert largest(fields, np.eye(4)) > 20


BAD = {
    "vector": (
        lambda: ss.landscapes.LinearTeacherStudent(jnp.ones(3), 1.0),
        r"matrix \(m, n\).*\(3,\)",
    ),
    "features": (lambda: ss.landscapes.LinearTeacherStudent(TEACHER, 1.0, jnp.eye(2)), "3 inputs"),
    "singular": (
        lambda: ss.landscapes.LinearTeacherStudent(TEACHER, 1.0, jnp.ones((3, 3))),
        "rank 1",
    ),
    "noise": (lambda: ss.landscapes.LinearTeacherStudent(TEACHER, -1.0), "label_noise.*-1.0"),
    "kernel": (lambda: ss.landscapes.GaussianRBM(jnp.ones((2, 2)), 3.0), "positive definite"),
    "mass": (lambda: ss.landscapes.GaussianRBM(jnp.eye(2), 0.0), "mass"),
    "hidden": (lambda: ss.landscapes.GaussianRBM(jnp.eye(2), 1.0, 0), "num_hidden"),
    "ring": (
        lambda: ss.landscapes.scalar_field_kernel(2, 1.0),
        "size must be an integer ≥ 3; got 2",
    ),
    "massless": (lambda: ss.landscapes.scalar_field_kernel(5, 0.0), "mass"),
    "energy": (lambda: ss.landscapes.GaussianTilts(lambda x: x, jnp.eye(2)), "scalar"),
    "scale": (lambda: ss.landscapes.symmetric_noise_covariance(2, 0.0), "scale"),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value."""
    with pytest.raises(ValueError, match=match):
        make()
