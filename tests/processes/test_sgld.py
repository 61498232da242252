"""SGLD, its control variate, its shuffled epochs and its SDE, against exact moments."""

import closed_forms
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import sde_sgd as ss
from sde_sgd.noise.models import covariance_operator

RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(12, 2)) * np.array([1.0, 0.7])
TARGETS = INPUTS @ np.array([1.0, -0.5]) + RNG.normal(size=12)
LANDSCAPE = ss.LeastSquares(INPUTS, TARGETS, l2=0.05)
MINIMUM = LANDSCAPE.minimum()
ETA, SIZE, BATH = 0.15, 3, 1 / 12
EXACT = closed_forms.langevin_epochs(
    INPUTS, TARGETS, learning_rate=ETA, batch_size=SIZE, temperature=BATH, l2=0.05
)


def closure(factor, **given):
    return closed_forms.langevin(
        INPUTS, TARGETS, learning_rate=ETA, noise_factor=factor, temperature=BATH, l2=0.05, **given
    )


def moments(process, exact, key, epochs=40, burn_in=12):
    """Stationary mean and covariance over all phases, from starts of about the right spread."""
    size, period = 8192, 4
    start = np.asarray(MINIMUM) + np.random.default_rng(1).multivariate_normal(
        np.zeros(2), exact, size
    )
    run = ss.simulate(
        process,
        jnp.asarray(start),
        num_steps=period * epochs,
        ensemble_size=size,
        key=jr.key(key),
        measures={"m": ss.Moments(burn_in=period * burn_in)},
    )
    return run["m"]


