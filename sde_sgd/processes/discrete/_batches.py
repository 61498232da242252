"""What the processes that draw batches share."""

from typing import Any

import equinox as eqx

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise, MinibatchNoise
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.processes._cost import of_batches
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.clock import by_its_clock, Clock, LearningRate
from sde_sgd.types import Positions


class AbstractBatchProcess(AbstractProcess):
    """One batch of `sampling` an iteration, t = ηk; θ is `theta` of its state.

    The base of a discrete optimiser of your own: write `step`, and `init` with a state that has
    `theta` (members, d). It has the noise of its batches and the cost of one batch gradient, B
    examples an iteration; define `gradients_per_iteration` for another cost, and `update_rule`,
    which is not known by default.

    **Fields:** `landscape`; `learning_rate`, None for a rule without a rate, on the clock of
    iterations; `sampling`.
    """

    landscape: eqx.AbstractVar[AbstractLandscape]
    learning_rate: eqx.AbstractVar[LearningRate | None]
    sampling: eqx.AbstractVar[AbstractSampling]

    autonomous = by_its_clock

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate)

    @property
    def gradient_noise(self) -> AbstractGradientNoise:
        return MinibatchNoise(self.sampling)

    @property
    def epoch(self) -> int | None:
        return self.sampling.epoch(self.landscape.num_examples)

    @property
    def gradients_per_iteration(self) -> float:
        """B in an iteration."""
        return of_batches(self.landscape, self.sampling.batch_size)

    def check(self) -> None:
        self.sampling.check(self.landscape)

    def position(self, state: Any) -> Positions:
        return state.theta
