"""The master equation of SGD: exact moments, enumeration, kernel equation, truncations."""

import functools
import itertools

import closed_forms
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import sde_sgd as ss
from sde_sgd.processes import Diffusion, Jumps
from sde_sgd.theory._step_laws import line_step
from sde_sgd.theory.laws import KramersMoyal, MasterEquation

X, Y = np.array([1.0, -0.5, 2.0, 1.5]), np.array([0.7, 0.4, 1.1, 2.4])
MINIMUM = X @ Y / (X @ X)


def powers(count):
    """f(θ) = (1, θ, …, θ^count)."""
    return lambda x: x[0] ** jnp.arange(count + 1)


def gaussian_gradients(gradient, variance, eta):
    """θ ← θ − η(g + √C ξ): b = −g, D = ηC/2 at step η."""
    return Diffusion(lambda x: -gradient(x), lambda x: eta / 2 * variance(x), eta)


GAUSSIAN = gaussian_gradients(lambda x: x, lambda x: 1.0, 0.1)


def least_squares():
    return ss.LeastSquares(X[:, None], Y)


def double_well(x):
    return x[0] ** 3 - x[0]


# --- Gaussian noise ---


def test_gaussian_sgd_on_a_quadratic():
    """Stationary variance η/(h(2 − ηh)) to 1e-10; after k steps η²(1−r^{2k})/(1−r²), r=1−ηh."""
    eta, h = 0.3, 2.0
    exact = eta / (h * (2 - eta * h))
    law = gaussian_gradients(lambda x: h * x, lambda x: 1.0, eta)
    reach = 9 * np.sqrt(exact)
    master = MasterEquation(law, (-reach, reach), 120)
    p = master.stationary()
    assert p.variance == pytest.approx(exact, abs=1e-10)
    assert abs(exact - eta / (2 * h)) > 0.01  # control: the SDE's variance
    assert p.cdf(0.4) == pytest.approx(0.5 * (1 + erf(0.4 / np.sqrt(2 * exact))), abs=1e-12)
    assert p.pdf(0.0) == pytest.approx(1 / np.sqrt(2 * np.pi * exact), abs=1e-12)
    assert p.quantile(0.5) == pytest.approx(0, abs=1e-9) and abs(p.mass - 1) < 1e-12
    assert p.masses.min() >= 0
    r = 1 - eta * h
    steps = [7, 0, 1]
    for k, now in zip(steps, master.propagate(0.7, steps), strict=True):
        assert now.mean == pytest.approx(0.7 * r**k, abs=1e-12)
        assert now.variance == pytest.approx(eta**2 * (1 - r ** (2 * k)) / (1 - r * r), abs=1e-12)
        assert abs(now.mass - 1) < 1e-12


def test_gaussian_sgd_with_varying_noise():
    """Least squares: the exact second-moment recursion, transient and stationary."""
    landscape, sampling, eta = least_squares(), ss.WithReplacement(2), 0.1
    process = ss.GaussianSGD(landscape, eta, ss.MinibatchNoise(sampling))
    master = MasterEquation(process, (MINIMUM - 4, MINIMUM + 4), 400)
    exact = closed_forms.covariance(
        X[:, None], Y, learning_rate=eta, noise_factor=0.5, time_step=eta
    )
    assert master.stationary().variance == pytest.approx(exact[0, 0], rel=1e-9)
    late, early = master.propagate(0.0, [12, 3])
    for k, now in ((12, late), (3, early)):
        moments = closed_forms.transient(
            X[:, None],
            Y,
            learning_rate=eta,
            noise_factor=0.5,
            time_step=eta,
            times=[k * eta],
            theta0=[0.0],
        )
        assert now.mean == pytest.approx(moments.mean[0, 0], abs=1e-10)
        assert now.variance == pytest.approx(moments.covariance[0, 0, 0], abs=1e-10)


@pytest.mark.parametrize("eta, exact", [(0.1, 705.528), (0.05, 719.483)])
def test_kernel_equation(eta, exact):
    """(I − P)τ = 1: −1 → +1 in V=(x²−1)²/4, D=ηC/2=.05: 705.528 (η=.1), 719.483 (.05) in t."""
    process = Diffusion(lambda x: x - x**3, 0.05, eta)
    master = MasterEquation(process, (-3.2, 1), 160, mass_tolerance=np.inf)
    np.testing.assert_allclose(master.matrix.sum(axis=1) + master.leak, 1, atol=1e-9)
    tau = np.linalg.solve(np.eye(160) - master.matrix, np.ones(160))
    (first,) = master.propagate(-1.0, [1])
    assert eta * (1 + first.masses @ tau) == pytest.approx(exact, abs=1e-3)


