"""The mean loss of any Equinox model over data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._checks import check_callable, check_non_negative, check_whole, real_values
from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.blocks import fitting_block, map_blocks
from sde_sgd.landscapes.noise_forms import AbstractNoiseForm, ExampleWeights
from sde_sgd.landscapes.parameters import Parameters, split
from sde_sgd.landscapes.probe import probe, probe_scalar
from sde_sgd.landscapes.validate import (
    check_examples,
    check_one_dtype,
    check_tokens,
    example_arrays,
)
from sde_sgd.types import RealLike, Vector, Weights

# Examples on which a model is run when a landscape is made.
_LOOKED_AT = 256


class EmpiricalRisk(AbstractFiniteSum):
    """ℓ_i(θ) = example_loss(model_θ(x_i), y_i) + (λ/2)|θ|² for an Equinox model.

    θ is every trainable array of `model`, flattened in the order of `jax.tree.leaves`;
    `initial` (d,) are those that it came with, `model(θ)` is the whole Equinox model back and
    `ravel(model)` the θ of another one. `unravel(θ)` is what an optimiser sees: the model with None
    for all that is not trained, as `eqx.filter` gives it.

    What is not trained is held fixed: no gradient, no noise, no weight decay and no λ reach it.
    Running statistics of batch norms are never trained; a model with some is handed over as
    `eqx.Partial(eqx.nn.inference_mode(model), state=state)`, and of the pair (prediction, state)
    that it then returns the prediction counts. Layers tied by `eqx.nn.Shared` are one.

    **Arguments:**

    - `model`: an Equinox module, called on one input.
    - `inputs`: (N, ...) array. The model gets integers and booleans as they are: tokens for an
      `eqx.nn.Embedding`; pixels 0…255, for the model to cast to its dtype and to scale.
    - `targets`: (N, ...) array of any real kind, one target an example. Inputs and targets may
      also be dictionaries or tuples of such arrays; one example is then one of its rows.
    - `example_loss`: (prediction, target) -> scalar.
    - `l2`: λ ≥ 0.
    - `trainable`: which arrays are θ, as `eqx.filter` takes it: a bool, a function leaf -> bool, or
      a tree of them that begins like the model's. Every inexact array if not given.
    - `example_block`: examples whose activations are in memory at a time, for one member; as
      many as fit if not given. The numbers do not depend on it, up to rounding.

    **Raises:** `ValueError` for models with running state or active dropout (the loss is then not a
    sum over examples), for lengths that differ, NaN, floating dtypes that are not the parameters',
    complex, masked or half-precision numbers, a loss that is no scalar, a `trainable` that picks
    nothing. Warns of an array that the model has in two places.
    """

    data: tuple[Any, Any]
    l2: Float[Array, ""]
    initial: Vector
    example_loss: Callable = eqx.field(static=True)
    noise_form: AbstractNoiseForm
    _parameters: Parameters
    _block: int = eqx.field(static=True)

    def __init__(
        self,
        model: Any,
        inputs,
        targets,
        example_loss: Any,
        *,
        l2: RealLike = 0.0,
        trainable: Any = True,
        example_block: Any = None,
    ):
        check_callable("example_loss", example_loss, "ss.cross_entropy(prediction, target)")
        self._parameters, self.initial = split(model, trainable)
        self.data = (example_arrays("inputs", inputs), example_arrays("targets", targets))
        check_examples(*self.data)
        check_one_dtype(
            {"The model's arrays": model, "inputs": self.data[0], "targets": self.data[1]}
        )
        self.l2 = check_non_negative("l2", l2, self.dtype)
        self.example_loss = example_loss
        self.noise_form = ExampleWeights()
        check_tokens(model, self.data[0])
        point = jax.ShapeDtypeStruct(self.initial.shape, self.initial.dtype)
        x, y = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.data)
        hint = (
            " Give the inputs the shape and the kind of number that it takes (an eqx.nn.Embedding "
            "takes integers)."
        )
        prediction = probe("The model", lambda x: self._predict(model, x), x, hint=hint)
        probe_scalar("example_loss", example_loss, self.dtype, prediction, y)
        if example_block is None:
            self._block = fitting_block(lambda *args: self._pull_back(*args), point, self.data)
        else:
            self._block = check_whole("example_block", example_block)
        _check_losses(self)

    @property
    def example_block(self) -> int:
        return self._block

    @property
    def dimension(self) -> int:
        return self.initial.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        return self.initial.dtype

    def model(self, theta: Vector) -> Any:
        """The whole Equinox model at θ, with what is held fixed in its place."""
        return self._parameters.model(theta)

    def unravel(self, theta: Vector) -> Any:
        return self._parameters.unravel(theta)

    def ravel(self, parameters: Any) -> Vector:
        """θ (d,) of a model, or of its trainable arrays as `unravel` gives them."""
        return self._parameters.ravel(parameters)

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        inputs, targets = data
        model = self.model(theta)

        def one(x, y):
            return self.example_loss(self._predict(model, x), y)

        return jax.vmap(one)(inputs, targets) + self._penalty(theta)

    def _penalty(self, theta: Vector) -> Array:
        return 0.5 * self.l2 * jnp.dot(theta, theta)

    def _predict(self, model: Any, x: PyTree[Array]) -> Any:
        found = model(x)
        pair = type(found) is tuple and len(found) == 2 and isinstance(found[1], eqx.nn.State)
        return found[0] if pair else found


def _check_losses(risk: EmpiricalRisk) -> None:
    """Raises where losses are not finite: of some examples, and of every target.

    The model is run on few examples, since all of them may cost more than a run. Every target is
    tried with the prediction of the first example, which finds labels outside the classes.
    """
    num = risk.num_examples
    rows = np.unique(np.linspace(0, num - 1, _LOOKED_AT).astype(int))
    some = risk.data if len(rows) == num else jax.tree.map(lambda leaf: leaf[rows], risk.data)
    losses, of_targets = _some_losses(risk, some, risk.data[1] if len(rows) < num else None)
    _refuse_bad(~np.isfinite(losses), rows, f"{len(rows)} example losses looked at")
    if len(rows) < num:
        _refuse_bad(~np.isfinite(of_targets), np.arange(num), f"{num} targets' losses")


def _refuse_bad(bad: np.ndarray, rows: np.ndarray, what: str) -> None:
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {what} are not finite at the model's own parameters, the first "
            f"of example {rows[np.argmax(bad)]}: look for NaN weights and for labels outside the "
            f"model's classes."
        )


@eqx.filter_jit
def _some_losses(risk: EmpiricalRisk, some: PyTree[Array], targets: PyTree[Array] | None) -> Any:
    """ℓ of some examples, and of all `targets` with the prediction of the first one, one run."""
    model = risk.model(risk.initial)
    predictions = jax.vmap(lambda x: risk._predict(model, x))(some[0])
    losses = jax.vmap(risk.example_loss)(predictions, some[1])
    if targets is None:
        return losses, None
    first = jax.tree.map(lambda leaf: leaf[0], predictions)
    of_first = jax.vmap(lambda y: risk.example_loss(first, y))
    return losses, map_blocks(of_first, targets, risk.example_block)


def cross_entropy(logits: Any, label: Any) -> Float[Array, ""]:
    """−log softmax(logits)_label for one example, an `example_loss`.

    **Arguments:** `logits` (classes,); `label` a boolean, or an integer of any width in
    [0, classes), no one-hot vector (outside the loss is NaN, which `EmpiricalRisk` refuses).
    """
    logits, label = (jnp.asarray(real_values(*x)) for x in (("logits", logits), ("label", label)))
    if logits.ndim != 1:
        raise ValueError(f"logits must have shape (classes,); got {logits.shape}.")
    if label.dtype.itemsize < 4 and not jnp.issubdtype(label.dtype, jnp.floating):
        # The class numbers are made in the label's type, and 200 is no int8.
        label = label.astype(jnp.int32)
    if label.shape != () or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f"cross_entropy needs one integer label an example; got shape {label.shape} and dtype "
            f"{label.dtype}."
        )
    classes = logits.shape[-1]
    chosen = jnp.sum(jax.nn.one_hot(label, classes, dtype=logits.dtype) * logits)
    known = (label >= 0) & (label < classes)
    return jax.nn.logsumexp(logits) - jnp.where(known, chosen, jnp.nan)


def squared_error(prediction: Any, target: Any) -> Float[Array, ""]:
    """½|prediction − target|² for one example of equal shapes, an `example_loss`."""
    given = ("prediction", prediction), ("target", target)
    prediction, target = (jnp.asarray(real_values(*x)) for x in given)
    if prediction.shape != target.shape:
        raise ValueError(
            f"squared_error needs prediction and target of one shape; got {prediction.shape} and "
            f"{target.shape}."
        )
    return 0.5 * jnp.sum((prediction - target) ** 2)
