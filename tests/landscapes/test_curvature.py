"""Matrix-free curvature against dense matrices of a small network; a large one in time."""

import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call, normal

import sde_sgd as ss

FAILURE_RATE = 2e-5


def network(inputs, width, examples, key=0):
    model = eqx.nn.MLP(inputs, 3, width, 1, activation=jnp.tanh, key=jr.key(key))
    x = normal(1, examples, inputs)
    labels = np.random.default_rng(2).integers(0, 3, examples)
    return ss.EmpiricalRisk(model, x, labels, ss.cross_entropy)


@pytest.fixture(scope="module")
def small():
    landscape = network(4, 6, 30)
    theta = landscape.initial
    hessian = call(landscape.hessian, theta)
    covariance = call(landscape.gradient_covariance, theta)
    return landscape, theta, hessian, covariance


def test_eigenvalues_equal_dense(small):
    """The 4 largest and 3 smallest of ∇²L, and their vectors, to 1e-6."""
    landscape, theta, hessian, _ = small
    values = np.linalg.eigvalsh(hessian)
    top = ss.curvature.eigenvalues(landscape, theta, 4)
    np.testing.assert_allclose(top.values, values[:-5:-1], rtol=1e-6)
    np.testing.assert_allclose(hessian @ top.vectors, top.vectors * top.values, atol=1e-6)
    low = ss.curvature.eigenvalues(landscape, theta, 3, which="smallest")
    np.testing.assert_allclose(low.values, values[:3], atol=1e-6 * values[-1])


def test_the_smallest_eigenvalue_is_as_exact_as_the_largest_is_large():
    """min λ(∇²L) of a network within 1e-3·max|λ|, in 300 products; fewer are refused in words."""
    landscape = network(20, 16, 50)
    theta = landscape.initial
    values = np.linalg.eigvalsh(call(landscape.hessian, theta))
    count = []
    found = ss.curvature.eigenvalues(
        landscape, theta, which="smallest", tolerance=1e-3, on_product=lambda: count.append(1)
    )
    assert abs(found.values[0] - values[0]) < 1e-3 * np.abs(values).max()
    assert len(count) < 300
    for which in ("largest", "smallest"):
        count.clear()
        with pytest.raises(ValueError, match=f"{which} eigenvalues need.* max_products=7"):
            ss.curvature.eigenvalues(
                landscape, theta, which=which, max_products=7, on_product=lambda: count.append(1)
            )
        assert len(count) == 7


def test_gradient_covariance_equals_dense(small):
    """The 5 largest eigenvalues of Σ to 1e-6; a population by its root."""
    landscape, theta, _, covariance = small
    found = ss.curvature.noise_eigenvalues(landscape, theta, 5).values
    np.testing.assert_allclose(found, np.linalg.eigvalsh(covariance)[:-6:-1], rtol=1e-6)
    population = ss.landscapes.PopulationLeastSquares(jnp.diag(jnp.array([1.0, 0.5])), 0.3)
    at = jnp.array([0.3, -0.2])
    dense = np.linalg.eigvalsh(call(population.gradient_covariance, at))
    found = ss.curvature.noise_eigenvalues(population, at, 2).values
    np.testing.assert_allclose(found, dense[::-1], rtol=1e-9)


def test_noise_trace(small):
    """Tr(HΣ) exactly to 1e-6 relative, and by draws within their error."""
    landscape, theta, hessian, covariance = small
    exact = np.trace(hessian @ covariance)
    found = ss.curvature.noise_trace(landscape, theta)
    assert float(found.value) == pytest.approx(exact, rel=1e-9) and found.standard_error == 0
    drawn = ss.curvature.noise_trace(landscape, theta, key=jr.key(3), num_probes=2000)
    assert ss.compare(drawn, exact, failure_rate=FAILURE_RATE).verdict == "agrees"
    control = ss.compare(drawn, 2 * exact, failure_rate=FAILURE_RATE)
    assert control.verdict == "disagrees"


