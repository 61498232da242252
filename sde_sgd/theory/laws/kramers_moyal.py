"""Kramers–Moyal truncations of the master equation of SGD in one dimension."""

from math import factorial
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_number, check_whole
from sde_sgd.theory import _arguments, _step_laws
from sde_sgd.theory.laws.master_equation import gauss_legendre, MOST_NODES, MOST_STEPS
from sde_sgd.theory.laws.scalar_law import ScalarLaw
from sde_sgd.types import RealLike


class KramersMoyal(eqx.Module):
    """p_{k+1} − p_k = Σ_{m=1}^{M} (−1)^m/m! ∂^m [a_m(x) p_k], a_m(x) = E (x_{k+1} − x_k)^m.

    The master equation expanded in the size of a step and cut after order M. M = 2 is a diffusion
    whose second moment a_2 = η²(cΣ + L′²) keeps the squared drift. Orders M ≥ 3 generate *no*
    positive densities (Pawula): as partial differential equations they are ill posed, and only
    their action on smooth functions means something. So the backward operator
    G f = Σ_m a_m f^{(m)}/m! acts on polynomials of degree ≤ K, orthonormal under the stationary
    density of order 2: a Galerkin method in which the order M = K is the exact step, and which is
    exact on polynomials that G maps among themselves (linear gradients).

    **Arguments:**

    - `process`: as `MasterEquation`.
    - `box`: (low, high), which must hold the mass.
    - `order`: M ≥ 2.
    - `polynomials`: K ≥ M, the highest degree. Raise it until the result stands still;
      under heavy tails it must stay well below the number of moments.
    - `nodes`: of the Gauss–Legendre quadrature.
    - `mass_tolerance`: the density of order 2 at the ends of the box, times its length, may not
      exceed it. That density has algebraic tails wherever L′² outgrows the noise.

    **Fields:** `nodes`, `order2` (n,) the stationary density of order 2 there, ∝ a_2⁻¹
    exp(2∫a_1/a_2); `operator` (K+1, K+1), ⟨φ_k, G φ_l⟩.

    **Raises:** `ValueError` for M < 2, K < M, a vanishing a_2, a box that loses mass.

    **Source:** Risken, The Fokker–Planck Equation, 1989, ch. 4; Pawula 1967.
    """

    order: int = eqx.field(static=True)
    nodes: Float[np.ndarray, " n"]
    order2: Float[np.ndarray, " n"]
    operator: Float[np.ndarray, "k k"]
    recurrence: Float[np.ndarray, "k 2"]
    weights: Float[np.ndarray, " n"]

    def __init__(
        self,
        process: Any,
        box: Any,
        order: int,
        *,
        polynomials: int = 8,
        nodes: int = 400,
        mass_tolerance: float = 1e-6,
    ):
        law = _step_laws.line_step(process, "A Kramers–Moyal expansion")
        nodes = check_whole("nodes", nodes, 8, MOST_NODES)
        order = check_whole("order", order, 2)
        # More polynomials than nodes are not independent of each other.
        polynomials = check_whole("polynomials", polynomials, order, nodes - 1)
        tolerance = _arguments.tolerance("mass_tolerance", mass_tolerance)
        ends = _arguments.interval("box", box)
        self.order = order
        self.nodes, self.weights = gauss_legendre(ends, nodes)
        jump = law.moments(self.nodes, order)
        self.order2 = _order_two(self.nodes, self.weights, jump[1], jump[2], ends, tolerance)
        measure = self.weights * self.order2
        self.recurrence, values = _orthonormal(self.nodes, measure, polynomials, order)
        image = sum(jump[m] / factorial(m) * values[m] for m in range(1, order + 1))
        self.operator = np.einsum("n,kn,ln->kl", measure, values[0], image)

    def stationary(self) -> ScalarLaw:
        """The stationary law, p = p_2(x)·(polynomial of degree K): *signed* masses at the nodes.

        Negative masses are a property of the truncation, not an error: see `negative_mass`.
        """
        inner = self.operator[1:, 1:]
        coefficients = np.concatenate([[1.0], np.linalg.solve(inner.T, -self.operator[0, 1:])])
        values = self._polynomials(self.nodes)
        masses = self.weights * self.order2 * (coefficients @ values)
        return ScalarLaw(self.nodes, masses, 0.0)

    @property
    def negative_mass(self) -> float:
        """The total of the negative masses of `stationary`, ≤ 0."""
        masses = self.stationary().masses
        return float(masses[masses < 0].sum())

    def moments(
        self, start: RealLike, steps: ArrayLike, max_power: int = 2
    ) -> Float[np.ndarray, "T powers"]:
        """E x_k^m, m = 0..max_power, after k steps from the point `start`, (T, max_power + 1).

        (1 + G)^k acts on the polynomial x^m, which is then evaluated at the start.

        **Raises:** `ValueError` for max_power > K.
        """
        top = len(self.operator) - 1
        max_power = check_whole("max_power", max_power, 0, top)
        counts = _arguments.iterations("steps", steps, MOST_STEPS)
        values = self._polynomials(self.nodes)
        measure = self.weights * self.order2
        powers = self.nodes[None, :] ** np.arange(max_power + 1)[:, None]
        coefficients = (values * measure) @ powers.T
        here = self._polynomials(np.array([check_number("start", start)]))[:, 0]
        step = np.eye(top + 1) + self.operator
        return np.array(
            [here @ np.linalg.matrix_power(step, int(k)) @ coefficients for k in counts]
        )

    def _polynomials(self, x: np.ndarray) -> np.ndarray:
        return _evaluate(self.recurrence, x, 0)[0]


