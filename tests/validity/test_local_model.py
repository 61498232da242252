"""The moments, cumulants and correlations behind the verdict, against independent exact values."""

import itertools

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from momentum_law import MomentumLaw
from tools import call

import sde_sgd as ss
from sde_sgd.validity.cumulants import batch_shape, epoch_ratio
from sde_sgd.validity.examples import Examples
from sde_sgd.validity.local_model import impulse_response, LocalModel, Settings
from sde_sgd.validity.probes import example_models, norms

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(12, 3))
TARGETS = GENERATOR.normal(size=12)
START = np.array([0.7, -0.4, 0.2])


def least_squares_model():
    """p_i = (x_i·θ₀ − y_i) x_i and H_i = x_i x_iᵀ: the model is the landscape itself."""
    slopes = (INPUTS @ START - TARGETS)[:, None] * INPUTS
    return LocalModel(slopes, INPUTS[:, :, None] * INPUTS[:, None, :])


@pytest.mark.parametrize("factor", [1 / 4, (12 - 4) / (4 * 11)])
def test_laws_are_those_of_least_squares(factor):
    """Mean and covariance after 7 steps: theory's closure at h = η (SGD) and h = 0 (SDE)."""
    eta, steps = 0.11, 7
    sgd, sde = least_squares_model().moments().laws(Settings(eta, factor, 0.0, steps))
    for law, step, other in ((sgd, eta, 0.0), (sde, 0.0, eta)):
        exact, wrong = (
            closed_forms.transient(
                INPUTS,
                TARGETS,
                learning_rate=eta,
                noise_factor=factor,
                time_step=h,
                times=[eta * steps],
                theta0=START,
            )
            for h in (step, other)
        )
        np.testing.assert_allclose(law.mean + START, exact.mean[0], rtol=1e-9)
        np.testing.assert_allclose(law.covariance, exact.covariance[0], rtol=1e-8, atol=1e-13)
        assert np.abs(law.covariance / wrong.covariance[0] - 1).max() > 0.05


