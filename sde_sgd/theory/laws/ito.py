"""Stationary densities in one dimension, for any drift and any state-dependent diffusion.

The Itô equation dx = −V'(x) dt + √(2D(x)) dW has, without a current, the stationary density

    p(x) ∝ D(x)^{−1} exp(−∫ V'/D) ;

the same symbols read as a Stratonovich equation have D^{−1/2} in place of D^{−1}, and the Gibbs
law exp(−V/D) of a gradient is right for a constant D only. For SGD, D = η C/2 with C = Cov(ĝ).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre
from numpy.typing import ArrayLike

from sde_sgd._checks import (
    as_float64,
    check_at_least,
    check_choice,
    check_number,
    check_whole,
)
from sde_sgd.theory import _arguments, _fields, _gauss, _step_laws
from sde_sgd.theory.laws import _adaptive as adaptive
from sde_sgd.theory.laws.law import AbstractLaw, moments_in_words
from sde_sgd.types import RealLike

Function = Callable[[np.ndarray], ArrayLike]
_REACH = 230.0  # |x| up to 1e100, and down to 1e-100 above an end at 0
_MOST_ORDER = 10_000
_POWERS = {"ito": 1.0, "stratonovich": 0.5}


class StationaryDensity(AbstractLaw):
    """A normalised density on (lower, upper): pdf, cdf, quantiles, moments, to about 1e-10.

    Heavy tails have no `mean` (tail index ≤ 1) or no `covariance` (≤ 2), and raise.

    **Fields:** `lower`, `upper`: the ends; `lower_tail_index`, `upper_tail_index`: β with
    P(|x| > r) ~ r^{−β} towards an infinite end (inf where it falls faster than any power), of
    which the smaller is the order from which on moments do not exist.
    """

    lower: float
    upper: float
    lower_tail_index: float
    upper_tail_index: float
    _coordinate: adaptive.Coordinate
    _edges: Float[np.ndarray, " edges"]
    _log_q: Float[np.ndarray, "panels nodes"]

    @property
    def tail_index(self) -> float:
        """The smaller of both tail indices: E|x|ᵠ is finite for q below it."""
        return min(self.lower_tail_index, self.upper_tail_index)

    @property
    def mean(self) -> Float[np.ndarray, "1"]:
        """E x."""
        return np.array([self.moment(1)])

    @property
    def covariance(self) -> Float[np.ndarray, "1 1"]:
        """E (x − E x)²."""
        return np.array([[self._power(2.0, signed=False, about=self.moment(1))]])

    def expect(self, of: Callable) -> Float[np.ndarray, "..."]:
        """E f(x) of a function that is smooth on the scale of the density.

        **Arguments:** `of`: f, a JAX function of one θ of shape (1,), with a value of any shape.

        **Raises:** `ValueError` where |f| p is not finite or does not fall off towards an end.
        """
        weights = self._masses
        kept = weights > 0
        found = _fields.evaluate("of", of, self._nodes[kept][:, None])
        values = np.zeros((*kept.shape, *found.shape[1:]))
        values[kept] = found
        sizes = np.einsum("pk,pkv->pv", weights, np.abs(values).reshape(*kept.shape, -1))
        pieces = sizes / np.diff(self._edges)[:, None]
        used = np.flatnonzero(kept.all(axis=1))
        grows = any(
            (pieces[last] > np.maximum(pieces[before], 1e-12 * pieces.max(axis=0))).any()
            for last, before in ((used[0], used[1]), (used[-1], used[-2]))
        )
        if grows or not np.isfinite(found).all():
            raise ValueError(
                "The expectation does not exist: |of(θ)| times the density is not finite, or "
                "does not fall off towards an end. Take a bounded function."
            )
        return np.asarray(np.tensordot(weights, values, axes=2))

    def pdf(self, x: ArrayLike | RealLike) -> Float[np.ndarray, "..."]:
        """p(x), 0 outside (lower, upper); any shape."""
        u, panel, place = self._locate(_arguments.known("x", x))
        coefficients = self._log_q @ _gauss.TO_COEFFICIENTS.T
        safe = np.where(np.isfinite(u), u, 0.0)
        log_p = _series(coefficients, panel, place) - self._coordinate.log_jacobian(safe)
        beyond = (u < self._edges[0]) | (u > self._edges[-1])
        return np.asarray(np.where(beyond, 0.0, np.exp(np.where(beyond, 0.0, log_p))))

    def survival(self, x: ArrayLike | RealLike) -> Float[np.ndarray, "..."]:
        """P(X > x), to relative precision in the upper tail; any shape."""
        u, panel, place = self._locate(_arguments.known("x", x))
        whole = self._masses.sum(axis=1)
        above = np.concatenate([np.cumsum(whole[::-1])[::-1], [0.0]])
        part = _series(self._integrals, panel, place)
        inside = above[panel + 1] + np.maximum(whole[panel] - part, 0.0)
        inside = np.where(u <= self._edges[0], 1.0, np.where(u >= self._edges[-1], 0.0, inside))
        return np.asarray(np.clip(inside, 0.0, 1.0))

    def moment(self, order: int) -> float:
        """E xⁿ, n ≥ 0.

        **Raises:** `ValueError` for an order at which the tails have no moment.
        """
        return self._power(float(check_whole("order", order, 0, _MOST_ORDER)), signed=True)

    def absolute_moment(self, order: RealLike) -> float:
        """E|x|ᵠ for a real q ≥ 0, infinite from the tail index on."""
        power = check_at_least("order", order)
        if power >= self.tail_index * (1 - 1e-9):
            return np.inf
        return self._power(power, signed=False)

    def _on_the_line(self):
        """The cdf, to relative precision in the lower tail."""
        below = np.concatenate([[0.0], np.cumsum(self._masses.sum(axis=1))])
        integrals = self._integrals

        def cdf(x):
            u, panel, place = self._locate(x)
            inside = below[panel] + np.maximum(_series(integrals, panel, place), 0.0)
            inside = np.where(u <= self._edges[0], 0.0, np.where(u >= self._edges[-1], 1.0, inside))
            return np.clip(inside, 0.0, 1.0)

        ends = self._coordinate.position(np.array([-np.inf, np.inf]))
        low, high = np.clip([self.lower, self.upper], *ends)
        return cdf, float(low), float(high)

    def _draw(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num 1"]:
        return self._inverted(rng, num)

    def _in_words(self) -> str:
        where = f"on ({self.lower:.6g}, {self.upper:.6g})"
        if np.isinf(self.tail_index):
            return f"{moments_in_words(self)}, {where}"
        heavy = f"median {self.median:.6g}, tail index {self.tail_index:.6g}, {where}"
        return f"{moments_in_words(self)}, {heavy}" if self.tail_index > 2.001 else heavy

    @property
    def _nodes(self) -> np.ndarray:
        return self._coordinate.position(_gauss.places(self._edges)[0])

    @property
    def _masses(self) -> np.ndarray:
        """Quadrature weight times density at every node, (P, K); they add up to 1."""
        half = np.diff(self._edges)[:, None] / 2
        return half * _gauss.WEIGHTS * np.exp(self._log_q)

    def _power(self, power: float, signed: bool, about: float = 0.0) -> float:
        self._require(power)
        if power == 0:
            return 1.0
        x = self._nodes - about
        half = np.diff(self._edges)[:, None] / 2
        with np.errstate(divide="ignore"):
            size = np.exp(self._log_q + power * np.log(np.abs(x)))
        sign = np.sign(x) if signed and power % 2 else 1.0
        return float(np.sum(half * _gauss.WEIGHTS * size * sign))

    def _require(self, power: float) -> None:
        if power >= self.tail_index * (1 - 1e-9):
            raise ValueError(
                f"The moment of order {power:g} does not exist: the tail falls as "
                f"P(|x| > r) ~ r^-{self.tail_index:.6g}. Take an order below that, a quantile, or "
                f"the expectation of a bounded function."
            )

    def _locate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u(x), the panel it lies in, and the place in it from −1 to 1."""
        u = self._coordinate.inverse(np.clip(x, self.lower, self.upper))
        inner = np.clip(u, self._edges[0], self._edges[-1])
        panel = np.clip(np.searchsorted(self._edges, inner) - 1, 0, len(self._edges) - 2)
        left, right = self._edges[panel], self._edges[panel + 1]
        place = np.clip((2 * inner - left - right) / (right - left), -1, 1)
        return np.asarray(u), np.asarray(panel), np.asarray(place)

    @property
    def _integrals(self) -> np.ndarray:
        """Legendre coefficients of the mass of a panel up to a place in it, (P, K + 1)."""
        half = np.diff(self._edges)[:, None] / 2
        return half * (np.exp(self._log_q) @ _gauss.INTEGRAL_COEFFICIENTS.T)


