"""Trajectories and snapshots as checked arrays, their increments over several lags."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from sde_sgd._checks import as_float64, check_number, check_whole
from sde_sgd.simulate.run import Run
from sde_sgd.theory.step_errors import extrapolation_weights

# Clusters from which a covariance over members is worth anything.
_LEAST_MEMBERS = 8
# A lag of one relaxation time: the leading bias of a drift is then half of it.
_LEAST_CORRELATION = np.exp(-1.0)


class Trajectories(NamedTuple):
    """`values` (num_times, members, d), at distances `spacing` in t."""

    values: Float[np.ndarray, "times members d"]
    spacing: float


class Increments(NamedTuple):
    """Starts θ_t and changes θ_{t+mτ} − θ_t, m = 1…K, of every start that has them all.

    `starts` (starts, members, d), `changes` (K, starts, members, d), `lag` τ in t.
    """

    starts: Float[np.ndarray, "starts members d"]
    changes: Float[np.ndarray, "lags starts members d"]
    lag: float

    def drift_response(self) -> Float[np.ndarray, "starts members d"]:
        """Σ_m w_m Δ_m/(mτ), of conditional mean b + O(τ^K)."""
        return np.tensordot(self._weights(), self.changes, axes=1)

    def square_response(self) -> Float[np.ndarray, "starts members d d"]:
        """Σ_m w_m Δ_mΔ_mᵀ/(mτ), of conditional mean a + O(τ^K)."""
        return np.einsum("m,mtni,mtnj->tnij", self._weights(), self.changes, self.changes)

    def _weights(self) -> np.ndarray:
        count = len(self.changes)
        return extrapolation_weights(count) / (self.lag * np.arange(1, count + 1))


def trajectories(given: Any, time_step: Any) -> Trajectories:
    """A `Run` with records, or an array with its `time_step`, checked."""
    if isinstance(given, Run):
        return _of_run(given, time_step)
    values = _rectangular("trajectories", given)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            f"trajectories must have shape (num_times, members, d), or (num_times, members) in one "
            f"dimension; got {np.shape(given)}. Of a run with record_every pass the run itself."
        )
    if time_step is None:
        raise ValueError(
            "An array of trajectories needs time_step=, the time t between two of its rows (η for "
            "SGD recorded at every iteration)."
        )
    return _checked(values, check_number("time_step", time_step, above=0.0))


def _of_run(run: Run, time_step: Any) -> Trajectories:
    if run.records is None:
        raise ValueError(
            "This run recorded no trajectories: simulate with record_every=1 (or more), or take "
            "Snapshots at a few iterations and identify.from_snapshots."
        )
    if time_step is not None:
        raise ValueError(
            "A Run knows its times: leave out time_step, or pass the array run.records[1] with it."
        )
    steps, positions = run.records
    gaps = np.diff(run.process.time(np.asarray(steps)))
    if not len(gaps) or np.ptp(gaps) > 1e-6 * gaps.mean():
        raise ValueError(
            "The records of this run are not equally spaced in t (a schedule of learning rates, or "
            "one record only): pass a stretch run.records[1][i:j] of constant rate with time_step=."
        )
    return _checked(np.asarray(positions, float)[:, run.alive], float(gaps.mean()))


def snapshots(given: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values (num_times, members, d) and increasing times, checked."""
    values = _rectangular("snapshots", given)
    if values.ndim == 2:
        values = values[..., None]
    clock = _rectangular("times", times)
    if values.ndim != 3 or 0 in values.shape or clock.shape != values.shape[:1]:
        raise ValueError(
            f"snapshots must have shape (num_times, members, d), or (num_times, members), and "
            f"times (num_times,); got {np.shape(given)} and {clock.shape}."
        )
    if len(clock) < 2 or not np.isfinite(clock).all() or (np.diff(clock) <= 0).any():
        raise ValueError(
            f"times must be at least two, finite and increasing; got {clock.tolist()}. One law "
            f"tells nothing of how fast anything moves."
        )
    return _checked(values, 1.0).values, clock


