"""The parts that valid calls are made of, each made when it is first asked for."""

from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import sde_sgd as ss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 2))
Y = RNG.normal(size=6)
H = np.array([[1.0, 0.2], [0.2, 0.5]])
C = np.array([[0.3, 0.1], [0.1, 0.2]])
THETA = np.array([1.0, -0.5])
ROWS = RNG.normal(size=(24, 2))
MORE = RNG.normal(size=(24, 2))


def first(theta):
    return theta[0]


def model(x):
    return jnp.sum(x)


class Made:
    """Landscapes, processes, results."""

    @cached_property
    def key(self):
        return jr.key(0)

    @cached_property
    def sum(self):
        return ss.LeastSquares(X, Y)

    @cached_property
    def quadratic(self):
        return ss.quadratic(H, C)

    @cached_property
    def well(self):
        return ss.double_well(0.5)

    @cached_property
    def population(self):
        return ss.landscapes.PopulationLeastSquares(np.eye(2), label_noise=0.1)

    @cached_property
    def sampling(self):
        return ss.WithReplacement(2)

    @cached_property
    def noise(self):
        return ss.MinibatchNoise(self.sampling)

    @cached_property
    def sgd(self):
        return ss.SGD(self.sum, 0.1, self.sampling)

    @cached_property
    def sde(self):
        return ss.ModifiedEquation(self.sum, 0.1, self.noise, substeps=2)

    @cached_property
    def gaussian_sgd(self):
        return ss.GaussianSGD(self.quadratic, 0.1, ss.ConstantNoise(C))

    @cached_property
    def score(self):
        start = ss.theory.laws.Gaussian(np.zeros(2), np.eye(2))
        equation = ss.ModifiedEquation(ss.quadratic(H, C), 0.1, ss.ConstantNoise(C))
        return ss.theory.equations.GaussianScore(equation.limit(), start)

    @cached_property
    def estimate(self):
        return ss.Estimate([1.0, 2.0], [0.1, 0.2], 5)

    @cached_property
    def comparison(self):
        return ss.compare(self.estimate, [1.0, 2.0])

    @cached_property
    def fitted(self):
        runs = RNG.normal(size=(60, 10, 1)).cumsum(0)
        return ss.identify.sparse(runs, self.basis, time_step=0.1, failure_rate=None)

    @cached_property
    def basis(self):
        return ss.identify.PolynomialBasis(1, 1)

    @cached_property
    def histogram(self):
        """Of a run of four members."""
        return self.run["histogram"]

    @cached_property
    def run(self):
        watched = {
            "histogram": ss.Histogram([-1.0, 0.0, 1.0], of=first),
            "passage": ss.FirstPassage(lambda t: t[0] > 5.0),
            "occupation": ss.Occupation(lambda t: jnp.where(t[0] > 0, 1, 0), 2),
            "autocovariance": ss.Autocovariance(first, max_lag=30),
        }
        return ss.simulate(
            self.sgd, THETA, num_steps=80, ensemble_size=4, key=self.key, measures=watched,
            progress=False, check_stability=False,
        )  # fmt: skip

    @cached_property
    def long(self):
        """Of enough members for a correlation time."""
        return ss.simulate(
            self.sgd, THETA, num_steps=240, ensemble_size=100, key=self.key, progress=False,
            measures={"autocovariance": ss.Autocovariance(first, max_lag=60, burn_in=100)},
            check_stability=False,
        )  # fmt: skip

    @cached_property
    def basins(self):
        return ss.landscapes.find_basins(self.well, [[-1.2], [1.2]])

    @cached_property
    def draws(self):
        return jax.tree.map(lambda x: x, ss.Draws.create(jr.key(0), 0))

    @cached_property
    def linear_model(self):
        return eqx.nn.Linear(2, "scalar", key=jr.key(0))

    @cached_property
    def network(self):
        return ss.EmpiricalRisk(self.linear_model, X, Y, ss.squared_error)


made = Made()
