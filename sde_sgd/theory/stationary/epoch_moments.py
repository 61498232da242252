"""The law of shuffled epochs on a quadratic finite sum, with noise that depends on θ.

Independent batches close in the moments of θ alone (`covariance`, of SGD and of SGLD). Shuffled
epochs do not, but do so beside the set of examples that the epoch has used:
δ ← (I − ηH_b) δ − η s_b + √(2ηT) ξ for a batch b that is uniform among what is left.
`epoch_moments` sums over all these sets, exactly, for few examples.
"""

import itertools
from math import comb
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import check_part
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.batches import sampling_of
from sde_sgd.processes.linear import full, half, NotKnown
from sde_sgd.theory import _arguments
from sde_sgd.theory.stationary.posterior import MeanAndCovariance, minimum_of, refuse_flat
from sde_sgd.types import Vector

_MOST_TRANSITIONS = 3_000_000


class EpochMoments(NamedTuple):
    """Stationary moments of θ after k = 0, …, M − 1 steps of a shuffled epoch.

    **Fields:** `means` (M, d), `covariances` (M, d, d); phase 0 is the end of an epoch.
    """

    means: Float[np.ndarray, "M d"]
    covariances: Float[np.ndarray, "M d d"]

    @property
    def average(self) -> MeanAndCovariance:
        """Mean and covariance over all phases together, those of samples of every step."""
        mean = self.means.mean(axis=0)
        apart = self.means - mean
        spread = np.einsum("ki,kj->ij", apart, apart) / len(apart)
        return MeanAndCovariance(mean, self.covariances.mean(axis=0) + spread)

    @property
    def epoch_end(self) -> MeanAndCovariance:
        """Mean and covariance at the end of an epoch."""
        return MeanAndCovariance(self.means[0], self.covariances[0])


def epoch_moments(process: AbstractProcess, about: Any = None) -> EpochMoments:
    """Exact stationary moments of a process of shuffled epochs on a quadratic finite sum.

    The moments E[1{used = S} z zᵀ], z = (1, θ − θ*), are carried through an epoch for every set S
    of examples that can have been used after k batches, with each batch of the rest equally
    likely; the sum over S at the end of an epoch is a linear map, whose fixed point is solved for.
    Nothing is approximated: θ-dependent noise, correlations inside an epoch and the shift of the
    mean that shuffling causes are all there.

    At first order in η, beyond the bias of full batches, SGWORLD has the law e^{−L̃/T} of
    L̃ = L + (η/4) E|∇L_B − ∇L|² (Smith et al. 2021, 2101.12176): a bias of the same order as that
    of independent batches, which have cΣ* (η/2) in the place of T, N times as large.

    **Arguments:** `process`: `SGD` without momentum, or `SGLD` (then SGWORLD), with
    `RandomReshuffling`, on `LeastSquares` or a `ControlVariate` of it; elsewhere with `about`, θ
    (d,): the linearisation there, each example's own gradient and Hessian kept. An epoch has
    M = ⌊N/B⌋ steps; what is left over is not used in that epoch.

    **Raises:** `ValueError` for other processes and landscapes, for more than 3·10⁶ pairs of a set
    and a batch (N = 16 with B = 2 or 4 have fewer), and when the second moment diverges.
    """
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    landscape, sampling = process.landscape, sampling_of(process)
    if process.epoch is None or sampling is None:
        raise NotKnown(
            f"{type(process).__name__} does not shuffle epochs here: ask for its `covariance`."
        )
    if about is None:
        centre = minimum_of(landscape, "epoch_moments", "the linearisation about=θ")
    else:
        centre = _arguments.vector("about", about, landscape.dimension)
    eta = process.clock.constant
    own = None if eta is None else process.linear_step(eta, np.ones(1))
    if eta is None or own is None or own.injection.shape[1] > 1:
        raise NotKnown(
            f"Exact moments of shuffled epochs are known for SGD and SGLD at a constant learning "
            f"rate and without momentum, not for this {type(process).__name__}: freeze the noise, "
            f"with theory.stationary.epoch_covariance(hessian, noise, ...)."
        )
    num, size = landscape.num_examples, sampling.batch_size
    assert num is not None  # a finite sum, as it has epochs
    _check_pairs(num, size)
    batches, _ = sampling.batches(num, _MOST_TRANSITIONS)
    slopes, curvatures = _expanded(landscape, jnp.asarray(centre, landscape.dtype), batches)
    refuse_flat(landscape, curvatures.mean(axis=0))
    bath = process.bath_temperature
    maps = np.stack([_lifted(*pair, eta, bath) for pair in zip(curvatures, slopes, strict=True)])
    masks = np.array([_mask(b) for b in batches])
    after = _phases(maps, masks, num, size)
    whole = after[-1]
    if not np.isfinite(whole).all():
        raise ValueError(f"The second moments overflow at learning_rate={eta:g}: take a smaller.")
    growth = float(np.abs(np.linalg.eigvals(whole[1:, 1:])).max())
    if not growth < 1:
        raise ValueError(
            f"The second moment diverges at learning_rate={eta:g}: an epoch multiplies it by "
            f"{growth:g}, which must be < 1. Take a smaller learning_rate or a larger batch."
        )
    start = np.concatenate(
        [[1.0], np.linalg.solve(np.eye(len(whole) - 1) - whole[1:, 1:], whole[1:, 0])]
    )
    joint = np.stack([full(phase @ start) for phase in after[:-1]])
    shifts = joint[:, 0, 1:]
    covariances = joint[:, 1:, 1:] - shifts[:, :, None] * shifts[:, None, :]
    return EpochMoments(centre + shifts, covariances)


@eqx.filter_jit
def _expansions(landscape: AbstractLandscape, theta: Vector, batches: Array):
    def gradients(x):
        return jax.vmap(lambda batch: landscape.minibatch_gradient(x, batch))(batches)

    return gradients(theta), jax.jacfwd(gradients)(theta)


def _expanded(landscape: AbstractLandscape, theta: Vector, batches: np.ndarray):
    """Gradient (n, d) and Hessian (n, d, d) of each batch."""
    found = _expansions(landscape, theta, jnp.asarray(batches))
    return tuple(np.asarray(array, np.float64) for array in found)


def _lifted(curvature: np.ndarray, slope: np.ndarray, eta: float, bath: float) -> np.ndarray:
    """The map of half(z zᵀ), z = (1, δ), by one step δ ← δ − η(Hδ + s) + √(2ηT)ξ."""
    dim = len(slope)
    step = np.eye(dim + 1)
    step[1:, 0] = -eta * slope
    step[1:, 1:] -= eta * curvature
    basis = full(np.eye((dim + 1) * (dim + 2) // 2))
    lifted = half(step @ basis @ step.T).T
    heat = np.diag([0.0] + [2 * eta * bath] * dim)
    lifted[:, 0] += half(heat)
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


def _check_pairs(num: int, size: int) -> None:
    pairs = sum(comb(num, k) * comb(num - k, size) for k in range(0, num - size + 1, size))
    if pairs > _MOST_TRANSITIONS:
        raise NotKnown(
            f"N = {num} and batch_size = {size} have {pairs:.3g} pairs of used examples and a next "
            f"batch, more than {_MOST_TRANSITIONS:g}: take fewer examples or larger batches, or "
            f"theory.stationary.epoch_covariance with the noise frozen at the minimum."
        )
