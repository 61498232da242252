"""The kernel equation (I − P)τ = 1 of a chain with Gaussian steps, on Gauss–Legendre nodes.

x ← x + h b(x) + s(x) ξ with s² = 2hD(x): Gaussian SGD, or Euler at its step. With the survivors'
region Ω, τ(x) = 1 + ∫_Ω p(y | x) τ(y) dy counts steps, and the committor solves the same equation
with the probability of a direct jump as its source (Nyström's method, spectrally accurate).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre
from scipy.special import ndtr

from sde_sgd.theory import _panels
from sde_sgd.theory.escape._absorbing import AbsorbingChain

_MOST_NODES = 3000
# Nodes for each standard deviation of a step: the error of the rule is then below 1e-13.
_NODES_PER_STEP = 3.0
# Of the chain, through the cut instead of the exit: a relative error of that size.
_LARGEST_LEAK = 1e-11


class GaussianChain(NamedTuple):
    """A discretised chain, killed outside (`low`, `high`); times in steps.

    **Fields:** nodes and weights of the quadrature, the factored equation, the step's law, and the
    ends, of which `low` may be only the place where the far side was cut.
    """

    nodes: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    chain: AbsorbingChain
    drift: _panels.Function
    diffusion: _panels.Function
    time_step: float
    low: float
    high: float

    def moments(self, points: Float[np.ndarray, " S"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and mean square of the number of steps from each point."""
        one = np.ones_like(self.nodes)
        mean = self.chain.solve(one)
        # (k+1)² = 1 + 2k + k²: the square takes the mean after the first step as its source.
        after = mean - one
        second = self.chain.solve(one + 2 * after)
        rows, _, _ = self.transitions(points)
        first = rows @ mean
        return 1 + first, 1 + 2 * first + rows @ second

    def reaches_upper(self, points: Float[np.ndarray, " S"]) -> np.ndarray:
        """Probability that the chain leaves through `high`."""
        _, _, above = self.transitions(self.nodes)
        inside = self.chain.solve(above)
        rows, _, direct = self.transitions(points)
        return direct + rows @ inside

    def leaves_below(self, points: Float[np.ndarray, " S"]) -> np.ndarray:
        """Probability that the chain leaves through `low`."""
        _, below, _ = self.transitions(self.nodes)
        inside = self.chain.solve(below)
        rows, direct, _ = self.transitions(points)
        return direct + rows @ inside

    def transitions(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities to go from points to the nodes (S, n), below (S,) and above (S,)."""
        return _transitions(self, points)


def gaussian_chain(
    drift: _panels.Function,
    diffusion: _panels.Function,
    time_step: float,
    points: Float[np.ndarray, " S"],
    lower: float | None,
    upper: float,
) -> GaussianChain:
    """The chain that leaves at `upper`, and at `lower` unless that is None."""
    if lower is not None:
        return _build(drift, diffusion, time_step, lower, upper)
    # Where e^{−φ} is negligible; a chain with long steps goes farther than the SDE.
    panels = _panels.below(drift, _panels.positive(diffusion), np.concatenate([[upper], points]))
    cut, before = float(panels.edges[0]), np.inf
    while True:
        chain = _build(drift, diffusion, time_step, cut, upper)
        leak = chain.leaves_below(points).max()
        if leak < _LARGEST_LEAK:
            return chain
        if not leak <= before / 2:
            raise ValueError(
                f"With steps of {time_step:g} the chain passes x={cut:.4g} on the far side with "
                f"probability {leak:.3g} before it exits: nothing holds it there. Lower the "
                f"learning rate or the step, or give exits=(lower, upper)."
            )
        before = leak
        cut -= 2 * float(np.sqrt(2 * time_step * diffusion(np.array([cut]))[0]))


def _build(drift, diffusion, time_step, lower, upper) -> GaussianChain:
    grid = np.linspace(lower, upper, 2001)
    values = _panels.positive(diffusion)(grid)
    # The gaps of a Gauss rule with n nodes are at most π/2 times the mean gap.
    gap = np.sqrt(2 * time_step * values.min())
    count = int(np.ceil(_NODES_PER_STEP * (upper - lower) / gap)) + 32
    if count > _MOST_NODES:
        raise ValueError(
            f"The kernel equation would need {count} nodes (at most {_MOST_NODES}): a step has "
            f"standard deviation {gap:.3g}, as little as 1/{(upper - lower) / gap:.0f} of the "
            f"region from {lower:.4g} to {upper:.4g}. Take longer steps, or the limit of "
            f"the equation with exits moved by watched_barrier_shift."
        )
    nodes, weights = legendre.leggauss(count)
    half = (upper - lower) / 2
    nodes, weights = lower + half * (1 + nodes), half * weights
    blank = AbsorbingChain(np.zeros((0, 0)), np.zeros(0))
    chain = GaussianChain(nodes, weights, blank, drift, diffusion, time_step, lower, upper)
    matrix, below, above = chain.transitions(nodes)
    defect = np.abs(matrix.sum(axis=1) + below + above - 1).max()
    if defect > 1e-9:
        raise ValueError(
            f"The kernel equation loses probability {defect:.2g} on {count} nodes: diffusion "
            f"changes too fast for its own step near one of them. Is it continuous and positive?"
        )
    return chain._replace(chain=AbsorbingChain.factor(matrix, below + above))


def _transitions(chain: GaussianChain, points: np.ndarray):
    mean = points + chain.time_step * chain.drift(points)
    deviation = np.sqrt(2 * chain.time_step * chain.diffusion(points))
    scaled = (chain.nodes - mean[:, None]) / deviation[:, None]
    density = np.exp(-0.5 * scaled**2) / (np.sqrt(2 * np.pi) * deviation[:, None])
    below = ndtr((chain.low - mean) / deviation)
    above = ndtr((mean - chain.high) / deviation)
    return chain.weights * density, below, above
