"""A law on the line carried by points: atoms, or the nodes of a quadrature."""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import ndtr

from sde_sgd._checks import as_float64, in_brief
from sde_sgd.theory import _arguments
from sde_sgd.theory._fields import evaluate
from sde_sgd.types import RealLike


class GaussianMixture(eqx.Module):
    """Σ_j m_j N(μ_j, s_j²): the exact law one Gaussian step after masses m_j at nodes.

    **Fields:** `masses`, `means`, `stds`, each (n,).
    """

    masses: Float[np.ndarray, " n"]
    means: Float[np.ndarray, " n"]
    stds: Float[np.ndarray, " n"]


class ScalarLaw(eqx.Module):
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
    def mean(self) -> float:
        """E x over the mass that is left."""
        return float(self.masses @ self.positions) / self.mass

    @property
    def variance(self) -> float:
        """Var x over the mass that is left."""
        return float(self.masses @ (self.positions - self.mean) ** 2) / self.mass

    def integrate(self, of: Callable) -> Float[np.ndarray, "..."]:
        """Σ_j m_j f(x_j) = E f.

        **Arguments:** `of`: f, a JAX function of one θ of shape (1,), with a value of any shape;
        smooth for nodes of a quadrature (for P(a < x ≤ b) take differences of `cdf`).
        """
        return np.asarray(
            np.tensordot(self.masses, evaluate("of", of, self.positions[:, None]), axes=1)
        )

    def grid_error(self, of: Callable) -> Float[np.ndarray, "..."]:
        """Estimated |error of `integrate(of)`| of second order in the spacing: |fine − coarse|/3.

        **Raises:** `ValueError` for a law that was not also solved on half as many nodes.
        """
        if self.coarser is None:
            raise ValueError("this law has no coarser twin; stationary laws of batches have one.")
        return np.asarray(np.abs(self.integrate(of) - self.coarser.integrate(of)) / 3)

    def cdf(self, x: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """P(θ ≤ x): exact for a mixture and for atoms, linear between shared nodes."""
        points = _arguments.known("x", x)
        if self.mixture is not None:
            part = self.mixture
            z = (points[..., None] - part.means) / part.stds
            return np.asarray(ndtr(z) @ part.masses)
        total = np.cumsum(self.masses)
        if self.spacing:
            # Each node stands for the cell around it.
            edges = np.concatenate([self.positions, self.positions[-1:] + self.spacing])
            values = np.concatenate([[0.0], total])
            return np.asarray(np.interp(points, edges - self.spacing / 2, values))
        padded = np.concatenate([[0.0], total])
        return np.asarray(padded[np.searchsorted(self.positions, points, side="right")])

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

    def quantile(self, level: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """The smallest x with P(θ ≤ x) ≥ level (to 60 bisections); the median at ½."""
        levels = as_float64("level", level)
        if not ((levels > 0) & (levels < self.mass)).all():
            raise ValueError(
                f"level must lie between 0 and the mass {self.mass:g}; got {in_brief(level)}."
            )
        reach = 0.0 if self.mixture is None else 9 * float(self.mixture.stds.max())
        reach += self.spacing
        left = np.full(levels.shape, self.positions[0] - reach - 1e-9)
        right = np.full(levels.shape, self.positions[-1] + reach)
        for _ in range(60):
            middle = (left + right) / 2
            below = self.cdf(middle) < levels
            left, right = np.where(below, middle, left), np.where(below, right, middle)
        return np.asarray(right)
