"""The Fokker–Planck operator on a box of cells, as a Markov jump chain between cell centres.

From the centre θ of a cell the chain jumps to θ ± h∘e_k, e_k integer offsets, at the rates

    r_k± = ρ_k(θ) B(∓w_k±) ,   B(w) = w/(eʷ − 1) ,   w_k± = e_k·A⁻¹(θ) (b/h)(θ ± h∘e_k/2) ,

where A = D/(h hᵀ) = Σ_k ρ_k e_k e_kᵀ is the diffusion tensor in units of cells and ρ_k ≥ 0. In
one dimension e = 1 and this is the scheme of Scharfetter and Gummel (Chang and Cooper) in its Itô
form. In two dimensions the three offsets are those of Selling's reduction of A, so that every
positive definite tensor, cross diffusion included, has non-negative rates. Its generator on a
smooth f is b·∇f + D:∇²f + O(h²); its transpose moves the density, conserves mass and keeps it
non-negative.

A side that reflects drops the jumps across it (no flux of bp − ∇·(Dp)); a side that absorbs kills
them, with the rate of the shorter way to the wall. Where D vanishes at a side of a line, the rates
are fitted to the power laws beside it (`_walls.py`).

**Source:** Scharfetter and Gummel 1969; Chang and Cooper 1970; Selling 1874, and for its use in
monotone schemes Bonnans and Zidani 2003, Mirebeau 2014.
"""

import math
from itertools import product
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from sde_sgd._checks import as_float64, in_brief, real_values
from sde_sgd.theory._fields import check_finite, Field
from sde_sgd.theory.laws._walls import wall_fit

SIDES = ("reflecting", "wall", "absorbing")
_PAIRS = ((0, 1), (1, 2), (2, 0))
_MAX_REDUCTIONS = 30
_MOST_CELLS = 4_000_000


class Grid(eqx.Module):
    """Equal cells on a box in one or two dimensions, numbered in C order.

    **Fields:** `box` (d, 2), `shape` (cells along each axis), `sides` (d pairs of names).
    """

    box: Float[np.ndarray, "d 2"]
    shape: tuple[int, ...] = eqx.field(static=True)
    sides: tuple[tuple[str, str], ...] = eqx.field(static=True)

    @property
    def dimension(self) -> int:
        """d, 1 or 2."""
        return len(self.shape)

    @property
    def num_cells(self) -> int:
        """Number of cells n."""
        return int(np.prod(self.shape))

    @property
    def spacing(self) -> Float[np.ndarray, " d"]:
        """h, the edges of one cell."""
        return (self.box[:, 1] - self.box[:, 0]) / np.array(self.shape)

    @property
    def volume(self) -> float:
        """Length or area of one cell."""
        return float(np.prod(self.spacing))

    def edges(self, axis: int) -> Float[np.ndarray, " edges"]:
        """Cell edges along one axis, (cells + 1,)."""
        low, high = self.box[axis]
        return np.linspace(low, high, self.shape[axis] + 1)

    def axis_centres(self, axis: int) -> Float[np.ndarray, " cells"]:
        """Cell centres along one axis."""
        edges = self.edges(axis)
        return (edges[1:] + edges[:-1]) / 2

    @property
    def centres(self) -> Float[np.ndarray, "n d"]:
        """Centres of all cells, in the numbering of the generator."""
        axes = np.meshgrid(*map(self.axis_centres, range(self.dimension)), indexing="ij")
        return np.stack([a.ravel() for a in axes], axis=1)

    @property
    def index(self) -> Int[np.ndarray, "n d"]:
        """Position (i, j) of every cell."""
        return np.stack([a.ravel() for a in np.indices(self.shape)], axis=1)


