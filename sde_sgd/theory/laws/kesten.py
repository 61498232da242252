"""Power-law tails of one-dimensional least squares, where the noise multiplies the weight.

With losses ½(xθ − y)² a step is w ← (1 − ηX̂)w + η ε̂ for w = θ − θ*, X̂ the batch mean of x².
Where |1 − ηX̂| > 1 can happen, Kesten's theorem gives the stationary law a power tail,

    P(|w| > r) ~ r^{−β} ,    E|1 − ηX̂|^β = 1 ,   β > 0 ,

so that P(|w| > 2r)/P(|w| > r) → 2^{−β} and E|w|^q is finite for q < β only. For online least
squares with x ~ N(0, a), X̂ = (a/B)χ²_B, and β depends on ηa and B. Others have other tails:

- the Itô SDE with the same covariance, C = (2a²w² + aσ²)/B: β = 1 + B/(ηa), and Euler's scheme for
  it at step h the root for the multiplier N(1 − ha, 2hηa²/B);
- the published 2B/(ηa) − B, from a moment closure.

As η → 0, βηa/B → 1.7956, the root κ of κ log 2κ = κ + ½ (SGD), 1 (SDE), 2 (published): the SDE
never has SGD's tail, whatever the learning rate.

Source: Kesten 1973; Gürbüzbalaban, Şimşekli, Zhu 2021, "The heavy-tail phenomenon in SGD".
"""

from collections.abc import Callable
from math import lgamma, log
from typing import Any

import numpy as np
from scipy.optimize import brentq

from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory._line import BatchLine, GaussianLine, PopulationLine, read_line

MAX_BATCHES = 1_000_000
# Tanh–sinh quadrature on (−1, 1).
_STEPS = np.linspace(-3.5, 3.5, 281)
_NODES = np.tanh(np.pi / 2 * np.sinh(_STEPS))
_WEIGHTS = (
    np.pi
    / 2
    * (_STEPS[1] - _STEPS[0])
    * np.cosh(_STEPS)
    / np.cosh(np.pi / 2 * np.sinh(_STEPS)) ** 2
)


def tail_index(process: Any) -> float:
    """β of the stationary law of least squares in one dimension, P(|w| > r) ~ r^{−β}.

        beta = ss.theory.laws.tail_index(ss.SGD(landscape, 0.5, ss.WithReplacement(4)))

    SGD and Gaussian steps: E|M|^β = 1 of the multiplier M of w in a step; the limit of an equation
    with drift −bw and diffusion D ~ cw² in t: β = 1 + b/c.

    **Arguments:**

    - `process`: `SGD` without momentum, under independent batches; `GaussianSGD`,
      `ModifiedEquation` and `OverdampedEquation` by Euler, of both orders, at their step; and
      limits. On `LeastSquares` or another quadratic finite sum, up to 10⁶ different batches, or on
      `PopulationLeastSquares`; d = 1.

    **Returns:** β; inf where the law has no power tail: where no batch expands, |1 − η(X̂ + λ)| ≤ 1,
    where the noise does not depend on w, and where all of it vanishes at one w, at which the
    process then ends.

    **Raises:** `ValueError` where E log|M| ≥ 0, without a stationary law, and for too many batches;
    `NotKnown` for other processes and landscapes, with what is known. Of an equation with any
    drift and diffusion, `stationary_density(...).tail_index`.
    """
    line = read_line(process, "Kesten's tail index")
    text = f"learning_rate={process.clock.constant:g}"
    if isinstance(line, GaussianLine):
        beta = _gaussian_index(line, text)
    elif isinstance(line, PopulationLine):
        scale = line.rate * line.feature_variance / line.batch_size
        text = f"{text}, batch_size={line.batch_size}"
        beta = _root(_chi_square_log_moment(scale, line.batch_size), text)
    else:
        beta = _batch_index(line, f"{text}, batch_size={line.sampling.batch_size}")
    return np.inf if line.still else beta


def tail_index_published(process: Any) -> float:
    """2B/(ηa) − B of `SGD` on `PopulationLeastSquares`, d = 1: published, inexact, to compare.

    **Raises:** `NotKnown` for another process or landscape, which the formula does not know.
    """
    line = read_line(process, "The published tail index")
    if not isinstance(line, PopulationLine):
        raise NotKnown(
            f"The published tail index is that of SGD on PopulationLeastSquares, not of "
            f"{type(process).__name__} on {type(process.landscape).__name__}: "
            f"theory.laws.tail_index(process) has the exact one."
        )
    return 2 * line.batch_size / (line.rate * line.feature_variance) - line.batch_size


def tail_index_limit() -> float:
    """lim βηa/B as η → 0 for SGD on `PopulationLeastSquares`: κ = 1.7956…, κ log 2κ = κ + ½.

    The moment E|1 − sχ²_B|^{κ/s} at s = ηa/B → 0 is e^{(κ log 2κ − κ − ½)/s} from the batches in
    which χ² ≈ (1 + 2κ)/s, and far below 1 from all others.
    """
    return _zero(lambda k: k * log(2 * k) - k - 0.5, 0.6, 5.0)


