"""Processes: SGD, Gaussian SGD, optax optimisers, gradient flow, modified equations."""

from .adaptive import (
    AbstractAdaptive as AbstractAdaptive,
    Adam as Adam,
    RMSprop as RMSprop,
    SignSGD as SignSGD,
)
from .adaptive_equation import AdaptiveEquation as AdaptiveEquation
from .base import AbstractProcess as AbstractProcess, LearningRate as LearningRate
from .continuous import GradientFlow as GradientFlow, ModifiedEquation as ModifiedEquation
from .discrete import GaussianSGD as GaussianSGD, SGD as SGD
from .driven import DrivenEquation as DrivenEquation
from .langevin import SGLD as SGLD
from .optax_sgd import OptaxSGD as OptaxSGD
from .probability_flow import ProbabilityFlow as ProbabilityFlow
from .sam import SAM as SAM, SAMEquation as SAMEquation
from .scaling import (
    linear_scaling as linear_scaling,
    ScaledSGD as ScaledSGD,
    square_root_scaling as square_root_scaling,
)
from .stages import Stages as Stages
from .svag import SVAG as SVAG
from .transformed import TransformedEquation as TransformedEquation
from .underdamped import (
    OverdampedEquation as OverdampedEquation,
    UnderdampedEquation as UnderdampedEquation,
)
