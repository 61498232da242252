"""Backward Kolmogorov equations on a grid, in one and two dimensions: exit times, committors.

With 𝓛 = b·∇ + D:∇² the generator of the SDE that a `FokkerPlanck` discretises, inside the region

    𝓛T = −1 , T = 0 where it has exited ;    𝓛q = 0 , q = 0 on A, q = 1 on B .

A jump of the chain that would cross the boundary of an exit set is cut there, so that curved sets
cost no order: the error is O(cell²).
"""

from collections.abc import Callable

import equinox as eqx
import numpy as np
import scipy
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import splu

from sde_sgd._checks import check_part
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.laws._finite_volume import Grid
from sde_sgd.theory.laws.fokker_planck import FokkerPlanck
from sde_sgd.theory.laws.grid_density import check_lost

_BISECTIONS = 30
_INVERSE_ITERATIONS = 8
_LARGEST_CONDITION = 1e13


class GridFunction(eqx.Module):
    """A function of θ known at the cell centres.

    **Fields:** `grid`; `values`, (cells...); `inside`, (cells...), false where the process has
    exited. Called with θ (d,) or (S, d) it interpolates linearly.
    """

    grid: Grid
    values: Float[np.ndarray, "..."]
    inside: Bool[np.ndarray, "..."]

    def __call__(self, theta: ArrayLike) -> Float[np.ndarray, "..."]:
        points = np.atleast_1d(_arguments.finite("theta", theta))
        box = self.grid.box
        if points.shape[-1] != self.grid.dimension or points.ndim > 2:
            raise ValueError(
                f"theta must be (d,) or (S, d) with d={self.grid.dimension}, got {points.shape}."
            )
        if ((points < box[:, 0]) | (points > box[:, 1])).any():
            raise ValueError(f"theta={points.tolist()} lies outside the box {box.tolist()}.")
        axes = [self.grid.axis_centres(a) for a in range(self.grid.dimension)]
        clipped = np.clip(points, [a[0] for a in axes], [a[-1] for a in axes])
        return scipy.interpolate.RegularGridInterpolator(axes, self.values)(clipped).reshape(
            points.shape[:-1]
        )


def mean_exit_time_on_grid(equation: FokkerPlanck, exited: Callable | None = None) -> GridFunction:
    """T(θ) with 𝓛T = −1: mean time, in t, until `exited(θ)` holds or an absorbing side is met.

    **Arguments:**

    - `equation`: b, D and the box, as for the density.
    - `exited`: the exit set, a JAX function of θ (d,) that gives a boolean (as for
      `FirstPassage`); None if only absorbing sides are exits.

    **Returns:** `GridFunction` in units of t = η·iterations, O(cell²) accurate. Compare
    `equation.refined()` for the error of the grid.

    **Raises:** `ValueError` without any exit on the grid, for a box that loses mass before the
    exit, and for times so long that double precision cannot hold them (D/cell² times T above
    1e13): there Eyring–Kramers serves.
    """
    check_part("equation", equation, FokkerPlanck, "a FokkerPlanck equation")
    out = np.zeros(equation.grid.num_cells, bool)
    sets = []
    if exited is not None:
        holds = _fields.condition("exited", exited, equation.grid.dimension)
        out = holds(equation.grid.centres)
        sets = [(holds, out)]
    matrix, _ = _cut(equation, sets)
    leaving = np.asarray(-matrix.sum(axis=1)).ravel()
    if not (leaving[~out] > 1e-12 * np.abs(matrix.diagonal()).max()).any() or out.all():
        raise ValueError(
            "There is no exit on the grid: exited(θ) holds at none of the cell centres (or at "
            'all) and no side is "absorbing". Enlarge the box or the set.'
        )
    inside = np.flatnonzero(~out)
    factor = _factor(sparse.csc_array(matrix[inside][:, inside]))
    times = factor.solve(-np.ones(len(inside)))
    worst = float(np.abs(times).max() * np.abs(matrix.diagonal()).max())
    if not worst < _LARGEST_CONDITION or times.min() < 0:
        raise ValueError(
            f"The exit is too rare for this grid in double precision: time over the time step of "
            f"a cell is {worst:.2g}, at most {_LARGEST_CONDITION:g} can be resolved. Use a coarser "
            f"grid, a larger diffusion, or theory.escape.eyring_kramers."
        )
    _check_box(equation, inside, factor)
    values = np.zeros(equation.grid.num_cells)
    values[inside] = times
    return _function(equation.grid, values, ~out)


