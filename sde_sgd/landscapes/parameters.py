"""Which arrays of a model are θ, and which are held fixed."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd._checks import as_real, in_brief
from sde_sgd.landscapes.probe import first_line
from sde_sgd.landscapes.validate import warn_user
from sde_sgd.types import Vector

_STATE = (eqx.nn.State, eqx.nn.StateIndex)


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of a trainable array in a model."""

    shape: tuple[int, ...]


class Parameters(eqx.Module):
    """θ (d,) and the model that it belongs to.

    **Field:** `frame`, the model with a `Slot` in place of each trainable array, in the order of
    `jax.tree.leaves`; all else in it is held fixed, running statistics of its layers too.
    """

    frame: Any

    @property
    def slots(self) -> list[Slot]:
        """The trainable arrays' places, in the order of θ."""
        return [leaf for leaf in jax.tree.leaves(self.frame) if isinstance(leaf, Slot)]

    def model(self, theta: Vector) -> Any:
        """The whole model at θ (d,)."""
        return self._filled(theta, lambda leaf: leaf)

    def unravel(self, theta: Vector) -> PyTree[Array]:
        """The model with None for all that is fixed, as `eqx.filter` gives it."""
        return self._filled(theta, lambda leaf: None)

    def ravel(self, tree: PyTree[Any]) -> Vector:
        """θ (d,) of a whole model, or of its trainable arrays as `unravel` gives them.

        **Raises:** `ValueError` for another model's.
        """
        leaves, structure = jax.tree.flatten(tree)
        own, whole = jax.tree.flatten(self.frame)
        if structure == whole:
            chosen = zip(leaves, own, strict=True)
            leaves = [leaf for leaf, place in chosen if isinstance(place, Slot)]
        shapes = [leaf.shape for leaf in leaves if hasattr(leaf, "shape")]
        wanted = [slot.shape for slot in self.slots]
        if shapes != wanted or len(leaves) != len(wanted):
            raise ValueError(
                f"These are not the parameters of the landscape's model, which are arrays of the "
                f"shapes {in_brief(wanted)}; got {in_brief(shapes)}. Pass a model of the same "
                f"structure, or what unravel gives."
            )
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    def _filled(self, theta: Vector, fixed: Any) -> Any:
        pieces = self._pieces(theta)
        return jax.tree.map(
            lambda leaf: next(pieces) if isinstance(leaf, Slot) else fixed(leaf), self.frame
        )

    def _pieces(self, theta: Vector) -> Iterator[Array]:
        first = 0
        for slot in self.slots:
            size = int(np.prod(slot.shape))
            yield theta[first : first + size].reshape(slot.shape)
            first += size


def split(model: Any, trainable: Any) -> tuple[Parameters, Vector]:
    """The places of a model's trainable arrays, and their own values θ (d,).

    **Arguments:** `trainable`: what `eqx.filter` takes, a bool, a function leaf -> bool, or a tree
    of them that begins like the model's. Of what it picks the floating-point arrays are trained.

    **Raises:** `ValueError` for another `trainable`, for a model whose loss is no sum over
    examples, and for one without anything to train. Warns of an array that is there twice.
    """
    refuse_stateful(model)
    if not callable(model):
        raise ValueError(
            f"The model must be an Equinox module that is called on one input; got "
            f"{in_brief(model)}. Its parameters are read from it."
        )
    free = _free(model)
    if not any(jax.tree.leaves(free)):
        raise ValueError("The model has no floating-point arrays, so there is nothing to train.")
    mask = jax.tree.map(lambda a, b: a and b, free, _picked(model, free, trainable))
    kept = jax.tree.leaves(eqx.filter(model, mask))
    if not kept:
        raise ValueError(
            "trainable picks no floating-point array of the model, so there is nothing to train: "
            "it must be True where an array is trained, as for eqx.filter."
        )
    values = [as_real("The model's parameters", leaf) for leaf in kept]
    _warn_of_ties(model, mask)
    frame = jax.tree.map(lambda leaf, train: Slot(leaf.shape) if train else _own(leaf), model, mask)
    return Parameters(frame), jnp.concatenate([jnp.ravel(value) for value in values])