def make_grid(box: Any, cells: Any, sides: Any) -> Grid:
    """Validated `Grid` from the forms that users write."""
    array = as_float64("box", box)
    array = array[None] if array.ndim == 1 else array
    if array.shape not in ((1, 2), (2, 2)) or not np.isfinite(array).all():
        raise ValueError(
            f"box must be (low, high), or ((low, high), (low, high)) in two dimensions, finite; "
            f"got {in_brief(box)}."
        )
    if not (array[:, 0] < array[:, 1]).all():
        raise ValueError(f"box must have low < high along every axis; got {in_brief(box)}.")
    dim = len(array)
    counts = np.asarray(real_values("cells", cells))
    if counts.shape not in ((), (dim,)) or counts.dtype.kind not in "iu" or counts.min() < 4:
        raise ValueError(f"cells must be integers >= 4, one for each axis; got {in_brief(cells)}.")
    shape = tuple(int(c) for c in np.broadcast_to(counts, (dim,)))
    if math.prod(shape) > _MOST_CELLS:
        raise ValueError(
            f"cells={in_brief(cells)} are {math.prod(shape):.3g} in all, at most {_MOST_CELLS:g} "
            f"are solved for: take fewer on an axis."
        )
    return Grid(array, shape, _sides(sides, dim))


def _sides(sides: Any, dim: int) -> tuple[tuple[str, str], ...]:
    pairs: Any = ()
    if isinstance(sides, str):
        pairs = ((sides, sides),) * dim
    elif isinstance(sides, tuple | list):
        alone = dim == 1 and len(sides) == 2 and all(isinstance(s, str) for s in sides)
        rows = (sides,) if alone else sides
        pairs = tuple((s, s) if isinstance(s, str) else s for s in rows)
    right = all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs)
    pairs = tuple(tuple(p) for p in pairs) if right else ()
    if len(pairs) != dim or not all(
        isinstance(s, str) and s in SIDES for pair in pairs for s in pair
    ):
        raise ValueError(
            f"sides must be one of {SIDES}, or such a pair (low, high) for each axis; got "
            f"{in_brief(sides)}."
        )
    return pairs


def generator(
    grid: Grid, drift: Field, diffusion: Field, powers: Float[np.ndarray, "d 2 2"]
) -> tuple[sparse.csr_array, Float[np.ndarray, "n d 2"], float]:
    """The backward generator Q (n, n), the rates of absorption by each side, the added diffusion.

    Q[i, j] is the rate from cell i to cell j ≠ i; rows sum to minus the absorption. `powers` are
    those of `wall_powers`.
    """
    walls = wall_fit(grid, diffusion, powers) if grid.dimension == 1 else None
    offsets, weights, added = _directions(grid, _node_tensors(grid, diffusion))
    field = _drift_on_half_grid(grid, drift)
    index = grid.index
    inverse = _drift_inverse(offsets, weights)
    rows, columns, values = [], [], []
    killed = np.zeros((grid.num_cells, grid.dimension, 2))
    for k, sign in product(range(offsets.shape[1]), (1, -1)):
        step = sign * offsets[:, k]
        target = index + step
        inside = ((target >= 0) & (target < grid.shape)).all(axis=1)
        middle = np.clip(2 * index + 1 + step, 0, 2 * np.array(grid.shape))
        b, resistance = field[tuple(middle.T)], np.ones(grid.num_cells)
        if walls is not None:
            way = (sign + 1) // 2
            # At the side itself the powers are all that there is.
            rest = b[:, 0] - walls.removed[:, way]
            b, resistance = np.nan_to_num(rest)[:, None], walls.resistance[:, way]
        # β_k = ρ_k e_k·A⁻¹b/h: the share of the drift that this direction carries.
        push = sign * np.einsum("ni,ni->n", inverse[:, k], b / grid.spacing)
        rate = _exponential_fit(weights[:, k], push) / resistance
        here = np.flatnonzero(inside & (rate > 0))
        rows.append(here)
        columns.append(np.ravel_multi_index(tuple(target[here].T), grid.shape))
        values.append(rate[here])
        _absorb(grid, index, step, ~inside, weights[:, k], push, resistance, killed)
    row, column, value = map(np.concatenate, (rows, columns, values))
    size = (grid.num_cells, grid.num_cells)
    jumps = sparse.csr_array(sparse.coo_array((value, (row, column)), shape=size))
    out = np.asarray(jumps.sum(axis=1)).ravel() + killed.sum(axis=(1, 2))
    return sparse.csr_array(jumps - sparse.diags_array(out)), killed, added


