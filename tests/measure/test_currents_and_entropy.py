"""Areal velocity, entropy production and ⟨e^{−σ}⟩ of a linear process with circulating noise.

H = diag(1, 3), C = [[1, .8], [.8, 1]] (Chaudhari and Soatto's point: HC ≠ CH, so that currents
circulate). With A = 1 − ηH, Q = η²C the chain x' = Ax + Q^{1/2}z has M = AMAᵀ + Q, E[x x'ᵀ] = MAᵀ,
and everything here follows from these by traces.
"""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import linalg, stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
HESSIAN = np.diag([1.0, 3.0])
NOISE = np.array([[1.0, 0.8], [0.8, 1.0]])
ETA = 0.1
STEPS, MEMBERS = 120, 4096


def covariance(step, rate=ETA, noise=NOISE):
    """M of Euler's chain with a step h and diffusion ηC: M = AMAᵀ + hηC."""
    return linalg.solve_discrete_lyapunov(np.eye(2) - step * HESSIAN, step * rate * noise)


def area(step, rate=ETA, noise=NOISE):
    """½⟨x₁dx₂ − x₂dx₁⟩ per unit t: ½(MAᵀ − AM)₁₂/h."""
    turned = covariance(step, rate, noise) @ (np.eye(2) - step * HESSIAN).T
    return (turned - turned.T)[0, 1] / (2 * step)


def entropy(step):
    """E ln p(x'|x)/p(x|x') per unit t of Gaussian SGD, ½tr Q⁻¹E[(x−Ax')(x−Ax')ᵀ] − d/2 a step."""
    m, a = covariance(step, step), np.eye(2) - step * HESSIAN
    back = m - m @ a.T @ a.T - a @ a @ m + a @ m @ a.T
    return (0.5 * np.trace(np.linalg.solve(step**2 * NOISE, back)) - 1) / step


def gaussian_sgd(eta=ETA, noise=NOISE):
    return ss.GaussianSGD(ss.quadratic(HESSIAN, 1.0), eta, ss.ConstantNoise(noise))


def stationary_start(step, rate):
    root = jnp.asarray(np.linalg.cholesky(covariance(step, rate)))
    return lambda key: root @ jr.normal(key, (2,))


def log_density(step, rate):
    inverse = jnp.asarray(np.linalg.inv(covariance(step, rate)))
    return lambda x: -0.5 * x @ inverse @ x


@functools.cache
def run(eta=ETA):
    """Gaussian SGD from its stationary law, with everything measured."""
    process, density = gaussian_sgd(eta), log_density(eta, eta)
    ratio = ss.measure.transition_log_ratio(process)
    times = (1, 2) if eta == ETA else (1, 2, 4)
    return ss.simulate(
        process,
        stationary_start(eta, eta),
        num_steps=STEPS,
        ensemble_size=MEMBERS,
        key=jr.key(7),
        measures={
            "area": ss.measure.ArealVelocity(),
            "late": ss.measure.ArealVelocity(
                lambda x: 2 * x, centre=[0.1, -0.2], burn_in=STEPS // 2
            ),
            "entropy": ss.measure.EntropyProduction(ratio, density, at=(*times, STEPS)),
            "no boundary": ss.measure.EntropyProduction(ratio, lambda x: 0.0, at=times),
        },
        record_every=1,
    )


def test_the_reference_numbers():
    """−.2162η and 1.9219 at η = .1, 1.8470 at .05, −.2η and 16/9 as η → 0."""
    assert area(0.1) / 0.1 == pytest.approx(-0.2162, abs=5e-5)
    assert entropy(0.1) == pytest.approx(1.9219, abs=5e-5)
    assert entropy(0.05) == pytest.approx(1.8470, abs=5e-5)
    assert area(1e-6, 1e-6) / 1e-6 == pytest.approx(-0.2, abs=1e-5)
    assert entropy(1e-5) == pytest.approx(16 / 9, abs=1e-4)


