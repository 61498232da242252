"""The master equation of a process in one dimension: its law after k steps, and for ever."""

import functools
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import lu_factor, lu_solve
from scipy.special import ndtr

from sde_sgd._checks import check_flag, check_number, check_whole
from sde_sgd.processes.step_laws import Jumps
from sde_sgd.theory import _arguments, _step_laws
from sde_sgd.theory._step_laws import GaussianStep, JumpStep
from sde_sgd.theory.laws._markov_chain import stationary_masses
from sde_sgd.theory.laws.scalar_law import GaussianMixture, ScalarLaw
from sde_sgd.types import RealLike

_MAX_ATOMS = 200_000
# Of a Gauss–Legendre rule, whose kernel is dense; of equal cells, whose kernel is sparse.
MOST_NODES = 5000
_MOST_CELLS = 1_000_000
MOST_STEPS = 10**7
# Quadrature error of a row of the kernel: 1e-10 is reached when spacing is about the width.
_UNRESOLVED = 1e-9


class MasterEquation(eqx.Module):
    """p_{k+1}(x) = ∫ P(x′ → x) p_k(x′) dx′, the exact law of a process at its own steps.

    For Gaussian steps the kernel N(x′ + hb(x′), 2hD(x′)) on Gauss–Legendre nodes, spectrally
    accurate. For SGD, θ ← θ − η ĝ_B(θ), the law after k steps is a set of atoms, followed exactly
    while they are few. On the grid an atom that falls between two nodes is shared linearly between
    them: mass and mean are kept, masses stay non-negative, and the sharing adds at most h²/4 of
    variance a step (second order in the spacing h).

    **Arguments:**

    - `process`: on a landscape with d = 1: `SGD` without momentum, `GaussianSGD`, or
      `ModifiedEquation` by Euler, whose steps are those of the solver; `processes.Diffusion` with a
      step or `processes.Jumps` in its place.
    - `box`: (low, high), which must hold the mass.
    - `nodes`: their number; equal spacing for batches.
    - `mass_tolerance`: probability that may be lost from the box (in all by `propagate`, in
      one step by `stationary`). `numpy.inf` makes the outside of the box absorbing: the mass
      left is the survival probability, and `stationary` the quasi-stationary law.

    **Fields:** `law`, of one step, and its `step` h in t; `nodes`, `weights` (n,) of the quadrature
    ∫f dx ≈ Σ w_i f(x_i), `matrix` P (n, n),
    P[j, i] the probability of a step from node j to (the piece of) node i, dense for Gaussian noise
    and sparse for batches; `leak` (n,) the exact probability of a step out of the box, so that
    P 1 = 1 − leak and mean exit times solve (I − P)τ = 1.

    **Raises:** `ValueError` for a kernel narrower than the spacing of the nodes (with place and
    number), values that are not finite.

    **Source:** for real batches as "Why SGD is not Brownian motion"; the kernel equation is
    Nyström's method.
    """

    law: GaussianStep | JumpStep
    box: Float[np.ndarray, " 2"]
    nodes: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    matrix: Any
    leak: Float[np.ndarray, " n"]
    mass_tolerance: float

    def __init__(
        self,
        process: Any,
        box: Any,
        nodes: int = 400,
        *,
        mass_tolerance: float = 1e-9,
    ):
        nodes = check_whole("nodes", nodes, 8, _MOST_CELLS)
        self.law = _step_laws.line_step(process, "A master equation")
        self.box = _arguments.interval("box", box)
        self.mass_tolerance = _arguments.tolerance("mass_tolerance", mass_tolerance)
        if isinstance(self.law, GaussianStep):
            check_whole("nodes", nodes, 8, MOST_NODES)
            self.nodes, self.weights = gauss_legendre(self.box, nodes)
            self.matrix, self.leak = _gaussian_kernel(
                *self.law.after(self.nodes), self.nodes, self.weights, self.box
            )
        else:
            self.nodes = np.linspace(self.box[0], self.box[1], nodes)
            self.weights = np.full(nodes, self.nodes[1] - self.nodes[0])
            self.weights[[0, -1]] /= 2
            self.matrix, self.leak = _push_forward(self.law, self.nodes)

    @property
    def step(self) -> float:
        """h, in units of t."""
        return self.law.step

    def stationary(self) -> ScalarLaw:
        """The stationary law, mass 1 (for batches with its twin on half as many nodes).

        **Raises:** `ValueError` if more than `mass_tolerance` leaves the box in a step, if there
        are several stationary laws (batch noise that never leaves a well), or passages too rare
        for double precision.
        """
        if isinstance(self.law, GaussianStep):
            masses, lost = _dense_stationary(self.matrix)
        else:
            identity = sparse.eye_array(len(self.nodes))
            masses, _ = stationary_masses(sparse.csr_array(self.matrix - identity), False)
            lost = float(masses @ self.leak)
        self._check_lost(lost, "in one step of the stationary law")
        return self._on_nodes(masses, masses, lost, twin=True)

    def propagate(
        self, start: ScalarLaw | RealLike, steps: ArrayLike, *, on_grid: bool = False
    ) -> list[ScalarLaw]:
        """The law after each of `steps`, which of an equation are those of its solver.

        **Arguments:**

        - `start`: a point θ0, or a `ScalarLaw` such as an earlier result.
        - `steps`: (T,) numbers of steps k ≥ 0, in any order.
        - `on_grid`: for batches, share the atoms between the nodes from the first step on
          instead of following them exactly.

        **Raises:** `ValueError` if mass leaves the box, or for more than 200 000 atoms (atoms
        closer than 1e-12 of the box are one).
        """
        counts = _arguments.iterations("steps", steps, MOST_STEPS)
        on_grid = check_flag("on_grid", on_grid)
        now = self._start(start)
        found: list[Any] = [None] * len(counts)
        done = 0
        for position in np.argsort(counts, kind="stable"):
            for _ in range(int(counts[position]) - done):
                now = self._step(now, on_grid)
            done = int(counts[position])
            self._check_lost(now.lost, f"in {done} steps")
            found[position] = now
        return found

    def _start(self, start: ScalarLaw | RealLike) -> ScalarLaw:
        if isinstance(start, ScalarLaw):
            return start
        point = check_number("start", start)
        if not self.box[0] <= point <= self.box[1]:
            raise ValueError(f"start {point:g} lies outside the box {self.box.tolist()}.")
        return ScalarLaw(np.array([point]), np.ones(1), 0.0)

    def _step(self, law: ScalarLaw, on_grid: bool) -> ScalarLaw:
        if isinstance(self.law, JumpStep):
            return self._shared_step(law) if on_grid else self._atoms_step(law)
        if np.array_equal(law.positions, self.nodes):
            masses = law.masses @ self.matrix
            lost = law.lost + float(law.masses @ self.leak)
            return self._on_nodes(masses, law.masses, lost)
        means, stds = self.law.after(law.positions)
        kernel, leak = _gaussian_kernel(means, stds, self.nodes, self.weights, self.box)
        mixture = GaussianMixture(law.masses, means, stds)
        lost = law.lost + float(law.masses @ leak)
        return ScalarLaw(self.nodes, law.masses @ kernel, lost, mixture)

    def _atoms_step(self, law: ScalarLaw) -> ScalarLaw:
        assert isinstance(self.law, JumpStep)
        if len(law.positions) * len(self.law.probabilities) > 50 * _MAX_ATOMS:
            raise ValueError(_too_many(len(law.positions) * len(self.law.probabilities)))
        moved = self.law.after(law.positions)
        masses = law.masses[:, None] * self.law.probabilities
        inside = (moved >= self.box[0]) & (moved <= self.box[1])
        lost = law.lost + float(masses[~inside].sum())
        positions, masses = _merge(
            moved[inside], masses[inside], 1e-12 * (self.box[1] - self.box[0])
        )
        if len(positions) > _MAX_ATOMS:
            raise ValueError(_too_many(len(positions)))
        return ScalarLaw(positions, masses, lost, spacing=law.spacing)

    def _shared_step(self, law: ScalarLaw) -> ScalarLaw:
        spacing = float(self.nodes[1] - self.nodes[0])
        masses = law.masses
        if not np.array_equal(law.positions, self.nodes):
            share = _share(law.positions[:, None], self.nodes)
            masses = law.masses @ share
        lost = law.lost + float(masses @ self.leak)
        return ScalarLaw(self.nodes, masses @ self.matrix, lost, spacing=spacing)

    def _on_nodes(
        self, masses: np.ndarray, before: np.ndarray, lost: float, twin: bool = False
    ) -> ScalarLaw:
        if isinstance(self.law, GaussianStep):
            mixture = GaussianMixture(before, *self.law.after(self.nodes))
            return ScalarLaw(self.nodes, masses, lost, mixture)
        coarser = None
        if twin:
            half = MasterEquation(
                Jumps(self.law.gradients, self.law.probabilities, self.law.step),
                self.box,
                (len(self.nodes) + 1) // 2,
                mass_tolerance=np.inf,
            )
            identity = sparse.eye_array(len(half.nodes))
            rough, _ = stationary_masses(sparse.csr_array(half.matrix - identity), False)
            width = float(half.nodes[1] - half.nodes[0])
            coarser = ScalarLaw(half.nodes, rough, float(rough @ half.leak), spacing=width)
        spacing = float(self.nodes[1] - self.nodes[0])
        return ScalarLaw(self.nodes, masses, lost, spacing=spacing, coarser=coarser)

    def _check_lost(self, lost: float, when: str) -> None:
        if lost > self.mass_tolerance:
            raise ValueError(
                f"the box loses mass: probability {lost:.3g} leaves {self.box.tolist()} {when}, "
                f"more than mass_tolerance={self.mass_tolerance:g}. Enlarge the box, or pass "
                f"mass_tolerance=numpy.inf if its outside is meant to absorb."
            )


