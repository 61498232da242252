"""Moments 1 to 4 of one-dimensional least squares by exact closure: SGD, and its SDEs.

Losses ℓ_i = ½(x_iθ − y_i)² + (λ/2)θ². Every example gradient is linear in θ, so the n-th moment
after a step is a combination of the moments up to n before it, and nothing is cut off:

- SGD, θ ← θ − ηĝ: through the exact moments of a batch mean, drawn with or without replacement;
- Euler's scheme of the modified equation at step h, θ ← θ + hb(θ) + √(hηcΣ(θ)) ξ, which for
  order 1 at h = η is Gaussian SGD;
- the modified equation itself, dE θⁿ/dt = E[nθ^{n−1} b + ½n(n−1)θ^{n−2} ηcΣ].

b = −∇L for order 1 and −∇(L + (η/4)|∇L|²) for order 2 (Li, Tai, E 2019). Weak errors of both
orders follow without any sampling error, down to rounding.
"""

from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial import polynomial as poly
from numpy.typing import ArrayLike
from scipy.linalg import expm

from sde_sgd._checks import check_at_least, check_number, check_whole
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike


class ScalarMoments(NamedTuple):
    """Moments of θ, one row per time (no time axis for the stationary law).

    **Fields:** `raw`: E θⁿ, n = 1, …; `central`: E(θ − E θ)ⁿ, whose first is 0; (..., n).
    """

    raw: Float[np.ndarray, "... n"]
    central: Float[np.ndarray, "... n"]

    @property
    def mean(self) -> Float[np.ndarray, "..."]:
        """E θ."""
        return np.asarray(self.raw[..., 0])

    @property
    def variance(self) -> Float[np.ndarray, "..."]:
        """E(θ − E θ)²."""
        return np.asarray(self.central[..., 1])


def transient_scalar_moments(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    batch_size: int,
    times: ArrayLike,
    theta0: RealLike,
    replacement: bool = True,
    time_step: RealLike | None = None,
    order: int = 1,
    l2: RealLike = 0.0,
    max_moment: int = 4,
) -> ScalarMoments:
    """E θⁿ, n ≤ `max_moment`, at `times`, from the deterministic start `theta0`.

    **Arguments:**

    - `inputs`, `targets`: x_i and y_i, (N,).
    - `learning_rate`: η; `batch_size`: B; `replacement`: with replacement, or a fresh subset.
    - `times`: (T,), t = η·iterations; multiples of η for SGD, of `time_step` for Euler.
    - `time_step`: None for SGD itself; h > 0 for Euler's scheme; 0 for the modified equation.
    - `order`: 1 or 2, of the modified equation.
    - `l2`: λ ≥ 0, in every example loss.

    **Returns:** `ScalarMoments`, arrays (T, max_moment).

    **Raises:** `ValueError` for bad shapes and numbers, times between two steps, and order 2 of
    SGD.
    """
    closed = _Closure.of(inputs, targets, l2, batch_size, replacement, learning_rate, max_moment)
    clock = _arguments.times(times)
    start = check_number("theta0", theta0) - closed.minimum
    eta, h = closed.rate, _time_step(time_step, order)
    system = closed.system(h, order)
    powers = start ** np.arange(max_moment + 1)
    if h == 0:
        rows = [expm(t * system) @ powers for t in clock]
    else:
        steps = _arguments.whole_steps(clock, eta if h is None else h)
        rows = [np.linalg.matrix_power(system, int(n)) @ powers for n in steps]
    return closed.moments(np.array(rows))


def stationary_scalar_moments(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    batch_size: int,
    replacement: bool = True,
    time_step: RealLike | None = None,
    order: int = 1,
    l2: RealLike = 0.0,
    max_moment: int = 4,
) -> ScalarMoments:
    """E θⁿ, n ≤ `max_moment`, of the stationary law.

    **Arguments:** as `transient_scalar_moments`.

    **Returns:** `ScalarMoments`, arrays (max_moment,).

    **Raises:** `ValueError` also for a moment that does not exist. E|θ|ⁿ is finite for an even n
    where E(1 − ηX̂)ⁿ < 1; an odd moment is given where the next even one exists.
    """
    closed = _Closure.of(inputs, targets, l2, batch_size, replacement, learning_rate, max_moment)
    h = _time_step(time_step, order)
    system = closed.system(h, order, closed.count + closed.count % 2)
    discrete = h is None or h > 0
    for n in range(2, len(system), 2):
        growth = system[n, n]
        if growth >= (1 if discrete else 0):
            factor = "per step" if discrete else "per unit t"
            raise ValueError(
                f"The stationary law at learning_rate={closed.rate:g} has no moment of order {n}: "
                f"its {'factor' if discrete else 'rate'} is {growth:g} {factor}. "
                + (
                    f"Take max_moment <= {n - 2}, or a smaller learning rate."
                    if n > 2
                    else "Take a smaller learning rate or a larger batch."
                )
            )
    used = system[1 : closed.count + 1, : closed.count + 1]
    gap = (np.eye(closed.count) if discrete else 0) - used[:, 1:]
    return closed.moments(np.append(1.0, np.linalg.solve(gap, used[:, 0])))


