"""Mean risk of online least squares: the table of theory, other routes, controls that fail."""

import functools

import closed_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import sde_sgd as ss
from sde_sgd.theory.equations import fit_order, OnlineRisk

DIM = 512
TIMES = DIM * np.array([1, 2, 5, 10, 20])
EXACT = [0.100969, 0.047666, 0.010607, 0.003655, 0.002124]
VOLTERRA = [0.100899, 0.047612, 0.010593, 0.003650, 0.002121]
A = np.array([[1.0, 0.4, 0.1], [0.4, 0.6, -0.2], [0.1, -0.2, 0.5]])
MINIMUM, START = np.array([0.2, -0.1, 0.4]), np.array([1.0, 0.7, -0.9])


def process_of(where, eta, batch=1, substeps=1, homogenised=False):
    """SGD or SVAG; its SDE (None) or that of homogenised SGD, by `substeps` of Euler."""
    sampling = ss.WithReplacement(batch)
    if not homogenised and substeps == 1:
        return ss.SGD(where, eta, sampling)
    noise = ss.HessianNoise(1 / batch, times_loss=True) if homogenised else None
    noise = ss.MinibatchNoise(sampling) if noise is None else noise
    equation = ss.ModifiedEquation(where, eta, noise, substeps=substeps or 1)
    return equation.limit() if substeps is None else equation


@functools.cache
def spread_out():
    """λ_i = i/d, σ = .1."""
    return ss.landscapes.PopulationLeastSquares(np.diag(np.arange(1, DIM + 1) / DIM), 0.1)


def uniform(eta=1 / DIM, *options, **more):
    """From |u₀| = 1 in all directions alike."""
    return OnlineRisk(process_of(spread_out(), eta, *options, **more), np.full(DIM, DIM**-0.5))


@functools.cache
def landscape():
    return ss.landscapes.PopulationLeastSquares(A, 0.3, MINIMUM)


def small(eta, batch=1, substeps=1, homogenised=False):
    return OnlineRisk(process_of(landscape(), eta, batch, substeps, homogenised), START)


LIMIT = dict(substeps=None, homogenised=True)


def scheduled(rates):
    """A schedule of these rates, one an iteration."""
    return lambda k: jnp.asarray(rates)[jnp.minimum(k, len(rates) - 1)]


@jax.jit
def covariances(where, points):
    return jax.vmap(where.gradient_covariance)(MINIMUM + points)


def mean_covariance(moment):
    """E Σ(θ* + δ) for E δδᵀ = `moment`: Σ is even and quadratic in δ, so 2d points will do."""
    values, basis = np.linalg.eigh(moment)
    points = (np.sqrt(np.clip(values, 0, None) * len(moment)) * basis).T
    return np.asarray(covariances(landscape(), np.concatenate([points, -points]))).mean(axis=0)


def risk(moment):
    return 0.5 * np.trace(A @ moment)


def test_table_of_the_exact_mean():
    """Excess risk at t = 1, 2, 5, 10, 20 by the finite-d recursion at γ = 1; not at B = 2."""
    np.testing.assert_allclose(uniform().after(TIMES), EXACT, atol=6e-7)
    assert abs(uniform(1 / DIM, 2).after(TIMES[:1])[0] - EXACT[0]) > 1e-3


def test_table_of_volterra():
    """The same of homogenised SGD, by the trapezoid rule and by eigenvectors, which agree."""
    homogenised = uniform(**LIMIT)
    found, exact = homogenised.volterra(TIMES), homogenised.after(TIMES)
    np.testing.assert_allclose(found, VOLTERRA, atol=6e-7)
    np.testing.assert_allclose(found, exact, rtol=2e-7)
    # The exact mean is another number, by less than half a percent.
    off = np.abs(found / np.array(EXACT) - 1)
    assert off.max() < 5e-3 and np.all(np.abs(found - EXACT) > 2e-6)


def test_recursion_by_the_landscape():
    """M ← M − η(AM + MA) + η²AMA + (η²/B) E Σ(θ), Σ the landscape's, over a schedule."""
    schedule = (0.3, 0.3, 0.1, 0.5)
    moment = np.outer(START - MINIMUM, START - MINIMUM)
    wanted = [risk(moment)]
    for k in range(4):
        move = np.eye(3) - schedule[k] * A
        moment = move @ moment @ move + schedule[k] ** 2 / 3 * mean_covariance(moment)
        wanted.append(risk(moment))
    found = small(scheduled(schedule), 3).after(np.arange(5))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("homogenised", [True, False])
