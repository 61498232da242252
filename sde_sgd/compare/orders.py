"""Weak errors of equations by Monte Carlo, extrapolated in the solver step; their orders."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from sde_sgd.dynamics.base import AbstractProcess
from sde_sgd.measure.estimate import Estimate
from sde_sgd.simulate.engine import simulate
from sde_sgd.theory.orders import fit_order, OrderFit
from sde_sgd.types import Key


class WeakError(eqx.Module):
    """E f(SDE) − E f(SGD) at one learning rate and time.

    **Fields:** `error`; `sgd` and `sde`, its two sides, the latter extrapolated to a solver step
    of 0; `step_error`, what the extrapolation has removed from the run at `sde.substeps`. All
    `Estimate`s of the shape of f.
    """

    error: Estimate
    sgd: Estimate
    sde: Estimate
    step_error: Estimate


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
) -> WeakError:
    """The weak error of an equation after `num_steps` iterations, for any f and any landscape.

    The equation runs twice, with m = `sde.substeps` and 2m steps an iteration on the same
    Brownian paths (common random numbers), and member by member Richardson's
    (2^p f_fine − f_coarse)/(2^p − 1), p the weak order of its integrator, removes the leading
    error of the step. SGD has random numbers of its own.

    **Arguments:** `sgd`: a discrete process. `sde`: `ModifiedEquation`, `UnderdampedEquation`,
    `OverdampedEquation`, `AdaptiveEquation` or `SAMEquation`. `of`: f, a JAX function of θ (d,).

    **Raises:** `ValueError` for clocks that differ, and for an equation that cannot be refined.
    """
    if not hasattr(sde, "refined") or getattr(sde, "refinable", True) is False:
        raise ValueError(
            f"weak_error extrapolates in the solver step, and {type(sde).__name__} cannot be run "
            f"at two steps on one Brownian path. Use ModifiedEquation with diffrax.Euler(), "
            f"UnderdampedEquation, OverdampedEquation, AdaptiveEquation or SAMEquation."
        )
    ends = [float(p.time(np.asarray(num_steps))) for p in (sgd, sde)]
    if not np.isclose(*ends, rtol=1e-6):
        raise ValueError(
            f"The clocks differ: after {num_steps} iterations SGD is at t={ends[0]:.6g} and the "
            f"equation at t={ends[1]:.6g}. Give both the same learning rate."
        )
    own, shared = jr.split(key)
    steps: int = sde.substeps
    gain = 2 ** getattr(sde, "weak_order", 1)

    def final(process, its_key):
        run = simulate(
            process,
            theta0,
            num_steps=num_steps,
            ensemble_size=ensemble_size,
            key=its_key,
            progress=False,
        )
        return np.asarray(jax.vmap(of)(jnp.asarray(run.positions)), dtype=float)

    coarse = final(sde.refined(steps, 2), shared)  # pyright: ignore[reportAttributeAccessIssue]
    fine = final(sde.refined(2 * steps, 1), shared)  # pyright: ignore[reportAttributeAccessIssue]
    limit = (gain * fine - coarse) / (gain - 1)
    discrete = Estimate.from_samples(final(sgd, own))
    extrapolated = Estimate.from_samples(limit)
    error = Estimate(
        extrapolated.value - discrete.value,
        np.hypot(extrapolated.standard_error, discrete.standard_error),
        ensemble_size,
    )
    return WeakError(error, discrete, extrapolated, Estimate.from_samples(coarse - limit))


def weak_order(
    processes: Callable[[float], tuple[AbstractProcess, AbstractProcess]],
    learning_rates: Sequence[float],
    theta0: Any,
    *,
    time: float,
    ensemble_size: int,
    key: Key,
    of: Callable,
) -> WeakOrder:
    """Weak errors at t = `time` for several learning rates, and the order fitted to them.

    **Arguments:** `processes`: η ↦ (sgd, sde); `learning_rates`: each divides `time` on the clock
    of its processes; `of`: f, with one value; others as `weak_error`.

    **Raises:** `ValueError` as `weak_error` and `fit_order` (errors below twice their standard
    error), and for a time between two iterations.
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
        found.append(
            weak_error(
                sgd,
                sde,
                theta0,
                num_steps=round(exact),
                ensemble_size=ensemble_size,
                key=own,
                of=of,
            ).error
        )
    errors = Estimate(
        np.array([float(e.value) for e in found]),
        np.array([float(e.standard_error) for e in found]),
        ensemble_size,
    )
    rates = np.asarray(learning_rates, dtype=float)
    return WeakOrder(rates, errors, fit_order(rates, errors.value, errors.standard_error))
