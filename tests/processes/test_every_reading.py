"""Every process on every kind of landscape answers every question, or says why it does not."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from every_process import ETA, LANDSCAPES, least_squares, LINEAR, NOISE, PROCESSES, START, TWO
from scipy.linalg import block_diag

import sde_sgd as ss
from sde_sgd.processes.linear import LinearReading, NotKnown
from sde_sgd.processes.rules import Rule
from sde_sgd.processes.step_laws import Batches, Diffusion, Jumps
from sde_sgd.theory import stationary


def answer(ask):
    """What is answered, or the reason: of one sentence at least."""
    try:
        return ask()
    except NotKnown as reason:
        assert len(str(reason)) > 40, reason
        return None


@pytest.mark.parametrize("place", LANDSCAPES)
@pytest.mark.parametrize("name", PROCESSES)
def test_an_answer_or_a_reason(name, place):
    """Each reading is of its kind; what is not known is a `NotKnown` that says what is."""
    landscape = LANDSCAPES[place]()
    process, about = PROCESSES[name](landscape, 0.02), np.full(landscape.dimension, 0.1)
    assert isinstance(answer(process.law), Diffusion | Batches | Jumps | None)
    assert isinstance(answer(process.limit_law), Diffusion | None)
    assert isinstance(answer(lambda: process.linear(about)), LinearReading | None)
    assert isinstance(answer(lambda: process.stable(about)), bool | None)
    rate = answer(lambda: process.largest_stable_rate(about))
    assert rate is None or rate >= 0
    assert isinstance(process.update_rule, Rule | None)
    assert process.gradients_per_iteration > 0 or np.isnan(process.gradients_per_iteration)
    assert process.bath_temperature == (0.3 if name == "SGLD" else 0)
    assert process.stages and process.substeps >= 1 and process.num_steps != 0
    if process.weak_order is not None:
        assert process.refined(4).substeps == 4 and process.refined(4).weak_order > 0
    else:
        with pytest.raises(ValueError, match="cannot be run at two solver steps"):
            process.refined(4)
    if process.knows_mean_step:
        assert process.mean_step(jnp.asarray(about), jnp.uint32(0)).shape == about.shape


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_the_linear_reading_is_the_law_of_one_step(name):
    """Where both are known: E θ′ = rest + F u, and Cov θ′ = G C(θ) Gᵀ, to 1e-10."""
    process = PROCESSES[name](least_squares(), ETA)
    reading, law = process.linear(), answer(process.law)
    if name in ("SVAG", "SGLD", "UnderdampedEquation", "DrivenEquation", "heavy ball"):
        # With a buffer, two batches a step or a driving noise of its own θ alone has no law.
        assert law is None
        return
    own, basis = reading.own, reading.basis
    theta = jnp.asarray(reading.rest + START)
    u = basis.T @ START
    expected = reading.rest + basis @ (own.transition[:, 0, 0] * u)
    if isinstance(law, Batches):
        gradients = np.asarray(law.landscape.example_gradients(theta))
        mean = np.asarray(theta) - float(law.step) * gradients.mean(axis=0)
        np.testing.assert_allclose(mean, expected, rtol=1e-10)
        return
    if process.gradient_noise is None or own.transition.shape[-1] > 1:
        assert law is None
        return
    mean, covariance = process.gaussian_step(theta)
    np.testing.assert_allclose(mean, expected, rtol=1e-10)
    noise = process.gradient_noise.covariance(theta, process.landscape)
    push = basis @ np.diag(own.injection[:, 0]) @ basis.T
    np.testing.assert_allclose(covariance, push @ noise @ push.T, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_stability_is_the_spectral_radius_of_what_it_reads(name):
    """Below the largest rate the means contract, F² < 1, and beyond it second moments grow."""
    process = PROCESSES[name](least_squares(), ETA)
    largest = process.largest_stable_rate()
    for share, stable in ((0.98, True), (1.02, False)):
        at = PROCESSES[name](least_squares(), share * largest)
        assert at.stable() is stable
        assert (stationary.growth(at) < 1) is stable
    reading = process.linear()
    radius = np.abs(np.linalg.eigvals(block_diag(*reading.own.transition))).max()
    assert process.stable() and radius**2 <= reading.growth() < 1


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_simulated(name):
    """The measured covariance is the predicted one of the same process; a fifth more is not."""
    process = PROCESSES[name](least_squares(), ETA)
    run = ss.simulate(
        process,
        least_squares().minimum(),
        num_steps=400,
        ensemble_size=2048,
        key=jr.key(3),
        measures={"m": ss.Moments(burn_in=200)},
        progress=False,
    )
    verdict = ss.compare(run["m"].covariance, stationary.covariance(process))
    assert verdict.verdict == "agrees", verdict
    wrong = ss.compare(run["m"].covariance, 1.2 * stationary.covariance(process))
    assert wrong.verdict == "disagrees", "control"


def test_at_a_saddle_no_rate_is_stable():
    """F = 1 + η|λ| > 1 at every η: the limit of stability is 0, and is found at once."""
    well = ss.double_well(1.0)
    for process in (ss.SGD(well, 0.1, TWO), ss.ModifiedEquation(well, 0.1, NOISE).limit()):
        assert not process.stable([0.0])
        assert stationary.largest_stable_learning_rate(process, [0.0]) == 0


def test_noise_that_is_not_told_is_not_taken_for_none():
    """A linear step alone says nothing of the noise."""

    class Silent(ss.AbstractProcess):
        landscape: ss.AbstractLandscape
        rate: float

        def step(self, state, draws, observe, carry):
            xi = draws.normal(state.shape[1:], ss.Stream.NOISE, state.dtype)
            after = state - self.rate * (jax.vmap(self.landscape.gradient)(state) + xi)
            return after, observe(carry, state, after, jnp.uint32(0))

        @property
        def clock(self):
            return ss.processes.Clock(self.rate)

        def linear_step(self, learning_rate, curvature):
            from sde_sgd.processes.linear import first_order_step

            return first_order_step(learning_rate * curvature, learning_rate, 1)

    with pytest.raises(NotKnown, match="does not say what its noise is"):
        stationary.covariance(Silent(least_squares(), 0.1))
