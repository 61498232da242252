"""A density on a line, known by its logarithm on panels that are halved until it is resolved.

A position x is written x(u) with u on the whole line: x = c + s sinh u between two infinite ends,
x = a + s eᵘ above a finite one, a logistic function between two. Power laws in x, at infinity or
at a singular end, become exponentials in u; the panels are equal near u = 0 and grow outwards.

`theory/_panels.py` halves panels for another need: of φ = −∫ b/D in x itself, between ends that
are given, for double integrals of e^{±φ}, which are neither normalised nor cut off.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre
from numpy.typing import ArrayLike

from sde_sgd.theory._gauss import (
    last_coefficients,
    NODES,
    NUM_NODES,
    TO_COEFFICIENTS,
    WEIGHTS,
)

_ORDERS = np.arange(NUM_NODES)
_SIGNS = (-1.0) ** _ORDERS
_END_SLOPES = _ORDERS * (_ORDERS + 1) / 2  # P_n'(1)

_MAX_PANELS = 20_000
_MAX_ROUNDS = 70
_PIECES = 64  # of a resolved panel, in which narrow features are looked for
_NEGLIGIBLE = 60.0  # e⁻⁶⁰ of the top: of no weight in any sum of doubles
_UNDERFLOW = 700.0

# Edges of panels (P + 1,) in u -> log q at the nodes (P, K); NaN where it cannot be evaluated.
LogWeight = Callable[[Float[np.ndarray, " edges"]], Float[np.ndarray, "panels nodes"]]


@dataclass(frozen=True)
class Coordinate:
    """x(u), increasing, for x in (lower, upper).

    **Fields:** `lower`, `upper`: the ends, finite or not; `centre`, `scale`: c and s.
    """

    lower: float
    upper: float
    centre: float = 0.0
    scale: float = 1.0

    def position(self, u: ArrayLike | float) -> Float[np.ndarray, "..."]:
        """x(u), kept within the range of doubles."""
        a, b, place = self.lower, self.upper, np.clip(np.asarray(u, float), -700.0, 690.0)
        if np.isfinite(a) and np.isfinite(b):
            near_a, near_b = (np.exp(-np.logaddexp(0.0, -p)) for p in (place, -place))
            x = np.where(place < 0, a + (b - a) * near_a, b - (b - a) * near_b)
        elif np.isfinite(a):
            x = a + self.scale * np.exp(place)
        elif np.isfinite(b):
            x = b - self.scale * np.exp(np.minimum(-place, 690.0))
        else:
            x = self.centre + self.scale * np.sinh(place)
        return np.asarray(x)

    def inverse(self, x: ArrayLike | float) -> Float[np.ndarray, "..."]:
        """u(x), infinite at the ends."""
        a, b, place = self.lower, self.upper, np.asarray(x, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isfinite(a) and np.isfinite(b):
                u = np.log(place - a) - np.log(b - place)
            elif np.isfinite(a):
                u = np.log((place - a) / self.scale)
            elif np.isfinite(b):
                u = -np.log((b - place) / self.scale)
            else:
                u = np.arcsinh((place - self.centre) / self.scale)
        return np.asarray(u)

    def log_jacobian(self, u: ArrayLike | float) -> Float[np.ndarray, "..."]:
        """log dx/du."""
        a, b, place = self.lower, self.upper, np.asarray(u, float)
        size = np.abs(place)
        if np.isfinite(a) and np.isfinite(b):
            log = np.log(b - a) - size - 2 * np.log1p(np.exp(-size))
        elif np.isfinite(a):
            log = np.log(self.scale) + place
        elif np.isfinite(b):
            log = np.log(self.scale) - place
        else:
            log = np.log(self.scale / 2) + size + np.log1p(np.exp(-2 * size))
        return np.asarray(log)

    def infinite(self, side: int) -> bool:
        """Whether the lower (side 0) or upper (side 1) end is at infinity."""
        return not np.isfinite(self.upper if side else self.lower)


def resolve(
    log_weight: LogWeight, reach: float, deep: tuple[bool, bool]
) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, "panels nodes"]]:
    """Panels of |u| ≤ `reach` on which log q and q are polynomials to rounding.

    `deep`: whether the tail towards the lower, upper end is wanted to its own relative precision,
    down to the smallest double, rather than to that of the whole.

    **Raises:** `ValueError` where q does not fall off towards an end, where it cannot be evaluated
    although it has weight, and where halving does not help.
    """
    outwards = [0.0]
    while outwards[-1] < reach:
        last = outwards[-1]
        outwards.append(min(last + 0.5 * max(1.0, (last / 20) ** 0.9), reach))
    steps = np.array(outwards[1:])
    edges = np.unique(np.concatenate([-steps, [0.0], steps]))
    edges, log_q = _trimmed(edges, log_weight(edges))
    _check_ends(edges, log_q, growing_only=True)
    for _ in range(_MAX_ROUNDS):
        rough = _rough(edges, log_q, deep)
        if rough.any():
            finer = np.unique(np.concatenate([edges, ((edges[:-1] + edges[1:]) / 2)[rough]]))
        else:
            finer = _with_missed(edges, log_q, log_weight)
            if len(finer) == len(edges):
                _check_ends(edges, log_q)
                return edges, log_q
        if len(finer) == len(edges):  # jumps, enclosed to rounding
            _check_ends(edges, log_q)
            return edges, log_q
        edges = finer
        if len(edges) > _MAX_PANELS:
            break
        edges, log_q = _trimmed(edges, log_weight(edges))
    raise ValueError(
        "The density could not be resolved: the gradient or the diffusion is rough, or lost to "
        "rounding. Shift x so that an end where the diffusion vanishes is at 0; set centre and "
        "scale to where the law lives and how wide it is."
    )


def _trimmed(edges: np.ndarray, log_q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The panels around the largest log q that could be evaluated and are within double range."""
    good = np.asarray(np.isfinite(log_q).all(axis=1))
    if not good.any():
        raise ValueError(
            "gradient/diffusion is not finite, or the diffusion not positive, at every point "
            "tried; set lower, upper, centre and scale to where the law lives."
        )
    top = int(np.argmax(np.where(good, log_q.max(axis=1, initial=-np.inf), -np.inf)))
    bad_left, bad_right = np.flatnonzero(~good[:top]), top + np.flatnonzero(~good[top:])
    first = int(bad_left[-1]) + 1 if len(bad_left) else 0
    last = int(bad_right[0]) if len(bad_right) else len(good)
    return edges[first : last + 1], log_q[first:last]


