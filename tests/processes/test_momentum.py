"""Momentum: exact laws of chains, SDEs and schemes; the processes at their own step."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from momentum_law import MomentumLaw
from scipy.integrate import solve_ivp

import sde_sgd as ss
from sde_sgd.simulate.stability import judge_stability
from sde_sgd.theory.equations import fit_order

HESS = np.array([[1.0, 0.3], [0.3, 0.5]])
NOISE = np.array([[1.0, 0.4], [0.4, 0.6]])
START = np.array([1.0, -0.5])
ONE = ([[1.0]], [[1.0]])


def law(kind, eta=0.3, mu=0.6, substeps=None, hess=HESS, noise=NOISE):
    return MomentumLaw.of(kind, hess, noise, learning_rate=eta, momentum=mu, substeps=substeps)


@pytest.mark.parametrize(
    "eta, mu, c, chain, flow",
    [(1.0, 0.0, 1.0, 1.0, 0.5), (0.5, 0.9, 1.0, 2.878788, 2.5), (1.5, 0.5, 2.0, 6.0, 3.0)],
)
def test_table(eta, mu, c, chain, flow):
    """Heavy ball 1, 2.878788, 6; underdamped and overdamped SDE ½, 2.5, 3."""
    scalar = {"eta": eta, "mu": mu, "hess": [[1.0]], "noise": [[c]]}
    values = [law(k, **scalar).covariance()[0, 0] for k in _KINDS]
    assert values == pytest.approx([chain, flow, flow], rel=1e-6)


_KINDS = ("heavy_ball", "underdamped", "overdamped")


def test_stationary_against_the_library():
    """Heavy ball and underdamped = the Lyapunov functions of theory, overdamped = OU at η/(1−μ)."""
    options = {"learning_rate": 0.3, "momentum": 0.6}
    expected = (
        ss.theory.stationary.momentum_covariance(HESS, NOISE, **options),
        ss.theory.stationary.underdamped_covariance(HESS, NOISE, **options),
        ss.theory.stationary.linear_covariance(HESS, NOISE, learning_rate=0.75, time_step=0.0),
    )
    for kind, value in zip(_KINDS, expected, strict=True):
        np.testing.assert_allclose(law(kind).covariance(), value, rtol=1e-9)


@pytest.mark.parametrize("kind", ["heavy_ball", "nesterov"])
def test_chains_step_by_step(kind):
    """Mean and covariance after 9 iterations, by carrying (θ, m) and its covariance along."""
    eta, mu, eye = 0.3, 0.6, np.eye(2)
    z, cov = np.concatenate([START, 0 * START]), np.zeros((4, 4))
    for _ in range(9):
        fresh = np.hstack([HESS, mu * eye])  # m' of (θ, m), noise ξ on top
        used = fresh if kind == "heavy_ball" else mu * fresh + np.hstack([HESS, 0 * eye])
        ahead = 1 if kind == "heavy_ball" else 1 + mu
        step = np.vstack([np.hstack([eye, 0 * eye]) - eta * used, fresh])
        kick = np.vstack([-eta * ahead * eye, eye])
        z, cov = step @ z, step @ cov @ step.T + kick @ NOISE @ kick.T
    found = law(kind).transient([9 * eta], START)
    np.testing.assert_allclose(found.mean[0], z[:2], rtol=1e-11)
    np.testing.assert_allclose(found.covariance[0], cov[:2, :2], rtol=1e-11)


def test_underdamped_flow_by_integration():
    """The moment equations of dX = V dt, dV = … as printed, by Runge–Kutta in t."""
    eta, mu = 0.3, 0.6
    drift = np.block([[np.zeros((2, 2)), np.eye(2)], [-HESS / eta, -(1 - mu) / eta * np.eye(2)]])
    push = np.zeros((4, 4))
    push[2:, 2:] = NOISE / eta

    def rates(_, y):
        cov = y[4:].reshape(4, 4)
        return np.concatenate([drift @ y[:4], (drift @ cov + cov @ drift.T + push).ravel()])

    begin = np.concatenate([START, np.zeros(18)])
    end = solve_ivp(rates, (0, 2.1), begin, rtol=1e-10, atol=1e-12).y[:, -1]
    found = law("underdamped").transient([2.1], START)
    np.testing.assert_allclose(found.mean[0], end[:2], rtol=1e-7)
    np.testing.assert_allclose(found.covariance[0], end[4:].reshape(4, 4)[:2, :2], rtol=1e-7)


def errors(kind, mu, rates, chain="heavy_ball"):
    """|E X_T − E θ_k| at T = 4(1 − μ), one dimension."""
    found = []
    for eta in rates:
        pair = [
            law(k, eta, mu, None, *ONE).transient([4 * (1 - mu)], [1.0]).mean for k in (kind, chain)
        ]
        found.append(abs(float((pair[0] - pair[1])[0, 0])))
    return found


@pytest.mark.parametrize("mu", [0.5, 0.9])
@pytest.mark.parametrize("chain", ["heavy_ball", "nesterov"])
def test_first_order_at_fixed_momentum(mu, chain):
    """Underdamped SDE against heavy ball and Nesterov: order 1 in η; on the wrong clock, 0."""
    rates = (1 - mu) ** 2 * 2.0 ** -np.arange(5, 9)  # ηλ/(1−μ)² is what must be small
    fit = fit_order(rates, errors("underdamped", mu, rates, chain))
    assert abs(fit.order - 1) < 0.1
    # Control: Li–Tai–E's x ← x + ηv, v ← μv − ηĝ has the step η²: on our clock, η times as slow.
    wrong = []
    for eta in rates:
        chained = law(chain, eta, mu, None, *ONE).transient([4 * (1 - mu)], [1.0]).mean[0, 0]
        wrong.append(
            abs(
                chained
                - law("underdamped", eta**2, mu, None, *ONE)
                .transient([4 * (1 - mu) * eta], [1.0])
                .mean[0, 0]
            )
        )
    assert fit_order(rates, wrong).order < 0.2


def test_splitting_is_of_second_order():
    """Stationary covariance and mean of the scheme against the SDE: order 2 in the step."""
    steps = np.array([2, 4, 8, 16])
    limit = law("underdamped", mu=0.2)
    gaps = {"mean": [], "covariance": [], "stationary": []}
    for m in steps:
        scheme = law("underdamped", mu=0.2, substeps=int(m))
        a, b = (x.transient([1.5], START) for x in (scheme, limit))
        gaps["mean"].append(np.linalg.norm(a.mean - b.mean))
        gaps["covariance"].append(np.linalg.norm(a.covariance - b.covariance))
        gap = scheme.covariance() - limit.covariance()
        gaps["stationary"].append(np.linalg.norm(gap))
    for values in gaps.values():
        assert abs(fit_order(1 / steps, values).order - 2) < 0.1


def quadratic(hess):
    return ss.quadratic(hess, np.eye(len(hess)))


@functools.cache
def run(kind):
    land, noise = quadratic(HESS), ss.ConstantNoise(NOISE)
    make = {"underdamped": ss.UnderdampedEquation, "overdamped": ss.OverdampedEquation}[kind]
    return ss.simulate(
        make(land, 0.3, noise, 0.6, substeps=2),
        START,
        num_steps=5,
        ensemble_size=2**15,
        key=jr.key(11),
        progress=False,
    )


@pytest.mark.parametrize("kind", ["underdamped", "overdamped"])
def test_processes_have_their_own_law(kind):
    """E θ and E (θ − Eθ)(θ − Eθ)ᵀ of a run at its step; the limit's covariance it has not."""
    assert run(kind).time == pytest.approx(5 * 0.3)
    theta = np.asarray(run(kind).positions)
    exact, limit = (law(kind, substeps=m).transient([1.5], START) for m in (2, None))
    offset = theta - exact.mean[0]
    mean = ss.Estimate.from_samples(offset)
    spread = ss.Estimate.from_samples(offset[:, :, None] * offset[:, None, :])
    assert ss.compare(mean, np.zeros(2)).verdict == "agrees"
    assert ss.compare(spread, exact.covariance[0]).verdict == "agrees"
    if kind == "overdamped":
        assert ss.compare(spread, limit.covariance[0]).verdict == "disagrees"
    # Control: the other process's law.
    other = "overdamped" if kind == "underdamped" else "underdamped"
    wrong = law(other, substeps=2).transient([1.5], START)
    assert ss.compare(spread, wrong.covariance[0]).verdict == "disagrees"