def stationary_density(
    process: Any,
    *,
    lower: RealLike = -np.inf,
    upper: RealLike = np.inf,
    convention: str = "ito",
    centre: RealLike = 0.0,
    scale: RealLike = 1.0,
) -> StationaryDensity:
    """p ∝ D^{−a} exp(∫ b/D) on (lower, upper) with reflecting ends; a = 1 Itô, ½ Stratonovich.

        p = ss.theory.laws.stationary_density(sde.limit())

    **Arguments:**

    - `process`: the limit of an equation on a landscape with d = 1 in float64, or
      `processes.Diffusion(drift, diffusion)` in its place, whose b and D > 0 may have kinks and
      jumps. With a `ConstantNoise` it is the Gibbs law e^{−L/D}, which is often assumed.
    - `lower`, `upper`: the ends. Where D vanishes at an end, that end belongs at 0.
    - `convention`: how √(2D(x)) dW is read, "ito" or "stratonovich".
    - `centre`, `scale`: where the law is, roughly, if both ends are infinite, and how wide (one
      finite end: the scale of the distance from it).

    Wells much narrower than a thousandth of their distance from `centre`, or of `scale` beside it,
    may be missed: then give `centre` and `scale` of the narrow one.

    **Raises:** `NotKnown` for a process with steps of its own (`MasterEquation` has its law);
    `ValueError` where the density cannot be normalised (said at which end), where D is
    not positive, and where the functions return anything but finite numbers.
    """
    check_choice("convention", convention, sorted(_POWERS))
    coordinate = _coordinate(lower, upper, centre, scale)
    law = _step_laws.equation(process, "A stationary density by quadrature", 1)
    if not callable(law.diffusion):
        check_number("diffusion", law.diffusion, above=0)
    fields = _step_laws.line_functions(law, "A stationary density by quadrature")
    known: dict[tuple[float, float], np.ndarray] = {}

    def values(x: np.ndarray) -> np.ndarray:
        drift, strength = (_quietly(field, x) for field in fields)
        return np.stack([-drift, strength], axis=1)

    def log_weight(edges: np.ndarray) -> np.ndarray:
        u, half = _gauss.places(edges)
        x, log_jacobian = coordinate.position(u), coordinate.log_jacobian(u)
        panels = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        fresh = [k for k, panel in enumerate(panels) if panel not in known]
        if fresh:
            known.update(zip([panels[k] for k in fresh], values(x[fresh]), strict=True))
        slope, strength = np.stack([known[panel] for panel in panels], axis=1)
        absent, strength = strength <= 0, np.where(strength > 0, strength, np.nan)
        with np.errstate(all="ignore"):
            force = half * slope / strength * np.exp(log_jacobian)
            phi = _cumulated(force, edges)
            log_q = -phi - _POWERS[convention] * np.log(strength) + log_jacobian
            # Once more from the top, where phi must be known best.
            top = np.where(np.isfinite(log_q), log_q, -np.inf).max(axis=1).argmax()
            log_q = log_q + phi - _cumulated(force, edges, int(top))
        _check_positive(x, log_q, absent)
        return log_q

    try:
        return _density(coordinate, log_weight, _REACH)
    except ValueError as error:
        # Where D <= 0 nothing can be evaluated, which looks like an end without a limit.
        lowest = min(((d[1].min(), panel) for panel, d in known.items()), default=(1.0, (0.0, 0.0)))
        if not lowest[0] < 0:
            raise
        u, _ = _gauss.places(np.array(lowest[1]))
        place = coordinate.position(u).ravel()[int(known[lowest[1]][1].argmin())]
        raise ValueError(
            f"The diffusion must not be negative between lower and upper, but is {lowest[0]:.3g} "
            f"at x = {place:.6g}: set them to the ends of the region where D > 0. ({error})"
        ) from None


