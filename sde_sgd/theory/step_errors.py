"""Errors in powers of a step: the fit of their order, and the extrapolation that takes them out.

What is measured (`ss.weak_order`, `ss.identify`) is judged by them as the predictions are.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_whole
from sde_sgd.theory import _arguments

# Of Richardson: beyond, the alternating weights lose all digits.
MOST_LAGS = 30


class OrderFit(NamedTuple):
    """|error| ≈ prefactor·η^order.

    **Fields:** `order` with its `uncertainty`, one standard deviation: that of the sampling errors
    (of the scatter about the line, without them) and the distance to the slope of the finer half,
    which shows how far the largest η are from the asymptote; `prefactor`; `local`: slopes
    between neighbours, (n − 1,), by decreasing η.
    """

    order: float
    uncertainty: float
    prefactor: float
    local: Float[np.ndarray, " pairs"]


def fit_order(
    learning_rates: ArrayLike, errors: ArrayLike, standard_errors: ArrayLike | None = None
) -> OrderFit:
    """The slope of log|error| against log η, by (weighted) least squares.

    **Arguments:** `learning_rates` η (n,), n ≥ 2, all different; `errors` (n,), any sign;
    `standard_errors` (n,) of them, which then weigh the fit.

    **Raises:** `ValueError` for fewer than two rates, an error that is 0, or one below twice its
    standard error, whose logarithm says nothing.
    """
    eta = _arguments.array("learning_rates", learning_rates, 1)
    error = np.abs(_arguments.array("errors", errors, 1))
    if len(eta) < 2 or eta.shape != error.shape or (eta <= 0).any():
        raise ValueError(
            f"fit_order needs at least 2 rates > 0 and as many errors; got {eta.tolist()} and "
            f"{error.shape} errors."
        )
    if len(np.unique(eta)) != len(eta):
        raise ValueError(f"learning_rates must all differ; got {eta.tolist()}.")
    noise = np.zeros(len(eta))
    if standard_errors is not None:
        noise = _arguments.vector("standard_errors", standard_errors, len(eta))
        if (noise < 0).any():
            raise ValueError(f"standard_errors must be >= 0, the smallest is {noise.min():g}.")
    unseen = (error == 0) | (error < 2 * noise)
    if unseen.any():
        worst = int(np.argmax(unseen))
        raise ValueError(
            f"The error at learning_rate={eta[worst]:g} is not resolved: {error[worst]:.3g} with "
            f"standard error {noise[worst]:.3g}. Take more members, larger learning rates, or the "
            f"noise-free harness."
        )
    order = np.argsort(-eta)
    x, y = np.log(eta[order]), np.log(error[order])
    spread = (noise / error)[order]
    slope, statistical, level = _line(x, y, spread)
    finer = slice(len(x) // 2, None) if len(x) > 3 else slice(None)
    drift = abs(slope - _line(x[finer], y[finer], spread[finer])[0])
    local = np.diff(y) / np.diff(x)
    return OrderFit(slope, float(np.hypot(statistical, drift)), float(np.exp(level)), local)


def extrapolation_weights(num_lags: int) -> Float[np.ndarray, " lags"]:
    """w_m = (−1)^{m+1} (K over m), m = 1…K: Σ w_m f(mτ) = f(0) + O(τ^K) (Richardson)."""
    check_whole("num_lags", num_lags, 1, MOST_LAGS)
    m = np.arange(1, num_lags + 1)
    return (-1.0) ** (m + 1) * scipy.special.comb(num_lags, m)


def _line(x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> tuple[float, float, float]:
    """Slope, its standard deviation, and intercept."""
    known = bool((spread > 0).all())
    weights = 1 / spread if known else None
    exact = len(x) == 2 and not known
    line, scatter = np.polyfit(x, y, 1, w=weights, cov="unscaled" if known or exact else True)
    return float(line[0]), 0.0 if exact else float(np.sqrt(scatter[0, 0])), float(line[1])
