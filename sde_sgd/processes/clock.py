"""The common clock of discrete processes and equations: iterations k, and physical time t."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._brief import typed
from sde_sgd._checks import as_real, check_choice, check_number, in_brief, output_shape
from sde_sgd._user_functions import naming, refuse_traced_number
from sde_sgd.types import RealLike

# Iterations whose rates are computed at once: 8 MB.
_BLOCK = 2**20


@eqx.filter_jit
def _rates(schedule: Callable, first: Array, size: int) -> Float[Array, " size"]:
    iterations = first + jnp.arange(size)
    return jax.vmap(lambda k: jnp.asarray(schedule(k), jnp.result_type(float)))(iterations)


class LearningRate(eqx.Module):
    """η, constant (an array: other values need no compilation) or a schedule k ↦ η_k.

    **Arguments:** `rate`: a positive number, or a function of the iteration (such as an
    optax schedule).
    """

    value: Float[Array, ""] | None
    schedule: Callable | None = eqx.field(static=True)

    def __init__(self, rate: Any):
        if rate is None or isinstance(rate, str):
            raise ValueError(f"learning_rate must be a number or a schedule; got {in_brief(rate)}.")
        if hasattr(rate, "init") and hasattr(rate, "update"):
            raise ValueError("learning_rate is an optax optimiser: give it to ss.OptaxSGD.")
        refuse_traced_number("learning_rate", rate, "learning_rate.value")
        self.schedule = rate if callable(rate) else None
        given = rate
        if callable(rate):
            iteration = jax.ShapeDtypeStruct((), jnp.result_type(int))
            output_shape("learning_rate", rate, iteration)
            with naming("learning_rate"):
                given = rate(jnp.asarray(0))
        refuse_traced_number("learning_rate", given, "learning_rate.value")
        initial = as_real("learning_rate", given, float)
        if initial.shape != ():
            raise ValueError(f"learning_rate must be one number; got shape {initial.shape}.")
        self.value = None if callable(rate) else initial
        first = float(initial)
        if not np.isfinite(first) or (first <= 0 and self.schedule is None) or first < 0:
            raise ValueError(f"learning_rate must be a finite number > 0; got {in_brief(first)}.")

    def __repr__(self) -> str:
        return typed(self.schedule if self.value is None else self.value)

    def at(self, iteration, dtype) -> Float[Array, ""]:
        """η_k in a dtype."""
        if self.schedule is not None:
            # Signed, as schedules compute −k or k − k₀, which would wrap around unsigned.
            signed = jnp.asarray(iteration).astype(jnp.result_type(int))
            return jnp.asarray(self.schedule(signed)).astype(dtype)
        assert self.value is not None
        return self.value.astype(dtype)

    def check(self, num_steps: int) -> None:
        """Raises `ValueError` for a schedule with a negative or infinite η_k, k < `num_steps`."""
        first = 0
        for rates in self._blocks(num_steps):
            # A schedule that falls to 0 may end at its rounding below it.
            rounding = 8 * float(jnp.finfo(jnp.float32).eps)  # in which optax computes
            least = -rounding * np.nanmax(np.abs(rates), initial=0.0)
            bad = ~((rates >= least) & (rates < np.inf))
            if bad.any():
                place = int(np.argmax(bad))
                raise ValueError(
                    f"learning_rate is {rates[place]:g} at iteration {first + place} of a run of "
                    f"{num_steps}, and must be finite and ≥ 0 at each: keep the schedule there, "
                    f"lambda k: jnp.maximum(f(k), 0), or end the run before."
                )
            first += len(rates)

    def _blocks(self, num_steps: int) -> Iterator[np.ndarray]:
        """η_k of a schedule for k = 0, …, num_steps − 1 in blocks, each of few sizes to compile."""
        if self.schedule is None:
            return
        for first in range(0, num_steps, _BLOCK):
            count = min(_BLOCK, num_steps - first)
            size = 1 << (count - 1).bit_length()
            rates = _rates(self.schedule, jnp.asarray(first), size)
            yield np.asarray(rates, float)[:count]

    def values(self, num_steps: int) -> Float[np.ndarray, " k"]:
        """η_k for k < `num_steps`."""
        if self.value is not None:
            return np.full(num_steps, float(self.value))
        self.check(num_steps)
        return np.concatenate([np.zeros(0), *self._blocks(num_steps)])

    def time(self, iterations: np.ndarray, power: int = 1) -> np.ndarray:
        """Σ_{j<k} η_j^power for integer iterations k ≥ 0."""
        iterations = np.asarray(iterations)
        if self.value is not None:
            return np.asarray(float(self.value) ** power * iterations)
        wanted, places = np.unique(iterations, return_inverse=True)
        found, first, total = np.zeros(len(wanted)), 0, 0.0
        # Block by block: a run of 10⁹ iterations has no room for all of its rates.
        for rates in self._blocks(int(wanted[-1]) if len(wanted) else 0):
            sums = total + np.cumsum(rates**power)
            inside = (wanted > first) & (wanted <= first + len(rates))
            found[inside] = sums[wanted[inside] - first - 1]
            first, total = first + len(rates), sums[-1]
        return np.asarray(found[places]).reshape(iterations.shape)

    @property
    def given(self) -> Any:
        """The number or the schedule, as another process takes it."""
        return self.value if self.schedule is None else self.schedule

    def constant(self) -> float | None:
        """The number η, or None for a schedule."""
        return None if self.value is None else float(self.value)


class Clock(eqx.Module):
    """Physical time of iterations, t = t_0 + Σ_{j<k} η_j^p; t = k without a rate.

    A process says by its `clock` what its runs, tables and figures count as time.

    **Arguments:** `learning_rate`: η > 0, a schedule, a `LearningRate`, or None; `power`: p, 1 for
    SGD and its equations, 2 for adaptive optimisers; `start`: t_0, the time of k = 0.
    """

    rate: LearningRate | None
    power: int = eqx.field(static=True)
    start: float = eqx.field(static=True)

    def __init__(self, learning_rate: Any = None, power: int = 1, start: RealLike = 0.0):
        known = learning_rate is None or isinstance(learning_rate, LearningRate)
        self.rate = learning_rate if known else LearningRate(learning_rate)
        self.power = check_choice("power", power, (1, 2))
        self.start = check_number("start", start)

    def time(self, iterations: Any) -> np.ndarray:
        """t of iterations k, integers of any shape."""
        if self.rate is None:
            return np.asarray(iterations, float)
        return np.asarray(self.start + self.rate.time(iterations, self.power))

    @property
    def constant(self) -> float | None:
        """η, where it is one number; else None."""
        return None if self.rate is None else self.rate.constant()

    @property
    def symbols(self) -> str:
        """What t is, as messages print it."""
        return (
            "t = k, in iterations" if self.rate is None else ("t = ηk", "t = η²k")[self.power - 1]
        )


def constant_rate(rate: LearningRate) -> Array:
    """η, where one kernel is asked for; raises `ValueError` for a schedule."""
    if rate.value is None:
        raise ValueError("A learning-rate schedule has a kernel for every iteration, not one.")
    return rate.value


# `autonomous` of a process whose steps depend on k by the rate of its clock alone.
by_its_clock = property(lambda self: self.clock.constant is not None)


def check_clocks(sgd: Any, equation: Any, num_steps: int) -> None:
    """Raises `ValueError` where one number of iterations is not one physical time of both."""
    ends = [float(process.time(np.asarray(num_steps))) for process in (sgd, equation)]
    if np.isclose(*ends, rtol=1e-6):
        return
    if sgd.clock.symbols == equation.clock.symbols:
        way = "Give both the same learning rate or schedule."
    elif sgd.clock.rate is None:
        way = (
            "Give ss.OptaxSGD the learning_rate of its optimiser, or one of the library's own, "
            "such as ss.Adam(1e-3), which sets the clock by itself."
        )
    else:
        way = (
            "SGD and its equations keep ηk; ss.Adam, ss.RMSprop and ss.SignSGD, in ss.OptaxSGD and "
            "in ss.AdaptiveEquation, keep η²k: give both sides the same optimiser."
        )
    raise ValueError(
        f"The clocks differ: after {num_steps} iterations SGD is at t={ends[0]:.6g} "
        f"({sgd.clock.symbols}) and the equation at t={ends[1]:.6g} ({equation.clock.symbols}). "
        f"{way}"
    )
