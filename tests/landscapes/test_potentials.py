"""Analytic potentials: the tilts carry Σ, the energies have their documented stationary points."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tools import call, normal

from sde_sgd.landscapes import (
    double_well,
    mueller_brown,
    Potential,
    quadratic,
    sharp_and_flat_wells,
)

FACTOR = normal(0, 5, 5)
COVARIANCES = {
    "one_dimension": (np.array([[0.36]]), 1),
    "two_dimensions": (np.array([[1.0, 0.8], [0.8, 1.0]]), 2),
    "five_dimensions": (FACTOR @ FACTOR.T, 5),
    "rank_one": (np.array([[1.0, 2.0], [2.0, 4.0]]), 1),
    "rank_three_of_five": (FACTOR[:, :3] @ FACTOR[:, :3].T, 3),
    "one_direction": (jnp.diag(jnp.array([0.0, 3.0, 0.0])), 1),
    "no_noise": (jnp.zeros((3, 3)), 0),
}


def bowl(theta):
    return 0.5 * jnp.dot(theta, theta)


def close(actual, expected, tolerance=1e-12):
    size = max(1.0, np.max(np.abs(expected), initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize(("sigma", "rank"), COVARIANCES.values(), ids=COVARIANCES)
def test_default_tilts_are_the_smallest_centred_set_of_covariance_sigma(sigma, rank):
    """Σ z_i = 0, (1/N) Σ z_i z_iᵀ = Σ, N = rank + 1, all tilts equally far in the metric Σ⁺."""
    landscape = Potential(bowl, sigma)
    tilts = np.asarray(landscape.data)
    assert tilts.shape == (rank + 1, len(sigma))
    close(tilts.sum(axis=0), np.zeros(len(sigma)))
    close(tilts.T @ tilts / len(tilts), sigma)
    inverse = np.linalg.pinv(sigma, rcond=1e-10, hermitian=True)
    close(tilts @ inverse @ tilts.T, (rank + 1) * np.eye(rank + 1) - 1, tolerance=1e-10)


@pytest.mark.parametrize(("sigma", "rank"), COVARIANCES.values(), ids=COVARIANCES)
def test_noise_needs_rank_normal_numbers(sigma, rank):
    """R Rᵀ = Σ with R of rank(Σ) columns, and the tilts' own weighted gradient has it too."""
    landscape = Potential(bowl, sigma)
    theta = jnp.zeros(len(sigma))
    root = call(landscape.covariance_root, theta)
    assert landscape.noise_dimension == rank == root.shape[1]
    close(root @ root.T, sigma)
    close(call(landscape.gradient, theta + 0.3), theta + 0.3)
    weighted = call(jax.vmap(lambda w: landscape.weighted_gradient(theta, w)), np.eye(rank + 1))
    close(weighted.T @ weighted / (rank + 1), sigma)


@pytest.mark.parametrize("variance", [0.36, 2.0])
def test_one_dimensional_tilts_are_two_point_noise(variance):
    """z = ±σ."""
    tilts = np.sort(np.asarray(double_well(variance).data).ravel())
    close(tilts, np.sqrt(variance) * np.array([-1, 1]), tolerance=1e-15)


@pytest.mark.parametrize("num", [2, 4, 30])
def test_own_tilts_give_their_covariance_with_rank_normal_numbers(num):
    """Σ = ZᵀZ/N whatever the number of tilts; the noise operator has M Mᵀ = Σ."""
    tilts = normal(1, num, 3)
    tilts = tilts - tilts.mean(axis=0)
    landscape = Potential(bowl, tilts=tilts)
    theta = jnp.array([0.3, -1.0, 2.0])
    assert landscape.num_examples == num
    assert landscape.noise_dimension == min(num - 1, 3)
    close(call(landscape.gradient, theta), theta)
    close(call(landscape.gradient_covariance, theta), tilts.T @ tilts / num)
    columns = call(
        jax.vmap(lambda z: landscape.noisy_gradient(theta, z, 1.0) - theta),
        np.eye(landscape.noise_dimension),
    )
    close(columns.T @ columns, tilts.T @ tilts / num)


def test_covariance_does_not_depend_on_the_position():
    """Σ(θ) = Σ at every θ."""
    sigma = COVARIANCES["two_dimensions"][0]
    landscape = mueller_brown(sigma)
    thetas = jnp.array([[-0.5, 1.4], [0.2, 0.3], [1.0, 0.0]])
    for covariance in call(jax.vmap(landscape.gradient_covariance), thetas):
        close(covariance, sigma, tolerance=1e-10)


