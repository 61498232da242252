"""SGD and the stochastic differential equation that is said to describe it, side by side.

The names here are those of every day; the rest is in its subject: `ss.theory`, `ss.identify`,
`ss.curvature`, `ss.distances`, `ss.data`, and in `ss.landscapes`, `ss.noise`, `ss.processes`,
`ss.measure`, `ss.plots`, which hold the rarer parts of what the top level has.
"""

import importlib as _importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from sde_sgd import identify as identify, theory as theory
from sde_sgd.compare import (
    compare as compare,
    compare_law as compare_law,
    compare_laws as compare_laws,
    Comparison as Comparison,
    distances as distances,
    paired_difference as paired_difference,
    verdict_table as verdict_table,
    weak_error as weak_error,
    weak_order as weak_order,
    WeakError as WeakError,
    WeakOrder as WeakOrder,
)
from sde_sgd.estimate import Estimate as Estimate
from sde_sgd.landscapes import (
    AbstractFiniteSum as AbstractFiniteSum,
    AbstractLandscape as AbstractLandscape,
    cross_entropy as cross_entropy,
    data as data,
    double_well as double_well,
    EmpiricalRisk as EmpiricalRisk,
    LeastSquares as LeastSquares,
    LogisticRegression as LogisticRegression,
    Potential as Potential,
    quadratic as quadratic,
    squared_error as squared_error,
)
from sde_sgd.landscapes.geometry import curvature as curvature
from sde_sgd.measure import (
    AbstractMeasure as AbstractMeasure,
    Autocovariance as Autocovariance,
    ConditionalIncrements as ConditionalIncrements,
    FirstPassage as FirstPassage,
    Histogram as Histogram,
    Moments as Moments,
    noise_statistics as noise_statistics,
    Occupation as Occupation,
    Snapshots as Snapshots,
    Spectrum as Spectrum,
    Stationarity as Stationarity,
)
from sde_sgd.noise import (
    AbstractGradientNoise as AbstractGradientNoise,
    AbstractSampling as AbstractSampling,
    ConstantNoise as ConstantNoise,
    DiagonalNoise as DiagonalNoise,
    FunctionNoise as FunctionNoise,
    HessianNoise as HessianNoise,
    IsotropicNoise as IsotropicNoise,
    MinibatchNoise as MinibatchNoise,
    RandomReshuffling as RandomReshuffling,
    ThermalNoise as ThermalNoise,
    WithoutReplacement as WithoutReplacement,
    WithReplacement as WithReplacement,
)
from sde_sgd.processes import (
    AbstractProcess as AbstractProcess,
    Adam as Adam,
    AdaptiveEquation as AdaptiveEquation,
    DrivenEquation as DrivenEquation,
    GaussianSGD as GaussianSGD,
    GradientFlow as GradientFlow,
    ModifiedEquation as ModifiedEquation,
    OptaxSGD as OptaxSGD,
    OverdampedEquation as OverdampedEquation,
    ProbabilityFlow as ProbabilityFlow,
    RMSprop as RMSprop,
    SAM as SAM,
    SAMEquation as SAMEquation,
    SGD as SGD,
    SGLD as SGLD,
    SignSGD as SignSGD,
    Stages as Stages,
    SVAG as SVAG,
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
    merge as merge,
    Price as Price,
    Run as Run,
    simulate as simulate,
)
from sde_sgd.sweeps import sweep as sweep
from sde_sgd.validity import (
    forecast_validity as forecast_validity,
    Validity as Validity,
    validity as validity,
    validity_scan as validity_scan,
    ValidityScan as ValidityScan,
)

if _TYPE_CHECKING:
    from sde_sgd import plots as plots

__version__ = _version("sde_sgd")


def __getattr__(name: str):
    if name == "plots":  # matplotlib comes in with it
        return _importlib.import_module("sde_sgd.plots")
    raise AttributeError(f"sde_sgd has no {name!r}; its names are those of dir(sde_sgd).")


# The subjects, beside the classes and functions that are imported by name above.
_SUBJECTS = (
    "curvature",
    "data",
    "distances",
    "identify",
    "landscapes",
    "measure",
    "noise",
    "plots",
    "processes",
    "sweeps",
    "theory",
)


def __dir__() -> list[str]:
    """What a user types: no modules but the subjects."""
    names = {name for name, value in globals().items() if callable(value)} | {*_SUBJECTS}
    return sorted(name for name in names if not name.startswith("_"))
