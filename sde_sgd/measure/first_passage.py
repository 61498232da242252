"""Time to leave a set, with members that start again once they have left."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array

from sde_sgd._checks import check_callable, check_flag, check_number, check_part, in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import AbstractMeasure, MeasureResult, shape_at_theta, Tick
from sde_sgd.measure.brownian_bridge import BrownianBridge
from sde_sgd.measure.few_exits import (
    few_exits,
    few_lives,
    garwood,
    over_members,
    renewal_time,
    scaled,
)
from sde_sgd.random.draws import Stream
from sde_sgd.types import Alive, Positions

_EXAMPLE = "lambda theta: theta[0] > 1"


class FirstPassageCarry(eqx.Module):
    """Counts (members,), each made of its own old value and of the others' new ones.

    - `passages`: twice the exits, one more while outside.
    - `stayed`: steps that ended inside. `waited`: those of them before the first exit.
    - `started`, with `renewal`: steps at risk in the lives before the present one; −1 for good
      once another measure ended a life.

    So XLA writes each in place: a count that another needed as it was would be copied at each
    step. Of NumPy counts the properties are NumPy's.
    """

    passages: Array
    stayed: Array
    waited: Array
    started: Array | None

    @property
    def exits(self) -> Any:
        """How often it has left."""
        return self.passages >> 1

    @property
    def just_left(self) -> Any:
        """Outside, and not yet put back."""
        return (self.passages & 1).astype(bool)

    @property
    def at_risk(self) -> Any:
        """Steps at risk in all lives: a step that leads out is one, waiting outside is none."""
        return self.stayed + self.exits

    @property
    def first(self) -> Any:
        """Steps to the first exit; 0 without any."""
        return (self.exits > 0) * (self.waited + 1)


class FirstPassageResult(MeasureResult):
    """Exit statistics; times in iterations, of members alive or diverged only after their exit.

    - `rate`: Estimate of exits per iteration at risk, the maximum-likelihood rate of
      censored exponential times; its error is the ratio estimator's over members. Without any
      exit it is 0 with the error of one, 1/(time at risk) (95 % limit: three times that).
    - `mean_time`: Estimate of its inverse, iterations (NaN without exits); `num_exits` in all.
    - `rate_t`, `mean_time_t`: the same per unit and in units of t (None with a schedule).
    - `renewal_time`, `renewal_time_t`: Estimate of the mean time of a life without the bias of few
      lives (see `FirstPassage`), iterations and t; None without `renewal`, without refill, or
      where another measure ended some of the lives.
    - `first_times`: (members,) iterations to each member's first exit, NaN if it never left.
    - `remark`: what is wrong with `mean_time`, if something is; a run warns of it.
    - `time_at_risk`: iterations at risk of all members together.
    - `first_risk`: (members,) iterations at risk until the first exit, or in all without one.
    - `step`: iterations from one look to the next, 1/substeps.
    """

    rate: Estimate
    mean_time: Estimate
    rate_t: Estimate | None
    mean_time_t: Estimate | None
    num_exits: int
    first_times: np.ndarray
    time_at_risk: float
    first_risk: np.ndarray
    step: float
    renewal_time: Estimate | None = None
    renewal_time_t: Estimate | None = None
    remark: str | None = None
    axes: ClassVar[dict[str, tuple[str, ...]]] = {
        "first_times": ("member",),
        "first_risk": ("member",),
    }

    def rate_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Garwood's interval of the rate, χ²(2n)/2R … χ²(2n+2)/2R with n exits in time R at risk.

        Exact for exponential times with refill (a Poisson count); with censored single lives it
        is the usual one. Without exits: 0 and the two-sided limit.
        """
        return garwood(self.num_exits, self.time_at_risk, _confidence(confidence))

    def rate_limit(self, confidence: float = 0.95) -> float:
        """Upper limit of the rate, one-sided: −ln(1 − confidence)/R without any exit."""
        tail = 1 - _confidence(confidence)
        return float(scipy.special.gammainccinv(self.num_exits + 1, tail) / self.time_at_risk)

    def exponential_test(self) -> float:
        """p-value of the hypothesis that first exit times are exponential; small refutes it.

        The exits are marked on the clock that counts the time at risk of all first lives, which
        they share until they end. If the times are exponential the marks are uniform, whatever
        the rate and the censoring (Barlow & Campo 1975), and Kolmogorov's test needs no
        fitted parameter. Exits of one and the same step are spread over it.

        **Raises:** `ValueError` with fewer than 5 first exits.
        """
        exited = np.isfinite(self.first_times)
        if exited.sum() < 5:
            raise ValueError(
                f"{int(exited.sum())} first exits say nothing of their law: run longer, or with a "
                f"larger ensemble_size, until there are at least 5 (better 50)."
            )
        lives = np.sort(self.first_risk)
        shared = np.concatenate([[0.0], np.cumsum(lives)])

        def clock(at):
            ended = np.searchsorted(lives, at)
            return shared[ended] + (len(lives) - ended) * at

        times, ties = np.unique(self.first_times[exited], return_counts=True)
        before, after = clock(np.maximum(times - self.step, 0)), clock(times)
        rank = np.concatenate([(np.arange(n) + 0.5) / n for n in ties])
        marks = np.repeat(before, ties) + rank * np.repeat(after - before, ties)
        # If all left, the clock stops at the last exit, which is no mark of its own.
        marks = marks[:-1] / marks[-1] if exited.all() else marks / clock(lives[-1])
        test: Any = scipy.stats.kstest(marks, "uniform")
        return float(test.pvalue)


