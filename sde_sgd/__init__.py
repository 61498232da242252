"""SGD and the stochastic differential equation that is said to describe it, side by side."""

from importlib.metadata import version as _version

from sde_sgd import theory as theory
from sde_sgd.basins import (
    Basins as Basins,
    find_basins as find_basins,
    find_saddles as find_saddles,
    flow_ends as flow_ends,
    label_by_nearest as label_by_nearest,
    Saddle as Saddle,
)
from sde_sgd.compare import (
    compare as compare,
    compare_law as compare_law,
    compare_laws as compare_laws,
    Comparison as Comparison,
    distance_table as distance_table,
    energy_distance as energy_distance,
    excess as excess,
    paired_difference as paired_difference,
    permutation_test as permutation_test,
    sliced_wasserstein as sliced_wasserstein,
    verdict_table as verdict_table,
    wasserstein2 as wasserstein2,
    wasserstein_per_direction as wasserstein_per_direction,
    weak_error as weak_error,
    weak_order as weak_order,
    WeakError as WeakError,
    WeakOrder as WeakOrder,
)
from sde_sgd.curvature import (
    curvature_along as curvature_along,
    gradient_covariance_eigenvalues as gradient_covariance_eigenvalues,
    hessian_density as hessian_density,
    hessian_eigenvalues as hessian_eigenvalues,
    hessian_noise_trace as hessian_noise_trace,
    hessian_trace as hessian_trace,
)
from sde_sgd.identify import (
    FittedSDE as FittedSDE,
    FunctionBasis as FunctionBasis,
    identify_from_snapshots as identify_from_snapshots,
    identify_kramers_moyal as identify_kramers_moyal,
    identify_linear as identify_linear,
    identify_sparse as identify_sparse,
    LocalCoefficients as LocalCoefficients,
    PolynomialBasis as PolynomialBasis,
    WeakForm as WeakForm,
)
from sde_sgd.landscapes import *  # noqa: F403
from sde_sgd.measure import (
    AbstractMeasure as AbstractMeasure,
    ArealVelocity as ArealVelocity,
    Autocovariance as Autocovariance,
    binomial_interval as binomial_interval,
    block_tail_index as block_tail_index,
    BrownianBridge as BrownianBridge,
    ConditionalIncrements as ConditionalIncrements,
    EntropyProduction as EntropyProduction,
    Estimate as Estimate,
    FirstPassage as FirstPassage,
    hill_tail_index as hill_tail_index,
    Histogram as Histogram,
    Levels as Levels,
    MeasureResult as MeasureResult,
    Moments as Moments,
    noise_statistics as noise_statistics,
    NoiseStatistics as NoiseStatistics,
    normality_test as normality_test,
    Occupation as Occupation,
    Snapshots as Snapshots,
    Spectrum as Spectrum,
    Stationarity as Stationarity,
    TailRatios as TailRatios,
    transition_log_ratio as transition_log_ratio,
    weight_matrix as weight_matrix,
)
from sde_sgd.noise import (
    AbstractDriving as AbstractDriving,
    AbstractGradientNoise as AbstractGradientNoise,
    AbstractSampling as AbstractSampling,
    ColouredNoise as ColouredNoise,
    ConstantNoise as ConstantNoise,
    DiagonalNoise as DiagonalNoise,
    epoch_noise as epoch_noise,
    fractional_noise as fractional_noise,
    FunctionNoise as FunctionNoise,
    HessianNoise as HessianNoise,
    IsotropicNoise as IsotropicNoise,
    MinibatchNoise as MinibatchNoise,
    RandomReshuffling as RandomReshuffling,
    StableNoise as StableNoise,
    ThermalNoise as ThermalNoise,
    WhiteNoise as WhiteNoise,
    WithoutReplacement as WithoutReplacement,
    WithReplacement as WithReplacement,
)
from sde_sgd.processes import (
    AbstractAdaptive as AbstractAdaptive,
    AbstractProcess as AbstractProcess,
    Adam as Adam,
    AdaptiveEquation as AdaptiveEquation,
    DrivenEquation as DrivenEquation,
    GaussianSGD as GaussianSGD,
    GradientFlow as GradientFlow,
    linear_scaling as linear_scaling,
    ModifiedEquation as ModifiedEquation,
    OptaxSGD as OptaxSGD,
    OverdampedEquation as OverdampedEquation,
    ProbabilityFlow as ProbabilityFlow,
    RMSprop as RMSprop,
    SAM as SAM,
    SAMEquation as SAMEquation,
    ScaledSGD as ScaledSGD,
    SGD as SGD,
    SGLD as SGLD,
    SignSGD as SignSGD,
    square_root_scaling as square_root_scaling,
    Stages as Stages,
    SVAG as SVAG,
    TransformedEquation as TransformedEquation,
    UnderdampedEquation as UnderdampedEquation,
)
from sde_sgd.random.draws import Draws as Draws, Stream as Stream
from sde_sgd.rare_events import (
    Splitting as Splitting,
    splitting as splitting,
    SplittingError as SplittingError,
)
from sde_sgd.side_by_side import (
    forecast_side_by_side as forecast_side_by_side,
    load_side_by_side as load_side_by_side,
    side_by_side as side_by_side,
    SideBySide as SideBySide,
    svag_limit as svag_limit,
    SvagLimit as SvagLimit,
)
from sde_sgd.simulate import (
    Checkpoint as Checkpoint,
    DivergenceError as DivergenceError,
    Forecast as Forecast,
    forecast as forecast,
    load as load,
    Price as Price,
    Run as Run,
    simulate as simulate,
)
from sde_sgd.validity import (
    forecast_validity as forecast_validity,
    Validity as Validity,
    validity as validity,
    validity_scan as validity_scan,
    ValidityScan as ValidityScan,
)

__version__ = _version("sde_sgd")
