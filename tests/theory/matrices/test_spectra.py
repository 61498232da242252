"""Laws of levels against quadrature, generators and linear algebra that share no code with them."""

from typing import Any

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from tools import call

import sde_sgd as ss
from sde_sgd import theory


def test_wigner_surmise():
    """∫p = ∫sp = 1, ∫s²p = 4/π, cdf = ∫p; independent levels e^{−s} have 2."""
    moments = [
        integrate.quad(lambda s, n=n: s**n * theory.matrices.wigner_surmise(s), 0, np.inf)[0]
        for n in range(3)
    ]
    np.testing.assert_allclose(moments, [1, 1, 4 / np.pi], rtol=1e-9)
    for s in (0.3, 1.0, 2.5):
        mass = integrate.quad(lambda x: float(theory.matrices.wigner_surmise(x)), 0, s)[0]
        np.testing.assert_allclose(theory.matrices.wigner_surmise_cdf(s), mass, rtol=1e-10)
    poisson = integrate.quad(lambda s: s**2 * np.exp(-s), 0, np.inf)[0]
    assert abs(poisson - moments[2]) > 0.7
    assert (
        theory.matrices.wigner_surmise(-1.0) == 0 and theory.matrices.wigner_surmise_cdf(-1.0) == 0
    )


def test_mean_gap_ratio():
    """⟨min/max⟩ of three levels: of the Coulomb gas |Δ|e^{−Σx²/2}, and of independent gaps."""

    def gas(kind):
        def weight(a, b):
            # Gaps a, b; the centre integrates out of Σx² = 3c² + (2/3)(a² + ab + b²).
            return a * b * (a + b) * np.exp(-(a**2 + a * b + b**2) / 3) if kind else np.exp(-a - b)

        def mean(f):
            # Symmetric in a and b: b = ra, r < 1, and the integral over a by quadrature.
            inner = lambda r: integrate.quad(lambda a: f(r) * weight(a, r * a) * a, 0, 60)[0]  # noqa: E731
            return integrate.quad(inner, 0, 1)[0]

        return mean(lambda r: r) / mean(lambda r: 1.0)

    np.testing.assert_allclose(theory.matrices.mean_gap_ratio("goe"), gas(True), rtol=1e-7)
    np.testing.assert_allclose(theory.matrices.mean_gap_ratio("poisson"), gas(False), rtol=1e-7)


def test_rice_mean():
    """E|(c + sz₁, sz₂)| is the mean of SciPy's Rice law, and √(π/2)s at c = 0."""
    for centre, scale in ((0.0, 2.0), (0.3, 1.0), (4.0, 0.5), (300.0, 0.7)):
        if centre < 100:
            exact = stats.rice.mean(centre / scale, scale=scale)
            np.testing.assert_allclose(theory.matrices.rice_mean(centre, scale), exact, rtol=1e-10)
    np.testing.assert_allclose(theory.matrices.rice_mean(300.0, 0.7), 300 + 0.7**2 / 600, rtol=1e-9)


def angle_integral(law, function, top):
    """∫ function(λ) p(λ) dλ from λ₋ to `top`, λ = λ₋ + (λ₊ − λ₋) sin²u, by quadrature in u."""
    low, high = law.edges

    def integrand(u):
        x = low + (high - low) * np.sin(u) ** 2
        return function(x) * float(law.pdf(x)) * (high - low) * np.sin(2 * u)

    end = np.arcsin(np.sqrt((top - low) / (high - low)))
    return integrate.quad(integrand, 0, end, epsabs=1e-13, epsrel=1e-12, limit=400)[0]


