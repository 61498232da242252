"""The batches that a process draws, or whose noise it has, and what they cost."""

import math

import diffrax as dfx

from sde_sgd.landscapes.control_variate import ControlVariate
from sde_sgd.noise.models import (
    AbstractBatchNoise,
    AbstractGradientNoise,
    ConstantNoise,
    MinibatchNoise,
)
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.noise.thermal import ThermalNoise
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.continuous.adaptive import AdaptiveEquation
from sde_sgd.processes.continuous.modified import GradientFlow, ModifiedEquation
from sde_sgd.processes.continuous.momentum import OverdampedEquation, UnderdampedEquation
from sde_sgd.processes.discrete.adaptive import SignSGD
from sde_sgd.processes.discrete.langevin import SGLD
from sde_sgd.processes.discrete.optax_sgd import OptaxSGD
from sde_sgd.processes.discrete.sam import SAM
from sde_sgd.processes.discrete.sgd import GaussianSGD, SGD
from sde_sgd.processes.discrete.svag import SVAG


def without_bath(process: AbstractProcess) -> AbstractGradientNoise | None:
    """The noise of an iteration's gradient alone, without a bath; None if there is none."""
    noise = process.gradient_noise
    while isinstance(noise, ThermalNoise):
        noise = noise.noise
    return noise


def sampling_of(process: AbstractProcess) -> AbstractSampling | None:
    """The law of the batches that a process draws, or that its noise is a model of; else None."""
    noise = without_bath(process)
    return noise.sampling if isinstance(noise, AbstractBatchNoise) else None


def noise_factor(process: AbstractProcess) -> float | None:
    """c of those batches; None where there are none."""
    sampling = sampling_of(process)
    return None if sampling is None else sampling.noise_factor(process.landscape.num_examples)


def temperature(process: AbstractProcess) -> float:
    """T of the bath: 0 without one."""
    if isinstance(process, SGLD):
        return float(process.temperature)
    total, noise = 0.0, process.gradient_noise
    while isinstance(noise, ThermalNoise):
        total, noise = total + float(noise.temperature), noise.noise
    return total


def example_gradients(process: AbstractProcess) -> float:
    """Gradients of single examples in one iteration of one member; NaN where not known.

    B for a batch (2lB for `SVAG(l)`, 2B for `SAM`), substeps·N for an equation with exact or
    constant noise, whose step is one weighted gradient of all examples. For an `AdaptiveEquation`
    with exact noise the variance adds each example's gradient and their mean: 3·substeps·N, and
    2·substeps·N for `SignSGD` with independent signs, which takes no weighted gradient.
    """
    if isinstance(process, OverdampedEquation):
        return example_gradients(process.equation)
    passes = 2 if isinstance(process.landscape, ControlVariate) else 1
    if isinstance(process, SVAG) and process.steps > 1:
        passes *= 2 * process.steps
    if isinstance(process, SAM):
        passes *= 2
    batches = isinstance(process, SGD | SGLD | SAM | SVAG | OptaxSGD)
    if isinstance(process, OptaxSGD) and "grad_fn" in process.offers:
        return math.nan  # it takes as many gradients as it likes
    if batches:
        return float(passes * process.sampling.batch_size)  # pyright: ignore
    num, noise = process.landscape.num_examples, without_bath(process)
    known = isinstance(noise, MinibatchNoise | ConstantNoise)
    if isinstance(process, ModifiedEquation):
        known = known and process.order == 1 and isinstance(process.solver, dfx.Euler)
    elif isinstance(process, AdaptiveEquation):
        optimizer, known = process.optimizer, isinstance(noise, MinibatchNoise)
        if isinstance(optimizer, SignSGD):
            passes, known = 2 * passes, known and optimizer.diagonal
        else:
            passes *= 3
    elif isinstance(process, GradientFlow):
        known = isinstance(process.solver, dfx.Euler)
    elif not isinstance(process, GaussianSGD | UnderdampedEquation):
        known = False
    return float(passes * process.substeps * num) if known and num is not None else math.nan
