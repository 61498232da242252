"""SVAG: discrete steps that become the SDE of SGD as their number grows."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from sde_sgd._checks import check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.sampling import AbstractSampling, check_batches
from sde_sgd.processes._cost import of_batches
from sde_sgd.processes.base import Observe
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.continuous._steps import over_substeps
from sde_sgd.processes.continuous.modified import FlowState
from sde_sgd.processes.discrete._batches import AbstractBatchProcess
from sde_sgd.processes.linear import first_order_step, LinearStep
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions


class SVAG(AbstractBatchProcess):
    """Stochastic variance-amplified gradient: l steps an iteration, t = ηk,

        θ ← θ − (η/l) [ ½(1+√(2l−1)) ĝ₁ + ½(1−√(2l−1)) ĝ₂ ],

    ĝ₁ and ĝ₂ of two independent batches. The bracket has mean ∇L and covariance l·cΣ, so that one
    iteration keeps the noise of an SGD iteration while the step shrinks: l = 1 *is* SGD, l → ∞ its
    SDE, with an error O(1/l). On least squares its second moments are those of Euler's scheme of
    the SDE at h = η/l, although its noise is not Gaussian.

    **Arguments:** `landscape`, `learning_rate` (η > 0 or a schedule), `sampling` as `SGD`; `steps`:
    l. Costs 2l batches an iteration.

    **Raises:** `ValueError` for `RandomReshuffling`, whose batches are not independent.

    **Source:** Li, Malladi, Arora 2021 (2102.12470), eq. 4.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    sampling: AbstractSampling
    steps: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        sampling: AbstractSampling,
        steps: int,
    ):
        check_batches(landscape, sampling)
        if sampling.epoch(landscape.num_examples) is not None:
            raise ValueError(
                "SVAG needs two independent batches a step, and those of an epoch exclude each "
                "other: use WithReplacement or WithoutReplacement."
            )
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.sampling = sampling
        self.steps = check_whole("steps", steps)

    @property
    def substeps(self) -> int:
        return self.steps

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate)

    @property
    def gradients_per_iteration(self) -> float:
        """2lB, and B for l = 1."""
        return of_batches(
            self.landscape, self.sampling.batch_size, 2 * self.steps if self.steps > 1 else 1
        )

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        # The bracket has l times the covariance of a batch.
        return first_order_step(learning_rate * curvature, learning_rate, self.steps)

    def init(self, theta: Positions, draws: Draws) -> FlowState:
        return FlowState(theta)

    def step(self, state: FlowState, draws: Draws, observe: Observe, carry: Any):
        spread = float(np.sqrt(2 * self.steps - 1))

        def gradient(theta, substep):
            _, examples = self.sampling.draw(None, draws.at(substep=substep), self.landscape)
            return jax.vmap(self.landscape.minibatch_gradient)(theta, examples)

        def body(j, loop):
            before, carry = loop
            eta = self.learning_rate.at(draws.iteration, before.dtype)
            noisy = 0.5 * (1 + spread) * gradient(before, 2 * j)
            if self.steps > 1:
                noisy = noisy + 0.5 * (1 - spread) * gradient(before, 2 * j + 1)
            after = before - eta / self.steps * noisy
            return after, observe(carry, before, after, j)

        theta, carry = over_substeps(self.steps, body, (state.theta, carry))
        return FlowState(theta), carry