def _gaussian_index(line: GaussianLine, text: str) -> float:
    """β for the multiplier N(F, v), v = lim V(w)/w²; of a limit 1 − 2F/v."""
    mean, spread = line.transition, float(line.variance[2])
    rounding = 4 * np.finfo(float).eps
    if spread == 0:
        if not (mean < 0 if line.step == 0 else abs(mean) < 1 - rounding):
            raise ValueError(f"No stationary law at {text}: the steps do not contract.")
        return np.inf
    if line.step == 0:
        return 1 - 2 * mean / spread
    return _root(_normal_log_moment(mean, float(np.sqrt(spread))), text)


def _batch_index(line: BatchLine, text: str) -> float:
    """β for the multipliers of all batches of a finite sum."""
    slopes = line.curvature + line.deviations[1]
    batches, chances = line.sampling.batches(len(slopes), MAX_BATCHES)
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(1 - line.rate * slopes[batches].mean(axis=1)))
    if logs.max() <= 1e-15:
        if logs.min() > -1e-15:
            raise ValueError(f"No stationary law at {text}: no step contracts.")
        return np.inf

    def log_moment(power: float) -> float:
        exponents = power * logs
        top = exponents.max()
        return float(top + np.log(np.sum(chances * np.exp(exponents - top))))

    return _root(log_moment, text, float(np.sum(chances * logs)))


def _chi_square_log_moment(s: float, batch: int) -> Callable[[float], float]:
    """q ↦ log E|1 − sχ²_B|^q, by quadrature over r = √χ²."""
    normaliser = (1 - batch / 2) * log(2) - lgamma(batch / 2)

    def log_density(r):
        return normaliser + (batch - 1) * np.log(r) - r**2 / 2

    return lambda q: _log_integral(lambda r: np.abs(1 - s * r**2), log_density, q, s**-0.5, batch)


def _normal_log_moment(mean: float, deviation: float) -> Callable[[float], float]:
    """q ↦ log E|mean + deviation·ξ|^q, ξ standard normal, as both halves of the line."""

    def both(q: float) -> float:
        halves = []
        for sign in (1, -1):
            zero = -sign * mean / deviation
            halves.append(
                _log_integral(
                    lambda r, sign=sign: np.abs(mean + sign * deviation * r),
                    lambda r: -0.5 * log(2 * np.pi) - r**2 / 2,
                    q,
                    max(zero, 0.0),
                    1,
                )
            )
        return float(np.logaddexp(*halves))

    return both


def _log_integral(factor, log_density, power: float, zero: float, batch: int) -> float:
    """log ∫_0^∞ factor(r)^power e^{log_density(r)} dr, the factor zero at `zero` ≥ 0."""

    def log_integrand(r):
        with np.errstate(divide="ignore"):
            return power * np.log(factor(r)) + log_density(r)

    # The exponent is concave on both sides of the zero, with curvature at least 1.
    peak = np.sqrt(batch + 2 * power + 1)
    grid = np.linspace(0, max(peak, zero) + 12, 2001)[1:]
    rough = log_integrand(grid)
    top, largest = float(rough.max()), grid[np.argmax(rough)]
    low, high = np.sqrt(max(batch - 1, 0)), max(zero, peak) + 40
    cuts = np.unique(np.clip([0.0, zero, low, largest, peak, largest + 10, high], 0, high))
    half = np.diff(cuts)[:, None] / 2
    # Doubly exponential towards both ends, where |·|^power and r^{B−1} are not smooth.
    places = np.maximum(cuts[:-1, None] + half * (1 + _NODES), 1e-300)
    return top + float(np.log(np.sum(half * _WEIGHTS * np.exp(log_integrand(places) - top))))


def _root(log_moment: Callable[[float], float], text: str, drift: float | None = None) -> float:
    """The q > 0 with log E|·|^q = 0, convex and 0 at q = 0, if it falls there at all."""
    small = 1e-4
    falls = log_moment(small) < 0 if drift is None else drift < 0
    if not falls:
        raise ValueError(
            f"No stationary law at {text}: E log|1 - eta X| >= 0, so that steps expand on average. "
            f"Take a smaller learning rate or a larger batch."
        )
    high = 1.0
    while log_moment(high) <= 0:
        high *= 2
        if high > 1e7:
            raise ValueError(f"The tail index at {text} is above 1e7: in practice, no power tail.")
    low = high / 2
    while not log_moment(low) < 0:
        low /= 2
        if low < 1e-12:
            raise ValueError(
                f"The tail index at {text} is below 1e-12 or lost to rounding: take another "
                f"learning rate or batch size."
            )
    return _zero(log_moment, low, high)


def _zero(function: Callable[[float], float], low: float, high: float) -> float:
    root: Any = brentq(function, low, high, xtol=1e-12, rtol=np.float64(1e-12))
    return float(root)
