"""Predictions: closed forms and deterministic numerics, which never simulate."""

from sde_sgd.theory.fokker_planck import FokkerPlanck
from sde_sgd.theory.gradient_laws import BatchGradients, GaussianGradient
from sde_sgd.theory.grid_density import GridDensity
from sde_sgd.theory.least_squares import (
    max_stable_learning_rate,
    mean_square_stability,
    MeanSquareStability,
    second_moment_operator,
    stationary_covariance_least_squares,
    stationary_mean_least_squares,
    transient_moments_least_squares,
)
from sde_sgd.theory.lyapunov import (
    stationary_covariance,
    stationary_covariance_momentum,
    transient_moments_linear,
    TransientMoments,
)
from sde_sgd.theory.master_equation import MasterEquation
from sde_sgd.theory.population_least_squares import stationary_covariance_population_least_squares
from sde_sgd.theory.scalar_law import ScalarLaw

__all__ = [
    "BatchGradients",
    "FokkerPlanck",
    "GaussianGradient",
    "GridDensity",
    "MasterEquation",
    "MeanSquareStability",
    "ScalarLaw",
    "TransientMoments",
    "max_stable_learning_rate",
    "mean_square_stability",
    "second_moment_operator",
    "stationary_covariance",
    "stationary_covariance_least_squares",
    "stationary_covariance_momentum",
    "stationary_covariance_population_least_squares",
    "stationary_mean_least_squares",
    "transient_moments_least_squares",
    "transient_moments_linear",
]
