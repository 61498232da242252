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
from math import comb, lgamma, log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from sde_sgd._checks import check_at_least, check_number, check_whole, in_brief
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

MAX_BATCHES = 1_000_000
# Beyond, binomial coefficients leave the range of float64.
_MOST_ORDER = 500
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


def tail_index_online_least_squares(
    *,
    learning_rate: RealLike,
    batch_size: int,
    feature_variance: RealLike = 1.0,
    time_step: RealLike | None = None,
) -> float:
    """β of online least squares, d = 1, fresh features x ~ N(0, a) in every batch.

    **Arguments:**

    - `learning_rate`: η; `batch_size`: B ≥ 1; `feature_variance`: a.
    - `time_step`: None for SGD; 0 for the matched SDE, 1 + B/(ηa); h > 0 for its Euler scheme.

    **Raises:** `ValueError` for bad numbers, and where E log|1 − ηX̂| ≥ 0: no stationary law.
    """
    eta = check_number("learning_rate", learning_rate, above=0)
    batch = _arguments.batch_size(batch_size)
    a = check_number("feature_variance", feature_variance, 0, _arguments.LARGE)
    if time_step is None:
        log_moment = _chi_square_log_moment(eta * a / batch, batch)
    else:
        h = check_at_least("time_step", time_step)
        if h == 0:
            return 1 + batch / (eta * a)
        log_moment = _normal_log_moment(1 - h * a, float(np.sqrt(2 * h * eta * a**2 / batch)))
    return _root(log_moment, f"learning_rate={eta:g}, batch_size={batch}")


def tail_index_published(
    *, learning_rate: RealLike, batch_size: int, feature_variance: RealLike = 1.0
) -> float:
    """2B/(ηa) − B: a published tail index of SGD, inexact; for comparison."""
    eta = check_number("learning_rate", learning_rate, above=0)
    a = check_number("feature_variance", feature_variance, 0, _arguments.LARGE)
    batch = _arguments.batch_size(batch_size)
    return 2 * batch / (eta * a) - batch


def tail_index_limit() -> float:
    """lim βηa/B as η → 0 for SGD: κ = 1.7956…, the root of κ log 2κ = κ + ½.

    The moment E|1 − sχ²_B|^{κ/s} at s = ηa/B → 0 is e^{(κ log 2κ − κ − ½)/s} from the batches in
    which χ² ≈ (1 + 2κ)/s, and far below 1 from all others.
    """
    return _zero(lambda k: k * log(2 * k) - k - 0.5, 0.6, 5.0)


def tail_index_finite_sum(
    inputs: ArrayLike,
    *,
    learning_rate: RealLike,
    batch_size: int,
    replacement: bool = True,
    l2: RealLike = 0.0,
) -> float:
    """β of least squares on a finite data set in one dimension, over all batches.

    **Arguments:** `inputs`: x_i, (N,); `learning_rate`: η; `batch_size`: B; `replacement`: whether
    the batch is drawn with replacement or as a fresh subset; `l2`: λ ≥ 0.

    **Returns:** β, or inf where no batch has |1 − η(X̂ + λ)| > 1: the law then has no power tail
    (it is bounded unless |1 − η(X̂ + λ)| = 1 can happen).

    **Raises:** `ValueError` for more than 10⁶ different batches, and without a stationary law.
    """
    x = _arguments.array("inputs", inputs, 1)
    eta = check_number("learning_rate", learning_rate, above=0)
    decay = check_at_least("l2", l2)
    sampling = _arguments.scheme(batch_size, replacement, len(x))
    batches, chances = sampling.batches(len(x), MAX_BATCHES)
    means = (x**2)[batches].mean(axis=1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(1 - eta * (means + decay)))
    text = f"learning_rate={eta:g}, batch_size={batch_size}"
    if logs.max() <= 1e-15:
        if logs.min() > -1e-15:
            raise ValueError(f"No stationary law at {text}: no step contracts.")
        return np.inf

    def log_moment(power: float) -> float:
        exponents = power * logs
        top = exponents.max()
        return float(top + np.log(np.sum(chances * np.exp(exponents - top))))

    return _root(log_moment, text, float(np.sum(chances * logs)))


def moment_online_least_squares(
    order: int,
    *,
    learning_rate: RealLike,
    batch_size: int,
    feature_variance: RealLike = 1.0,
    label_noise: RealLike = 1.0,
    time_step: RealLike | None = None,
) -> float:
    """E wⁿ of online least squares for even n, by exact closure; labels have noise N(0, σ²).

    SGD: E w'^{2n} = Σ_k (2n over 2k) (2k−1)!! (η²σ²/B)^k E[X̂^k (1 − ηX̂)^{2n−2k}] E w^{2n−2k}.
    SDE (h = 0): (2n − 1)(ησ²/2B) E w^{2n−2} / (1 − (2n − 1)ηa/B) = E w^{2n}.

    **Arguments:** as `tail_index_online_least_squares`; `order`: n ≥ 0 even; `label_noise`: σ;
    `time_step`: None for SGD or 0 for the SDE.

    **Raises:** `ValueError` for n at or above the tail index: that moment is infinite.
    """
    if check_whole("order", order, 0, _MOST_ORDER) % 2:
        raise ValueError(f"order must be even (odd moments are 0), got {order}.")
    if time_step is not None and check_at_least("time_step", time_step) != 0:
        raise ValueError(f"time_step must be None (SGD) or 0 (SDE), got {in_brief(time_step)}.")
    eta, batch = (
        check_number("learning_rate", learning_rate, above=0),
        _arguments.batch_size(batch_size),
    )
    a = check_number("feature_variance", feature_variance, 0, _arguments.LARGE)
    sigma = _arguments.label_noise(label_noise)
    beta = tail_index_online_least_squares(
        learning_rate=eta, batch_size=batch, feature_variance=a, time_step=time_step
    )
    if order >= beta * (1 - 1e-9):
        raise ValueError(
            f"E w^{order} is infinite: P(|w| > r) falls as r^-{beta:.6g}. Take an order below "
            f"that, a quantile, or a bounded function."
        )
    moments = [1.0]
    for n in range(1, order // 2 + 1):
        if time_step is not None:
            gain = (2 * n - 1) * eta / batch
            moments.append(gain * sigma**2 / 2 * moments[-1] / (1 - gain * a))
            continue
        terms = [_closure(n, k, eta, batch, a, sigma) for k in range(n + 1)]
        inflow = sum(terms[k] * moments[n - k] for k in range(1, n + 1))
        moments.append(inflow / (1 - terms[0]))
    return moments[-1]


def _closure(n: int, k: int, eta: float, batch: int, a: float, sigma: float) -> float:
    """(2n over 2k) (2k−1)!! (η²σ²/B)^k E[X̂^k (1 − ηX̂)^{2n−2k}], X̂ = (a/B)χ²_B."""
    double_factorial = float(np.prod(np.arange(2 * k - 1, 0, -2, dtype=float)))
    rest, total = 2 * n - 2 * k, 0.0
    for j in range(rest + 1):
        # E (χ²_B)^m = B(B + 2)…(B + 2m − 2)
        rising = float(np.prod(batch + 2 * np.arange(k + j, dtype=float)))
        total += comb(rest, j) * (-eta) ** j * (a / batch) ** (k + j) * rising
    return comb(2 * n, 2 * k) * double_factorial * (eta**2 * sigma**2 / batch) ** k * total


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