class _Closure(NamedTuple):
    """A data set as polynomials in δ = θ − θ*, coefficients from the constant on.

    **Fields:** `rate` η; `minimum` θ*; `curvature` of L; `spread`: Σ_i(g_i − ∇L)^r/N for
    r = 0, …, 4; `num` N and `sampling` of the batches; `count`: the largest moment.
    """

    rate: float
    minimum: float
    curvature: float
    spread: tuple[np.ndarray, ...]
    num: int
    sampling: AbstractSampling
    count: int

    @staticmethod
    def of(inputs, targets, l2, batch_size, replacement, learning_rate, count) -> "_Closure":
        """From a user's arguments, checked."""
        x = _arguments.array("inputs", inputs, 1)
        y = _arguments.array("targets", targets, 1)
        if x.shape != y.shape:
            raise ValueError(f"inputs and targets must be equally many, got {x.shape}, {y.shape}.")
        eta, decay = (
            check_number("learning_rate", learning_rate, above=0),
            check_at_least("l2", l2),
        )
        sampling = _arguments.scheme(batch_size, replacement, len(x))
        count = check_whole("max_moment", count, 1, 4)
        curvature = np.mean(x**2) + decay
        if curvature <= 0:
            raise ValueError("inputs must not all be zero, unless l2 > 0: the loss is flat.")
        minimum = float(np.mean(x * y) / curvature)
        slope, offset = x**2 - np.mean(x**2), x**2 * minimum - x * y
        lines = np.stack([offset - offset.mean(), slope])  # g_i − ∇L at θ* + δ, (2, N)
        spread = tuple(_mean_power(lines, r) for r in range(5))
        return _Closure(eta, minimum, float(curvature), spread, len(x), sampling, count)

    def system(self, h: float | None, order: int, count: int | None = None) -> np.ndarray:
        """The matrix of (1, E δ, …): its map over one step, or its generator for h = 0."""
        eta, num = self.rate, self.count if count is None else count
        pull = self.curvature * (1 + (eta / 2 * self.curvature if order == 2 else 0))
        variance = eta * self.sampling.noise_factor(self.num) * self.spread[2]
        if h == 0:
            rows = [
                _sum(
                    [-n * pull * _power(n)]
                    + ([comb(n, 2) * poly.polymul(_power(n - 2), variance)] if n > 1 else [])
                )
                for n in range(num + 1)
            ]
            return _matrix(rows, num)
        if h is None:
            kicks = [(-eta) ** k * moment for k, moment in enumerate(self.batch_moments())]
            kept = np.array([0.0, 1 - eta * self.curvature])
        else:
            zero, variance = np.zeros(1), h * variance
            kicks = [np.ones(1), zero, variance, zero, 3 * poly.polymul(variance, variance)]
            kept = np.array([0.0, 1 - h * pull])
        rows = []
        for n in range(num + 1):
            terms = [
                comb(n, k) * poly.polymul(poly.polypow(kept, n - k), kicks[k]) for k in range(n + 1)
            ]
            rows.append(_sum(terms))
        return _matrix(rows, num)

    def batch_moments(self) -> list[np.ndarray]:
        """E Ŝᵏ of the mean Ŝ of a batch of centred gradients, k = 0, …, 4, polynomials in δ."""
        one, _, second, third, fourth = self.spread
        w = lambda *sizes: self.sampling.joint_factor(sizes, self.num)  # noqa: E731
        kurtic = _sum([w(4) * fourth, 3 * w(2, 2) * poly.polymul(second, second)])
        skew = self.sampling.third_factor(self.num) * third
        return [one, np.zeros(1), self.sampling.noise_factor(self.num) * second, skew, kurtic]

    def moments(self, about_minimum: np.ndarray) -> ScalarMoments:
        """From (1, E δ, …), shape (..., 1 + n)."""
        shift = np.asarray(about_minimum[..., 1])
        raw = _shifted(about_minimum, np.full(shift.shape, self.minimum))
        return ScalarMoments(raw, _shifted(about_minimum, np.asarray(-shift)))


def _mean_power(lines: np.ndarray, power: int) -> np.ndarray:
    """Coefficients of the mean of (offset_i + slope_i δ)^power."""
    offset, slope = lines
    return np.array(
        [comb(power, k) * np.mean(slope**k * offset ** (power - k)) for k in range(power + 1)]
    )


def _shifted(moments: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """E(δ + shift)ⁿ, n ≥ 1."""
    count = moments.shape[-1]
    rows = [
        sum(comb(n, k) * shift ** (n - k) * moments[..., k] for k in range(n + 1))
        for n in range(1, count)
    ]
    return np.stack(rows, axis=-1)


def _power(n: int) -> np.ndarray:
    return np.eye(n + 1)[n]


def _sum(terms: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(max(len(term) for term in terms))
    for term in terms:
        total[: len(term)] += term
    return total


def _matrix(rows: list[np.ndarray], num: int) -> np.ndarray:
    """Rows of coefficients as a lower-triangular matrix; higher ones are zero by construction."""
    matrix = np.zeros((num + 1, num + 1))
    for n, row in enumerate(rows):
        matrix[n, : min(len(row), num + 1)] = row[: num + 1]
    return matrix


def _time_step(value: RealLike | None, order: int) -> float | None:
    order = _arguments.order(order)
    if value is None and order == 2:
        raise ValueError("order=2 is of the modified equation: pass time_step (0 for the SDE).")
    return None if value is None else check_at_least("time_step", value)
