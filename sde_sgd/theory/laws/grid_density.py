"""A density on a box of cells: expectations, marginals, distribution function."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, check_whole
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.laws._finite_volume import Grid
from sde_sgd.theory.laws.law import (
    AbstractLaw,
    moments,
    moments_in_words,
    only_on_the_line,
)
from sde_sgd.types import RealLike


class GridDensity(AbstractLaw):
    """A probability density p(θ) at the centres of cells, per unit of length or area.

    `mean` and `covariance` are those of the masses at the centres; spread over the cells, as
    `sample` draws them, the variances are h²/12 larger.

    **Fields:**

    - `grid`: the cells; `grid.centres` (n, d), `grid.edges(axis)`, `grid.volume`.
    - `values`: p, in the shape of the cells, (nx,) or (nx, ny).
    - `most_negative`: the most negative mass that a cell had before it was set to zero, relative
      to the largest one (rounding; 0 or about −1e-12).
    - `absorbed`: probability that each side has absorbed until now, (d, 2).
    - `lost`: estimated probability outside the box, cut off by its reflecting sides.
    """

    grid: Grid
    values: Float[np.ndarray, "..."]
    most_negative: float
    absorbed: Float[np.ndarray, "d 2"]
    lost: float

    @property
    def masses(self) -> Float[np.ndarray, " n"]:
        """Probability of every cell, (n,), in the numbering of the generator."""
        return self.values.ravel() * self.grid.volume

    @property
    def mass(self) -> float:
        """∫p dθ: 1, less what absorbing sides have taken."""
        return float(self.masses.sum())

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """E θ over what is in the box, (d,)."""
        return moments(self.grid.centres, self.masses)[0]

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Cov θ over what is in the box, (d, d)."""
        return moments(self.grid.centres, self.masses)[1]

    def expect(self, of: Callable) -> Float[np.ndarray, "..."]:
        """E f(θ) over what is in the box, by the midpoint rule; P(f) if f is an indicator.

        **Arguments:** `of`: f, a JAX function of one θ (d,) with a value of any shape. An indicator
        is exact to second order in the cell if its region ends at edges of cells.
        """
        values = _fields.evaluate("of", of, self.grid.centres)
        return np.asarray(np.tensordot(self.masses, values, axes=1) / self.mass)

    def marginal(self, axis: int = 0) -> "GridDensity":
        """The one-dimensional density of θ_axis."""
        axis = check_whole("axis", axis, 0, self.grid.dimension - 1)
        grid = Grid(
            self.grid.box[axis : axis + 1],
            self.grid.shape[axis : axis + 1],
            (self.grid.sides[axis],),
        )
        others = tuple(i for i in range(self.grid.dimension) if i != axis)
        values = self.values.sum(axis=others) * self.grid.volume / grid.volume
        return GridDensity(
            grid, values, self.most_negative, self.absorbed[axis : axis + 1], self.lost
        )

    def pdf(self, x: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """p at points, linear between centres, 0 outside the box.

        **Arguments:** `x`: any shape in one dimension, (..., 2) in two.
        """
        points = _arguments.positions("x", x, self.grid.dimension)
        axes = [self.grid.axis_centres(i) for i in range(self.grid.dimension)]
        low, high = self.grid.box[:, 0], self.grid.box[:, 1]
        inside = ((points >= low) & (points <= high)).all(axis=-1)
        centred = np.clip(points, [a[0] for a in axes], [a[-1] for a in axes])
        found = scipy.interpolate.RegularGridInterpolator(axes, self.values)(centred).reshape(
            inside.shape
        )
        return np.where(inside, found, 0.0)

    def cell_masses(self, edges: Sequence[ArrayLike]) -> Float[np.ndarray, "..."]:
        """Masses of coarser cells, an array of edges for each axis, some of the grid's own.

        **Raises:** `ValueError` for another number of arrays, and for an edge that the grid lacks.
        """
        if len(edges) != self.grid.dimension:
            raise ValueError(
                f"A density in {self.grid.dimension} dimensions needs as many arrays of edges; got "
                f"{len(edges)}."
            )
        masses = self.masses.reshape(self.grid.shape)
        for axis, wanted in enumerate(edges):
            own, wanted = self.grid.edges(axis), as_float64("edges", wanted)
            places = np.searchsorted(own, wanted - 0.5 * self.grid.spacing[axis])
            close = np.abs(own[np.minimum(places, len(own) - 1)] - wanted)
            if (close > 1e-9 * np.ptp(own)).any():
                raise ValueError(
                    f"The edges of axis {axis} must be edges of the grid of the density; "
                    f"{wanted[np.argmax(close)]:.6g} is none."
                )
            sums = np.insert(np.cumsum(masses, axis=axis), 0, 0.0, axis=axis)
            masses = np.diff(np.take(sums, places, axis=axis), axis=axis)
        return masses

    def _on_the_line(self):
        """The cdf is monotone between the edges, where it is the sum of cells."""
        if self.grid.dimension != 1:
            raise only_on_the_line(self.grid.dimension)
        edges, total = self.grid.edges(0), np.concatenate([[0.0], np.cumsum(self.masses)])
        with np.errstate(over="ignore", invalid="ignore"):  # slopes of 1e-300 in far tails
            curve = scipy.interpolate.PchipInterpolator(edges, total)
        low, high = float(edges[0]), float(edges[-1])
        return lambda x: curve(np.clip(x, low, high)), low, high

    def _draw(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num d"]:
        cells = rng.choice(self.grid.num_cells, num, p=self.masses / self.mass)
        places = rng.random((num, self.grid.dimension)) - 0.5
        return self.grid.centres[cells] + places * self.grid.spacing

    def _in_words(self) -> str:
        cells = " × ".join(map(str, self.grid.shape))
        box = " × ".join(f"[{low:.6g}, {high:.6g}]" for low, high in self.grid.box)
        taken = f", of which {self.mass:.6g} is left" if self.absorbed.any() else ""
        return f"{moments_in_words(self)}, {cells} cells of {box}{taken}"


def lost_mass(grid: Grid, masses: Float[np.ndarray, " n"]) -> tuple[float, str]:
    """Estimated probability beyond the reflecting sides, and the side that cuts off most.

    The two outermost layers of cells of a side, m₁ and m₂, continued geometrically: m₁²/(m₂ − m₁),
    but no more than a box full of the outermost layer, and no more than 1.
    """
    total, worst, where = 0.0, 0.0, ""
    table = masses.reshape(grid.shape)
    for axis, pair in enumerate(grid.sides):
        for end, side in enumerate(pair):
            if side != "reflecting":
                continue
            layers = np.moveaxis(table, axis, 0)[:: 1 if end == 0 else -1]
            first, second = float(layers[0].sum()), float(layers[1].sum())
            if first <= 0:
                continue
            inwards = len(layers) * first
            beyond = min(first**2 / (second - first), inwards) if second > first else inwards
            total += beyond
            if beyond > worst:
                worst, where = beyond, f"{'low' if end == 0 else 'high'} side of axis {axis}"
    return min(total, 1.0), where


def check_lost(grid: Grid, masses: Float[np.ndarray, " n"], tolerance: float, when: str) -> float:
    """The lost mass, refused above `tolerance`."""
    lost, where = lost_mass(grid, masses)
    if lost > tolerance:
        raise ValueError(
            f"the box loses mass: about {lost:.3g} of the {when} lies beyond its {where}, more "
            f"than mass_tolerance={tolerance:g}. Enlarge the box, raise mass_tolerance, or pass "
            f'sides="wall" where there is a real wall.'
        )
    return lost


def start_masses(grid: Grid, start: "GridDensity | Callable | RealLike | ArrayLike") -> np.ndarray:
    """Masses (n,) from a density on the grid, a function p(θ), cell values, or a point θ."""
    if isinstance(start, GridDensity):
        if start.grid.shape != grid.shape or not np.allclose(start.grid.box, grid.box):
            raise ValueError(
                f"the density lives on {start.grid.shape} cells of {start.grid.box.tolist()}, the "
                f"equation on {grid.shape} cells of {grid.box.tolist()}."
            )
        return start.masses
    if callable(start):
        masses = _fields.scalar("start", start, grid.dimension).at(grid.centres) * grid.volume
    else:
        values = as_float64("start", start)
        if values.shape == grid.shape:
            masses = values.ravel() * grid.volume
        elif values.size == grid.dimension:
            return _point(grid, values.ravel())
        else:
            raise ValueError(
                f"start must be a point of {grid.dimension} coordinates, a function, a GridDensity "
                f"or densities of shape {grid.shape}; got shape {values.shape}."
            )
    masses = _arguments.array("start", masses, 1)
    if (masses < 0).any():
        raise ValueError(f"start must not be negative; its smallest density is {masses.min():g}.")
    total = masses.sum()
    if abs(total - 1) > 0.01:
        raise ValueError(
            f"start has mass {total:.6g} on the box, not 1: normalise it, enlarge the box, or "
            f"refine the cells (a start narrower than a cell is given as a point)."
        )
    return masses / total


def _point(grid: Grid, theta: np.ndarray) -> np.ndarray:
    """Mass 1 at θ, shared linearly between neighbouring centres so that the mean is θ."""
    low, high = grid.box[:, 0] + grid.spacing / 2, grid.box[:, 1] - grid.spacing / 2
    if not ((theta >= low) & (theta <= high)).all():
        raise ValueError(f"start {theta} lies outside the centres of the box {grid.box.tolist()}.")
    masses = np.ones(1)
    for axis, n in enumerate(grid.shape):
        place = (theta[axis] - low[axis]) / grid.spacing[axis]
        left = min(int(place), n - 2)
        share = np.zeros(n)
        share[left], share[left + 1] = 1 - (place - left), place - left
        masses = np.multiply.outer(masses, share)
    return masses.ravel()
