"""Moments of all orders in one dimension by exact closure: SGD on quadratic losses, and its SDEs.

Every example gradient is linear in θ, so the n-th moment after a step is a combination of the
moments up to n before it, and nothing is cut off:

- SGD, θ ← θ − ηĝ: through the exact moments of a batch mean, drawn with or without replacement
  (n ≤ 4), or of fresh Gaussian examples;
- Gaussian SGD and Euler's scheme of the modified equation, θ ← θ + hb(θ) + √(hηC(θ)) ξ;
- the modified equation itself, dE θⁿ/dt = E[nθ^{n−1} b + ½n(n−1)θ^{n−2} ηC].

Weak errors of both orders follow without any sampling error, down to rounding.
"""

from math import comb
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import expm

from sde_sgd._checks import check_number, check_whole, in_brief
from sde_sgd.theory import _arguments
from sde_sgd.theory._line import Line, read_line
from sde_sgd.types import RealLike

_MOST = 100


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
    process: Any, times: ArrayLike, theta0: RealLike, *, max_moment: int = 4
) -> ScalarMoments:
    """E θⁿ, n ≤ `max_moment`, at `times`, of a process at its own step.

    **Arguments:**

    - `process`: as `stationary_scalar_moments`.
    - `times`: (T,), t = ηk in the units of `process.time`, whole solver steps unless the process
      is a limit.
    - `theta0`: the start, one number.
    - `max_moment`: n, at least 2 for a variance.

    **Returns:** `ScalarMoments`, arrays (T, max_moment).

    **Raises:** `ValueError` as `stationary_scalar_moments`, for times between two steps and for
    moments that overflow; those of unstable rates grow.
    """
    line, count = _read(process, max_moment)
    clock = _arguments.times(times)
    powers = (check_number("theta0", theta0) - line.rest) ** np.arange(count + 1)
    system, eta = line.moment_map(count), process.clock.constant
    with np.errstate(over="ignore", invalid="ignore"):
        if line.step == 0:
            rows = [expm(t / eta * system) @ powers for t in clock]
        else:
            way = "pass whole numbers of them, or take the limit of an equation, `process.limit()`"
            steps = _arguments.whole_steps(clock, line.step * eta, called="one step", way=way)
            rows = [np.linalg.matrix_power(system, int(n)) @ powers for n in steps]
    if not np.isfinite(rows).all():
        raise ValueError(
            f"The moments up to order {count} from theta0={in_brief(theta0)} overflow before "
            f"t = {clock.max():g}: take earlier times, a lower max_moment or a smaller learning "
            f"rate."
        )
    return _moments(line, np.array(rows))


def stationary_scalar_moments(process: Any, *, max_moment: int = 4) -> ScalarMoments:
    """E θⁿ, n ≤ `max_moment`, of the stationary law of a process at its own step.

        ss.theory.stationary.stationary_scalar_moments(ss.SGD(landscape, 0.1, sampling)).central

    **Arguments:**

    - `process`: on a quadratic loss with d = 1 (`LeastSquares`, `PopulationLeastSquares`,
      `quadratic`): `SGD` without momentum, of a finite sum up to n = 4; `GaussianSGD`,
      `ModifiedEquation` and `OverdampedEquation` by Euler, of both orders, and their limits.
    - `max_moment`: n, at least 2 for a variance; at most 100.

    **Returns:** `ScalarMoments`, arrays (max_moment,).

    **Raises:** `ValueError` for other processes and landscapes (`NotKnown`, with what is known) and
    for a moment that does not exist: those from `laws.tail_index(process)` on. E|θ|ⁿ is finite for
    an even n where E(1 − ηX̂)ⁿ < 1; an odd moment is given where the next even one exists.
    """
    line, count = _read(process, max_moment)
    system = line.moment_map(count + count % 2)
    discrete = line.step > 0
    for n in range(2, len(system), 2):
        growth = system[n, n]
        if growth >= (1 if discrete else 0):
            factor = "factor" if discrete else "rate"
            unit = "per step" if discrete else "per iteration"
            raise ValueError(
                f"The stationary law of {type(process).__name__} at "
                f"learning_rate={process.clock.constant:g} has no moment of order {n}, which is "
                f"infinite: its {factor} is {growth:g} {unit}. "
                + (
                    f"Take max_moment <= {n - 2}, or a smaller learning rate."
                    if n > 2
                    else "Take a smaller learning rate or a larger batch."
                )
            )
    used = system[1 : count + 1, : count + 1]
    gap = (np.eye(count) if discrete else 0) - used[:, 1:]
    return _moments(line, np.append(1.0, np.linalg.solve(gap, used[:, 0])))


def _read(process: Any, max_moment: int) -> tuple[Line, int]:
    """The step, and the number of moments, checked."""
    count = check_whole("max_moment", max_moment, 1, _MOST)
    line = read_line(process, "Moments of all orders by closure")
    return line, count


def _moments(line: Line, about_rest: np.ndarray) -> ScalarMoments:
    """From (1, E u, …), shape (..., 1 + n)."""
    shift = np.asarray(about_rest[..., 1])
    raw = _shifted(about_rest, np.full(shift.shape, line.rest))
    return ScalarMoments(raw, _shifted(about_rest, np.asarray(-shift)))


def _shifted(moments: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """E(u + shift)ⁿ, n ≥ 1."""
    count = moments.shape[-1]
    rows = [
        sum(comb(n, k) * shift ** (n - k) * moments[..., k] for k in range(n + 1))
        for n in range(1, count)
    ]
    return np.stack(rows, axis=-1)
