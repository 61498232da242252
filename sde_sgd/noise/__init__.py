"""Sampling schemes, gradient-noise models and Diffrax noise paths."""

from sde_sgd.noise.driving import (
    AbstractDriving as AbstractDriving,
    ColouredNoise as ColouredNoise,
    epoch_noise as epoch_noise,
    fractional_noise as fractional_noise,
    StableNoise as StableNoise,
    WhiteNoise as WhiteNoise,
)
from sde_sgd.noise.function_noise import FunctionNoise as FunctionNoise
from sde_sgd.noise.models import (
    AbstractGradientNoise as AbstractGradientNoise,
    ConstantNoise as ConstantNoise,
    DiagonalNoise as DiagonalNoise,
    HessianNoise as HessianNoise,
    IsotropicNoise as IsotropicNoise,
    MinibatchNoise as MinibatchNoise,
)
from sde_sgd.noise.sampling import (
    AbstractSampling as AbstractSampling,
    RandomReshuffling as RandomReshuffling,
    WithoutReplacement as WithoutReplacement,
    WithReplacement as WithReplacement,
)
from sde_sgd.noise.thermal import ThermalNoise as ThermalNoise
