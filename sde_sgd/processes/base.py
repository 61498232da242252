"""A process: what moves θ from one SGD iteration to the next."""

import abc
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._checks import as_real, in_brief, output_shape
from sde_sgd._user_functions import naming, refuse_traced_number
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.thermal import check_bath
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions, Vector

# (carry, positions before, positions after, substep) -> carry: called once a solver step.
Observe: TypeAlias = Callable[[Any, Positions, Positions, Any], Any]


class AbstractProcess(eqx.Module):
    """Moves all members of an ensemble by one SGD iteration at a time.

    A process of your own has a field `landscape` and the method `step`; those below it are
    defaults, for a process without memory beside θ and without a schedule that depends on k:

    - `step(state, draws, observe, carry)`: the state after one iteration, and what
      `observe(carry, before, after, jnp.uint32(j))` gave after each solver step j, θ before and
      after (members, d). Random numbers are `draws.normal((n,), stream, dtype)`, (members, n),
      at substep j `draws.at(substep=j)`.
    - `init` and `position`, if the state is more than θ (members, d): every leaf has the members
      first, and members never meet, so that any slice of a state is the state of those members.
    - `time(k)`, if t is not counted in iterations; `substeps`, if there are solver steps;
      `restartable = True`, for refill and splitting, if a member may begin at any iteration.

    ```python
    class NoisyDescent(ss.AbstractProcess):
        "θ ← θ − η(∇L(θ) + σξ_k), ξ_k standard normal."

        landscape: ss.AbstractLandscape
        learning_rate: float
        noise: float

        def step(self, state, draws, observe, carry):
            xi = draws.normal(state.shape[1:], ss.Stream.NOISE, state.dtype)
            gradient = jax.vmap(self.landscape.gradient)(state)
            after = state - self.learning_rate * (gradient + self.noise * xi)
            return after, observe(carry, state, after, jnp.uint32(0))

        def time(self, iterations):
            return self.learning_rate * iterations
    ```
    """

    landscape: eqx.AbstractVar[AbstractLandscape]

    def __check_init__(self):
        rate = getattr(self, "learning_rate", getattr(self, "rate", None))
        if isinstance(rate, LearningRate):
            check_bath(getattr(self, "noise", None), rate.constant(), type(self).__name__)

    @abc.abstractmethod
    def step(
        self, state: PyTree[Array], draws: Draws, observe: Observe, carry: Any
    ) -> tuple[PyTree[Array], Any]:
        """One iteration; `carry` goes through `observe` after every solver step."""

    def init(self, theta: Positions, draws: Draws) -> PyTree[Array]:
        """The state that starts at θ, (members, d); by default θ itself."""
        return theta

    def position(self, state: PyTree[Array]) -> Positions:
        """θ of every member, (members, d); by default the state itself."""
        return state

    @property
    def substeps(self) -> int:
        """Solver steps in one iteration; 1 for discrete processes, and by default."""
        return 1

    @property
    def restartable(self) -> bool:
        """Whether a member may be put back to its start at any iteration.

        False where a member's law depends on the common clock (learning-rate schedules), and by
        default.
        """
        return False

    def time(self, iterations: np.ndarray) -> np.ndarray:
        """Physical time of iterations k (integers, any shape): η k, Σ_{j<k} η_j; by default k."""
        return np.asarray(iterations, float)

    @property
    def clock(self) -> str:
        """What `time` counts, in symbols; a default of its own, that of SGD."""
        return "t = ηk"

    def check(self) -> None:
        """Raises `ValueError` for a process that cannot run, before time is spent."""

    def check_start(self, theta: Positions) -> None:
        """Raises `ValueError` for starts (members, d) from which it cannot run; most run from any.

        A default of its own: it does nothing, and few processes define it anew.
        """

    def check_state(self, state: PyTree[Array]) -> None:
        """Raises `ValueError` for a state that a run has come to and that must not be gone on with.

        A default of its own: it does nothing. A run asks about twice a second.
        """

    @property
    def knows_mean_step(self) -> bool:
        """Whether `mean_step` holds; a default of its own, False, as for any memory beside θ."""
        return False

    def mean_step(self, theta: Vector, iteration: Array) -> Vector:
        """E[θ′ − θ | θ] of one solver step of an iteration, (d,), where `knows_mean_step`."""
        raise ValueError(
            f"the mean step of {type(self).__name__} is not a function of θ alone, or is not "
            f"known: ask `knows_mean_step` first."
        )

    @property
    def weak_order(self) -> int | None:
        """Weak order of the integrator in its solver step, of an equation that `refined` knows.

        A default of its own, None: for processes without a solver step, and for solvers that
        cannot run at two steps on one Brownian path.
        """
        return None

    def refined(self, substeps: int, refinement: int = 1) -> "AbstractProcess":
        """The same equation with `substeps` solver steps an iteration, where `weak_order` is known.

        Each step sums `refinement` increments of a finer Brownian path: `refined(m, 2)` and
        `refined(2m, 1)` run on one path.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be run at two solver steps on one Brownian path: it has "
            f"no solver step, or a solver whose increments do not add up (Lévy areas)."
        )


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