def _rough(edges: np.ndarray, log_q: np.ndarray, deep: tuple[bool, bool]) -> np.ndarray:
    """Panels to halve: the last Legendre coefficients of log q or of q are not rounding."""
    top, peak = log_q.max(), log_q.max(axis=1)
    weighty = np.flatnonzero(peak >= top - _NEGLIGIBLE)
    number = np.arange(len(peak))
    tails = np.zeros(len(peak), bool)
    if deep[0]:
        tails |= number < weighty[0]
    if deep[1]:
        tails |= number > weighty[-1]
    tails &= peak > top - _UNDERFLOW
    inside = (number >= weighty[0]) & (number <= weighty[-1])
    half = np.diff(edges) / 2
    mass = np.sum(half * (np.exp(log_q - top) @ WEIGHTS))
    size = np.maximum(1.0, np.ptp(log_q, axis=1))
    rough_log = last_coefficients(log_q - log_q[:, :1]) > 1e-11 * size
    own = last_coefficients(np.exp(log_q - peak[:, None]))
    rough_q = inside & (own * np.exp(peak - top) * half > 1e-13 * mass)
    apart = _apart(log_q - top, half, size)
    return ((inside | tails) & (rough_log | apart)) | rough_q | (tails & (own > 1e-9))


def _with_missed(
    edges: np.ndarray, log_q: np.ndarray, log_weight: LogWeight
) -> Float[np.ndarray, " edges"]:
    """The edges, with more where a look between the nodes sees what they do not: narrow wells."""
    step = np.arange(_PIECES) / _PIECES
    fine = (edges[:-1, None] + step * np.diff(edges)[:, None]).ravel()
    fine = np.append(fine, edges[-1])
    if (np.diff(fine) <= 0).any():  # jumps, enclosed to rounding
        return edges
    seen = log_weight(fine).reshape(len(edges) - 1, -1)
    place = (-1 + (2 * np.arange(_PIECES)[:, None] + 1 + NODES) / _PIECES).ravel()
    known = (
        np.maximum(log_q, -1e200) @ TO_COEFFICIENTS.T @ legendre.legvander(place, NUM_NODES - 1).T
    )
    peak = np.where(np.isfinite(seen), seen, -np.inf).max(axis=1)
    weighty = np.flatnonzero(peak >= peak.max() - _NEGLIGIBLE)
    inside = np.zeros(len(peak), bool)
    inside[weighty[0] : weighty[-1] + 1] = True
    with np.errstate(invalid="ignore"):
        missed = inside & (
            np.ptp(seen - known, axis=1) > 1e-6 * np.maximum(1, np.ptp(seen, axis=1))
        )
    return np.unique(np.concatenate([edges, fine[:-1].reshape(len(peak), -1)[missed].ravel()]))