def _order_two(nodes, weights, first, second, ends, tolerance) -> np.ndarray:
    """p_2 ∝ a_2⁻¹ exp(2∫a_1/a_2), normalised on the nodes."""
    if (second <= 0).any():
        place = nodes[np.argmin(second)]
        raise ValueError(
            f"the second moment of a step vanishes at x = {place:g}: there is no diffusion there. "
            f"Choose a box where the gradient or its noise is not zero."
        )
    half = (ends[1] - ends[0]) / 2
    unit = (nodes - ends[0]) / half - 1
    degree = len(nodes) - 1
    basis = np.polynomial.legendre.legvander(unit, degree)
    series = (2 * np.arange(degree + 1) + 1) / 2 * (basis.T @ (weights / half * first / second))
    potential = (
        2 * half * np.polynomial.legendre.legval(unit, np.polynomial.legendre.legint(series))
    )
    density = np.exp(potential - potential.max()) / second
    density = density / (weights @ density)
    edge = max(density[0], density[-1]) * (ends[1] - ends[0])
    if edge > tolerance:
        raise ValueError(
            f"the box loses mass: the density of order 2 at its ends, times its length, is "
            f"{edge:.2g} > mass_tolerance={tolerance:g}. Enlarge the box."
        )
    return density


def _orthonormal(nodes, measure, degree: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Recurrence of the polynomials orthonormal under `measure`, and their derivatives.

    x φ_k = β_{k+1} φ_{k+1} + α_k φ_k + β_k φ_{k−1} (Stieltjes, orthogonalised twice).
    """
    recurrence = np.zeros((degree + 1, 2))
    basis = [np.ones_like(nodes)]
    for k in range(degree + 1):
        recurrence[k, 0] = measure @ (nodes * basis[k] ** 2)
        vector = nodes * basis[k]
        for _ in range(2):
            for other in basis:
                vector = vector - (measure @ (other * vector)) * other
        if k < degree:
            recurrence[k + 1, 1] = np.sqrt(measure @ vector**2)
            basis.append(vector / recurrence[k + 1, 1])
    return recurrence, _evaluate(recurrence, nodes, order)


def _evaluate(recurrence: np.ndarray, x: np.ndarray, order: int) -> np.ndarray:
    """φ_k and their derivatives up to `order`, (order + 1, K + 1, n)."""
    degree = len(recurrence) - 1
    values = np.zeros((order + 1, degree + 1, len(x)))
    values[0, 0] = 1.0
    for k in range(degree):
        alpha, beta = recurrence[k]
        for m in range(order + 1):
            new = (x - alpha) * values[m, k]
            new = (
                new + (m * values[m - 1, k] if m else 0.0) - (beta * values[m, k - 1] if k else 0.0)
            )
            values[m, k + 1] = new / recurrence[k + 1, 1]
    return values
