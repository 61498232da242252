"""Mean-square stability of sharpness-aware minimisation on finite least squares, exactly.

With H_i = x_i x_iᵀ + λI and H_B their mean over a batch, SAM without normalisation moves
δ = θ − θ* by a random linear map and noise that does not depend on δ,

    δ ← (I − ηQ_B) δ + … ,   Q_B = H_B + ρH_B² ,   Q̄ = E Q_B ,

and its modified equation, at solver step h = η/substeps, by

    δ ← (I − hQ̄) δ + √(hη) Σ_i w_i K_i δ + … ,   w_i = √(c/N)(z_i − z̄) ,
    K_i = H_i + ρ[(1 − s)(H H_i + H_i H) + s H_i²] ,   s = k/c ,

c and k the factors of second and third moments of a batch mean. Either way E δδᵀ is bounded where
Q̄⊗I + I⊗Q̄ − η Y is positive definite on symmetric matrices, with

    Y = E Q_B⊗Q_B   or   Y = Q̄⊗Q̄/substeps + c Cov(K_i⊗K_i) .
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from sde_sgd.landscapes.finite_sums import LeastSquares
from sde_sgd.landscapes.noise_moments import refuse_many
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.processes.linear import half, NotKnown

_ROWS = 2048  # examples per block, so that memory does not grow with N
Tensor = Float[np.ndarray, "d d d d"]  # of X_ab X'_cd


def least_squares_of(process: Any, about: Any) -> tuple[Float[np.ndarray, "N d"], float]:
    """Inputs (N, d) and l2 of the `LeastSquares` on which limits are exact."""
    landscape = process.landscape
    if not isinstance(landscape, LeastSquares) or about is not None:
        raise NotKnown(
            f"The stability of {type(process).__name__} is known on LeastSquares, and not about a "
            f"point of other landscapes; this one is {type(landscape).__name__}."
        )
    refuse_many(landscape.dimension, "LeastSquares")
    return np.asarray(landscape.data[0], np.float64), float(landscape.l2)


def largest_stable_rate(
    x: Float[np.ndarray, "N d"], rho: float, sampling: AbstractSampling, penalty: float
) -> float:
    """The η below which `SAM` without normalisation has a bounded second moment.

    Fourth moments of H_B are sums over the set partitions of four factors, those that fall on one
    example making a block; nothing is enumerated. Costs O(Nd⁴ + d⁶).
    """
    # Q_B = first·I + second·A_B + third·A_B², A_B the mean of x_i x_iᵀ over the batch.
    law = _BatchMoments(x, sampling)
    parts = (penalty * (1 + rho * penalty), 1 + 2 * rho * penalty, rho)
    shape = (law.dim,) * 4
    mean, second = np.zeros(shape[:2]), np.zeros(shape)
    for p, q in itertools.product(range(3), repeat=2):
        second += parts[p] * parts[q] * law.moment(p, q)
    for p in range(3):
        mean += parts[p] * law.moment(p, 0)[:, :, 0, 0]
    return _largest_rate(mean, second)


def largest_stable_rate_of_equation(
    x: Float[np.ndarray, "N d"],
    rho: float,
    sampling: AbstractSampling,
    ratio: float,
    penalty: float,
) -> float:
    """The η below which `SAMEquation` has a bounded second moment, `ratio` = 1/substeps."""
    num, dim = x.shape
    c, k = sampling.noise_factor(num), sampling.third_factor(num)
    s = k / c if c > 0 else 0.0
    eye, hess = np.eye(dim), x.T @ x / num + penalty * np.eye(dim)
    length = np.sum(x**2, axis=1)
    squares = (x.T * (length + 2 * penalty)) @ x / num + penalty**2 * eye  # of H_i²
    mean = hess + rho * (hess @ hess + c * (squares - hess @ hess))

    own, cross = 1 + rho * s * (length + 2 * penalty), rho * (1 - s) * (x @ hess)
    total, second = np.zeros(dim**2), np.zeros((dim**2, dim**2))
    for rows in np.array_split(np.arange(num), -(-num // _ROWS)):
        part = (0.5 * own[rows, None] * x[rows] + cross[rows])[:, :, None] * x[rows, None, :]
        flat = (part + part.swapaxes(1, 2)).reshape(len(rows), -1)  # K_i up to a constant
        total += flat.sum(axis=0) / num
        second += flat.T @ flat / num
    spread = (second - np.outer(total, total)).reshape((dim,) * 4)
    return _largest_rate(mean, ratio * np.multiply.outer(mean, mean) + c * spread)


class _BatchMoments:
    """E A_B^p ⊗ A_B^q, p, q ≤ 2, of the mean A_B of x_i x_iᵀ over a batch."""

    def __init__(self, x: Float[np.ndarray, "N d"], sampling: AbstractSampling):
        self.num, self.dim = x.shape
        self.sampling = sampling
        self.tensors = {(2, r): _mean_power(x, 2, r) for r in (0, 1)}
        self.tensors |= {(4, r): _mean_power(x, 4, r) for r in (0, 1, 2)}

    def moment(self, left: int, right: int) -> Tensor:
        """E (A_B^left)_ab (A_B^right)_cd."""
        factors = [*_CHAINS[left], *(pair.translate(_RIGHT) for pair in _CHAINS[right])]
        identities = ["ab"] * (left == 0) + ["cd"] * (right == 0)
        total = np.zeros((self.dim,) * 4)
        for partition in _partitions(factors):
            weight = self.sampling.joint_factor([len(block) for block in partition], self.num)
            if weight == 0:
                continue
            terms, operands = [*identities], [np.eye(self.dim)] * len(identities)
            for block in partition:
                letters = "".join(block)
                # A letter that one example has twice is its |x|².
                ends = "".join(letter for letter in letters if letters.count(letter) == 1)
                terms.append(ends)
                operands.append(self.tensors[len(ends), (len(letters) - len(ends)) // 2])
            total += weight * np.einsum(",".join(terms) + "->abcd", *operands, optimize=True)
        return total


# Indices of the factors of A^0, A^1 and A^2, in einsum's letters: (A²)_ab = A_am A_mb.
_CHAINS = ((), ("ab",), ("am", "mb"))
_RIGHT = str.maketrans("abm", "cdn")


def _mean_power(x: Float[np.ndarray, "N d"], order: int, power: int) -> np.ndarray:
    """(1/N) Σ_i |x_i|^{2·power} x_i ⊗ … ⊗ x_i, of `order` 2 or 4."""
    num, dim = x.shape
    total = np.zeros((dim ** (order // 2),) * 2)
    for rows in np.array_split(x, -(-num // _ROWS)):
        weight = np.sum(rows**2, axis=1) ** power / num
        flat = rows if order == 2 else (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
        total += (flat.T * weight) @ flat
    return total.reshape((dim,) * order)


def _partitions(items: Sequence[str]) -> Iterator[list[list[str]]]:
    """All set partitions."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for partition in _partitions(rest):
        yield [[first], *partition]
        for i, block in enumerate(partition):
            yield [*partition[:i], [first, *block], *partition[i + 1 :]]


def _largest_rate(mean: Float[np.ndarray, "d d"], second: Tensor) -> float:
    """The η below which Q̄⊗I + I⊗Q̄ − ηY is positive definite, off directions that never move."""
    rates, basis = np.linalg.eigh(mean)
    moving = rates > len(rates) * np.finfo(float).eps * rates[-1]
    rates, basis = rates[moving], basis[:, moving]
    for axis in range(4):
        second = np.moveaxis(np.tensordot(second, basis, axes=(axis, 0)), -1, axis)
    # S ↦ X_ab S_bd X_cd, on symmetric S.
    operator = np.einsum("abcd->acbd", second + np.einsum("abcd->adcb", second)) / 2
    matrix = half(np.moveaxis(half(operator), -1, 0)).T
    scale = 1 / np.sqrt(half(rates[:, None] + rates, scaled=False))
    last = len(scale) - 1
    top = scipy.linalg.eigh(
        matrix * scale[:, None] * scale, eigvals_only=True, subset_by_index=[last, last]
    )[0]
    return float(1 / top) if top > 0 else math.inf