def test_trace_within_its_error(small):
    """Hutchinson's mean of zᵀHz against tr H; half of it is refuted."""
    landscape, theta, hessian, _ = small
    found = ss.curvature.trace(landscape, theta, key=jr.key(4), num_probes=2000)
    assert ss.compare(found, np.trace(hessian), failure_rate=FAILURE_RATE).verdict == "agrees"
    wrong = ss.compare(found, np.trace(hessian) / 2, failure_rate=FAILURE_RATE)
    assert wrong.verdict == "disagrees"


def test_density_moments_are_exact_within_a_probe(small):
    """Σ w x^p = vᵀH^p v for p ≤ 2·steps − 1 (Gauss), and a full run finds every eigenvalue."""
    landscape, theta, hessian, _ = small
    keys = jr.split(jr.key(5), 2)
    found = ss.curvature.density(landscape, theta, key=jr.key(5), num_probes=2, num_steps=6)
    for i, own in enumerate(keys):
        v = np.asarray(jr.normal(own, theta.shape))
        v = v / np.linalg.norm(v)
        for power in (0, 1, 2, 5, 11):
            exact = v @ np.linalg.matrix_power(hessian, power) @ v
            got = (found.weights[i] * found.nodes[i] ** power).sum()
            assert got == pytest.approx(exact, rel=1e-8, abs=1e-12)
    full = ss.curvature.density(landscape, theta, key=jr.key(6), num_probes=2, num_steps=len(theta))
    top = np.linalg.eigvalsh(hessian)[-1]
    assert full.nodes.max() == pytest.approx(top, rel=1e-8)
    x = np.linspace(full.nodes.min() - 1, full.nodes.max() + 1, 4001)
    assert np.trapezoid(full.density(x, 0.05), x) == pytest.approx(1, abs=1e-6)


def test_along_positions(small):
    """Loss, sharpness and Tr(HΣ) at two points, against dense."""
    landscape, theta, hessian, covariance = small
    rows = np.stack([theta, 1.3 * theta])
    found = ss.curvature.along(landscape, rows)
    other = np.linalg.eigvalsh(call(landscape.hessian, rows[1]))[-1]
    np.testing.assert_allclose(found.sharpness, [np.linalg.eigvalsh(hessian)[-1], other], rtol=1e-5)
    assert found.noise_trace[0] == pytest.approx(np.trace(hessian @ covariance), rel=1e-6)
    assert found.loss[0] == pytest.approx(float(call(landscape.loss, theta)), rel=1e-12)


@pytest.mark.slow
def test_a_large_network_in_time():
    """10⁵ parameters: the top eigenvalue in less than 30 s, and it is one (residual)."""
    landscape = network(500, 200, 64)
    assert landscape.dimension > 1e5
    started = time.process_time()
    found = ss.curvature.eigenvalues(landscape, landscape.initial, tolerance=1e-3)
    assert time.process_time() - started < 30
    vector = jnp.asarray(found.vectors[:, 0])
    image = call(landscape.hessian_vector_product, landscape.initial, vector)
    residual = float(jnp.linalg.norm(image - found.values[0] * vector))
    assert residual < 1e-2 * found.values[0]


def test_refuses(small):
    """Counts, names, shapes, NaN, one probe, a population without a key."""
    landscape, theta, *_ = small
    with pytest.raises(ValueError, match="count"):
        ss.curvature.eigenvalues(landscape, theta, 0)
    with pytest.raises(ValueError, match="which"):
        ss.curvature.eigenvalues(landscape, theta, which="top")
    with pytest.raises(ValueError, match="shape"):
        ss.curvature.eigenvalues(landscape, theta[:-1])
    with pytest.raises(ValueError, match="not finite"):
        ss.curvature.eigenvalues(landscape, theta.at[0].set(jnp.nan))
    with pytest.raises(ValueError, match="num_probes"):
        ss.curvature.trace(landscape, theta, key=jr.key(0), num_probes=1)
    with pytest.raises(ValueError, match="key"):
        ss.curvature.noise_trace(
            ss.landscapes.PopulationLeastSquares(jnp.eye(2), 0.3), jnp.zeros(2)
        )
