"""The normal law in any number of dimensions."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.polynomial import hermite_e
from numpy.typing import ArrayLike
from scipy.special import ndtr

from sde_sgd._checks import check_whole
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.laws.law import AbstractLaw, moments_in_words, only_on_the_line
from sde_sgd.types import RealLike

_NODES, _MOST_DIMENSIONS = 40, 3
_REACH = 40.0  # Φ(−40) is no double


class Gaussian(AbstractLaw):
    """N(m, M), singular M included.

    **Arguments:** `mean` m (d,), `covariance` M (d, d), both copied.

    **Raises:** `ValueError` for other shapes, and for M that is not symmetric and positive
    semidefinite.
    """

    _mean: Float[np.ndarray, " d"]
    _covariance: Float[np.ndarray, "d d"]

    def __init__(self, mean: ArrayLike, covariance: ArrayLike):
        self._mean = np.array(_arguments.array("mean", mean, 1))
        spread, size = _arguments.array("covariance", covariance, 2), len(self._mean)
        if spread.shape != (size, size):
            raise ValueError(
                f"mean must be (d,) and covariance (d, d); got ({size},) and {spread.shape}."
            )
        self._covariance = _arguments.covariance("covariance", spread)

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """m."""
        return self._mean

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """M."""
        return self._covariance

    def marginal(self, axis: int = 0) -> "Gaussian":
        """The law of θ_axis."""
        axis = check_whole("axis", axis, 0, len(self.mean) - 1)
        return Gaussian(self.mean[[axis]], self.covariance[[axis]][:, [axis]])

    def expect(self, of: Callable) -> Float[np.ndarray, "..."]:
        """E f(θ) by Gauss–Hermite quadrature, 40 nodes an axis: exact for polynomials to order 79.

        **Arguments:** `of`: f, a JAX function of one θ (d,) with a value of any shape.

        **Raises:** `ValueError` for d > 3, where a `sample` is cheaper.
        """
        dim = len(self.mean)
        if dim > _MOST_DIMENSIONS:
            raise ValueError(
                f"expect takes {_NODES}^d nodes, for d ≤ {_MOST_DIMENSIONS}; this law has d = "
                f"{dim}: average over law.sample(key, n), or take a marginal(axis)."
            )
        nodes, weights = hermite_e.hermegauss(_NODES)
        axes = np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), -1).reshape(-1, dim)
        masses = np.prod(np.meshgrid(*[weights / weights.sum()] * dim), axis=0).ravel()
        values = _fields.evaluate("of", of, self.mean + axes @ self._root.T)
        return np.asarray(np.tensordot(masses, values, axes=1))

    def pdf(self, x: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """The density at x, of any shape on the line, (..., d) in more dimensions.

        **Raises:** `ValueError` for a singular covariance.
        """
        dim = len(self.mean)
        points = _arguments.positions("x", x, dim)
        values, vectors = np.linalg.eigh(self.covariance)
        if values[0] <= dim * np.finfo(float).eps * values[-1]:
            raise ValueError(
                f"a Gaussian of singular covariance has no density: its smallest eigenvalue is "
                f"{values[0]:.3g}. Take a marginal(axis) that has one, or add to the diagonal."
            )
        z = (points - self.mean) @ (vectors / np.sqrt(values))
        return np.asarray(np.exp(-(z**2).sum(-1) / 2 - np.log(2 * np.pi * values).sum() / 2))

    @property
    def _root(self) -> Float[np.ndarray, "d d"]:
        """R with R Rᵀ = M."""
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors * np.sqrt(np.clip(values, 0, None))

    def _on_the_line(self):
        if len(self.mean) != 1:
            raise only_on_the_line(len(self.mean))
        centre, spread = float(self.mean[0]), float(np.sqrt(max(self.covariance[0, 0], 0.0)))
        if spread == 0:
            return lambda x: np.where(x >= centre, 1.0, 0.0), centre, centre
        reach = _REACH * spread
        return lambda x: ndtr((x - centre) / spread), centre - reach, centre + reach

    def _draw(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num d"]:
        return self.mean + rng.standard_normal((num, len(self.mean))) @ self._root.T

    def _in_words(self) -> str:
        return moments_in_words(self)