# --- Batches ---


@pytest.mark.parametrize("sampling", [ss.WithReplacement(2), ss.WithoutReplacement(2)])
def test_all_batches_are_enumerated(sampling):
    """E ĝ = L′, Cov ĝ = cΣ; three steps against all sequences of batches, one by one."""
    landscape, eta = least_squares(), 0.2
    process = ss.SGD(landscape, eta, sampling)
    at = np.array([0.3, -1.0])
    raw = line_step(process, "test").moments(at, 2) / (-eta) ** np.arange(3)[:, None]
    for i, theta in enumerate(at):
        theta = jnp.array([theta])
        factor = sampling.noise_factor(4)
        assert raw[1, i] == pytest.approx(float(landscape.gradient(theta)[0]), rel=1e-12)
        variance = factor * float(landscape.gradient_covariance(theta)[0, 0])
        assert raw[2, i] - raw[1, i] ** 2 == pytest.approx(variance, rel=1e-10)
    ordered = list(itertools.product(range(4), repeat=2))
    if isinstance(sampling, ss.WithoutReplacement):
        ordered = [b for b in ordered if b[0] != b[1]]
    ends = []
    for path in itertools.product(ordered, repeat=3):
        theta = 0.3
        for batch in path:
            i = list(batch)
            theta -= eta * np.mean(X[i] * (X[i] * theta - Y[i]))
        ends.append(theta)
    ends = np.sort(ends)
    (law3,) = MasterEquation(process, (-3, 3), 50).propagate(0.3, [3])
    for m in range(5):
        assert law3.expect(lambda x, m=m: x[0] ** m) == pytest.approx(np.mean(ends**m))
    for level in (-0.2, 0.4, 0.9, 1.1):
        assert law3.cdf(level) == pytest.approx(np.mean(ends <= level), abs=1e-12)
    assert law3.quantile(0.31) == pytest.approx(ends[int(np.ceil(0.31 * len(ends))) - 1], abs=1e-9)
    assert abs(law3.mass - 1) < 1e-12


def test_stationary_law_of_batches():
    """Shared atoms: the variance of finite-sum least squares to its stated error, of order 2."""
    law = ss.SGD(least_squares(), 0.2, ss.WithReplacement(2))
    exact = closed_forms.covariance(
        X[:, None], Y, learning_rate=0.2, noise_factor=0.5, time_step=0.2
    )[0, 0]

    def square(x):
        return (x[0] - MINIMUM) ** 2

    errors = []
    for nodes in (401, 801):
        box = (MINIMUM - 2, MINIMUM + 2)
        p = MasterEquation(law, box, nodes).stationary()
        errors.append(float(p.expect(square)) - exact)
        assert errors[-1] == pytest.approx(p.grid_error(square), rel=0.1)
        assert p.masses.min() >= 0 and abs(p.mass - 1) < 1e-12
        assert p.mean == pytest.approx(MINIMUM, abs=1e-10)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    # At most h²/4 more variance a step, which the next steps contract by E (1 − ηh_B)².
    curvature = [(X[i] ** 2 + X[j] ** 2) / 2 for i in range(4) for j in range(4)]
    contraction = np.mean((1 - 0.2 * np.array(curvature)) ** 2)
    assert 0 < errors[1] < 0.005**2 / 4 / (1 - contraction)


def test_shared_atoms_follow_the_exact_ones():
    """After 8 steps in a double well the shared law has the moments and cdf of the exact one."""
    law = Jumps(lambda x: double_well(x) + jnp.array([-0.5, 1.0]), [2 / 3, 1 / 3], 0.1)
    master = MasterEquation(law, (-2, 2), 4001)
    (exact,) = master.propagate(0.3, [8])
    (shared,) = master.propagate(0.3, [8], on_grid=True)
    assert len(exact.positions) <= 2**8
    f = powers(4)
    np.testing.assert_allclose(shared.expect(f), exact.expect(f), atol=1e-5)
    assert shared.mean == pytest.approx(exact.mean, abs=1e-5) and abs(shared.mass - 1) < 1e-12
    (step,) = master.propagate(exact, [1])
    assert step.mass == pytest.approx(1, abs=1e-13)