def density_of_logarithm(
    log_weight: Callable[[np.ndarray], np.ndarray], *, reach: RealLike = 1e8
) -> StationaryDensity:
    """The density of v = eᵘ > 0 whose logarithm u has the log density `log_weight` + const.

    For laws whose mass piles up at v → 0 beyond the range of floating-point numbers v.
    """
    coordinate = adaptive.Coordinate(0.0, np.inf)
    return _density(coordinate, lambda edges: log_weight(_gauss.places(edges)[0]), float(reach))


def _density(coordinate, log_weight, reach: float) -> StationaryDensity:
    deep = (coordinate.infinite(0), coordinate.infinite(1))
    edges, log_q = adaptive.resolve(log_weight, reach, deep)
    half = np.diff(edges)[:, None] / 2
    log_q = log_q - log_q.max()
    log_q = log_q - np.log(np.sum(half * _gauss.WEIGHTS * np.exp(log_q)))
    below, above = (_tail_index(coordinate, edges, log_q, side) for side in (0, 1))
    ends = coordinate.lower, coordinate.upper
    return StationaryDensity(*ends, below, above, coordinate, edges, log_q)


def _tail_index(coordinate, edges: np.ndarray, log_q: np.ndarray, side: int) -> float:
    if not coordinate.infinite(side):
        return np.inf
    last, before = adaptive.end_slopes(edges, log_q, side)
    return -last if abs(last - before) < 1e-3 * abs(last) else np.inf