@pytest.mark.parametrize("ratio", [0.3, 0.98, 1.0, 1.02, 2.5])
def test_marchenko_pastur(ratio):
    """∫p + atom = 1, moments v and v²(1 + r), cdf = atom + ∫p, quantile its inverse."""
    law = theory.matrices.MarchenkoPastur(ratio, 1.7)
    low, high = law.edges
    np.testing.assert_allclose(law.moment(1), 1.7, rtol=1e-12)
    np.testing.assert_allclose(law.moment(2), 1.7**2 * (1 + ratio), rtol=1e-12)
    assert law.atom == pytest.approx(max(0, 1 - 1 / ratio))
    for share in (1e-4, 0.02, 0.5, 0.9, 1.0):
        top = low + share * (high - low)
        below = law.atom + angle_integral(law, lambda x: 1.0, top)
        np.testing.assert_allclose(law.cdf(top), below, rtol=1e-8)
    assert law.cdf(high) == pytest.approx(1.0, abs=1e-14) == law.cdf(2 * high)
    assert law.cdf(-1e-300) == 0 and law.cdf(0.0) == pytest.approx(law.atom, abs=1e-15)
    assert law.cdf(0.9 * low) == pytest.approx(law.atom, abs=1e-15)
    level = 0.5 * (law.atom + 1)
    assert law.cdf(law.quantile(level)) == pytest.approx(level, abs=1e-12)
    small = theory.matrices.MarchenkoPastur(ratio, 1.7e-9).quantile(level)
    assert small == pytest.approx(1e-9 * law.quantile(level), rel=1e-9)


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.5])
def test_moments_of_marchenko_pastur(ratio):
    """E λ^k = ∫λ^k p + atom·0^k: 1 at k = 0, and ∞ for k < 0 where r ≥ 1."""
    law = theory.matrices.MarchenkoPastur(ratio, 1.7)
    assert law.moment(0) == 1
    for order in (-3, -2, -1, 0, 3, 4):
        exact = law.atom * (order == 0)
        if order < 0 and ratio >= 1:
            exact = np.inf
        else:
            exact += angle_integral(law, lambda x, k=order: x**k, law.edges[1])
        np.testing.assert_allclose(law.moment(order), exact, rtol=1e-8)


def test_marchenko_pastur_at_zero():
    """r = 1: p → 1/(π√(vλ)), ∞ at 0; no density there for r ≠ 1."""
    law = theory.matrices.MarchenkoPastur(1.0, 1.7)
    near = np.array([1e-8, 1e-12])
    np.testing.assert_allclose(law.pdf(near) * np.pi * np.sqrt(1.7 * near), 1, rtol=1e-8)
    assert np.isposinf(law.pdf(0.0))
    np.testing.assert_array_equal(law.pdf([-1.0, 0.0, 9.0]), [0, np.inf, 0])
    for ratio in (0.5, 2.0):
        assert theory.matrices.MarchenkoPastur(ratio).pdf(0.0) == 0


def test_marchenko_pastur_of_large_matrices():
    """Levels of one 600×1200 matrix: sup |F − F_MP| of order 1/n; another ratio is far off."""
    matrix = np.random.default_rng(0).normal(size=(600, 1200))
    levels = np.linalg.eigvalsh(matrix @ matrix.T / 1200)
    empirical = np.arange(1, 601) / 600

    def distance(law):
        return np.abs(law.cdf(levels) - empirical).max()

    assert distance(theory.matrices.MarchenkoPastur(0.5)) < 5 / 600
    assert distance(theory.matrices.MarchenkoPastur(0.6)) > 0.03


def test_coulomb_gas_is_stationary():
    """g² ∂_i ln p = K(x_i) + Σ g²/(x_i − x_j): the current of the Fokker–Planck equation is 0."""
    levels, g2 = np.array([-0.7, 0.1, 0.4, 1.9]), 0.3

    def log_density(x):
        return theory.matrices.coulomb_gas_log_density(
            x, strength=g2, potential=lambda x: x**4 / 4 - x
        )

    step = 1e-6
    slopes = [
        (log_density(levels + step * e) - log_density(levels - step * e)) / (2 * step)
        for e in np.eye(4)
    ]
    drift = theory.matrices.dyson_drift(levels, strength=g2, force=lambda x: 1 - x**3)
    np.testing.assert_allclose(g2 * np.array(slopes), drift, rtol=1e-7)
    wrong = theory.matrices.dyson_drift(levels, strength=2 * g2, force=lambda x: 1 - x**3)
    assert np.abs(g2 * np.array(slopes) - wrong).max() > 0.1


INJECTED: dict[str, Any] = dict(learning_rate=0.1, batch_size=16, noise=0.1, level=2.0)


