"""An equation at solver step 0: what its predictions are the limit of."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import by_its_clock, Clock
from sde_sgd.processes.linear import LinearStep, NotKnown
from sde_sgd.processes.rules import Rule
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.random.draws import Draws
from sde_sgd.types import Matrix, Vector


class AbstractOfEquation(AbstractProcess):
    """A process made of an equation, with its landscape, noise and solver steps."""

    equation: eqx.AbstractVar[AbstractProcess]

    autonomous = by_its_clock

    @property
    def landscape(self) -> AbstractLandscape:
        """Where the equation moves."""
        return self.equation.landscape

    @property
    def substeps(self) -> int:
        return self.equation.substeps

    @property
    def two_point(self) -> bool:
        return self.equation.two_point

    @property
    def deterministic(self) -> bool:
        return self.equation.deterministic

    @property
    def clock(self) -> Clock:
        return self.equation.clock

    @property
    def gradient_noise(self) -> AbstractGradientNoise | None:
        return self.equation.gradient_noise

    @property
    def update_rule(self) -> Rule | None:
        return self.equation.update_rule

    def limit(self) -> AbstractProcess:
        return ContinuousLimit(self)

    def check(self) -> None:
        self.equation.check()


class ContinuousLimit(AbstractOfEquation):
    """`equation.limit()`: the same equation at solver step 0, which theory takes in its place.

    **Raises:** `ValueError` in `simulate`: a run has a step; raise `substeps` and see whether its
    result still moves.
    """

    equation: AbstractProcess

    def __init__(self, equation: AbstractProcess):
        self.equation = equation

    @property
    def substeps(self) -> int:
        return 1

    @property
    def two_point(self) -> bool:
        return False

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return self.equation.linear_limit(learning_rate, curvature)

    def law(self) -> Diffusion:
        return self.equation.limit_law()

    def gaussian_step(self, theta: Vector) -> tuple[Vector, Matrix]:
        raise NotKnown("A limit of step 0 has no step: ask the equation itself.")

    def largest_stable_rate(self, about: Any = None, at_step_zero: bool = True) -> float:
        return self.equation.largest_stable_rate(about, at_step_zero=True)

    def limit(self) -> "ContinuousLimit":
        return self

    def check(self) -> None:
        raise ValueError(
            f"A limit of step 0 can be predicted and not simulated: run the "
            f"{type(self.equation).__name__} itself, with more substeps."
        )

    def step(self, state: PyTree[Array], draws: Draws, observe: Observe, carry: Any):
        self.check()
