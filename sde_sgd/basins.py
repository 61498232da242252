"""Basins of attraction: minima and saddles of a landscape, and which minimum a point flows to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from .landscapes.base import AbstractLandscape
from .landscapes.real_arrays import as_float64
from .theory.eyring_kramers import stationary_point, StationaryPoint
from .types import RealLike

_MOST_SOLVER_STEPS = 4096
# Of the distance between two minima, the points tried on the way from one to the other.
_SCAN = 17
_MULTISECTIONS = 12


class Saddle(NamedTuple):
    """A stationary point of index 1, and the basins on its two sides.

    **Fields:** `point`, a `StationaryPoint`; `between`, the numbers of the two minima.
    """

    point: StationaryPoint
    between: tuple[int, int]


class Basins(eqx.Module):
    """The minima of a landscape, and the gradient flow dθ/ds = −∇L(θ) that leads to them.

    Calling it with θ (d,) gives the number of the minimum that the flow from θ reaches, −1 if
    it reaches none of them (a saddle, a minimum that is not in the list, infinity): a JAX
    function, for `Occupation` or `weights_on_grid`. Every call is an ODE solve: for long
    runs a label in closed form, or `Occupation(every=...)`, is cheaper.

    **Fields:** `minima` (m, d); `points`, m `StationaryPoint`s, in order of their loss;
    `tolerance`: the flow ends where |∇L| ≤ tolerance·max |∇L at the start|, 1e-3 say, and is then
    the nearest minimum's if within `capture` of it.

    Made by `find_basins`.
    """

    landscape: AbstractLandscape
    minima: Float[Array, "m d"]
    points: tuple[StationaryPoint, ...]
    tolerance: Float[Array, ""]
    capture: Float[Array, ""]

    def __call__(self, theta: Float[Array, " d"]) -> Int[Array, ""]:
        if theta.shape != (self.landscape.dimension,):
            raise ValueError(
                f"these basins are those of a landscape with d = {self.landscape.dimension}; got "
                f"θ of shape {theta.shape}."
            )
        end = flow_to_rest(self.landscape, theta, self.tolerance, self.minima, self.capture / 2)
        distance = jnp.linalg.norm(self.minima - end, axis=1)
        nearest = jnp.argmin(distance)
        return jnp.where(distance[nearest] <= self.capture, nearest, -1)

    def assign(self, points: ArrayLike) -> Int[np.ndarray, " n"]:
        """The number of the basin of each of `points` (n, d), by the flow of all of them at once.

        **Raises:** `ValueError` for a point that flows to none of the minima: one that
        lies on a saddle or its ridge, or in the basin of a minimum that is not in the list.
        """
        theta = np.asarray(_positions(self.landscape, points))
        labels = _labels(self, theta)
        lost = np.flatnonzero(labels < 0)
        if len(lost):
            first = theta[lost[0]].tolist()
            raise ValueError(
                f"{len(lost)} of {len(labels)} points flow to none of the {len(self.points)} "
                f"minima, the first is {first}: it lies on a saddle or a ridge (move it a little), "
                f"or in the basin of a minimum that was not found (give it to find_basins)."
            )
        return labels


@eqx.filter_jit  # so that a label which several parts of a run ask for is traced once
def flow_to_rest(
    landscape: AbstractLandscape,
    theta: Float[Array, " d"],
    tolerance: Any,
    minima: Float[Array, "m d"] | None = None,
    radius: Any = 0.0,
) -> Float[Array, " d"]:
    """Where dθ/ds = −∇L(θ) comes to rest, |∇L| ≤ tolerance (or within `radius` of a minimum)."""

    def rested(t, y, args, **kwargs):
        still = jnp.linalg.norm(landscape.gradient(y)) <= tolerance
        if minima is None:
            return still
        return still | (jnp.min(jnp.linalg.norm(minima - y, axis=1)) <= radius)

    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda t, y, args: -landscape.gradient(y)),
        dfx.Tsit5(),
        0.0,
        jnp.inf,
        None,
        theta,
        stepsize_controller=dfx.PIDController(rtol=1e-6, atol=1e-9),
        event=dfx.Event(rested),
        max_steps=_MOST_SOLVER_STEPS,
        adjoint=dfx.ForwardMode(),
        throw=False,
    )
    assert solution.ys is not None
    return solution.ys[-1]


_FLOW = eqx.filter_jit(
    lambda landscape, theta, tolerance: jax.vmap(lambda x: flow_to_rest(landscape, x, tolerance))(
        theta
    )
)


def _ends(landscape, theta: np.ndarray, tolerance) -> np.ndarray:
    """Ends of the flows from θ (n, d), padded so that other n need no compilation."""
    num = len(theta)
    room = max(32, 1 << (num - 1).bit_length())
    filled = np.concatenate([theta, np.broadcast_to(theta[:1], (room - num, theta.shape[1]))])
    ends = _FLOW(landscape, jnp.asarray(filled, landscape.dtype), jnp.asarray(tolerance))
    return np.asarray(ends, np.float64)[:num]


def _labels(basins: Basins, theta: np.ndarray) -> np.ndarray:
    """What calling `basins` gives, for many points."""
    ends = _ends(basins.landscape, theta, basins.tolerance)
    distance = np.linalg.norm(ends[:, None] - np.asarray(basins.minima), axis=2)
    nearest = distance.argmin(axis=1)
    return np.where(distance.min(axis=1) <= float(basins.capture), nearest, -1)


_GRADIENTS = eqx.filter_jit(lambda landscape, theta: jax.vmap(landscape.gradient)(theta))


def find_basins(
    landscape: AbstractLandscape,
    starts: ArrayLike,
    *,
    tolerance: RealLike = 1e-4,
    merge: RealLike = 1e-3,
) -> Basins:
    """The minima to which the gradient flow leads from `starts`, without repetition.

    Each flow is followed until |∇L| has fallen to `tolerance` of its largest value at the starts,
    its end polished by `theory.stationary_point`; ends within `merge` are one minimum.

    **Arguments:**

    - `landscape`: with isolated minima and d so small that its Hessian can be formed.
    - `starts`: (n, d), a grid of points say. A minimum whose basin holds none is not found.
    - `tolerance`: relative, of the gradient at which the flow stops.
    - `merge`: distance of two ends that are the same minimum, in units of max(1, |θ|).

    **Raises:** `ValueError` for starts on a saddle (the flow stays there), starts from which there
    is no minimum (it runs to infinity), flat minima, starts of another shape.
    """
    theta = _positions(landscape, starts)
    rough, width = _positive("tolerance", tolerance), _positive("merge", merge)
    largest = float(np.linalg.norm(np.asarray(_GRADIENTS(landscape, theta)), axis=1).max())
    if not np.isfinite(largest):
        raise ValueError("the gradient is not finite at some of the starts.")
    scale = rough * max(largest, 1e-300)
    ends = _ends(landscape, np.asarray(theta), jnp.asarray(scale, landscape.dtype))
    slopes = np.linalg.norm(
        np.asarray(_GRADIENTS(landscape, jnp.asarray(ends, landscape.dtype))), axis=1
    )
    running = np.flatnonzero(~(slopes <= 2 * scale))
    if len(running):
        raise ValueError(
            f"{len(running)} of {len(theta)} starts have no minimum below them: the flow from "
            f"{np.asarray(theta[running[0]]).tolist()} is at {ends[running[0]].tolist()} with "
            f"|gradient| = {slopes[running[0]]:.3g} after {_MOST_SOLVER_STEPS} steps. Start "
            f"elsewhere, add l2, or raise tolerance."
        )
    found: list[StationaryPoint] = []
    for i, end in enumerate(ends):
        if any(_near(end, p.theta, 30 * width) for p in found):
            continue
        point = _rest(landscape, theta[i], end)
        if point.index > 0:
            raise ValueError(
                f"The start {np.asarray(theta[i]).tolist()} flows to {point.theta.tolist()}, a "
                f"saddle of index {point.index}, and stays there: move the start a little off it."
            )
        if not any(_near(point.theta, p.theta, width) for p in found):
            found.append(point)
    found.sort(key=lambda p: p.loss)
    return _basins(landscape, found, scale)


def _rest(landscape, start, end: np.ndarray) -> StationaryPoint:
    try:
        return stationary_point(landscape, end)
    except ValueError as error:
        raise ValueError(
            f"The flow from the start {np.asarray(start).tolist()} grows slow at {end.tolist()}, "
            f"but there is no isolated minimum: the basin has none, or it is flat. Add l2, start "
            f"elsewhere, or lower tolerance. ({error})"
        ) from None


def _basins(landscape, points: list[StationaryPoint], scale: float) -> Basins:
    minima = np.stack([p.theta for p in points])
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(minima) for b in minima[:i]]
    # Where |∇L| is at the tolerance a flow is still |∇L|/λ away from its minimum.
    reach = 4 * scale / min(p.eigenvalues[0] for p in points)
    capture = min(0.05 * min(gaps), max(reach, 1e-3)) if gaps else max(reach, 1e-3)
    dtype = landscape.dtype
    return Basins(
        landscape,
        jnp.asarray(minima, dtype),
        tuple(points),
        jnp.asarray(min(scale, capture * min(p.eigenvalues[0] for p in points) / 4), dtype),
        jnp.asarray(capture, dtype),
    )


def find_saddles(basins: Basins) -> list[Saddle]:
    """Saddles of index 1 met on the straight ways between all pairs of minima, without repetition.

    Between neighbouring points of different basins the boundary is found by multisection; the flow
    on the boundary leads towards its saddle before it turns away, and the search ends with
    Newton's method from where |∇L| was least. Both ways down are then followed: `between`
    says where they end.

    **Raises:** `ValueError` with fewer than two minima.
    """
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
        return _labels(basins, line)

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
    landscape, dtype = basins.landscape, basins.minima.dtype
    path = np.asarray(_path(landscape, jnp.asarray(guess, dtype)), np.float64)
    path = path[np.isfinite(path).all(axis=1)]
    slopes = np.linalg.norm(np.asarray(_GRADIENTS(landscape, jnp.asarray(path, dtype))), axis=1)
    # Every valley of |∇L| along the way is tried, the deepest first; that of the minimum at its end
    # has another index.
    inner = np.flatnonzero((slopes[1:-1] <= slopes[:-2]) & (slopes[1:-1] <= slopes[2:])) + 1
    point = None
    for place in [0, *inner[np.argsort(slopes[inner])]]:
        try:
            point = stationary_point(landscape, path[place], index=1)
            break
        except ValueError:
            continue
    if point is None:
        return None
    _, vectors = np.linalg.eigh(point.hessian)
    step = 1e-2 * float(np.min(np.linalg.norm(np.asarray(basins.minima) - point.theta, axis=1)))
    sides = np.stack([point.theta + sign * step * vectors[:, 0] for sign in (1, -1)])
    ends = _labels(basins, sides)
    if (ends < 0).any() or ends[0] == ends[1]:
        return None
    low, high = sorted(int(e) for e in ends)
    return Saddle(point, (low, high))


@eqx.filter_jit
def _path(landscape, theta):
    """The flow's solver steps from θ, padded with infinity."""
    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda t, y, args: -landscape.gradient(y)),
        dfx.Tsit5(),
        0.0,
        jnp.inf,
        None,
        theta,
        stepsize_controller=dfx.PIDController(rtol=1e-9, atol=1e-12),
        event=dfx.Event(lambda t, y, args, **kw: jnp.linalg.norm(landscape.gradient(y)) < 1e-10),
        saveat=dfx.SaveAt(steps=True),
        max_steps=1024,
        throw=False,
    )
    assert solution.ys is not None
    return jnp.concatenate([theta[None], solution.ys])


