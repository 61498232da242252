"""SVAG and stages against exact algebra."""

import functools

import closed_forms
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss

INPUTS = np.array([[1.0, 0.2], [-0.4, 0.7], [0.5, -1.0]])
TARGETS = np.array([1.0, 0.0, 0.5])
ETA = 0.2
START = np.array([0.8, -0.6])
QUIET = {"progress": False}


def least_squares():
    return ss.LeastSquares(INPUTS, TARGETS)


@functools.cache
def svag_positions(steps):
    process = ss.SVAG(least_squares(), ETA, ss.WithReplacement(1), steps)
    run = ss.simulate(process, START, num_steps=6, ensemble_size=2**15, key=jr.key(2), **QUIET)
    return np.asarray(run.positions)


def test_svag_of_one_step_is_sgd():
    """l = 1: the same batches, the same numbers."""
    sgd = ss.SGD(least_squares(), ETA, ss.WithReplacement(1))
    run = ss.simulate(sgd, START, num_steps=6, ensemble_size=2**15, key=jr.key(2), **QUIET)
    np.testing.assert_allclose(np.asarray(run.positions), svag_positions(1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 4])
def test_svag_moments_are_those_of_euler(steps):
    """Mean and covariance after 6 iterations = the closure at h = η/l; at h = η/3l it fails."""
    theta = svag_positions(steps)
    options = {"learning_rate": ETA, "noise_factor": 1.0, "times": [6 * ETA], "theta0": START}
    verdicts = []
    for step in (ETA / steps, ETA / (3 * steps)):
        exact = closed_forms.transient(INPUTS, TARGETS, time_step=step, **options)
        offset = theta - exact.mean[0]
        both = ss.Estimate.from_samples(
            np.concatenate([offset, (offset[:, :, None] * offset[:, None]).reshape(-1, 4)], axis=1)
        )
        wanted = np.concatenate([np.zeros(2), exact.covariance[0].ravel()])
        verdicts.append(ss.compare(both, wanted).verdict)
    assert verdicts == ["agrees", "disagrees"] if steps == 1 else verdicts[0] == "agrees"


def test_svag_variances_of_theory():
    """(η, a, B) = (.5, 1, 4): .1, .083333, .076923 at l = 1, 2, 4; SDE .0714286; gap ∝ 1/l."""

    def variance(step):
        return closed_forms.population(
            [[1.0]], label_noise=1.0, learning_rate=0.5, batch_size=4, time_step=step
        )[0, 0]

    found = [variance(0.5 / m) for m in (1, 2, 4)] + [variance(0.0)]
    np.testing.assert_allclose(found, [0.1, 0.083333, 0.076923, 0.0714286], atol=5e-7)
    gaps = [variance(0.5 / m) - variance(0.0) for m in (8, 16, 32, 64)]
    assert abs(ss.theory.equations.fit_order([8.0, 16.0, 32.0, 64.0], gaps).order + 1) < 0.1


def test_svag_refuses_epochs():
    """Batches of one epoch are not independent."""
    with pytest.raises(ValueError, match="independent batches"):
        ss.SVAG(least_squares(), ETA, ss.RandomReshuffling(1), 2)
    with pytest.raises(ValueError, match="steps must be an integer"):
        ss.SVAG(least_squares(), ETA, ss.WithReplacement(1), 0)


def stages(kind, **options):
    land = least_squares()
    made = []
    for eta, size in ((0.2, 1), (0.1, 2)):
        sampling = ss.WithReplacement(size)
        part = sampling if kind is ss.SGD else ss.MinibatchNoise(sampling)
        made.append(kind(land, eta, part, **options))
    return ss.Stages(made, [4, 5])


@pytest.mark.parametrize("kind", [ss.SGD, ss.ModifiedEquation])
def test_stages_chain_the_laws(kind):
    """Mean and covariance after 4 iterations at (.2, B=1) and 5 at (.1, B=2), by the closure."""
    options = {} if kind is ss.SGD else {"substeps": 2}
    process = stages(kind, **options)
    run = ss.simulate(process, START, num_steps=9, ensemble_size=2**14, key=jr.key(8), **QUIET)
    assert run.time == pytest.approx(4 * 0.2 + 5 * 0.1)
    np.testing.assert_allclose(process.time(np.array([0, 3, 4, 9])), [0, 0.6, 0.8, 1.3])
    mean, second = START, np.outer(START, START)
    star = np.asarray(least_squares().minimum())
    hess = INPUTS.T @ INPUTS / 3
    for eta, size, count in ((0.2, 1, 4), (0.1, 2, 5)):
        h = eta / options.get("substeps", 1)
        for _ in range(round(count * eta / h)):
            delta, spread = mean - star, second - np.outer(star, mean) - np.outer(mean, star)
            spread = spread + np.outer(star, star)  # E δδᵀ
            examples = [np.outer(x, x) for x in INPUTS]
            residual = INPUTS @ star - TARGETS
            power = np.zeros((2, 2))  # E g_i g_iᵀ over examples and δ
            for x, xx, r in zip(INPUTS, examples, residual, strict=True):
                cross = np.outer(xx @ delta, r * x)
                power += (xx @ spread @ xx + cross + cross.T + r**2 * xx) / 3
            noise = (power - hess @ spread @ hess) / size
            drift = np.eye(2) - h * hess
            spread, delta = drift @ spread @ drift.T + h * eta * noise, drift @ delta
            mean = star + delta
            second = spread + np.outer(star, mean) + np.outer(mean, star) - np.outer(star, star)
    theta = np.asarray(run.positions)
    assert ss.compare(ss.Estimate.from_samples(theta), mean).verdict == "agrees"
    product = ss.Estimate.from_samples(theta[:, :, None] * theta[:, None])
    assert ss.compare(product, second).verdict == "agrees"


def test_a_schedule_shorter_than_the_run():
    """Runs and continuations beyond the last stage are refused before time is spent."""
    process = stages(ss.SGD)
    options = {"ensemble_size": 2, "key": jr.key(0), **QUIET}
    with pytest.raises(ValueError, match="ends after 9 iterations"):
        ss.simulate(process, START, num_steps=10, **options)
    run = ss.simulate(process, START, num_steps=5, **options)
    with pytest.raises(ValueError, match="ends after 9 iterations"):
        run.extend(5, progress=False)
    assert run.extend(4, progress=False).num_steps == 9


def test_bad_stages():
    """Lists that do not fit together."""
    land, other = least_squares(), least_squares()
    one, two = (ss.SGD(x, 0.1, ss.WithReplacement(1)) for x in (land, other))
    for processes, lengths, words in (
        ([], [], "processes is empty"),
        ([one], [1, 2], "integers ≥ 1"),
        ([one, two], [1, 2], "same landscape"),
        ([one, ss.SGD(land, lambda k: 0.1, ss.WithReplacement(1))], [1, 2], "constant"),
    ):
        with pytest.raises(ValueError, match=words):
            ss.Stages(processes, lengths)
