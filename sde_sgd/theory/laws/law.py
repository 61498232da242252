"""What every predicted law of θ answers: moments, expectations, levels, samples."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, check_key, check_whole, in_brief
from sde_sgd.theory import _arguments
from sde_sgd.theory.quantiles import first_double
from sde_sgd.types import Key, RealLike

_MOST_SAMPLES = 10**7


class AbstractLaw(eqx.Module):
    """A law of θ (d,).

    `mean` is (d,) and `covariance` (d, d), on the line too, as `ss.Moments` measures them:
    `ss.compare(run["moments"].mean, law.mean)`. `variance` and `median` are numbers, for d = 1.
    On the line x and levels have any shape; in more dimensions cdf, quantile, variance and median
    raise `ValueError`, and `marginal(axis)` of a law that has one leads there.

    Where a boundary has absorbed mass, `mean`, `covariance`, `expect` and `sample` are of what is
    left; `pdf`, `cdf` and the levels of `quantile` are parts of what was there, up to the mass.
    """

    @property
    @abc.abstractmethod
    def mean(self) -> Float[np.ndarray, " d"]:
        """E θ, (d,)."""

    @property
    @abc.abstractmethod
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Cov θ, (d, d)."""

    @abc.abstractmethod
    def expect(self, of: Callable) -> Float[np.ndarray, "..."]:
        """E f(θ).

        **Arguments:** `of`: f, a JAX function of one θ (d,) with a value of any shape.
        """

    @abc.abstractmethod
    def pdf(self, x: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """The density at points: x of any shape on the line, (..., d) in more dimensions.

        **Raises:** `ValueError` for a law that has none.
        """

    def cdf(self, x: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """P(θ ≤ x)."""
        cdf, _, _ = self._on_the_line()
        return np.asarray(cdf(_arguments.known("x", x)))

    def quantile(self, level: RealLike | ArrayLike) -> Float[np.ndarray, "..."]:
        """The smallest x with P(θ ≤ x) ≥ level, to the last digit of `cdf`.

        **Raises:** `ValueError` for levels that are not between 0 and 1 (the mass, if less).
        """
        cdf, low, high = self._on_the_line()
        levels, mass = as_float64("level", level), min(float(cdf(np.asarray(high))), 1.0)
        if not ((levels > 0) & (levels < mass)).all():
            raise ValueError(
                f"level must lie between 0 and the mass {mass:g}; got {in_brief(level)}."
            )
        return first_double(lambda x: cdf(x) >= levels, low, high)

    @property
    def median(self) -> float:
        """The smallest x with P(θ ≤ x) ≥ ½."""
        return float(self.quantile(0.5))

    @property
    def variance(self) -> float:
        """Var θ on the line."""
        if self.covariance.shape != (1, 1):
            raise only_on_the_line(len(self.covariance))
        return float(self.covariance[0, 0])

    def sample(self, key: Key, num_samples: int) -> Float[np.ndarray, "num_samples d"]:
        """Independent draws of θ, a function of the key alone."""
        words = np.asarray(jax.random.key_data(check_key(key)))
        rng = np.random.default_rng(words.tolist())
        return self._draw(rng, check_whole("num_samples", num_samples, 1, _MOST_SAMPLES))

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self._in_words()}"

    @abc.abstractmethod
    def _on_the_line(self) -> tuple[Callable[[np.ndarray], np.ndarray], float, float]:
        """The cdf, and x below which it is 0 and above which it rises no more.

        **Raises:** `only_on_the_line` in more dimensions.
        """

    @abc.abstractmethod
    def _draw(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num d"]:
        """`num` independent draws."""

    @abc.abstractmethod
    def _in_words(self) -> str:
        """One line about the law, most often `moments_in_words` and where it lives."""

    def _inverted(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num 1"]:
        """Draws by the inverse cdf."""
        cdf, low, high = self._on_the_line()
        levels = 1 - rng.random(num)  # in (0, 1]
        return first_double(lambda x: cdf(x) >= levels, low, high)[:, None]


def only_on_the_line(dimension: int) -> ValueError:
    """The error of what a law in more dimensions is asked for in vain."""
    return ValueError(
        f"cdf, quantile, median and variance need a law on the line, and this one has d = "
        f"{dimension}: take `marginal(axis)` first."
    )


def moments_in_words(law: AbstractLaw) -> str:
    """Mean and standard deviation, of the first coordinates if they are many."""
    mean, deviation = law.mean, np.sqrt(np.diag(law.covariance))
    if len(mean) == 1:
        return f"mean {mean[0]:.6g}, standard deviation {deviation[0]:.6g}"
    return f"mean {in_brief(mean)}, standard deviation {in_brief(deviation)}"


def moments(
    points: Float[np.ndarray, "n d"], masses: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and covariance of masses at points, whatever they add up to."""
    weights = masses / masses.sum()
    mean = weights @ points
    return mean, (points - mean).T @ (weights[:, None] * (points - mean))
