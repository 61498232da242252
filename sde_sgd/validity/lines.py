"""Where a verdict would change: predicted D along lines of runs, and the part of each that passes.

All runs are compared at the same time t = ηK, on the local model of one run.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.validity.cumulants import with_batch
from sde_sgd.validity.local_model import Settings
from sde_sgd.validity.rule import largest, State, View, watch

# No line is followed to runs of more iterations than this.
_MOST_STEPS = 200_000
# Learning rates differ by 1 % where a line passes and where it does not.
_CLOSE = 0.01
_POINTS = 13
# Beyond this D the laws have nothing in common, and how far beyond says nothing.
_FAR = 10.0


class Predictor(NamedTuple):
    """D of any η, B and K, with its error.

    **Fields:** `view`, of the whole sample; `paths`, with each explored path left out; `groups`,
    with each group of the examined examples left out, of all if empty; `left`, the share 1 − n/N
    of the examples that were not examined.
    """

    view: View
    paths: list[View]
    groups: list[View]
    left: float

    def distance(self, settings: Settings, sampling: AbstractSampling) -> tuple[float, float]:
        """Largest D over the directions, and its jackknife error over paths and examples."""
        value = self._largest(self.view, settings, sampling)
        if len(self.paths) < 2:
            return value, float("inf")
        if not np.isfinite(value):
            return value, 0.0
        square = self._spread(self.paths, settings, sampling)
        if self.groups:
            square += self.left * self._spread(self.groups, settings, sampling)
        return value, value * float(np.sqrt(square))

    def _largest(self, view: View, settings: Settings, sampling: AbstractSampling) -> float:
        return largest(watch(view, settings, sampling)).shares.distance

    def _spread(self, views: list[View], settings: Settings, sampling: AbstractSampling) -> float:
        """Of log D, squared."""
        values = np.array([self._largest(view, settings, sampling) for view in views])
        return float((len(values) - 1) * np.log(np.clip(values, 1e-300, _FAR)).var())


class Line(NamedTuple):
    """Predicted D along a line of runs through this one.

    **Fields:** `values` (n,), rising: learning rates, batch sizes or κ; `distances` and `errors`
    (n,) of D; `low` and `high`: the ends of the run of passing values that holds this run, or,
    where this run does not pass, of the nearest such run; NaN where no value passes. Between its
    ends every value looked at passes by two errors, and the next one outside does not, or there is
    none: an end may be that of the line.
    """

    values: Float[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    low: float
    high: float

    def states(self, tolerance: float) -> list[State]:
        """Passes, fails, or cannot be decided from the sample, for each value."""
        pairs = zip(self.distances, self.errors, strict=True)
        return [State.of(float(d), float(e), tolerance) for d, e in pairs]

    def without_ends(self) -> "Line":
        """The same curve where its prediction is known not to hold: no part of it passes."""
        return self._replace(low=float("nan"), high=float("nan"))

    def undecided(self, tolerance: float) -> tuple[float, float]:
        """Lowest and highest value that cannot be decided; NaN where every one can."""
        open_ = np.array([state is State.UNDECIDED for state in self.states(tolerance)])
        values = self.values[open_]
        return (float(values.min()), float(values.max())) if len(values) else (np.nan, np.nan)


def along_learning_rates(
    predictor: Predictor,
    settings: Settings,
    sampling: AbstractSampling,
    tolerance: float,
    stable: float,
) -> Line:
    """η at the batch size of the run, K falling as it rises; up to `stable`, where steps overshoot.

    Values have three digits, so that the one that is proposed is the one that was judged.
    """
    eta = settings.learning_rate
    least = max(eta / 256, eta * settings.num_steps / _MOST_STEPS)
    most = min(64 * eta, 0.98 * stable, eta * settings.num_steps)
    powers = 2.0 ** np.arange(-8, 7)
    grid = {eta, *(_digits(eta * p) for p in powers if least <= eta * p <= most)}

    def at(rate: float) -> tuple[float, float]:
        return predictor.distance(at_equal_time(settings, rate), sampling)

    def between(low: float, high: float) -> float | None:
        middle = _digits(float(np.sqrt(low * high)))
        return middle if low < middle < high and high > (1 + _CLOSE) * low else None

    return _follow(at, sorted(grid), eta, between, tolerance)


def along_batch_sizes(
    predictor: Predictor, settings: Settings, sampling: AbstractSampling, tolerance: float
) -> Line:
    """Whole B from one example to all N, at the learning rate of the run."""
    grid = _sizes(1, predictor.view.num_examples, sampling.batch_size)

    def at(batch: float) -> tuple[float, float]:
        return _with_noise(predictor, settings, sampling, int(batch))

    return _follow(at, grid, float(sampling.batch_size), _whole_between, tolerance)


def along_linear_scaling(
    predictor: Predictor, settings: Settings, sampling: AbstractSampling, tolerance: float
) -> Line:
    """Linear scaling η → κη, B → κB: κ = b/B for whole b from one example to all N."""
    size, num = sampling.batch_size, predictor.view.num_examples
    least = min(size, max(1, int(np.ceil(size * settings.num_steps / _MOST_STEPS))))

    def at(batch: float) -> tuple[float, float]:
        scaled = at_equal_time(settings, settings.learning_rate * batch / size)
        return _with_noise(predictor, scaled, sampling, int(batch))

    line = _follow(at, _sizes(least, num, size), float(size), _whole_between, tolerance)
    return Line(line.values / size, *line[1:3], line.low / size, line.high / size)


def at_equal_time(settings: Settings, learning_rate: float) -> Settings:
    """The run of another learning rate after the same t = ηK."""
    steps = max(1, round(settings.num_steps * settings.learning_rate / learning_rate))
    return settings._replace(learning_rate=learning_rate, num_steps=steps)


def _with_noise(
    predictor: Predictor, settings: Settings, sampling: AbstractSampling, batch: int
) -> tuple[float, float]:
    """D at another B; inf where its batches have no noise, and so no SDE."""
    scheme = with_batch(sampling, batch)
    factor = scheme.noise_factor(predictor.view.num_examples)
    if factor == 0:
        return float("inf"), 0.0
    return predictor.distance(settings._replace(noise_factor=factor), scheme)


def _sizes(least: int, most: int, own: int) -> list[float]:
    grid = np.rint(np.geomspace(least, most, _POINTS)).astype(int)
    return [float(b) for b in np.unique([*grid, own])]


def _whole_between(low: float, high: float) -> float | None:
    return float((low + high) // 2) if high - low > 1 else None


def _follow(
    at: Callable[[float], tuple[float, float]],
    grid: list[float],
    own: float,
    between: Callable[[float, float], float | None],
    tolerance: float,
) -> Line:
    """D on a grid, and by bisection at the ends of the passing run that holds `own`, or is nearest.

    `between` gives a value between two, None where they are close enough.
    """
    known = {value: at(value) for value in grid}

    def passes(value: float) -> bool:
        if value not in known:
            known[value] = at(value)
        return State.of(*known[value], tolerance) is State.PASSES

    good = [value for value in grid if passes(value)]
    low = high = float("nan")
    if good:
        low = high = min(good, key=lambda value: abs(np.log(value / own)))
        low = _end(low, [value for value in reversed(grid) if value < low], passes, between)
        high = _end(high, [value for value in grid if value > high], passes, between)
    values = np.array(sorted(known))
    distances, errors = np.array([known[value] for value in values]).T
    return Line(values, distances, errors, low, high)


def _end(start: float, others: list[float], passes, between) -> float:
    """Last passing value from `start` on through `others`, found by bisection behind the grid."""
    inside, outside = start, None
    for value in others:
        if not passes(value):
            outside = value
            break
        inside = value
    while outside is not None:
        middle = between(min(inside, outside), max(inside, outside))
        if middle is None:
            break
        inside, outside = (middle, outside) if passes(middle) else (inside, middle)
    return inside


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
