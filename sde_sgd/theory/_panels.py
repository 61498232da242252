"""Piecewise spectral quadrature for φ = −∫ b/D, the scale function and the speed measure."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre

from sde_sgd.theory._gauss import FROM_LEFT, FROM_RIGHT, NODES, TO_COEFFICIENTS, WEIGHTS

# φ may change by this much inside a panel: e^{±φ} is then resolved to rounding by 16 nodes.
_STEP_OF_PHI = 3.0
# Where φ has risen this far above the highest point that matters, the rest weighs e^{−40}.
_NEGLIGIBLE_RISE = 40.0
_LARGEST_PHI = 690.0
# Points between the ends at which narrow bumps of b/D are looked for.
_LOOKS = 16_384

Function = Callable[[np.ndarray], np.ndarray]


class NotPositive(ValueError):
    """A diffusion that is zero or negative somewhere."""


class Panels(NamedTuple):
    """Adaptive panels with Gauss–Legendre nodes, and what they know of φ = −∫ b/D.

    **Fields:** `edges` (n+1,), ascending; `phi`, `diffusion` at the nodes, (n, 16); `edge_phi`
    (n+1,), zero at the right end; `stretch` (n, 16), dx of the nodes over that of equal panels;
    `powers` ((α, κ), (α, κ)) of the ends, (0, 0) where D does not vanish.

    Where D ~ y^κ in the distance y from an end and y b/D → α, the outermost panel is in s with
    y ∝ s^q: there the scale e^φ ~ y^{−α} and the speed e^{−φ}/D ~ y^{α−κ} are powers, exactly.
    """

    edges: Float[np.ndarray, " edges"]
    phi: Float[np.ndarray, "panels nodes"]
    diffusion: Float[np.ndarray, "panels nodes"]
    edge_phi: Float[np.ndarray, " edges"]
    stretch: Float[np.ndarray, "panels nodes"]
    powers: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))

    @property
    def half(self) -> Float[np.ndarray, "panels 1"]:
        return np.diff(self.edges)[:, None] / 2

    def from_left(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∫ of `values` (n, 16) from the left end up to the nodes (n, 16) and the edges (n+1,)."""
        values = values * self.stretch
        whole = np.sum(self.half * values * WEIGHTS, axis=1)
        edges = np.concatenate([[0.0], np.cumsum(whole)])
        return edges[:-1, None] + self.half * values @ FROM_LEFT.T, edges

    def from_right(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∫ from the nodes, and from the edges, up to the right end: no difference of big sums."""
        values = values * self.stretch
        whole = np.sum(self.half * values * WEIGHTS, axis=1)
        edges = np.concatenate([np.cumsum(whole[::-1])[::-1], [0.0]])
        return edges[1:, None] + self.half * values @ FROM_RIGHT.T, edges

    def check_end(self, end: int, wall: bool) -> None:
        """Refuses a wall onto which the mass collapses, and an exit that is never reached."""
        alpha, kappa = self.powers[end]
        place = self.edges[-1 if end else 0]
        if wall and alpha - kappa <= -1 + 1e-6:
            raise ValueError(
                f"The process stops at the wall at x={place:.6g}, where the diffusion vanishes and "
                f"the density grows like distance^{alpha - kappa:.4g}: the mean time is infinite. "
                f"Make it an exit, or put the wall where the diffusion is positive."
            )
        if not wall and alpha >= 1 - 1e-6:
            raise ValueError(
                f"The exit at x={place:.6g} is never reached: the diffusion vanishes there, and "
                f"distance·drift/diffusion tends to {alpha:.4g}, not below 1. Give the other exit "
                f"alone, with wall={place:.6g}."
            )

    @property
    def highest_phi(self) -> float:
        """The largest φ; refuses barriers whose exponential is not a number any more."""
        top, bottom = self.phi.max(), self.phi.min()
        if top - bottom > _LARGEST_PHI:
            raise ValueError(
                f"The barrier is ∫ V'/D = {top - bottom:.4g} high, so that the exit time exceeds "
                f"e^{_LARGEST_PHI:g}, more than a float64 holds: raise the diffusion, or ask for "
                f"the exponent alone (theory.escape.quasi_potential)."
            )
        return float(top)


def positive(diffusion: Function) -> Function:
    """The same function, which refuses D ≤ 0."""

    def evaluate(x: np.ndarray) -> np.ndarray:
        values = diffusion(x)
        if (values <= 0).any():
            worst = int(values.argmin())
            raise NotPositive(
                f"diffusion must be positive between the exits, but D({x[worst]:.6g}) = "
                f"{values[worst]:.4g}: move the exits, or put a wall inside the region D > 0."
            )
        return values

    return evaluate


def between(drift: Function, diffusion: Function, breaks: np.ndarray) -> Panels:
    """Panels over [breaks[0], breaks[-1]], an edge at every break."""
    edges, slope, values = _resolve(drift, diffusion, np.unique(breaks))
    return _with_phi(edges, slope, values)


def below(drift: Function, diffusion: Function, breaks: np.ndarray) -> Panels:
    """As `between`, continued to the left until e^{−φ} is negligible there."""
    panels = between(drift, diffusion, breaks)
    width = breaks.max() - breaks.min()
    step, start = width / 4, breaks.min()
    while True:
        left = panels.edges[0]
        try:
            edges, slope, values = _resolve(drift, diffusion, np.array([left - step, left]))
        except NotPositive:
            step /= 4
            if step < 1e-10 * width:
                raise
            continue
        more = _with_phi(edges, slope, values)
        panels = Panels(
            np.concatenate([more.edges[:-1], panels.edges]),
            np.concatenate([more.phi + panels.edge_phi[0], panels.phi]),
            np.concatenate([more.diffusion, panels.diffusion]),
            np.concatenate([more.edge_phi[:-1] + panels.edge_phi[0], panels.edge_phi]),
            np.concatenate([more.stretch, panels.stretch]),
            panels.powers,
        )
        highest = panels.edge_phi[panels.edges >= start].max()
        risen = panels.edge_phi - highest > _NEGLIGIBLE_RISE
        risen &= panels.edges < start
        if risen.any():
            cut = int(np.flatnonzero(risen)[-1])
            edges, phi, values, edge_phi, stretch = (x[cut:] for x in panels[:5])
            return Panels(edges, phi, values, edge_phi, stretch, panels.powers)
        if start - panels.edges[0] > 1e9 * width:
            raise ValueError(
                f"The drift does not hold the process back on the far side: down to "
                f"x={panels.edges[0]:.3g} the potential ∫ −b/D has risen by only "
                f"{panels.edge_phi[0] - highest:.3g} above the barrier. The mean exit time may be "
                f"infinite: give a second exit, or a wall."
            )
        step *= 2


def _resolve(drift: Function, diffusion: Function, breaks: np.ndarray):
    """Edges, and b/D and D at the nodes, of panels split until both are polynomials there."""
    left, right = breaks[:-1], breaks[1:]
    done_edges: list[np.ndarray] = []
    done_slope, done_values = [], []
    smallest = 1e-13 * max(breaks[-1] - breaks[0], np.abs(breaks).max())
    for _ in range(80):
        half = (right - left)[:, None] / 2
        nodes = left[:, None] + half * (1 + NODES)
        values = diffusion(nodes.ravel()).reshape(nodes.shape)
        slope = drift(nodes.ravel()).reshape(nodes.shape) / values
        fine = (np.abs(slope).max(axis=1) * 2 * half[:, 0] < _STEP_OF_PHI) & _smooth(
            1 / values, 0.0
        )
        fine &= _smooth(slope, 1e-14 / half)
        fine |= half[:, 0] < smallest
        done_edges.append(left[fine])
        done_slope.append(slope[fine])
        done_values.append(values[fine])
        left, right = left[~fine], right[~fine]
        if not len(left):
            break
        middle = (left + right) / 2
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
        if len(left) > 200_000:
            raise ValueError(
                f"drift and diffusion change too fast near x={left[0]:.6g} to be integrated: are "
                f"they noisy, or singular there? If the diffusion vanishes at an end, shift x so "
                f"that this end is at 0."
            )
    start = np.concatenate(done_edges)
    order = np.argsort(start)
    edges = np.concatenate([start[order], breaks[-1:]])
    slopes, diffusions = np.concatenate(done_slope)[order], np.concatenate(done_values)[order]
    finer = _with_missed(drift, diffusion, edges, slopes)
    if len(finer) > len(edges):
        return _resolve(drift, diffusion, finer)
    return edges, slopes, diffusions


def _with_missed(drift: Function, diffusion: Function, edges: np.ndarray, slope: np.ndarray):
    """The edges, with more where a look between the nodes sees what they do not: narrow bumps."""
    x = np.linspace(edges[0], edges[-1], _LOOKS + 2)[1:-1]
    panel = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(slope) - 1)
    left, right = edges[panel], edges[panel + 1]
    place = (2 * x - left - right) / (right - left)
    coefficients = (slope @ TO_COEFFICIENTS.T)[panel]
    known = np.sum(legendre.legvander(place, len(NODES) - 1) * coefficients, axis=1)
    seen = drift(x) / diffusion(x)
    room = 1e-6 * (np.abs(slope).max(axis=1)[panel] + 1 / (edges[-1] - edges[0]))
    # Beside a jump, or an end at which b/D is infinite, a panel may be as short as doubles allow.
    missed = (np.abs(seen - known) > room) & (right - left > 1e-6 * (edges[-1] - edges[0]))
    return np.unique(np.concatenate([edges, x[missed]]))


def _smooth(values: np.ndarray, absolute: np.ndarray | float) -> np.ndarray:
    """Whether the last two Legendre coefficients of each row have died out."""
    size = np.abs(values @ TO_COEFFICIENTS.T)
    return (size[:, -2:] < 1e-11 * size.max(axis=1, keepdims=True) + absolute).all(axis=1)


def _with_phi(edges: np.ndarray, slope: np.ndarray, values: np.ndarray) -> Panels:
    """φ' = −b/D, φ = 0 at the right end (beside it, where φ is infinite there)."""
    powers = _powers(edges, slope, values, 0), _powers(edges, slope, values, 1)
    slope = slope.copy()
    if any(powers[1]):
        slope[-1] = 0.0
    panels = Panels(edges, slope, values.copy(), edges, np.ones_like(slope), powers)
    phi, edge_phi = panels.from_right(slope)
    panels = panels._replace(phi=phi, edge_phi=edge_phi)
    for end in (0, 1):
        if any(powers[end]):
            _stretch(panels, end)
    return panels


def _powers(edges, slope: np.ndarray, values: np.ndarray, end: int) -> tuple[float, float]:
    """α and κ in the outermost panel, zeros where D is not a vanishing power in it."""
    panel, towards = (-1, -1.0) if end else (0, 1.0)
    half = np.diff(edges)[panel] / 2
    distance = half * (1 + NODES) if end == 0 else half * (1 - NODES)
    logs = np.log(distance), np.log(values[panel])
    line = np.polyfit(*logs, 1)
    kappa, straight = float(line[0]), np.polyval(line, logs[0])
    alphas = towards * distance * slope[panel]
    alpha = float(alphas.mean())
    # Elsewhere D hardly changes in a panel, and is no power of the distance.
    if kappa < 1e-3 or np.abs(straight - logs[1]).max() > 1e-6:
        return 0.0, 0.0
    if np.ptp(alphas) > 1e-6 * max(1.0, abs(alpha)):
        return 0.0, 0.0
    return alpha, kappa


def _stretch(panels: Panels, end: int) -> None:
    """Puts the outermost panel into s, y = 2 half s^q, with the powers for φ and D."""
    alpha, kappa = panels.powers[end]
    panel, inner = (-1, -2) if end else (0, 1)
    place = (1 - NODES) / 2 if end else (1 + NODES) / 2
    exponents = [n for n in (1 + alpha - kappa, 1 - alpha) if n > 1e-3]
    q = min(3 / min(exponents), 100.0) if exponents else 1.0
    distance = place**q
    edge_node = int(np.argmax(place))
    scale = panels.diffusion[panel, edge_node] / place[edge_node] ** kappa
    panels.diffusion[panel] = scale * distance**kappa
    panels.phi[panel] = panels.edge_phi[inner] - alpha * np.log(distance)
    panels.edge_phi[panel] = panels.phi[panel, int(np.argmin(place))]
    panels.stretch[panel] = q * place ** (q - 1)
