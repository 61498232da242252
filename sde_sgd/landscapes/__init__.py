"""What is minimised: example losses over data, analytic potentials, populations, data sets."""

from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape, AbstractPopulation
from sde_sgd.landscapes.boltzmann import GaussianRBM, scalar_field_kernel
from sde_sgd.landscapes.control_variate import ControlVariate
from sde_sgd.landscapes.data import (
    breast_cancer,
    Dataset,
    diabetes,
    digits,
    digits_regression,
    mnist_subset,
    random_labels,
    teacher_student,
)
from sde_sgd.landscapes.empirical_risk import cross_entropy, EmpiricalRisk, squared_error
from sde_sgd.landscapes.finite_sums import LeastSquares, LogisticRegression
from sde_sgd.landscapes.geometry.basins import (
    Basins,
    find_basins,
    find_saddles,
    flow_ends,
    label_by_nearest,
    Saddle,
)
from sde_sgd.landscapes.geometry.critical_points import stationary_point, StationaryPoint
from sde_sgd.landscapes.gradient_flow import Ending, FlowEnd
from sde_sgd.landscapes.matrix_populations import (
    GaussianTilts,
    LinearTeacherStudent,
    symmetric_noise_covariance,
)
from sde_sgd.landscapes.minimise import Minimum
from sde_sgd.landscapes.noise_forms import AbstractNoiseForm, ExampleWeights
from sde_sgd.landscapes.population import PopulationLeastSquares
from sde_sgd.landscapes.potentials import (
    double_well,
    DoubleWellEnergy,
    mueller_brown,
    MuellerBrownEnergy,
    Potential,
    quadratic,
    QuadraticEnergy,
    sharp_and_flat_wells,
    SharpAndFlatWellsEnergy,
)

__all__ = [
    "AbstractFiniteSum",
    "AbstractLandscape",
    "AbstractNoiseForm",
    "AbstractPopulation",
    "Basins",
    "ControlVariate",
    "Dataset",
    "DoubleWellEnergy",
    "EmpiricalRisk",
    "Ending",
    "ExampleWeights",
    "FlowEnd",
    "GaussianRBM",
    "GaussianTilts",
    "LeastSquares",
    "LinearTeacherStudent",
    "LogisticRegression",
    "Minimum",
    "MuellerBrownEnergy",
    "PopulationLeastSquares",
    "Potential",
    "QuadraticEnergy",
    "Saddle",
    "SharpAndFlatWellsEnergy",
    "StationaryPoint",
    "breast_cancer",
    "cross_entropy",
    "diabetes",
    "digits",
    "digits_regression",
    "double_well",
    "find_basins",
    "find_saddles",
    "flow_ends",
    "label_by_nearest",
    "mnist_subset",
    "mueller_brown",
    "quadratic",
    "random_labels",
    "scalar_field_kernel",
    "sharp_and_flat_wells",
    "squared_error",
    "stationary_point",
    "symmetric_noise_covariance",
    "teacher_student",
]
