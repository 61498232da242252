"""The parts that valid calls of `sde_sgd.theory` are made of, each made when first asked for."""

from functools import cached_property

import jax.numpy as jnp
import numpy as np

import sde_sgd as ss

r = np.random.default_rng(0)
X1 = r.normal(size=6)
Y1 = X1 + r.normal(size=6)
X2 = r.normal(size=(6, 2))
Y2 = r.normal(size=6)
H = np.array([[1.0, 0.2], [0.2, 0.5]])
C = np.array([[0.3, 0.1], [0.1, 0.2]])


def wide(x):
    return jnp.exp(-(x[0] ** 2) / 2) / jnp.sqrt(2 * jnp.pi)


pts = r.normal(size=(200, 2))
W = np.array([[0.0, 1.0], [2.0, 0.0]])


class Made:
    """Equations, laws and densities."""

    @cached_property
    def line(self):
        return ss.LeastSquares(X1[:4, None], Y1[:4])

    @cached_property
    def plane(self):
        return ss.LeastSquares(X2, Y2)

    @cached_property
    def sgd(self):
        return ss.SGD(self.plane, 0.1, ss.WithReplacement(2))

    @cached_property
    def held(self):
        return ss.GaussianSGD(ss.quadratic(H, C), 0.1, ss.ConstantNoise(C))

    @cached_property
    def held_equation(self):
        return ss.ModifiedEquation(ss.quadratic(H, C), 0.1, ss.ConstantNoise(C))

    @cached_property
    def driven(self):
        driving = ss.noise.ColouredNoise([1.0], [1.0])
        return ss.DrivenEquation(ss.quadratic(H, C), 0.1, ss.ConstantNoise(C), driving, 2)

    @cached_property
    def stable(self):
        noise, driving = ss.ConstantNoise([[1.0]]), ss.noise.StableNoise(1.5)
        return ss.DrivenEquation(ss.quadratic([[1.0]], 1.0), 0.1, noise, driving, 2)

    @cached_property
    def well(self):
        return ss.double_well(0.5)

    @cached_property
    def constant_noise(self):
        return ss.ConstantNoise(np.array([[0.5]]))

    @cached_property
    def fokker_planck(self):
        return ss.theory.laws.FokkerPlanck(self.relaxing, (-5.0, 5.0), 40)

    @cached_property
    def density(self):
        return self.fokker_planck.stationary()

    @cached_property
    def relaxing(self):
        return ss.processes.Diffusion(lambda x: -x, 0.5)

    @cached_property
    def relaxing_steps(self):
        return ss.processes.Diffusion(lambda x: -x, 0.15, 0.3)

    @cached_property
    def line_sgd(self):
        return ss.SGD(self.line, 0.3, ss.WithReplacement(2))

    @cached_property
    def online_sgd(self):
        landscape = ss.landscapes.PopulationLeastSquares([[1.0]], 1.0)
        return ss.SGD(landscape, 0.1, ss.WithReplacement(2))

    @cached_property
    def sde(self):
        return ss.ModifiedEquation(self.well, 0.1, self.constant_noise)

    @cached_property
    def master(self):
        return ss.theory.laws.MasterEquation(self.relaxing_steps, (-4.0, 4.0), 60)

    @cached_property
    def batch_master(self):
        return ss.theory.laws.MasterEquation(self.line_sgd, (-8.0, 8.0), 60)

    @cached_property
    def kramers_moyal(self):
        return ss.theory.laws.KramersMoyal(
            ss.processes.Diffusion(lambda x: -x, 0.05, 0.1),
            (-4.0, 4.0),
            3,
            polynomials=4,
            nodes=60,
        )

    @cached_property
    def scalar_law(self):
        return self.master.stationary()

    @cached_property
    def stationary(self):
        return ss.theory.laws.stationary_density(self.relaxing)

    @cached_property
    def gaussian(self):
        return ss.theory.laws.Gaussian(np.zeros(2), np.eye(2))

    @cached_property
    def gaussian_score(self):
        start = ss.theory.laws.Gaussian(np.zeros(2), np.eye(2))
        return ss.theory.equations.GaussianScore(self.held_equation.limit(), start)

    @cached_property
    def function_score(self):
        return ss.theory.equations.FunctionScore(lambda t, x: -x, 1)

    @cached_property
    def grid_score(self):
        return ss.theory.equations.GridScore(self.fokker_planck, wide, duration=0.3, num_times=4)

    @cached_property
    def kernel_score(self):
        return ss.theory.equations.KernelScore(r.normal(size=(2, 30, 1)), [0.0, 1.0])

    @cached_property
    def risk(self):
        sgd = ss.SGD(self.population, 0.1, ss.WithReplacement(2))
        return ss.theory.equations.OnlineRisk(sgd, [1.0, 1.0])

    @cached_property
    def homogenised_risk(self):
        noise = ss.HessianNoise(0.5, times_loss=True)
        equation = ss.ModifiedEquation(self.population, 0.1, noise)
        return ss.theory.equations.OnlineRisk(equation.limit(), [1.0, 1.0])

    @cached_property
    def population(self):
        return ss.landscapes.PopulationLeastSquares(np.eye(2), label_noise=0.1)

    @cached_property
    def balance(self):
        return ss.theory.selection.balance_moments_gaussian()

    @cached_property
    def levels(self):
        return ss.theory.matrices.InjectedNoiseLevels(learning_rate=0.1, batch_size=4, noise=1.0)

    @cached_property
    def marchenko_pastur(self):
        return ss.theory.matrices.MarchenkoPastur(0.5)

    @cached_property
    def grid_function(self):
        return ss.theory.escape.mean_exit_time_on_grid(self.fokker_planck, lambda x: x[0] > 1.0)

    @cached_property
    def moments_read(self):
        return ss.theory.equations.conditional_moments(self.master, [0.0, 0.5], [1])

    @cached_property
    def entries(self):
        return ss.theory.matrices.fit_entries(
            pts, (-pts, np.ones_like(pts)), [[0], [1]], num_knots=4
        )

    @cached_property
    def current(self):
        return ss.theory.stationary.stationary_current(self.held)

    @cached_property
    def logistic(self):
        return ss.LogisticRegression(X1[:, None], (Y1 > 0).astype(float), bias=False)

    @cached_property
    def manifold(self):
        return ss.Potential(lambda th: 0.5 * (th[0] * th[1] - 1.0) ** 2, np.eye(2))

    @cached_property
    def small(self):
        return ss.LeastSquares(X1[:3, None], Y1[:3])


made = Made()
