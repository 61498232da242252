"""Posteriors, and the laws that Langevin samplers have instead at a finite learning rate.

SGLD, θ ← θ − η ĝ_B(θ) + √(2ηT) ξ, has the law e^{−L/T} for exact gradients and η → 0. On least
squares its second moments close as those of SGD do (`least_squares`), with 2T I beside the noise
of the batches,

    H M + M H − h H M H − η c [(1/N) Σ H_i M H_i − AMA] = η c Σ* + 2T I ,

h = η for the sampler, 0 for its SDE. A control variate at the anchor a replaces Σ(θ) by the
covariance of H_i (θ − a), hence Σ* by that of H_i (θ* − a), which is zero for a = θ*.

Shuffled epochs (SGWORLD) do not close in θ alone, but do so beside the set of examples that the
epoch has used: δ ← (I − ηH_b) δ − η s_b + √(2ηT) ξ for a batch b that is uniform among what is
left. `langevin_epochs` sums over all these sets, exactly, for few examples.
"""

import dataclasses
import itertools
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, LinAlgError

from sde_sgd._checks import as_float64, check_at_least, check_number, check_whole, real_values
from sde_sgd.noise.sampling import RandomReshuffling
from sde_sgd.theory import _arguments
from sde_sgd.theory.stationary import _second_moments as moments, least_squares
from sde_sgd.types import RealLike

_MOST_TRANSITIONS = 3_000_000


class _Gaussian(NamedTuple):
    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


class Gaussian(_Gaussian):
    """A normal law: `mean` (d,), `covariance` (d, d), copies of what is given."""

    __slots__ = ()

    def __new__(cls, mean: ArrayLike, covariance: ArrayLike):
        centre = np.array(real_values("mean", mean))
        spread = np.array(real_values("covariance", covariance))
        if centre.ndim != 1 or spread.shape != (*centre.shape, *centre.shape):
            raise ValueError(
                f"mean must be (d,) and covariance (d, d); got {centre.shape} and {spread.shape}."
            )
        return super().__new__(cls, centre, spread)


class LangevinEpochs(NamedTuple):
    """Stationary moments of θ after k = 0, …, M − 1 steps of a shuffled epoch.

    **Fields:** `means` (M, d), `covariances` (M, d, d); phase 0 is the end of an epoch.
    """

    means: Float[np.ndarray, "M d"]
    covariances: Float[np.ndarray, "M d d"]

    @property
    def average(self) -> Gaussian:
        """Mean and covariance over all phases together, those of samples of every step."""
        mean = self.means.mean(axis=0)
        apart = self.means - mean
        spread = np.einsum("ki,kj->ij", apart, apart) / len(apart)
        return Gaussian(mean, self.covariances.mean(axis=0) + spread)

    @property
    def epoch_end(self) -> Gaussian:
        """Mean and covariance at the end of an epoch."""
        return Gaussian(self.means[0], self.covariances[0])


def posterior_least_squares(
    inputs: ArrayLike, targets: ArrayLike, *, temperature: RealLike, l2: RealLike = 0.0
) -> Gaussian:
    """The law e^{−L/T} of L = (1/N) Σ ½(x_i·θ − y_i)² + (λ/2)|θ|²: N(θ*, T H⁻¹), exactly.

    T = σ²/N is the posterior of label noise of variance σ² and the prior N(0, σ²/(Nλ) I).

    **Arguments:** `inputs` (N, d), `targets` (N,), `temperature` T > 0, `l2` λ ≥ 0.

    **Raises:** `ValueError` for bad shapes and numbers, and directions that nothing holds.
    """
    problem = least_squares._problem(inputs, targets, l2, frozen=True)
    least_squares._refuse_flat(problem)
    scale = check_number("temperature", temperature, above=0)
    covariance = scale * (problem.basis / problem.hessian) @ problem.basis.T
    return Gaussian(problem.basis @ problem.minimum, covariance)