def committor_on_grid(equation: FokkerPlanck, lower: Callable, upper: Callable) -> GridFunction:
    """q(θ) with 𝓛q = 0: the probability to be in `upper` (B) before `lower` (A).

    Arguments as `mean_exit_time_on_grid`; what an absorbing side takes reaches neither.

    **Raises:** `ValueError` for sets that overlap, or that no cell centre lies in.
    """
    check_part("equation", equation, FokkerPlanck, "a FokkerPlanck equation")
    centres = equation.grid.centres
    within_a = _fields.condition("lower", lower, equation.grid.dimension)
    within_b = _fields.condition("upper", upper, equation.grid.dimension)
    in_a, in_b = within_a(centres), within_b(centres)
    for name, cells in (("lower", in_a), ("upper", in_b)):
        if not cells.any():
            raise ValueError(
                f"{name}(θ) holds at no cell centre: enlarge the set, or use more cells."
            )
    if (in_a & in_b).any():
        raise ValueError(
            f"lower and upper overlap, for instance at θ={centres[in_a & in_b][0].tolist()}: a "
            f"committor needs disjoint sets."
        )
    matrix, (_, to_b) = _cut(equation, [(within_a, in_a), (within_b, in_b)])
    inside = np.flatnonzero(~in_a & ~in_b)
    factor = _factor(sparse.csc_array(matrix[inside][:, inside]))
    values = in_b.astype(np.float64)
    values[inside] = factor.solve(-to_b[inside])
    return _function(equation.grid, values, ~in_a & ~in_b)


def _cut(
    equation: FokkerPlanck, sets: list[tuple[Callable, np.ndarray]]
) -> tuple[sparse.csr_array, list[np.ndarray]]:
    """The generator with jumps into the sets cut at their boundary, and the rates into each set.

    A jump that meets the boundary after a share s of its way happens 1/s times as often.
    """
    jumps = sparse.coo_array(equation.generator)
    row, column = jumps.coords
    data = np.array(jumps.data)
    centres, off = equation.grid.centres, row != column
    member = np.zeros(equation.grid.num_cells, bool)
    for _, cells in sets:
        member |= cells
    into = []
    for holds, cells in sets:
        crossing = np.flatnonzero(off & cells[column] & ~member[row])
        share = _share(holds, centres[row[crossing]], centres[column[crossing]])
        data[crossing] /= share
        rates = np.zeros(len(member))
        np.add.at(rates, row[crossing], data[crossing])
        into.append(rates)
    killed = equation.absorption.sum(axis=(1, 2))
    rates = sparse.csr_array((np.where(off, data, 0.0), (row, column)), shape=jumps.shape)
    total = np.asarray(rates.sum(axis=1)).ravel() + killed
    # Columns of the sets go, so that rows sum to minus what leaves.
    kept = rates @ sparse.diags_array((~member).astype(float))
    return sparse.csr_array(kept - sparse.diags_array(total)), into


def _share(holds: Callable, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where on the way from start (outside the set) to end (in it) the condition first holds."""
    low, high = np.zeros(len(start)), np.ones(len(start))
    if not len(start):
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = holds(start + middle[:, None] * (end - start))
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    # A centre on the boundary itself has exited in no time.
    return np.maximum(high, 1e-6)


def _factor(matrix: sparse.csc_array):
    return splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def _check_box(equation: FokkerPlanck, inside: np.ndarray, factor) -> None:
    """Refuses a box whose reflecting sides hold back what should spread beyond them.

    The law looked at is the one that stays in shape while it leaks out (quasi-stationary).
    """
    law = np.ones(len(inside))
    for _ in range(_INVERSE_ITERATIONS):
        law = np.maximum(factor.solve(-law / law.sum(), "T"), 0.0)
    masses = np.zeros(equation.grid.num_cells)
    masses[inside] = law / law.sum()
    check_lost(equation.grid, masses, equation.mass_tolerance, "law of those that have not exited")


def _function(grid: Grid, values: np.ndarray, inside: np.ndarray) -> GridFunction:
    _arguments.array("values", values, 1)
    return GridFunction(grid, values.reshape(grid.shape), inside.reshape(grid.shape))
