"""The closure that takes the entries of θ for independent of each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from sde_sgd._checks import check_number, check_whole, in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.theory import _arguments
from sde_sgd.theory.laws.grid_density import GridDensity
from sde_sgd.theory.matrices.entry_laws import (
    advance,
    check_groups,
    conditional_coefficients,
    entry_densities,
)
from sde_sgd.types import RealLike

_MOST_POINTS = 2**22
_MOST_STEPS = 10_000


def product_points(
    densities: Sequence[GridDensity],
    groups: Sequence[ArrayLike],
    num_points: int,
    *,
    shift: int = 0,
) -> Float[np.ndarray, "n d"]:
    """Points (n, d) spread over the law under which all entries of θ are independent.

    Entry i of group g has density g, the mass of each cell spread evenly. The levels are Sobol'
    points of d dimensions and their mirror images 1 − u, so that means over the points are a
    deterministic rule of error about log(n)^d/n; `shift` moves them round the unit cube
    (Cranley, Patterson 1976), for a rule of other errors.

    **Arguments:** `densities`, one for each of `groups`, which together hold every entry of θ once;
    `num_points`: n, a power of two, at least 4.

    **Raises:** `ValueError` for groups that leave an entry out, other n.
    """
    members = check_groups(groups, scipy.stats.qmc.Sobol.MAXDIM)
    dimension = sum(map(len, members))
    if max(int(index.max()) for index in members) != dimension - 1:
        raise ValueError(
            f"groups must together hold every entry of θ, from 0 on; got {in_brief(groups)}."
        )
    densities = _arguments.members("densities", densities, GridDensity, "GridDensity")
    if any(density.grid.dimension != 1 for density in densities):
        raise ValueError("densities must be of one dimension: take `marginal(axis)` of each first.")
    check_whole("num_points", num_points, 4, _MOST_POINTS)
    check_whole("shift", shift, 0, 10**9)
    if len(members) != len(densities):
        raise ValueError(f"{len(densities)} densities for {len(members)} groups.")
    power = int(num_points).bit_length() - 1
    if 2**power != num_points:
        raise ValueError(f"num_points must be a power of two, at least 4; got {num_points}.")
    half = scipy.stats.qmc.Sobol(dimension, scramble=False).random_base2(power - 1) + 1 / num_points
    # Multiples of the generalised golden ratio: no two shifts come close for long.
    golden = _golden_ratio(dimension) ** -np.arange(1.0, dimension + 1)
    half = (half + shift * golden) % 1
    levels = np.concatenate([half, 1 - half])
    points = np.empty((num_points, dimension))
    for density, index in zip(densities, members, strict=True):
        cumulative = np.concatenate([[0.0], np.cumsum(density.masses)])
        edges = density.grid.edges(0)
        points[:, index] = np.interp(levels[:, index], cumulative / cumulative[-1], edges)
    return points


def product_closure(
    landscape: AbstractLandscape,
    noise: AbstractGradientNoise,
    starts: Sequence[Any],
    groups: Sequence[ArrayLike],
    *,
    learning_rate: RealLike,
    times: ArrayLike,
    time_step: RealLike,
    box: Any,
    cells: int,
    num_points: int = 4096,
    num_knots: int = 13,
    mass_tolerance: float = 1e-6,
) -> list[list[GridDensity]]:
    """Laws of single entries whose coefficients are averages over the product of these laws.

    ∂p_g/∂t = −∂(b_g p_g) + ∂²(D_g p_g) with b_g(w) = E[−∂_iL(θ) | θ_i = w], D_g the same of
    (η/2)C_ii, where all other entries are independent with their own densities p at time t: a
    closed, nonlinear system. It is exact at an independent start, and for good where entry i is
    driven by nothing but itself; else the true law acquires correlations that this one has not. A
    network whose start is symmetric under a sign change of each hidden unit is not trained by it:
    the other matrix has mean zero for good, and averages the descent direction away.

    By the midpoint rule in time, and averages over `product_points`, shifted at every step.

    **Arguments:**

    - `starts`: for each group a start of `FokkerPlanck.propagate`.
    - `groups`: indices of the entries that share a law; together all of θ.
    - `times`: (T,) increasing, ≥ 0, at which densities are returned. The intervals between them
      are divided into equal steps of at most `time_step`.
    - `num_points`: points of the averages; `num_knots`: as `conditional_coefficients`.
    - `box`, `cells`, `mass_tolerance`: as `FokkerPlanck`.

    **Returns:** for each time a list of one `GridDensity` for each group.

    **Raises:** `ValueError` for groups that leave entries out, and as the functions that it uses.
    """
    _arguments.problem(landscape, noise)
    clock = _arguments.array("times", times, 1)
    longest = check_number("time_step", time_step, above=0)
    if (clock < 0).any() or not (np.diff(clock) > 0).all():
        raise ValueError(f"times must increase from t >= 0; got {clock.tolist()}.")
    if clock[-1] > _MOST_STEPS * longest:
        raise ValueError(
            f"times up to {clock[-1]:g} are more than {_MOST_STEPS} steps of time_step="
            f"{longest:g}, each of which solves an equation for every group: take longer steps."
        )
    members: list[Int[np.ndarray, " n"]] = check_groups(groups, landscape.dimension)
    if sum(map(len, members)) != landscape.dimension:
        raise ValueError(
            f"groups must hold all {landscape.dimension} entries of θ; got "
            f"{sum(map(len, members))} of them."
        )
    now, count = entry_densities(starts, box, cells), 0

    def equations(densities):
        points = product_points(densities, members, num_points, shift=count)
        table = conditional_coefficients(
            landscape, noise, points, members, learning_rate=learning_rate, num_knots=num_knots
        )
        return table.equations(len(densities), box, cells, mass_tolerance)

    found, t = [], 0.0
    for end in clock:
        steps = int(np.ceil((end - t) / longest - 1e-9))
        for _ in range(steps):
            step = (end - t) / steps
            middle = advance(equations(now), now, step / 2)
            now = advance(equations(middle), now, step)
            count += 1
        found.append(now)
        t = float(end)
    return found


def _golden_ratio(dimension: int) -> float:
    """The root > 1 of x^{d+1} = x + 1."""
    root: Any = brentq(lambda x: x ** (dimension + 1) - x - 1, 1, 2, xtol=1e-15)
    return float(root)