def test_a_quadrature_of_a_population_is_a_law():
    """Gauss–Hermite nodes for a Gaussian gradient: the moments of Gaussian SGD, without a grid."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    law = Jumps(lambda x: x[0] + nodes, weights / weights.sum(), 0.2)
    (p,) = MasterEquation(law, (-8, 8), 50).propagate(0.5, [4])
    exact = 0.04 * (1 - 0.8**8) / (1 - 0.64)
    assert p.variance == pytest.approx(exact, rel=1e-12)
    assert p.expect(lambda x: (x[0] - 0.5 * 0.8**4) ** 4) == pytest.approx(3 * exact**2, rel=1e-10)


@pytest.mark.parametrize("kind", ["gaussian", "batches"])
def test_flat_directions_spread(kind):
    """V′ = 0: after k steps Var = k η² cΣ, whatever the law; η k cΣ (D not ∝ η) must fail."""
    eta, steps, sigma = 0.1, 12, 0.7
    if kind == "gaussian":
        law = Diffusion(0.0, eta / 2 * sigma**2, eta)
    else:
        law = Jumps(lambda x: jnp.array([-sigma, sigma]), [0.5, 0.5], eta)
    master = MasterEquation(law, (-3, 3), 301)
    (p,) = master.propagate(0.0, [steps])
    assert p.variance == pytest.approx(steps * eta**2 * sigma**2, rel=1e-10)
    assert abs(p.variance / (steps * eta * sigma**2) - 1) > 0.5


# --- Kramers–Moyal ---

ORDERS = (2, 3, 4, 6)


@functools.cache
def truncated(order):
    """Gaussian SGD on x²/2, η = .1."""
    return KramersMoyal(GAUSSIAN, (-4, 4), order, polynomials=8)


@pytest.mark.parametrize("order", ORDERS)
def test_truncation_at_order_m_has_m_exact_moments(order):
    """Linear gradient: moments up to M are exact, M+1 or M+2 is not; M ≥ 3 is not positive."""
    variance = 0.1 / 1.9
    gaussian = [1, 0, variance, 0, 3 * variance**2, 0, 15 * variance**3, 0, 105 * variance**4]
    p = truncated(order).stationary()
    found = p.expect(powers(8))
    np.testing.assert_allclose(found[: order + 1], gaussian[: order + 1], atol=1e-13)
    beyond = order + 2 - order % 2
    assert abs(found[beyond] / gaussian[beyond] - 1) > 1e-3
    assert p.mass == pytest.approx(1) and (truncated(order).negative_mass < -1e-6) == (order > 2)


def test_truncated_transients():
    """E x_k^m from a point: exact for m ≤ M against the master equation; m = 4 needs M = 4."""
    master = MasterEquation(GAUSSIAN, (-4, 4), 200)
    exact = np.array([p.expect(powers(4)) for p in master.propagate(0.7, [2, 9])])
    for order in ORDERS:
        found = truncated(order).moments(0.7, [2, 9], 4)
        top = min(order, 4)
        np.testing.assert_allclose(found[:, : top + 1], exact[:, : top + 1], atol=1e-12)
    assert np.abs(truncated(2).moments(0.7, [9], 4)[0, 4] / exact[1, 4] - 1) > 0.05


def test_skewed_batches_need_the_third_order():
    """g = x + x³ + skewed noise: order 2 shifts no mean, 3 does to 2 %, high orders exactly."""
    law = Jumps(lambda x: x[0] + x[0] ** 3 + jnp.array([-0.5, 1.0]), [2 / 3, 1 / 3], 0.1)
    p = MasterEquation(law, (-1.4, 1.4), 1401).stationary()
    exact, error = p.expect(powers(4)), p.grid_error(powers(4))
    miss = {}
    for order in (2, 3, 4, 8):
        truncation = KramersMoyal(law, (-1.4, 1.4), order, polynomials=12)
        miss[order] = np.abs(truncation.stationary().expect(powers(4)) - exact)
    assert exact[1] > 1000 * error[1] and miss[2][1] == pytest.approx(exact[1], rel=1e-6)
    assert miss[3][1] < 0.02 * exact[1] and miss[4][1] < 0.01 * exact[1]
    assert miss[4][4] < 0.1 * min(miss[2][4], miss[3][4])
    assert (miss[8] <= 5 * error + 1e-12).all()


def test_order_two_keeps_the_squared_drift():
    """Order 2 has the second moment η²(cΣ + L′²), hence SGD's variance and not the SDE's."""
    p = truncated(2)
    density = p.order2 / p.order2[np.argmin(np.abs(p.nodes))]
    centre = p.nodes[np.argmin(np.abs(p.nodes))]
    # ∝ (1 + x²)^{−1−1/η}: algebraic, since D = η(1 + x²)/2 and b = −x.
    expected = ((1 + p.nodes**2) / (1 + centre**2)) ** (-1 - 1 / 0.1)
    np.testing.assert_allclose(density, expected, rtol=1e-9, atol=1e-15)


# --- Bad input ---


def gaussian(**options):
    good = {"process": GAUSSIAN, "box": (-3.0, 3.0), "nodes": 200}
    return MasterEquation(**(good | options))


def test_refuses():
    """Unresolved kernels, lost mass, closed wells, laws that are none: each is told apart."""
    with pytest.raises(ValueError, match=r"nodes do not resolve.*Take about nodes=\d+"):
        gaussian(nodes=30)
    with pytest.raises(ValueError, match="noise vanishes"):
        gaussian(process=Diffusion(lambda x: -x, lambda x: 0 * x, 0.1))
    with pytest.raises(ValueError, match=r"diffusion must not be negative; at x = -2.99"):
        gaussian(process=Diffusion(lambda x: -x, lambda x: 1 + x, 0.1))
    with pytest.raises(ValueError, match="loses mass.*in one step"):
        gaussian(box=(-0.5, 0.5)).stationary()
    with pytest.raises(ValueError, match="loses mass.*in 3 steps"):
        gaussian(box=(-0.5, 0.5)).propagate(0.4, [3])
    with pytest.raises(ValueError, match="outside the box"):
        gaussian().propagate(4.0, [3])
    with pytest.raises(ValueError, match="steps must be integers"):
        gaussian().propagate(0.0, [0.5])
    for bad, match in (((1, 0), "low < high"), ((0, np.inf), "not finite")):
        with pytest.raises(ValueError, match=match):
            gaussian(box=bad)
    with pytest.raises(ValueError, match="nodes must be an integer ≥ 8"):
        gaussian(nodes=2)
    with pytest.raises(ValueError, match="sum 1"):
        Jumps(lambda x: jnp.ones(2), [0.5, 0.6], 0.1)
    with pytest.raises(ValueError, match="one value for each of the 2"):
        MasterEquation(Jumps(lambda x: jnp.ones(3), [0.5, 0.5], 0.1), (-1, 1))
    with pytest.raises(ValueError, match="no Markov chain"):
        MasterEquation(ss.SGD(least_squares(), 0.1, ss.RandomReshuffling(2)), (-1, 1))
    with pytest.raises(ValueError, match="different batches"):
        many = ss.LeastSquares(np.ones((40, 1)), np.ones(40))
        MasterEquation(ss.SGD(many, 0.1, ss.WithReplacement(8)), (-1, 1))
    with pytest.raises(ValueError, match="d=2"):
        plane = ss.quadratic(np.eye(2), 1.0)
        MasterEquation(ss.GaussianSGD(plane, 0.1, ss.ConstantNoise(np.eye(2))), (-1, 1))
    with pytest.raises(ValueError, match="has none: pass a process at its step"):
        noise = ss.MinibatchNoise(ss.WithReplacement(2))
        MasterEquation(ss.ModifiedEquation(least_squares(), 0.1, noise).limit(), (-1, 1))
    with pytest.raises(ValueError, match="order must be an integer ≥ 2"):
        KramersMoyal(GAUSSIAN, (-3, 3), 1)
    with pytest.raises(ValueError, match="polynomials"):
        KramersMoyal(GAUSSIAN, (-3, 3), 4, polynomials=3)
    with pytest.raises(ValueError, match="loses mass"):
        KramersMoyal(GAUSSIAN, (-0.3, 0.3), 2)
    with pytest.raises(ValueError, match="no density"):
        ss.theory.laws.ScalarLaw(np.zeros(1), np.ones(1), 0.0).pdf(0.0)


def test_small_batch_noise_never_leaves_a_well():
    """σ below max|V′| = .385: two stationary laws, one a well; σ = .6 has one, symmetric."""
    quiet = Jumps(lambda x: double_well(x) + jnp.array([-0.3, 0.3]), [0.5, 0.5], 0.25)
    with pytest.raises(ValueError, match="2 stationary"):
        MasterEquation(quiet, (-1.6, 1.6), 401).stationary()
    loud = Jumps(lambda x: double_well(x) + jnp.array([-0.9, 0.9]), [0.5, 0.5], 0.25)
    p = MasterEquation(loud, (-1.8, 1.8), 401).stationary()
    assert p.mean == pytest.approx(0, abs=1e-8) and 0.3 < p.variance < 1.2


def test_too_many_atoms_are_refused():
    """Atoms multiply by the number of batches each step; on_grid follows them for ever."""
    law = Jumps(lambda x: jnp.sin(7 * x[0]) + jnp.arange(10.0) - 4.5, np.full(10, 0.1), 0.05)
    master = MasterEquation(law, (-9, 9), 401)
    with pytest.raises(ValueError, match="atoms.*on_grid=True"):
        master.propagate(0.0, [9])
    (p,) = master.propagate(0.0, [9], on_grid=True)
    assert p.mass == pytest.approx(1, abs=1e-9)
