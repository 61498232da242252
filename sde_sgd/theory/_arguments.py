"""What the predictions take, checked: arrays in float64, times, rates, problems, tolerances.

Checks of numbers, functions and keys that any part of the package may ask for are in
`sde_sgd/_checks.py`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sde_sgd._checks import (
    as_float64,
    check_at_least,
    check_choice,
    check_landscape,
    check_list,
    check_number,
    check_part,
    check_whole,
    in_brief,
)
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import check_noise
from sde_sgd.noise.sampling import AbstractSampling

# Every integer up to this is a float64.
_MOST_STEPS = 2.0**53
# Powers of larger numbers leave float64.
LARGE = 1e70


def array(name: str, value: Any, num_axes: int) -> Float[np.ndarray, "..."]:
    """`value` as a finite float64 array with `num_axes` axes, none of them empty."""
    found = as_float64(name, value)
    if found.ndim != num_axes or 0 in found.shape:
        raise ValueError(f"{name} must have {num_axes} non-empty axes, got shape {found.shape}.")
    return finite(name, found)


def vector(name: str, value: Any, size: int) -> Float[np.ndarray, " d"]:
    """`value` as a finite float64 vector of `size` entries."""
    found = as_float64(name, value)
    if found.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {found.shape}.")
    return finite(name, found)


def finite(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """`value` as a float64 array of any shape without NaN and infinities."""
    found = as_float64(name, value)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} has {np.sum(~np.isfinite(found))} entries that are not finite.")
    return found


def known(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """`value` as a float64 array of any shape without NaN: points at which a law is asked for."""
    found = as_float64(name, value)
    if np.isnan(found).any():
        raise ValueError(f"{name} has {np.sum(np.isnan(found))} entries that are NaN.")
    return found


def positions(name: str, value: Any, dimension: int) -> Float[np.ndarray, "... d"]:
    """`value` as points (..., d) without NaN; on the line numbers of any shape."""
    found = known(name, value)
    found = found[..., None] if dimension == 1 else found
    if found.shape[-1:] != (dimension,):
        raise ValueError(f"{name} must be (..., {dimension}); got {found.shape}.")
    return found


def end(name: str, value: Any) -> float:
    """`value` as a number or ±∞: an end of an interval."""
    found = known(name, value)
    if found.shape != ():
        raise ValueError(f"{name} must be one number, or infinite; got {in_brief(value)}.")
    return float(found)


def tolerance(name: str, value: Any) -> float:
    """`value` as what may at most be lost, ≥ 0; ∞ allows all, NaN would allow it unasked."""
    found = end(name, value)
    if found < 0:
        raise ValueError(f"{name} must be >= 0, got {in_brief(value)}.")
    return found


def momentum(value: Any) -> float:
    """`value` as a heavy-ball momentum 0 ≤ μ < 1."""
    scalar = check_at_least("momentum", value)
    if scalar >= 1:
        raise ValueError(f"momentum must satisfy 0 <= momentum < 1, got {in_brief(scalar)}.")
    return scalar


def batch_size(value: Any, least: int = 1) -> int:
    """`value` as B, up to a billion examples."""
    return check_whole("batch_size", value, least, 10**9)


def label_noise(value: Any) -> float:
    """`value` as σ ≥ 0, of which the variance σ² is taken."""
    check_number("label_noise", value, below=LARGE)
    return check_at_least("label_noise", value)


def order(value: Any) -> int:
    """`value` as the order of a modified equation, 1 or 2."""
    return check_choice("order", value, (1, 2))


def symmetric(name: str, value: Any, size: int | None = None) -> Float[np.ndarray, "d d"]:
    """`value` as a symmetric (d, d) matrix, symmetrised exactly, in float64 whatever JAX's."""
    matrix = array(name, value, 2)
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


def interval(name: str, value: Any) -> Float[np.ndarray, " 2"]:
    """`value` as (low, high), finite, low < high."""
    ends = np.ravel(finite(name, value))
    if ends.shape != (2,) or not ends[0] < ends[1]:
        raise ValueError(f"{name} must be (low, high) with low < high; got {in_brief(value)}.")
    return ends


def times(value: Any, name: str = "times") -> Float[np.ndarray, " T"]:
    """`value` as non-negative times, in any order; one number is one time."""
    one = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    found = array(name, [value] if one else value, 1)
    if (found < 0).any():
        raise ValueError(f"{name} must be >= 0, the smallest is {found.min():g}.")
    return found


def whole_steps(
    clock: Float[np.ndarray, " T"],
    time_step: float,
    name: str = "times",
    called: str = "time_step",
    way: str = "pass time_step * integers, or time_step=0.0 for the continuous limit",
) -> Int[np.ndarray, " T"]:
    """The step numbers n with clock = n·time_step, refusing times between two steps."""
    exact = clock / time_step
    steps = np.rint(exact)
    # Times computed in float32 as k·h miss by about 1e-7 k steps.
    off = np.abs(exact - steps) > np.clip(1e-6 * steps, 1e-6, 0.1)
    off |= (steps == 0) & (clock > 0)  # a step far longer than the time
    if off.any():
        raise ValueError(
            f"{name} must be multiples of {called}={time_step:g}, got {clock[off][0]:g} = "
            f"{exact[off][0]:.6f} steps; {way}."
        )
    if not (steps <= _MOST_STEPS).all():
        raise ValueError(
            f"{name} must be at most 2^53 steps of {time_step:g}, got {clock.max():g}: there are "
            f"no exact numbers of steps beyond."
        )
    return steps.astype(np.int64)


def iterations(name: str, value: Any, most: int) -> Int[np.ndarray, " T"]:
    """`value` (T,) as integers 0 ≤ k ≤ `most`, the number that can be gone through one by one."""
    found = array(name, value, 1)
    wrong = (found < 0) | (found != np.rint(found)) | (found > most)
    if wrong.any():
        raise ValueError(
            f"{name} must be integers from 0 to {most} (each costs a step of the computation); got "
            f"{found[wrong][0]:g}."
        )
    return found.astype(np.int64)


def members(name: str, value: Any, kind: Any, example: str) -> list[Any]:
    """`value` as a list whose entries are all of one kind."""
    entries = check_list(name, value, f"[{example}, …]")
    for i, entry in enumerate(entries):
        check_part(f"{name}[{i}]", entry, kind, example)
    return entries


def landscape(value: Any) -> None:
    """Refuse what is no landscape."""
    check_landscape(value, AbstractLandscape)


def sampling(value: Any) -> None:
    """Refuse what is no law of batches."""
    check_part("sampling", value, AbstractSampling, "a sampling scheme, such as WithReplacement(8)")


def problem(landscape_: Any, noise: Any) -> None:
    """Refuse what is no landscape with a gradient noise that it can have."""
    check_noise(landscape_, noise)
