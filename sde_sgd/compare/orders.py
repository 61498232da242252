"""Weak errors of equations by Monte Carlo, extrapolated in the solver step; their orders."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from sde_sgd.compare._noise_control import controlled, noise_control
from sde_sgd.dynamics.base import AbstractProcess
from sde_sgd.dynamics.clocks import check_clocks
from sde_sgd.measure.estimate import Estimate
from sde_sgd.simulate.engine import simulate
from sde_sgd.theory.orders import fit_order, OrderFit
from sde_sgd.types import Key

from .._checks import as_float64, in_brief
from .._user_functions import of_theta, refuse_tracing


class WeakError(eqx.Module):
    """E f(SDE) − E f(SGD) at one learning rate and time.

    **Fields:** `error`; `sgd` and `sde`, its two sides, the latter extrapolated to a solver step
    of 0; `step_error`, what the extrapolation has removed from the run at `sde.substeps`;
    `plain`, the error without the control variate, from the same runs. All `Estimate`s of the
    shape of f.
    """

    error: Estimate
    sgd: Estimate
    sde: Estimate
    step_error: Estimate
    plain: Estimate


class WeakOrder(eqx.Module):
    """Weak errors by learning rate, and the order that they show.

    **Fields:** `learning_rates` (n,), `errors`: an `Estimate` (n,), `fit`: an `OrderFit`.
    """

    learning_rates: np.ndarray
    errors: Estimate
    fit: OrderFit


def weak_error(
    sgd: AbstractProcess,
    sde: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    of: Callable,
    levels: int = 2,
) -> WeakError:
    """The weak error of an equation after `num_steps` iterations, for any f and any landscape.

    The equation runs with m = `sde.substeps`, 2m, ..., 2^{levels−1}·m steps an iteration on the
    same Brownian paths (common random numbers), and Richardson's combination of them, member by
    member, removes the errors of the step from h^p to h^{p+levels−2}, p the weak order of its
    integrator. SGD has random numbers of its own.

    Where a process knows the mean of its step (`SGD` without momentum, `ModifiedEquation`), the
    noise that has moved a member is the control variate of its f, to first order: what is left of
    the variance is of relative order η (nothing at all for a linear f and constant noise).

    **Arguments:** `sgd`: a discrete process. `sde`: `ModifiedEquation`, `UnderdampedEquation`,
    `OverdampedEquation`, `AdaptiveEquation` or `SAMEquation`. `of`: f, a JAX function of θ (d,).
    `levels` ≥ 2: solver steps that are combined.

    **Raises:** `ValueError` for clocks that differ, and for an equation that cannot be refined.
    """
    refuse_tracing("weak_error", sgd, sde, theta0, key)
    if not 2 <= levels <= 6:
        raise ValueError(
            f"levels must be 2, ..., 6 solver steps to extrapolate from; got {in_brief(levels)}."
        )
    of_theta("of", of, sgd.landscape, "lambda theta: theta[0]")
    if sde.weak_order is None:
        raise ValueError(
            f"weak_error extrapolates in the solver step, and {type(sde).__name__} cannot be run "
            f"at two steps on one Brownian path. Use ModifiedEquation with diffrax.Euler(), "
            f"UnderdampedEquation, OverdampedEquation, AdaptiveEquation or SAMEquation."
        )
    check_clocks(sgd, sde, num_steps)
    own, shared = jr.split(key)
    steps: int = sde.substeps
    weights = _richardson(sde.weak_order, levels)

    def final(process, its_key):
        """f and its control, None where there is none, of every member."""
        control = noise_control(process, theta0, num_steps, of)
        run = simulate(
            process,
            theta0,
            num_steps=num_steps,
            ensemble_size=ensemble_size,
            key=its_key,
            measures={} if control is None else {"control": control},
            progress=False,
        )
        values = as_float64("of(θ)", jax.vmap(of)(jnp.asarray(run.positions)))
        return values, None if control is None else run["control"]

    runs = []
    for level in range(levels):
        m = 2**level * steps
        kind = sde.refined(m, 2 ** (levels - 1 - level))
        runs.append(final(kind, shared))
    values, controls = zip(*runs, strict=True)
    limit = np.tensordot(weights, values, 1)
    control = None if controls[0] is None else np.tensordot(weights, controls, 1)
    removed = controlled(values[0] - limit, None if control is None else controls[0] - control)
    pairs = [(limit, control), final(sgd, own)]
    sides = [Estimate.from_samples(controlled(*pair)) for pair in pairs]
    plain = [Estimate.from_samples(pair[0]) for pair in pairs]
    return WeakError(
        _difference(*sides),
        sides[1],
        sides[0],
        Estimate.from_samples(removed),
        _difference(*plain),
    )


def _richardson(order: int, levels: int) -> np.ndarray:
    """w with Σ w_i = 1 and Σ w_i 2^{−iq} = 0 for q = order, ..., order + levels − 2."""
    powers = np.concatenate([[0], order + np.arange(levels - 1)])
    halvings = np.arange(levels)
    return np.linalg.solve(2.0 ** -np.outer(powers, halvings), np.eye(levels)[0])


def _difference(one: Estimate, other: Estimate) -> Estimate:
    error = np.hypot(one.standard_error, other.standard_error)
    return Estimate(one.value - other.value, error, one.num_samples)


def weak_order(
    processes: Callable[[float], tuple[AbstractProcess, AbstractProcess]],
    learning_rates: Sequence[float],
    theta0: Any,
    *,
    time: float,
    ensemble_size: int,
    key: Key,
    of: Callable,
    levels: int = 2,
) -> WeakOrder:
    """Weak errors at t = `time` for several learning rates, and the order fitted to them.

    **Arguments:** `processes`: η ↦ (sgd, sde); `learning_rates`: each divides `time` on the clock
    of its processes; `of`: f, with one value; others as `weak_error`.

    **Raises:** `ValueError` as `weak_error` and `fit_order` (errors below twice their standard
    error), for a time between two iterations, and for learning-rate schedules.
    """
    found = []
    for eta, own in zip(learning_rates, jr.split(key, len(learning_rates)), strict=True):
        sgd, sde = processes(float(eta))
        exact = time / float(sgd.time(np.asarray(1)))
        if abs(exact - round(exact)) > 1e-6 * exact or round(exact) < 1:
            raise ValueError(
                f"time={time:g} is {exact:.6g} iterations at learning_rate={eta:g}, no whole "
                f"number: choose rates that divide it."
            )
        if not np.isclose(float(sgd.time(np.asarray(round(exact)))), time, rtol=1e-6):
            raise ValueError(
                f"weak_order needs constant learning rates: {round(exact)} iterations at the first "
                f"rate of the schedule would be t={time:g}, and are another time."
            )
        found.append(
            weak_error(
                sgd,
                sde,
                theta0,
                num_steps=round(exact),
                ensemble_size=ensemble_size,
                key=own,
                of=of,
                levels=levels,
            ).error
        )
    errors = Estimate(
        np.array([float(e.value) for e in found]),
        np.array([float(e.standard_error) for e in found]),
        ensemble_size,
    )
    rates = as_float64("learning_rates", learning_rates)
    return WeakOrder(rates, errors, fit_order(rates, errors.value, errors.standard_error))
