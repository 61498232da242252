"""Monte Carlo weak errors against the noise-free ones; Richardson against the exact limit."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd import theory

PAIR = (np.array([[1.0], [1.0]]), np.array([1.0, -1.0]))  # ½(x − γ)², γ = ±1
SAMPLING = ss.WithReplacement(1)
START = jnp.ones(1)
RATES = (0.25, 0.125)


def processes(eta, order=1, **options):
    landscape = ss.LeastSquares(*PAIR)
    noise = ss.MinibatchNoise(SAMPLING)
    return ss.SGD(landscape, eta, SAMPLING), ss.ModifiedEquation(
        landscape, eta, noise, order=order, substeps=2, **options
    )


def first(x):
    return x[0]


def square(x):
    return x[0] ** 2


@functools.cache
def measured():
    return ss.weak_order(
        processes, RATES, START, time=1.0, ensemble_size=2**16, key=jr.key(3), of=first
    )


def exact(rates, order=1):
    errors = theory.weak_errors_least_squares(
        *PAIR, learning_rates=np.array(rates), noise_factor=1.0, time=1.0, theta0=[1.0], order=order
    )
    return errors.mean[:, 0]


def test_errors_are_the_exact_ones():
    """E x by Monte Carlo = the moment closure's; that of order 2 it is not."""
    # Richardson leaves O(h²): of (1 − h)^{1/h} from h = η/2, η/4 at most h²/2 at η = ¼.
    left = 0.5 * (RATES[0] / 2) ** 2
    assert ss.compare(measured().errors, exact(RATES), resolution=0.01 + left).verdict == "agrees"
    assert ss.compare(measured().errors, exact(RATES, 2)).verdict == "disagrees"


def test_order_by_monte_carlo():
    """The fitted order is that of the exact errors at the same rates, within its uncertainty."""
    fit = measured().fit
    own = theory.fit_order(np.array(RATES), exact(RATES)).order
    assert abs(fit.order - own) < 4.3 * fit.uncertainty < 0.8


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
        m = theory.transient_moments_least_squares(
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
    m = theory.transient_moments_least_squares(
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
    with pytest.raises(ValueError, match="one Brownian path"):
        ss.weak_error(sgd, sgd, START, **options)
    with pytest.raises(ValueError, match="no whole number"):
        ss.weak_order(
            processes, (0.3, 0.25), START, time=1.0, ensemble_size=8, key=jr.key(0), of=square
        )
