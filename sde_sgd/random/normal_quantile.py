"""Normal numbers from uniform ones in float64: √2·erf⁻¹ by Chebyshev series.

`lax.erf_inv` takes most of a cheap float64 step on the CPU and a good part of its compilation, and
in the tails it is right to 1e-10 only (jax 0.10). With 1 − x² = e^{−w}, √2·erf⁻¹(x)/x is a smooth
function of w near the middle and of √w in the tails (the variables of Giles 2011, "Approximating
the erfinv function"). Its series are computed from SciPy's functions at the first draw.
On the CPU a number takes a third of the time.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

_SPLIT = 2.5
# √w at the x nearest to ±1 in float64 is 6.004.
_LAST = 6.02


def _ratio(w: np.ndarray) -> np.ndarray:
    """√2·erf⁻¹(x)/x at 1 − x² = e^{−w}, w > 0."""
    x = np.sqrt(-np.expm1(-w))
    rest = np.exp(-w) / (1 + x)
    return np.sqrt(2) * np.where(x < 0.5, scipy.special.erfinv(x), scipy.special.erfcinv(rest)) / x


def _series(function: Callable, low: float, high: float, degree: int) -> np.ndarray:
    """Chebyshev coefficients of a function on [low, high], from 64 points.

    By hand, as `numpy.polynomial.Chebyshev.interpolate` loses a digit to its cosines.
    """
    odd = 2 * np.arange(64) + 1
    cosine = np.cos(np.pi * np.arange(256) / 128)
    values = function(low + (high - low) * (cosine[odd] + 1) / 2)
    series = cosine[np.outer(np.arange(degree + 1), odd) % 256] @ values / 32
    series[0] /= 2
    return series


@functools.cache
def _both() -> tuple[np.ndarray, np.ndarray]:
    """The series of the middle, in w, and of the tails, in √w.

    Beyond these degrees the coefficients are rounding; a test takes four off and sees it.
    """
    middle = _series(_ratio, 0.0, _SPLIT**2, 23)
    return middle, _series(lambda s: _ratio(s**2), _SPLIT, _LAST, 27)


def _evaluate(series: np.ndarray, argument: Array, low: float, high: float) -> Array:
    """Σ c_k T_k(t) by Clenshaw's recurrence, t from −1 at `low` to 1 at `high`."""
    t = (argument - low) * (2 / (high - low)) - 1
    first, second = jnp.full_like(t, series[-1]), jnp.zeros_like(t)
    for coefficient in series[-2:0:-1]:
        first, second = coefficient + 2 * t * first - second, first
    return series[0] + t * first - second


@functools.partial(jax.jit, inline=True)
def normal_quantile(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """√2·erf⁻¹(x), the standard normal number whose symmetric uniform number is x, |x| < 1.

    To 2e-15 relative in float64 (`tests/random/test_draws.py`).
    """
    w = jnp.abs(jnp.log((1 - x) * (1 + x)))
    in_middle, in_tail = _both()
    middle = _evaluate(in_middle, w, 0.0, _SPLIT**2)
    tail = _evaluate(in_tail, jnp.sqrt(w), _SPLIT, _LAST)
    return x * jnp.where(w < _SPLIT**2, middle, tail)
