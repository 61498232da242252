"""Weak errors of equations by Monte Carlo, extrapolated in the solver step; their orders."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from sde_sgd._checks import (
    check_callable,
    check_key,
    check_list,
    check_number,
    check_part,
    check_whole,
    output_shape,
    real_output,
)
from sde_sgd._user_functions import refuse_tracing
from sde_sgd.compare._noise_control import controlled, noise_control
from sde_sgd.estimate import Estimate
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.clock import check_clocks
from sde_sgd.simulate.engine import simulate
from sde_sgd.simulate.validate import starts
from sde_sgd.theory.step_errors import fit_order, OrderFit
from sde_sgd.types import Key


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
    levels = check_whole("levels", levels, 2, 6)
    check_part("sgd", sgd, AbstractProcess, "a process such as ss.SGD")
    check_part("sde", sde, AbstractProcess, "an equation such as ss.ModifiedEquation")
    # The noise of every step, at the finest, has a 32-bit number.
    finest = max(sde.substeps * 2 ** (levels - 1), 1)
    num_steps = check_whole("num_steps", num_steps, most=2**31 // finest)
    check_of(sgd.landscape, of)
    if sde.weak_order is None:
        raise ValueError(
            f"weak_error extrapolates in the solver step, and {type(sde).__name__} cannot be run "
            f"at two steps on one Brownian path. Use ModifiedEquation with diffrax.Euler(), "
            f"UnderdampedEquation, OverdampedEquation, AdaptiveEquation or SAMEquation."
        )
    check_clocks(sgd, sde, num_steps)
    key, ensemble_size = check_key(key), check_whole("ensemble_size", ensemble_size, 2)
    starts(sgd, theta0, ensemble_size, key)
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
        every = jax.vmap(lambda theta: real_output("of(θ)", of(theta)))
        values = np.asarray(every(jnp.asarray(run.positions)), np.float64)
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


def check_of(landscape: AbstractLandscape, of: Any) -> None:
    """A JAX function of one θ (d,)."""
    check_callable("of", of, "lambda theta: theta[0]")
    probe = jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
    output_shape("of(θ)", of, probe)


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
    check_callable("processes", processes, "lambda eta: (ss.SGD(...), ss.ModifiedEquation(...))")
    rates = [
        check_number(f"learning_rates[{i}]", rate, above=0)
        for i, rate in enumerate(check_list("learning_rates", learning_rates, "[0.1, 0.2]"))
    ]
    time, found = check_number("time", time, above=0), []
    for eta, own in zip(rates, jr.split(check_key(key), len(rates)), strict=True):
        sgd, sde = _pair(processes(eta))
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
    fit = fit_order(rates, errors.value, errors.standard_error)
    return WeakOrder(np.array(rates), errors, fit)


def _pair(made: Any) -> tuple[AbstractProcess, AbstractProcess]:
    """What `processes` made for one rate."""
    pair = check_list("processes(η)", made, "(ss.SGD(...), ss.ModifiedEquation(...))")
    if len(pair) != 2:
        raise ValueError(f"processes(η) must give (sgd, sde); it gives {len(pair)} objects.")
    for name, process in zip(("sgd", "sde"), pair, strict=True):
        check_part(f"processes(η): {name}", process, AbstractProcess, "a process such as ss.SGD")
    return pair[0], pair[1]