def langevin_covariance(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    noise_factor: RealLike,
    temperature: RealLike,
    time_step: RealLike | None = None,
    l2: RealLike = 0.0,
    anchor: ArrayLike | None = None,
) -> Float[np.ndarray, "d d"]:
    """Exact stationary covariance of SGLD on least squares with independent batches.

    The stationary mean is θ*, exactly. Without batch noise (`noise_factor=0`) this is the
    unadjusted Langevin algorithm, T/(h_i(1 − ηh_i/2)) along the eigenvectors of H.

    **Arguments:**

    - `inputs` (N, d), `targets` (N,), `learning_rate` η, `noise_factor` c, `l2` as in
      `least_squares_covariance`.
    - `temperature`: T ≥ 0; 1/N for the posterior.
    - `time_step`: h, η (the sampler) if not given; η/substeps for Euler's scheme of the SDE, 0
      for the SDE itself.
    - `anchor`: a (d,) of the control variate (SGLD-CV); no control variate if not given.

    **Raises:** `ValueError` as `least_squares_covariance`.
    """
    problem = least_squares._problem(inputs, targets, l2, frozen=False)
    step = learning_rate if time_step is None else time_step
    eta, c, h, _ = least_squares._numbers(learning_rate, noise_factor, step, 0.0, 1)
    bath = check_at_least("temperature", temperature)
    least_squares._refuse_flat(problem)
    if anchor is not None:
        offset = problem.minimum - problem.basis.T @ _arguments.vector(
            "anchor", anchor, len(problem.minimum)
        )
        star = problem.feedback @ moments.half(np.outer(offset, offset))
        problem = dataclasses.replace(problem, star=star)
    resistance = moments.resistance(problem.hessian, eta, h, 0.0)
    try:
        factor = cho_factor(moments.check_held(np.diag(resistance) - c * problem.feedback))
    except LinAlgError:
        raise ValueError(least_squares._unstable(problem, eta, c, h, 0.0, 1)) from None
    heat = moments.half(2 * bath / eta * np.eye(len(problem.minimum)))
    second = cho_solve(factor, c * problem.star + heat)
    return problem.basis @ moments.full(second) @ problem.basis.T


def langevin_epochs(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    batch_size: int,
    temperature: RealLike,
    l2: RealLike = 0.0,
    anchor: ArrayLike | None = None,
) -> LangevinEpochs:
    """Exact stationary moments of SGWORLD (SGLD with shuffled epochs) on least squares.

    The moments E[1{used = S} z zᵀ], z = (1, θ − θ*), are carried through an epoch for every set S
    of examples that can have been used after k batches, with each batch of the rest equally
    likely; the sum over S at the end of an epoch is a linear map, whose fixed point is solved for.
    Nothing is approximated: θ-dependent noise, correlations inside an epoch and the shift of the
    mean that shuffling causes are all there. With T = 0 this is SGD with `RandomReshuffling`.

    At first order in η, beyond the bias of full batches, it has the law e^{−L̃/T} of
    L̃ = L + (η/4) E|∇L_B − ∇L|² (Smith et al. 2021, 2101.12176): a bias of the same order as that
    of independent batches, which have cΣ* (η/2) in the place of T, N times as large.

    **Arguments:** `inputs` (N, d), `targets` (N,), `learning_rate` η, `batch_size` B,
    `temperature` T ≥ 0, `l2`, `anchor` as `langevin_covariance`. An epoch has
    M = ⌊N/B⌋ steps; what is left over is not used in that epoch.

    **Raises:** `ValueError` for bad shapes and numbers, more than 3·10⁶ pairs of a set and a batch
    (N = 16 with B = 2 or 4 have fewer), and when the second moment diverges.
    """
    problem = least_squares._problem(inputs, targets, l2, frozen=True)
    least_squares._refuse_flat(problem)
    x, y = as_float64("inputs", inputs), as_float64("targets", targets)
    num, dim = x.shape
    eta = check_number("learning_rate", learning_rate, above=0)
    bath = check_at_least("temperature", temperature)
    size = _batch(batch_size, num)
    minimum, penalty = problem.basis @ problem.minimum, problem.l2 * np.eye(dim)
    curvature = x[:, :, None] * x[:, None, :] + penalty
    if anchor is None:
        slope = (x @ minimum - y)[:, None] * x + problem.l2 * minimum
    else:
        offset = minimum - _arguments.vector("anchor", anchor, dim)
        slope = (curvature - curvature.mean(axis=0)) @ offset
    batches, _ = RandomReshuffling(size).batches(num, _MOST_TRANSITIONS)
    maps = np.stack([_lifted(curvature[b].mean(0), slope[b].mean(0), eta, bath) for b in batches])
    masks = np.array([_mask(b) for b in batches])
    after = _phases(maps, masks, num, size)
    whole = moments.check_held(after[-1])
    growth = float(np.abs(np.linalg.eigvals(whole[1:, 1:])).max())
    if not growth < 1:
        raise ValueError(
            f"The second moment diverges at learning_rate={eta:g}: an epoch multiplies it by "
            f"{growth:g}, which must be < 1. Take a smaller learning_rate or a larger batch."
        )
    start = np.concatenate(
        [[1.0], np.linalg.solve(np.eye(len(whole) - 1) - whole[1:, 1:], whole[1:, 0])]
    )
    joint = np.stack([moments.full(phase @ start) for phase in after[:-1]])
    shifts = joint[:, 0, 1:]
    covariances = joint[:, 1:, 1:] - shifts[:, :, None] * shifts[:, None, :]
    return LangevinEpochs(minimum + shifts, covariances)