def test_a_number_is_that_multiple_of_the_identity():
    """noise_covariance = c means cI, in the dtype asked for."""
    for landscape in (sharp_and_flat_wells(0.5), mueller_brown(0.5), quadratic(jnp.eye(2), 0.5)):
        close(call(landscape.gradient_covariance, jnp.zeros(2)), 0.5 * np.eye(2), tolerance=1e-11)
    single = sharp_and_flat_wells(jnp.asarray(0.5, jnp.float32), asymmetry=0.1)
    assert single.dtype == jnp.float32
    assert call(single.gradient, jnp.zeros(2, jnp.float32)).dtype == jnp.float32


def test_quadratic_is_its_taylor_series():
    """L(m) = 0, ∇L = H(θ − m), ∇²L = H, also for a saddle and in one dimension."""
    hessian, minimum = jnp.array([[2.0, 0.5], [0.5, -1.0]]), jnp.array([1.0, -2.0])
    landscape = quadratic(hessian, jnp.eye(2), minimum)
    theta = jnp.array([0.3, 0.7])
    close(call(landscape.loss, minimum), 0)
    close(call(landscape.gradient, theta), hessian @ (theta - minimum))
    close(call(landscape.hessian, theta), hessian)
    close(call(quadratic(3.0, 1.0).gradient, jnp.array([2.0])), [6.0])


@pytest.mark.parametrize("a", [0.0, 0.3, -0.8])
def test_double_well_has_its_stationary_points(a):
    """U′ = (x² − 1)(x + a); U(±1) = ∓2a/3, U″(±1) = 2(1 ± a), U″(−a) = a² − 1."""
    landscape = double_well(1.0, asymmetry=a)
    for x in np.linspace(-2, 2, 9):
        close(call(landscape.gradient, jnp.array([x])), [(x**2 - 1) * (x + a)])
    for x, value, curvature in ((1.0, -2 * a / 3, 2 * (1 + a)), (-1.0, 2 * a / 3, 2 * (1 - a))):
        close(call(landscape.loss, jnp.array([x])), value)
        close(call(landscape.hessian, jnp.array([x])), [[curvature]])
    close(call(landscape.hessian, jnp.array([-a])), [[a**2 - 1]])
    if a == 0:
        close(call(landscape.loss, jnp.zeros(1)), 0.25)


@pytest.mark.parametrize("a", [0.0, 0.4])
def test_sharp_and_flat_wells_have_their_stationary_points(a):
    """∇U = 0 and the documented U and Hessian at (∓1, 0) and (−a, 0)."""
    flat, sharp = 0.5, 20.0
    landscape = sharp_and_flat_wells(0.1, flat_curvature=flat, sharp_curvature=sharp, asymmetry=a)
    s = -2 * a / (1 + a**2)
    points = {
        (-1.0, 0.0): (2 * a / 3, 2 * (1 - a), flat),
        (1.0, 0.0): (-2 * a / 3, 2 * (1 + a), sharp),
        (-a, 0.0): (
            (a**2 - 1) ** 2 / 4 + a * (a - a**3 / 3),
            a**2 - 1,
            flat ** ((1 - s) / 2) * sharp ** ((1 + s) / 2),
        ),
    }
    for point, (value, along, across) in points.items():
        theta = jnp.array(point)
        close(call(landscape.loss, theta), value)
        close(call(landscape.gradient, theta), np.zeros(2))
        close(call(landscape.hessian, theta), np.diag([along, across]))


def test_sharp_and_flat_wells_have_no_other_stationary_point():
    """∂_y U = k(x) y with flat ≤ k(x) ≤ sharp, so that ∇U = 0 only on y = 0, where U is 1-d."""
    landscape = sharp_and_flat_wells(0.1, flat_curvature=0.5, sharp_curvature=20.0, asymmetry=0.4)
    for x in np.linspace(-6, 6, 25):
        slope = float(call(landscape.gradient, jnp.array([x, 1.0]))[1])
        assert 0.5 * (1 - 1e-12) <= slope <= 20.0 * (1 + 1e-12)
        bend = call(landscape.loss, jnp.array([x, 3.0])) - call(landscape.loss, jnp.array([x, 0.0]))
        close(bend, 4.5 * slope, tolerance=1e-11)
        line = call(landscape.gradient, jnp.array([x, 0.0]))
        close(line, [(x**2 - 1) * (x + 0.4), 0.0])


