"""Drift and variance rate of a scalar, conditional on its position: local regression."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from sde_sgd._checks import as_float64, check_choice, check_number, check_whole, in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.identify._data import increments, relaxation_time, trajectories
from sde_sgd.identify._regression import (
    covariance,
    expected_squares,
    normal_equations,
    Undetermined,
)

# Members that must have visited a neighbourhood for an error there.
_LEAST_VISITORS = 8


class LocalCoefficients(eqx.Module):
    """b and a = 2D at points, read off trajectories. NaN with an infinite error where few went.

    - `points` (P,); `drift`, `variance_rate`: Estimates (P,), per unit t.
    - `lag`: τ in t; `error_order`: for an SDE the lag leaves a bias O(τ^order).
    - `relaxation_time`: of the pooled linear regression at τ.
    - `visits` (P,): starts in each neighbourhood, all members together; `visitors` (P,): how many
      members they are of. `num_samples` of the Estimates is the fewest of them at any point that
      has an estimate, for Student's t.
    """

    points: Float[np.ndarray, " points"]
    drift: Estimate
    variance_rate: Estimate
    lag: float
    error_order: int
    relaxation_time: float
    visits: Float[np.ndarray, " points"]
    visitors: Float[np.ndarray, " points"]


def kramers_moyal(
    observed: Any,
    points: Any,
    *,
    bandwidth: float,
    time_step: float | None = None,
    lag: int = 1,
    correction: str = "centred",
    num_lags: int = 2,
    degree: int = 1,
) -> LocalCoefficients:
    """b(x) and a(x) of dx = b dt + √a dW (Itô) by local regression of increments at a lag τ.

    At every point x₀ a polynomial of `degree` in x − x₀ is fitted to increments that start within
    `bandwidth` of it, with Epanechnikov weights; its value at x₀ is the estimate. What is fitted:

    | correction | b | a | bias of an SDE's b and a |
    |---|---|---|---|
    | "naive" | Δx/τ | Δx²/τ | (τ/2)(bb′ + ½ab″), τ(b² + ab′ + ½ba′ + ¼aa″) |
    | "centred" | Δx/τ | (Δx − τb̂)²/τ | the same without b² |
    | "extrapolated" | over τ, 2τ, …, Kτ | the same | O(τ^K), at larger errors |

    Residuals are smaller than errors by their leverage; "centred" fits their squares to what they
    are then expected to be, so that a has no bias from the fit of b. Both are jackknifed over
    members. Squares are skewed: at 40 members intervals of a hold it in about 9 of 10 cases where
    19 of 20 are asked for. `theory.equations.finite_lag_bias` evaluates the biases of the lag. Of
    SGD recorded at every iteration, lag 1 reads b = −∇L and, "centred", a = ηcΣ without any bias
    from the step; "naive", a = ηcΣ + η∇L². The bandwidth adds ½b″·bandwidth²/5 to b for degree 1
    (nothing where b is a polynomial of the degree that is fitted), and the same of a″ to a. If the
    drift is linear, `identify.linear` has no bias from the lag at all. `ConditionalIncrements`
    keeps the sums of one iteration in bins while a run goes on, where trajectories would not fit in
    memory.

    **Arguments:**

    - `observed`: a `Run` with `record_every`, or an array (num_times, members[, 1]).
    - `points`: x₀, (P,); `bandwidth` > 0, in units of x.
    - `time_step`: t between two rows of an array (not with a `Run`).
    - `lag`: τ in records; `num_lags`: K of "extrapolated"; `degree`: 0 to 3.

    **Returns:** `LocalCoefficients`; errors over members, so that overlapping increments and
    correlated starts of one member are no matter.

    **Raises:** `ValueError` for shapes, NaN, fewer than 8 members, trajectories shorter than the
    lags, lags beyond the relaxation time (pooled, or at one of the points), points that nobody
    visits, more than one coordinate.

    **Source:** Friedrich et al. 2011, Phys. Rep. 506; Lamouroux & Lehnertz 2009 (kernels);
    Gottschall & Peinke 2008 (finite lag).
    """
    data = trajectories(observed, time_step)
    if data.values.shape[2] != 1:
        raise ValueError(
            f"kramers_moyal reads one coordinate; positions have {data.values.shape[2]}. "
            f"Pass a projection, if it is Markovian, or use identify.sparse."
        )
    where, width, degree = _numbers(points, bandwidth, degree)
    check_choice("correction", correction, ("naive", "centred", "extrapolated"))
    num_lags = check_whole("num_lags", num_lags)
    count = num_lags if correction == "extrapolated" else 1
    found = increments(
        data,
        lag,
        count,
        coarse_advice=", or, if the drift is linear, use identify.linear, exact at any lag",
    )
    start = found.starts[..., 0]
    first, second = found.drift_response(), found.square_response()[..., 0]
    order = np.argsort(start, axis=None)
    ranked = start.ravel()[order]
    columns = [
        _at(x, width, degree, ranked, order, start.shape, first, second, found.lag, correction, lag)
        for x in where
    ]
    value, error, visits, visitors = (np.array(part) for part in zip(*columns, strict=True))
    if not (visits > 0).any():
        raise ValueError(
            f"Nobody starts within {width:g} of any of the points {where[0]:g} … {where[-1]:g}; "
            f"positions lie in [{ranked[0]:.4g}, {ranked[-1]:.4g}]."
        )
    known = visitors >= _LEAST_VISITORS
    fewest = int(visitors[known].min()) if known.any() else 0
    return LocalCoefficients(
        where,
        Estimate(value[:, 0], error[:, 0], fewest),
        Estimate(value[:, 1], error[:, 1], fewest),
        found.lag,
        count,
        relaxation_time(found),
        visits.astype(float),
        visitors.astype(float),
    )


def _at(x, width, degree, ranked, order, shape, first, second, span, correction, lag):
    """Value and error of (b, a) at one point, the starts near it and the members they are of."""
    low, high = np.searchsorted(ranked, [x - width, x + width])
    time, member = np.unravel_index(order[low:high], shape)
    ahead = np.lexsort((time, member))
    time, member = time[ahead], member[ahead]
    _, begin, count = np.unique(member, return_index=True, return_counts=True)
    nothing = np.full(2, np.nan), np.full(2, np.inf), high - low, len(count)
    if len(count) < _LEAST_VISITORS:
        return nothing
    row, column = (
        np.arange(high - low) - np.repeat(begin, count),
        np.repeat(np.arange(len(count)), count),
    )

    def table(entries: np.ndarray) -> np.ndarray:
        """One column for each visitor, in the order of time, zeros behind."""
        rows = np.zeros((count.max(), len(count)))
        rows[row, column] = entries
        return rows

    place = (ranked[low:high][ahead] - x) / width
    weight = table(np.maximum(1 - place**2, 0.0))
    basis = np.stack([table(place**k) for k in range(degree + 1)], axis=-1)
    names = tuple(map(str, range(degree + 1)))
    changes, squares = (table(part[time, member, 0])[..., None] for part in (first, second))
    expected = basis
    try:
        drift = normal_equations(basis, changes, weight).solve(names)
        if correction == "centred":
            squares = span * (changes - basis @ drift.solution) ** 2
            expected = expected_squares(
                basis, basis, (drift.inverse, drift.inverse), table(time), lag, weight
            )
        variance = normal_equations(expected, squares, weight, basis).solve(names)
    except Undetermined:
        return nothing
    slope = float(drift.coefficients[1, 0]) / width if degree else 0.0
    doubt = 3 * np.sqrt(covariance(drift.influence[:, :, 0])[1, 1]) / width if degree else 0.0
    if -span * (slope + doubt) > 1 - np.exp(-1.0):
        raise ValueError(
            f"These trajectories are too coarse at x = {x:g}: over the lag t = {span:.4g} a "
            f"displacement there decays by the share {-span * slope:.2g} > 1 − 1/e. Record more "
            f"often, lower lag, or leave that point out."
        )
    influence = np.stack([drift.influence[:, 0, 0], variance.influence[:, 0, 0]], axis=1)
    error = np.sqrt(np.diag(covariance(influence)))
    value = np.array([drift.coefficients[0, 0], variance.coefficients[0, 0]])
    return value, error, high - low, len(count)


def _numbers(points: Any, bandwidth: Any, degree: Any) -> tuple[np.ndarray, float, int]:
    where = np.atleast_1d(as_float64("points", points))
    if where.ndim != 1 or not len(where) or not np.isfinite(where).all():
        raise ValueError(f"points must be finite numbers (P,); got shape {where.shape}.")
    width = check_number("bandwidth, in units of x,", bandwidth, above=0.0)
    whole = isinstance(degree, int | np.integer) and not isinstance(degree, bool)
    if not whole or not 0 <= degree <= 3:
        raise ValueError(f"degree must be 0, 1, 2 or 3; got {in_brief(degree)}.")
    return where, width, int(degree)
