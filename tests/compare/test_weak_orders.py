"""Monte Carlo weak errors against noise-free ones; their control; Richardson at its limit."""

import functools

import closed_forms
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd.compare._noise_control import noise_control
from sde_sgd.compare.orders import _richardson

PAIR = (np.array([[1.0], [1.0]]), np.array([1.0, -1.0]))  # ½(x − γ)², γ = ±1
SAMPLING = ss.WithReplacement(1)
START = jnp.ones(1)
RATES = (0.25, 0.125)


def processes(eta, order=1, **options):
    landscape = ss.LeastSquares(*PAIR)
    noise = ss.MinibatchNoise(SAMPLING)
    options = {"order": order, "substeps": 2, "increments": "two_point"} | options
    return ss.SGD(landscape, eta, SAMPLING), ss.ModifiedEquation(landscape, eta, noise, **options)


def sine(x):
    return jnp.sin(x[0])


def square(x):
    return x[0] ** 2


@functools.cache
def measured():
    return ss.weak_order(
        processes,
        RATES,
        START,
        time=1.0,
        ensemble_size=2**15,
        key=jr.key(3),
        of=sine,
        levels=3,
    )


def exact(rates, order=1):
    return theory.equations.weak_errors_scalar(
        ss.LeastSquares(*PAIR),
        SAMPLING,
        of=sine,
        learning_rates=np.array(rates),
        time=1.0,
        theta0=1.0,
        box=(-6.0, 6.0),
        order=order,
    ).errors


# The extrapolation leaves O(h₁h₂h₃), steps of η/2, η/4, η/8.
LEFT = np.array(RATES) ** 3 / 64


def test_errors_are_the_exact_ones():
    """E sin x by Monte Carlo = the backward equations'; that of order 2 it is not."""
    found = measured().errors
    allowed = ss.Estimate(found.value, np.hypot(found.standard_error, LEFT / 4.3), 2**15)
    assert ss.compare(allowed, exact(RATES)).verdict == "agrees"
    assert (found.standard_error < 0.02 * abs(found.value)).all()
    assert ss.compare(allowed, exact(RATES, 2)).verdict == "disagrees"


def test_order_by_monte_carlo():
    """The fitted order is that of the exact errors at the same rates, to ± .05."""
    fit = measured().fit
    own = theory.equations.fit_order(np.array(RATES), exact(RATES)).order
    assert abs(fit.order - own) < 4.3 * fit.uncertainty < 0.05


class Wrong(ss.ModifiedEquation):
    """Its mean step forgets the second-order drift."""

    def mean_step(self, theta, iteration):
        return -0.125 * self.landscape.gradient(theta)


def test_control_has_mean_zero():
    """E Σ G·(Δθ − m) = 0 for SGD and the equation; not for m of another drift."""
    sgd, sde = processes(0.25, order=2)
    wrong = Wrong(sde.landscape, 0.25, sde.noise, order=2, substeps=2)
    z = []
    for process in (sgd, sde, wrong):
        control = noise_control(process, START, 4, sine)
        run = ss.simulate(
            process,
            START,
            num_steps=4,
            ensemble_size=2**14,
            key=jr.key(8),
            measures={"control": control},
        )
        mean = ss.Estimate.from_samples(run["control"])
        z.append(abs(float(mean.value)) / float(mean.standard_error))
    assert max(z[:2]) < 4.3 and z[2] > 10


def test_control_takes_out_the_noise():
    """A linear f under constant noise has no variance left; x² has, and the plain error agrees."""

    def both(x):
        return jnp.stack([x[0], x[0] ** 2])

    sgd, sde = processes(0.25)
    options = {"num_steps": 4, "ensemble_size": 2**12, "key": jr.key(5)}
    found = ss.weak_error(sgd, sde, 4 * START, of=both, **options)
    linear, curved = found.error.standard_error
    assert linear < 1e-12 < 1e-4 < curved < 0.2 * found.plain.standard_error[1]
    # E x after T = 1 by SGD at η, and by Euler at h = η/2 and η/4, from x = 4.
    at = [4 * (1 - h) ** round(1 / h) for h in (0.25, 0.125, 0.0625)]
    assert found.error.value[0] == pytest.approx(2 * at[2] - at[1] - at[0], abs=1e-12)
    assert ss.compare(found.plain, found.error).verdict == "agrees"
    # A process with memory has no control.
    heavy = ss.SGD(sgd.landscape, 0.25, SAMPLING, momentum=0.5)
    shuffled = ss.SGD(sgd.landscape, 0.25, ss.RandomReshuffling(1))
    assert noise_control(heavy, START, 4, sine) is noise_control(shuffled, START, 4, sine) is None
    under = ss.UnderdampedEquation(sgd.landscape, 0.25, sde.noise, momentum=0.5, substeps=2)
    bare = ss.weak_error(heavy, under, START, of=square, **options)
    assert bare.error.value == bare.plain.value


