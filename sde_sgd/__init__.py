"""SGD and the stochastic differential equation that is said to describe it, side by side."""

from . import theory as theory
from .compare import (
    compare as compare,
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
    AbstractProcess as AbstractProcess,
    GaussianSGD as GaussianSGD,
    GradientFlow as GradientFlow,
    ModifiedEquation as ModifiedEquation,
    OptaxSGD as OptaxSGD,
    SGD as SGD,
)
from .landscapes import *  # noqa: F403
from .measure import (
    AbstractMeasure as AbstractMeasure,
    BrownianBridge as BrownianBridge,
    Estimate as Estimate,
    FirstPassage as FirstPassage,
    Histogram as Histogram,
    Moments as Moments,
    Snapshots as Snapshots,
)
from .noise import (
    AbstractGradientNoise as AbstractGradientNoise,
    AbstractSampling as AbstractSampling,
    ConstantNoise as ConstantNoise,
    DiagonalNoise as DiagonalNoise,
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
