"""Exact tails of one weight under least squares at finite levels: SGD, and Euler's scheme in w.

With x ~ N(0, 1), y ~ N(0, 1) and κ = η/B the batch enters a step through r² = Σx² and one normal
number, w′ = w − κ r² w + κ r ξ, where r has the law of χ_B. For a given ξ the event w′ < e is a
quadratic inequality in r, whose probability is closed; at small w that probability has a kink in
ξ, and the one for a given r, Φ of something smooth, is averaged instead. Euler's step is
w′ = (1 − h)w + √(hη(2w² + 1)/B) ξ. Both laws are even, so that |w| is a chain of its own.
"""

import functools

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.interpolate import CubicSpline

import sde_sgd as ss

NODES = 96
# Up to here r is averaged over, from e^LOWEST on.
SMALL, LOWEST = 4.0, -16.0


def online(rate: float, batch: int, substeps: int = 1) -> tuple[ss.SGD, ss.ModifiedEquation]:
    """SGD on fresh examples, and Euler's scheme in w of the SDE with its covariance."""
    landscape = ss.landscapes.PopulationLeastSquares(np.eye(1), 1.0)
    sampling = ss.WithReplacement(batch)
    noise = ss.MinibatchNoise(sampling)
    equation = ss.ModifiedEquation(landscape, rate, noise, substeps=substeps)
    return ss.SGD(landscape, rate, sampling), equation


def _chi_cdf(r: np.ndarray, batch: int) -> np.ndarray:
    """P(χ_B < r)."""
    half = np.maximum(r, 0.0) ** 2 / 2
    if batch == 1:
        return special.erf(np.sqrt(half))
    if batch == 2:
        return -np.expm1(-half)
    if batch == 4:
        return 1 - np.exp(-half) * (1 + half)
    return special.gammainc(batch / 2, half)


def _below_sgd(w: float, edges: np.ndarray, rate: float, batch: int) -> np.ndarray:
    """P(w′ < e | w) for SGD, w > 0."""
    kappa = rate / batch
    if w < SMALL:
        # Gauss nodes in ln r: Φ is smooth in it, however close e is to w.
        t, weights = np.polynomial.legendre.leggauss(3 * NODES)
        r = np.exp(LOWEST + (np.log(12.0) - LOWEST) * (t + 1) / 2)
        weights = weights * r**batch * np.exp(-(r**2) / 2)
        shift = (edges[:, None] - w) / (kappa * r) + r * w
        return special.ndtr(shift) @ (weights / weights.sum())
    # The cube puts nodes near ξ = 0, where a small w′ < e turns over within e B/η.
    t, weights = np.polynomial.legendre.leggauss(NODES)
    normal, weights = 7.5 * t**3, 22.5 * t**2 * weights
    weights = weights * np.exp(-(normal**2) / 2) / np.sqrt(2 * np.pi)
    # w κ r² − κ ξ r − (w − e) > 0: above the larger root, or below the smaller one.
    room = normal**2 + 4 * w * (w - edges[:, None]) / kappa
    root = np.sqrt(np.maximum(room, 0.0))
    low, high = (_chi_cdf((normal + sign * root) / (2 * w), batch) for sign in (-1, 1))
    chance = np.where(room < 0, 1.0, low + 1 - high)
    return chance @ (weights / weights.sum())


def _below_euler(w: float, edges: np.ndarray, rate: float, batch: int, step: float) -> np.ndarray:
    """P(w′ < e | w) for one step h of Euler's scheme."""
    return special.ndtr((edges - (1 - step) * w) / np.sqrt(step * rate / batch * (2 * w**2 + 1)))


@functools.cache
def _tail(rate: float, batch: int, substeps: int | None, cells: int):
    """(edges, P(|w| > edge)), from a chain on the centres of cells equal in asinh 4w."""
    sgd, euler = online(rate, batch, substeps or 1)
    index = ss.theory.laws.tail_index(euler if substeps else sgd)
    # What would lie beyond, a share 1e-8, is held in the last cell.
    heights = np.linspace(0.0, np.arcsinh(4 * 1e8 ** (1 / index)), cells + 1)
    edges, centres = np.sinh(heights) / 4, np.sinh((heights[1:] + heights[:-1]) / 2) / 4
    both = np.concatenate([-edges[::-1], edges])
    moves = np.empty((cells, cells))
    for i, w in enumerate(centres):
        if substeps is None:
            below = _below_sgd(w, both, rate, batch)
        else:
            below = _below_euler(w, both, rate, batch, rate / substeps)
        inside = below[cells + 1 :] - below[cells::-1]  # P(|w′| < edge)
        inside[-1] = 1.0
        moves[i] = np.diff(inside, prepend=0.0)[1:]
    equations = moves.T - np.eye(cells)
    equations[0] = 1.0
    masses = np.linalg.solve(equations, np.eye(cells)[0])
    return edges[:-1], masses[::-1].cumsum()[::-1]


def ratios(
    levels: tuple[float, ...],
    rate: float,
    batch: int,
    substeps: int | None = None,
    cells: int = 300,
) -> Float[np.ndarray, " levels"]:
    """P(|w| > 2u)/P(|w| > u) at the levels u, for SGD or Euler's scheme with `substeps`.

    The error of the cells is of second order: extrapolated from `cells` and twice as many.
    """
    u, found = np.array(levels), []
    for num in (cells, 2 * cells):
        edges, beyond = _tail(rate, batch, substeps, num)
        logarithm = CubicSpline(np.arcsinh(4 * edges), np.log(beyond))
        near, far = (logarithm(np.arcsinh(4 * x)) for x in (u, 2 * u))
        found.append(np.exp(far - near))
    return (4 * found[1] - found[0]) / 3
