"""Predictions: closed forms and deterministic numerics, which never simulate."""

from sde_sgd.theory.backward_equation import (
    committor_on_grid,
    GridFunction,
    mean_exit_time_on_grid,
)
from sde_sgd.theory.batch_exit_times import (
    batch_committor,
    batch_exit_time,
    BatchExitTime,
)
from sde_sgd.theory.diagonal_networks import (
    diagonal_network_limit,
    DiagonalNetworkLimit,
    hyperbolic_entropy,
)
from sde_sgd.theory.driven import (
    fractional_ornstein_uhlenbeck_variance,
    stationary_covariance_driven,
    stationary_scale_stable,
)
from sde_sgd.theory.dyson import (
    boltzmann_machine_spacing,
    coulomb_gas_log_density,
    dyson_drift,
    InjectedNoiseLevels,
)
from sde_sgd.theory.entry_laws import (
    conditional_coefficients,
    entry_rates,
    EntryCoefficients,
    evolve_entries,
    fit_entries,
)
from sde_sgd.theory.epochs import (
    epoch_noise_autocovariance,
    EpochCovariance,
    stationary_covariance_epochs,
)
from sde_sgd.theory.escape_laws import (
    mori_escape_rate,
    mori_stationary_exponent,
    watched_barrier_shift,
    xie_escape_time,
)
from sde_sgd.theory.evidence import (
    Evidence,
    evidence_by_quadrature,
    laplace_evidence,
)
from sde_sgd.theory.exit_times import (
    committor,
    drift_and_diffusion,
    exit_time,
    ExitTime,
    mean_exit_time,
)
from sde_sgd.theory.eyring_kramers import (
    eyring_kramers,
    EyringKramers,
    stationary_point,
    StationaryPoint,
)
from sde_sgd.theory.flow_gap import FlowGap, gaussian_flow_gap, grid_flow_gap
from sde_sgd.theory.fokker_planck import FokkerPlanck
from sde_sgd.theory.gradient_laws import BatchGradients, GaussianGradient
from sde_sgd.theory.grid_density import GridDensity
from sde_sgd.theory.grid_score import GridScore
from sde_sgd.theory.identification import (
    conditional_moments,
    ConditionalMoments,
    effective_linear,
    finite_lag_bias,
    LinearEquation,
    read_least_squares,
    ReadEquation,
)
from sde_sgd.theory.ito import (
    gibbs_density,
    stationary_density,
    stationary_density_landscape,
    StationaryDensity,
)
from sde_sgd.theory.kernel_score import KernelScore
from sde_sgd.theory.kesten import (
    moment_online_least_squares,
    tail_index_finite_sum,
    tail_index_limit,
    tail_index_online_least_squares,
    tail_index_published,
)
from sde_sgd.theory.kramers_moyal import KramersMoyal
from sde_sgd.theory.label_noise import label_noise_balance, label_noise_flow
from sde_sgd.theory.langevin import (
    Gaussian,
    langevin_epochs,
    LangevinEpochs,
    posterior_least_squares,
    stationary_covariance_langevin,
)
from sde_sgd.theory.large_deviations import quasi_potential, QuasiPotential
from sde_sgd.theory.law_of_balance import (
    balance_factor,
    balance_moments,
    balance_moments_gaussian,
    BalanceMoments,
    law_of_balance_density,
    law_of_balance_equation,
)
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
from sde_sgd.theory.momentum import MomentumLaw
from sde_sgd.theory.orders import (
    fit_order,
    LeastSquaresErrors,
    OrderFit,
    ScalarErrors,
    weak_errors_least_squares,
    weak_errors_scalar,
)
from sde_sgd.theory.ornstein_uhlenbeck import (
    EntropyProduction,
    stationary_current,
    StationaryCurrent,
)
from sde_sgd.theory.population_least_squares import stationary_covariance_population_least_squares
from sde_sgd.theory.posterior import posterior_by_quadrature
from sde_sgd.theory.product_closure import product_closure, product_points
from sde_sgd.theory.scalar_law import ScalarLaw
from sde_sgd.theory.scalar_moments import (
    ScalarMoments,
    stationary_scalar_moments,
    transient_scalar_moments,
)
from sde_sgd.theory.scores import AbstractScore, FunctionScore, GaussianScore
from sde_sgd.theory.selection import (
    boltzmann_weights,
    large_deviation_weights,
    spanning_tree_energies,
    splitting_on_grid,
    weights_on_grid,
)
from sde_sgd.theory.sharpness_aware import (
    max_stable_learning_rate_sam,
    max_stable_learning_rate_sam_equation,
)
from sde_sgd.theory.spectra import (
    MarchenkoPastur,
    mean_gap_ratio,
    rice_mean,
    wigner_surmise,
    wigner_surmise_cdf,
)
from sde_sgd.theory.teacher_student_levels import (
    teacher_student_spacing,
    TeacherStudentSpacing,
)
from sde_sgd.theory.underdamped import (
    stationary_covariance_underdamped,
)
from sde_sgd.theory.volterra import OnlineRisk
from sde_sgd.theory.wasserstein import wasserstein2

