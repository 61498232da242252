"""Streaming measures and the estimates they return."""

from sde_sgd.estimate import Estimate as Estimate
from sde_sgd.measure.autocovariance import (
    Autocovariance as Autocovariance,
    AutocovarianceResult as AutocovarianceResult,
)
from sde_sgd.measure.base import (
    AbstractMeasure as AbstractMeasure,
    MeasureResult as MeasureResult,
    Tick as Tick,
)
from sde_sgd.measure.brownian_bridge import BrownianBridge as BrownianBridge
from sde_sgd.measure.conditional_increments import (
    ConditionalIncrements as ConditionalIncrements,
    ConditionalIncrementsResult as ConditionalIncrementsResult,
)
from sde_sgd.measure.currents import (
    ArealVelocity as ArealVelocity,
    ArealVelocityResult as ArealVelocityResult,
)
from sde_sgd.measure.entropy import (
    EntropyProduction as EntropyProduction,
    EntropyProductionResult as EntropyProductionResult,
    transition_log_ratio as transition_log_ratio,
)
from sde_sgd.measure.first_passage import (
    FirstPassage as FirstPassage,
    FirstPassageResult as FirstPassageResult,
)
from sde_sgd.measure.histogram import (
    Histogram as Histogram,
    HistogramResult as HistogramResult,
    JointHistogramResult as JointHistogramResult,
)
from sde_sgd.measure.moments import Moments as Moments
from sde_sgd.measure.noise_statistics import (
    block_tail_index as block_tail_index,
    hill_tail_index as hill_tail_index,
    noise_statistics as noise_statistics,
    NoiseStatistics as NoiseStatistics,
    normality_test as normality_test,
)
from sde_sgd.measure.occupation import (
    binomial_interval as binomial_interval,
    Occupation as Occupation,
    OccupationResult as OccupationResult,
)
from sde_sgd.measure.snapshots import Snapshots as Snapshots
from sde_sgd.measure.spectrum import (
    Levels as Levels,
    Spectrum as Spectrum,
    SpectrumResult as SpectrumResult,
    weight_matrix as weight_matrix,
)
from sde_sgd.measure.stationarity import (
    Stationarity as Stationarity,
    StationarityResult as StationarityResult,
)
from sde_sgd.measure.tails import TailRatios as TailRatios, TailRatiosResult as TailRatiosResult
