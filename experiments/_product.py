"""Two weights, (uwx − y)² with x ~ N(0, 1), y = x + N(0, 1): the landscape, and exact laws.

The exact law of the SDE's tamed steps in log u = log w, and that of SGD with fresh examples at
B = 1, from u = w: both are chains in one dimension and solve master equations.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import brentq

import sde_sgd as ss

# Lower end of log u and number of nodes that resolve the density near the collapse.
GRIDS = {0.05: (-4.0, 400), 0.15: (-14.0, 800), 0.25: (-45.0, 1200)}
# A member is counted as diverged when it first leaves |u| < 8, from where few return.
ESCAPED = 8.0


class Product(ss.landscapes.AbstractPopulation):
    """ℓ(u, w; x, y) = (uwx − y)² with x ~ N(0, 1), y = x + N(0, 1): L = (v − 1)² + 1, v = uw.

    Σ = s² (w, u)(w, u)ᵀ with s² = Var 2x(vx − y) = 4(2v² − 4v + 3).
    """

    @property
    def dimension(self) -> int:
        return 2

    @property
    def dtype(self):
        return jnp.zeros(()).dtype

    @property
    def noise_dimension(self) -> int:
        return 1

    def loss(self, theta):
        return (theta[0] * theta[1] - 1) ** 2 + 1

    def example_loss(self, theta, example):
        x, y = example
        return (theta[0] * theta[1] * x - y) ** 2

    def covariance_root(self, theta) -> Float[Array, "2 1"]:
        return (strength(theta[0] * theta[1]) * theta[::-1])[:, None]

    def draw_examples(self, draws, batch_size):
        z = draws.normal((batch_size, 2), ss.Stream.BATCH, self.dtype)
        return z[..., 0], z[..., 0] + z[..., 1]


def strength(v):
    """s(v), the root of the variance of ∂ℓ/∂v."""
    return 2 * jnp.sqrt(2 * v**2 - 4 * v + 3)


@functools.cache
def sde_law(temperature: float, step: float) -> np.ndarray:
    """Median v and E 1/(1 + v) of the tamed steps in log u = log w: a Gaussian chain."""

    def parts(z):
        v = jnp.exp(2 * z[0])
        drift = 2 * (v - 1) + temperature * strength(v) ** 2 / 2
        # TransformedEquation tames with the norms of both coordinates, which are equal here.
        norms = jnp.sqrt(2.0) * jnp.abs(drift) + 2 * temperature * strength(v) ** 2
        return drift, 1 + step * norms

    low, nodes = GRIDS[temperature]
    law = ss.theory.laws.MasterEquation(
        ss.processes.Diffusion(
            lambda z: -parts(z)[0] / parts(z)[1],
            lambda z: temperature * strength(jnp.exp(2 * z[0])) ** 2 / 2 / parts(z)[1] ** 2,
            step,
        ),
        (low, 2.5),
        int(nodes * np.sqrt(0.025 / step)),
    ).stationary()
    bounded = law.expect(lambda z: 1 / (1 + jnp.exp(2 * z[0])))
    return np.array([np.exp(2 * law.quantile(0.5)), bounded])


def sgd_equation(eta: float, nodes: int) -> ss.theory.laws.MasterEquation:
    """SGD at B = 1 in |u| < 8.

    From u = w the step is u ← u(1 − ηg), g = 2x(vx − y). Examples on a fine midpoint rule: leaving
    is an indicator, for which Gauss's rules do not converge. (x, ε) and (−x, −ε) have one g.
    """
    x, noise = (np.linspace(low, 6, num + 1)[:-1] for low, num in ((0, 120), (-6, 48)))
    x, noise = (grid.ravel() for grid in np.meshgrid(x + 0.025, noise + 0.125))
    chance = np.exp(-(x**2 + noise**2) / 2)
    kept = chance > 1e-10
    x, noise, chance = jnp.asarray(x[kept]), jnp.asarray(noise[kept]), chance[kept]
    # `nodes` is even: u = 0, where SGD would stay, is no node.
    return ss.theory.laws.MasterEquation(
        ss.processes.Jumps(
            lambda u: 2 * u[0] * x * (u[0] ** 2 * x - x - noise), chance / chance.sum(), eta
        ),
        (-ESCAPED, ESCAPED),
        nodes,
        mass_tolerance=np.inf,
    )


@functools.cache
def sgd_diverged(eta: float, steps: int) -> float:
    """The probability of having left |u| < 8 by iteration `steps`."""
    law = sgd_equation(eta, 1600).propagate(0.9, np.array([steps]), on_grid=True)[0]
    return 1 - law.mass


@functools.cache
def sgd_law(eta: float) -> tuple[np.ndarray, float]:
    """(median v, E 1/(1 + v)) and E v of the members that do not diverge, after a long time."""
    law = sgd_equation(eta, 2400).stationary()
    root: Any = brentq(lambda u: float(law.cdf(u) - law.cdf(-u)) - 0.5, 0.1, 3.0)
    median = root**2
    bounded = float(law.expect(lambda u: 1 / (1 + u[0] ** 2)))
    mean = float(law.expect(lambda u: u[0] ** 2))
    return np.array([median, bounded]), mean
