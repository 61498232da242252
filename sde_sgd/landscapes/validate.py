"""Checks that every landscape makes on what a user hands it."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from sde_sgd._checks import as_real, check_finite, check_whole, in_brief, real_array, real_values
from sde_sgd.types import Vector

# Where frames between a constructor and the user's line are: ours, and Equinox's metaclass.
_INSIDE = tuple(str(Path(found).parent) + os.sep for found in (__file__, eqx.__file__))


def example_arrays(name: str, value: Any) -> PyTree[Array]:
    """`value` as an array, or a dictionary or tuple of arrays as one of them, of any real kind.

    A list is one array; so is a tuple of what is no array.
    """
    if not _is_tree(value):
        return real_array(name, numbers(name, value))
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        value, is_leaf=lambda x: x is None or isinstance(x, list)
    )
    if not leaves:
        raise ValueError(f"{name} must be arrays with one row an example; got {in_brief(value)}.")
    names = [f"{name}{jax.tree_util.keystr(path)}" for path, _ in leaves]
    arrays = [
        real_array(own, numbers(own, leaf)) for own, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)


def _is_tree(value: Any) -> bool:
    if isinstance(value, list) or jax.tree_util.all_leaves([value]):
        return False
    plain = type(value) is tuple
    return not plain or any(isinstance(x, np.ndarray | Array) or _is_tree(x) for x in value)


def numbers(name: str, value: Any) -> Any:
    """`value`, unless it is text, no array or has rows of different lengths."""
    try:
        array = value if isinstance(value, Array) else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be an array of numbers; {in_brief(value)} is none (rows of different "
            f"lengths?)."
        ) from error
    if isinstance(array, np.ndarray) and array.dtype.kind in "US":
        raise ValueError(
            f"{name} must be real numbers, not of dtype {array.dtype}: number classes by "
            f"np.unique({name}, return_inverse=True)[1]."
        )
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) or array.dtype.kind == "O":
        raise ValueError(f"{name} must be an array of real numbers; got {in_brief(value)}.")
    return value


def as_point(landscape: Any, theta: Any, name: str = "theta") -> Vector:
    """θ (d,) in the landscape's dtype; a traced one as it is. `ValueError` for another shape."""
    point = theta if isinstance(theta, Tracer) else as_real(name, theta, landscape.dtype)
    if point.shape != (landscape.dimension,):
        raise ValueError(f"{name} must have shape ({landscape.dimension},), got {point.shape}.")
    return point


def check_examples(inputs: PyTree[Array], targets: PyTree[Array]) -> None:
    """One leading axis of N ≥ 1 examples, without NaN."""
    found = [
        (f"{name}{jax.tree_util.keystr(path)}", leaf)
        for name, tree in (("inputs", inputs), ("targets", targets))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    lengths = {leaf.shape[0] if leaf.ndim else None for _, leaf in found}
    if len(lengths) > 1 or None in lengths:
        told = ", ".join(f"{name} {leaf.shape}" for name, leaf in found)
        raise ValueError(
            f"inputs and targets need one leading axis of examples; got the shapes {told}."
        )
    if lengths == {0}:
        raise ValueError("A finite sum needs at least one example; got N = 0.")
    for name, leaf in found:
        check_finite(name, leaf)


def check_one_dtype(arrays: dict[str, Any]) -> None:
    """The floating ones among named arrays (or pytrees of them) have one dtype."""
    found = {
        name: sorted({str(x.dtype) for x in jax.tree.leaves(array) if _is_floating(x)})
        for name, array in arrays.items()
    }
    if len({dtype for dtypes in found.values() for dtype in dtypes}) > 1:
        told = ", ".join(f"{name} are {' and '.join(d)}" for name, d in found.items() if d)
        raise ValueError(
            f"{told}: cast them all to float32 or all to float64, so that the whole computation "
            f"has one dtype."
        )


def _is_floating(leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf) and not jnp.iscomplexobj(leaf)


def check_labels(labels: Any, num_classes: Any) -> tuple[Array, int]:
    """Labels (N,) of classes 0, 1, …, n − 1 as int32, and n; counted from them if not given."""
    values = np.asarray(real_values("labels", numbers("labels", labels)))
    if values.ndim != 1:
        raise ValueError(f"labels must have shape (N,); got {values.shape}.")
    if not jnp.issubdtype(values.dtype, jnp.integer):
        values = values.astype(np.float64)
    check_finite("labels", values)
    if not np.array_equal(values, np.round(values)):
        raise ValueError("labels must be integers; got fractional values.")
    found = [int(label) for label in np.unique(values)]
    if num_classes is None:
        # A class without an example is likelier a label that starts at 1 than a class.
        if found != list(range(len(found))) or len(found) < 2:
            raise ValueError(
                f"Without num_classes labels must be 0, 1, …, n − 1, n ≥ 2, each with an example; "
                f"they are {_listed(found)}. Renumber them, np.unique(labels, "
                f"return_inverse=True)[1], or pass num_classes= if a class has no example."
            )
        num_classes = len(found)
    num_classes = check_whole("num_classes", num_classes, 2)
    if found and not 0 <= found[0] <= found[-1] < num_classes:
        raise ValueError(
            f"labels must lie in [0, num_classes); got labels {_listed(found)} "
            f"and num_classes={num_classes}."
        )
    return jax.device_put(values.astype(np.int32)), num_classes


def _listed(numbers: list[int]) -> str:
    shown = numbers if len(numbers) <= 6 else [*numbers[:3], "…", *numbers[-2:]]
    return ", ".join(map(str, shown))


def check_tokens(model: Any, inputs: PyTree[Array]) -> None:
    """Warns of integer inputs that no `Embedding` of the model has a row for: JAX clamps them."""

    def is_embedding(node):
        return isinstance(node, eqx.nn.Embedding)

    found = [x for x in jax.tree.leaves(model, is_leaf=is_embedding) if is_embedding(x)]
    tokens = [x for x in jax.tree.leaves(inputs) if jnp.issubdtype(x.dtype, jnp.integer) and x.size]
    if not found or not tokens:
        return
    most = max(embedding.num_embeddings for embedding in found)
    low, high = min(int(x.min()) for x in tokens), max(int(x.max()) for x in tokens)
    if low < 0 or high >= most:
        # A warning: the integers may be pixels, and the embedding one of places.
        warn_user(
            f"inputs hold integers {low}…{high}, and the model's largest Embedding has rows "
            f"0…{most - 1}: tokens outside would get the row at the end, without an error."
        )


def warn_user(message: str) -> None:
    """A warning located at the line that made the landscape."""
    frame, depth, level = sys._getframe(1), 1, 1
    while frame is not None:
        if frame.f_code.co_filename.startswith(_INSIDE):
            level = depth + 2
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=level)
