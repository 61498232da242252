"""Laws of single entries of θ: drift and diffusion averaged over all other entries."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike
from scipy import special

from sde_sgd._checks import check_list, check_number, check_whole, in_brief, real_values
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.theory import _arguments
from sde_sgd.theory._fields import Field
from sde_sgd.theory.laws._finite_volume import Grid, make_grid
from sde_sgd.theory.laws.fokker_planck import FokkerPlanck
from sde_sgd.theory.laws.grid_density import GridDensity, start_masses
from sde_sgd.types import Matrix, RealLike, Vector

_BLOCK = 1024
# The outermost knots in normal scores: half a per cent of the points lies beyond either.
_REACH = 2.6


def _table_of(name: str) -> Any:
    """A field with one row of numbers for each group."""
    return eqx.field(converter=lambda value: _arguments.array(name, value, 2))


class EntryCoefficients(eqx.Module):
    """b_g(w) and D_g(w) of an entry of each group g, linear between knots and beyond the last.

    **Fields:** `knots` (groups, K) increasing; `drift`, `diffusion` (groups, K), their values
    there. Between and beyond the knots D is set to 0 where the line falls below.
    """

    knots: Float[np.ndarray, "groups knots"] = _table_of("knots")
    drift: Float[np.ndarray, "groups knots"] = _table_of("drift")
    diffusion: Float[np.ndarray, "groups knots"] = _table_of("diffusion")

    def __check_init__(self):
        shapes = {self.knots.shape, self.drift.shape, self.diffusion.shape}
        if len(shapes) != 1 or self.knots.shape[1] < 2:
            raise ValueError(
                f"knots, drift and diffusion must have one shape (groups, K >= 2); got "
                f"{self.knots.shape}, {self.drift.shape} and {self.diffusion.shape}."
            )
        if not (np.diff(self.knots, axis=1) > 0).all():
            raise ValueError("the knots of each group must increase.")

    def equation(self, group: int, box: Any, cells: int, **options: Any) -> FokkerPlanck:
        """∂p/∂t = −∂(b_g p) + ∂²(D_g p) of one group; other arguments as `FokkerPlanck`."""
        check_whole("group", group, 0, len(self.knots) - 1)
        arrays = [jnp.asarray(x[group]) for x in (self.knots, self.drift, self.diffusion)]
        drift = _table(_drift, _drifts, arrays[0], arrays[1], (1,))
        diffusion = _table(_diffusion, _diffusions, arrays[0], arrays[2], (1, 1))
        return FokkerPlanck(Diffusion(drift, diffusion), box, cells, **options)

    def equations(
        self, number: int, box: Any, cells: int, mass_tolerance: float
    ) -> list[FokkerPlanck]:
        """Those of all groups, of which there must be `number`."""
        if number != len(self.knots):
            raise ValueError(f"{number} densities for {len(self.knots)} groups of coefficients.")
        options: Any = dict(mass_tolerance=mass_tolerance)
        return [self.equation(g, box, cells, **options) for g in range(number)]


def conditional_coefficients(
    landscape: AbstractLandscape,
    noise: AbstractGradientNoise,
    positions: ArrayLike,
    groups: Sequence[ArrayLike],
    *,
    learning_rate: RealLike,
    weights: ArrayLike | None = None,
    num_knots: int = 13,
) -> EntryCoefficients:
    """b_g(w) = E[−∂_iL(θ) | θ_i = w] and D_g(w) = (η/2) E[C_ii(θ) | θ_i = w], i drawn from group g.

    The density of one coordinate of an Itô diffusion obeys the Fokker–Planck equation whose drift
    and diffusion are those of the coordinate, averaged over the law of θ *given* that coordinate.
    With θ from the joint law at time t this is exact, whatever the correlations; with θ from a
    product of laws it is a closure (`product_closure`). The same holds for an entry drawn from a
    group at random, whose density is the mean over the group. The averages are fitted as
    `fit_entries` does. Units of time: t = η·iterations.

    **Arguments:**

    - `noise`: its `covariance` C(θ) is that of the gradient of one iteration.
    - `positions`: θ, (n, d), from the law to be averaged over.
    - the others as `fit_entries`.

    **Raises:** `ValueError` for positions of another dimension, and as `fit_entries`.

    **Source:** Gyöngy, Probab. Theory Relat. Fields 71 (1986) 501, for the marginals; for the
    densities of weight matrices Bu, Kol, Liu 2025 (2501.09659).
    """
    rates = entry_rates(landscape, noise, positions, learning_rate=learning_rate)
    return fit_entries(positions, rates, groups, weights=weights, num_knots=num_knots)


def entry_rates(
    landscape: AbstractLandscape,
    noise: AbstractGradientNoise,
    positions: ArrayLike,
    *,
    learning_rate: RealLike,
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """−∂_iL(θ) and (η/2)C_ii(θ) of every entry at many θ, (n, d) → 2 × (n, d): see `fit_entries`.

    **Raises:** `ValueError` for positions of another dimension, η ≤ 0.
    """
    _arguments.problem(landscape, noise)
    points = _arguments.array("positions", positions, 2)
    eta = check_number("learning_rate", learning_rate, above=0)
    if points.shape[1] != landscape.dimension:
        raise ValueError(
            f"positions must be (n, {landscape.dimension}) for this landscape; got {points.shape}."
        )
    slope, variance = _evaluate(landscape, noise, jnp.asarray(points, landscape.dtype))
    return -np.asarray(slope, float), eta / 2 * np.asarray(variance, float)


def fit_entries(
    positions: ArrayLike,
    rates: tuple[ArrayLike, ArrayLike],
    groups: Sequence[ArrayLike],
    *,
    weights: ArrayLike | None = None,
    num_knots: int = 13,
) -> EntryCoefficients:
    """Averages of the rates of an entry given its value, piecewise linear in that value.

    Least-squares fits, weighted by the points, of functions that are linear between knots, at
    quantiles of the points equally spaced in normal scores. A fit b̂ keeps
    E b̂(w)φ(w) = E bφ(w) for every such function φ.

    **Arguments:**

    - `positions`: (n, d); `rates`: drift and diffusion of each entry there, 2 × (n, d).
    - `groups`: for each law the indices of its entries, whose points are pooled.
    - `weights`: (n,) ≥ 0, of the points; equal if not given.
    - `num_knots`: K. The bias is of order K⁻², the variance of order K/n.

    **Raises:** `ValueError` for shapes, indices outside 0…d−1 or in two groups, negative weights,
    entries with too few different values for K knots (a start at one point has no law to average
    over).
    """
    points = _arguments.array("positions", positions, 2)
    if not isinstance(rates, tuple | list) or len(rates) != 2:
        raise ValueError(f"rates must be a pair (drift, diffusion); got {in_brief(rates)}.")
    drift, diffusion = (_arguments.array("rates", rate, 2) for rate in rates)
    members = check_groups(groups, points.shape[1])
    if drift.shape != points.shape or diffusion.shape != points.shape:
        raise ValueError(
            f"rates must have the shape {points.shape} of the positions; got {drift.shape} and "
            f"{diffusion.shape}."
        )
    if check_whole("num_knots", num_knots, 2) * 10 > len(points):
        raise ValueError(
            f"num_knots must be at most a tenth of the {len(points)} positions; got {num_knots}."
        )
    share = np.ones(len(points)) if weights is None else _arguments.array("weights", weights, 1)
    if share.shape != (len(points),) or (share < 0).any() or share.sum() == 0:
        raise ValueError(f"weights must be ({len(points)},), >= 0 and not all 0.")
    knots, fits = [], []
    for place, index in enumerate(members):
        w = points[:, index].ravel()
        weight = np.repeat(share, len(index))
        values, at = _quantiles(w, weight, num_knots)
        between = np.histogram(values, at)[0] if (np.diff(at) > 0).all() else np.zeros(1)
        if between.min() == 0:
            raise ValueError(
                f"the entries of group {place} take {len(values)} different values, too few for "
                f"{num_knots} knots: ask for fewer knots, or average at a later time if this is a "
                f"start at one point."
            )
        knots.append(at)
        targets = np.stack([drift[:, index].ravel(), diffusion[:, index].ravel()])
        fits.append(_fit(at, w, targets, weight))
    found = np.stack(fits)
    return EntryCoefficients(np.stack(knots), found[:, 0], np.maximum(found[:, 1], 0.0))


def evolve_entries(
    coefficients: Sequence[EntryCoefficients],
    times: ArrayLike,
    starts: Sequence[Any],
    *,
    box: Any,
    cells: int,
    mass_tolerance: float = 1e-6,
) -> list[list[GridDensity]]:
    """The density of an entry of each group at `times`, coefficients constant in between.

    From t_n to t_{n+1} the equation has the coefficients of t_n in the first half of the
    interval and those of t_{n+1} in the second: errors of second order in the interval.

    **Arguments:**

    - `coefficients`: one for each of the times.
    - `times`: (T,) increasing, the first one that of the starts.
    - `starts`: for each group a `GridDensity` or another start of `FokkerPlanck.propagate`.
    - `box`, `cells`, `mass_tolerance`: of all equations, as `FokkerPlanck`.

    **Returns:** for each time a list of one `GridDensity` for each group.

    **Raises:** `ValueError` for lengths that differ, times that do not increase, and as
    `FokkerPlanck`.
    """
    coefficients = _arguments.members(
        "coefficients", coefficients, EntryCoefficients, "EntryCoefficients"
    )
    clock = _arguments.array("times", times, 1)
    if len(clock) != len(coefficients) or not (np.diff(clock) > 0).all():
        raise ValueError(
            f"times must increase, one for each of the {len(coefficients)} coefficients; got "
            f"{clock.tolist()}."
        )
    now = entry_densities(starts, box, cells)
    found, steps = [now], np.diff(clock)
    for n, table in enumerate(coefficients):
        equations = table.equations(len(now), box, cells, mass_tolerance)
        if n > 0:
            now = advance(equations, now, steps[n - 1] / 2)
            found.append(now)
        if n < len(steps):
            now = advance(equations, now, steps[n] / 2)
    return found


def entry_densities(starts: Sequence[Any], box: Any, cells: int) -> list[GridDensity]:
    """The starts as densities on one grid."""
    grid: Grid = make_grid(box, cells, "reflecting")
    if grid.dimension != 1:
        raise ValueError(f"the law of one entry lives on one axis; got box={in_brief(box)}.")
    starts = check_list("starts", starts, "[0.0, 1.0]")
    zero = np.zeros((1, 2))
    return [
        GridDensity(grid, start_masses(grid, start) / grid.volume, 0.0, zero, 0.0)
        for start in starts
    ]


def advance(
    equations: Sequence[FokkerPlanck], densities: Sequence[GridDensity], duration: float
) -> list[GridDensity]:
    """The density of each group after `duration` with fixed coefficients."""
    pairs = zip(equations, densities, strict=True)
    return [equation.propagate(density, [duration])[0] for equation, density in pairs]


def check_groups(groups: Sequence[ArrayLike], dimension: int) -> list[Int[np.ndarray, " n"]]:
    """Disjoint sets of indices of θ, or `ValueError`."""
    rows = check_list("groups", groups, "[[0, 1], [2]]")
    found = [np.atleast_1d(np.asarray(real_values("groups", g))) for g in rows]
    flat = np.concatenate([g.ravel() for g in found]) if found else np.zeros(0, int)
    right = flat.dtype.kind in "iu" and all(g.ndim == 1 and g.size for g in found)
    if not right or not flat.size or flat.min() < 0 or flat.max() >= dimension:
        raise ValueError(
            f"groups must be lists of indices of θ between 0 and {dimension - 1}; got "
            f"{in_brief(groups)}."
        )
    if len(np.unique(flat)) != len(flat):
        raise ValueError(f"an entry may belong to one group only; got {in_brief(groups)}.")
    return found


@eqx.filter_jit
def _evaluate(
    landscape: AbstractLandscape, noise: AbstractGradientNoise, points: Float[Array, "n d"]
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """∇L and the diagonal of C at every point."""

    def one(theta: Vector) -> tuple[Vector, Vector]:
        covariance: Matrix = noise.covariance(theta, landscape)
        return landscape.gradient(theta), jnp.diagonal(covariance)

    return lax.map(one, points, batch_size=_BLOCK)


def _quantiles(w: np.ndarray, weight: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Different values, and weighted quantiles at levels equally spaced in normal scores."""
    # Equal values count once, so that points on a grid have quantiles between its lines.
    values, inverse = np.unique(w, return_inverse=True)
    mass = np.bincount(inverse, weight)
    level = (np.cumsum(mass) - mass / 2) / mass.sum()
    wanted = special.ndtr(np.linspace(-_REACH, _REACH, number))
    return values, np.interp(wanted, level, values)