@pytest.mark.parametrize("step", [None, 0.05, 0.0])
def test_injected_noise_levels(step):
    """Variances by Lyapunov, the gap's mean by the 3-dimensional Gaussian law in the plane."""
    law = theory.matrices.InjectedNoiseLevels(**INJECTED, time_step=step)
    h = 0.1 if step is None else step
    covariance = np.asarray(ss.landscapes.symmetric_noise_covariance(2, 0.1)) / 16
    m = theory.stationary.linear_covariance(np.eye(4), covariance, learning_rate=0.1, time_step=h)
    np.testing.assert_allclose(m[1, 1], law.variance, rtol=1e-10)
    np.testing.assert_allclose([m[0, 0], m[1, 2]], [2 * law.variance, law.variance], rtol=1e-10)
    # W₁₁ − W₂₂ and 2W₁₂ from the covariance, then E|·| over a quadrant of the plane.
    first = m[0, 0] + m[3, 3] - 2 * m[0, 3]
    np.testing.assert_allclose(first, 4 * m[1, 2], rtol=1e-10)
    scale = np.sqrt(first)

    def integrand(y, x):
        return np.hypot(x, y) * np.exp(-(x**2 + y**2) / 2) * 2 / np.pi

    mean = scale * integrate.dblquad(integrand, 0, 9, 0, 9)[0]
    np.testing.assert_allclose(law.mean_spacing, mean, rtol=1e-6)
    prefactor = law.mean_spacing / np.sqrt(np.pi * 0.1 * 0.01 / 16)
    np.testing.assert_allclose(prefactor, 1 / np.sqrt(1 - h / 2), rtol=1e-10)
    trace = stats.foldnorm.mean(4 / (2 * np.sqrt(law.variance))) * 2 * np.sqrt(law.variance)
    np.testing.assert_allclose(law.gram_mean_spacing, law.mean_spacing * trace, rtol=1e-10)
    density = integrate.quad(lambda s: s**2 * float(law.spacing_density(s)), 0, 1)[0]
    np.testing.assert_allclose(density, 8 * law.variance, rtol=1e-9)


def test_injected_levels_are_the_two_level_gas():
    """∫ over the centre of |x₁−x₂| e^{−Σx²/2g²} is p(s) of the SDE, and not that of SGD."""
    law = theory.matrices.InjectedNoiseLevels(**INJECTED, time_step=0.0)
    gaps = np.array([0.5, 1.0, 2.0]) * law.mean_spacing

    def marginal(s):
        def weight(c):
            levels = np.array([2 + c - s / 2, 2 + c + s / 2])
            return np.exp(
                theory.matrices.coulomb_gas_log_density(
                    levels, strength=law.strength, potential=lambda x: (x - 2) ** 2 / 2
                )
            )

        return integrate.quad(weight, -0.1, 0.1, epsabs=1e-14)[0]

    found = np.array([marginal(s) for s in gaps])
    exact = law.spacing_density(gaps)
    np.testing.assert_allclose(found / found[0], exact / exact[0], rtol=1e-7)
    discrete = theory.matrices.InjectedNoiseLevels(**INJECTED).spacing_density(gaps)
    assert np.abs(found / found[0] - discrete / discrete[0]).max() > 1e-3


def test_gap_transition():
    """Stationary in the mean and in the square; Dyson's −s + 2g²/s and 4g² as η → 0."""
    law = theory.matrices.InjectedNoiseLevels(**INJECTED, time_step=0.05)
    edges = np.linspace(0, 12 * law.mean_spacing, 400)
    where, drift, square = law.increments(edges)
    mass = np.diff(-np.exp(-(edges**2) / (8 * law.variance)))
    assert abs(mass @ drift) < 1e-9 * law.mean_spacing
    np.testing.assert_allclose(mass @ where, law.mean_spacing, rtol=1e-9)
    assert abs(mass @ (square + 2 * where * drift)) < 1e-4 * 8 * law.variance
    small = theory.matrices.InjectedNoiseLevels(**(INJECTED | dict(learning_rate=1e-5)))
    s = np.array([1.0, 2.0]) * small.mean_spacing
    mean, variance = small.gap_transition(s)
    limit = np.diff(
        theory.matrices.dyson_drift(np.stack([-s / 2, s / 2], -1), strength=small.strength)
    )
    np.testing.assert_allclose((mean - s) / 1e-5, limit[:, 0] - s, rtol=1e-3)
    np.testing.assert_allclose(variance / 1e-5, 4 * small.strength, rtol=1e-3)
    assert (np.abs((mean - s) / 1e-5 + s) > 0.1 * np.abs(limit[:, 0])).all()


