"""The protocol of a streaming measure."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._brief import for_stdout
from sde_sgd._checks import (
    as_float64,
    check_callable,
    check_whole,
    in_brief,
    output_shape,
    real_output,
    real_values,
)
from sde_sgd._user_functions import naming
from sde_sgd.estimate import Estimate
from sde_sgd.random.draws import Draws, STREAM_KEYS
from sde_sgd.types import Alive, Positions


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

    (A member that left before it diverged has a first passage, and is counted in both.)

    - `num_diverged`: how many those are: with any, every mean is one of survivors.
    - `members`: identities of those that an axis called "member" runs over; None without such an
      axis. (`AbstractMeasure.result` gives their rows, and the run puts identities in their place.)
    - `axes`: names of the first axes of its arrays, by field; `coordinates`: the fields that say
      where along an axis, by the coordinate's name.
    """

    num_diverged: int = eqx.field(static=True, kw_only=True, default=0)
    members: np.ndarray | None = eqx.field(kw_only=True, default=None)
    axes: ClassVar[dict[str, tuple[str, ...]]] = {}
    coordinates: ClassVar[dict[str, str]] = {}

    def __repr__(self) -> str:
        """A line for each field that has something to say."""
        lines = [f"{type(self).__name__}:"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            silent = value is None or (field.name == "num_diverged" and not value)
            if not silent and field.name != "members":
                own = isinstance(value, MeasureResult | Estimate)
                text = repr(value) if own else in_brief(value)
                lines.append(f"  {field.name} = " + text.replace("\n", "\n  "))
        return for_stdout("\n".join(lines))


class AbstractMeasure(eqx.Module):
    """Watches an ensemble while it runs and keeps what it needs, never the trajectory.

    A measure of your own has three methods; those below them are defaults for the rest.

    - `init(theta)`: the carry at k = 0 from θ (members, d): one array or a tree of them, the
      members first on each.
    - `update(carry, before, after, tick, alive)`: the carry after a step from θ `before` to θ
      `after`, (members, d), of the same shapes and dtypes; members that are not `alive`
      (members,) have diverged, and what is kept of them is not used.
    - `result(carry, alive, process)`: what was measured, from NumPy's arrays of all members: here
      alone members meet. Times are iterations, `process.time(k)` is t.

    ```python
    class LargestStep(ss.AbstractMeasure):
        "The mean over members of max_k |θ_{k+1} − θ_k|."

        def init(self, theta):
            return jnp.zeros(theta.shape[0], theta.dtype)

        def update(self, carry, before, after, tick, alive):
            return jnp.maximum(carry, jnp.linalg.norm(after - before, axis=1))

        def result(self, carry, alive, process):
            return ss.Estimate.from_samples(carry[alive])
    ```
    """

    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"
    """Whether `update` follows every iteration, or every solver step of one."""

    @abc.abstractmethod
    def init(self, theta: Positions) -> PyTree[Array]:
        """The carry at k = 0."""

    @abc.abstractmethod
    def update(
        self, carry: PyTree[Array], before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> PyTree[Array]:
        """The carry after one iteration (or solver step) of all members."""

    @abc.abstractmethod
    def result(self, carry: PyTree[np.ndarray], alive: np.ndarray, process: Any) -> Any:
        """What was measured, from the members that are still alive.

        A class of results may name the axes of its arrays, {field: names}, as a class variable
        `axes`: `Run.to_xarray` labels them so. A run warns of its `remark`, a text, if it has one.
        """

    def check(self, process: Any, num_steps: int) -> None:
        """Raises `ValueError` if this measure makes no sense for a process or a length."""

    def check_start(self, theta: Positions) -> None:
        """Raises `ValueError` for starts (members, d) that make no sense; most do."""

    def finished(self, carry: PyTree[Array]) -> Alive | None:
        """Members of which nothing more is wanted; None if that never happens.

        They may be put back to their start, with refill, or rest once all measures agree;
        until they are, `update` leaves their carry as it is.
        """
        return None

    def restart(self, carry: PyTree[Array], restarted: Alive) -> PyTree[Array]:
        """The carry after the engine has put `restarted` members back to their start: as it was."""
        return carry


def check_carry(name: str, measure: AbstractMeasure, process: Any) -> None:
    """Raises `ValueError` for a measure whose carry could not go through a run's loop.

    Only shapes and dtypes are followed; nothing is computed.
    """
    told = f"measures[{name!r}], a {type(measure).__name__}"
    if measure.watches not in ("iterations", "substeps"):
        raise ValueError(
            f'{told}: watches must be "iterations" or "substeps"; got {in_brief(measure.watches)}.'
        )
    dimension, dtype = process.landscape.dimension, process.landscape.dtype
    # Another number than d, so that one axis is not taken for the other.
    members = 5 if dimension != 5 else 7
    theta = jax.ShapeDtypeStruct((members, dimension), dtype)
    alive = jax.ShapeDtypeStruct((members,), bool)
    clock = jax.ShapeDtypeStruct((), jnp.uint32)
    identity = jax.ShapeDtypeStruct((members,), jnp.uint32)
    with naming(f"{told}: init"):
        carry = eqx.filter_eval_shape(measure.init, theta)
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        place = jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"{told}: init must give arrays with the members first; its carry{place} is "
                f"{in_brief(leaf)}. Use jnp.zeros(theta.shape[0]), say."
            )
        if leaf.shape[:1] != (members,):
            raise ValueError(
                f"{told}: every array of the carry has the members first, and of {members} members "
                f"init gives carry{place} of shape {leaf.shape}: add up over members in result."
            )

    def update(carry, theta, alive, clock, identity, streams):
        tick = Tick(clock, clock, Draws(streams, identity, clock, clock))
        return measure.update(carry, theta, theta, tick, alive)

    with naming(f"{told}: update"):
        moved = eqx.filter_eval_shape(update, carry, theta, alive, clock, identity, STREAM_KEYS)
    _check_same(f"{told}: update", carry, moved)
    with naming(f"{told}: finished"):
        ends = eqx.filter_eval_shape(measure.finished, carry)
    if ends is not None and (ends.shape, ends.dtype) != ((members,), jnp.dtype(bool)):
        raise ValueError(
            f"{told}: finished must give one boolean a member, or None; of {members} members it "
            f"gives shape {ends.shape} and dtype {ends.dtype}."
        )


def check_restart(name: str, measure: AbstractMeasure, carry: Any, members: int) -> None:
    """Raises `ValueError` for a measure whose carry changes its shapes where members restart."""
    alive = jax.ShapeDtypeStruct((members,), bool)
    told = f"measures[{name!r}], a {type(measure).__name__}: restart"
    with naming(told):
        after = eqx.filter_eval_shape(measure.restart, carry, alive)
    _check_same(told, carry, after)


def _check_same(told: str, carry: PyTree[Any], other: PyTree[Any]) -> None:
    if jax.tree.structure(carry) != jax.tree.structure(other):
        raise ValueError(
            f"{told} must give a carry of the form that init gives, "
            f"{in_brief(jax.tree.structure(carry))}; it gives "
            f"{in_brief(jax.tree.structure(other))}."
        )
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(other), strict=True
    ):
        dtype = getattr(two, "dtype", type(two).__name__)
        if (one.shape, one.dtype) != (np.shape(two), dtype):
            raise ValueError(
                f"{told} must keep shapes and dtypes, and carry{jax.tree_util.keystr(path)}, which "
                f"init makes {one.dtype} of shape {one.shape}, becomes {dtype} of shape "
                f"{np.shape(two)}: cast it, or begin with the other."
            )