def test_weights_of_the_extrapolation():
    """Σ w_i h_i^q = 0 for q = p … p + levels − 2, Σ w_i = 1."""
    np.testing.assert_allclose(_richardson(1, 2), [-1, 2])
    np.testing.assert_allclose(_richardson(1, 3), [1 / 3, -2, 8 / 3])
    np.testing.assert_allclose(_richardson(2, 2), [-1 / 3, 4 / 3])


def test_richardson_reaches_the_limit():
    """E x² extrapolated from h = η, η/2 is the SDE's; what it removed is coarse − limit."""
    eta = 0.25
    sgd, sde = processes(eta)
    sde = sde.refined(1)
    found = ss.weak_error(
        sgd, sde, START, num_steps=4, ensemble_size=2**16, key=jr.key(4), of=square
    )
    values = []
    for step in (0.0, eta):
        m = closed_forms.transient(
            *PAIR, learning_rate=eta, noise_factor=1.0, time_step=step, times=[1.0], theta0=[1.0]
        )
        values.append(float(m.mean[0, 0] ** 2 + m.covariance[0, 0, 0]))
    limit, coarse = values
    extrapolated = 2 * _euler(eta, 2) - coarse
    assert ss.compare(found.sde, extrapolated).verdict == "agrees"
    assert ss.compare(found.step_error, coarse - extrapolated).verdict == "agrees"
    assert abs(extrapolated - limit) < 0.3 * abs(coarse - limit)
    assert found.step_error.standard_error < found.sde.standard_error / 2  # common random numbers


def _euler(eta, substeps):
    m = closed_forms.transient(
        *PAIR,
        learning_rate=eta,
        noise_factor=1.0,
        time_step=eta / substeps,
        times=[1.0],
        theta0=[1.0],
    )
    return float(m.mean[0, 0] ** 2 + m.covariance[0, 0, 0])


def test_bad_input():
    """Clocks that differ, a time between iterations, an equation of one step only."""
    sgd, _ = processes(0.25)
    _, other = processes(0.125)
    options = {"num_steps": 4, "ensemble_size": 8, "key": jr.key(0), "of": square}
    with pytest.raises(ValueError, match="clocks differ"):
        ss.weak_error(sgd, other, START, **options)
    with pytest.raises(ValueError, match="levels"):
        ss.weak_error(sgd, processes(0.25)[1], START, levels=1, **options)
    with pytest.raises(ValueError, match="one Brownian path"):
        ss.weak_error(sgd, sgd, START, **options)
    with pytest.raises(ValueError, match="no whole number"):
        ss.weak_order(
            processes, (0.3, 0.25), START, time=1.0, ensemble_size=8, key=jr.key(0), of=square
        )


def test_a_schedule_has_no_order():
    """η_k = η, η/2, η/2, ...: two iterations at η = .5 are t = .75, not the 1 that η₀ promises."""

    def scheduled(eta):
        land, noise = ss.quadratic(1.0, 1.0), ss.ConstantNoise(np.eye(1))
        rate = functools.partial(lambda first, k: jnp.where(k < 1, first, first / 2), eta)
        return ss.GaussianSGD(land, rate, noise), ss.ModifiedEquation(land, rate, noise)

    with pytest.raises(ValueError, match="needs constant learning rates: 2 iterations"):
        ss.weak_order(
            scheduled, (0.5, 0.25), START, time=1.0, ensemble_size=8, key=jr.key(0), of=square
        )
