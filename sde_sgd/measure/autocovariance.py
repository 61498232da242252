"""Correlation in time, from a ring of past values."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from sde_sgd._checks import check_flag, check_number, check_whole, in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_of,
    check_schedule,
    due,
    evaluate,
    increasing_integers,
    MeasureResult,
    shape_of_value,
    Tick,
)
from sde_sgd.types import Alive, Positions

# Fewer than so many correlation times in all members together say nothing of themselves.
_LEAST_TIMES = 50
_MOST_LAGS = 10**6
# Doubles that a reading works on at once: 2 MB an array.
_NUMBERS = 2**18


class AutocovarianceCarry(eqx.Module):
    """Values counted (members,), the first of them (members, p), and sums about it.

    `early`: the first max_lag values, (members, p, size); `past`: the newest, each written twice
    at a distance of `size`, so that a window of them is one contiguous slice; `total` and
    `products`, (members, p, 1) and (members, p, lags), with Kahan's compensations in float32.
    """

    count: Array
    shift: Array
    early: Array
    past: Array
    total: Array
    products: Array
    compensation: tuple[Array, Array] | None


class AutocovarianceResult(MeasureResult):
    """C(l) = Cov(f_k, f_{k+l}) entry by entry of f, averaged over time and members alive.

    - `lags` (n,) in iterations; `lag_times` (n,), the same in t from k = 0.
    - `covariance`, `correlation` = C(l)/C(0): Estimates (n, *shape of f).
    - `summed`: Estimate (n, *shape), τ(l) = every·(1 + 2 Σ_{0<j≤l} C(j)/C(0)), in iterations;
      None if the lags leave gaps.
    - `num_iterations`: values of a member that were counted.

    Errors come from the spread between members; those of ratios by linearisation.
    """

    lags: np.ndarray
    lag_times: np.ndarray
    covariance: Estimate
    correlation: Estimate
    summed: Estimate | None
    num_iterations: int
    axes: ClassVar[dict[str, tuple[str, ...]]] = {
        name: ("lag",) for name in ("lags", "lag_times", "covariance", "correlation", "summed")
    }
    coordinates: ClassVar[dict[str, str]] = {"lag": "lags", "lag_t": "lag_times"}

    def integrated_time(self, window: float = 5.0) -> Estimate:
        """τ = every·Σ_{j=−∞}^{∞} C(j·every)/C(0), in iterations: n are worth n/τ independent ones.

        That is of means over the values that were counted, one in `every`: for C(l) ∝ e^{−λl}, τ =
        every·coth(every·λ/2), more than the coth(λ/2) of a mean over all iterations.

        Summed up to the smallest lag W ≥ window·τ(W) (Sokal's rule): for exponential
        correlations that leaves out the share e^{−2·window}.

        **Returns:** an `Estimate` of the shape of f. Its error is that at the fixed window.

        **Raises:** `ValueError` if no lag of the measure is large enough, if the lags leave gaps,
        or if all members together hold fewer than 50 τ iterations.

        **Source:** Sokal, Monte Carlo methods in statistical mechanics (1997), §3.
        """
        window = check_number("window", window, above=0.0)
        if self.summed is None:
            raise ValueError(
                f"The lags {self.lags.tolist()} leave gaps, over which nothing can be summed: use "
                f"Autocovariance(max_lag=...)."
            )
        value, error = self.summed.value, self.summed.standard_error
        closed = self.lags.reshape(-1, *(1,) * (value.ndim - 1)) >= window * value
        longest = float(np.max(value[-1])) if value.size else np.nan
        if not closed.any(axis=0).all():
            raise ValueError(
                f"The correlation is not summed up by lag {int(self.lags[-1])}: τ is at least "
                f"{longest:.4g} iterations, and the window must reach {window:g} τ. Use "
                f"max_lag={int(np.ceil(2 * window * longest))} or more, in a run of twice that."
            )
        first = np.argmax(closed, axis=0)
        index = tuple(np.indices(first.shape))
        found = Estimate(value[(first, *index)], error[(first, *index)], self.summed.num_samples)
        most = float(np.max(found.value))
        if self.num_iterations * found.num_samples < _LEAST_TIMES * most:
            raise ValueError(
                f"{found.num_samples} members × {self.num_iterations} iterations hold fewer than "
                f"{_LEAST_TIMES} correlation times of {most:.4g}: run longer or add members."
            )
        return found


class Autocovariance(AbstractMeasure):
    """Stationary autocovariance C(l) of f(θ), entry by entry, and its integrated time.

    The mean is common to members and time. Work and memory grow with the number of lags (and
    the memory with the largest), not with the length of the run.

    **Arguments:**

    - `of`: f, a function of θ; θ itself by default.
    - `max_lag`: all lags 0, every, 2·every, … up to it; or `lags`: these, increasing multiples of
      `every` from 0 on. In iterations.
    - `burn_in`, `every`: as in `Moments`.
    - `increments`: correlate f(θ_{k+1}) − f(θ_k) in place of f(θ_k). With no gradient to speak of
      that is −η times the gradient noise: white for independent batches, anticorrelated for
      shuffled epochs.

    **Raises:** `ValueError` for lags that are no such multiples; in `simulate`, for a run shorter
    than burn_in + 2·max_lag.
    """

    of: Callable | None
    lags: tuple[int, ...] = eqx.field(static=True)
    burn_in: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    increments: bool = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(
        self,
        of: Callable | None = None,
        *,
        max_lag: int | None = None,
        lags: Sequence[int] | None = None,
        burn_in: int = 0,
        every: int = 1,
        increments: bool = False,
    ):
        if (max_lag is None) == (lags is None):
            raise ValueError("Autocovariance needs either max_lag or lags, and not both.")
        every = check_whole("Autocovariance: every", every)
        if lags is None:
            max_lag = check_whole("Autocovariance: max_lag", max_lag, 0)
            number = max_lag // every
            if number > _MOST_LAGS:
                raise ValueError(
                    f"Autocovariance: max_lag={max_lag} is {number} lags, more than {_MOST_LAGS}: "
                    f"take every=..., or some lags=[0, ...] only."
                )
            chosen = tuple(range(0, max_lag + 1, every))
        else:
            chosen = increasing_integers("Autocovariance: lags", lags, 0)
        if len(chosen) < 2 or chosen[0] != 0:
            raise ValueError(
                f"Autocovariance needs increasing lags from 0 on, two at least; got "
                f"{in_brief(chosen)}."
            )
        if any(lag % every for lag in chosen):
            raise ValueError(f"Lags must be multiples of every={every}; got {in_brief(chosen)}.")
        self.of, self.lags = check_of("Autocovariance", of), chosen
        self.burn_in, self.every = burn_in, every
        self.increments = check_flag("Autocovariance: increments", increments)

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Autocovariance", self.burn_in, self.every, num_steps)
        shape_of_value("Autocovariance", self.of, process.landscape)
        if num_steps < self.burn_in + 2 * self.lags[-1]:
            raise ValueError(
                f"Autocovariance up to lag {self.lags[-1]} needs a run of at least burn_in + "
                f"2·{self.lags[-1]} = {self.burn_in + 2 * self.lags[-1]} iterations; got "
                f"{num_steps}. Lengthen the run, or lower max_lag."
            )

    @property
    def _size(self) -> int:
        return self.lags[-1] // self.every + 1

    def init(self, theta: Positions) -> AutocovarianceCarry:
        value = evaluate(self.of, theta).reshape(theta.shape[0], -1)
        members, size = value.shape

        def zeros(last):
            return jnp.zeros((members, size, last), value.dtype)

        total, products = zeros(1), zeros(len(self.lags))
        compensation = None if value.dtype == jnp.float64 else (total, products)
        count = jnp.zeros(members, jnp.int32)
        early, past = zeros(self._size), zeros(2 * self._size)
        return AutocovarianceCarry(
            count, jnp.zeros_like(value), early, past, total, products, compensation
        )

    def update(
        self, carry: AutocovarianceCarry, before, after: Positions, tick: Tick, alive: Alive
    ) -> AutocovarianceCarry:
        def add() -> AutocovarianceCarry:
            value = evaluate(self.of, after)
            if self.increments:
                value = value - evaluate(self.of, before)
            value = value.reshape(after.shape[0], -1)
            shift = jnp.where(carry.count[:, None] == 0, value, carry.shift)
            moved = (value - shift)[:, :, None]
            size = self._size
            # The clock is common, so that all members write to one place.
            index = (tick.iteration.astype(jnp.int32) - self.burn_in) // self.every - 1
            write = lax.dynamic_update_slice_in_dim
            early = write(carry.early, moved, jnp.minimum(index, size - 1), axis=2)
            slot = index % size
            past = write(write(carry.past, moved, slot, axis=2), moved, slot + size, axis=2)
            window = lax.dynamic_slice_in_dim(past, slot + 1, size, axis=2)
            # Values before the first are zeros, and add nothing.
            earlier = window[:, :, size - 1 - np.array(self.lags) // self.every]
            terms, sums = (moved, earlier * moved), (carry.total, carry.products)
            compensation = carry.compensation
            if compensation is None:
                total, products = (a + b for a, b in zip(sums, terms, strict=True))
            else:
                total, first = add_compensated(sums[0], compensation[0], terms[0])
                products, second = add_compensated(sums[1], compensation[1], terms[1])
                compensation = (first, second)
            return AutocovarianceCarry(
                carry.count + 1, shift, early, past, total, products, compensation
            )

        if self.burn_in == 0 and self.every == 1:
            return add()
        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry: AutocovarianceCarry) -> None:
        return None

    def restart(self, carry: AutocovarianceCarry, restarted: Alive) -> AutocovarianceCarry:
        raise ValueError(
            "Autocovariance correlates the values of one life: members that restart have several. "
            "Run it with refill=False."
        )

    def result(
        self, carry: AutocovarianceCarry, alive: np.ndarray, process: Any
    ) -> AutocovarianceResult:
        count = np.asarray(carry.count)
        kept = alive & (count > self.lags[-1] // self.every)
        num = int(kept.sum())
        steps = int(count[kept].min()) if num else 0
        # Some entries at a time: in doubles the whole would be several times the carry.
        entries, each = carry.shift.shape[1], max(num * self._size, 1)
        width = max(_NUMBERS // each, 1)
        blocks = [slice(i, i + width) for i in range(0, entries, width)]
        found = [self._readings(carry, kept, steps, block) for block in blocks]
        shape = shape_of_value("Autocovariance", self.of, process.landscape)

        def joined(parts: Sequence[Estimate]) -> Estimate:
            value, error = (
                np.concatenate(arrays, axis=1).reshape(len(self.lags), *shape)
                for arrays in zip(*((p.value, p.standard_error) for p in parts), strict=True)
            )
            return Estimate(value, error, num)

        covariance, correlation, summed = (joined(parts) for parts in zip(*found, strict=True))
        lags = np.array(self.lags)
        whole = self.lags == tuple(range(0, self.lags[-1] + 1, self.every))
        return AutocovarianceResult(
            lags, process.time(lags), covariance, correlation, summed if whole else None, steps
        )

    def _readings(
        self, carry: AutocovarianceCarry, kept: np.ndarray, steps: int, block: slice
    ) -> tuple[Estimate, Estimate, Estimate]:
        """C(l), C(l)/C(0) and their sum up to l, (lags, entries), of some entries of f."""
        gaps = np.array(self.lags) // self.every

        def take(leaf):
            return np.asarray(leaf)[kept, block].astype(float)

        shift, total, early = take(carry.shift), take(carry.total), take(carry.early)
        past = take(carry.past)[:, :, np.arange(steps - self._size, steps) % self._size]

        def first_sums(values):
            return np.insert(np.cumsum(values, axis=2), 0, 0.0, axis=2)[:, :, gaps]

        # Later values of the pairs are all but the first l, earlier ones all but the last l.
        later, before = total - first_sums(early), total - first_sums(past[:, :, ::-1])
        centre = (total[:, :, :1] / max(steps, 1) + shift[:, :, None]).mean(axis=0)
        centre = centre - shift[:, :, None]
        each = (take(carry.products) - centre * (later + before)) / (steps - gaps) + centre**2
        # As in Moments: the common mean is measured on the same members.
        num = len(each)
        member_mean = total[:, :, 0] / max(steps, 1) + shift
        spread = ((member_mean - member_mean.mean(axis=0)) ** 2).sum(axis=0)
        each = np.moveaxis(each + spread[:, None] / max(num * (num - 1), 1), 2, 1)
        weighted = self.every * (2 * np.cumsum(each, axis=1) - each[:, :1])
        return Estimate.from_samples(each), ratio(each, each[:, :1]), ratio(weighted, each[:, :1])


def ratio(top: np.ndarray, bottom: np.ndarray) -> Estimate:
    """Σ top/Σ bottom over members, (members, ...) each, with its linearised error.

    NaN with an infinite error where Σ bottom is zero or there is nobody.
    """
    num = len(top)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = bottom.sum(axis=0)
        value = np.where(total != 0, top.sum(axis=0) / total, np.nan)
        residual = ((top - value * bottom) ** 2).sum(axis=0)
        error = np.sqrt(residual * num / max(num - 1, 1)) / np.abs(total)
    known = np.isfinite(value) & (num > 1)
    return Estimate(value, np.where(known, error, np.inf), num)
