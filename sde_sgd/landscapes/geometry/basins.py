"""Basins of attraction: minima and saddles of a landscape, and which minimum a point flows to."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from sde_sgd._checks import (
    as_float64,
    check_finite,
    check_landscape,
    check_number,
    check_part,
    in_brief,
)
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.geometry.critical_points import stationary_point, StationaryPoint
from sde_sgd.landscapes.gradient_flow import Ending, FlowEnd, follow, follow_all, TOLERANCE
from sde_sgd.landscapes.modes import (
    flat_directions,
    least_curvature,
    MOST_MODES,
    refuse_many_dimensions,
)
from sde_sgd.types import RealLike

# Of the distance between two minima, the points tried on the way from one to the other.
_SCAN = 17
_MULTISECTIONS = 12
# Directions in which the curvature around a minimum is looked at.
_MOST_DIRECTIONS = 64


class Saddle(NamedTuple):
    """A stationary point of index 1, and the basins on its two sides.

    **Fields:** `point`, a `StationaryPoint`; `between`, the numbers of the two minima.
    """

    point: StationaryPoint
    between: tuple[int, int]


class Basins(eqx.Module):
    """The minima of a landscape, and the gradient flow dθ/dt = −∇L(θ) that leads to them.

    Calling it with θ (d,) gives the number of the minimum that the flow from θ reaches, −1 if
    it reaches none of them (a saddle, a minimum that is not in the list, infinity): a JAX
    function, for `Occupation` or `weights_on_grid`. Every call is an ODE solve: for long
    runs a label in closed form, or `Occupation(every=...)`, is cheaper.

    **Fields:** `minima` (m, d); `points`, m `StationaryPoint`s, in order of their loss;
    `radii` (m,): the flow is a minimum's once it is as near as this, where ∇²L > 0 all around;
    `tolerance`: of the error of a step of the flow, relative to its length.

    Made by `find_basins`.
    """

    landscape: AbstractLandscape
    minima: Float[Array, "m d"]
    points: tuple[StationaryPoint, ...]
    radii: Float[Array, " m"]
    tolerance: Float[Array, ""]

    def __call__(self, theta: Float[Array, " d"]) -> Int[Array, ""]:
        if theta.shape != (self.landscape.dimension,):
            raise ValueError(
                f"these basins are those of a landscape with d = {self.landscape.dimension}; got "
                f"θ of shape {theta.shape}."
            )
        end = follow(self.landscape, theta, self.tolerance, self.minima, self.radii)
        near = jnp.linalg.norm(self.minima - end.theta, axis=1) <= self.radii
        return jnp.where(near.any(), jnp.argmax(near), -1)

    def assign(self, points: ArrayLike) -> Int[np.ndarray, " n"]:
        """The number of the basin of each of `points` (n, d), by the flow of all of them at once.

        **Raises:** `ValueError` for a point that flows to none of the minima, with the reason:
        it lies on a saddle or its ridge, in the basin of a minimum that is not in the list, …
        """
        theta = _positions(self.landscape, points, "points")
        ends, labels = _labels(self, theta)
        lost = labels < 0
        if lost.any():
            unknown = {Ending.MINIMUM: _UNKNOWN}
            raise ValueError(
                f"{lost.sum()} of {len(labels)} points flow to none of the {len(self.points)} "
                f"minima: {_reasons(theta, ends, lost, unknown)}."
            )
        return labels


_UNKNOWN = "comes to rest at a minimum that was not found: give find_basins a start in its basin"


def _reasons(theta, ends: FlowEnd, chosen: np.ndarray, other: dict[Ending, str] | None = None):
    """For each way in which the chosen flows ended, how many did, the first of them, and why."""
    parts = []
    for number in np.unique(ends.ending[chosen]):
        those = np.flatnonzero(chosen & (ends.ending == number))
        i, reason = those[0], (other or {}).get(Ending(number), Ending(number).reason)
        parts.append(
            f"of {len(those)} the flow {reason} (the first from {in_brief(theta[i])} to "
            f"{in_brief(ends.theta[i])}, where |gradient| = {ends.slope[i]:.3g})"
        )
    return "; ".join(parts)


def _labels(basins: Basins, theta: np.ndarray) -> tuple[FlowEnd, Int[np.ndarray, " n"]]:
    """The ends of many flows, and what calling `basins` gives for them."""
    ends = follow_all(basins.landscape, theta, basins.tolerance)
    distance = np.linalg.norm(ends.theta[:, None] - np.asarray(basins.minima), axis=2)
    near = distance <= np.asarray(basins.radii)
    return ends, np.where(near.any(axis=1), near.argmax(axis=1), -1)


def flow_ends(
    landscape: AbstractLandscape, starts: ArrayLike, *, tolerance: RealLike = TOLERANCE
) -> FlowEnd:
    """Where the gradient flow dθ/dt = −∇L(θ) comes to rest from each of `starts` (n, d), and how.

    Of each start an `Ending`, whose `reason` is a sentence: for the starts that `find_basins`
    refuses. `tolerance` as there. Up to d = 64 every step forms ∇²L; beyond, it takes 64
    Hessian–vector products.

    **Raises:** `ValueError` for starts of another shape, or not finite.
    """
    theta = _positions(landscape, starts, "starts")
    return follow_all(landscape, theta, check_number("tolerance", tolerance, above=0))


def find_basins(
    landscape: AbstractLandscape,
    starts: ArrayLike,
    *,
    tolerance: RealLike = TOLERANCE,
    merge: RealLike = 1e-6,
) -> Basins:
    """The minima to which the gradient flow leads from `starts`, without repetition.

    Each flow is followed until Newton's step is at rounding and ∇²L > 0; ends within `merge` are
    one minimum.

    **Arguments:**

    - `landscape`: with isolated minima (of a network with l2, say). ∇²L is formed at each minimum:
      d = 100 takes seconds, d = 1 000 minutes, and 4 096 is the most; beyond, and for minima that
      are not isolated, use `landscape.minimise` and `label_by_nearest`.
    - `starts`: (n, d), a grid of points say. A minimum whose basin holds none is not found.
    - `tolerance`: of the error of a step of the flow, relative to its length.
    - `merge`: distance of two ends that are the same minimum, in units of max(1, |θ|).

    **Raises:** `ValueError` where a flow ends otherwise, with the reason (see `flow_ends`): at a
    saddle, in a flat valley, at infinity, …; for starts of another shape; for d > 4 096.
    """
    check_landscape(landscape, AbstractLandscape)
    refuse_many_dimensions("find_basins", landscape.dimension)
    theta = _positions(landscape, starts, "starts")
    rough, width = (
        check_number("tolerance", tolerance, above=0),
        check_number("merge", merge, above=0),
    )
    ends = follow_all(landscape, theta, rough)
    lost = ends.ending != Ending.MINIMUM
    if lost.any():
        raise ValueError(
            f"{lost.sum()} of {len(theta)} starts lead to no minimum: "
            f"{_reasons(theta, ends, lost, _flatness(landscape, ends))}."
        )
    found: list[StationaryPoint] = []
    for end in ends.theta:
        if not any(_near(end, p.theta, width) for p in found):
            found.append(stationary_point(landscape, end, index=0))
    found.sort(key=lambda p: p.loss)
    minima, dtype = np.stack([p.theta for p in found]), landscape.dtype
    return Basins(
        landscape,
        jnp.asarray(minima, dtype),
        tuple(found),
        jnp.asarray([_radius(landscape, p, minima) for p in found], dtype),
        jnp.asarray(rough, dtype),
    )


@eqx.filter_jit
def _least_curvatures(landscape, theta):
    """The smallest eigenvalue of ∇²L at many points (n, d); in turn where each is dear."""

    def one(x):
        return least_curvature(landscape, x)

    return jax.vmap(one)(theta) if landscape.dimension <= MOST_MODES else lax.map(one, theta)


def _flatness(landscape: AbstractLandscape, ends: FlowEnd) -> dict[Ending, str]:
    """How many directions are flat at the first flow that ended in a flat place."""
    flat = np.flatnonzero(ends.ending == Ending.FLAT)
    if not len(flat):
        return {}
    hess = compiled.hessian(landscape, jnp.asarray(ends.theta[flat[0]], landscape.dtype))
    told = flat_directions(np.linalg.eigvalsh(np.asarray(hess, float)), landscape.dtype)
    return {Ending.FLAT: f"comes to rest where {told}"} if told else {}


def _radius(landscape, point: StationaryPoint, minima: np.ndarray) -> float:
    """How far around a minimum ∇²L > 0: from there |θ − θ*| falls along the flow."""
    gaps = np.linalg.norm(minima - point.theta, axis=1)
    radius = 0.05 * min(gaps[gaps > 0], default=max(1.0, float(np.linalg.norm(point.theta))))
    directions = np.linalg.eigh(point.hessian)[1].T[:_MOST_DIRECTIONS]
    sphere = np.concatenate([directions, -directions])
    for _ in range(30):
        places = jnp.asarray(point.theta + radius * sphere, landscape.dtype)
        if (np.asarray(_least_curvatures(landscape, places)) >= point.eigenvalues[0] / 2).all():
            break
        radius /= 2
    return radius


def find_saddles(basins: Basins) -> list[Saddle]:
    """Saddles of index 1 met on the straight ways between all pairs of minima, without repetition.

    Between neighbouring points of different basins the boundary is found by multisection; the flow
    on the boundary leads towards its saddle before it turns away, and the search ends with
    Newton's method from where its step was shortest. Both ways down are then followed: `between`
    says where they end. A boundary whose flow runs to infinity has no saddle.

    **Raises:** `ValueError` with fewer than two minima.
    """
    check_part("basins", basins, Basins, "what ss.landscapes.find_basins gives")
    if len(basins.points) < 2:
        raise ValueError("There is one minimum only: a saddle lies between two.")
    found: list[Saddle] = []
    for i, first in enumerate(basins.minima):
        for second in basins.minima[:i]:
            for guess in _crossings(basins, np.asarray(first), np.asarray(second)):
                saddle = _saddle(basins, guess)
                if saddle is not None and not any(
                    _near(saddle.point.theta, s.point.theta, 1e-6) for s in found
                ):
                    found.append(saddle)
    return sorted(found, key=lambda s: s.point.loss)


def _crossings(basins: Basins, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Points where the straight way crosses a boundary, to rounding."""

    def labels(shares):
        line = first + shares[:, None] * (second - first)
        return _labels(basins, line)[1]

    shares = np.linspace(0, 1, _SCAN)
    numbers = labels(shares)
    places = []
    for k in np.flatnonzero(numbers[1:] != numbers[:-1]):
        low, high = shares[k], shares[k + 1]
        for _ in range(_MULTISECTIONS):
            inner = np.linspace(low, high, _SCAN)
            change = np.flatnonzero(labels(inner)[1:] != numbers[k])
            cut = int(change[0]) if len(change) else _SCAN - 2
            low, high = inner[cut], inner[cut + 1]
        places.append(first + (low + high) / 2 * (second - first))
    return places


