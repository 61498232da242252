"""A double well on the line, D(x) = .05(1 + .3x): its processes, and their exact laws in time.

V = (x² − 1)²/4; SGD has batches of one out of two examples whose gradients are V′ ± √(2D/η).
"""

import functools

import jax.numpy as jnp
import numpy as np

import sde_sgd as ss

from .ito_not_stratonovich import Point, well_loss

BOX, SPREAD, COLD = (-2.8, 2.8), 0.3, 0.05
EDGES = np.linspace(-1.68, 1.68, 43)
CELLS = 560


def problem(eta: float) -> ss.EmpiricalRisk:
    """Two examples whose gradients are V′ ± √C(x)."""
    amplitudes = np.sqrt(2 * COLD / eta) * np.array([1.0, -1.0])
    return ss.EmpiricalRisk(
        Point(jnp.zeros(1)), jnp.zeros(2), amplitudes, lambda x, y: well_loss(x[0], y)
    )


def processes(eta: float, substeps: int) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one, and the SDE of the same covariance."""
    noise = ss.FunctionNoise(lambda x: jnp.sqrt(2 * COLD / eta * jnp.maximum(1 + 0.3 * x, 0.0)))
    return {
        "SGD": ss.SGD(problem(eta), eta, ss.WithReplacement(1)),
        "SDE": ss.ModifiedEquation(problem(eta), eta, noise, substeps=substeps),
    }


def _start(x: np.ndarray) -> np.ndarray:
    return np.exp(-((x / SPREAD) ** 2) / 2) / (SPREAD * np.sqrt(2 * np.pi))


@functools.cache
def fokker_planck(
    eta: float, iterations: tuple[int, ...], cells: int
) -> list[ss.theory.laws.GridDensity]:
    """p(x, t) at t = ηk."""
    equation = ss.theory.laws.FokkerPlanck(
        ss.processes.Diffusion(lambda x: x - x**3, lambda x: COLD * (1 + 0.3 * x)),
        BOX,
        cells,
    )
    density = _start(equation.grid.centres[:, 0])
    return equation.propagate(
        density / (density.sum() * equation.grid.volume), eta * np.array(iterations)
    )


def euler(step: float) -> tuple[ss.processes.Diffusion, int]:
    """The SDE's chain at a step, and the nodes that resolve it."""
    chain = ss.processes.Diffusion(lambda x: x - x**3, lambda x: COLD * (1 + 0.3 * x), step)
    return chain, int(3.5 * (BOX[1] - BOX[0]) / np.sqrt(2 * COLD * 0.16 * step))


@functools.cache
def master_equation(
    eta: float, iterations: tuple[int, ...], substeps: int | None
) -> list[ss.theory.laws.ScalarLaw]:
    """The exact law of SGD (`substeps` None), or of the SDE's own steps, after k iterations."""
    if substeps is None:
        process, nodes = ss.SGD(problem(eta), eta, ss.WithReplacement(1)), 4001
    else:
        process, nodes = euler(eta / substeps)
    equation = ss.theory.laws.MasterEquation(process, BOX, nodes)
    masses = equation.weights * _start(equation.nodes)
    start = ss.theory.laws.ScalarLaw(equation.nodes, masses / masses.sum(), 0.0)
    times = (substeps or 1) * np.array(iterations)
    return equation.propagate(start, times, on_grid=substeps is None)


def distance(first, second) -> float:
    """Total variation of two distribution functions on the cells between EDGES and outside."""
    cells = [np.diff(np.concatenate([[0.0], law.cdf(EDGES), [1.0]])) for law in (first, second)]
    return 0.5 * float(np.abs(cells[0] - cells[1]).sum())
