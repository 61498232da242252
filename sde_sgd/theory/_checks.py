"""Validation shared by the predictions: every fault is a `ValueError` naming value and way out."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .._checks import as_float64, in_brief


def real_array(name: str, value: Any, num_axes: int) -> Float[np.ndarray, "..."]:
    """`value` as a finite float64 array with `num_axes` axes, none of them empty."""
    array = as_float64(name, value)
    if array.ndim != num_axes or 0 in array.shape:
        raise ValueError(f"{name} must have {num_axes} non-empty axes, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has {np.sum(~np.isfinite(array))} entries that are not finite.")
    return array


def number(name: str, value: Any, *, minimum: float = 0.0, strict: bool = True) -> float:
    """`value` as a finite float above `minimum` (or equal to it, unless `strict`)."""
    scalar = float(as_float64(name, value))
    if not np.isfinite(scalar) or scalar < minimum or (strict and scalar == minimum):
        relation = ">" if strict else ">="
        raise ValueError(
            f"{name} must be finite and {relation} {minimum:g}, got {in_brief(scalar)}."
        )
    return scalar


def momentum_number(value: Any) -> float:
    """`value` as a heavy-ball momentum 0 ≤ μ < 1."""
    scalar = number("momentum", value, strict=False)
    if scalar >= 1:
        raise ValueError(f"momentum must satisfy 0 <= momentum < 1, got {in_brief(scalar)}.")
    return scalar


def noise_factor_number(value: Any) -> float:
    """`value` as the factor c of Cov(ĝ) = c Σ, which no sampling scheme lets exceed 1."""
    scalar = number("noise_factor", value, strict=False)
    if scalar > 1:
        raise ValueError(
            f"noise_factor is c in Cov(minibatch gradient) = c * Sigma, between 0 and 1, got "
            f"{in_brief(scalar)}; pass 1/B (with replacement) or (N-B)/(B(N-1)) (without), not B."
        )
    return scalar


def symmetric(name: str, value: Any, size: int | None = None) -> Float[np.ndarray, "d d"]:
    """`value` as a symmetric (d, d) matrix, symmetrised exactly."""
    matrix = real_array(name, value, 2)
    if matrix.shape[0] != matrix.shape[1] or (size is not None and matrix.shape[0] != size):
        wanted = "square" if size is None else f"({size}, {size})"
        raise ValueError(f"{name} must be {wanted}, got shape {matrix.shape}.")
    asymmetry = np.abs(matrix - matrix.T).max()
    # float32 Hessians from automatic differentiation are symmetric to about 1e-6 only.
    if asymmetry > 1e-5 * np.abs(matrix).max():
        raise ValueError(
            f"{name} must be symmetric, but differs from its transpose by {asymmetry:g}; pass "
            f"(A + A.T)/2 if that is rounding."
        )
    return (matrix + matrix.T) / 2


def covariance(name: str, value: Any, size: int | None = None) -> Float[np.ndarray, "d d"]:
    """`value` as a symmetric positive semidefinite (d, d) matrix."""
    matrix = symmetric(name, value, size)
    eigenvalues = np.linalg.eigvalsh(matrix)
    if eigenvalues[0] < -1e-5 * max(eigenvalues[-1], 0.0):
        raise ValueError(
            f"{name} must be positive semidefinite, its smallest eigenvalue is {eigenvalues[0]:g}."
        )
    return matrix


def positive_eigenvalues(name: str, matrix: Float[np.ndarray, "d d"]) -> None:
    """Refuse a symmetric `matrix` that is not positive definite to rounding."""
    eigenvalues = np.linalg.eigvalsh(matrix)
    if eigenvalues[0] <= len(eigenvalues) * np.finfo(float).eps * abs(eigenvalues[-1]):
        raise ValueError(
            f"{name} must be positive definite, its smallest eigenvalue is {eigenvalues[0]:g}: "
            f"there is no stationary law along a flat or unstable direction. Add l2, project that "
            f"direction out, or ask for the transient moments."
        )


def real_times(value: Any) -> Float[np.ndarray, " T"]:
    """`value` as non-negative times, in any order."""
    times = real_array("times", value, 1)
    if (times < 0).any():
        raise ValueError(f"times must be >= 0, the smallest is {times.min():g}.")
    return times


def whole_steps(times: Float[np.ndarray, " T"], time_step: float) -> Int[np.ndarray, " T"]:
    """The step numbers n with times = n·time_step, refusing times between two steps."""
    exact = times / time_step
    steps = np.rint(exact)
    # Times computed in float32 as k·h miss by about 1e-7 k steps.
    off = np.abs(exact - steps) > np.clip(1e-6 * steps, 1e-6, 0.1)
    if off.any():
        raise ValueError(
            f"times must be multiples of time_step={time_step:g}, got {times[off][0]!r} = "
            f"{exact[off][0]:.6f} steps; pass time_step * integers, or time_step=0.0 for the "
            f"continuous limit."
        )
    return steps.astype(np.int64)
