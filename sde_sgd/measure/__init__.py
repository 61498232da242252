"""Streaming measures and the estimates they return."""

from .autocovariance import (
    Autocovariance as Autocovariance,
    AutocovarianceResult as AutocovarianceResult,
)
from .base import (
    AbstractMeasure as AbstractMeasure,
    MeasureResult as MeasureResult,
    Tick as Tick,
)
from .brownian_bridge import BrownianBridge as BrownianBridge
from .conditional_increments import (
    ConditionalIncrements as ConditionalIncrements,
    ConditionalIncrementsResult as ConditionalIncrementsResult,
)
from .currents import ArealVelocity as ArealVelocity, ArealVelocityResult as ArealVelocityResult
from .entropy import (
    EntropyProduction as EntropyProduction,
    EntropyProductionResult as EntropyProductionResult,
    transition_log_ratio as transition_log_ratio,
)
from .estimate import Estimate as Estimate
from .first_passage import FirstPassage as FirstPassage, FirstPassageResult as FirstPassageResult
from .histogram import (
    Histogram as Histogram,
    HistogramResult as HistogramResult,
    JointHistogramResult as JointHistogramResult,
)
from .moments import Moments as Moments
from .noise_statistics import (
    block_tail_index as block_tail_index,
    hill_tail_index as hill_tail_index,
    noise_statistics as noise_statistics,
    NoiseStatistics as NoiseStatistics,
    normality_test as normality_test,
)
from .occupation import (
    binomial_interval as binomial_interval,
    Occupation as Occupation,
    OccupationResult as OccupationResult,
)
from .snapshots import Snapshots as Snapshots
from .spectrum import (
    Levels as Levels,
    Spectrum as Spectrum,
    SpectrumResult as SpectrumResult,
    weight_matrix as weight_matrix,
)
from .stationarity import (
    Stationarity as Stationarity,
    StationarityResult as StationarityResult,
)
from .tails import TailRatios as TailRatios, TailRatiosResult as TailRatiosResult