def test_boltzmann_machine_spacing():
    """Gap of a doublet: Lyapunov equation of the machine's own Hessian and Σ, by differences."""
    machine = ss.landscapes.GaussianRBM(ss.landscapes.scalar_field_kernel(5, 2.0), 3.0)
    theta, small = machine.minimum(), 1e-5
    shifts = small * jnp.concatenate([jnp.eye(25), -jnp.eye(25)])
    slopes = np.asarray(jax.jit(jax.vmap(lambda x: machine.gradient(x)))(theta + shifts))
    hessian = (slopes[:25] - slopes[25:]) / (2 * small)
    sigma = call(machine.gradient_covariance, theta)
    values, basis = np.linalg.eigh((hessian + hessian.T) / 2)
    kept = values > 1e-6
    # Ten rotations of the hidden units cost nothing, and see no noise.
    assert kept.sum() == 15 and np.abs(basis[:, ~kept].T @ sigma).max() < 1e-7
    inner, noise = values[kept], basis[:, kept].T @ sigma @ basis[:, kept]
    eta, batch = 0.1, 32
    weights = np.asarray(machine.matrix(theta))
    moves = [np.reshape(e, (5, 5)) @ weights.T for e in np.eye(25)]
    gram = np.stack([move + move.T for move in moves], -1)
    site = 2 * np.pi * np.arange(5) / 5
    for step in (0.1, 0.025, 0.0):
        bottom = inner[:, None] + inner - step * np.outer(inner, inner)
        m = basis[:, kept] @ (eta / batch * noise / bottom) @ basis[:, kept].T
        for k in (1, 2):
            pair = np.sqrt(2 / 5) * np.stack([np.cos(k * site), np.sin(k * site)])
            push = np.einsum("ai,ijd,bj->abd", pair, gram, pair)
            difference, cross = push[0, 0] - push[1, 1], 2 * push[0, 1]
            width = difference @ m @ difference
            np.testing.assert_allclose(cross @ m @ cross, width, rtol=1e-6)
            kappa = 4 + 2 - 2 * np.cos(2 * np.pi * k / 5)
            found = theory.matrices.boltzmann_machine_spacing(
                kappa, mass=3.0, learning_rate=eta, batch_size=batch, time_step=step
            )
            np.testing.assert_allclose(found, np.sqrt(width * np.pi / 2), rtol=1e-6)


