"""Time to leave a set, with members that start again once they have left."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import Alive, Positions
from .base import AbstractMeasure, Tick
from .estimate import Estimate


class FirstPassageCarry(eqx.Module):
    """Exits, steps at risk in all lives, first exit (0: none), outside now; all (members,).

    Until its first exit a member has been at risk in every step: no age need be kept.
    """

    exits: Array
    at_risk: Array
    first: Array
    just_left: Array


class FirstPassageResult(eqx.Module):
    """Exit statistics; times in iterations, of members alive or diverged only after their exit.

    - `rate`: Estimate of exits per iteration at risk, the maximum-likelihood rate of
      censored exponential times; its error is the ratio estimator's over members. Without any
      exit it is 0 with the error of one, 1/(time at risk) (95 % limit: three times that).
    - `mean_time`: Estimate of its inverse, iterations (NaN without exits); `num_exits` in all.
    - `first_times`: (members,) iterations to each member's first exit, NaN if it never left.
    """

    rate: Estimate
    mean_time: Estimate
    num_exits: int
    first_times: np.ndarray
    axes: ClassVar[dict[str, tuple[str, ...]]] = {"first_times": ("member",)}


class FirstPassage(AbstractMeasure):
    """First time that `exited(θ)` holds, watched after every solver step.

    For SGD a step is an iteration; for an SDE one of its `substeps`. With
    `simulate(..., refill=True)` a member that has left starts again from its start, so that
    the run measures a stationary flux and no member idles. Two-point increments, whose
    tails are wrong, are refused.

    **Arguments:** `exited`: a function of θ (d,) that gives a boolean.
    """

    exited: Callable
    watches: ClassVar[Literal["iterations", "substeps"]] = "substeps"

    def check(self, process: Any, num_steps: int) -> None:
        if getattr(process, "increments", "gaussian") == "two_point":
            raise ValueError(
                "Two-point increments give wrong exit times (their tails are cut): use "
                'increments="gaussian" with FirstPassage.'
            )
        landscape = process.landscape
        probe = jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
        out = jax.eval_shape(lambda x: jnp.asarray(self.exited(x)), probe)
        if out.shape != () or out.dtype != bool:
            raise ValueError(
                f"exited(θ) must give one boolean for θ of shape {probe.shape}, such as θ[0] > 0; "
                f"it gives shape {out.shape} and dtype {out.dtype}."
            )
        if num_steps * process.substeps >= 2**31:
            raise ValueError(
                f"FirstPassage counts solver steps in 32 bits: num_steps={num_steps} times "
                f"substeps={process.substeps} must stay below 2**31."
            )

    def check_start(self, theta: Positions) -> None:
        outside = np.asarray(jax.vmap(self.exited)(theta))
        if outside.any():
            raise ValueError(
                f"{int(outside.sum())} of {outside.size} members start where exited(θ) already "
                f"holds, the first of them member {int(np.argmax(outside))}: their exit time is "
                f"zero. Start inside, or turn the condition round."
            )

    def init(self, theta: Positions) -> FirstPassageCarry:
        members = theta.shape[0]
        zero = jnp.zeros(members, jnp.int32)
        return FirstPassageCarry(zero, zero, zero, jnp.zeros(members, bool))

    def update(
        self, carry: FirstPassageCarry, before, after: Positions, tick: Tick, alive: Alive
    ) -> FirstPassageCarry:
        idle = carry.just_left
        out = jax.vmap(lambda x: jnp.asarray(self.exited(x), bool))(after) & ~idle & alive
        at_risk = carry.at_risk + ~idle
        first = jnp.where(out & (carry.first == 0), at_risk, carry.first)
        return FirstPassageCarry(carry.exits + out, at_risk, first, idle | out)

    def finished(self, carry: FirstPassageCarry) -> Alive:
        return carry.just_left

    def restart(self, carry: FirstPassageCarry, restarted: Alive) -> FirstPassageCarry:
        # A life that another measure ended is censored: its steps stay at risk, without an exit.
        return eqx.tree_at(lambda c: c.just_left, carry, carry.just_left & ~restarted)

    def result(
        self, carry: FirstPassageCarry, alive: np.ndarray, process: Any
    ) -> FirstPassageResult:
        per_iteration = process.substeps
        kept = alive | np.asarray(carry.just_left)
        exits = np.asarray(carry.exits, dtype=float)[kept]
        risk = np.asarray(carry.at_risk, dtype=float)[kept] / per_iteration
        first = np.asarray(carry.first, dtype=float)[kept]
        rate = _ratio(exits, risk)
        if rate.value == 0:
            rate = Estimate(rate.value, np.asarray(1 / risk.sum()), rate.num_samples)
        mean = _ratio(risk, exits)
        times = np.where(first > 0, first / per_iteration, np.nan)
        return FirstPassageResult(rate, mean, int(exits.sum()), times)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> Estimate:
    """Σ top / Σ bottom over members, with the ratio estimator's standard error."""
    num, total = top.size, bottom.sum()
    if num == 0 or total == 0:
        return Estimate(np.asarray(np.nan), np.asarray(np.inf), num)
    ratio = top.sum() / total
    residual = top - ratio * bottom
    error = np.sqrt(num / max(num - 1, 1) * (residual**2).sum()) / total if num > 1 else np.inf
    return Estimate(np.asarray(ratio), np.asarray(error), num)