def _free(model: Any) -> PyTree[bool]:
    """True for the inexact arrays of a model that are no running statistics."""

    def choose(node: Any) -> Any:
        if isinstance(node, _STATE):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return jax.tree.map(choose, model, is_leaf=lambda node: isinstance(node, _STATE))


def _picked(model: Any, free: PyTree[bool], trainable: Any) -> PyTree[bool]:
    """What `trainable` says of each leaf of a model; of the `free` ones only it is asked."""
    for rule in jax.tree.leaves(trainable):
        if not (isinstance(rule, bool | np.bool_) or callable(rule)):
            raise ValueError(
                f"trainable must consist of True, False and functions leaf -> bool, as "
                f"eqx.filter takes them; got {in_brief(rule)}."
            )

    def choose(rule: Any, part: Any, some: Any) -> Any:
        if not callable(rule):
            return jax.tree.map(lambda _: bool(rule), part)
        return jax.tree.map(lambda leaf, ask: ask and _asked(rule, leaf), part, some)

    try:
        return jax.tree.map(choose, trainable, model, free)
    except _RuleError as error:
        raise ValueError(str(error)) from error.__cause__
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"trainable is a tree that does not begin like the model's, a {type(model).__name__}: "
            f"make it from the model, eqx.tree_at(lambda m: m.layer, jax.tree.map(lambda _: False, "
            f"model), replace=True)."
        ) from error


class _RuleError(Exception):
    """A function in `trainable` failed."""


def _asked(rule: Any, leaf: Any) -> bool:
    try:
        return bool(rule(leaf))
    except Exception as error:
        raise _RuleError(
            f"trainable raised {type(error).__name__} for an array of shape {leaf.shape}: "
            f"{first_line(error)}"
        ) from error


def _own(leaf: Any) -> Any:
    """A copy of an array that the user could change."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _warn_of_ties(model: Any, mask: PyTree[bool]) -> None:
    """Warns where one array is in two places, which from the first step on are two."""
    places: dict[int, list[tuple[str, bool]]] = {}
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    for (path, leaf), train in zip(leaves, jax.tree.leaves(mask), strict=True):
        if eqx.is_inexact_array(leaf):
            places.setdefault(id(leaf), []).append((jax.tree_util.keystr(path), train))
    tied = [found for found in places.values() if len(found) > 1 and any(t for _, t in found)]
    if tied:
        names = [name for name, _ in tied[0]]
        warn_user(
            f"One array of the model is in {len(names)} places, {names[0]} and {names[1]}, which "
            f"from the first step on are parameters of their own: tie them by eqx.nn.Shared if "
            f"they are one."
        )


def refuse_stateful(model: Any) -> None:
    """Raises for a model whose loss is not a sum over examples, with the reason."""
    nodes: list[Any] = []
    try:
        jax.tree.leaves(model, is_leaf=lambda node: nodes.append(node) or False)
    except ValueError as error:
        raise ValueError(f"The model cannot be taken apart: {first_line(error)}") from error
    held = any(isinstance(node, eqx.nn.State) for node in nodes)
    for node in nodes:
        if isinstance(node, eqx.nn.Dropout) and not node.inference and float(node.p) > 0:
            raise ValueError(
                "The model has active dropout, which is noise of its own beside the minibatch's: "
                "switch it off with eqx.nn.inference_mode(model)."
            )
        # A Sequential is a StatefulLayer too, whether or not one of its layers has state.
        stateful = isinstance(node, eqx.nn.StateIndex)
        if isinstance(node, eqx.nn.StatefulLayer) and not isinstance(node, eqx.nn.Sequential):
            stateful = node.is_stateful()
        if stateful and not (held and getattr(node, "inference", True)):
            raise ValueError(
                f"{type(node).__name__} carries running state, so the loss of one example depends "
                f"on the others and on the past: there is no finite sum (1/N) Σ ℓ_i. Freeze its "
                f"statistics, eqx.Partial(eqx.nn.inference_mode(model), state=state), or use a "
                f"stateless layer (GroupNorm, LayerNorm)."
            )
