"""What the equations with noise share."""

from typing import Any

import equinox as eqx

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.clock import by_its_clock, Clock, LearningRate
from sde_sgd.processes.continuous.limit import ContinuousLimit
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.types import Positions


class AbstractEquation(AbstractProcess):
    """An SDE in `num_substeps` solver steps an iteration, t = ηk; θ is `theta` of its state."""

    landscape: eqx.AbstractVar[AbstractLandscape]
    learning_rate: eqx.AbstractVar[LearningRate]
    noise: eqx.AbstractVar[AbstractGradientNoise]
    num_substeps: eqx.AbstractVar[int]

    autonomous = by_its_clock

    @property
    def substeps(self) -> int:
        return self.num_substeps

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate)

    @property
    def gradient_noise(self) -> AbstractGradientNoise:
        return self.noise

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate)

    def limit(self) -> ContinuousLimit:
        return ContinuousLimit(self)

    def check(self) -> None:
        self.noise.check(self.landscape)

    def position(self, state: Any) -> Positions:
        return state.theta
