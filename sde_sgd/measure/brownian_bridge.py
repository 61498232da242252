"""What an SDE does between two solver steps: the Brownian bridge that joins them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import check_callable
from sde_sgd.measure.base import shape_at_theta
from sde_sgd.processes.continuous.modified import ModifiedEquation
from sde_sgd.types import Scalar, Vector

_EXAMPLE = "lambda theta: theta[0] - 1"


class BrownianBridge(eqx.Module):
    """Chance that the path between two solver steps reached {level(θ) ≥ 0}, both ends below.

    Over one Euler step of length h the path is a Brownian motion with the noise of the step's
    beginning; its level, taken as linear, has variance v = h |σᵀ∇level|². With a and a'
    how far below zero the ends are, the bridge crossed with probability exp(−2 a a'/v): exact for
    a linear level. Without it a diffusion watched at steps of h sees its barrier .5826 √v too far
    away.

    **Arguments:** `process`: the `ModifiedEquation` of the run; `level`: a real function of θ (d,),
    negative inside.

    **Raises:** `ValueError` for a process without a path between its steps (SGD), or whose
    learning rate is a schedule.

    **Source:** Gobet 2000, Stochastic Process. Appl. 87, 167; the shift: Broadie, Glasserman and
    Kou 1997, Math. Finance 7, 325.
    """

    process: ModifiedEquation
    level: Callable
    step: Float[Array, ""]

    def __init__(self, process: Any, level: Callable):
        if not isinstance(process, ModifiedEquation):
            raise ValueError(
                f"process must be an ss.ModifiedEquation; {type(process).__name__} has no Brownian "
                f"path between two of its steps, or none that is known."
            )
        if not process.autonomous:
            raise ValueError("The bridge needs one step length: take a constant learning rate.")
        check_callable("level", level, _EXAMPLE)
        self.process, self.level = process, level
        duration = float(process.time(np.asarray(1)))
        self.step = jnp.asarray(duration / process.substeps, process.landscape.dtype)

    def check(self, process: Any) -> None:
        """Raises `ValueError` unless it was made for a process with the same steps."""
        found = shape_at_theta("level", self.level, process.landscape)
        if found.shape != () or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"level(θ) must give one real number, such as θ[0] − 1, negative inside; it gives "
                f"shape {found.shape} and dtype {found.dtype}."
            )
        same = type(process) is type(self.process) and process.autonomous
        duration = float(process.time(np.asarray(1))) / process.substeps if same else np.nan
        if not np.isclose(duration, float(self.step), rtol=1e-6):
            raise ValueError(
                f"This BrownianBridge was made for steps of {float(self.step):g} of "
                f"{type(self.process).__name__}, and the run is {type(process).__name__} with "
                f"steps of {duration:g}: make one from the process that is run."
            )

    def variance(self, theta: Vector) -> Scalar:
        """v = h |σᵀ(θ)∇level(θ)|², the variance of the level over one step from θ."""
        size = self.process.noise.dimension(self.process.landscape)
        zero = jnp.zeros((size,), theta.dtype)
        _, pull = jax.vjp(lambda z: self.process.diffusion(theta, z), zero)
        (along,) = pull(jax.grad(self.level)(theta))
        return self.step.astype(theta.dtype) * jnp.sum(along**2)

    def __call__(self, before: Vector, after: Vector) -> Scalar:
        """exp(−2 level(before) level(after)/v); 1 where an end is outside, 0 without noise."""
        below = jnp.maximum(-self.level(before), 0) * jnp.maximum(-self.level(after), 0)
        tiny = jnp.finfo(before.dtype).tiny
        return jnp.exp(-2 * below / jnp.maximum(self.variance(before), tiny))