def gauss_legendre(box: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on an interval."""
    nodes, weights = _unit_interval(num)
    half = (box[1] - box[0]) / 2
    return box[0] + half * (nodes + 1), half * weights


@functools.lru_cache(maxsize=16)
def _unit_interval(num: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(num)


def _gaussian_kernel(means, stds, nodes, weights, box) -> tuple[np.ndarray, np.ndarray]:
    """P[j, i] = w_i N(x_i; mean_j, std_j²), and the exact probability of leaving the box."""
    narrow = int(np.argmin(stds))
    if stds[narrow] == 0:
        raise ValueError(
            f"the Gaussian kernel from x ≈ {means[narrow]:g} has no width: the noise vanishes "
            f"there. Choose a box where it does not; SGD and processes.Jumps need none."
        )
    z = (nodes - means[:, None]) / stds[:, None]
    matrix = weights * np.exp(-(z**2) / 2) / (stds[:, None] * np.sqrt(2 * np.pi))
    leak = ndtr((box[0] - means) / stds) + ndtr((means - box[1]) / stds)
    error = np.abs(matrix.sum(axis=1) - (1 - leak))
    worst = int(np.argmax(error))
    if error[worst] > _UNRESOLVED:
        needed = max(3.3 * (box[1] - box[0]) / stds.min(), 1.5 * len(nodes))
        raise ValueError(
            f"the nodes do not resolve the step: its kernel of standard deviation "
            f"{stds[worst]:.3g} around x = {means[worst]:.4g} integrates with an error of "
            f"{error[worst]:.2g}. Take about nodes={int(np.ceil(needed))}, or a smaller box."
        )
    return matrix, leak


def _push_forward(law: JumpStep, nodes: np.ndarray):
    """P[j, i] = Σ_a π_a (share of node i in x_j − ηg_a(x_j)), and what leaves the box."""
    moved = law.after(nodes)
    inside = (moved >= nodes[0]) & (moved <= nodes[-1])
    leak = np.where(inside, 0.0, law.probabilities).sum(axis=1)
    return _share(moved, nodes, np.broadcast_to(law.probabilities, moved.shape)), leak


def _share(points: np.ndarray, nodes: np.ndarray, masses: np.ndarray | None = None):
    """Sparse (rows of `points`, nodes): every point's mass shared by its two neighbours."""
    masses = np.ones(points.shape) if masses is None else masses
    row, _ = np.nonzero((points >= nodes[0]) & (points <= nodes[-1]))
    inside = (points >= nodes[0]) & (points <= nodes[-1])
    place = (points[inside] - nodes[0]) / (nodes[1] - nodes[0])
    left = np.clip(np.floor(place).astype(int), 0, len(nodes) - 2)
    part = np.clip(place - left, 0.0, 1.0)
    mass = masses[inside]
    data = np.concatenate([mass * (1 - part), mass * part])
    where = (np.concatenate([row, row]), np.concatenate([left, left + 1]))
    return sparse.csr_array(sparse.coo_array((data, where), shape=(len(points), len(nodes))))


def _dense_stationary(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """π with πP = λπ, Σπ = 1, and the loss 1 − λ in one step."""
    size = len(matrix)
    factor = lu_factor(np.eye(size) * (1 + 1e-13) - matrix.T)
    ends = []
    for vector in (np.full(size, 1 / size), np.linspace(2, 0, size) / size):
        for _ in range(30):
            new = lu_solve(factor, vector)
            new /= new.sum()
            change = np.abs(new - vector).sum()
            vector = new
            if change < 1e-14:
                break
        ends.append(vector)
    gap = float(np.abs(ends[0] - ends[1]).sum())
    if not gap < 1e-7:
        raise ValueError(
            f"two stationary solves differ by {gap:.2g} in total variation: passages between parts "
            f"of the box are too rare for double precision. Choose a box around one of them."
        )
    masses = ends[0]
    if masses.min() < -1e-12 * masses.max():
        raise ValueError(
            f"the stationary law has a negative mass {masses.min():.2g}: take more nodes."
        )
    masses = np.maximum(masses, 0.0)
    masses /= masses.sum()
    return masses, float(max(1 - (masses @ matrix).sum(), 0.0))


def _merge(positions: np.ndarray, masses: np.ndarray, distance: float):
    """Sorted atoms; those within `distance` of their left neighbour become one, at their mean."""
    order = np.argsort(positions, kind="stable")
    positions, masses = positions[order], masses[order]
    group = np.concatenate([[0], np.cumsum(np.diff(positions) > distance)])
    total = np.bincount(group, masses)
    first = positions[np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1])]
    shift = np.bincount(group, masses * (positions - first[group]))
    return first + shift / np.where(total > 0, total, 1.0), total


def _too_many(count: int) -> str:
    return (
        f"the law would have up to {count} atoms, more than can be followed exactly "
        f"({_MAX_ATOMS}): ask for fewer steps, or pass on_grid=True."
    )
