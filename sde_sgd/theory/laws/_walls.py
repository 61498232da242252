"""Sides of a box at which the diffusion vanishes, and the power law of the density beside them.

At a distance x from such a side let D ~ x^κ and x b/D → α, b the drift away from it. Then the
stationary current-free density, the speed and the scale are

    p ~ x^γ ,  γ = α − κ ,       1/(D p) ~ x^{−α} ,

for κ = 1 with γ = b/D′ − 1 (a Gamma law of shape b/D′). With γ < 0 no polynomial follows p. A
chain between centres x_i whose rates are those of the powers times a smooth rest does:

    r_i± = D_i/(h² v_i s_i±) B(∓w̃_i±) ,   v_i = ∫_cell (x/x_i)^γ dx/h ,
    s_i± = ∫ from x_i to its neighbour of (x/x_i)^{−α} dx/h ,   w̃ = h (b − αD/x)/D_i ,

of which v = s = 1 and w̃ = w for α = κ = 0. It is consistent whatever α and κ are.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sde_sgd.theory._fields import Field

# Distances from a side, in cells, at which its powers are read (and freed of their error of x).
_PROBES = np.array([0.0, 1e-3, 2e-3, 4e-3, 0.5])
# Where p falls faster than this the law has no weight beside the side.
_LARGEST_POWER = 20.0


class WallFit(NamedTuple):
    """What the powers beside the sides make of the rates of a chain on the line.

    **Fields:** `resistance` (n, 2), v s of the jumps down and up; `removed` (n, 2), αD/x on the
    faces below and above each cell.
    """

    resistance: Float[np.ndarray, "n 2"]
    removed: Float[np.ndarray, "n 2"]


def wall_powers(grid, drift: Field, diffusion: Field) -> Float[np.ndarray, "d 2 2"]:
    """(α, κ) at each side, (0, 0) where D does not vanish or p has no integrable power law.

    **Raises:** `ValueError` where the mass collapses onto a side that does not absorb (γ ≤ −1),
    and in two dimensions where the density is unbounded at a side.
    """
    found = np.zeros((grid.dimension, 2, 2))
    for axis in range(grid.dimension):
        for end in (0, 1):
            points = _probes(grid, axis, end)
            spread = np.stack([diffusion.at(x)[:, axis, axis] for x in points[[0, -1]]])
            with np.errstate(invalid="ignore"):
                vanishes = (np.abs(spread[0]) <= 1e-6 * spread[1]) & (spread[1] > 0)
            if not vanishes.any():
                continue
            inner = points[1:-1][:, vanishes]
            towards = (1 if end == 0 else -1) * np.stack([drift.at(x)[:, axis] for x in inner])
            alpha, kappa = _read(
                towards, np.stack([diffusion.at(x)[:, axis, axis] for x in inner]), grid, axis
            )
            power = np.where(kappa > 1e-3, alpha - kappa, 0.0)
            worst = int(np.argmin(power))
            where = f"{'low' if end == 0 else 'high'} side of axis {axis}"
            grows = (
                f"the diffusion vanishes there, and near θ = {points[0][vanishes][worst]} the "
                f"density grows like distance^{power[worst]:.4g}"
            )
            if power[worst] <= -1 + 1e-4 and grid.sides[axis][end] != "absorbing":
                raise ValueError(
                    f"The mass collapses onto the {where}: {grows}, whose integral diverges. "
                    f'Make that side "absorbing", or end the box where the diffusion is positive.'
                )
            kept = (power > -1 + 1e-4) & (np.abs(alpha) < _LARGEST_POWER) & (kappa > 1e-3)
            if grid.dimension == 1:
                found[axis, end] = np.where(kept, [alpha, kappa], 0.0)[:, 0]
            elif -1 + 1e-4 < power[worst] < -1e-3:
                raise ValueError(
                    f"The density is unbounded at the {where}: {grows}, which equal cells in two "
                    f"dimensions do not resolve. Take the logarithm of the distance as coordinate, "
                    f"or end the box where the diffusion is positive."
                )
    return found


def wall_fit(grid, diffusion: Field, powers: Float[np.ndarray, "1 2 2"]) -> WallFit | None:
    """The fit for each cell to the nearest side that has powers; None if neither has."""
    low, high = (bool(side.any()) for side in powers[0])
    if not low and not high:
        return None
    size, h = grid.num_cells, grid.spacing[0]
    index = np.arange(size)
    from_low = index < size // 2 if low and high else np.full(size, low)
    alpha, kappa = np.where(from_low[:, None], powers[0, 0], powers[0, 1]).T
    near = np.where(from_low, index, size - 1 - index).astype(float)
    middle = near + 0.5
    volume = _integral(alpha - kappa, near, near + 1, middle)
    outwards = _integral(-alpha, middle, middle + 1, middle)
    # The way to the side itself is half as long; beyond α = 1 it is not reached.
    below = np.where(near > 0, middle - 1, 0.0)
    inwards = _integral(-alpha, below, middle, middle) / np.where(near > 0, 1.0, 0.5)
    spread = diffusion.at(grid.edges(0)[:, None])[:, 0, 0]
    faces = np.stack([spread[:-1], spread[1:]], axis=1)
    steps = np.stack([near, near + 1], axis=1)
    down = np.where(from_low[:, None], steps, steps[:, ::-1])
    at_side = np.where(alpha == 0, 0.0, np.nan)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        push = np.where(down > 0, alpha[:, None] * faces / (down * h), at_side)
    removed = np.where(from_low[:, None], push, -push)
    resistance = volume[:, None] * np.stack([inwards, outwards], axis=1)
    resistance = np.where(from_low[:, None], resistance, resistance[:, ::-1])
    return WallFit(resistance, removed)


def _probes(grid, axis: int, end: int) -> Float[np.ndarray, "probes m d"]:
    """The places of `_PROBES` in front of each outermost cell of a side."""
    outermost = 0 if end == 0 else grid.shape[axis] - 1
    start = grid.centres[grid.index[:, axis] == outermost].copy()
    points = np.repeat(start[None], len(_PROBES), axis=0)
    inwards = grid.spacing[axis] * (1 if end == 0 else -1)
    points[:, :, axis] = grid.box[axis, end] + inwards * _PROBES[:, None]
    return points


def _read(towards: np.ndarray, spread: np.ndarray, grid, axis: int):
    """α and κ from b and D at the three inner probes, (3, m)."""
    distance = grid.spacing[axis] * _PROBES[1:-1, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = distance * towards / spread
        kappa = np.diff(np.log(spread), axis=0) / np.log(2)
        alpha, kappa = 2 * alpha[0] - alpha[1], 2 * kappa[0] - kappa[1]
    known = np.isfinite(alpha) & np.isfinite(kappa)
    return np.where(known, alpha, 0.0), np.where(known, kappa, 0.0)


def _integral(power: np.ndarray, start: np.ndarray, end: np.ndarray, unit: np.ndarray):
    """∫ (t/unit)^power dt, infinite where the power does not allow 0."""
    a, b, n = start / unit, end / unit, power + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(n == 0, np.log(b) - np.log(a), (b**n - a**n) / np.where(n == 0, 1.0, n))
    return unit * np.where((start == 0) & (n <= 0), np.inf, found)