def evaluate(of: Callable | None, theta: Positions) -> Float[Array, "members *shape"]:
    """of(θ) of each member; θ itself without `of`."""
    if of is None:
        return theta
    return jax.vmap(lambda x: real_output("of(θ)", of(x), x.dtype))(theta)


# A right function of θ, for messages.
_EXAMPLE = "lambda theta: theta[0]"


def check_of(name: str, of: Any) -> Callable | None:
    """The `of=` of a measure: a function of θ, or None for θ itself."""
    return None if of is None else check_callable(f"{name}: of", of, _EXAMPLE)


def shape_of_value(name: str, of: Callable | None, landscape: Any) -> tuple[int, ...]:
    """The shape of of(θ) for one θ; `ValueError` for a function that JAX cannot compile."""
    if of is None:
        return (landscape.dimension,)
    return shape_at_theta(f"{name}: of", of, landscape).shape


def shape_at_theta(name: str, function: Callable, landscape: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a user's function of one θ (d,)."""
    return output_shape(
        name, function, jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
    )


def increasing_integers(name: str, given: Any, least: int) -> tuple[int, ...]:
    """Increasing integers ≥ `least`, of a list, an array or one number; none at all is possible."""
    values = np.atleast_1d(np.asarray(real_values(name, given)))
    whole = np.asarray(values.dtype != bool and (values == np.floor(values)) & (values < 2**63))
    if (
        values.ndim != 1
        or not whole.all()
        or (values < least).any()
        or (np.diff(values) <= 0).any()
    ):
        raise ValueError(f"{name} must be increasing integers ≥ {least}; got {in_brief(given)}.")
    return tuple(int(value) for value in values)


def own_values(name: str, value: Any) -> np.ndarray:
    """A float64 copy of a user's numbers, `ValueError` as `real_values`.

    A copy: what is put on a CPU shares the memory of an aligned NumPy array, and would change
    with it.
    """
    return np.array(as_float64(name, value))


def check_schedule(name: str, burn_in: int, every: int, num_steps: int) -> None:
    """burn_in ≥ 0 and every ≥ 1 integers that leave at least one iteration to measure."""
    check_whole(f"{name}: burn_in", burn_in, 0)
    check_whole(f"{name}: every", every)
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
