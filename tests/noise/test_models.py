"""Noise models at the edges: every batch enumerated, curvature of both signs, odd inputs."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from tools import call, normal

import sde_sgd as ss
from sde_sgd.noise.models import covariance_operator

THETA = jnp.array([0.4, -0.7, 0.2])


def least_squares(num=6, l2=0.1):
    inputs = normal(0, num, 3)
    return ss.LeastSquares(inputs, np.sin(inputs[:, 0]) + inputs[:, 1] ** 2, l2=l2)


def tilted():
    """A potential of N = 5 tilts, whose noise is drawn from rank(Σ) = 2 numbers."""
    tilts = np.random.default_rng(0).normal(size=(5, 2)) @ np.array([[1.0, 0, 2], [0, 1, -1]])
    return ss.Potential(lambda x: jnp.sum(x**4), tilts=jnp.asarray(tilts - tilts.mean(0)))


def logistic():
    return ss.LogisticRegression(normal(1, 6, 2), np.arange(6) % 2)


def close(actual, expected, tolerance=1e-12):
    scale = max(np.max(np.abs(expected)), 1e-300)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def enumerated(landscape, batches):
    """Cov(ĝ_B) over equally likely batches."""
    rows = call(landscape.example_gradients, THETA)
    return np.cov(rows[np.array(list(batches))].mean(1).T, bias=True)


@pytest.mark.parametrize("make", [least_squares, logistic, tilted])
@pytest.mark.parametrize("batch", [1, 3])
def test_minibatch_noise_is_the_covariance_of_all_batches(make, batch):
    """C(θ) = Cov(ĝ_B) over all N^B batches, or all subsets; the other scheme's is not."""
    landscape = make()
    everyone = range(landscape.num_examples)
    exact = {
        ss.WithReplacement: enumerated(landscape, itertools.product(everyone, repeat=batch)),
        ss.WithoutReplacement: enumerated(landscape, itertools.combinations(everyone, batch)),
    }
    exact[ss.RandomReshuffling] = exact[ss.WithoutReplacement]

    def compute(landscape, theta, noise):
        root = noise.diffusion(theta, landscape).as_matrix()
        stated = noise.covariance(theta, landscape)
        return stated, covariance_operator(noise, theta, landscape), root @ root.T

    models = [ss.MinibatchNoise(scheme(batch)) for scheme in exact]
    found = call(lambda *at: [compute(*at, noise) for noise in models], landscape, THETA)
    for computed, covariance in zip(found, exact.values(), strict=True):
        for one in computed:
            close(one, covariance)
    if batch > 1:
        difference = exact[ss.WithReplacement] - exact[ss.WithoutReplacement]
        assert np.abs(difference).max() > 1e-2 * np.abs(exact[ss.WithReplacement]).max()


def test_full_batches_have_no_noise():
    """B = N without replacement: C = 0 and the noisy gradient is ∇L, whatever z."""
    landscape = least_squares()
    noise = ss.MinibatchNoise(ss.WithoutReplacement(6))
    z = jnp.ones(noise.dimension(landscape))
    np.testing.assert_array_equal(call(noise.covariance, THETA, landscape), np.zeros((3, 3)))
    close(call(noise.noisy_gradient, THETA, z, 1.0, landscape), call(landscape.gradient, THETA))


def test_only_shuffled_epochs_are_not_white():
    """White noise of one step's strength is the whole story but for RandomReshuffling."""
    assert ss.MinibatchNoise(ss.WithReplacement(2)).white
    assert ss.MinibatchNoise(ss.WithoutReplacement(2)).white
    assert not ss.MinibatchNoise(ss.RandomReshuffling(2)).white


