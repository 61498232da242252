"""Verdict rows that several experiments make in the same way."""

import dataclasses
from typing import Any

import numpy as np

import sde_sgd as ss


def row(
    measured: ss.Estimate,
    predicted,
    *,
    name: str,
    process: str,
    expected: str = "agree",
    precision: float | None = None,
    resolution: float | None = None,
    scale=None,
) -> ss.Comparison:
    """`ss.compare`, "inconclusive" where a value agrees with a larger error than it may have.

    `precision` is the largest standard error of an agreeing row, relative to `scale` (the trace of
    a matrix, say; the prediction itself if None); `resolution` the smallest difference that
    matters, as in `ss.compare`.
    """
    made = ss.compare(
        measured, predicted, name=name, process=process, expected=expected, resolution=resolution
    )
    if precision is None or made.verdict != "agrees":
        return made
    whole = np.abs(predicted if scale is None else scale)
    error = float(np.max(measured.standard_error / whole))
    if error <= precision:
        return made
    reason = f"standard error {error:.2%}, above {precision:.2%}"
    return dataclasses.replace(
        made, verdict="inconclusive", severity=made.severity + 1, reason=reason
    )


def scalar(value, error, num_samples: int) -> ss.Estimate:
    """An Estimate of one number."""
    return ss.Estimate(np.asarray(float(value)), np.asarray(float(error)), num_samples)


def spread(values: np.ndarray) -> ss.Estimate:
    """Standard deviation over members, its error by that of the variance."""
    square = ss.Estimate.of_variance(np.zeros(len(values)), (values - values.mean()) ** 2)
    size = np.sqrt(square.value)
    return scalar(size, square.standard_error / (2 * size), len(values))


def spread_row(
    samples: list[np.ndarray], spreads: list[float], factor: float, **options: Any
) -> ss.Comparison:
    """Spreads of normal values against `factor` times the predicted σ_e, pooled over ensembles.

    X = Σ_e (n_e − 1)s_e²/σ_e² is factor² χ² with ν = Σ(n_e − 1) degrees of freedom, and (X/ν)^{1/3}
    normal with mean factor^{2/3}(1 − 2/9ν) and deviation factor^{2/3}√(2/9ν) (Wilson, Hilferty
    1931). An error from the same few members would be small where the spread is: at 32 of them a
    hundred times the false alarms.
    """
    freedom = sum(len(x) - 1 for x in samples)
    squares = [
        ((x - x.mean()) ** 2).sum() / own**2 for x, own in zip(samples, spreads, strict=True)
    ]
    unit = factor ** (2 / 3)
    found = scalar(np.cbrt(sum(squares) / freedom), unit * np.sqrt(2 / 9 / freedom), freedom + 1)
    return row(found, unit * (1 - 2 / 9 / freedom), **options)
