"""A double well in the plane whose D(x, y) is a full tensor: its landscape and its exact laws.

Eight examples, one for each choice of three signs s, with the losses V + √(2/η) Σ_j s_j φ_j:
V = (x² − 1)²/4 + y²/2, and batches of one have the noise D = Σ_j ∇φ_j ∇φ_jᵀ, hot at large x and y,
with a correlation that turns off on the line x + y = −1. Its slowest mode
decays as e^{−.17t}.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import sparse
from scipy.sparse import linalg

import sde_sgd as ss

BOX, CELLS = ((-2.8, 2.8), (-4.0, 4.0)), (112, 160)
EDGES = (np.linspace(-2.0, 2.0, 41), np.linspace(-1.6, 1.8, 35))
STRENGTH = 0.15
SIGNS = np.array(np.meshgrid(*[(1.0, -1.0)] * 3)).reshape(3, 8).T


def energy(theta):
    """V."""
    return (theta[0] ** 2 - 1) ** 2 / 4 + theta[1] ** 2 / 2


def fields(theta):
    """φ_j, whose gradients are the columns of the root of D."""
    x, y = theta

    def bend(z):
        return jnp.logaddexp(z, -z)  # its slope is tanh z

    return np.sqrt(STRENGTH) * jnp.stack([x + 0.4 * bend(x), y + 0.4 * bend(y), bend(x + y + 1)])


def drift(theta):
    """−∇V."""
    return -jax.grad(energy)(theta)


def slopes(theta):
    """∇φ_j in row j, (3, 2)."""
    x, y = theta
    turn = jnp.tanh(x + y + 1)
    rows = [[1 + 0.4 * jnp.tanh(x), 0.0], [0.0, 1 + 0.4 * jnp.tanh(y)], [turn, turn]]
    return np.sqrt(STRENGTH) * jnp.array(rows)


def diffusion(theta):
    """D(x, y)."""
    rows = slopes(theta)
    return rows.T @ rows


class Point(eqx.Module):
    """The model whose parameters are θ itself."""

    theta: Array

    def __call__(self, _: Array) -> Array:
        return self.theta


def landscape(eta: float) -> ss.EmpiricalRisk:
    """The eight examples, at the learning rate at which a batch of one has this D."""

    def loss(theta, amplitudes):
        return energy(theta) + amplitudes @ fields(theta)

    return ss.EmpiricalRisk(
        Point(jnp.zeros(2)), jnp.zeros(8), jnp.asarray(np.sqrt(2 / eta) * SIGNS), loss
    )


def processes(eta: float, substeps: int) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one, and the SDE of the same D."""

    def root(theta):
        # The triangular root draws two numbers a step, and the columns ∇φ_j would draw three.
        tensor = 2 / eta * diffusion(theta)
        first = jnp.sqrt(tensor[0, 0])
        cross = tensor[0, 1] / first
        rest = jnp.sqrt(tensor[1, 1] - cross**2)
        return jnp.array([[first, 0.0], [cross, rest]])

    # The SDE needs V alone: eight examples would give the same drift, and cost more.
    well = ss.Potential(energy, np.eye(2))
    return {
        "SGD": ss.SGD(landscape(eta), eta, ss.WithReplacement(1)),
        "SDE": ss.ModifiedEquation(well, eta, ss.FunctionNoise(root), substeps=substeps),
    }


@functools.cache
def density(refine: int) -> ss.theory.laws.GridDensity:
    """The stationary Fokker–Planck density, of the landscape and its noise."""
    eta = 0.1  # D does not depend on it
    return ss.theory.laws.FokkerPlanck(
        ss.ModifiedEquation(landscape(eta), eta, ss.MinibatchNoise(ss.WithReplacement(1))).limit(),
        BOX,
        tuple(refine * n for n in CELLS),
    ).stationary()