MODELS = {
    "minibatch": ss.MinibatchNoise(ss.WithReplacement(4)),
    "constant": ss.ConstantNoise(np.diag([1.0, 0.5, 0.0])),
    "isotropic": ss.IsotropicNoise(ss.WithReplacement(4)),
    "diagonal": ss.DiagonalNoise(ss.WithReplacement(4)),
    "hessian": ss.HessianNoise(0.3),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", [least_squares, tilted])
def test_noise_is_affine_in_its_numbers(name, make):
    """noisy_gradient(θ, z, a) = ∇L + a·R(θ) z, R the operator of `diffusion`, column by column."""
    landscape, noise = make(), MODELS[name]
    z = jnp.asarray(normal(2, noise.dimension(landscape)))
    amplitudes = (0.0, -1.0, 2.5)

    def compute(landscape, theta, z):
        noisy = [noise.noisy_gradient(theta, z, amplitude, landscape) for amplitude in amplitudes]
        return landscape.gradient(theta), noise.diffusion(theta, landscape).mv(z), noisy

    gradient, along, noisy = call(compute, landscape, THETA, z)
    for amplitude, one in zip(amplitudes, noisy, strict=True):
        close(one, gradient + amplitude * along)


@pytest.mark.parametrize("name", MODELS)
def test_additive_means_independent_of_theta(name):
    """`additive` is set exactly where C(θ) does not move."""
    landscape, noise = least_squares(), MODELS[name]
    moved = call(noise.covariance, 2 * THETA, landscape) - call(noise.covariance, THETA, landscape)
    # A quadratic's Hessian is constant as well; in general it is not.
    if name == "hessian":
        moved = call(noise.covariance, 2 * THETA, tilted()) - call(
            noise.covariance, THETA, tilted()
        )
    assert noise.additive == bool(jnp.all(moved == 0))


def test_isotropic_noise_keeps_the_trace():
    """C = (c tr Σ/d) I: the trace of the minibatch noise, and no direction."""
    landscape, scheme = logistic(), ss.WithoutReplacement(2)
    full = call(ss.MinibatchNoise(scheme).covariance, THETA, landscape)
    close(
        call(ss.IsotropicNoise(scheme).covariance, THETA, landscape), np.trace(full) / 3 * np.eye(3)
    )


def test_hessian_noise_drops_negative_curvature():
    """H⁺ of the saddle diag(2, −3) is diag(2, 0); C = scale·H⁺, with times_loss scale·2L·H⁺."""
    saddle = ss.quadratic(np.diag([2.0, -3.0]), 1.0)
    theta = jnp.array([1.5, 0.5])
    loss = 0.5 * (2 * 1.5**2 - 3 * 0.5**2)
    close(call(ss.HessianNoise(0.25).covariance, theta, saddle), np.diag([0.5, 0.0]))
    shortcut = ss.HessianNoise(0.25, times_loss=True)
    close(call(shortcut.covariance, theta, saddle), 2 * loss * np.diag([0.5, 0.0]))
    close(call(covariance_operator, shortcut, theta, saddle), 2 * loss * np.diag([0.5, 0.0]))


def test_hessian_noise_times_loss_is_moris_form():
    """(2L/B) H at the minimum of least squares (Mori et al. 2021)."""
    landscape = least_squares(l2=0.0)
    best = landscape.minimum()
    expected = 2 * call(landscape.loss, best) / 8 * call(landscape.hessian, best)
    close(call(ss.HessianNoise(1 / 8, True).covariance, best, landscape), expected)


def test_constant_noise_of_integers():
    """C = [[2, 1], [1, 2]] given in integers has its own root, not one cut to integers."""
    exact = np.array([[2, 1], [1, 2]])
    noise = ss.ConstantNoise(exact)
    landscape = ss.quadratic(np.eye(2), 1.0)
    close(covariance_operator(noise, jnp.zeros(2), landscape), exact)
    close(ss.ConstantNoise([[2.0, 1], [1, 2]]).root, noise.root)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_constant_noise_is_checked_at_its_own_size(size):
    """Asymmetry and negative eigenvalues count relative to C, whatever its units."""
    good = size * np.array([[1.0, 0.5], [0.5, 1.0]])
    close(call(ss.ConstantNoise(good).covariance, jnp.zeros(2), least_squares()), good)
    with pytest.raises(ValueError, match="symmetric"):
        ss.ConstantNoise(size * np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="semi-definite"):
        ss.ConstantNoise(size * np.array([[1.0, 2.0], [2.0, 1.0]]))


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((2, 3)), np.ones((0, 0)), np.float64(1.0)])
def test_constant_noise_needs_a_matrix(bad):
    """C is (d, d)."""
    with pytest.raises(ValueError, match=r"\(d, d\)"):
        ss.ConstantNoise(bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_constant_noise_is_finite(bad):
    """NaN and infinities are found, with their place."""
    with pytest.raises(ValueError, match="NaN or infinite"):
        ss.ConstantNoise(np.array([[1.0, 0.0], [0.0, bad]]))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, np.ones(2)])
def test_hessian_noise_needs_a_scale(scale):
    """0 < scale < ∞, one number."""
    with pytest.raises((ValueError, TypeError), match="scale"):
        ss.HessianNoise(scale)
    assert ss.HessianNoise(1).scale == 1.0


def test_frozen_noise_is_the_noise_of_its_point():
    """ConstantNoise.at(θ) has C = c Σ(θ) everywhere."""
    landscape, scheme = logistic(), ss.WithoutReplacement(2)
    frozen = ss.ConstantNoise.at(landscape, THETA, scheme)
    exact = enumerated(landscape, itertools.combinations(range(6), 2))
    for theta in (THETA, 3 * THETA):
        close(call(covariance_operator, frozen, theta, landscape), exact)
    with pytest.raises(ValueError, match="d=3"):
        ss.ConstantNoise(np.eye(2)).check(landscape)
