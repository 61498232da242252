"""Mean and covariance of least squares over time, each process against its own exact value."""

import closed_forms
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss

ETA, BATCH, SUBSTEPS, MEMBERS = 0.25, 4, 2, 40_000
TIMES = np.array([0.5, 2.0, 8.0])
STEPS = [2, 8, 32]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(16, 2)) * [1.0, 0.6]
    targets = inputs @ np.array([0.7, -0.4]) + 0.8 * rng.normal(size=16)
    return inputs, targets, np.array([2.0, -1.0])


def moments(process, theta0, key) -> list[tuple[ss.Estimate, ss.Estimate]]:
    """Mean and covariance at the three times, (d,) and (d, d)."""
    run = ss.simulate(
        process,
        theta0,
        num_steps=STEPS[-1],
        ensemble_size=MEMBERS,
        key=key,
        measures={"at": ss.Snapshots(STEPS)},
    )
    found = []
    for theta in run["at"].values:
        centred = theta - theta.mean(axis=0)
        products = centred[:, :, None] * centred[:, None, :] * MEMBERS / (MEMBERS - 1)
        found.append((ss.Estimate.from_samples(theta), ss.Estimate.from_samples(products)))
    return found


def verdicts(found, exact) -> list[str]:
    """Six verdicts: mean and covariance at each time."""
    rows = []
    for i, (mean, covariance) in enumerate(found):
        rows.append(ss.compare(mean, exact.mean[i]).verdict)
        rows.append(ss.compare(covariance, exact.covariance[i]).verdict)
    return rows


def exact(problem, factor: float, step: float):
    inputs, targets, theta0 = problem
    return closed_forms.transient(
        inputs,
        targets,
        learning_rate=ETA,
        noise_factor=factor,
        time_step=step,
        times=TIMES,
        theta0=theta0,
    )


@pytest.mark.parametrize("scheme", [ss.WithReplacement, ss.WithoutReplacement])
def test_sgd_has_its_exact_transient_moments_and_no_others(problem, scheme):
    """E θ_k and Cov θ_k at t = ½, 2, 8; not those of B − 1, of the other scheme, of the SDE."""
    inputs, targets, theta0 = problem
    sampling = scheme(BATCH)
    factor = sampling.noise_factor(16)
    other = {1 / BATCH, 12 / (BATCH * 15)} - {factor}
    landscape = ss.LeastSquares(inputs, targets)
    found = moments(ss.SGD(landscape, ETA, sampling), theta0, jr.key(1))
    assert verdicts(found, exact(problem, factor, ETA)) == ["agrees"] * 6
    assert "disagrees" in verdicts(found, exact(problem, other.pop(), ETA))
    assert "disagrees" in verdicts(found, exact(problem, 1 / (BATCH - 1), ETA))
    assert "disagrees" in verdicts(found, exact(problem, factor, 0.0))


def test_sde_has_its_exact_transient_moments_and_no_others(problem):
    """E θ_t and Cov θ_t at t = ½, 2, 8 at h = η/substeps; not those at h = 0 or at h = η."""
    inputs, targets, theta0 = problem
    sampling = ss.WithReplacement(BATCH)
    landscape = ss.LeastSquares(inputs, targets)
    noise = ss.MinibatchNoise(sampling)
    sde = ss.ModifiedEquation(landscape, ETA, noise, substeps=SUBSTEPS)
    found = moments(sde, theta0, jr.key(2))
    assert verdicts(found, exact(problem, 1 / BATCH, ETA / SUBSTEPS)) == ["agrees"] * 6
    assert "disagrees" in verdicts(found, exact(problem, 1 / BATCH, 0.0))
    assert "disagrees" in verdicts(found, exact(problem, 1 / BATCH, ETA))


def test_noise_times_root_two_is_caught(problem):
    """Control: an SDE whose noise is √2 too strong has another covariance."""
    inputs, targets, theta0 = problem
    landscape = ss.LeastSquares(inputs, targets)
    # c of batches half as large is twice c.
    noise = ss.MinibatchNoise(ss.WithReplacement(BATCH // 2))
    sde = ss.ModifiedEquation(landscape, ETA, noise, substeps=SUBSTEPS)
    found = moments(sde, theta0, jr.key(3))
    assert "disagrees" in verdicts(found, exact(problem, 1 / BATCH, ETA / SUBSTEPS))


def test_other_noise_models_have_the_stationary_covariance_that_they_state(problem):
    """HM + MH − hHMH = ηC with C the model's own covariance, frozen at the minimum."""
    inputs, targets, _ = problem
    landscape = ss.LeastSquares(inputs, targets)
    best = landscape.minimum()
    noise = ss.ConstantNoise.at(landscape, best, ss.WithReplacement(BATCH))
    sde = ss.ModifiedEquation(landscape, ETA, noise, substeps=SUBSTEPS)
    run = ss.simulate(
        sde,
        best,
        num_steps=400,
        ensemble_size=4096,
        key=jr.key(4),
        measures={"moments": ss.Moments(burn_in=100)},
    )
    predicted = ss.theory.stationary.linear_covariance(
        np.asarray(landscape.hessian(best)),
        np.asarray(noise.covariance(best, landscape)),
        learning_rate=ETA,
        time_step=ETA / SUBSTEPS,
    )
    assert ss.compare(run["moments"].covariance, predicted).verdict == "agrees"
    own = closed_forms.covariance(
        inputs, targets, learning_rate=ETA, noise_factor=1 / BATCH, time_step=ETA / SUBSTEPS
    )
    assert ss.compare(run["moments"].covariance, own).verdict == "disagrees"
    assert jnp.isfinite(run.positions).all()