def test_equation_by_integration(homogenised):
    """dM = (−AM − MA + ηC) dt by Runge–Kutta over two rates, C = 2E L A/B or E Σ/B."""
    rates, batch = (0.5, 0.5, 0.2), 2

    def slope(t, flat, eta):
        moment = flat.reshape(3, 3)
        noise = (0.09 + 2 * risk(moment)) * A if homogenised else mean_covariance(moment)
        return (-A @ moment - moment @ A + eta / batch * noise).ravel()

    moment, wanted = np.outer(START - MINIMUM, START - MINIMUM), []
    for eta in rates:
        moment = (
            solve_ivp(slope, (0, eta), moment.ravel(), args=(eta,), rtol=1e-9, atol=1e-12)
            .y[:, -1]
            .reshape(3, 3)
        )
        wanted.append(risk(moment))
    found = small(scheduled(rates), batch, None, homogenised).after([1, 2, 3])
    np.testing.assert_allclose(found, wanted, rtol=1e-7)
    # The two kinds of noise are told apart.
    other = small(scheduled(rates), batch, None, not homogenised).after([1, 2, 3])
    assert np.all(np.abs(other / np.array(wanted) - 1) > 1e-3)


def test_volterra_is_of_second_order():
    """Trapezoid rule against eigenvectors, constant and scheduled: O(h²); Euler's scheme O(h)."""
    coarse, fine = (2, 4, 8, 16), (32, 64, 128)
    for rate in (0.6, lambda k: jnp.where(k < 3, 0.6, 0.2)):
        limit = small(rate, **LIMIT)
        exact = limit.after([6])[0]
        rule = [limit.volterra([6], substeps=m)[0] - exact for m in coarse]
        scheme = [small(rate, 1, m, True).after([6])[0] - exact for m in fine]
        assert fit_order(1 / np.array(coarse), rule).order == pytest.approx(2, abs=0.05)
        assert fit_order(1 / np.array(fine), scheme).order == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("substeps", [1, 3, None])
@pytest.mark.parametrize("homogenised", [True, False])
def test_critical_learning_rate(substeps, homogenised):
    """The second-moment map has an eigenvalue 1 (its generator 0) there, less below, more above."""
    problem = small(0.1, 2, substeps, homogenised)
    most = problem.critical_learning_rate()
    values = problem.spectrum

    def growth(eta):
        h = 0.0 if substeps is None else eta / substeps
        own = h * values**2 + (0 if homogenised else eta / 2 * values**2)
        matrix = np.diag(-2 * values + own) + eta / 2 * np.outer(values, values)
        return np.linalg.eigvalsh(matrix)[-1]

    assert abs(growth(most)) < 1e-10
    assert growth(0.99 * most) < 0 < growth(1.01 * most)
    if homogenised and substeps is None:
        assert most == pytest.approx(2 * 2 / np.trace(A))


def test_svag_and_gaussian_sgd_have_the_risk_of_their_second_moments():
    """SVAG(m) that of Euler's scheme with m substeps, Gaussian SGD that of SGD."""
    noise, sampling = ss.MinibatchNoise(ss.WithReplacement(2)), ss.WithReplacement(2)
    pairs = (
        (ss.SVAG(landscape(), 0.3, sampling, 3), process_of(landscape(), 0.3, 2, 3)),
        (ss.GaussianSGD(landscape(), 0.3, noise), process_of(landscape(), 0.3, 2)),
    )
    for one, other in pairs:
        found, exact = (OnlineRisk(p, START).after([1, 7]) for p in (one, other))
        np.testing.assert_allclose(found, exact, rtol=1e-13)


