"""What predictions read off a process: the law of one step or of its path, also on the line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sde_sgd._checks import check_at_least, check_part
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import LinearReading, NotKnown
from sde_sgd.processes.step_laws import Batches, Diffusion, Jumps, StepLaw
from sde_sgd.theory import _fields
from sde_sgd.theory._fields import check_finite, Field


def law(process: Any) -> StepLaw:
    """The law of a process, or that given in its place."""
    if isinstance(process, Diffusion | Jumps):
        return process
    check_part(
        "process",
        process,
        AbstractProcess,
        "a process such as ss.SGD, or a processes.Diffusion or Jumps in its place",
    )
    return process.law()


def equation(process: Any, asked: str, dimension: int | None = None) -> Diffusion:
    """The diffusion of a process at solver step 0, in so many dimensions.

    **Raises:** `NotKnown` for a process that takes steps, with what to ask instead.
    """
    found = law(process)
    if not isinstance(found, Diffusion) or float(found.step) != 0:
        raise NotKnown(
            f"{asked} is that of an equation at solver step 0, and {type(process).__name__} takes "
            f"steps of {float(found.step):g}: pass the limit of its equation, "
            f"ss.ModifiedEquation(...).limit() say. The law at its own step is "
            f"theory.laws.MasterEquation's (one dimension)."
        )
    check_dimension(found, asked, dimension)
    return found


def check_dimension(found: Diffusion, asked: str, dimension: int | None) -> None:
    """Refuses a landscape of another dimension."""
    if dimension is not None and found.dimension not in (None, dimension):
        raise ValueError(
            f"{asked} is asked for with d = {dimension}; the landscape has d={found.dimension}."
        )


def has_constant_noise(reading: LinearReading) -> bool:
    """Whether the noise does not grow with θ, to rounding; then it does not depend on θ."""
    feedback = reading.noise.feedback
    rounding = 1e3 * float(jnp.finfo(reading.process.landscape.dtype).eps)
    largest = float(np.abs(reading.curvature).max())
    return feedback is None or bool(np.abs(feedback).max() <= rounding * largest**2)


class GaussianStep(NamedTuple):
    """x ← x + h b(x) + √(2hD(x)) ξ on the line."""

    drift: Field
    diffusion: Field
    step: float

    def after(self, x: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of x after a step, (n,) each; D < 0 is refused."""
        drift, diffusion = (f.at(x[:, None]).reshape(-1) for f in (self.drift, self.diffusion))
        check_finite("drift", drift, x)
        check_finite("diffusion", diffusion, x)
        worst = int(np.argmin(diffusion))
        if diffusion[worst] < 0:
            raise ValueError(
                f"diffusion must not be negative; at x = {x[worst]:g} it is "
                f"{diffusion[worst]:.6g}. Shrink the box to where it is not."
            )
        return x + self.step * drift, np.sqrt(2 * self.step * diffusion)

    def moments(self, x: Float[np.ndarray, " n"], order: int) -> Float[np.ndarray, "orders n"]:
        """E (x′ − x)^m for m = 0..order."""
        mean, deviation = self.after(x)
        mean = mean - x
        found = [np.ones_like(mean), mean]
        # E Δ^{m+1} = E Δ · E Δ^m + m Var Δ · E Δ^{m−1}
        for m in range(1, order):
            found.append(mean * found[m] + m * deviation**2 * found[m - 1])
        return np.array(found[: order + 1])


class JumpStep(NamedTuple):
    """x ← x − h g_a(x) with probability π_a, on the line."""

    gradients: Field
    probabilities: Float[np.ndarray, " batches"]
    step: float

    def after(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n batches"]:
        """Where the jumps from x end."""
        found = self.gradients.at(x[:, None])
        check_finite("gradients", found, x)
        return x[:, None] - self.step * found

    def moments(self, x: Float[np.ndarray, " n"], order: int) -> Float[np.ndarray, "orders n"]:
        """E (x′ − x)^m for m = 0..order."""
        moved = self.after(x) - x[:, None]
        return np.array([moved**m @ self.probabilities for m in range(order + 1)])


def line_step(process: Any, asked: str) -> GaussianStep | JumpStep:
    """The law of one step on the line.

    **Raises:** `NotKnown` for an equation at step 0; `ValueError` for d > 1.
    """
    found = law(process)
    step = check_at_least("step", found.step)
    if isinstance(found, Diffusion):
        if step == 0:
            raise NotKnown(
                f"{asked} has steps, and {type(process).__name__} has none: pass a process at its "
                f"step (ss.ModifiedEquation(...), ss.GaussianSGD, ss.SGD), or take "
                f"theory.laws.FokkerPlanck."
            )
        check_dimension(found, asked, 1)
        drift = _fields.vector("drift", found.drift, 1)
        return GaussianStep(drift, _fields.tensor("diffusion", found.diffusion, 1), step)
    return jump_step(found)


def jump_step(found: Jumps | Batches) -> JumpStep:
    """The jumps of SGD, its batches enumerated, or of a law given in its place."""
    found = found.jumps() if isinstance(found, Batches) else found
    count = len(found.probabilities)
    wanted = f"one value for each of the {count} probabilities"
    gradients = _fields.numbers("gradients", found.gradients, 1, count, wanted)
    return JumpStep(gradients, found.probabilities, float(found.step))


def on_line(name: str, value: Any, field: Field) -> Any:
    """A field of one θ (1,) as a function of points (n,), in float64.

    **Raises:** `ValueError` for a function that has less than double precision.
    """
    if callable(value):
        dtype = field.dtype
        if dtype == jnp.float32:
            raise ValueError(
                f"{name}(θ) gives {dtype}, and float64 is needed: set "
                f'jax.config.update("jax_enable_x64", True), and make a landscape from float64 '
                f"numbers."
            )
        return lambda x: field.at(np.ravel(x)[:, None]).reshape(np.shape(x))
    constant = float(np.asarray(value, np.float64).reshape(()))
    return lambda x: np.full(np.shape(x), constant)


def line_functions(found: Diffusion, asked: str) -> tuple[Any, Any]:
    """b and D of points (n,), in NumPy."""
    check_dimension(found, asked, 1)
    drift = _fields.vector("drift", found.drift, 1)
    diffusion = _fields.tensor("diffusion", found.diffusion, 1)
    fields = ("drift", found.drift, drift), ("diffusion", found.diffusion, diffusion)
    return tuple(on_line(*field) for field in fields)  # pyright: ignore[reportReturnType]


def finite(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A function of points (n,) that refuses values which are not finite."""

    def evaluate(x: np.ndarray) -> np.ndarray:
        values = function(x)
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite at x={x[~np.isfinite(values)][0]!r}.")
        return values

    return evaluate
