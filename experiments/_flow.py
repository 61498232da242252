"""Two problems for the probability flow: a quadratic in three dimensions, and the double well.

V = (x² − 1)²/4 with D(x) = .05(1 + .3x) from N(0, .3²), as in `_line`, on a smaller box.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sde_sgd as ss
from sde_sgd.theory.quantiles import normal_levels

from . import _line

HESSIAN = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.3]])
NOISE = np.array([[1.0, 0.4, -0.2], [0.4, 0.8, 0.1], [-0.2, 0.1, 0.5]])
BOX, REACH, NODES = (-2.4, 2.4), 2.5, 101
LEVELS, WEIGHTS = normal_levels(NODES, REACH)
DIVERGENCE = 0.3 * _line.COLD


class Changed(eqx.Module):
    """(t, θ) ↦ factor·s(t, θ) + shift, compiled once for all numbers."""

    score: ss.theory.equations.AbstractScore
    factor: jax.Array
    shift: jax.Array

    def __call__(self, t, theta):
        return self.factor * self.score(t, theta) + self.shift


class TiltedWell(eqx.Module):
    """(x² − 1)²/4 − ax: a drift with a more."""

    tilt: jax.Array

    def __call__(self, theta):
        return (theta[0] ** 2 - 1) ** 2 / 4 - self.tilt * theta[0]


def changed(
    score: ss.theory.equations.AbstractScore, factor: float = 1.0, shift: float = 0.0
) -> ss.theory.equations.FunctionScore:
    """The score factor·s + shift."""
    function = Changed(score, jnp.asarray(factor), jnp.full(score.dimension, shift))
    return ss.theory.equations.FunctionScore(function, score.dimension, 0.0, score.last_time)


def gaussian_score(eta: float) -> ss.theory.equations.GaussianScore:
    """Of the quadratic, from a Gaussian start."""
    start = ss.theory.laws.Gaussian(np.array([1.0, -1.0, 0.5]), np.diag([0.05, 0.02, 0.1]))
    landscape, noise = ss.quadratic(HESSIAN, NOISE), ss.ConstantNoise(NOISE)
    return ss.theory.equations.GaussianScore(
        ss.ModifiedEquation(landscape, eta, noise).limit(), start
    )


def quadratic_flow(eta: float, score: ss.theory.equations.AbstractScore) -> ss.ProbabilityFlow:
    """On the quadratic."""
    landscape = ss.quadratic(HESSIAN, NOISE)
    return ss.ProbabilityFlow(landscape, eta, ss.ConstantNoise(NOISE), score)


def well(tilt: float = 0.0) -> ss.Potential:
    """The double well, its drift `tilt` more."""
    return ss.Potential(TiltedWell(jnp.asarray(tilt)), [[1.0]])


def noise(eta: float) -> ss.FunctionNoise:
    """D(x) = .05(1 + .3x), 0 where that is negative."""
    return ss.FunctionNoise(
        lambda x: jnp.sqrt(2 * _line.COLD / eta * jnp.maximum(1 + 0.3 * x, 0.0))
    )


def start_density(theta) -> jax.Array:
    """N(0, .3²)."""
    return jnp.exp(-((theta[0] / _line.SPREAD) ** 2) / 2) / (_line.SPREAD * np.sqrt(2 * np.pi))


def fokker_planck(cells: int) -> ss.theory.laws.FokkerPlanck:
    """∂p/∂t = (V′p)′ + (Dp)″ in the double well."""
    return ss.theory.laws.FokkerPlanck(
        ss.processes.Diffusion(
            lambda theta: theta - theta**3, lambda theta: _line.COLD * (1 + 0.3 * theta)
        ),
        BOX,
        cells,
    )


def distance(places: np.ndarray, density: ss.theory.laws.GridDensity) -> float:
    """W₂ on the line, of members that stand at LEVELS of their law from a density."""
    return float(np.sqrt(WEIGHTS @ (places - density.quantile(LEVELS)) ** 2))