SUBSET = (12 - SIZE) / (SIZE * 11)
CASES = {
    "with replacement": (
        lambda: ss.SGLD(LANDSCAPE, ETA, ss.WithReplacement(SIZE)),
        lambda: (MINIMUM, closure(1 / SIZE)),
    ),
    "independent subsets": (
        lambda: ss.SGLD(LANDSCAPE, ETA, ss.WithoutReplacement(SIZE)),
        lambda: (MINIMUM, closure(SUBSET)),
    ),
    "control variate": (
        lambda: ss.SGLD(LANDSCAPE, ETA, ss.WithReplacement(SIZE), control_variate=MINIMUM + 0.3),
        lambda: (MINIMUM, closure(1 / SIZE, anchor=np.asarray(MINIMUM) + 0.3)),
    ),
    "SGWORLD": (
        lambda: ss.SGLD(LANDSCAPE, ETA, ss.RandomReshuffling(SIZE)),
        lambda: EXACT.average,
    ),
    "SDE": (
        lambda: ss.ModifiedEquation(
            LANDSCAPE,
            ETA,
            ss.ThermalNoise(ss.MinibatchNoise(ss.WithoutReplacement(SIZE)), BATH, ETA),
            substeps=2,
        ),
        lambda: (MINIMUM, closure(SUBSET, time_step=ETA / 2)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_stationary_moments(name):
    """Mean and every entry of the covariance at the exact finite-step values."""
    process, exact = CASES[name][0](), CASES[name][1]()
    found = moments(process, exact[1], key=5)
    assert ss.compare(found.mean, exact[0]).verdict == "agrees"
    row = ss.compare(found.covariance, exact[1])
    assert row.verdict == "agrees", str(row)
    assert found.covariance.standard_error.max() < 0.01 * np.trace(exact[1])
    if name != "SGWORLD":  # Control: independent batches do not have SGWORLD's covariance.
        assert ss.compare(found.covariance, EXACT.average.covariance).verdict == "disagrees"


def steps(process, num=30):
    run = ss.simulate(
        process,
        jnp.zeros(2),
        num_steps=num,
        ensemble_size=16,
        key=jr.key(2),
        measures={},
        record_every=1,
    )
    assert run.records is not None
    return run.records[1]


def test_no_bath_is_sgd():
    """T = 0 is SGD, bit for bit; T > 0 is not."""
    sampling = ss.RandomReshuffling(SIZE)
    cold = steps(ss.SGLD(LANDSCAPE, ETA, sampling, temperature=0.0))
    np.testing.assert_array_equal(cold, steps(ss.SGD(LANDSCAPE, ETA, sampling)))
    assert np.abs(cold - steps(ss.SGLD(LANDSCAPE, ETA, sampling))).max() > 1e-2


def test_schedule_heats_with_its_rate():
    """On a flat potential θ_k is a sum of √(2η_jT)ξ_j, so that Var θ_k = 2T Σ η_j."""
    flat = ss.Potential(lambda theta: 0 * jnp.sum(theta**2), tilts=jnp.zeros((4, 2)))
    schedule = optax.linear_schedule(0.1, 0.3, 20)
    process = ss.SGLD(flat, schedule, ss.WithReplacement(2), temperature=0.5)
    run = ss.simulate(
        process,
        jnp.zeros(2),
        num_steps=20,
        ensemble_size=16384,
        key=jr.key(3),
        measures={"end": ss.Snapshots([20])},
    )
    squares = ss.Estimate.from_samples(run["end"].values[0] ** 2)
    total = float(process.time(np.array(20)))
    assert total == pytest.approx(sum(0.1 + 0.01 * k for k in range(20)))
    assert ss.compare(squares, np.full(2, total)).verdict == "agrees"
    assert ss.compare(squares, np.full(2, 2 * total)).verdict == "disagrees"


def test_control_variate_of_every_batch():
    """ĝ = ∇L(a) + mean[∇ℓ_i(θ) − ∇ℓ_i(a)], L̃ = L, Σ̃ = Cov_i, Σ̃(a) = 0: logistic regression."""
    model = ss.LogisticRegression(INPUTS, (TARGETS > 0).astype(int), l2=0.1)
    anchor, theta = jnp.array([0.3, -0.2, 0.1]), jnp.array([-1.0, 0.5, 0.4])
    made = ss.landscapes.ControlVariate(model, anchor)
    batch = jnp.array([0, 4, 4, 9])

    @jax.jit  # One compilation.
    def of(theta):
        return {
            which: (
                land.minibatch_gradient(theta, batch),
                land.loss(theta),
                land.gradient(theta),
                land.gradient_covariance(theta),
                land.example_gradients(theta),
            )
            for which, land in (("made", made), ("model", model))
        }

    here, there = of(theta), of(anchor)
    apart = np.asarray(here["model"][4] - there["model"][4])
    expected = there["model"][2] + apart[batch].mean(axis=0)
    np.testing.assert_allclose(here["made"][0], expected, atol=1e-14)
    np.testing.assert_allclose(here["made"][1], here["model"][1], rtol=1e-13)
    np.testing.assert_allclose(here["made"][2], here["model"][2], atol=1e-14)
    covariance = np.cov(apart.T, bias=True)
    np.testing.assert_allclose(here["made"][3], covariance, atol=1e-14)
    assert np.abs(there["made"][3]).max() < 1e-28
    assert np.abs(covariance - here["model"][3]).max() > 1e-2


def test_thermal_noise():
    """C = C_0 + (2T/η)I, from the noise that is applied and from the operator."""
    base = ss.MinibatchNoise(ss.WithReplacement(SIZE))
    noise = ss.ThermalNoise(base, 0.3, 0.2)
    theta = jnp.array([0.4, -0.1])
    expected = base.covariance(theta, LANDSCAPE) + 3.0 * jnp.eye(2)
    np.testing.assert_allclose(noise.covariance(theta, LANDSCAPE), expected, rtol=1e-13)
    np.testing.assert_allclose(covariance_operator(noise, theta, LANDSCAPE), expected, rtol=1e-12)
    root = noise.diffusion(theta, LANDSCAPE).as_matrix()
    np.testing.assert_allclose(root @ root.T, expected, rtol=1e-12)


def test_a_bath_has_no_second_order():
    """½hθ², h = T = t = 1: Var of SGLD 2ηTΣ(1−ηh)^{2k}; order 2, T(1 − e^{−2rt})/r, errs as η¹."""

    def errors(eta, order):
        exact = 2 * eta * np.sum((1 - eta) ** (2 * np.arange(round(1 / eta))))
        rate = 1 + eta / 2 * (order == 2)
        return abs((1 - np.exp(-2 * rate)) / rate - exact)

    for order in (1, 2):
        assert errors(0.01, order) / errors(0.005, order) == pytest.approx(2, abs=0.02)
    assert errors(0.005, 2) > errors(0.005, 1)
    base = ss.MinibatchNoise(ss.WithReplacement(SIZE))
    with pytest.raises(ValueError, match="with a bath of temperature 0.5 it is of weak order one"):
        ss.ModifiedEquation(LANDSCAPE, ETA, ss.ThermalNoise(base, 0.5, ETA), order=2)
    ss.ModifiedEquation(LANDSCAPE, ETA, ss.ThermalNoise(base, 0.0, ETA), order=2)


def test_temperature_of_the_posterior():
    """The default is T = 1/N, and an ensemble's state has the members first."""
    process = ss.SGLD(LANDSCAPE, ETA, ss.RandomReshuffling(SIZE))
    assert float(process.temperature) == pytest.approx(1 / 12)
    state = process.init(jnp.zeros((5, 2)), ss.Draws.create(jr.key(0), jnp.arange(5)))
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(state))


POPULATION = ss.landscapes.PopulationLeastSquares([[1.0]], 1.0)
BAD = {
    "finite number ≥ 0": lambda: ss.SGLD(LANDSCAPE, ETA, ss.WithReplacement(2), temperature=-1.0),
    "give temperature": lambda: ss.SGLD(POPULATION, ETA, ss.WithReplacement(2)),
    "no examples to take": lambda: ss.SGLD(
        ss.quadratic(1.0, 1.0), ETA, ss.WithReplacement(2), control_variate=jnp.zeros(1)
    ),
    "needs a finite sum": lambda: ss.landscapes.ControlVariate(POPULATION, jnp.zeros(1)),
    r"shape \(2,\)": lambda: ss.SGLD(
        LANDSCAPE, ETA, ss.WithReplacement(2), control_variate=jnp.zeros(3)
    ),
    "NaN": lambda: ss.landscapes.ControlVariate(LANDSCAPE, jnp.array([0.0, jnp.nan])),
    "batch_size=13": lambda: ss.SGLD(LANDSCAPE, ETA, ss.RandomReshuffling(13)),
    "learning_rate": lambda: ss.ThermalNoise(
        ss.MinibatchNoise(ss.WithReplacement(2)), 0.1, learning_rate=0.0
    ),
}


@pytest.mark.parametrize("match", BAD)
def test_refuses(match):
    """Negative or missing temperatures, anchors of another shape, big batches."""
    with pytest.raises(ValueError, match=match):
        BAD[match]()