MUELLER_BROWN = {
    "minimum_a": ((-0.558, 1.442), -146.700, 0),
    "minimum_b": ((0.623, 0.028), -108.167, 0),
    "minimum_c": ((-0.050, 0.467), -80.768, 0),
    "saddle_ac": ((-0.822, 0.624), -40.665, 1),
    "saddle_cb": ((0.212, 0.293), -72.249, 1),
}


@pytest.mark.parametrize(("guess", "value", "index"), MUELLER_BROWN.values(), ids=MUELLER_BROWN)
def test_mueller_brown_has_the_published_stationary_points(guess, value, index):
    """Newton from the published (x, y) stays within its rounding, with its U and Morse index."""
    landscape = mueller_brown(1.0, scale=0.5)
    theta = jnp.array(guess)
    for _ in range(6):
        theta = theta - jnp.linalg.solve(
            call(landscape.hessian, theta), call(landscape.gradient, theta)
        )
    close(call(landscape.gradient, theta), np.zeros(2), tolerance=1e-10)
    np.testing.assert_allclose(theta, guess, rtol=0, atol=6e-4)
    np.testing.assert_allclose(call(landscape.loss, theta), 0.5 * value, rtol=0, atol=3e-4)
    eigenvalues = np.linalg.eigvalsh(call(landscape.hessian, theta))
    assert int((eigenvalues < 0).sum()) == index
    assert eigenvalues[-1] <= 0.5 * 4069
    if guess == (-0.558, 1.442):
        assert eigenvalues[-1] >= 0.5 * 4068


def test_any_function_is_an_energy():
    """U = Σ x⁴ as a plain function: L = U, ∇L = 4x³, under jit and vmap."""
    landscape = Potential(lambda x: jnp.sum(x**4), jnp.eye(2))
    theta = jnp.array([[1.0, 2.0], [0.0, -1.0]])
    gradients = eqx.filter_jit(lambda m, x: jax.vmap(m.gradient)(x))(landscape, theta)
    close(gradients, 4 * theta**3)


NOT_POSITIVE = jnp.array([[1.0, 2.0], [2.0, 1.0]])
BAD = {
    "nothing": (lambda: Potential(bowl), "either noise_covariance or tilts"),
    "both": (lambda: Potential(bowl, jnp.eye(1), tilts=jnp.ones((1, 1))), "not both"),
    "negative": (lambda: Potential(bowl, NOT_POSITIVE), "semidefinite.*eigenvalue is -1"),
    "negative_number": (lambda: double_well(-1.0), "semidefinite.*-1"),
    "asymmetric": (lambda: Potential(bowl, jnp.array([[1.0, 1.0], [0.0, 1.0]])), "symmetric"),
    "vector": (lambda: Potential(bowl, jnp.ones(2)), r"\(d, d\).*\(2,\)"),
    "nan": (lambda: Potential(bowl, jnp.full((2, 2), jnp.nan)), "noise_covariance has 4 entries"),
    "uncentred": (lambda: Potential(bowl, tilts=jnp.ones((3, 2))), "must be centred.*to 1.*mean"),
    "tilts_shape": (lambda: Potential(bowl, tilts=jnp.ones(3)), r"\(N, d\).*\(3,\)"),
    "tilts_nan": (lambda: Potential(bowl, tilts=jnp.full((3, 1), jnp.nan)), "tilts has 3"),
    "energy_shape": (
        lambda: Potential(lambda x: x, jnp.eye(2)),
        r"one float64 scalar; got shape \(2,\)",
    ),
    "energy_dtype": (
        lambda: Potential(lambda x: bowl(x).astype(jnp.float32), jnp.eye(2)),
        "one float64 scalar; got shape .* dtype float32",
    ),
    "wells_size": (lambda: sharp_and_flat_wells(jnp.eye(3)), r"\(2, 2\); got \(3, 3\)"),
    "asymmetry": (lambda: double_well(1.0, asymmetry=1.0), r"\(-1, 1\).*got 1.0"),
    "asymmetry_nan": (lambda: double_well(1.0, asymmetry=jnp.nan), r"\(-1, 1\)"),
    "curvature": (lambda: sharp_and_flat_wells(1.0, flat_curvature=0.0), "flat_curvature.*> 0"),
    "scale": (lambda: mueller_brown(1.0, scale=-1.0), "scale.*> 0"),
    "hessian": (lambda: quadratic(jnp.array([[1.0, 1.0], [0.0, 1.0]]), 1.0), "hessian.*symmetric"),
    "minimum": (lambda: quadratic(jnp.eye(2), 1.0, jnp.ones(3)), r"minimum.*\(2,\).*\(3,\)"),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value."""
    with pytest.raises(ValueError, match=match):
        make()