def _fit(
    knots: np.ndarray, w: np.ndarray, targets: np.ndarray, weight: np.ndarray
) -> Float[np.ndarray, "targets knots"]:
    """Values at the knots of the least-squares fit, linear between and beyond them."""
    left = np.clip(np.searchsorted(knots, w, side="right") - 1, 0, len(knots) - 2)
    right_share = (w - knots[left]) / (knots[left + 1] - knots[left])
    left_share = 1 - right_share
    size = len(knots)

    def total(places, values):
        return np.bincount(places, weight * values, minlength=size)

    matrix = np.diag(total(left, left_share**2) + total(left + 1, right_share**2))
    beside = total(left, left_share * right_share)[:-1]
    matrix += np.diag(beside, 1) + np.diag(beside, -1)
    sides = [total(left, left_share * y) + total(left + 1, right_share * y) for y in targets]
    return np.linalg.solve(matrix, np.stack(sides, axis=1)).T


def _line(knots: Array, values: Array, theta: Vector) -> Array:
    place = jnp.clip(jnp.searchsorted(knots, theta[0], side="right") - 1, 0, knots.shape[0] - 2)
    share = (theta[0] - knots[place]) / (knots[place + 1] - knots[place])
    return (1 - share) * values[place] + share * values[place + 1]


def _drift(knots: Array, values: Array, theta: Vector) -> Vector:
    return _line(knots, values, theta)[None]


def _diffusion(knots: Array, values: Array, theta: Vector) -> Matrix:
    return jnp.maximum(_line(knots, values, theta), 0.0)[None, None]


# Compiled once for all tables of one length: there are as many tables as instants.
_drifts, _diffusions = (jax.jit(jax.vmap(f, (None, None, 0))) for f in (_drift, _diffusion))


def _table(one: Callable, many: Callable, knots: Array, values: Array, shape) -> Field:
    arrays = knots, values
    return Field(functools.partial(one, *arrays), functools.partial(many, *arrays), 1, shape)