def test_risk_beyond_the_critical_rate():
    """Falls to its floor below it, grows without bound above, on both sides of theory."""
    sgd = small(0.1).critical_learning_rate()
    sde = small(0.1, **LIMIT).critical_learning_rate()
    late = np.array([400, 800])
    for share, grows in ((0.9, False), (1.1, True)):
        limit = small(share * sde, **LIMIT)
        for risks in (
            small(share * sgd).after(late),
            limit.volterra(late, substeps=4),
            limit.after(late),
        ):
            assert (risks[1] > 2 * risks[0]) is np.bool_(grows)
    assert small(50 * sgd).after([400])[0] == np.inf
    assert small(50 * sde, **LIMIT).after([400])[0] == np.inf


def test_floor():
    """γλ̄σ²/(2(2 − γλ̄)); ½Tr(AM) of the stationary covariance; the end of a long run."""
    problem = uniform(**LIMIT)
    gamma, mean = 1.0, problem.spectrum.mean()
    expected = gamma * mean * 0.01 / (2 * (2 - gamma * mean))
    assert problem.floor() == pytest.approx(expected)
    for substeps, step in ((1, 0.3), (2, 0.15), (None, 0.0)):
        covariance = closed_forms.population(
            A, label_noise=0.3, learning_rate=0.3, batch_size=3, time_step=step
        )
        assert small(0.3, 3, substeps).floor() == pytest.approx(risk(covariance), rel=1e-10)
    limit = small(0.3, 3, **LIMIT)
    assert limit.volterra([300])[0] == pytest.approx(limit.floor(), rel=1e-9)


def test_a_fault_in_the_kernel_is_seen():
    """K with e^{−λt} for e^{−2λt}, or without the 1/B, misses the equation that it stands for."""
    limit, rule = small(0.3, 2, **LIMIT), {"substeps": 8}
    exact, right = limit.after([5])[0], limit.volterra([5], **rule)[0]
    # λ/2 and twice the start: the same F and K at t = 0, at half the decay.
    halved = ss.landscapes.PopulationLeastSquares(A / 2, 0.3, MINIMUM)
    begin = MINIMUM + np.sqrt(2) * (START - MINIMUM)
    slow = OnlineRisk(process_of(halved, 0.3, 2, **LIMIT), begin).volterra([5], **rule)
    single = small(0.3, **LIMIT).volterra([5], **rule)
    assert abs(right / exact - 1) < 1e-3
    assert min(abs(slow[0] / exact - 1), abs(single[0] / exact - 1)) > 0.05


CONSTANT = ss.ConstantNoise(np.eye(3))


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: OnlineRisk(process_of(ss.LeastSquares([[1.0]], [1.0]), 0.1), [1.0]),
            "known on PopulationLeastSquares",
        ),
        (lambda: OnlineRisk(landscape(), START), "process must be"),
        (lambda: OnlineRisk(process_of(landscape(), 0.1), [1.0]), r"shape \(3,\)"),
        (
            lambda: OnlineRisk(
                process_of(ss.landscapes.PopulationLeastSquares([[0.0]], 0.1), 0.1), [1.0]
            ),
            "flat",
        ),
        (
            lambda: OnlineRisk(ss.SGD(landscape(), 0.1, ss.WithReplacement(1), 0.5), START),
            "without a buffer",
        ),
        (
            lambda: OnlineRisk(ss.GaussianSGD(landscape(), 0.1, CONSTANT), START),
            "got ConstantNoise",
        ),
        (lambda: small(lambda k: 0.1 - 0.1 * k).after([3]), "learning_rate is -0.1 at iteration 2"),
        (lambda: small(0.1).after([2.5]), "integers from 0 to.*got 2.5"),
        (lambda: small(0.1, **LIMIT).volterra([2], substeps=0), "substeps must be an integer"),
        (lambda: small(9.0, **LIMIT).volterra([2]), "Raise substeps"),
        (lambda: small(0.1).volterra([2]), "that of homogenised SGD"),
        (lambda: small(0.1, 1, None).volterra([2]), "that of homogenised SGD"),
        (lambda: small(0.1, 1, 2, True).volterra([2]), "that of homogenised SGD"),
        (lambda: small(lambda k: 0.1 / (k + 1), **LIMIT).after([50]), "use volterra"),
        (lambda: small(5.0).floor(), "not below the critical"),
        (lambda: small(lambda k: 0.1 / (k + 1)).floor(), "no stationary risk"),
    ],
)
def test_bad_input(call, words):
    """One clear error each."""
    with pytest.raises(ValueError, match=words):
        call()
