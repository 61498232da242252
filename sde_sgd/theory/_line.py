"""Processes on the line whose step is affine: SGD of quadratic losses in one dimension, its SDEs.

With u = θ − θ* a step is u ← (1 − ηX)u + noise, where X is the curvature that a batch sees. Moments
up to n then close on each other (`stationary.stationary_scalar_moments`), and the multiplier 1 − ηX
makes the tail (`laws.tail_index`).
"""

from math import comb
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.polynomial import polynomial as poly
from scipy.linalg import eigh_tridiagonal

from sde_sgd._checks import check_part
from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.noise_moments import example_expansions
from sde_sgd.landscapes.population import PopulationLeastSquares
from sde_sgd.noise.sampling import AbstractSampling, WithReplacement
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import NotKnown
from sde_sgd.processes.step_laws import Batches, Diffusion

_MOST_OF_BATCHES = 4
# Of squares: what rounding leaves of a variance that is 0.
_ROUNDING = 1e-24


class GaussianLine(NamedTuple):
    """u ← Fu + √V(u) ξ, or du = Fu ds + √V(u) dW_s (Itô) for `step` 0, s in iterations.

    **Fields:** `rest` θ*; `transition` F; `variance`, coefficients of V (3,); `step` in iterations.
    """

    rest: float
    transition: float
    variance: Float[np.ndarray, " 3"]
    step: float

    def moment_map(self, count: int) -> Float[np.ndarray, "m m"]:
        """The map of (1, E u, …, E u^count) over a step; for `step` 0 its generator in s."""
        keep, rows = self.transition, []
        for n in range(count + 1):
            if self.step == 0:
                row = n * keep * _power(n)
                if n > 1:
                    row = poly.polyadd(row, comb(n, 2) * self._push(n - 2, 1))
            else:
                row = np.zeros(1)
                for k in range(n // 2 + 1):
                    weight = comb(n, 2 * k) * _odd_factorial(k) * keep ** (n - 2 * k)
                    row = poly.polyadd(row, weight * self._push(n - 2 * k, k))
            rows.append(row)
        return _matrix(rows)

    def _push(self, degree: int, power: int) -> np.ndarray:
        """u^degree V(u)^power."""
        return poly.polymul(_power(degree), poly.polypow(self.variance, power))

    @property
    def still(self) -> bool:
        """Whether V has a zero, where the process stays once it is there."""
        constant, slope, curve = self.variance
        floor = constant if curve == 0 else constant - slope**2 / (4 * curve)
        return bool(
            floor <= _ROUNDING * max(constant - slope * self.rest + curve * self.rest**2, 0)
        )


class BatchLine(NamedTuple):
    """u ← u − η(λu + mean over a batch of (s_i + r_i u)), Σ s_i = Σ r_i = 0.

    **Fields:** `rest` θ*; `rate` η; `curvature` λ of the mean loss; `deviations` (s, r), (2, N);
    `sampling` of the batches; `step` 1.
    """

    rest: float
    rate: float
    curvature: float
    deviations: Float[np.ndarray, "2 n"]
    sampling: AbstractSampling
    step: float = 1.0

    def moment_map(self, count: int) -> Float[np.ndarray, "m m"]:
        """The map of (1, E u, …, E u^count) over a step, from the exact moments of a batch."""
        if count > _MOST_OF_BATCHES:
            raise NotKnown(
                f"Moments of batches of a finite sum are known up to order {_MOST_OF_BATCHES}; "
                f"order {count} is asked for. All orders are those of GaussianSGD, of "
                f"ModifiedEquation by Euler and of its limit; theory.laws.MasterEquation has the "
                f"law itself."
            )
        kicks = [(-self.rate) ** k * moment for k, moment in enumerate(self._batch_moments())]
        kept = np.array([0.0, 1 - self.rate * self.curvature])
        rows = []
        for n in range(count + 1):
            row = np.zeros(1)
            for k in range(n + 1):
                term = poly.polymul(poly.polypow(kept, n - k), kicks[k])
                row = poly.polyadd(row, comb(n, k) * term)
            rows.append(row)
        return _matrix(rows)

    def _batch_moments(self) -> list[np.ndarray]:
        """E Ŝᵏ of the mean Ŝ of a batch of s_i + r_i u, k = 0, …, 4, polynomials in u."""
        one, _, second, third, fourth = (_mean_power(self.deviations, k) for k in range(5))
        num = self.deviations.shape[1]
        w = lambda *sizes: self.sampling.joint_factor(sizes, num)  # noqa: E731
        kurtic = poly.polyadd(w(4) * fourth, 3 * w(2, 2) * poly.polymul(second, second))
        skew = self.sampling.third_factor(num) * third
        return [one, np.zeros(1), self.sampling.noise_factor(num) * second, skew, kurtic]

    @property
    def still(self) -> bool:
        """Whether all examples have one minimum."""
        offset, slope = self.deviations
        curve = slope @ slope
        least = offset if curve == 0 else offset - slope * (offset @ slope) / curve
        at_zero = offset - slope * self.rest
        return bool(least @ least <= _ROUNDING * (at_zero @ at_zero))


class PopulationLine(NamedTuple):
    """u ← (1 − ηX̂)u + ηε̂, X̂ = (a/B)χ²_B, ε̂ ~ N(0, σ²X̂/B) for a given X̂.

    **Fields:** `rest` θ*; `rate` η; `feature_variance` a; `label_noise` σ; `batch_size` B;
    `step` 1.
    """

    rest: float
    rate: float
    feature_variance: float
    label_noise: float
    batch_size: int
    step: float = 1.0

    def moment_map(self, count: int) -> Float[np.ndarray, "m m"]:
        """The map of (1, E u, …, E u^count) over a step, by a Gauss rule for χ²_B that is exact."""
        squares, chances = chi_square_rule(self.batch_size, count // 2 + 1)
        curvature = self.feature_variance / self.batch_size * squares
        keep = 1 - self.rate * curvature
        spread = self.rate**2 * self.label_noise**2 / self.batch_size * curvature
        found = np.zeros((count + 1, count + 1))
        for n in range(count + 1):
            for k in range(n // 2 + 1):
                mean = chances @ (spread**k * keep ** (n - 2 * k))
                found[n, n - 2 * k] = comb(n, 2 * k) * _odd_factorial(k) * mean
        return found

    @property
    def still(self) -> bool:
        """Whether there is no noise at the minimum."""
        return self.label_noise == 0


Line = GaussianLine | BatchLine | PopulationLine


def read_line(process: Any, asked: str) -> Line:
    """The affine step of a process on a quadratic loss with d = 1.

    **Raises:** `NotKnown` for other landscapes, d > 1, momentum, schedules, two-point steps,
    shuffled epochs, and processes whose step has no known law.
    """
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    landscape = process.landscape
    if landscape.dimension != 1:
        raise NotKnown(
            f"{asked} is known in one dimension; {type(landscape).__name__} has "
            f"d={landscape.dimension}. In more, theory.stationary.covariance(process) has the "
            f"second moments."
        )
    reading, law = process.linear(), process.law()
    rest, eta = float(reading.rest[0]), reading.learning_rate
    if isinstance(law, Diffusion):
        noise, injection = reading.noise, float(reading.own.injection[0, 0])
        parts = (noise.star, noise.cross, noise.feedback)
        variance = [0.0 if part is None else injection**2 * float(part.item()) for part in parts]
        transition = float(reading.own.transition.item())
        return GaussianLine(rest, transition, np.array(variance), reading.own.step)
    if isinstance(law, Batches) and isinstance(landscape, AbstractFiniteSum):
        law.finite_sum()  # refuses epochs
        pairs = list(example_expansions(landscape, jnp.asarray(reading.rest, landscape.dtype)))
        lines = np.concatenate([np.stack([g[:, 0], h[:, 0, 0]]) for g, h in pairs], axis=1)
        centred = lines - lines.mean(axis=1, keepdims=True)
        return BatchLine(rest, eta, float(reading.curvature[0]), centred, law.sampling)
    fresh = isinstance(law, Batches) and isinstance(law.sampling, WithReplacement)
    if fresh and isinstance(landscape, PopulationLeastSquares):
        a, sigma = float(reading.curvature[0]), float(landscape.label_noise)
        return PopulationLine(rest, eta, a, sigma, law.sampling.batch_size)
    raise NotKnown(
        f"{asked} of {type(process).__name__} under the batches of {type(landscape).__name__} is "
        f"not known: take PopulationLeastSquares with WithReplacement, a finite sum, or "
        f"ss.GaussianSGD."
    )


def chi_square_rule(degrees: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (n,) with E p(χ²) exact for polynomials of degree < 2n.

    By Golub and Welsch from Laguerre's recurrence, so that any number of degrees will do.
    """
    k, alpha = np.arange(nodes), degrees / 2 - 1
    values, vectors = eigh_tridiagonal(2 * k + alpha + 1, np.sqrt(k[1:] * (k[1:] + alpha)))
    return 2 * values, vectors[0] ** 2


def _mean_power(lines: np.ndarray, power: int) -> np.ndarray:
    """Coefficients of the mean of (offset_i + slope_i u)^power."""
    offset, slope = lines
    return np.array(
        [comb(power, k) * np.mean(slope**k * offset ** (power - k)) for k in range(power + 1)]
    )


def _odd_factorial(k: int) -> float:
    """(2k − 1)!!."""
    return float(np.prod(np.arange(1, 2 * k, 2, dtype=float)))


def _power(n: int) -> np.ndarray:
    return np.eye(n + 1)[n]


def _matrix(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of coefficients as a lower-triangular matrix; higher ones are zero by construction."""
    matrix = np.zeros((len(rows),) * 2)
    for n, row in enumerate(rows):
        matrix[n, : min(len(row), len(rows))] = row[: len(rows)]
    return matrix
