"""Sampling schemes, gradient-noise models and Diffrax noise paths."""

from .driving import (
    AbstractDriving as AbstractDriving,
    ColouredNoise as ColouredNoise,
    epoch_noise as epoch_noise,
    fractional_noise as fractional_noise,
    StableNoise as StableNoise,
    WhiteNoise as WhiteNoise,
)
from .function_noise import FunctionNoise as FunctionNoise
from .models import (
    AbstractGradientNoise as AbstractGradientNoise,
    ConstantNoise as ConstantNoise,
    covariance_operator as covariance_operator,
    DiagonalNoise as DiagonalNoise,
    HessianNoise as HessianNoise,
    IsotropicNoise as IsotropicNoise,
    MinibatchNoise as MinibatchNoise,
)
from .paths import IterationNoise as IterationNoise
from .sampling import (
    AbstractSampling as AbstractSampling,
    RandomReshuffling as RandomReshuffling,
    WithoutReplacement as WithoutReplacement,
    WithReplacement as WithReplacement,
)
from .thermal import ThermalNoise as ThermalNoise