def _near(a: np.ndarray, b: np.ndarray, width: float) -> bool:
    return bool(np.linalg.norm(a - b) <= width * max(1.0, float(np.linalg.norm(b))))


def _positive(name: str, value: RealLike) -> float:
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}.")
    return number


def _positions(landscape: AbstractLandscape, points: ArrayLike) -> Float[Array, "n d"]:
    array = as_float64("points", points)
    if array.ndim != 2 or array.shape[1] != landscape.dimension or not len(array):
        raise ValueError(f"points must be (n, {landscape.dimension}), got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).any(axis=1).sum())} points are not finite.")
    return jnp.asarray(array, landscape.dtype)


def label_by_nearest(centres: ArrayLike, radius: RealLike = np.inf) -> Callable:
    """A label θ ↦ number of the nearest of `centres` (m, d), −1 beyond `radius` of all of them.

    Cheap, and exact as a set of cores: with a radius below half the distance of two centres
    `Occupation` counts a transition only once the next core is reached.
    """
    places = jnp.asarray(as_float64("centres", centres))
    if places.ndim != 2:
        raise ValueError(f"centres must be (m, d), got shape {places.shape}.")
    reach = float(radius)
    if not reach > 0:
        raise ValueError(f"radius must be > 0, got {radius!r}.")

    def label(theta):
        distance = jnp.linalg.norm(places.astype(theta.dtype) - theta, axis=1)
        nearest = jnp.argmin(distance)
        return jnp.where(distance[nearest] <= reach, nearest, -1)

    return label
