"""SVAG, sharpness-aware minimisation and stages against exact algebra."""

import functools
import itertools

import jax
import jax.numpy as jnp
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
        exact = ss.theory.transient_moments_least_squares(
            INPUTS, TARGETS, time_step=step, **options
        )
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
        return ss.theory.stationary_covariance_population_least_squares(
            [[1.0]], label_noise=1.0, learning_rate=0.5, batch_size=4, time_step=step
        )[0, 0]

    found = [variance(0.5 / m) for m in (1, 2, 4)] + [variance(0.0)]
    np.testing.assert_allclose(found, [0.1, 0.083333, 0.076923, 0.0714286], atol=5e-7)
    gaps = [variance(0.5 / m) - variance(0.0) for m in (8, 16, 32, 64)]
    assert abs(ss.theory.fit_order([8.0, 16.0, 32.0, 64.0], gaps).order + 1) < 0.1


def test_svag_refuses_epochs():
    """Batches of one epoch are not independent."""
    with pytest.raises(ValueError, match="independent batches"):
        ss.SVAG(least_squares(), ETA, ss.RandomReshuffling(1), 2)
    with pytest.raises(ValueError, match="steps must be an integer"):
        ss.SVAG(least_squares(), ETA, ss.WithReplacement(1), 0)


RHO = 0.1


def usam_by_hand(theta, batch, landscape):
    gradient = jax.grad(lambda t: jnp.mean(landscape.losses(t, batch)))
    return theta - ETA * gradient(theta + RHO * gradient(theta))


def test_sam_step_by_enumeration():
    """One step of a member is one of the N batches' θ − η∇ℓ_i(θ + ρ∇ℓ_i(θ))."""
    land = least_squares()
    run = ss.simulate(
        ss.SAM(land, ETA, RHO, ss.WithReplacement(1)),
        START,
        num_steps=1,
        ensemble_size=64,
        key=jr.key(0),
        **QUIET,
    )
    x, y = land.data
    ends = np.array(
        [usam_by_hand(jnp.asarray(START), (x[i : i + 1], y[i : i + 1]), land) for i in range(3)]
    )
    gaps = np.abs(np.asarray(run.positions)[:, None] - ends).max(axis=2)
    assert gaps.min(axis=1).max() < 1e-13
    assert len(set(gaps.argmin(axis=1).tolist())) == 3


def test_sam_loss_is_the_mean_over_batches():
    """L̃ = L + (ρ/2)E|∇ℓ_B|², all 9 ordered batches of 2 from 3 enumerated."""
    land = least_squares()
    sde = ss.SAMEquation(land, ETA, RHO, ss.MinibatchNoise(ss.WithReplacement(2)))
    theta = jnp.asarray(START)
    g = np.asarray(land.example_gradients(theta))
    power = np.mean(
        [np.sum((g[i] + g[j]) ** 2) / 4 for i, j in itertools.product(range(3), repeat=2)]
    )
    exact = float(land.loss(theta)) + RHO / 2 * power
    assert float(sde.loss(theta)) == pytest.approx(exact, rel=1e-12)


def test_sam_drift_and_noise():
    """One Euler step: mean −η∇L̃; linear in z with covariance C + ρ(C̃ + C̃ᵀ) + O(ρ²)."""
    land = least_squares()
    noise = ss.MinibatchNoise(ss.WithReplacement(2))
    sde = ss.SAMEquation(land, ETA, RHO, noise, substeps=1)
    theta = jnp.asarray(START)
    size = 2**14
    run = ss.simulate(sde, theta, num_steps=1, ensemble_size=size, key=jr.key(1), **QUIET)
    moved = (np.asarray(run.positions) - START) / -ETA
    drift = np.asarray(jax.grad(sde.loss)(theta))
    assert ss.compare(ss.Estimate.from_samples(moved), drift).verdict == "agrees"
    plain = np.asarray(land.gradient(theta))
    assert ss.compare(ss.Estimate.from_samples(moved), plain).verdict == "disagrees"
    # Cov over examples of ∇(ℓ + (ρ/2)·|∇ℓ_B|²) to first order in ρ: of a = H_i g + H g_i.
    x = INPUTS
    g = np.asarray(land.example_gradients(theta))
    hess = x.T @ x / 3
    total = g + RHO * (x * (x @ plain)[:, None] + (g - plain) @ hess)
    exact = np.cov(total.T, bias=True) / 2
    offset = moved - drift
    spread = ss.Estimate.from_samples(offset[:, :, None] * offset[:, None])
    assert ss.compare(spread, exact).verdict == "agrees"


def test_sam_on_equal_examples():
    """½hθ²: USAM is a chain with h(1+ρh); its Euler step at η has the same variance."""
    h, c = 1.0, 0.25
    exact = 0.5 * (1 + 0.2 * h) * c / (h * (2 - 0.5 * h * (1 + 0.2 * h)))
    land = ss.quadratic([[h]], [[1.0]])
    sampling = ss.WithReplacement(4)
    for process in (
        ss.SAM(land, 0.5, 0.2, sampling),
        ss.SAMEquation(land, 0.5, 0.2, ss.MinibatchNoise(sampling), substeps=1),
    ):
        run = ss.simulate(
            process,
            jnp.zeros(1),
            num_steps=60,
            ensemble_size=2**12,
            key=jr.key(6),
            measures={"m": ss.Moments(burn_in=20)},
            **QUIET,
        )
        found = run["m"].covariance
        assert ss.compare(found, [[exact]]).verdict == "agrees"
        assert ss.compare(found, [[0.5 * c / (2 - 0.5)]]).verdict == "disagrees"  # plain SGD


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
        ([], [], "needs processes"),
        ([one], [1, 2], "integers ≥ 1"),
        ([one, two], [1, 2], "same landscape"),
        ([one, ss.SGD(land, lambda k: 0.1, ss.WithReplacement(1))], [1, 2], "constant"),
    ):
        with pytest.raises(ValueError, match=words):
            ss.Stages(processes, lengths)