def test_laws_with_momentum():
    """Heavy ball on least squares as in theory; underdamped with constant noise as MomentumLaw."""
    eta, mu, steps = 0.05, 0.6, 9
    model = least_squares_model()
    sgd, _ = model.moments().laws(Settings(eta, 0.25, mu, steps))
    exact = closed_forms.transient(
        INPUTS,
        TARGETS,
        learning_rate=eta,
        noise_factor=0.25,
        time_step=eta,
        times=[eta * steps],
        theta0=START,
        momentum=mu,
    )
    np.testing.assert_allclose(sgd.mean + START, exact.mean[0], rtol=1e-9)
    np.testing.assert_allclose(sgd.covariance, exact.covariance[0], rtol=1e-8, atol=1e-13)

    hessian = model.hessian
    constant = LocalModel(model.slopes, np.broadcast_to(hessian, model.curvatures.shape))
    spread = np.cov(model.slopes.T, bias=True)
    for law, kind in zip(
        constant.moments().laws(Settings(eta, 0.25, mu, steps)),
        ("heavy_ball", "underdamped"),
        strict=True,
    ):
        theory = MomentumLaw.of(kind, hessian, 0.25 * spread, learning_rate=eta, momentum=mu)
        minimum = -np.linalg.solve(hessian, model.slope)
        moved = theory.transient([eta * steps], np.zeros(3), minimum)
        np.testing.assert_allclose(law.mean, moved.mean[0], rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(law.covariance, moved.covariance[0], rtol=1e-8, atol=1e-13)


def test_growth_is_mean_square_stability():
    """Spectral radius of the second moments below 1 up to theory's largest rate, above beyond."""
    model = least_squares_model()
    most = closed_forms.largest_stable(INPUTS, noise_factor=0.5)
    assert most < 2 / np.linalg.eigvalsh(model.hessian)[-1]
    assert model.moments().growth(Settings(0.99 * most, 0.5, 0.0, 1)) < 1
    assert model.moments().growth(Settings(1.01 * most, 0.5, 0.0, 1)) > 1


def test_impulse_response_is_the_recursion():
    """The weights of ξ_k in z_K, one kick at a time through v ← μv + hz + ξ, z ← z − ηv."""
    eta, mu, h, steps = 0.3, 0.7, 1.1, 6
    expected = []
    for kick in range(steps):
        z = v = 0.0
        for k in range(steps):
            v = mu * v + h * z + (k == kick)
            z = z - eta * v
        expected.append(-z)
    np.testing.assert_allclose(impulse_response(h, eta, mu, steps), expected, rtol=1e-12)
    plain = eta * (1 - eta * h) ** np.arange(steps)[::-1]
    np.testing.assert_allclose(impulse_response(h, eta, 0.0, steps), plain, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_batch_shape_is_that_of_all_batches(size):
    """Deviation, skewness, kurtosis and reach of every subset and every tuple of 6 numbers."""
    values = np.array([3.0, -1.0, 0.5, 0.2, -2.0, 1.3])
    every = {
        ss.WithoutReplacement(size): itertools.combinations(values, size),
        ss.WithReplacement(size): itertools.product(values, repeat=size),
    }
    for sampling, batches in every.items():
        means = np.array([np.mean(b) for b in batches]) - values.mean()
        found = batch_shape(values, sampling)
        spread = means.std()
        assert found.deviation == pytest.approx(spread, rel=1e-12)
        assert found.skewness == pytest.approx(np.mean(means**3) / spread**3, rel=1e-10)
        assert found.kurtosis == pytest.approx(np.mean(means**4) / spread**4 - 3, rel=1e-10)
        assert found.push == pytest.approx(min(means.max(), -means.min()) / spread, rel=1e-12)
    if size > 1:  # control: the cumulants of independent draws are not those of a subset
        independent = batch_shape(values, ss.WithReplacement(size))
        subset = batch_shape(values, ss.WithoutReplacement(size))
        assert abs(independent.kurtosis - subset.kurtosis) > 0.05
    assert ss.WithoutReplacement(6).joint_factor((2,), 6) == 0


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_epoch_ratio_is_kuhn_and_rosenow(momentum):
    """At every phase of the epoch: theory's covariance over that of independent batches."""
    eta, h, batches = 0.1, 0.8, 5
    exact = ss.theory.stationary.epoch_covariance(
        [[h]], [[1.0]], learning_rate=eta, batches_per_epoch=batches, momentum=momentum
    )
    white = ss.theory.stationary.momentum_covariance(
        [[h]], [[1.0]], learning_rate=eta, momentum=momentum
    )
    for phase in range(batches):
        weights = impulse_response(h, eta, momentum, 400 * batches + phase)
        found = epoch_ratio(weights, num_examples=20, batch_size=4)
        assert found == pytest.approx(exact.phases[phase, 0, 0] / white[0, 0], rel=1e-9)
        assert found < 0.9  # independent batches have 1


def test_example_models_and_norms():
    """Projected gradients and Hessians of every example, |∇L| and tr Σ, against dense ones."""
    x = jnp.asarray(INPUTS)
    landscape = ss.LogisticRegression(x, (INPUTS[:, 0] > 0).astype(int), l2=0.1)
    theta = jnp.asarray([0.3, -0.2, 0.5, 0.1])
    basis = np.linalg.qr(GENERATOR.normal(size=(4, 2)))[0]
    slopes, curvatures = example_models(landscape, theta, basis)
    gradients = call(landscape.example_gradients, theta)
    np.testing.assert_allclose(slopes, gradients @ basis, atol=1e-12)
    hessians = call(jax.jacfwd(landscape.example_gradients), theta)
    dense = np.einsum("nij,ia,jb->nab", hessians, basis, basis)
    np.testing.assert_allclose(curvatures, dense, atol=1e-12)
    found = norms(Examples(landscape, landscape, False), theta, gradients.mean(axis=0))
    assert found.gradient == pytest.approx(np.linalg.norm(gradients.mean(axis=0)), rel=1e-12)
    assert found.noise_trace == pytest.approx(gradients.var(axis=0).sum(), rel=1e-12)
