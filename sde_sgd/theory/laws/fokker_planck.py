"""The Fokker–Planck equation of an Itô SDE on a box, in one and two dimensions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import sparse

from sde_sgd._checks import check_part, check_whole
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.theory import _arguments, _fields, _step_laws
from sde_sgd.theory._fields import Field
from sde_sgd.theory.laws._finite_volume import generator, Grid, make_grid
from sde_sgd.theory.laws._markov_chain import propagate, stationary_masses
from sde_sgd.theory.laws._walls import wall_powers
from sde_sgd.theory.laws.grid_density import check_lost, GridDensity, start_masses
from sde_sgd.types import RealLike


class FokkerPlanck(eqx.Module):
    """∂p/∂t = −∇·(b p) + Σ_ij ∂_i ∂_j (D_ij p), the density of dθ = b dt + √2 D^{1/2} dW (Itô).

    Finite volumes on equal cells of width h. The fluxes run along the axes in one dimension and
    along the directions of Selling's reduction of D in two, for any positive definite D, cross
    diffusion included: the scheme is a Markov jump chain between the cells, so that densities stay
    non-negative in one *and* in two dimensions. Errors are O(h²): in one dimension everywhere, in
    two for integrals against smooth functions and in L¹ (pointwise O(h) on the lines where a
    varying D changes its directions). Where D is singular the error is O(h): the drift along
    a missing direction is upwinded (numerical diffusion |b|h/2), and a D along no short
    direction of the grid gets `added_diffusion`.

    On the line D may vanish at a side, D ~ x^κ in the distance x from it, with x b/D → α: there
    p ~ x^γ, γ = α − κ, unbounded for γ < 0 (κ = 1: γ = b/D′ − 1). The rates are fitted to these
    powers, and the error of means of smooth functions is O(h^{2+γ}) for −1 < γ < 0, O(h²) above.

    **Arguments:**

    - `process`: the limit of an equation whose θ alone is a diffusion,
      `ss.ModifiedEquation(...).limit()` say, on a landscape with d = 1 or 2, in t; or
      `processes.Diffusion(drift, diffusion)` in its place.
    - `box`: (low, high), or a pair for each of two axes.
    - `cells`: their number along each axis (or one number for all).
    - `sides`: "reflecting", "wall" or "absorbing"; or a pair (low, high); or such a pair
      for each axis. "reflecting" closes a box that is meant to hold all the mass, and
      a density that reaches it is refused; "wall" is a real wall of the problem.
    - `mass_tolerance`: the probability that may lie beyond reflecting sides.

    **Fields:** `drift`, `diffusion`: as functions of one θ with values (d,) and (d, d); `grid`;
    `generator` Q (n, n) sparse, the backward operator 𝓛 = b·∇ + D:∇²
    (Q[i, j] the rate from cell i to j; rows sum to minus the absorption), `absorption`
    (n, d, 2) the rate at which each side absorbs from each cell; `added_diffusion`: the largest
    diffusion that a singular D needed, relative to its trace (0 for most).

    `wall_powers`: (α, κ) at each side, (d, 2, 2), 0 where D does not vanish.

    **Raises:** `NotKnown` for a process with steps of its own, whose law in one dimension is
    `MasterEquation`'s; `ValueError` for D that is not positive semi-definite (with place and
    eigenvalue), values that are not finite, shapes; for a side that does not absorb at which
    γ ≤ −1, onto which the mass collapses; and for one in two dimensions at which the density is
    unbounded.

    **Source:** Risken, The Fokker–Planck Equation, 1989, eq. 4.94; for the scheme see
    `_finite_volume.py`.
    """

    grid: Grid
    generator: sparse.csr_array
    absorption: Float[np.ndarray, "n d 2"]
    added_diffusion: float
    wall_powers: Float[np.ndarray, "d 2 2"]
    mass_tolerance: float
    drift: Field
    diffusion: Field

    def __init__(
        self,
        process: Any,
        box: Any,
        cells: Any,
        sides: Any = "reflecting",
        *,
        mass_tolerance: float = 1e-6,
    ):
        self.grid = make_grid(box, cells, sides)
        law = _step_laws.equation(process, "A density on a grid", self.grid.dimension)
        self.drift = _fields.vector("drift", law.drift, self.grid.dimension)
        self.diffusion = _fields.tensor("diffusion", law.diffusion, self.grid.dimension)
        self.mass_tolerance = _arguments.tolerance("mass_tolerance", mass_tolerance)
        self.wall_powers = wall_powers(self.grid, self.drift, self.diffusion)
        self.generator, self.absorption, self.added_diffusion = generator(
            self.grid, self.drift, self.diffusion, self.wall_powers
        )

    def refined(self, factor: int = 2) -> "FokkerPlanck":
        """The same problem on `factor` times as many cells an axis, to see the grid error."""
        cells = tuple(check_whole("factor", factor, 1, 1000) * n for n in self.grid.shape)
        return FokkerPlanck(
            Diffusion(self.drift, self.diffusion),
            self.grid.box,
            cells,
            self.grid.sides,
            mass_tolerance=self.mass_tolerance,
        )

    def stationary(self) -> GridDensity:
        """The stationary density, mass 1.

        In one dimension by the zero flux between neighbours (accurate to rounding however deep
        the wells); in two by a sparse factorisation, about a second for 200×200 cells.

        **Raises:** `ValueError` if a side absorbs, if mass reaches a reflecting side, if there
        is more than one stationary density, or if the passage between two regions is too rare
        for double precision to weigh them (two dimensions).
        """
        if self.absorption.any():
            raise ValueError(
                "sides that absorb leave no stationary density: all mass is lost in the end. Use "
                'sides="reflecting", or `propagate`.'
            )
        masses, most_negative = stationary_masses(self.generator, self.grid.dimension == 1)
        return self._density(
            masses, most_negative, np.zeros((self.grid.dimension, 2)), "stationary law"
        )

    def propagate(
        self, start: GridDensity | Callable | RealLike | ArrayLike, times: ArrayLike
    ) -> list[GridDensity]:
        """The density at each of `times`.

        By uniformisation, e^{Qt} = Σ_k Poisson(k; qt)(I + Q/q)^k: non-negative, mass to
        rounding. Where that needs too many terms (large t on fine cells), by a rational
        Krylov method to a relative error of 1e-10, rounding below zero set to zero.

        **Arguments:**

        - `start`: a `GridDensity`, a function p(θ), densities in the shape of the cells, or a
          point θ (shared between the nearest centres so that the mean is exact; its variance is of
          the order of a cell squared).
        - `times`: (T,) t ≥ 0, in any order.

        **Returns:** a list of `GridDensity`, whose `absorbed` says what each side has taken.

        **Raises:** `ValueError` for a start that has no mass 1 in the box, a box that loses
        mass, negative times.
        """
        clock = _arguments.times(times)
        begin = start_masses(self.grid, start)
        found: list[Any] = [None] * len(clock)
        flat = self.absorption.reshape(self.grid.num_cells, -1)
        taken = np.zeros(flat.shape[1])
        now = 0.0
        for position in np.argsort(clock, kind="stable"):
            t = float(clock[position])
            begin, most_negative, taken = propagate(self.generator, flat, begin, taken, t - now)
            now = t
            absorbed = taken.reshape(self.grid.dimension, 2)
            found[position] = self._density(begin, most_negative, absorbed, f"density at t={t:g}")
        return found

    def current(self, density: GridDensity) -> Float[np.ndarray, "..."]:
        """The probability current J = b p − ∇·(D p) at the cell centres, (cells..., d).

        ∫J dθ = d⟨θ⟩/dt holds exactly (no absorption), and so does the areal velocity
        ½⟨x₁dx₂ − x₂dx₁⟩/dt = ½∫(x₁J₂ − x₂J₁)dθ of the jump chain.
        """
        check_part("density", density, GridDensity, "a GridDensity")
        masses = start_masses(self.grid, density)
        flow = sparse.coo_array(sparse.diags_array(masses) @ self.generator)
        row, column = flow.coords
        net = np.where(row != column, flow.data, 0.0)
        centres = self.grid.centres
        step = (centres[column] - centres[row]) * net[:, None] / 2
        field = np.zeros_like(centres)
        np.add.at(field, row, step)
        np.add.at(field, column, step)
        through = masses[:, None] * (self.absorption[:, :, 1] - self.absorption[:, :, 0])
        field += through * self.grid.spacing / 2
        return (field / self.grid.volume).reshape(*self.grid.shape, self.grid.dimension)

    def _density(
        self, masses: np.ndarray, most_negative: float, absorbed: np.ndarray, when: str
    ) -> GridDensity:
        lost = check_lost(self.grid, masses, self.mass_tolerance, when)
        values = (masses / self.grid.volume).reshape(self.grid.shape)
        return GridDensity(self.grid, values, most_negative, absorbed, lost)
