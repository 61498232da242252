"""SGD and the stochastic differential equation that is said to describe it, side by side."""

from . import theory as theory
from .compare import (
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
    wasserstein_per_direction as wasserstein_per_direction,
)
from .draws import Draws as Draws, Stream as Stream
from .dynamics import (
    AbstractAdaptive as AbstractAdaptive,
    AbstractProcess as AbstractProcess,
    Adam as Adam,
    AdaptiveEquation as AdaptiveEquation,
    GaussianSGD as GaussianSGD,
    GradientFlow as GradientFlow,
    linear_scaling as linear_scaling,
    ModifiedEquation as ModifiedEquation,
    OptaxSGD as OptaxSGD,
    OverdampedEquation as OverdampedEquation,
    RMSprop as RMSprop,
    SAM as SAM,
    SAMEquation as SAMEquation,
    ScaledSGD as ScaledSGD,
    SGD as SGD,
    SignSGD as SignSGD,
    square_root_scaling as square_root_scaling,
    Stages as Stages,
    SVAG as SVAG,
    TransformedEquation as TransformedEquation,
    UnderdampedEquation as UnderdampedEquation,
)
from .landscapes import *  # noqa: F403
from .measure import (
    AbstractMeasure as AbstractMeasure,
    ArealVelocity as ArealVelocity,
    Autocovariance as Autocovariance,
    BrownianBridge as BrownianBridge,
    EntropyProduction as EntropyProduction,
    Estimate as Estimate,
    FirstPassage as FirstPassage,
    Histogram as Histogram,
    Moments as Moments,
    Snapshots as Snapshots,
    Stationarity as Stationarity,
    TailRatios as TailRatios,
    transition_log_ratio as transition_log_ratio,
)
from .noise import (
    AbstractGradientNoise as AbstractGradientNoise,
    AbstractSampling as AbstractSampling,
    ConstantNoise as ConstantNoise,
    DiagonalNoise as DiagonalNoise,
    FunctionNoise as FunctionNoise,
    HessianNoise as HessianNoise,
    IsotropicNoise as IsotropicNoise,
    MinibatchNoise as MinibatchNoise,
    RandomReshuffling as RandomReshuffling,
    WithoutReplacement as WithoutReplacement,
    WithReplacement as WithReplacement,
)
from .rare_events import (
    Splitting as Splitting,
    splitting as splitting,
    SplittingError as SplittingError,
)
from .side_by_side import side_by_side as side_by_side, SideBySide as SideBySide
from .simulate import (
    Checkpoint as Checkpoint,
    DivergenceError as DivergenceError,
    Forecast as Forecast,
    forecast as forecast,
    load as load,
    Run as Run,
    simulate as simulate,
)