__all__ = [
    "AbstractScore",
    "fit_order",
    "LeastSquaresErrors",
    "OnlineRisk",
    "OrderFit",
    "ScalarErrors",
    "weak_errors_least_squares",
    "weak_errors_scalar",
    "BalanceMoments",
    "BatchExitTime",
    "BatchGradients",
    "ConditionalMoments",
    "DiagonalNetworkLimit",
    "EntropyProduction",
    "EntryCoefficients",
    "EpochCovariance",
    "Evidence",
    "ExitTime",
    "EyringKramers",
    "FlowGap",
    "FokkerPlanck",
    "FunctionScore",
    "Gaussian",
    "GaussianGradient",
    "GaussianScore",
    "GridDensity",
    "GridFunction",
    "GridScore",
    "InjectedNoiseLevels",
    "KernelScore",
    "KramersMoyal",
    "LangevinEpochs",
    "LinearEquation",
    "MarchenkoPastur",
    "MasterEquation",
    "MeanSquareStability",
    "MomentumLaw",
    "QuasiPotential",
    "ReadEquation",
    "ScalarLaw",
    "ScalarMoments",
    "StationaryCurrent",
    "StationaryDensity",
    "StationaryPoint",
    "TeacherStudentSpacing",
    "TransientMoments",
    "balance_factor",
    "balance_moments",
    "balance_moments_gaussian",
    "batch_committor",
    "batch_exit_time",
    "boltzmann_machine_spacing",
    "boltzmann_weights",
    "committor",
    "committor_on_grid",
    "conditional_coefficients",
    "conditional_moments",
    "coulomb_gas_log_density",
    "diagonal_network_limit",
    "drift_and_diffusion",
    "effective_linear",
    "dyson_drift",
    "entry_rates",
    "epoch_noise_autocovariance",
    "evidence_by_quadrature",
    "evolve_entries",
    "exit_time",
    "finite_lag_bias",
    "fit_entries",
    "eyring_kramers",
    "fractional_ornstein_uhlenbeck_variance",
    "gaussian_flow_gap",
    "gibbs_density",
    "grid_flow_gap",
    "hyperbolic_entropy",
    "label_noise_balance",
    "label_noise_flow",
    "langevin_epochs",
    "laplace_evidence",
    "large_deviation_weights",
    "law_of_balance_density",
    "law_of_balance_equation",
    "max_stable_learning_rate",
    "max_stable_learning_rate_sam",
    "max_stable_learning_rate_sam_equation",
    "mean_exit_time",
    "mean_exit_time_on_grid",
    "mean_gap_ratio",
    "mean_square_stability",
    "moment_online_least_squares",
    "mori_escape_rate",
    "mori_stationary_exponent",
    "posterior_by_quadrature",
    "posterior_least_squares",
    "product_closure",
    "product_points",
    "quasi_potential",
    "read_least_squares",
    "rice_mean",
    "second_moment_operator",
    "spanning_tree_energies",
    "splitting_on_grid",
    "stationary_covariance",
    "stationary_covariance_driven",
    "stationary_covariance_epochs",
    "stationary_covariance_langevin",
    "stationary_covariance_least_squares",
    "stationary_covariance_momentum",
    "stationary_covariance_population_least_squares",
    "stationary_covariance_underdamped",
    "stationary_current",
    "stationary_density",
    "stationary_density_landscape",
    "stationary_mean_least_squares",
    "stationary_point",
    "stationary_scalar_moments",
    "stationary_scale_stable",
    "tail_index_finite_sum",
    "tail_index_limit",
    "tail_index_online_least_squares",
    "tail_index_published",
    "teacher_student_spacing",
    "transient_moments_least_squares",
    "transient_moments_linear",
    "transient_scalar_moments",
    "wasserstein2",
    "watched_barrier_shift",
    "weights_on_grid",
    "wigner_surmise",
    "wigner_surmise_cdf",
    "xie_escape_time",
]
