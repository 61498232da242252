"""The batches that a process draws, or whose noise it has."""

from sde_sgd.noise.models import AbstractBatchNoise
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.noise.thermal import without_bath
from sde_sgd.processes.base import AbstractProcess


def sampling_of(process: AbstractProcess) -> AbstractSampling | None:
    """The law of the batches that a process draws, or that its noise is a model of; else None."""
    noise = without_bath(process.gradient_noise)
    return noise.sampling if isinstance(noise, AbstractBatchNoise) else None


def noise_factor(process: AbstractProcess) -> float | None:
    """c of those batches; None where there are none."""
    sampling = sampling_of(process)
    return None if sampling is None else sampling.noise_factor(process.landscape.num_examples)