@functools.cache
def chain_law(step: float, batches: bool, refine: int) -> ss.theory.laws.GridDensity:
    """The stationary law of SGD at η = `step`, or of Euler's scheme with this step, on the cells.

    θ′ = θ − h∇V + √(2h) Σ_j s_j ∇φ_j over the eight signs, or with D^{1/2}ξ over the nine points
    of Gauss–Hermite's rule, whose law differs from the Gaussian one's by O(h²). Each image is
    shared among the 6 × 6 nearest centres by Lagrange's weights, which keep its first five
    moments.
    """
    start = density(refine)
    centres = start.grid.centres
    rows = np.asarray(jax.vmap(slopes)(jnp.asarray(centres)))
    drifts = np.asarray(jax.vmap(drift)(jnp.asarray(centres)))
    if batches:
        jumps, chances = np.einsum("ms,nsi->nmi", SIGNS, rows), np.full(8, 1 / 8)
    else:
        nodes, weights = np.sqrt(3) * np.array([-1.0, 0, 1]), np.array([1, 4, 1]) / 6
        points = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(9, 2)
        roots = np.linalg.cholesky(np.einsum("nsi,nsj->nij", rows, rows))
        jumps = np.einsum("mk,nik->nmi", points, roots)
        chances = np.outer(weights, weights).ravel()
    images = (centres + step * drifts)[:, None] + np.sqrt(2 * step) * jumps
    # One image after the other: all at once they would fill a gigabyte.
    moves = np.moveaxis(images, 1, 0)
    transition = sum(c * _shared(start.grid, to) for c, to in zip(chances, moves, strict=True))
    options: Any = {"tol": 1e-8}
    found: Any = linalg.eigs(transition, k=1, which="LR", v0=start.masses, **options)
    masses = found[1][:, 0].real / found[1][:, 0].real.sum()
    values = masses.reshape(start.grid.shape) / start.grid.volume
    return eqx.tree_at(lambda found: found.values, start, values)


def _shared(grid, images: Float[np.ndarray, "n 2"]) -> sparse.csr_array:
    """The transposed transition matrix of cells' centres to their images."""
    offsets = np.arange(-2, 4)
    places, weights = [], []
    for axis in range(2):
        place = (images[:, axis] - grid.box[axis, 0]) / grid.spacing[axis] - 0.5
        # Next to a side, where there is no mass, images are held inside.
        place = np.clip(place, 2, grid.shape[axis] - 4)
        first = np.floor(place).astype(int)
        gaps = (place - first)[:, None] - offsets
        places.append(first[:, None] + offsets)
        parts = [
            np.prod(np.delete(gaps, j, 1) / np.delete(offset - offsets, j), axis=1)
            for j, offset in enumerate(offsets)
        ]
        weights.append(np.stack(parts, axis=1))
    rows = places[0][:, :, None] * grid.shape[1] + places[1][:, None, :]
    values = weights[0][:, :, None] * weights[1][:, None, :]
    columns = np.broadcast_to(np.arange(len(images))[:, None, None], rows.shape)
    size = (len(images), len(images))
    return sparse.coo_array((values.ravel(), (rows.ravel(), columns.ravel())), size).tocsr()


def gibbs_masses() -> np.ndarray:
    """exp(−V/D₀) with D₀ = ½ tr D(0), a gradient's density, in the cells of EDGES."""
    strength = float(np.trace(np.asarray(diffusion(jnp.zeros(2))))) / 2
    shares = []
    for axis, edges in enumerate(EDGES):
        grid = np.linspace(*BOX[axis], 1601)
        points = jnp.zeros((len(grid), 2)).at[:, axis].set(grid)
        # V is a sum over the axes; its value at 0 in the other one drops out.
        weight = np.exp(-np.asarray(jax.vmap(energy)(points)) / strength)
        total = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
        shares.append(np.diff(np.interp(edges, grid, total / total[-1])))
    return np.outer(*shares)


def distance(first: ss.theory.laws.GridDensity, second: ss.theory.laws.GridDensity) -> float:
    """Total variation on the cells of EDGES and outside; these are edges of both grids."""
    cells = []
    for law in (first, second):
        masses = law.masses.reshape(law.grid.shape)
        for axis, wanted in enumerate(EDGES):
            places = np.rint((wanted - law.grid.box[axis, 0]) / law.grid.spacing[axis]).astype(int)
            sums = np.insert(np.cumsum(masses, axis=axis), 0, 0.0, axis=axis)
            masses = np.diff(np.take(sums, places, axis=axis), axis=axis)
        cells.append(np.append(masses.ravel(), 1 - masses.sum()))
    return 0.5 * float(np.abs(cells[0] - cells[1]).sum())
