"""A user's functions, called once on shapes alone, so that their faults are told as theirs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from sde_sgd._checks import check_whole, in_brief
from sde_sgd._user_functions import refuse_unknown_number
from sde_sgd.random.draws import Draws, STREAM_KEYS


def probe(name: str, function: Callable, *shapes: Any, hint: str = "") -> PyTree[Any]:
    """Shapes and dtypes of what `function` gives for arguments of these `shapes`, uncomputed.

    **Raises:** `ValueError` that begins with `name` where the function raises, branches on a value,
    takes one out of JAX, or gives what is no number; `hint` is a sentence for the first.
    """

    def call(*arguments: Any) -> Any:
        value = function(*arguments)
        leaves = jax.tree.leaves(value, is_leaf=lambda x: x is None)
        strange = [x for x in leaves if not eqx.is_array_like(x)]
        if strange or not leaves:
            raise _NoNumbers(in_brief(strange[0] if strange else value))
        return value

    try:
        return jax.eval_shape(call, *shapes)
    except _NoNumbers as error:
        raise ValueError(f"{name} must return numbers; it returned {error}.") from None
    except Exception as error:
        refuse_unknown_number(name, error)
        told = ", ".join(map(_told, shapes))
        raise ValueError(
            f"{name} raised {type(error).__name__} when it was called on {told}: "
            f"{first_line(error)}{hint}"
        ) from error


def probe_scalar(name: str, function: Callable, dtype: Any, *shapes: Any) -> None:
    """Raises as `probe`, and unless `function` gives one scalar of `dtype`."""
    value = probe(name, function, *shapes)
    if isinstance(value, tuple | list | dict):
        way = f"{name} = lambda *arguments: f(*arguments)[0] if the first is the loss"
        raise ValueError(
            f"{name} must return one scalar alone; it returned a {type(value).__name__} of "
            f"{len(value)}: pass {way}."
        )
    if value.shape != () or value.dtype != dtype:
        raise ValueError(
            f"{name} must return one {dtype} scalar; got shape {value.shape} and dtype "
            f"{value.dtype}."
        )


def check_finite_sum(landscape: Any) -> None:
    """Raises for a finite sum of the user's whose parts do not go together."""
    kind = type(landscape).__name__
    dim = check_whole(f"{kind}.dimension", landscape.dimension)
    shapes: list[tuple[int, ...]] = [
        getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(landscape.data)
    ]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or shapes[0][:1] in ((), (0,)):
        raise ValueError(
            f"The data of {kind} must be arrays with one leading axis of N ≥ 1 examples; got the "
            f"shapes {in_brief(shapes)}."
        )
    theta, num = jax.ShapeDtypeStruct((dim,), landscape.dtype), min(shapes[0][0], 2)
    some = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num, *leaf.shape[1:]), leaf.dtype), landscape.data
    )
    value = probe(f"{kind}.losses", landscape.losses, theta, some)
    _check_shape(f"{kind}.losses(theta, data) of {num} rows", value, (num,), theta.dtype)


def check_population(landscape: Any) -> None:
    """Raises for a population of the user's whose methods do not go together."""
    kind = type(landscape).__name__
    dim = check_whole(f"{kind}.dimension", landscape.dimension)
    noise = check_whole(f"{kind}.noise_dimension", landscape.noise_dimension, 0)
    theta = jax.ShapeDtypeStruct((dim,), landscape.dtype)
    members = jax.ShapeDtypeStruct((1,), jnp.uint32)

    def draw(streams: Any, identity: Any) -> Any:
        draws = Draws(streams, identity, jnp.uint32(0), jnp.uint32(0))
        return landscape.draw_examples(draws, 2)

    examples = probe(f"{kind}.draw_examples", draw, STREAM_KEYS, members)
    for leaf in jax.tree.leaves(examples):
        if leaf.shape[:2] != (1, 2):
            raise ValueError(
                f"{kind}.draw_examples(draws, batch_size) must give arrays (members, B, ...); for "
                f"one member and B = 2 it gave shape {leaf.shape}."
            )
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), examples)
    for name, shape, arguments in (
        ("loss", (), (theta,)),
        ("example_loss", (), (theta, one)),
        ("covariance_root", (dim, noise), (theta,)),
    ):
        value = probe(f"{kind}.{name}", getattr(landscape, name), *arguments)
        _check_shape(f"{kind}.{name}", value, shape, theta.dtype)


def _check_shape(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> None:
    found = (getattr(value, "shape", None), getattr(value, "dtype", None))
    if found != (shape, dtype):
        told = f"shape {found[0]} and dtype {found[1]}" if found[1] else f"a {type(value).__name__}"
        raise ValueError(f"{name} must give shape {shape} and dtype {dtype}; got {told}.")


class _NoNumbers(Exception):
    """What a function returned instead of numbers."""


def _told(shape: Any) -> str:
    leaves = jax.tree.leaves(shape)
    if len(leaves) != 1 or not hasattr(leaves[0], "dtype"):
        return f"a {type(shape).__name__} of {len(leaves)} arrays"
    return f"shape {leaves[0].shape} and dtype {jnp.dtype(leaves[0].dtype)}"


def first_line(error: Exception) -> str:
    """What an error says, in one line with a full stop."""
    return (str(error).strip() or "no message").split("\n")[0].rstrip(".") + "."
