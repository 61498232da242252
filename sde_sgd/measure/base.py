"""The protocol of a streaming measure."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..draws import Draws
from ..landscapes.real_arrays import as_float64, real_output
from ..types import Alive, Positions


class Tick(eqx.Module):
    """Where the clock stands after a step.

    `iteration`: completed iterations k (after the step, so 1 at the end of the first);
    `substep`: index of the solver step inside the iteration; `draws`: random numbers of it.
    """

    iteration: Array
    substep: Array
    draws: Draws


class MeasureResult(eqx.Module):
    """What a measure gives back. Members that diverged are in none of its numbers.

    - `num_diverged`: how many those are: with any, every mean is one of survivors.
    - `members`: which ones an axis called "member" runs over; None without such an axis.
    - `axes`: names of the first axes of its arrays, by field; `coordinates`: the fields that say
      where along an axis, by the coordinate's name.
    """

    num_diverged: int = eqx.field(static=True, kw_only=True, default=0)
    members: np.ndarray | None = eqx.field(kw_only=True, default=None)
    axes: ClassVar[dict[str, tuple[str, ...]]] = {}
    coordinates: ClassVar[dict[str, str]] = {}


class AbstractMeasure(eqx.Module):
    """Watches an ensemble while it runs and keeps what it needs, never the trajectory.

    Every leaf of the carry has the members first; only `result` crosses members.
    """

    watches: eqx.AbstractClassVar[Literal["iterations", "substeps"]]

    @abc.abstractmethod
    def check(self, process: Any, num_steps: int) -> None:
        """Raises `ValueError` if this measure makes no sense for a process or a length."""

    def check_start(self, theta: Positions) -> None:
        """Raises `ValueError` for starts (members, d) that make no sense; most do."""

    @abc.abstractmethod
    def init(self, theta: Positions) -> PyTree[Array]:
        """The carry at k = 0."""

    @abc.abstractmethod
    def update(
        self, carry: PyTree[Array], before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> PyTree[Array]:
        """The carry after one iteration (or solver step) of all members."""

    @abc.abstractmethod
    def finished(self, carry: PyTree[Array]) -> Alive | None:
        """Members of which nothing more is wanted; None if that never happens.

        They may be put back to their start, with refill, or rest once all measures agree;
        until they are, `update` leaves their carry as it is.
        """

    @abc.abstractmethod
    def restart(self, carry: PyTree[Array], restarted: Alive) -> PyTree[Array]:
        """The carry after the engine has put `restarted` members back to their start."""

    @abc.abstractmethod
    def result(self, carry: PyTree[np.ndarray], alive: np.ndarray, process: Any) -> Any:
        """What was measured, from the members that are still alive.

        A class of results may name the axes of its arrays, {field: names}, as a class variable
        `axes`: `Run.to_xarray` labels them so. A run warns of its `remark`, a text, if it has one.
        """


def evaluate(of: Callable | None, theta: Positions) -> Float[Array, "members *shape"]:
    """of(θ) of each member; θ itself without `of`."""
    if of is None:
        return theta
    return jax.vmap(lambda x: real_output("of(θ)", of(x), x.dtype))(theta)


def own_values(name: str, value: Any) -> np.ndarray:
    """A float64 copy of a user's numbers, `ValueError` as `real_values`.

    A copy: what is put on a CPU shares the memory of an aligned NumPy array, and would change
    with it.
    """
    return np.array(as_float64(name, value))


def check_schedule(name: str, burn_in: int, every: int, num_steps: int) -> None:
    """burn_in ≥ 0 and every ≥ 1 integers that leave at least one iteration to measure."""
    for label, value, least in (("burn_in", burn_in, 0), ("every", every, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}: {label} must be an integer ≥ {least}; got {value!r}.")
    if burn_in + every > num_steps:
        raise ValueError(
            f"{name} starts after burn_in={burn_in} iterations and measures every {every}; a run "
            f"of {num_steps} iterations gives it nothing. Lengthen the run or lower burn_in."
        )


def due(iteration: Array, burn_in: int, every: int) -> Array:
    """Whether iteration k is measured: k > burn_in and (k − burn_in) divisible by `every`."""
    age = iteration.astype(jnp.int32) - burn_in
    return (age > 0) & (age % every == 0)


def add_compensated(total, compensation, value):
    """Kahan's sum: a long float32 run keeps its digits."""
    corrected = value - compensation
    new = total + corrected
    return new, (new - total) - corrected
