"""Distribution functions and quantiles on the line, and the levels of a transport integral."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy
from jaxtyping import Float

from sde_sgd._checks import as_float64, in_brief
from sde_sgd.types import RealLike

Function = Callable[[np.ndarray], np.ndarray]
_LARGEST = np.iinfo(np.int64).max


@runtime_checkable
class ScipyDistribution(Protocol):
    """A distribution of `scipy.stats`, frozen or with its standard parameters."""

    def cdf(self, x: Any) -> Any: ...

    def ppf(self, q: Any) -> Any: ...


def first_double(
    reached: Callable[[np.ndarray], np.ndarray], low: RealLike, high: RealLike
) -> Float[np.ndarray, "..."]:
    """The smallest double x in [low, high] with `reached(x)`, entrywise; `high` if there is none.

    Bisection counts doubles, of which 2⁶⁴ exist: in 64 rounds it ends at the last digit, be x
    1e−100, 1e100, or exactly an atom of a law.

    **Arguments:** `reached`: of an array x, False below some point and True from there on.
    """
    left, right = (_flipped(np.asarray(end, np.float64).view(np.int64)) for end in (low, high))
    for _ in range(64):
        middle = (left & right) + ((left ^ right) >> 1)  # their mean, without overflow
        yes = np.asarray(reached(_flipped(middle).view(np.float64)))
        left, right = np.where(yes, left, middle), np.where(yes, middle, right)
    return _flipped(right).view(np.float64)


def _flipped(bits: np.ndarray | np.int64) -> np.ndarray:
    """The bits of doubles as integers in the order of the doubles, and back: negative ones turn."""
    return np.asarray(bits ^ ((bits >> 63) & _LARGEST))


def normal_levels(
    nodes: int, reach: float
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Levels u = Φ(z) of equal steps in z ∈ [−reach, reach], and weights of ∫ du that add up to 1.

    The trapezoid rule in z, of high order for smooth integrands as the weight ends in zeros.
    """
    z = np.linspace(-reach, reach, nodes)
    weights = np.exp(-(z**2) / 2)
    return scipy.special.ndtr(z), weights / weights.sum()


def is_law(value: Any) -> bool:
    """Whether it is a law on which a comparison can be based: of theory, of scipy, or a cdf."""
    # The laws come in with the first question to them, and not with the package.
    from sde_sgd.theory.laws.law import AbstractLaw

    is_function = callable(value) and not isinstance(value, type)
    return isinstance(value, AbstractLaw | ScipyDistribution) or is_function


def cdf_function(law: Any, called: str = "law") -> Function:
    """F of an `AbstractLaw`, of a distribution of scipy, or F itself, checked on every call."""
    _check_law(law, called)
    # A distribution of scipy can be called too: that freezes it.
    of_scipy = isinstance(law, ScipyDistribution)
    function: Any = law if callable(law) and not of_scipy else law.cdf

    def cdf(points) -> np.ndarray:
        points = np.asarray(points, dtype=float)
        heights = as_float64(f"cdf(x) of {called}", function(points))
        if heights.shape != points.shape:
            raise ValueError(
                f"The cdf of {called} must work on arrays: of {points.shape} it gives "
                f"{heights.shape}. Wrap it in numpy.vectorize."
            )
        outside = ~((heights >= -1e-9) & (heights <= 1 + 1e-9))
        if outside.any():
            raise ValueError(
                f"The cdf of {called} leaves [0, 1] or is NaN at {points[outside][0]}."
            )
        return np.asarray(np.clip(heights, 0, 1))

    return cdf


def quantile_function(law: Any, called: str = "law") -> Function:
    """Q of an `AbstractLaw`, of a distribution of scipy, or of a cdf as a function."""
    _check_law(law, called)
    if isinstance(law, ScipyDistribution):
        return law.ppf
    if callable(law):
        return lambda levels: inverse(cdf_function(law, called), levels, -1.0, 1.0)
    return law.quantile


def _check_law(law: Any, called: str) -> None:
    if not is_law(law):
        raise ValueError(
            f"{called} must be a law on the line, of ss.theory or scipy.stats, or its cdf as a "
            f"function of an array; got {in_brief(law)}. Samples are compared by ss.distances."
        )


def inverse(
    cdf: Function, levels: Float[np.ndarray, " n"], low: float, high: float
) -> Float[np.ndarray, " n"]:
    """x with F(x) = level, levels increasing, sought from [low, high] outwards.

    **Raises:** `ValueError` where F does not run from 0 to 1.
    """
    span = max(high - low, 1e-12 * max(abs(low), abs(high)), 1e-300)
    low, high = low - span, high + span
    for _ in range(60):
        if cdf(np.array([low]))[0] <= levels[0]:
            break
        low -= 2 * (high - low)
    for _ in range(60):
        if cdf(np.array([high]))[0] >= levels[-1]:
            break
        high += 2 * (high - low)
    ends = cdf(np.array([low, high]))
    if ends[0] > max(levels[0], 1e-3) or ends[1] < min(levels[-1], 1 - 1e-3):
        raise ValueError(
            f"The predicted cdf must run from 0 to 1: it is {ends[0]:.4g} at {low:.4g} and "
            f"{ends[1]:.4g} at {high:.4g}."
        )
    return first_double(lambda x: cdf(x) >= levels, low, high)
