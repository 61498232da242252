"""Problems whose equations are read off trajectories, and what each reading tends to."""

import functools
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import sde_sgd as ss

from . import _line

PROCESSES = ("SGD", "SDE")
NUM, BATCH = 8, 2
SNAPSHOTS = (0, 1, 2, 4, 6, 9, 12)
POINTS, BANDWIDTH = np.linspace(-1.4, 1.4, 9), 0.35
# Coefficients in the polynomial bases: of the drift, then of the variance rate.
LINE, PARABOLA = ss.identify.PolynomialBasis(1, 1), ss.identify.PolynomialBasis(1, 2)
PLANE, NOISE = ss.identify.PolynomialBasis(2, 3), ss.identify.PolynomialBasis(2, 2)
SPREAD = np.array([[1.0, 0.6], [0.6, 1.0]])


READINGS = (
    "naive",
    "centred",
    "naive, long lag",
    "extrapolated",
    "log map",
    "log map, long lag",
    "snapshots",
)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of least squares: curvature 1, residuals that do not vanish."""
    i = np.arange(NUM)
    x = 1 + 0.5 * np.sin(1.7 * i)
    return x / np.sqrt(np.mean(x**2)), x + 0.8 * np.cos(2.3 * i)


@functools.cache
def landscape() -> ss.LeastSquares:
    """Least squares in one dimension."""
    x, y = arrays()
    return ss.LeastSquares(jnp.asarray(x)[:, None], jnp.asarray(y))


def rate_places() -> np.ndarray:
    """θ at which a variance rate is drawn: where members start."""
    return float(landscape().minimum()[0]) + np.linspace(-0.6, 1.2, 10)


def processes(eta: float, substeps: int) -> dict[str, ss.AbstractProcess]:
    """SGD and its SDE on least squares."""
    sampling = ss.WithReplacement(BATCH)
    noise = ss.MinibatchNoise(sampling)
    return {
        "SGD": ss.SGD(landscape(), eta, sampling),
        "SDE": ss.ModifiedEquation(landscape(), eta, noise, substeps=substeps),
    }


def plane() -> ss.Potential:
    """(x² − 1)²/4 + ½(y − x²)²: wells at (±1, 1) along a parabola."""
    return ss.Potential(
        lambda t: (t[0] ** 2 - 1) ** 2 / 4 + (t[1] - t[0] ** 2) ** 2 / 2, jnp.asarray(SPREAD)
    )


def truth(eta: float) -> tuple[np.ndarray, np.ndarray]:
    """−∇L (2, K) and ηcΣ (2, 2, Q) in the plane, c = ½."""
    drift, noise = np.zeros((2, len(PLANE.names))), np.zeros((2, 2, len(NOISE.names)))
    for axis, terms in enumerate(({"x": 1, "x³": -3, "xy": 2}, {"y": -1, "x²": 1})):
        for name, value in terms.items():
            drift[axis, PLANE.names.index(name)] = value
    noise[..., 0] = eta / 2 * SPREAD
    return drift, noise


def start(key) -> Any:
    """Around the minimum, spread out."""
    return landscape().minimum() + 0.3 + 0.4 * jr.normal(key, (1,))


def near(key) -> Any:
    """Around the minimum, as wide as the stationary law: nobody is so far out that he decides."""
    return landscape().minimum() + 0.135 * jr.normal(key, (1,))


@functools.cache
def exact(
    eta: float, substeps: int, long_lag: int, process: str, reading: str
) -> ss.theory.equations.ReadEquation:
    """What a reading of a process tends to; "limit" is −∇L and ηcΣ."""
    sampling = ss.WithReplacement(BATCH)
    equation = ss.ModifiedEquation(landscape(), eta, ss.MinibatchNoise(sampling), substeps=substeps)
    own = ss.SGD(landscape(), eta, sampling) if process == "SGD" else equation
    far = long_lag if "long lag" in reading else 1
    kind: Any = reading.removesuffix(", long lag").replace(" ", "_").replace("snapshots", "log_map")
    if reading == "limit":
        own, kind = equation.limit(), "log_map"
    return ss.theory.equations.read_least_squares(own, far * eta, reading=kind)


def well_law(
    eta: float, substeps: int, process: str
) -> tuple[ss.theory.laws.MasterEquation, float, int]:
    """The chain of a process in the double well, its step, and steps an iteration."""
    if process == "SGD":
        sgd = ss.SGD(_line.problem(eta), eta, ss.WithReplacement(1))
        chain = ss.theory.laws.MasterEquation(sgd, _line.BOX, 64, mass_tolerance=1e-6)
        return chain, eta, 1
    euler, nodes = _line.euler(eta / substeps)
    chain = ss.theory.laws.MasterEquation(euler, _line.BOX, nodes, mass_tolerance=1e-6)
    return chain, eta / substeps, substeps


def stationary_variance(equation: ss.theory.equations.ReadEquation) -> float:
    """2b₁M + a₂M + a(m) = 0 at the mean m = −b₀/b₁."""
    b, a = equation
    mean = -b[0] / b[1]
    return float(-np.polyval(a[::-1], mean) / (2 * b[1] + a[2]))