BAD = {
    "two equal levels": (lambda: theory.matrices.dyson_drift([1.0, 1.0], strength=1.0), "equal"),
    "one level": (lambda: theory.matrices.dyson_drift([1.0], strength=1.0), "two levels"),
    "ratio": (lambda: theory.matrices.MarchenkoPastur(0.0), "ratio"),
    "level": (lambda: theory.matrices.MarchenkoPastur(2.0).quantile(1.0), "level must lie"),
    "kind": (lambda: theory.matrices.mean_gap_ratio("gue"), "gue"),
    "step": (
        lambda: theory.matrices.InjectedNoiseLevels(**(INJECTED | dict(learning_rate=2.5))),
        "less than 2",
    ),
    "steps": (lambda: theory.matrices.InjectedNoiseLevels(**INJECTED, time_step=0.03), "multiples"),
    "not learnt": (
        lambda: theory.matrices.boltzmann_machine_spacing(
            9.5, mass=3.0, learning_rate=0.1, batch_size=8
        ),
        "not learnt",
    ),
    "batch": (
        lambda: theory.matrices.teacher_student_spacing(learning_rate=0.1, batch_size=1),
        "batch",
    ),
    "unstable": (
        lambda: theory.matrices.teacher_student_spacing(learning_rate=1.0, batch_size=3),
        "fourth moment",
    ),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value and the way out."""
    with pytest.raises(ValueError, match=match):
        make()


def invariants(theta):
    """1, |Δ|², |Δ|⁴, det²Δ: what the law of Δ, invariant on both sides, knows to fourth order."""
    square = jnp.sum(theta**2)
    return jnp.stack(
        [jnp.ones_like(square), square, square**2, (theta[0] * theta[3] - theta[1] * theta[2]) ** 2]
    )


def closed(operator):
    """E of the invariants where E[operator f] = 0, and how well the operator closes on them."""
    points = np.random.default_rng(3).normal(size=(7, 4))
    values = np.stack([invariants(p) for p in points])
    moved = np.stack([operator(p) for p in points])
    coefficients, *_ = np.linalg.lstsq(values, moved, rcond=None)
    assert np.abs(values @ coefficients - moved).max() < 1e-8 * np.abs(moved).max()
    found = np.linalg.solve(coefficients[1:, 1:].T, -coefficients[0, 1:])
    return dict(zip(("square", "quartic", "determinant"), found, strict=True))


def expected(found):
    """v, ⟨s²⟩ and k from E|Δ|², E|Δ|⁴ and E det²: |Δ|² = 2(|α|² + |β|²), det Δ = |α|² − |β|²."""
    q, quartic, det = found["square"], found["quartic"], found["determinant"]
    # α and β have one law: E|β|⁴ = (E(|α|²+|β|²)² + E(|α|²−|β|²)²)/4, E|β|² = E|Δ|²/4.
    fourth = (quartic / 4 + det) / 4
    return q / 4, 4 * q + quartic - 4 * det, fourth / (2 * (q / 4) ** 2) - 1


def test_teacher_student_sde_by_its_generator():
    """−⟨Δ, ∇f⟩ + ½(η/B) tr Σ(Δ)∇²f closes on the invariants; theory at h → 0 by extrapolation."""
    eta, batch = 0.1, 10
    landscape = ss.landscapes.LinearTeacherStudent(np.zeros((2, 2)), 1.0)
    slope, curve = jax.jit(jax.jacfwd(invariants)), jax.jit(jax.hessian(invariants))
    covariance = jax.jit(lambda x: landscape.gradient_covariance(x))

    def generator(point):
        sigma = np.asarray(covariance(jnp.asarray(point)))
        drift = -np.asarray(slope(point)) @ point  # ∇L = Δ
        return drift + 0.5 * eta / batch * np.einsum("fij,ij->f", curve(point), sigma)

    exact = expected(closed(generator))
    steps = [
        theory.matrices.teacher_student_spacing(
            learning_rate=eta, batch_size=batch, time_step=eta / m
        )
        for m in (64, 128)
    ]
    for name, value in zip(("variance", "mean_square", "kurtosis"), exact, strict=True):
        coarse, fine = (getattr(x, name) for x in steps)
        np.testing.assert_allclose(2 * fine - coarse, value, rtol=1e-5)
    assert exact[2] > 5e-3


def test_teacher_student_sgd_by_enumeration():
    """One SGD step of the landscape, all of B = 2 examples by Gauss–Hermite: v, ⟨s²⟩ and k ≈ 0."""
    eta, nodes = 0.05, 5
    landscape = ss.landscapes.LinearTeacherStudent(np.zeros((2, 2)), 1.0)
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[z] * 8, indexing="ij"), -1).reshape(-1, 2, 4)
    weight = weight / weight.sum()
    share = np.ones(1)
    for _ in range(8):
        share = np.multiply.outer(share, weight).ravel()
    examples = (jnp.asarray(grid[..., :2]), jnp.asarray(grid[..., 2:]))

    @jax.jit
    def step(theta):
        moved = jax.vmap(lambda e: theta - eta * landscape.minibatch_gradient(theta, e))(examples)
        return jnp.asarray(share) @ jax.vmap(invariants)(moved) - invariants(theta)

    exact = expected(closed(lambda point: np.asarray(step(jnp.asarray(point)))))
    found = theory.matrices.teacher_student_spacing(learning_rate=eta, batch_size=2)
    np.testing.assert_allclose(
        [found.variance, found.mean_square, found.kurtosis], exact, rtol=1e-7, atol=1e-8
    )
    covariance = closed_forms.population(
        np.eye(2), label_noise=1.0, learning_rate=eta, batch_size=2
    )
    np.testing.assert_allclose(found.variance, covariance[0, 0], rtol=1e-10)
    # The matched Gaussian noise has the same v and another fourth moment.
    gaussian = theory.matrices.teacher_student_spacing(
        learning_rate=eta, batch_size=2, time_step=eta
    )
    np.testing.assert_allclose(gaussian.variance, found.variance, rtol=1e-10)
    assert gaussian.kurtosis > 100 * abs(found.kurtosis)


def test_published_spacings():
    """.18020, .25955, .08984 within .5 %, from 2√(πv), and ⟨s²⟩/⟨s⟩² = 1.2766 at (.1, 10)."""
    for (eta, batch), value in {
        (0.05, 10): 0.18020,
        (0.1, 10): 0.25955,
        (0.05, 40): 0.08984,
    }.items():
        found = theory.matrices.teacher_student_spacing(learning_rate=eta, batch_size=batch)
        assert found.mean == pytest.approx(value, rel=1e-3)
    found = theory.matrices.teacher_student_spacing(learning_rate=0.1, batch_size=10)
    assert found.ratio == pytest.approx(1.2766, abs=1e-4)
    assert found.leading == pytest.approx(0.25923, abs=5e-6)
