"""Rates and mean times of few exits and few lives: their errors, and what to say of them."""

from typing import Any

import numpy as np
import scipy

from sde_sgd.estimate import Estimate

# Exits below which an error bar is said to be rough: with ten its own relative error is 22 %.
_FEW_EXITS = 10


def garwood(exits: int, risk: float, confidence: float) -> tuple[float, float]:
    """Confidence limits of the rate of a Poisson count over the time at risk."""
    tail = (1 - confidence) / 2
    low = scipy.special.gammaincinv(exits, tail) if exits else 0.0
    return float(low / risk), float(scipy.special.gammainccinv(exits + 1, tail) / risk)


def few_exits(exits: int, risk: float) -> str | None:
    """What to say of error bars that rest on few exits; None for many, and for none at all."""
    if not 0 < exits < _FEW_EXITS:
        return None
    low, high = garwood(exits, risk, 0.95)
    bar = (
        "one exit gives no error bar"
        if exits == 1
        else f"the error bars of {exits} exits are rough"
    )
    return (
        f"{bar}: the rate lies within {low:.3g} to {high:.3g} an iteration (95 %, "
        f"rate_interval()). Run longer, or add members."
    )


def renewal_time(carry: Any, kept: np.ndarray, substeps: int) -> tuple[Estimate | None, str | None]:
    """T = Σ (time at risk + time left)/Σ lives over members, and what to say of `mean_time`."""
    counts = carry.exits, carry.at_risk, carry.first, carry.just_left, carry.started
    exits, risk, first, outside, started = (np.asarray(x, dtype=float)[kept] for x in counts)
    # Lives cut short by another measure are no renewals.
    if (started < 0).any():
        return None, None
    inside, age = 1 - outside, risk - started
    # Seen at the ends of iterations of m steps, a life has (m − 1)/2 steps less left than it
    # has lived: those that a member rests, on average, when it leaves within an iteration.
    ahead = inside * (age - (substeps - 1) / 2)
    # Never left: T − (m + 1)/2 more, whose T goes to the other side.
    never = (first == 0).astype(float)
    top, lives = risk + ahead - never * (substeps + 1) / 2, exits + inside - never
    if len(exits) < 2 or lives.sum() == 0:
        return scaled(over_members(top, lives), 1 / substeps), None
    plain, found = over_members(risk, exits), over_members(top, lives)
    pulls = (risk - plain.value * exits) / exits.sum() - (top - found.value * lives) / lives.sum()
    gap = float(plain.value - found.value) / substeps
    advice = f"take renewal_time={float(found.value) / substeps:.6g}"
    error = float(np.sqrt(len(exits) / (len(exits) - 1) * (pulls**2).sum())) / substeps
    remark = _remark(scaled(plain, 1 / substeps), gap, error, exits.mean(), advice)
    return scaled(found, 1 / substeps), remark


def few_lives(exits, risk, first, mean: Estimate, step: float) -> str | None:
    """What to say of `mean_time` by the first exit times: T (1 − Var τ/T² − step/T)/(2n) too long.

    Iterations; the last term is that of times on a lattice, with which geometric times give 0.
    Who never left is taken to have such a time of mean T ahead.
    """
    if len(exits) < 2:
        return None
    never, ahead = first == 0, float(mean.value)
    more = 2 * risk * ahead + (2 * ahead - step) * ahead
    once, square = np.where(never, risk + ahead, first), np.where(never, risk**2 + more, first**2)
    centre = once.mean()
    ratio = square.mean() / centre**2
    share = ahead / (2 * exits.mean())
    pulls = square / centre**2 - 2 * ratio * once / centre
    error = float(pulls.std(ddof=1) / np.sqrt(len(exits)) * share)
    advice = "take renewal=True and its renewal_time"
    return _remark(mean, float((2 - ratio - step / centre) * share), error, exits.mean(), advice)


def _remark(mean: Estimate, gap: float, error: float, lives: float, advice: str) -> str | None:
    """What to say where time at risk over exits is off by more than its error, else None."""
    if abs(gap) <= max(float(mean.standard_error), 4 * error):
        return None
    return (
        f"mean_time={float(mean.value):.6g} iterations is off by about {gap:+.3g}, more than its "
        f"standard error, because a member has few lives ({lives:.3g}): {advice}, or run longer."
    )


def scaled(estimate: Estimate, factor: float) -> Estimate:
    error = np.asarray(estimate.standard_error * factor)
    return Estimate(np.asarray(estimate.value * factor), error, estimate.num_samples)


def over_members(top: np.ndarray, bottom: np.ndarray) -> Estimate:
    """Σ top / Σ bottom over members, with the ratio estimator's standard error."""
    num, total = top.size, bottom.sum()
    if num == 0 or total == 0:
        return Estimate(np.asarray(np.nan), np.asarray(np.inf), num)
    ratio = top.sum() / total
    residual = top - ratio * bottom
    error = np.sqrt(num / max(num - 1, 1) * (residual**2).sum()) / total if num > 1 else np.inf
    return Estimate(np.asarray(ratio), np.asarray(error), num)
