"""The autoencoder's groups, symmetry and first step, against its own gradients and matrices."""

import jax
import jax.numpy as jnp
import numpy as np

import sde_sgd as ss
from experiments import _autoencoder as problem

SIZE = problem.Size(3, 2, 24, 0.5)
THETA = np.random.default_rng(0).normal(size=(5, 12)) / 2


def test_matrices_are_the_models():
    """W₁, W₂, tr W₂W₁ and the output of θ are those of the Equinox model."""
    landscape, x = problem.landscape(SIZE), problem.shown_input(SIZE)
    for theta in THETA:
        model = landscape.model(jnp.asarray(theta))
        first, second = problem.matrices(SIZE, theta)
        np.testing.assert_array_equal(first, model.encoder)
        np.testing.assert_array_equal(second, model.decoder)
        np.testing.assert_allclose(problem.trace(SIZE, theta), np.trace(second @ first))
        np.testing.assert_allclose(problem.share(SIZE, theta), x @ model(x) / (x @ x))
    cosine = problem.alignment(SIZE, np.concatenate([first.ravel(), first.T.ravel()]))
    np.testing.assert_allclose(cosine, 1.0)


def test_groups_are_exchanged_with_the_units():
    """L is unchanged if hidden units change places or signs; each group is mapped to itself."""
    landscape, groups = problem.landscape(SIZE), problem.groups(SIZE)
    assert sorted(np.concatenate(groups)) == list(range(12)) and len(groups) == 6
    swapped, flipped = THETA.copy(), THETA.copy()
    for index in groups:
        swapped[:, index] = THETA[:, index[::-1]]
        flipped[:, index[0]] *= -1
    loss = jax.vmap(landscape.loss)
    own = loss(jnp.asarray(THETA))
    for other in (swapped, flipped):
        np.testing.assert_allclose(loss(jnp.asarray(other)), own, rtol=1e-12)
    # Control: in one matrix alone a change of places is seen.
    swapped[:, 6:] = THETA[:, 6:]
    assert np.abs(loss(jnp.asarray(swapped)) - own).min() > 1e-3


def test_trace_after_one_step():
    """E tr(W₂W₁) over all 24² batches of two at fixed θ, and its growth from the start."""
    landscape, eta = problem.landscape(SIZE), 0.3
    theta = jnp.asarray(THETA[0])
    gradients = np.asarray(landscape.example_gradients(theta))
    pairs = (gradients[:, None] + gradients[None]) / 2
    exact = problem.trace(SIZE, THETA[0] - eta * pairs).mean()
    found = float(problem.trace_after_step(SIZE, eta, 2)(theta))
    np.testing.assert_allclose(found, exact, rtol=1e-10)
    # Control: the full gradient alone, without the covariance of the batch.
    full = problem.trace(SIZE, THETA[0] - eta * gradients.mean(axis=0))
    assert abs(full - exact) > 1e-3
    # From the start it grows as 2ηs² for each of the six pairs, less the bend of tanh.
    grown = problem.one_step_trace(SIZE, 0.1, 4, 100, 2**11)
    assert 0.1 < grown < 6 * 2 * 0.1 * SIZE.spread**2


def test_closure_does_not_learn():
    """Under a product of symmetric laws E L ≥ L(0); the truth with correlated matrices is below."""
    landscape, groups = problem.landscape(SIZE), problem.groups(SIZE)
    points = ss.theory.matrices.product_points(problem.starts(SIZE, 100), groups, 2**11)
    mean = jax.jit(lambda x: jnp.mean(jax.vmap(landscape.loss)(x)))
    zero = float(landscape.loss(jnp.zeros(12)))
    assert float(mean(jnp.asarray(points))) > zero
    tied = points.copy()
    first, _ = problem.matrices(SIZE, points)
    tied[:, 6:] = first.transpose(0, 2, 1).reshape(-1, 6)
    assert float(mean(jnp.asarray(tied))) < zero - 0.2


def test_variation_of_cells():
    """½Σ|p̂ − p|: 0 of a law from itself, and what an exact shift of mass makes of a sample."""
    law = problem.starts(SIZE, 100)[0]
    assert problem.variation(law, law) == 0
    sample = np.repeat([-0.1, 0.1], [30, 70])
    other = np.repeat([-0.1, 0.1], [55, 45])
    np.testing.assert_allclose(problem.variation(sample, other), 0.25)