def test_noise_free_underdamped_is_the_exponential():
    """Without noise the scheme is its own linear map, exactly; with a schedule too."""
    land, noise = quadratic(HESS), ss.ConstantNoise(np.zeros((2, 2)))
    sde = ss.UnderdampedEquation(land, 0.3, noise, 0.6, substeps=2)
    options = {"num_steps": 6, "ensemble_size": 2, "key": jr.key(0), "progress": False}
    found = np.asarray(ss.simulate(sde, START, **options).positions)[0]
    exact = law("underdamped", substeps=2).transient([1.8], START).mean[0]
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    scheduled = ss.UnderdampedEquation(land, lambda k: 0.3 + 0.0 * k, noise, 0.6, substeps=2)
    again = np.asarray(ss.simulate(scheduled, START, **options).positions)[0]
    np.testing.assert_allclose(again, exact, rtol=1e-12)


def test_optax_nesterov_is_the_chain():
    """optax.sgd(nesterov=True), full batches: θ after 7 iterations = the law's mean."""
    land = ss.quadratic(HESS, np.zeros((2, 2)))
    process = ss.OptaxSGD(
        land, optax.sgd(0.3, momentum=0.6, nesterov=True), ss.WithReplacement(1), learning_rate=0.3
    )
    found = ss.simulate(process, START, num_steps=7, ensemble_size=1, key=jr.key(0), progress=False)
    exact = law("nesterov").transient([2.1], START).mean[0]
    np.testing.assert_allclose(np.asarray(found.positions)[0], exact, rtol=1e-12)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: ss.UnderdampedEquation(quadratic(HESS), 0.1, ss.ConstantNoise(NOISE), 1.0),
            r"in \[0, 1\)",
        ),
        (
            lambda: ss.OverdampedEquation(
                quadratic(HESS), np.ones(2), ss.ConstantNoise(NOISE), 0.5
            ),
            "one number",
        ),
    ],
)
def test_bad_input(call, words):
    """One clear error each."""
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("substeps", [1, 2])
def test_stability_limit(substeps):
    """A step is refused where its transition has spectral radius ≥ 1, and nowhere else."""
    land, noise = quadratic(np.eye(1)), ss.ConstantNoise(np.eye(1))

    def radius(eta):
        scheme = law("underdamped", eta, 0.5, substeps, *ONE)
        return np.abs(np.linalg.eigvals(scheme.transition)).max()

    decay = np.exp(-0.5 / substeps)
    edge = 2 * (1 + decay) * 0.5 * substeps / (1 - decay)
    assert radius(0.999 * edge) < 1 < radius(1.001 * edge)

    def judge(kind, eta):
        judge_stability(kind(land, eta, noise, 0.5, substeps), jnp.zeros((1, 1)), "sample")

    judge(ss.UnderdampedEquation, 0.999 * edge)
    judge(ss.OverdampedEquation, 0.999 * substeps)
    for kind, eta in ((ss.UnderdampedEquation, 1.001 * edge), (ss.OverdampedEquation, substeps)):
        with pytest.raises(ValueError, match="raise substeps"):
            judge(kind, eta)