def _check_positive(x: np.ndarray, log_q: np.ndarray, absent: np.ndarray) -> None:
    """A diffusion may vanish where the law has no weight, and only there."""
    x, log_q, absent = x.ravel(), log_q.ravel(), absent.ravel()
    top = np.where(np.isfinite(log_q), log_q, -np.inf).max()
    for shift in (1, -1):
        beside = absent & (np.roll(log_q, shift) > top - 30)
        beside[0 if shift == 1 else -1] = False
        if beside.any():
            raise ValueError(
                f"The diffusion must be positive where the law has weight, but is not at x = "
                f"{x[beside][0]:.6g}: set lower and upper to the ends of the region where it is."
            )


def _cumulated(force: np.ndarray, edges: np.ndarray, start: int | None = None) -> np.ndarray:
    """φ at the nodes, summed outwards from the left edge of panel `start` (from u = 0)."""
    first = int(np.searchsorted(edges, 0.0)) if start is None else start
    first = min(first, len(force) - 1)
    whole = force @ _gauss.WEIGHTS
    right = np.cumsum(whole[first:]) - whole[first:]
    left = -np.cumsum(whole[:first][::-1])[::-1]
    return np.concatenate([left, right])[:, None] + force @ _gauss.FROM_LEFT.T


def _quietly(field: Function, x: np.ndarray) -> np.ndarray:
    """field(x) in float64; what is not finite is judged by its weight in the law."""
    with np.errstate(all="ignore"):
        return as_float64("A function of x", field(x))


def _series(coefficients: np.ndarray, panel: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The Legendre series of each panel at a place in it."""
    each = np.moveaxis(coefficients[panel], -1, 0)
    return np.asarray(legendre.legval(place, each, tensor=False))


def _coordinate(lower, upper, centre, scale) -> adaptive.Coordinate:
    a, b = _arguments.end("lower", lower), _arguments.end("upper", upper)
    if not a < b:
        raise ValueError(f"lower={a:g} must be below upper={b:g}.")
    c = check_number("centre", centre)
    return adaptive.Coordinate(a, b, c, check_number("scale", scale, above=0))
