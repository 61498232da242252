"""Verdict rows that several experiments make in the same way."""

import dataclasses

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