def _directions(grid: Grid, tensors: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Offsets (n, k, d) and weights (n, k) of every cell."""
    if grid.dimension == 1:
        return np.ones((len(tensors), 1, 1), int), tensors[:, 0], 0.0
    offsets, weights, added = selling(tensors, max(grid.shape))
    closed = np.array([[side != "absorbing" for side in pair] for pair in grid.sides])
    index, last = grid.index[:, None, :], np.array(grid.shape) - 1
    reach = np.abs(offsets)
    dropped = (closed[:, 0] & (index < reach)) | (closed[:, 1] & (index > last - reach))
    cut = (dropped.any(axis=2) & (reach.max(axis=2) > 1)).any(axis=1)
    if cut.any():
        # Long jumps do not fit beside a closed side: nearest neighbours, and of the cross
        # diffusion what they can carry.
        near = tensors[cut].copy()
        bound = np.minimum(near[:, 0, 0], near[:, 1, 1])
        near[:, 0, 1] = near[:, 1, 0] = np.clip(near[:, 0, 1], -bound, bound)
        offsets[cut], weights[cut], _ = selling(near, max(grid.shape))
    return offsets, weights, added


def _exponential_fit(rho: np.ndarray, push: np.ndarray) -> np.ndarray:
    """ρ B(−β/ρ) = β/(1 − e^{−β/ρ}); the upwind rate max(β, 0) where ρ = 0."""
    safe = np.where(rho > 0, rho, 1.0)
    with np.errstate(over="ignore"):
        w = np.clip(np.where(rho > 0, push / safe, 0.0), -700.0, 1e300)
        small = np.abs(w) < 1e-8
        fitted = np.where(small, 1 + w / 2, w / -np.expm1(-np.where(small, 1.0, w)))
    return np.where(rho > 0, rho * fitted, np.maximum(push, 0.0))


def _absorb(grid, index, step, outside, rho, push, resistance, killed) -> None:
    """Adds to `killed` the rates of jumps that cross an absorbing side first."""
    length = np.array(grid.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        # The part of the way that lies inside the box, axis by axis; ∞ where no side is met.
        up = np.where(step > 0, (length - index - 0.5) / step, np.inf)
        down = np.where(step < 0, (index + 0.5) / -step, np.inf)
    both = np.stack([down, up], axis=2)
    for axis, end in product(range(grid.dimension), (0, 1)):
        if grid.sides[axis][end] != "absorbing":
            continue
        part = both[:, axis, end]
        first = outside & (part < 1) & (part <= both.min(axis=(1, 2)))
        share = part[first]
        rate = _exponential_fit(rho[first], share * push[first]) / share
        killed[first, axis, end] += rate / resistance[first]


def _node_tensors(grid: Grid, diffusion: Field) -> Float[np.ndarray, "n d d"]:
    """A = D/(h hᵀ) at the centres, checked to be positive semi-definite."""
    dim, centres = grid.dimension, grid.centres
    values = diffusion.at(centres)
    check_finite("diffusion", values, centres)
    skew = np.abs(values - values.transpose(0, 2, 1)).max(axis=(1, 2))
    scale = np.abs(values).max(axis=(1, 2))
    worst = int(np.argmax(skew - 1e-5 * scale))
    if skew[worst] > 1e-5 * scale[worst]:
        raise ValueError(
            f"diffusion must be symmetric; at θ = {centres[worst]} it differs from its transpose "
            f"by {skew[worst]:g}."
        )
    values = (values + values.transpose(0, 2, 1)) / 2
    smallest = np.linalg.eigvalsh(values)[:, 0]
    # Rounding of a product R Rᵀ: of the size of the tensor's largest value anywhere in float32.
    worst = int(np.argmin(smallest))
    if smallest[worst] < -1e-6 * max(scale.max(), 1e-300):
        raise ValueError(
            f"diffusion must be positive semi-definite; at θ = {centres[worst]} its smallest "
            f"eigenvalue is {smallest[worst]:.6g}. Shrink the box to where D >= 0."
        )
    if dim == 1:
        values = np.maximum(values, 0.0)
    return values / np.multiply.outer(grid.spacing, grid.spacing)


def _drift_on_half_grid(grid: Grid, drift: Field) -> Float[np.ndarray, "*half d"]:
    """b at all centres, faces and corners: index 2i + 1 is the centre of cell i."""
    axes = [
        np.linspace(low, high, 2 * n + 1)
        for (low, high), n in zip(grid.box, grid.shape, strict=True)
    ]
    mesh = np.meshgrid(*axes, indexing="ij")
    points = np.stack([a.ravel() for a in mesh], axis=1)
    values = drift.at(points)
    check_finite("drift", values, points)
    return values.reshape(*mesh[0].shape, grid.dimension)


def _drift_inverse(offsets: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "n k d"]:
    """ρ_k A⁻¹ e_k, the rows that split a drift over the offsets: Σ_k e_k (ρ_k e_k·A⁻¹ b) = b."""
    length = np.sum(offsets**2, axis=2).astype(float)
    # A singular A carries the rest of the drift by its shortest offsets (upwind, first order).
    largest = weights.max(axis=1, keepdims=True)
    rho = weights / np.where(largest > 0, largest, 1.0) + 1e-10 / length**12
    tensor = np.einsum("nk,nki,nkj->nij", rho, offsets, offsets)
    solved = np.linalg.solve(tensor, offsets.transpose(0, 2, 1).astype(float))
    return rho[:, :, None] * solved.transpose(0, 2, 1)


def selling(
    tensors: Float[np.ndarray, "n 2 2"], cells: int
) -> tuple[Int[np.ndarray, "n 3 2"], Float[np.ndarray, "n 3"], float]:
    """Integer offsets e_k and weights ρ_k ≥ 0 with A = Σ_k ρ_k e_k e_kᵀ, and what was added to A.

    A superbase e_0 + e_1 + e_2 = 0 is reduced until e_i·A e_j ≤ 0 for all pairs; the offsets are
    its quarter turns. A singular A along no short integer vector would need very long offsets:
    its smaller eigenvalue is raised to 1/`cells` of the larger, and the largest addition relative
    to the trace is returned.
    """
    trace = np.einsum("nii->n", tensors)
    base, reduced = _reduce(tensors, trace)
    added = 0.0
    # The error of offsets of W cells is (W/n)², that of raising to W⁻² is W⁻²: balanced at √n.
    long = ~reduced | (np.abs(base).max(axis=(1, 2)) > 2 * np.sqrt(cells))
    if long.any():
        values, vectors = np.linalg.eigh(tensors[long])
        raised = np.maximum(values, values[:, 1:] / cells)
        tensors = tensors.copy()
        tensors[long] = np.einsum("nij,nj,nkj->nik", vectors, raised, vectors)
        added = float(np.max((raised - values)[:, 0] / trace[long]))
        base, _ = _reduce(tensors, trace)
    products = np.einsum("nki,nij,nlj->nkl", base, tensors, base)
    weights = np.stack([-products[:, i, j] for i, j in _PAIRS], axis=1)
    turned = np.stack([-base[:, :, 1], base[:, :, 0]], axis=2)
    offsets = np.stack([turned[:, 3 - i - j] for i, j in _PAIRS], axis=1)
    return offsets, np.maximum(weights, 0.0), added


def _reduce(tensors: np.ndarray, trace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Superbases (n, 3, 2) after Selling's reduction, and which of them are obtuse."""
    base = np.broadcast_to(np.array([[1, 0], [0, 1], [-1, -1]]), (len(tensors), 3, 2)).copy()
    bad = np.ones(len(tensors), bool)
    for _ in range(_MAX_REDUCTIONS):
        products = np.einsum("nki,nij,nlj->nkl", base, tensors, base)
        values = np.stack([products[:, i, j] for i, j in _PAIRS], axis=1)
        worst = np.argmax(values, axis=1)
        bad = values.max(axis=1) > 1e-12 * trace
        if not bad.any():
            break
        for p, (i, j) in enumerate(_PAIRS):
            rows = np.flatnonzero(bad & (worst == p))
            first, second = base[rows, i], base[rows, j]
            base[rows, i], base[rows, j], base[rows, 3 - i - j] = -first, second, first - second
    return base, ~bad
