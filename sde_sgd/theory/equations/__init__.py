"""How well an equation describes SGD: weak orders, identification, scores, online risk."""

from sde_sgd.processes.continuous.score import AbstractScore as AbstractScore
from sde_sgd.theory.equations.flow_gap import (
    FlowGap as FlowGap,
    gaussian_flow_gap as gaussian_flow_gap,
    grid_flow_gap as grid_flow_gap,
)
from sde_sgd.theory.equations.grid_score import GridScore as GridScore
from sde_sgd.theory.equations.identification import (
    conditional_moments as conditional_moments,
    ConditionalMoments as ConditionalMoments,
    effective_linear as effective_linear,
    finite_lag_bias as finite_lag_bias,
    LinearEquation as LinearEquation,
    read_least_squares as read_least_squares,
    ReadEquation as ReadEquation,
)
from sde_sgd.theory.equations.kernel_score import KernelScore as KernelScore
from sde_sgd.theory.equations.online_risk import OnlineRisk as OnlineRisk
from sde_sgd.theory.equations.orders import (
    ScalarErrors as ScalarErrors,
    weak_errors as weak_errors,
    weak_errors_scalar as weak_errors_scalar,
    WeakErrors as WeakErrors,
)
from sde_sgd.theory.equations.scores import (
    FunctionScore as FunctionScore,
    GaussianScore as GaussianScore,
)
from sde_sgd.theory.step_errors import fit_order as fit_order, OrderFit as OrderFit