def _confidence(value: float) -> float:
    return check_number("confidence", value, above=0.0, below=1.0)


class FirstPassage(AbstractMeasure):
    """First time that `exited(θ)` holds, watched after every solver step.

    For SGD a step is an iteration; for an SDE one of its `substeps`. With
    `simulate(..., refill=True)` a member that has left starts again from its start, so that
    the run measures a stationary flux and no member idles. Two-point increments, whose
    tails are wrong, are refused.

    **Few lives.** With refill every member begins with a fresh life. By time t it has left
    E N = t/T + (Var τ/T² − 1)/2 times (renewal theory), so that time at risk over exits is too long
    by the share (1 − Var τ/T²)/(2n) of T, n = t/T lives in the window: nothing for exponential
    times; for times that are always the same 1/20 of T with 10 lives. By Wald's identity

        T E[lives begun] = E[time at risk] + E[time that the present lives still have] ,

    and once the flux is stationary a life has on average as much time left as it has lived, so
    that its age stands for the last term (for a member that has never left, the run and T: in a
    stationary flux its life would have begun before the run). `renewal_time` solves this:
    exact for exponential times, however few the lives; for others what is left falls as the flux
    becomes stationary. It needs `renewal=True`, which costs a few per cent of a cheap step. With
    or without, a `mean_time` that is off by more than its standard error (without: by the share
    above, of the first exit times) is warned of, and where members have less than about two lives
    neither mean can be trusted.

    **Arguments:**

    - `exited`: a function of θ (d,) that gives a boolean.
    - `crossing`: for an SDE, the chance that it left between two solver steps though it
      is inside at both: `FirstPassage.bridged` makes both from one level function.
    - `renewal`: follow the age of the present life, for `renewal_time`.

    **Source:** Cox 1962, Renewal Theory, chapters 4 and 5.
    """

    exited: Callable
    crossing: BrownianBridge | None = None
    renewal: bool = eqx.field(static=True, default=False)
    watches: ClassVar[Literal["iterations", "substeps"]] = "substeps"

    def __check_init__(self):
        check_callable("FirstPassage: exited", self.exited, _EXAMPLE)
        check_flag("FirstPassage: renewal", self.renewal)
        if self.crossing is not None:
            made = "a BrownianBridge: use FirstPassage.bridged(process, level)"
            check_part("FirstPassage: crossing", self.crossing, BrownianBridge, made)

    @staticmethod
    def bridged(process: Any, level: Callable) -> "FirstPassage":
        """Exit to {level(θ) ≥ 0} in continuous time: a `BrownianBridge` joins the solver steps.

        The bias of watching an SDE at its steps falls from O(√h) to O(h).
        """
        bridge = BrownianBridge(process, level)
        return FirstPassage(lambda theta: jnp.asarray(level(theta)) >= 0, bridge)

    def check(self, process: Any, num_steps: int) -> None:
        if process.two_point:
            raise ValueError(
                "Two-point increments give wrong exit times (their tails are cut): use "
                'increments="gaussian" with FirstPassage.'
            )
        if self.crossing is not None:
            self.crossing.check(process)
        out = shape_at_theta("FirstPassage: exited", self.exited, process.landscape)
        if out.shape != () or out.dtype != bool:
            raise ValueError(
                f"exited(θ) must give one boolean for θ of shape ({process.landscape.dimension},), "
                f"such as θ[0] > 0; it gives shape {out.shape} and dtype {out.dtype}."
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
                f"holds, the first of them at θ = {in_brief(np.asarray(theta)[outside][0])}: their "
                f"exit time is zero. Start inside, or turn the condition round."
            )

    def init(self, theta: Positions) -> FirstPassageCarry:
        zero = jnp.zeros(theta.shape[0], jnp.int32)
        return FirstPassageCarry(zero, zero, zero, zero if self.renewal else None)

    def update(
        self, carry: FirstPassageCarry, before, after: Positions, tick: Tick, alive: Alive
    ) -> FirstPassageCarry:
        out = jax.vmap(lambda x: jnp.asarray(self.exited(x), bool))(after)
        if self.crossing is not None:
            chance = jax.vmap(self.crossing)(before, after)
            draws = tick.draws.at(substep=tick.substep)
            out = out | (draws.uniform((), Stream.MEASURE, after.dtype) < chance)
        left = out & ~carry.just_left & alive
        passages = carry.passages + 3 * left.astype(jnp.int32)
        stayed = carry.stayed + (passages & 1 == 0).astype(jnp.int32)
        waited = carry.waited + (passages == 0).astype(jnp.int32)
        started = carry.started
        if started is not None:
            ended = (passages & 1 == 1) & (started >= 0)
            started = jnp.where(ended, stayed + (passages >> 1), started)
        return FirstPassageCarry(passages, stayed, waited, started)

    def finished(self, carry: FirstPassageCarry) -> Alive:
        return carry.just_left

    def restart(self, carry: FirstPassageCarry, restarted: Alive) -> FirstPassageCarry:
        # A life that another measure ended is censored: its steps stay at risk, without an exit.
        started = carry.started
        if started is not None:
            started = jnp.where(restarted & ~carry.just_left, -1, started)
        # Whoever was outside is among the restarted.
        inside = 2 * carry.exits
        return FirstPassageCarry(inside, carry.stayed, carry.waited, started)

    def result(
        self, carry: FirstPassageCarry, alive: np.ndarray, process: Any
    ) -> FirstPassageResult:
        per_iteration = process.substeps
        kept = alive | np.asarray(carry.just_left)
        exits = np.asarray(carry.exits, dtype=float)[kept]
        risk = np.asarray(carry.at_risk, dtype=float)[kept] / per_iteration
        first = np.asarray(carry.first, dtype=float)[kept]
        rate = over_members(exits, risk)
        if rate.value == 0:
            rate = Estimate(rate.value, np.asarray(1 / risk.sum()), rate.num_samples)
        mean = over_members(risk, exits)
        unit = float(process.time(np.asarray(1))) if process.autonomous else None
        left = first > 0
        renewal, remark = None, None
        # Nobody lived twice: without refill, or before its first use.
        if (exits > np.asarray(carry.just_left)[kept]).any():
            if self.renewal:
                renewal, remark = renewal_time(carry, kept, per_iteration)
            else:
                remark = few_lives(exits, risk, first / per_iteration, mean, 1 / per_iteration)
        count, total = int(exits.sum()), float(risk.sum())
        remark = " ".join(filter(None, [few_exits(count, total), remark])) or None
        return FirstPassageResult(
            rate,
            mean,
            None if unit is None else scaled(rate, 1 / unit),
            None if unit is None else scaled(mean, unit),
            count,
            np.where(left, first / per_iteration, np.nan),
            total,
            np.where(left, first / per_iteration, risk),
            1 / per_iteration,
            renewal,
            None if unit is None or renewal is None else scaled(renewal, unit),
            remark,
            members=np.flatnonzero(kept),
        )