def increments(
    data: Trajectories, lag: int, num_lags: int, *, coarse_advice: str | None
) -> Increments:
    """Changes over lag, 2·lag, …, num_lags·lag records.

    With `coarse_advice` (what else would do), lags beyond the fastest relaxation time are refused.
    """
    lag, num_lags = check_whole("lag, in records,", lag), check_whole("num_lags", num_lags)
    count = len(data.values) - lag * num_lags
    if count < 1:
        raise ValueError(
            f"These trajectories are too short: {num_lags} lag(s) of {lag} records need "
            f"{lag * num_lags + 1} records or more, and there are {len(data.values)}. Take a "
            f"smaller lag, or a longer run."
        )
    starts = data.values[:count]
    ends = (data.values[m * lag : m * lag + count] for m in range(1, num_lags + 1))
    found = Increments(starts, np.stack([e - starts for e in ends]), lag * data.spacing)
    if coarse_advice is not None:
        _check_lag(found, coarse_advice)
    return found


def relaxation_time(found: Increments) -> float:
    """−τ/log of the fastest mode of the regression of θ_{t+τ} on θ_t; ∞ where nothing decays.

    Exact for linear drift; 0 where the fastest mode has died out or alternates.
    """
    size = found.starts.shape[-1]
    before = found.starts.reshape(-1, size)
    change = found.changes[0].reshape(-1, size)
    centred = before - before.mean(axis=0)
    slope = np.linalg.lstsq(centred, change - change.mean(axis=0), rcond=None)[0]
    smallest = float(np.linalg.eigvals(np.eye(size) + slope).real.min())
    if smallest <= 0:
        return 0.0
    return float(found.lag / -np.log(smallest)) if smallest < 1 else np.inf


def _check_lag(found: Increments, advice: str) -> None:
    time = relaxation_time(found)
    longest = found.lag * len(found.changes)
    if longest > time:
        gone = f"relaxes in {time:.4g}" if time > 0 else "has died out within it"
        raise ValueError(
            f"These trajectories are too coarse: the longest lag is t = {longest:.4g}, and the "
            f"fastest mode {gone} (correlation below 1/e over the lag), so that an "
            f"expansion in the lag means nothing. Record more often, lower lag or num_lags{advice}."
        )


def _rectangular(name: str, given: Any) -> np.ndarray:
    """A float64 array; rows of different lengths are told by their lengths."""
    rows = given if isinstance(given, list | tuple) else []
    sizes = sorted({len(row) for row in rows if hasattr(row, "__len__")})
    if len(sizes) > 1:
        raise ValueError(
            f"{name} must have one length: the rows of this list have lengths from {sizes[0]} to "
            f"{sizes[-1]}. Cut all to the shortest, or read the equation of each length by itself."
        )
    return as_float64(name, given)


def _checked(values: np.ndarray, spacing: float) -> Trajectories:
    bad = np.asarray(~np.isfinite(values).all(axis=(0, 2)))
    if bad.any():
        member = int(np.argmax(bad))
        time = int(np.argmax(~np.isfinite(values[:, member]).all(axis=1)))
        raise ValueError(
            f"{int(bad.sum())} of {len(bad)} members have NaN or infinite entries, the first is "
            f"member {member} at record {time}. Find why they diverged; drop those members only if "
            f"the reading is meant to condition on survival."
        )
    if values.shape[1] < _LEAST_MEMBERS:
        raise ValueError(
            f"Errors come from independent members, and {values.shape[1]} are too few: at least "
            f"{_LEAST_MEMBERS} are needed. Raise ensemble_size, or cut one long stationary "
            f"trajectory into stretches of many relaxation times."
        )
    if len(values) < 2:
        raise ValueError("These trajectories are too short: one record tells nothing of changes.")
    flat = values.reshape(-1, values.shape[2])
    still = flat.max(axis=0) == flat.min(axis=0)
    if still.any():
        raise ValueError(
            f"Coordinate {int(np.argmax(still))} never moves: it has no equation. Leave it out."
        )
    return Trajectories(values, spacing)
