"""One of each process on each kind of landscape: what tests of every reading go through."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from tools import normal

import sde_sgd as ss

ETA, MU, L2, T = 0.2, 0.6, 0.05, 0.3
X, Y = normal(1, 5, 2) * np.array([1.0, 0.7]), normal(2, 5)
H, C = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, 0.2], [0.2, 0.5]])
TWO, SUBSET = ss.WithReplacement(2), ss.WithoutReplacement(2)
NOISE = ss.MinibatchNoise(TWO)
TIMES = np.array([0.0, 0.4, 4.0, 40.0])
START = np.array([1.0, -0.5])


def least_squares():
    return ss.LeastSquares(X, Y, l2=L2)


def network():
    model = eqx.nn.MLP(2, "scalar", 2, 1, jnp.tanh, key=jr.key(0), dtype=jnp.float64)
    return ss.EmpiricalRisk(model, X, Y, ss.squared_error, l2=L2)


LANDSCAPES = {
    "least squares": least_squares,
    "logistic": lambda: ss.LogisticRegression(X, np.array([0, 1, 0, 1, 1]), l2=0.5),
    "potential": lambda: ss.quadratic(H, C),
    "network": network,
}


def score(dimension):
    return ss.theory.equations.FunctionScore(lambda t, x: -x, dimension)


# One of each process, by landscape and learning rate.
PROCESSES = {
    "SGD": lambda L, eta: ss.SGD(L, eta, TWO),
    "heavy ball": lambda L, eta: ss.SGD(L, eta, SUBSET, MU),
    "GaussianSGD": lambda L, eta: ss.GaussianSGD(L, eta, NOISE, MU),
    "SVAG": lambda L, eta: ss.SVAG(L, eta, TWO, 3),
    "SGLD": lambda L, eta: ss.SGLD(L, eta, TWO, T),
    "SAM": lambda L, eta: ss.SAM(L, eta, 0.1, TWO),
    "OptaxSGD": lambda L, eta: ss.OptaxSGD(L, ss.Adam(eta), TWO),
    "Stages": lambda L, eta: ss.Stages([ss.SGD(L, eta, TWO)], [9]),
    "ModifiedEquation": lambda L, eta: ss.ModifiedEquation(L, eta, NOISE, substeps=3),
    "order 2": lambda L, eta: ss.ModifiedEquation(L, eta, NOISE, order=2, substeps=3),
    "OverdampedEquation": lambda L, eta: ss.OverdampedEquation(L, eta, NOISE, MU, substeps=5),
    "UnderdampedEquation": lambda L, eta: ss.UnderdampedEquation(L, eta, NOISE, MU, substeps=3),
    "DrivenEquation": lambda L, eta: ss.DrivenEquation(L, eta, NOISE, ss.noise.WhiteNoise(), 3),
    "AdaptiveEquation": lambda L, eta: ss.AdaptiveEquation(L, ss.Adam(eta), NOISE),
    "SAMEquation": lambda L, eta: ss.SAMEquation(L, eta, 0.1, NOISE),
    "GradientFlow": lambda L, eta: ss.GradientFlow(L, eta),
    "TransformedEquation": lambda L, eta: ss.processes.TransformedEquation(
        ss.ModifiedEquation(L, eta, NOISE), lambda x: x, lambda y: y
    ),
    "ProbabilityFlow": lambda L, eta: ss.ProbabilityFlow(L, eta, NOISE, score(L.dimension)),
}
LINEAR = {
    "SGD",
    "heavy ball",
    "GaussianSGD",
    "SVAG",
    "SGLD",
    "ModifiedEquation",
    "order 2",
    "OverdampedEquation",
    "UnderdampedEquation",
    "DrivenEquation",
}