def _apart(log_q: np.ndarray, half: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Panels that do not meet a neighbour: a jump or a kink between the outermost nodes."""
    # Far out, where log q is beyond −1e300, nothing is asked for.
    coefficients = np.maximum(log_q, -1e200) @ TO_COEFFICIENTS.T
    right, left = coefficients.sum(axis=1), coefficients @ _SIGNS
    right_slope = coefficients @ _END_SLOPES / half
    left_slope = -coefficients @ (_SIGNS * _END_SLOPES) / half
    pair = np.maximum(size[:-1], size[1:])
    length = np.minimum(half[:-1], half[1:])
    meets = np.abs(right[:-1] - left[1:]) <= 1e-8 * pair
    meets &= np.abs(right_slope[:-1] - left_slope[1:]) * length <= 1e-7 * pair
    result = np.zeros(len(half), bool)
    result[:-1] |= ~meets
    result[1:] |= ~meets
    return result


def end_slopes(edges: np.ndarray, log_q: np.ndarray, side: int) -> tuple[float, float]:
    """Outward d log q/du in the last panel at an end (0 lower, 1 upper) and in the one before."""
    slopes = []
    for panel in (-1, -2) if side else (0, 1):
        length = (NODES[-1] - NODES[0]) * np.diff(edges)[panel] / 2
        slopes.append(float(log_q[panel, -1] - log_q[panel, 0]) / length * (1 if side else -1))
    return slopes[0], slopes[1]


def _check_ends(edges: np.ndarray, log_q: np.ndarray, growing_only: bool = False) -> None:
    top = log_q.max()
    for side, name in enumerate(("lower", "upper")):
        end = log_q[-1, -1] if side else log_q[0, 0]
        slope, _ = end_slopes(edges, log_q, side)
        if slope >= -1e-9 and end >= top - 30:
            raise ValueError(
                f"The density cannot be normalised: towards the {name} end, dlog(p dx/du)/du = "
                f"{slope:.3g} does not fall (u = log of the distance). Without confinement there "
                f"the mass escapes to that end; a diffusion that vanishes there lets it collapse."
            )
        if not growing_only and end - top - np.log(max(-slope, 1e-300)) > -30:
            raise ValueError(
                f"The density falls too slowly towards the {name} end (exponent {-slope:.3g} in "
                f"the logarithm of the distance) for its weight to be summed, or could not be "
                f"evaluated beyond u = {edges[-1 if side else 0]:.4g}, where it still has weight. "
                f"Shift x so that a singular end is at 0, or give finite lower and upper."
            )
