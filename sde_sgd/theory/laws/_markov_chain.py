"""Continuous-time Markov chains with a sparse generator: stationary law and propagation."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.linalg import expm, schur, solve_sylvester
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu

# Uniformisation costs about q·t products, each of the time of its non-zeros and of a call; above
# this many non-zeros in all, factorise instead.
_MAX_WORK = 1e9
_CALL = 20_000
_LONGEST = 1e20
_TOLERANCE = 1e-11


def stationary_masses(
    generator: sparse.csr_array, neighbours_only: bool
) -> tuple[Float[np.ndarray, " n"], float]:
    """π with πQ = 0, Σπ = 1, and the most negative entry before it was set to zero."""
    num_cells = generator.diagonal().size
    inside = _closed_class(generator)
    block = sparse.csr_array(generator[inside][:, inside])
    if neighbours_only:
        weights, most_negative = _birth_death(block), 0.0
    else:
        weights, most_negative = _null_vector(block)
    masses = np.zeros(num_cells)
    masses[inside] = weights
    return masses, most_negative


def _closed_class(generator: sparse.csr_array) -> np.ndarray:
    """Cells of the one class that is never left."""
    jumps = sparse.coo_array(generator)
    row, column = jumps.coords
    keep = (row != column) & (jumps.data > 0)
    row, column = row[keep], column[keep]
    graph = sparse.csr_array((np.ones(len(row)), (row, column)), shape=generator.shape)
    count, label = csgraph.connected_components(graph, connection="strong")
    left = np.zeros(count, bool)
    left[label[row[label[row] != label[column]]]] = True
    if np.sum(~left) > 1:
        places = [int(np.flatnonzero(label == c)[0]) for c in np.flatnonzero(~left)[:2]]
        raise ValueError(
            f"there are {np.sum(~left)} stationary densities: no path leads from cell "
            f"{places[0]} to cell {places[1]} or back, as the diffusion vanishes between. Choose a "
            f"box around one region, or propagate a start."
        )
    return np.flatnonzero(label == np.flatnonzero(~left)[0])


def _birth_death(block: sparse.csr_array) -> np.ndarray:
    """π_{i+1}/π_i = Q_{i,i+1}/Q_{i+1,i}."""
    if block.diagonal().size == 1:
        return np.ones(1)
    ratio = np.log(block.diagonal(1)) - np.log(block.diagonal(-1))
    potential = np.concatenate([[0.0], np.cumsum(ratio)])
    weights = np.exp(potential - potential.max())
    return weights / weights.sum()


def _null_vector(block: sparse.csr_array) -> tuple[np.ndarray, float]:
    """Inverse iteration on σI − Qᵀ from two starts, which must agree."""
    size = block.diagonal().size
    scale = float(np.abs(block.diagonal()).max())
    shift = 1e-12 * scale
    matrix = sparse.csc_array(shift * sparse.eye_array(size) - block.T)
    factor = _factorise(matrix)
    index = np.arange(size)
    starts = [np.full(size, 1 / size), np.exp(-index / size * 20)]
    ends, change = [], np.inf
    for vector in starts:
        for _ in range(30):
            new = factor.solve(vector)
            new /= new.sum()
            change = np.abs(new - vector).sum()
            vector = new
            if change < 1e-13:
                break
        ends.append(vector)
    gap = float(np.abs(ends[0] - ends[1]).sum())
    if not gap < 1e-7:
        raise ValueError(
            f"two stationary solves differ by {gap:.2g} in total variation: the box holds regions "
            f"between which the passage is rarer than double precision can weigh (rates below "
            f"about {1e-12 * scale:.1g}). Choose a box around one of them, or a larger diffusion."
        )
    most_negative = float(min(ends[0].min() / ends[0].max(), 0.0))
    weights = np.maximum(ends[0], 0.0)
    return weights / weights.sum(), most_negative


def _factorise(matrix):
    """LU of an M-matrix, which needs no pivoting.

    **Raises:** `ValueError` for rates so far apart that it is singular in double precision.
    """
    try:
        return splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError as error:
        raise ValueError(
            "the rates of the grid are so large, or so far apart, that their matrix is singular in "
            "double precision: take a smaller learning rate, diffusion or box."
        ) from error


def propagate(
    generator: sparse.csr_array,
    absorption: Float[np.ndarray, "n sides"],
    masses: Float[np.ndarray, " n"],
    absorbed: Float[np.ndarray, " sides"],
    duration: float,
) -> tuple[Float[np.ndarray, " n"], float, Float[np.ndarray, " sides"]]:
    """Masses and absorbed masses after `duration`, and the most negative relative entry."""
    if duration == 0:
        return masses, 0.0, absorbed
    sides = absorption.shape[1]
    # The absorbing sides are states of their own, which are never left: all mass is conserved.
    operator = sparse.csr_array(
        sparse.block_array(
            [
                [generator.T, None],
                [sparse.csr_array(absorption.T), sparse.csr_array((sides, sides))],
            ]
        )
    )
    state = np.concatenate([masses, absorbed])
    total = state.sum()
    rate = float(np.abs(operator.diagonal()).max())
    most_negative = 0.0
    if rate * duration > _LONGEST:
        raise ValueError(
            f"times are too far apart: {duration:.3g} is {rate * duration:.2g} times the shortest "
            f"time of the grid, at most {_LONGEST:g} can be told from for ever. Ask for "
            f"`stationary()`, or for earlier times."
        )
    if rate * duration * (operator.nnz + _CALL) <= _MAX_WORK:
        state = _uniformise(operator, state, rate, duration)
    else:
        state = _rational_krylov(operator, state, duration)
        most_negative = float(min(state.min() / state.max(), 0.0))
        state = np.maximum(state, 0.0)
    # What is left is rounding and the truncation of the series, both below 1e-13.
    state = state * (total / state.sum())
    return state[: len(masses)], most_negative, state[len(masses) :]


def _uniformise(operator, state: np.ndarray, rate: float, duration: float) -> np.ndarray:
    """Σ_k Poisson(k; q·duration)(I + A/q)^k state, in pieces of at most 200 mean jumps."""
    if rate == 0:
        return state
    pieces = max(1, int(np.ceil(rate * duration / 200)))
    mean = rate * duration / pieces
    step = sparse.csr_array(sparse.eye_array(operator.shape[0]) + operator / rate)
    terms = int(mean + 9 * np.sqrt(mean) + 25)
    for _ in range(pieces):
        weight = np.exp(-mean)
        total, power = weight * state, state
        for k in range(1, terms):
            power = step @ power
            weight *= mean / k
            total = total + weight * power
        state = total
    return state


# t/γ of the rational Krylov space.
_POLE = 10.0


def _propagated(projected: np.ndarray) -> np.ndarray:
    """First column of f(H), f(μ) = e^{10(1 − 1/μ)}, with H the projection of (I − γA)⁻¹.

    Modes that have died out, f < 1e-15, have μ of the size of rounding and of either sign, where
    the formula would overflow. Ordered Schur form parts them from those that last, and they get
    f = 0: the coupling X solves T₁₁X − XT₂₂ = f(T₁₁)T₁₂.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = (1 / np.linalg.eigvals(projected)).real
    rates = np.where(rates > 0, rates, np.inf)
    # Where 1/μ has the widest gap between 4.5 and 9, X is best known.
    marks = np.sort(np.concatenate([[4.5, 9.0], rates[(rates > 4.5) & (rates < 9)]]))
    widest = int(np.argmax(np.diff(marks)))
    cut = (marks[widest] + marks[widest + 1]) / 2
    ordered: Any = schur(
        projected, output="complex", sort=lambda mu: mu.real > 0 and (1 / mu).real < cut
    )
    triangle, basis, lasting = ordered
    first = triangle[:lasting, :lasting]
    kept = expm(_POLE * (np.eye(lasting) - np.linalg.inv(first)))
    start = basis[0].conj()
    column = kept @ start[:lasting]
    if lasting < len(projected):
        coupling = solve_sylvester(
            first, -triangle[lasting:, lasting:], kept @ triangle[:lasting, lasting:]
        )
        column = column + coupling @ start[lasting:]
    return (basis[:, :lasting] @ column).real


