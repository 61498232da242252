"""Processes: SGD, Gaussian SGD, optax optimisers, gradient flow, modified equations."""

from .base import AbstractProcess as AbstractProcess, LearningRate as LearningRate
from .continuous import GradientFlow as GradientFlow, ModifiedEquation as ModifiedEquation
from .discrete import GaussianSGD as GaussianSGD, OptaxSGD as OptaxSGD, SGD as SGD
from .transformed import TransformedEquation as TransformedEquation
