"""Weights of minima: Boltzmann-like, from a density on a grid, and from large deviations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from sde_sgd._checks import as_float64, check_number, check_part, check_whole, real_values
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory._fields import traced
from sde_sgd.theory.escape.backward_equation import committor_on_grid, GridFunction
from sde_sgd.theory.laws.fokker_planck import FokkerPlanck
from sde_sgd.theory.laws.grid_density import GridDensity
from sde_sgd.types import RealLike

_MOST_BASINS = 10**6


def boltzmann_weights(
    losses: ArrayLike, hessians: ArrayLike, *, temperature: RealLike
) -> Float[np.ndarray, " m"]:
    """w_i ∝ e^{−L_i/T}/√det H_i: the weights of m minima under constant isotropic noise, T → 0.

    T is the temperature of p ∝ e^{−L/T}: with gradient noise of variance C in every direction and
    iteration T = ηC/2, which for the C = σ²/B of Jastrzębski et al. is their ησ²/(2B). Noise
    that varies with θ or with direction has other weights, and a T-independent factor between
    depth and width besides: see `FokkerPlanck` and `weights_on_grid`.

    **Arguments:**

    - `losses`: (m,), L_i.
    - `hessians`: (m, d, d), or (m, d) their eigenvalues.
    - `temperature`: T > 0.

    **Raises:** `ValueError` for T ≤ 0, and for a Hessian that is not positive definite (a flat
    direction has no Gaussian weight).

    **Source:** Jastrzębski et al. 2017 (1711.04623), eq. 8; Laplace's method.
    """
    depth = _arguments.array("losses", losses, 1)
    t = check_number("temperature", temperature, above=0)
    curvature = as_float64("hessians", hessians)
    if curvature.ndim not in (2, 3) or len(curvature) != len(depth):
        raise ValueError(
            f"hessians must be ({len(depth)}, d, d) or their eigenvalues ({len(depth)}, d), got "
            f"shape {curvature.shape}."
        )
    rows = curvature if curvature.ndim == 2 else [_spectrum(i, h) for i, h in enumerate(curvature)]
    log_weights = np.empty(len(depth))
    for i, values in enumerate(rows):
        if not np.isfinite(values).all() or min(values) <= 0:
            raise ValueError(
                f"minimum {i} has a Hessian eigenvalue {min(values):g}, not > 0: a saddle, or a "
                f"flat direction without Gaussian width. Integrate the density instead."
            )
        log_weights[i] = -depth[i] / t - np.log(values).sum() / 2
    return np.exp(log_weights - logsumexp(log_weights))


def _spectrum(i: int, hessian: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(_arguments.symmetric(f"hessians[{i}]", hessian))


def weights_on_grid(
    density: GridDensity, label: Callable | ArrayLike, num_basins: int
) -> Float[np.ndarray, " m"]:
    """∫_{basin i} p dθ for each basin, from a density on a grid in one or two dimensions.

    With `FokkerPlanck.stationary` these are the exact Itô weights, with `.propagate(start, times)`
    the selection probabilities after a finite time. Cells count whole, by their centre: where the
    boundary of a basin follows cell edges the error is O(cell²), else O(cell × density there).

    **Arguments:**

    - `density`: a `GridDensity`.
    - `label`: a JAX function of θ (d,) that gives the number 0, …, m − 1 of its basin (−1 for
      none), as for `Occupation`; or an array of numbers, one a cell.
    - `num_basins`: m.

    **Raises:** `ValueError` for labels outside −1, …, m − 1.
    """
    check_part("density", density, GridDensity, "a GridDensity")
    num_basins = check_whole("num_basins", num_basins, 1, _MOST_BASINS)
    if callable(label):
        numbers = _fields.scalar("label", label, density.grid.dimension).at(density.grid.centres)
    else:
        numbers = np.ravel(real_values("label", label))
    if numbers.shape != (density.grid.num_cells,) or not np.array_equal(numbers, np.rint(numbers)):
        raise ValueError(
            f"label must give one integer for each of {density.grid.num_cells} cells, got shape "
            f"{numbers.shape} and dtype {numbers.dtype}."
        )
    numbers = numbers.astype(int)
    if numbers.min() < -1 or numbers.max() >= num_basins:
        raise ValueError(
            f"labels must be -1 … {num_basins - 1} for num_basins={num_basins}; they go from "
            f"{numbers.min()} to {numbers.max()}."
        )
    return np.bincount(numbers + 1, density.masses, num_basins + 1)[1:]


def splitting_on_grid(equation: FokkerPlanck, targets: Sequence[Callable]) -> list[GridFunction]:
    """q_i(θ), the probability that target i is the first of all targets to be reached.

    𝓛q_i = 0 between the targets, q_i = 1 on target i and 0 on the others; Σ_i q_i = 1 where there
    is no absorbing side.

    **Arguments:** `equation`: the SDE and its grid, d = 1 or 2; `targets`: two or more disjoint
    sets, JAX functions of θ (d,) that give a boolean.

    **Raises:** `ValueError` for fewer than two targets, overlaps, targets without a cell centre.
    """
    check_part("equation", equation, FokkerPlanck, "a FokkerPlanck equation")
    targets = _arguments.members("targets", targets, Callable, "functions of θ")  # pyright: ignore[reportArgumentType]
    if len(targets) < 2:
        raise ValueError(f"splitting_on_grid needs at least two targets, got {len(targets)}.")
    targets = [traced(f"targets[{i}]", target) for i, target in enumerate(targets)]

    def other_than(i: int) -> Callable:
        rest = [t for j, t in enumerate(targets) if j != i]
        return lambda theta: jnp.any(jnp.stack([t(theta) for t in rest]))

    return [
        committor_on_grid(equation, lower=other_than(i), upper=target)
        for i, target in enumerate(targets)
    ]


def spanning_tree_energies(barriers: ArrayLike) -> Float[np.ndarray, " m"]:
    """E_i − min E with E_i = min over spanning in-trees to i of the sum of W along its edges.

    The rates e^{−W_ij/η} make a Markov chain between the minima; as η → 0 its stationary weights
    are e^{−(E_i − min E)/η}. They are found by eliminating one minimum after the other,
    W_ij ← min(W_ij, W_in + W_nj − min_k W_nk): the Markov-chain elimination of
    Grassmann, Taksar and Heyman, which has no subtractions and so holds in (min, +) too.

    **Arguments:** `barriers`: W (m, m), W_ij ≥ 0 the quasi-potential from minimum i to minimum j
    (`quasi_potential`), infinite where there is no direct way; the diagonal is not used.

    **Raises:** `ValueError` for negative or NaN barriers, and for minima that not every other one
    can reach or be left from: there the weights depend on the start.

    **Source:** Freidlin & Wentzell, Random Perturbations of Dynamical Systems, chapter 6.3;
    for SGD Azizian, Iutzeler, Malick, Mertikopoulos 2024 (2406.09241).
    """
    cost = _barriers(barriers)
    size = len(cost)
    exits = np.zeros(size)
    for n in range(size - 1, 0, -1):
        exits[n] = cost[n, :n].min()
        if not np.isfinite(exits[n]):
            raise ValueError(_unreachable(cost))
        via = cost[:n, n, None] + cost[n, :n] - exits[n]
        cost[:n, :n] = np.minimum(cost[:n, :n], via)
    energy = np.zeros(size)
    for n in range(1, size):
        energy[n] = (energy[:n] + cost[:n, n]).min() - exits[n]
    if not np.isfinite(energy).all():
        raise ValueError(_unreachable(cost))
    return energy - energy.min()


def large_deviation_weights(
    barriers: ArrayLike, *, learning_rate: RealLike
) -> Float[np.ndarray, " m"]:
    """w_i ∝ exp(−[E_i − min E]/η), E_i of `spanning_tree_energies`: exponents, no prefactors.

    **Raises:** `ValueError` as `spanning_tree_energies`, and for η ≤ 0.
    """
    eta = check_number("learning_rate", learning_rate, above=0)
    weights = np.exp(-spanning_tree_energies(barriers) / eta)
    return weights / weights.sum()


def _barriers(value: Any) -> np.ndarray:
    cost = as_float64("barriers", value).copy()
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 1:
        raise ValueError(f"barriers must be (m, m), got shape {cost.shape}.")
    np.fill_diagonal(cost, np.inf)
    if np.isnan(cost).any() or (cost < 0).any():
        raise ValueError("barriers must be >= 0 (infinite where there is no direct way), no NaN.")
    return cost


def _unreachable(cost: np.ndarray) -> str:
    return (
        f"Not every one of the {len(cost)} minima can be reached from, and left to, the others at "
        f"finite cost: the long-run weights then depend on the start. Leave out what is never left."
    )
