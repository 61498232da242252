"""The functions that users write, in one form each, and their values at many points.

A function of one θ (d,) is called with ONE θ, whatever it does with it (a sum over coordinates, a
matrix product), and JAX runs it over the points: it is never given an array of points. In one
dimension there are also functions of an array of points, (n,) ↦ (n,), in NumPy: those must treat
each point by itself, which is checked.

A function that cannot be traced by JAX, takes other arguments or returns no numbers is refused in
the name of its argument; what else it raises is its own error, with a note of that name.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import (
    as_float64,
    as_real,
    check_callable,
    check_number,
    in_brief,
    real_output,
    real_values,
)
from sde_sgd._user_functions import refuse_unknown_number

_BLOCK = 1024


class Field(eqx.Module):
    """A function of one θ (d,) whose value has a known shape, compiled once for blocks of points.

    Called with θ (d,) it gives one value; `at` takes points (n, d). `compiled`, the same function
    of points (n, d), may be shared by many that differ in their numbers alone.
    """

    function: Callable
    compiled: Callable
    dimension: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, theta: Any) -> Array:
        return self.function(theta)

    @property
    def dtype(self) -> Any:
        """Of its values."""
        probe = jax.ShapeDtypeStruct((self.dimension,), jnp.result_type(float))
        return jax.eval_shape(self.function, probe).dtype

    def at(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n *shape"]:
        """The values at all points, in float64."""
        return as_float64("A function of θ", _in_blocks(self.compiled, points))


def numbers(name: str, value: Any, dimension: int, count: int, wanted: str = "") -> Field:
    """`value` with `count` numbers at each θ: a function of one θ, or those numbers themselves.

    **Raises:** `ValueError` for values of another shape, which says what was `wanted`.
    """
    text = wanted or (f"({count},)" if count > 1 else "one number")
    return _field(name, value, dimension, (count,), lambda x: _reshaped(x, (count,)), text)


def vector(name: str, value: Any, dimension: int) -> Field:
    """A vector field (d,), such as a drift; on the line also one number."""
    return numbers(name, value, dimension, dimension)


def scalar(name: str, value: Any, dimension: int) -> Field:
    """A function with one real number at each θ, ()."""
    return _field(name, value, dimension, (), lambda x: _reshaped(x, ()), "one number")


def tensor(name: str, value: Any, dimension: int) -> Field:
    """A tensor field (d, d) given as that, as its diagonal (d,), or as a multiple of the identity.

    **Raises:** `ValueError` for values of another shape.
    """

    def full(x: Array) -> Array | None:
        if x.shape == (dimension, dimension) or x.size == dimension == 1:
            return x.reshape(dimension, dimension)
        if x.shape in ((), (dimension,)):
            return x * jnp.eye(dimension, dtype=x.dtype)
        return None

    wanted = (
        f"({dimension}, {dimension}), ({dimension},) for a diagonal or one number for a multiple "
        f"of the identity"
    )
    return _field(name, value, dimension, (dimension, dimension), full, wanted)


def condition(name: str, value: Callable, dimension: int) -> Callable[[np.ndarray], np.ndarray]:
    """A boolean function of one θ as one of points (n, d), (n,)."""
    check_callable(name, value, "lambda theta: theta[0] > 0")
    found = _value_of(name, value, dimension)
    if found.shape != () or found.dtype != bool:
        raise ValueError(
            f"{name}(θ) must give one boolean for θ of shape ({dimension},), such as θ[0] > 0; it "
            f"gives shape {found.shape} and dtype {found.dtype}."
        )
    compiled = jax.jit(jax.vmap(traced(name, value)))
    return lambda points: _in_blocks(compiled, points)


def evaluate(
    name: str, function: Callable, points: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n ..."]:
    """A function of one θ with a value of any shape at many points, in float64."""
    if isinstance(function, Field):
        return function.at(points)
    check_callable(name, function, "lambda theta: theta[0] ** 2")
    compiled = jax.jit(jax.vmap(traced(name, function)))
    return as_float64(f"{name}(θ)", _in_blocks(compiled, points))


def check_finite(name: str, values: np.ndarray, points: np.ndarray) -> None:
    """Refuse values that are not finite, with the first place."""
    bad = ~np.isfinite(values.reshape(len(points), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} is not finite at {bad.sum()} of {len(points)} points, first at θ = "
            f"{points[bad][0]}; choose a box where it is."
        )


def of_points(name: str, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A number, or a function of an array of points (n,), as a function (n,) ↦ (n,) in NumPy.

    **Raises:** `ValueError`, when it is called, for values of another shape, and for a function
    that mixes the points, as one of θ (d,) does that sums over coordinates.
    """
    if not callable(value):
        number = check_number(name, value)
        return lambda x: np.broadcast_to(number, x.shape)
    _check_arguments(name, value, 1)
    known_to_be_local = False

    def called(x: np.ndarray) -> np.ndarray:
        try:
            given = value(x)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} cannot be called with an array of points of shape {x.shape}: "
                f"{str(error).rstrip('.')}. Write it for arrays: numpy.where for `if`, & and | for "
                f"`and` and `or`, NumPy's functions for those of math."
            ) from error
        found = np.asarray(real_values(name, given))
        if found.shape not in ((), x.shape):
            raise ValueError(
                f"{name} must map an array of points of shape {x.shape} to values of that shape; "
                f"got {found.shape}. Vectorise a function of one point with jax.vmap."
            )
        return np.broadcast_to(found, x.shape)

    def evaluated(x: np.ndarray) -> np.ndarray:
        nonlocal known_to_be_local
        found = called(x)
        if not known_to_be_local and len(x) > 1:
            some = x[: len(x) // 2]
            _check_local(name, x, found[: len(some)], called(some))
            known_to_be_local = True
        return found

    return evaluated


def _check_local(name: str, x: np.ndarray, among: np.ndarray, alone: np.ndarray) -> None:
    same = np.isclose(among, alone, rtol=1e-4, atol=0, equal_nan=True)
    if not same.all():
        first = int(np.argmin(same))
        raise ValueError(
            f"{name} mixes the points that it is given: its value at x = {x[first]:.6g} is "
            f"{among[first]:.6g} or {alone[first]:.6g}, whatever else is in the array. Write it "
            f"elementwise, or vectorise a function of one point with jax.vmap."
        )


def _field(name, value, dimension: int, shape, canonical: Callable, wanted: str) -> Field:
    if isinstance(value, Field) and (value.dimension, value.shape) == (dimension, shape):
        return value
    found = _value_of(name, value, dimension)
    if canonical(jnp.zeros(found.shape)) is None:
        raise ValueError(
            f"{name} must map one θ of shape ({dimension},) to {wanted}, or be such a value; got "
            f"shape {found.shape}."
        )
    if callable(value):
        given = traced(name, value)
    else:
        constant = as_real(name, value, jnp.result_type(float))
        given = lambda theta: constant  # noqa: E731

    def function(theta):
        return canonical(given(theta))

    if isinstance(value, eqx.Module) and found.shape == shape:
        # A module is data: the same kind with other numbers needs no compilation.
        compiled = functools.partial(_MAPPED, value)
    else:
        compiled = jax.jit(jax.vmap(function))
    return Field(function, compiled, dimension, shape)


_MAPPED = eqx.filter_jit(lambda function, points: jax.vmap(function)(points))


def _value_of(name: str, value: Any, dimension: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a constant, or of what a function of one θ gives."""
    if not callable(value):
        array = np.asarray(real_values(name, value))
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ValueError(
                f"{name} must be finite real numbers or a function of θ; got {in_brief(value)}."
            )
        return jax.ShapeDtypeStruct(array.shape, array.dtype)
    probe = jax.ShapeDtypeStruct((dimension,), jnp.result_type(float))
    return jax.eval_shape(traced(name, value), probe)


def traced(name: str, value: Callable, num_arguments: int = 1) -> Callable[..., Array]:
    """A user's function for JAX to trace, as one that returns an array.

    **Raises:** `ValueError` for a function of other arguments; when it is called also for one that
    Python, NumPy or math must evaluate, and for values that are no real numbers.
    """
    _check_arguments(name, value, num_arguments)

    def called(*given):
        try:
            found = value(*given)
        except Exception as error:
            refuse_unknown_number(name, error)
            error.add_note(f"Raised by the function given as {name}.")
            raise
        return real_output(name, found)

    return called


def _check_arguments(name: str, value: Callable, number: int) -> None:
    """Refuses a class, and a function of another number of arguments, where Python knows it."""
    if isinstance(value, type):
        raise ValueError(
            f"{name} must be a function; got the class {value.__name__}: pass an instance of it."
        )
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # of some functions written in C
    try:
        signature.bind(*[None] * number)
    except TypeError as error:
        wanted = "one argument" if number == 1 else f"{number} arguments"
        raise ValueError(
            f"{name} is called with {wanted}, which {in_brief(value)} does not take: {error}."
        ) from None


def _reshaped(x: Array, shape: tuple[int, ...]) -> Array | None:
    """`x` in `shape`, where it is that or both are one number."""
    size = int(np.prod(shape))
    return x.reshape(shape) if x.shape == shape or x.size == size == 1 else None


def _in_blocks(compiled: Callable, points: np.ndarray) -> np.ndarray:
    """A compiled function of (n, d), called on blocks of one length whatever n."""
    found = []
    for first in range(0, max(len(points), 1), _BLOCK):
        block = points[first : first + _BLOCK]
        filled = np.zeros((_BLOCK, *points.shape[1:]))
        filled[:] = block[:1] if len(block) else 0.0
        filled[: len(block)] = block
        found.append(np.asarray(compiled(jnp.asarray(filled)))[: len(block)])
    return np.concatenate(found)