def _saddle(basins: Basins, guess: np.ndarray) -> Saddle | None:
    """The saddle that the flow from a boundary point approaches."""
    ends, _ = _labels(basins, guess[None])
    if not np.isfinite(ends.pass_[0]).all():
        return None
    try:
        point = stationary_point(basins.landscape, ends.pass_[0], index=1)
    except ValueError:
        return None
    _, vectors = np.linalg.eigh(point.hessian)
    step = 1e-3 * float(np.min(np.linalg.norm(np.asarray(basins.minima) - point.theta, axis=1)))
    sides = np.stack([point.theta + sign * step * vectors[:, 0] for sign in (1, -1)])
    _, labels = _labels(basins, sides)
    if (labels < 0).any() or labels[0] == labels[1]:
        return None
    low, high = sorted(int(label) for label in labels)
    return Saddle(point, (low, high))


def _near(a: np.ndarray, b: np.ndarray, width: float) -> bool:
    return bool(np.linalg.norm(a - b) <= width * max(1.0, float(np.linalg.norm(b))))


def _positions(
    landscape: AbstractLandscape, points: ArrayLike, name: str
) -> Float[np.ndarray, "n d"]:
    check_landscape(landscape, AbstractLandscape)
    array = as_float64(name, points)
    if array.ndim != 2 or array.shape[1] != landscape.dimension or not len(array):
        raise ValueError(f"{name} must be (n, {landscape.dimension}), got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{int((~np.isfinite(array)).any(axis=1).sum())} of {name} are not finite."
        )
    return array


def label_by_nearest(centres: ArrayLike, radius: RealLike = np.inf) -> Callable:
    """A label θ ↦ number of the nearest of `centres` (m, d), −1 beyond `radius` of all of them.

    Cheap, and exact as a set of cores: with a radius below half the distance of two centres
    `Occupation` counts a transition only once the next core is reached.
    """
    places = jnp.asarray(np.array(as_float64("centres", centres)))
    if places.ndim != 2 or not places.size:
        raise ValueError(f"centres must be (m, d), got shape {places.shape}.")
    check_finite("centres", places)
    reach = as_float64("radius", radius)
    if reach.shape != () or not reach > 0:
        raise ValueError(f"radius must be a number > 0; got {in_brief(radius)}.")

    def label(theta):
        distance = jnp.linalg.norm(places.astype(theta.dtype) - theta, axis=1)
        nearest = jnp.argmin(distance)
        return jnp.where(distance[nearest] <= reach, nearest, -1)

    return label
