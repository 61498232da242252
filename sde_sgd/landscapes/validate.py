"""Checks that every landscape makes on what a user hands it."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_finite, in_brief, real_values


def check_examples(inputs: Array, targets: Array) -> None:
    """One leading axis of N ≥ 1 examples, without NaN."""
    if inputs.ndim < 1 or targets.ndim < 1 or inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"inputs and targets need one leading axis of examples; got shapes {inputs.shape} "
            f"and {targets.shape}."
        )
    if inputs.shape[0] == 0:
        raise ValueError("A finite sum needs at least one example; got N = 0.")
    check_finite("inputs", inputs)
    check_finite("targets", targets)


def check_one_dtype(arrays: dict[str, Any]) -> None:
    """The floating ones among named arrays (or pytrees of them) have one dtype."""
    found = {
        name: sorted({str(x.dtype) for x in jax.tree.leaves(array) if eqx.is_inexact_array(x)})
        for name, array in arrays.items()
    }
    if len({dtype for dtypes in found.values() for dtype in dtypes}) > 1:
        told = ", ".join(f"{name} are {' and '.join(d)}" for name, d in found.items() if d)
        raise ValueError(f"{told}: cast them, so that the whole computation has one dtype.")


def check_labels(labels: Any, num_classes: Any) -> tuple[Array, int]:
    """Labels (N,) of classes 0, 1, …, n − 1 as int32, and n; counted from them if not given."""
    values = np.asarray(real_values("labels", labels))
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
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer):
        raise ValueError(f"num_classes must be an integer ≥ 2; got {in_brief(num_classes)}.")
    if num_classes < 2 or (found and not 0 <= found[0] <= found[-1] < num_classes):
        raise ValueError(
            f"labels must lie in [0, num_classes), num_classes ≥ 2; got labels {_listed(found)} "
            f"and num_classes={num_classes}."
        )
    return jax.device_put(values.astype(np.int32)), int(num_classes)


def _listed(numbers: list[int]) -> str:
    shown = numbers if len(numbers) <= 6 else [*numbers[:3], "…", *numbers[-2:]]
    return ", ".join(map(str, shown))


def refuse_stateful(model) -> None:
    """Models whose loss is not a sum over examples, refused with the reason."""

    def stateful(node):
        # A Sequential is a StatefulLayer too, whether or not one of its layers has state.
        layer = isinstance(node, eqx.nn.StatefulLayer) and not isinstance(node, eqx.nn.Sequential)
        return isinstance(node, eqx.nn.StateIndex | eqx.nn.State) or (layer and node.is_stateful())

    def stop(node):
        return stateful(node) or isinstance(node, eqx.nn.Dropout)

    for node in jax.tree.leaves(model, is_leaf=stop):
        if stateful(node):
            raise ValueError(
                f"{type(node).__name__} carries running state, so the loss of one example depends "
                f"on the others and on the past: there is no finite sum (1/N) Σ ℓ_i. Use a "
                f"stateless layer (GroupNorm, LayerNorm), or freeze its statistics."
            )
        if isinstance(node, eqx.nn.Dropout) and not node.inference and float(node.p) > 0:
            raise ValueError(
                "The model has active dropout, which is noise of its own beside the minibatch's: "
                "switch it off with eqx.nn.inference_mode(model)."
            )
    if not callable(model):
        raise ValueError(
            f"The model must be an Equinox module that is called on one input; got "
            f"{in_brief(model)}. Its parameters are read from it."
        )
    if not jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)):
        raise ValueError("The model has no floating-point arrays, so there is nothing to train.")


def check_tokens(model: Any, inputs: Any) -> None:
    """Warns of integer inputs that no `Embedding` of the model has a row for: JAX clamps them."""

    def is_embedding(node):
        return isinstance(node, eqx.nn.Embedding)

    found = [x for x in jax.tree.leaves(model, is_leaf=is_embedding) if is_embedding(x)]
    if not found or not jnp.issubdtype(inputs.dtype, jnp.integer):
        return
    most = max(embedding.num_embeddings for embedding in found)
    low, high = int(inputs.min()), int(inputs.max())
    if low < 0 or high >= most:
        # A warning: the integers may be pixels, and the embedding one of places.
        warnings.warn(
            f"inputs hold integers {low}…{high}, and the model's largest Embedding has rows "
            f"0…{most - 1}: tokens outside would get the row at the end, without an error.",
            stacklevel=3,
        )
