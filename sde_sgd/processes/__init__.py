"""Processes: SGD, Gaussian SGD, optax optimisers, gradient flow, modified equations."""

from sde_sgd.processes.base import AbstractProcess as AbstractProcess
from sde_sgd.processes.clock import Clock as Clock, LearningRate as LearningRate
from sde_sgd.processes.continuous.adaptive import AdaptiveEquation as AdaptiveEquation
from sde_sgd.processes.continuous.driven import DrivenEquation as DrivenEquation
from sde_sgd.processes.continuous.modified import (
    GradientFlow as GradientFlow,
    ModifiedEquation as ModifiedEquation,
)
from sde_sgd.processes.continuous.momentum import (
    OverdampedEquation as OverdampedEquation,
    UnderdampedEquation as UnderdampedEquation,
)
from sde_sgd.processes.continuous.probability_flow import ProbabilityFlow as ProbabilityFlow
from sde_sgd.processes.continuous.sam import SAMEquation as SAMEquation
from sde_sgd.processes.continuous.transformed import TransformedEquation as TransformedEquation
from sde_sgd.processes.discrete._batches import AbstractBatchProcess as AbstractBatchProcess
from sde_sgd.processes.discrete.adaptive import (
    AbstractAdaptive as AbstractAdaptive,
    Adam as Adam,
    RMSprop as RMSprop,
    SignSGD as SignSGD,
)
from sde_sgd.processes.discrete.langevin import SGLD as SGLD
from sde_sgd.processes.discrete.optax_sgd import OptaxSGD as OptaxSGD
from sde_sgd.processes.discrete.sam import SAM as SAM
from sde_sgd.processes.discrete.sgd import GaussianSGD as GaussianSGD, SGD as SGD
from sde_sgd.processes.discrete.svag import SVAG as SVAG
from sde_sgd.processes.scaling import (
    linear_scaling as linear_scaling,
    ScaledSGD as ScaledSGD,
    square_root_scaling as square_root_scaling,
)
from sde_sgd.processes.stages import Stages as Stages
from sde_sgd.processes.step_laws import Diffusion as Diffusion, Jumps as Jumps
