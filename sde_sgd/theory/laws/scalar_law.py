"""A law on the line carried by points: atoms, or the nodes of a quadrature."""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import ndtr

from sde_sgd.theory import _arguments
from sde_sgd.theory._fields import evaluate
from sde_sgd.theory.laws.law import AbstractLaw, moments, moments_in_words
from sde_sgd.types import RealLike


class GaussianMixture(eqx.Module):
    """Σ_j m_j N(μ_j, s_j²): the exact law one Gaussian step after masses m_j at nodes.

    **Fields:** `masses`, `means`, `stds`, each (n,).
    """

    masses: Float[np.ndarray, " n"]
    means: Float[np.ndarray, " n"]
    stds: Float[np.ndarray, " n"]


class ScalarLaw(AbstractLaw):
    """Masses at points of the line, E f = Σ_j m_j f(x_j).

    **Fields:**

    - `positions`, `masses`: x_j in increasing order and m_j, (n,).
    - `lost`: probability that has left the box until now (of the stationary law: in one step).
    - `mixture`: for Gaussian steps, the mixture that this law is; it gives `pdf` and `cdf`.
    - `spacing`: distance of the nodes that atoms were shared between, 0 if they are exact.
    - `coarser`: the same law from half as many nodes, which shows the grid error.
    """

    positions: Float[np.ndarray, " n"]
    masses: Float[np.ndarray, " n"]
    lost: float
    mixture: GaussianMixture | None = None
    spacing: float = 0.0
    coarser: "ScalarLaw | None" = None

    @property
    def mass(self) -> float:
        """Σ_j m_j."""
        return float(self.masses.sum())

    @property
    def mean(self) -> Float[np.ndarray, "1"]:
        """E x over the mass that is left."""
        return moments(self.positions[:, None], self.masses)[0]

    @property
    def covariance(self) -> Float[np.ndarray, "1 1"]:
        """Var x over the mass that is left."""
        return moments(self.positions[:, None], self.masses)[1]

    def expect(self, of: Callable) -> Float[np.ndarray, "..."]:
        """E f = Σ_j m_j f(x_j) over the mass that is left.

        **Arguments:** `of`: f, a JAX function of one θ of shape (1,), with a value of any shape;
        smooth for nodes of a quadrature (for P(a < x ≤ b) take differences of `cdf`).
        """
        values = evaluate("of", of, self.positions[:, None])
        return np.asarray(np.tensordot(self.masses, values, axes=1) / self.mass)

    def grid_error(self, of: Callable) -> Float[np.ndarray, "..."]:
        """Estimated |error of `expect(of)`| of second order in the spacing: |fine − coarse|/3.

        **Raises:** `ValueError` for a law that was not also solved on half as many nodes.
        """
        if self.coarser is None:
            raise ValueError("this law has no coarser twin; stationary laws of batches have one.")
        return np.asarray(np.abs(self.expect(of) - self.coarser.expect(of)) / 3)

    def pdf(self, x: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """The density, for Gaussian steps.

        **Raises:** `ValueError` for atoms, which have no density.
        """
        if self.mixture is None:
            raise ValueError(
                "a law of atoms has no density: use `cdf`, or differences of it over bins."
            )
        part = self.mixture
        z = (_arguments.known("x", x)[..., None] - part.means) / part.stds
        heights = part.masses / (part.stds * np.sqrt(2 * np.pi))
        return np.asarray(np.exp(-(z**2) / 2) @ heights)

    def _on_the_line(self):
        """The cdf is exact for a mixture and for atoms, linear between shared nodes."""
        part, total = self.mixture, np.concatenate([[0.0], np.cumsum(self.masses)])
        low, high = float(self.positions[0]), float(self.positions[-1])
        if part is not None:
            reach = 9 * float(part.stds.max())
            return (
                lambda x: ndtr((x[..., None] - part.means) / part.stds) @ part.masses,
                low - reach,
                high + reach,
            )
        if self.spacing:
            # Each node stands for the cell around it.
            edges = np.append(self.positions, high + self.spacing) - self.spacing / 2
            return lambda x: np.interp(x, edges, total), float(edges[0]), float(edges[-1])
        return lambda x: total[np.searchsorted(self.positions, x, side="right")], low, high

    def _draw(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num 1"]:
        part = self.mixture
        masses = self.masses if part is None else part.masses
        chosen = rng.choice(len(masses), num, p=masses / masses.sum())
        if part is None:
            found = self.positions[chosen] + self.spacing * (rng.random(num) - 0.5)
        else:
            found = part.means[chosen] + part.stds[chosen] * rng.standard_normal(num)
        return found[:, None]

    def _in_words(self) -> str:
        kind = "atoms" if self.mixture is None and not self.spacing else "nodes"
        where = f"from {self.positions[0]:.6g} to {self.positions[-1]:.6g}"
        return f"{moments_in_words(self)}, {len(self.masses)} {kind} {where}"
