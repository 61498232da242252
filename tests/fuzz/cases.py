"""All cases, and the public names that have none."""

import importlib
import inspect
import random
from collections.abc import Iterator
from typing import NamedTuple

from .judge import Outcome, outcome
from .public import public
from .recipes import RECIPES
from .values import bad_values

for _name in ("parts", "runs", "theory", "theory_exits", "theory_equations"):
    importlib.import_module(f"{__package__}.recipes_{_name}")

SECONDS = 10.0  # of the processor, whatever else it has to do

# What the library makes and the user reads.
RESULTS = """
    landscapes.Basins Comparison DivergenceError landscapes.Ending identify.FittedSDE
    landscapes.FlowEnd Forecast identify.LocalCoefficients measure.MeasureResult landscapes.Minimum
    measure.NoiseStatistics Price Run landscapes.Saddle processes.ScaledSGD SideBySide Splitting
    SplittingError SvagLimit Validity ValidityScan WeakError identify.WeakForm WeakOrder
    sweeps.Sweep
    data.Dataset landscapes.QuadraticEnergy landscapes.DoubleWellEnergy
    landscapes.SharpAndFlatWellsEnergy landscapes.MuellerBrownEnergy theory.selection.BalanceMoments
    theory.equations.ConditionalMoments
    theory.selection.DiagonalNetworkLimit theory.stationary.EpochCovariance
    theory.selection.Evidence theory.escape.ExitTime theory.escape.EyringKramers
    theory.equations.FlowGap theory.laws.GridDensity theory.escape.GridFunction
    theory.stationary.EpochMoments theory.equations.WeakErrors
    theory.equations.LinearEquation theory.equations.OrderFit
    theory.escape.QuasiPotential theory.equations.ReadEquation theory.equations.ScalarErrors
    theory.laws.ScalarLaw theory.stationary.ScalarMoments theory.stationary.StationaryCurrent
    theory.laws.StationaryDensity theory.stationary.MeanAndCovariance landscapes.StationaryPoint
    theory.matrices.TeacherStudentSpacing
    theory.stationary.TransientMoments theory.stationary.EntropyRate
    curvature.Eigenvalues curvature.SpectralDensity
    curvature.CurvatureAlong distances.DistanceRow distances.DistanceTable distances.PermutationTest
    measure.AutocovarianceResult measure.Tick measure.ConditionalIncrementsResult
    measure.ArealVelocityResult measure.EntropyProductionResult measure.FirstPassageResult
    measure.HistogramResult measure.JointHistogramResult measure.OccupationResult
    measure.SpectrumResult measure.StationarityResult measure.TailRatiosResult
""".split()  # noqa: SIM905
NO_RECIPE = dict.fromkeys(RESULTS, "the library makes it") | {
    "theory.laws.tail_index_limit": "takes no argument",
    "noise.WhiteNoise": "takes no argument",
    "landscapes.ExampleWeights": "takes no argument",
    "Stream": "an enumeration",
    "Draws": "made by Draws.create",
    "plots.side_by_side_figure": "takes a result alone",
    "processes.LearningRate": "every process makes one of its learning_rate",
}


class Case(NamedTuple):
    """Argument `argument` of the recipe `recipe` replaced by the value called `value`."""

    recipe: str
    argument: str
    value: str


def missing() -> list[str]:
    """The public functions and classes that have neither a recipe nor a reason."""
    given = {name.split(" ")[0] for name in RECIPES} | set(NO_RECIPE)
    return [
        name
        for name, value in public().items()
        if callable(value) and not inspect.isabstract(value) and name not in given
    ]


def package(recipe: str) -> str:
    """The part of `sde_sgd` in which the callable of a recipe is defined, "compare" say."""
    name = recipe.split(" ")[0]
    if name.startswith(("theory", "plots")):
        return name.split(".")[0]
    while name and name not in public():
        name = name.rpartition(".")[0]  # a method
    if not name:
        return "measure"  # a result that has no public name
    return public()[name].__module__.split(".")[1]


def all_cases(prefix: str = "", packages: tuple[str, ...] = ()) -> Iterator[Case]:
    """Every argument of the recipes whose name begins with `prefix`, with every value.

    Of all parts of the package, or of some.
    """
    values = list(bad_values())
    for name in names(prefix, packages):
        for argument in RECIPES[name]()[1]:
            yield from (Case(name, argument, value) for value in values)


def sampled(count: int, seed: int, prefix: str = "", packages: tuple[str, ...] = ()) -> list[Case]:
    """`count` cases, each with a recipe, an argument and a value drawn in turn."""
    rng = random.Random(seed)
    known, values = names(prefix, packages), list(bad_values())
    drawn = []
    for _ in range(count):
        name = rng.choice(known)
        drawn.append(Case(name, rng.choice(list(RECIPES[name]()[1])), rng.choice(values)))
    return drawn


def names(prefix: str, packages: tuple[str, ...]) -> list[str]:
    """Recipes by the beginning of their names and by part of the package."""
    return [
        name
        for name in RECIPES
        if name.startswith(prefix) and (not packages or package(name) in packages)
    ]


def run(case: Case, seconds: float = SECONDS) -> Outcome:
    """What became of one case."""
    call, arguments = RECIPES[case.recipe]()
    value = bad_values()[case.value]
    return outcome(
        lambda: call(**{**arguments, case.argument: value}), case.argument, value, seconds
    )


def run_valid(name: str, seconds: float = 60.0) -> Outcome:
    """What became of the valid call; anything but accepted or compiles is a wrong recipe."""
    call, arguments = RECIPES[name]()
    return outcome(lambda: call(**arguments), "", None, seconds)