def test_areas_of_the_recorded_trajectory():
    """Σ ½(x_i x'_j − x_j x'_i) about a centre, of a function, after a burn-in, equals NumPy's."""
    path = run().records[1]
    for name, values, first in (
        ("area", path, 0),
        ("late", 2 * path - np.array([0.1, -0.2]), STEPS // 2),
    ):
        x, y = values[first:-1], values[first + 1 :]
        swept = 0.5 * (x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]).sum(axis=0)
        found, duration = run()[name], ETA * (STEPS - first)
        exact = swept.mean() / duration
        error = swept.std(ddof=1) / np.sqrt(MEMBERS) / duration
        assert found.num_iterations == STEPS - first
        np.testing.assert_allclose(found.per_time.value, [[0, exact], [-exact, 0]], rtol=1e-9)
        np.testing.assert_allclose(found.per_time.standard_error[0, 1], error, rtol=1e-9)
        np.testing.assert_allclose(found.per_iteration.value[0, 1], exact * ETA, rtol=1e-9)


def test_durations_after_a_burn_in_under_a_schedule():
    """η_k = .5, .5, .5, .1, .1, ...: after three iterations a unit of t is ten of them, and the
    times of ⟨e^{−σ}⟩ are .1 and .4; from the start t(8) = 2."""
    process = ss.GaussianSGD(
        ss.quadratic(HESSIAN, 1.0), lambda k: jnp.where(k < 3, 0.5, 0.1), ss.ConstantNoise(NOISE)
    )

    def both(name, burn_in):
        entropy = ss.measure.EntropyProduction(lambda x, y: x @ y, lambda x: 0.0, (1, 4), burn_in)
        return {
            f"area {name}": ss.measure.ArealVelocity(burn_in=burn_in),
            f"entropy {name}": entropy,
        }

    found = ss.simulate(
        process,
        np.array([1.0, -0.5]),
        num_steps=8,
        ensemble_size=4,
        key=jr.key(9),
        measures=both("late", 3) | both("whole", 0),
        progress=False,
    )
    for name, duration, iterations in (("late", 0.5, 5), ("whole", 2.0, 8)):
        area, entropy = found[f"area {name}"], found[f"entropy {name}"]
        assert area.num_iterations == iterations
        unit = duration / iterations
        for rate in ("value", "standard_error"):
            turned = getattr(area.per_iteration, rate)[0, 1]
            assert abs(turned) > 1e-4
            np.testing.assert_allclose(turned / getattr(area.per_time, rate)[0, 1], unit, rtol=1e-6)
            ratio = getattr(entropy.per_iteration, rate) / getattr(entropy.per_time, rate)
            np.testing.assert_allclose(ratio, unit, rtol=1e-6)
    np.testing.assert_allclose(found["entropy late"].times, [0.1, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found["entropy whole"].times, [0.5, 1.6], rtol=1e-6)


def agrees(estimate, exact, entries=1):
    limit = stats.norm.isf(FAILURE_RATE / 2 / entries)
    return abs(float(estimate.value) - exact) < limit * float(estimate.standard_error)


def test_areal_velocity_at_finite_learning_rate():
    """½⟨x₁dx₂ − x₂dx₁⟩/dt = −.2162η at η = .1; neither −.2η nor the other orientation."""
    found = run()["area"].per_time[0, 1]
    assert found.standard_error < 0.01 * abs(found.value)
    assert agrees(found, area(ETA))
    assert not agrees(found, -0.2 * ETA) and not agrees(found, -area(ETA))


def test_areal_velocity_of_the_sde_at_its_step():
    """Euler with h = η/4: ½(MAᵀ − AM)/h of its own M; a transposed root turns at another speed."""
    root = np.linalg.cholesky(NOISE)

    def measured(matrix):
        noise = ss.FunctionNoise(lambda x: jnp.asarray(matrix))
        sde = ss.ModifiedEquation(ss.quadratic(HESSIAN, 1.0), ETA, noise, substeps=4)
        return ss.simulate(
            sde,
            stationary_start(ETA / 4, ETA),
            num_steps=STEPS,
            ensemble_size=MEMBERS,
            key=jr.key(8),
            measures={"a": ss.measure.ArealVelocity(burn_in=40)},
        )["a"].per_time[0, 1]

    exact = area(ETA / 4, ETA)
    assert exact != pytest.approx(area(ETA), rel=0.03)
    assert agrees(measured(root), exact)
    transposed = measured(root.T)
    assert not agrees(transposed, exact)
    assert agrees(transposed, area(ETA / 4, ETA, root.T @ root))


@pytest.mark.parametrize("eta", [0.1, 0.05])
def test_entropy_production_at_finite_learning_rate(eta):
    """1.9219 per unit t at η = .1 and 1.8470 at .05, told apart from 16/9."""
    found = run(eta)["entropy"].per_time
    assert found.standard_error < 0.01 * found.value
    assert agrees(found, entropy(eta))
    assert not agrees(found, 16 / 9)
    assert run(eta)["entropy"].irreversible.value == 0


@pytest.mark.parametrize("eta", [0.1, 0.05])
def test_the_fluctuation_theorem(eta):
    """⟨e^{−σ}⟩ = 1 at t ≤ .2 from the stationary law; without ln ρ(x₀)/ρ(x_n) it is not."""
    found = run(eta)["entropy"]
    count = len(found.iterations) - 1
    assert found.times[count - 1] == pytest.approx(0.2)
    for j in range(count):
        assert found.fluctuation.standard_error[j] < 0.03
        assert agrees(found.fluctuation[j], 1.0, count)
    control = run(eta)["no boundary"].fluctuation
    assert not agrees(control[count - 1], 1.0, count)


def test_rare_paths_are_refused():
    """⟨e^{−σ}⟩ over t = 12, ⟨σ⟩ = 23, is decided by a few members: NaN, with the reason."""
    found = run()["entropy"]
    assert np.isnan(found.fluctuation.value[-1]) and np.isinf(found.fluctuation.standard_error[-1])
    assert found.effective_samples[-1] < 100
    assert f"over {STEPS} iterations refused" in found.reason
    assert ss.compare(found.fluctuation, 1.0).verdict == "inconclusive"


def test_the_ratio_is_that_of_the_kernels():
    """ln p(x'|x)/p(x|x') equals SciPy's normal densities, for constant and for growing noise."""
    x, y = np.array([0.3, -0.2]), np.array([0.25, 0.1])

    def growing(theta):
        return jnp.array([[1.0, 0.0], [0.5, 1.0]]) * jnp.sqrt(1 + jnp.sum(theta**2))

    sde = ss.ModifiedEquation(
        ss.quadratic(HESSIAN, 1.0), ETA, ss.FunctionNoise(growing), order=2, substeps=4
    )
    h = ETA / 4
    for process, step, drift, noise in (
        (gaussian_sgd(), ETA, HESSIAN, lambda z: NOISE),
        (
            sde,
            h,
            HESSIAN + ETA / 2 * HESSIAN @ HESSIAN,
            lambda z: np.asarray(growing(z)) @ np.asarray(growing(z)).T,
        ),
    ):

        def density(end, start, step=step, drift=drift, noise=noise):
            mean = start - step * drift @ start
            return stats.multivariate_normal.logpdf(end, mean, step * ETA * noise(start))

        exact = density(y, x) - density(x, y)
        ratio = ss.measure.transition_log_ratio(process)
        assert float(ratio(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(exact, rel=1e-10)


def test_the_fluctuation_theorem_away_from_stationarity():
    """State-dependent noise, Euler steps, any start law ρ: ⟨e^{−σ}⟩ = 1; another ρ fails."""
    noise = ss.FunctionNoise(lambda x: jnp.sqrt(1 + x**2))
    sde = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), 0.2, noise, substeps=2)
    ratio = ss.measure.transition_log_ratio(sde)
    found = ss.simulate(
        sde,
        lambda key: 0.5 * jr.normal(key, (1,)),
        num_steps=3,
        ensemble_size=8192,
        key=jr.key(9),
        measures={
            "right": ss.measure.EntropyProduction(ratio, lambda x: -2 * x[0] ** 2, at=(1, 3)),
            "wrong": ss.measure.EntropyProduction(ratio, lambda x: -8 * x[0] ** 2, at=(1, 3)),
        },
    )
    right, wrong = found["right"], found["wrong"]
    assert right.reason == ""
    assert all(agrees(right.fluctuation[j], 1.0, 2) for j in range(2))
    assert (right.fluctuation.standard_error < 0.05).all()
    refused = np.isnan(wrong.fluctuation.value)
    assert all(refused[j] or not agrees(wrong.fluctuation[j], 1.0, 2) for j in range(2))


def test_jumps_that_cannot_be_undone():
    """A finite sum: σ = ∞ for every member, an infinite rate, e^{−σ} = 0 and not 1, and told."""

    def ratio(x, y):
        # x' = (1 − η)x ± η is undone by x = (1 − η)x' ± η only.
        back = jnp.abs(jnp.abs(x[0] - 0.7 * y[0]) - 0.3) < 1e-12
        return jnp.where(back, 0.0, jnp.inf)

    found = ss.simulate(
        ss.SGD(ss.quadratic(1.0, 1.0), 0.3, ss.WithReplacement(1)),
        jnp.array([0.2]),
        num_steps=4,
        ensemble_size=10,
        key=jr.key(0),
        measures={
            "sigma": ss.measure.EntropyProduction(ratio, lambda x: 0.0, at=(4,)),
            "none": ss.measure.EntropyProduction(lambda x, y: jnp.nan),
        },
    )
    sigma = found["sigma"]
    assert sigma.irreversible.value == 1 and np.isposinf(sigma.per_time.value)
    assert "10 of 10 members made jumps that cannot be undone" in sigma.reason
    assert np.isnan(sigma.fluctuation.value[0])
    assert np.isnan(found["none"].per_time.value)
    assert "log_ratio is NaN" in found["none"].reason


def simulate(measure, process=None):
    made = gaussian_sgd() if process is None else process
    size = made.landscape.dimension
    return ss.simulate(
        made,
        jnp.zeros(size),
        num_steps=10,
        ensemble_size=2,
        key=jr.key(0),
        measures={"m": measure},
    )


REFUSED = {
    "one dimension": (
        lambda: simulate(ss.measure.ArealVelocity(lambda x: x[:1])),
        r"two entries or more; f\(θ\) has shape \(1,\)",
    ),
    "centre": (
        lambda: simulate(ss.measure.ArealVelocity(centre=[0.0])),
        r"centre must have shape \(2,\)",
    ),
    "no density": (
        lambda: ss.measure.EntropyProduction(lambda x, y: 0.0, at=(1,)),
        "pass log_density=",
    ),
    "durations": (
        lambda: ss.measure.EntropyProduction(lambda x, y: 0.0, lambda x: 0.0, at=(2, 1)),
        "increasing integers ≥ 1",
    ),
    "too late": (
        lambda: simulate(
            ss.measure.EntropyProduction(lambda x, y: 0.0, lambda x: 0.0, at=(9,), burn_in=2)
        ),
        "asks for 9 iterations after burn_in=2, and the run ends at 10",
    ),
    "vector": (
        lambda: simulate(ss.measure.EntropyProduction(lambda x, y: x)),
        "must give a scalar",
    ),
    "minibatches": (
        lambda: ss.measure.transition_log_ratio(
            ss.SGD(ss.quadratic(HESSIAN, 1.0), ETA, ss.WithReplacement(2))
        ),
        "lattice",
    ),
    "momentum": (
        lambda: ss.measure.transition_log_ratio(
            ss.GaussianSGD(ss.quadratic(HESSIAN, 1.0), ETA, ss.ConstantNoise(NOISE), momentum=0.5)
        ),
        "no Markov chain",
    ),
    "singular": (
        lambda: ss.measure.transition_log_ratio(gaussian_sgd(noise=np.ones((2, 2)))),
        "The noise has no density",
    ),
    "two-point": (
        lambda: ss.measure.transition_log_ratio(
            ss.ModifiedEquation(
                ss.quadratic(HESSIAN, 1.0), ETA, ss.ConstantNoise(NOISE), increments="two_point"
            )
        ),
        "Two-point steps have no density",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    """Each request without a meaning, with its reason."""
    request, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        request()
