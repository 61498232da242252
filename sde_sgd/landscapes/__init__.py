"""What is minimised: example losses over data, analytic potentials, populations, data sets."""

from .base import AbstractFiniteSum, AbstractLandscape, AbstractPopulation
from .boltzmann import GaussianRBM, scalar_field_kernel
from .control_variate import ControlVariate
from .data import (
    breast_cancer,
    Dataset,
    diabetes,
    digits,
    digits_regression,
    mnist_subset,
    random_labels,
    teacher_student,
)
from .empirical_risk import cross_entropy, EmpiricalRisk, squared_error
from .finite_sums import LeastSquares, LogisticRegression
from .gradient_flow import Ending, FlowEnd
from .matrix_populations import (
    GaussianTilts,
    LinearTeacherStudent,
    symmetric_noise_covariance,
)
from .minimise import Minimum
from .noise_forms import AbstractNoiseForm, ExampleWeights
from .population import PopulationLeastSquares
from .potentials import (
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
    "SharpAndFlatWellsEnergy",
    "breast_cancer",
    "cross_entropy",
    "diabetes",
    "digits",
    "digits_regression",
    "double_well",
    "mnist_subset",
    "mueller_brown",
    "quadratic",
    "random_labels",
    "scalar_field_kernel",
    "sharp_and_flat_wells",
    "squared_error",
    "symmetric_noise_covariance",
    "teacher_student",
]
