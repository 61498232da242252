"""The score of a law on the line, from its Fokker–Planck equation."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_number, check_part, check_whole
from sde_sgd.processes.continuous.score import AbstractScore
from sde_sgd.theory.equations.scores import check_place, check_span, everywhere
from sde_sgd.theory.laws.fokker_planck import FokkerPlanck
from sde_sgd.theory.laws.grid_density import GridDensity
from sde_sgd.types import Positions, RealLike, Scalar, Vector

_MOST_TIMES = 100_000


class GridScore(AbstractScore):
    """∂_x log p_t of a one-dimensional `FokkerPlanck` equation, propagated from a start law.

    On the faces between cells s = (log p_{i+1} − log p_i)/h, of error O(h²) as the density itself;
    between faces and times by cubic (Lagrange) interpolation, of fourth order. Densities come from
    uniformisation, a series of non-negative terms, so that log p is good in the tails as well.

    **Arguments:**

    - `equation`: one-dimensional, with sides that do not absorb.
    - `start`: the law at t = 0 as in `FokkerPlanck.propagate`, positive in every cell. A point has
      no score at t = 0.
    - `duration`: the last t, > 0; `num_times`: equal intervals of time, ≥ 3. The error of
      interpolation is that of fourth order in duration/num_times: compare with twice as many.

    Outside the faces of the outermost cells the score is NaN: members that get there count as
    diverged, and starts there are refused.

    **Raises:** `ValueError` for another dimension, absorbing sides, a diffusion that vanishes at
    a side, densities that vanish somewhere
    (box too wide for double precision, or a start that is a point).
    """

    table: Float[Array, "times faces"]
    first_face: Scalar
    spacing: Scalar
    interval: Scalar
    duration: float = eqx.field(static=True)

    def __init__(
        self,
        equation: FokkerPlanck,
        start: GridDensity | Callable | ArrayLike,
        *,
        duration: RealLike,
        num_times: int = 64,
    ):
        check_part("equation", equation, FokkerPlanck, "a FokkerPlanck equation")
        if equation.grid.dimension != 1:
            raise ValueError(
                "GridScore needs an equation in one dimension: in the plane its "
                "densities are of first order pointwise, and their derivatives are not good enough."
            )
        if equation.absorption.any():
            raise ValueError(
                'GridScore needs sides that do not absorb: with sides="absorbing" mass is lost, '
                "which no flow of members can do."
            )
        if equation.wall_powers.any():
            raise ValueError(
                "GridScore needs a diffusion that is positive at the sides of the box: where it "
                "vanishes the density is a power of the distance, whose score no grid resolves. "
                "Take the logarithm of the distance as coordinate, or another box."
            )
        num_times = check_whole("num_times", num_times, 3, _MOST_TIMES)
        last = check_number("duration", duration, above=0, below=1e15)
        times = last * np.arange(num_times + 1) / num_times
        rows = [_log_slopes(density, t) for density, t in _densities(equation, start, times)]
        grid = equation.grid
        self.table = jnp.asarray(np.stack(rows))
        self.first_face = jnp.asarray(grid.edges(0)[1])
        self.spacing = jnp.asarray(grid.spacing[0])
        self.interval = jnp.asarray(last / num_times)
        self.duration = last

    @property
    def dimension(self) -> int:
        return 1

    @property
    def last_time(self) -> float:
        return self.duration

    @property
    def domain(self) -> tuple[float, float]:
        """The interval of θ on which the score is known."""
        first = float(self.first_face)
        return first, first + float(self.spacing) * (self.table.shape[1] - 1)

    def check(self, time: float) -> None:
        check_span("this GridScore", time, 0.0, self.duration)

    def inside(self, theta: Positions) -> Bool[Array, " members"]:
        low, high = self.domain
        everywhere(theta, 1)
        return (theta[:, 0] >= low) & (theta[:, 0] <= high)

    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        t, theta = check_place(t, theta, 1)
        num_times, num_faces = self.table.shape
        place = (theta[0] - self.first_face) / self.spacing
        row, in_time = _cubic(t / self.interval, num_times)
        column, in_space = _cubic(place, num_faces)
        block = lax.dynamic_slice(self.table, (row, column), (4, 4))
        value = in_time @ block @ in_space
        known = (place >= 0) & (place <= num_faces - 1)
        return jnp.where(known, value, jnp.nan)[None]


def _cubic(place: Scalar, count: int) -> tuple[Array, Float[Array, " 4"]]:
    """First of four neighbouring nodes and their Lagrange weights, `place` in units of nodes."""
    # NaN and far places become some node; `known` above decides.
    first = jnp.clip(jnp.floor(jnp.nan_to_num(place)) - 1, 0, count - 4)
    a = place - first
    b, c, d = a - 1, a - 2, a - 3
    weights = jnp.stack([-b * c * d / 6, a * c * d / 2, -a * b * d / 2, a * b * c / 6])
    return first.astype(jnp.int32), weights


def _densities(equation: FokkerPlanck, start, times: np.ndarray):
    return zip(equation.propagate(start, times), times, strict=True)


def _log_slopes(density: GridDensity, time: float) -> np.ndarray:
    values = density.values
    if (values <= 0).any() or density.most_negative < 0:
        place = density.grid.axis_centres(0)[int(np.argmin(values))]
        raise ValueError(
            f"at t = {time:g} the density is {values.min():g} at θ = {place:g}, where it has no "
            f"score. Start from a law that is positive in every cell (not from a point), take a "
            f"smaller box, or ask for more num_times."
        )
    return np.diff(np.log(values)) / density.grid.spacing[0]