def _lifted(curvature: np.ndarray, slope: np.ndarray, eta: float, bath: float) -> np.ndarray:
    """The map of half(z zᵀ), z = (1, δ), by one step δ ← δ − η(Hδ + s) + √(2ηT)ξ."""
    dim = len(slope)
    step = np.eye(dim + 1)
    step[1:, 0] = -eta * slope
    step[1:, 1:] -= eta * curvature
    basis = moments.full(np.eye((dim + 1) * (dim + 2) // 2))
    lifted = moments.half(step @ basis @ step.T).T
    heat = np.diag([0.0] + [2 * eta * bath] * dim)
    lifted[:, 0] += moments.half(heat)
    return lifted


def _phases(maps: np.ndarray, masks: np.ndarray, num: int, size: int) -> list[np.ndarray]:
    """The map of half(E z zᵀ) from the start of an epoch to after k = 0, …, M batches."""
    states, carried = np.zeros(1, dtype=masks.dtype), np.eye(maps.shape[1])[None]
    result = [carried[0]]
    for used in range(0, num - size + 1, size):
        grown = np.array([_mask(s) for s in itertools.combinations(range(num), used + size)])
        grown.sort()
        following = np.zeros((len(grown), *maps.shape[1:]))
        for mask, move in zip(masks, maps, strict=True):
            free = np.flatnonzero((states & mask) == 0)
            # Different sets with one batch become different sets: no index occurs twice.
            following[np.searchsorted(grown, states[free] | mask)] += move @ carried[free]
        carried, states = following / comb(num - used, size), grown
        result.append(carried.sum(axis=0))
    return result


def _mask(chosen) -> int:
    return sum(1 << int(i) for i in chosen)


def _batch(value: int, num: int) -> int:
    size = check_whole("batch_size", value, 1, num)
    pairs = sum(comb(num, k) * comb(num - k, size) for k in range(0, num - size + 1, size))
    if pairs > _MOST_TRANSITIONS:
        raise ValueError(
            f"N = {num} and batch_size = {size} have {pairs:.3g} pairs of used examples and a next "
            f"batch, more than {_MOST_TRANSITIONS:g}: take fewer examples or larger batches, or "
            f"`epoch_covariance` with the noise frozen at the minimum."
        )
    return size
