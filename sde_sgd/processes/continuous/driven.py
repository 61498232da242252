"""The equation of SGD with another driving process than Brownian motion."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd._checks import check_part, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.driving import AbstractDriving, WhiteNoise
from sde_sgd.noise.models import AbstractGradientNoise, check_noise
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.continuous._equation import AbstractEquation
from sde_sgd.processes.continuous._steps import step_members
from sde_sgd.processes.continuous.limit import ContinuousLimit
from sde_sgd.processes.linear import first_order_step, LinearReading, LinearStep, NotKnown
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions


class DrivenState(eqx.Module):
    """θ (members, d) and the memory of the noise, members first, or None."""

    theta: Positions
    memory: PyTree[Array]


class DrivenEquation(AbstractEquation):
    """dθ = −η∇L ds + η C^{1/2}(θ) dZ_s, s = t/η in iterations, by Euler's scheme.

    C = Cov(ĝ) of one iteration, Z the driving process: with `WhiteNoise` this is
    `ModifiedEquation` of order 1, number for number. Noise of unit strength *per iteration* is
    meant, so that fractional noise gives θ on ½hθ² the variance
    η^{2−2H} C Γ(2H+1)/(2h^{2H}) (`theory.stationary.driven_covariance` has it at a step).

    **Arguments:**

    - `landscape`, `learning_rate` (η > 0 or a schedule), `noise` as `ModifiedEquation`.
    - `driving`: `WhiteNoise()`, `ColouredNoise`, `fractional_noise(H)`, `epoch_noise(M)`,
      `StableNoise(α)`. Its increments over a step have their exact law, so that only the drift
      is discretised.
    - `substeps`: Euler steps an iteration.

    **Raises:** `ValueError` for bad parts, and for noise that depends on θ under a driving process
    rougher than Brownian motion (H < ½): no limit of small steps exists then.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    noise: AbstractGradientNoise
    driving: AbstractDriving
    num_substeps: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        noise: AbstractGradientNoise,
        driving: AbstractDriving,
        substeps: int = 8,
    ):
        check_noise(landscape, noise)
        check_part("driving", driving, AbstractDriving, "such as fractional_noise(0.7)")
        if not noise.additive and driving.roughness > 1 + 1e-9:
            raise ValueError(
                f"{type(noise).__name__} depends on θ, and this driving process is rougher than "
                f"Brownian motion (Hurst index below ½): the equation has no limit of small steps. "
                f"Freeze the noise with ConstantNoise.at(landscape, θ, sampling)."
            )
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.noise = noise
        self.driving = driving
        self.num_substeps = check_whole("substeps", substeps)

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        self._refuse_memory()
        return first_order_step(learning_rate * curvature, learning_rate, self.substeps)

    def linear_limit(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        self._refuse_memory()
        return first_order_step(learning_rate * curvature, learning_rate, None)

    def _refuse_memory(self) -> None:
        if not isinstance(self.driving, WhiteNoise):
            raise NotKnown(
                f"The increments of {type(self.driving).__name__} depend on each other, or have no "
                f"variance: second moments do not close. For constant noise they are those of "
                f"theory.stationary.driven_covariance(process)."
            )

    def overshoot(self, curvature: float) -> tuple[float, str] | None:
        eta = self.learning_rate.constant()
        # Its mean is Euler's, whatever drives it.
        return None if eta is None else (eta * curvature / self.substeps, "η λ_max/substeps")

    def init(self, theta: Positions, draws: Draws) -> DrivenState:
        size = self.noise.dimension(self.landscape)

        def memory(identity):
            own = eqx.tree_at(lambda d: d.identity, draws, identity)
            return self.driving.init(own, size, theta.dtype)

        return DrivenState(theta, jax.vmap(memory)(draws.identity))

    def step(self, state: DrivenState, draws: Draws, observe: Observe, carry: Any):
        size, step = self.noise.dimension(self.landscape), 1 / self.substeps

        def advance(pair, own, j):
            theta, memory = pair
            eta = self.learning_rate.at(draws.iteration, theta.dtype)
            now = own.at(substep=j)
            memory, moved = self.driving.increment(memory, now, size, step, theta.dtype)
            noisy = self.noise.noisy_gradient(theta, moved, float(self.substeps), self.landscape)
            return theta - (eta * jnp.asarray(step, theta.dtype)) * noisy, memory

        loop = (state.theta, state.memory)
        (theta, memory), carry = step_members(
            self.substeps, advance, loop, draws, observe, carry, position=lambda pair: pair[0]
        )
        return DrivenState(theta, memory), carry


def read_driven(process: AbstractProcess, about: Any) -> tuple[LinearReading, AbstractDriving]:
    """The driving of a `DrivenEquation` or of its limit, and what is linear beside it.

    That is the reading of the same equation under Brownian motion. **Raises:** `NotKnown` for
    another process, and as `process.linear`.
    """
    at_step_zero = isinstance(process, ContinuousLimit)
    equation = process.equation if at_step_zero else process
    if not isinstance(equation, DrivenEquation):
        raise NotKnown(
            f"{type(equation).__name__} is not driven by a process of its own choice: "
            f"theory.stationary.covariance(process) has its moments; a driven one is "
            f"ss.DrivenEquation."
        )
    rate, steps = equation.learning_rate.given, equation.num_substeps
    white: AbstractProcess = DrivenEquation(
        equation.landscape, rate, equation.noise, WhiteNoise(), steps
    )
    return (white.limit() if at_step_zero else white).linear(about), equation.driving