def _rational_krylov(operator, state: np.ndarray, duration: float) -> np.ndarray:
    """e^{A t} v from the Krylov space of (I − γA)⁻¹, γ = t/10 (`_POLE`), until two sizes agree.

    **Source:** van den Eshof and Hochbruck, SIAM J. Sci. Comput. 27 (2006) 1438.
    """
    size = len(state)
    gamma = duration / _POLE
    factor = _factorise(sparse.csc_array(sparse.eye_array(size) - gamma * operator))
    norm = float(np.linalg.norm(state))
    basis, upper = [state / norm], np.zeros((101, 100))
    previous = None
    for m in range(100):
        vector = factor.solve(basis[m])
        for _ in range(2):
            for i, other in enumerate(basis):
                overlap = float(other @ vector)
                upper[i, m] += overlap
                vector = vector - overlap * other
        upper[m + 1, m] = np.linalg.norm(vector)
        finished = upper[m + 1, m] < 1e-14
        if (m + 1) % 5 == 0 or finished:
            current = norm * (np.array(basis).T @ _propagated(upper[: m + 1, : m + 1]))
            if finished or (
                previous is not None and np.abs(current - previous).sum() < _TOLERANCE * state.sum()
            ):
                return current
            previous = current
        basis.append(vector / upper[m + 1, m])
    raise ValueError(
        f"propagation over {duration:g} did not converge to {_TOLERANCE:g} in 100 Krylov vectors; "
        f"ask for intermediate times."
    )
