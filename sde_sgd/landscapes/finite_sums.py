"""Finite sums over data: least squares, logistic regression, any Equinox model."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Shaped

from .._checks import as_real, check_non_negative, real_array, real_values
from ..types import RealLike, Vector, Weights
from .base import AbstractFiniteSum
from .blocks import check_block, fitting_block, map_blocks
from .noise_forms import AbstractNoiseForm, ExampleWeights, ResidualMoments
from .validate import check_examples, check_labels, check_one_dtype, check_tokens, refuse_stateful

# Up to here a d×d Cholesky factor of Σ(θ) costs less than N normal numbers.
_FEW_DIMENSIONS = 8
# Examples on which a model is run when a landscape is made.
_LOOKED_AT = 256


class LeastSquares(AbstractFiniteSum):
    """ℓ_i(θ) = ½(x_i·θ − y_i)² + (λ/2)|θ|².

    Source of every exact moment in `sde_sgd.theory`: the gradient noise depends on θ, and
    its second moments close.

    **Arguments:**

    - `inputs`: (N, d) features x_i; integers become JAX's default floating dtype.
    - `targets`: (N,) y_i.
    - `l2`: λ ≥ 0, added to every example loss, so that it never adds noise.

    **Raises:** `ValueError` for shapes that differ, NaN, mixed dtypes, negative λ; complex, masked
    or half-precision numbers, integers that the dtype would round.
    """

    data: tuple[Float[Array, "n d"], Float[Array, " n"]]
    l2: Float[Array, ""]
    noise_form: AbstractNoiseForm

    def __init__(self, inputs, targets, *, l2: RealLike = 0.0):
        inputs = as_real("inputs", inputs)
        targets = real_values("targets", targets)
        floating = jnp.issubdtype(targets.dtype, jnp.floating)
        targets = as_real("targets", targets, None if floating else inputs.dtype)
        check_examples(inputs, targets)
        check_one_dtype({"inputs": inputs, "targets": targets})
        if targets.ndim != 1:
            raise ValueError(f"targets must have shape (N,); got {targets.shape}.")
        if inputs.ndim != 2:
            raise ValueError(f"LeastSquares needs inputs (N, d); got {inputs.shape}.")
        self.data = (inputs, targets)
        self.l2 = check_non_negative("l2", l2, inputs.dtype)
        self.noise_form = ExampleWeights()
        num, dim = inputs.shape
        if dim <= _FEW_DIMENSIONS and dim < num:
            self.noise_form = ResidualMoments.of(inputs, targets, self.l2, self.minimum())

    @property
    def dimension(self) -> int:
        return self.data[0].shape[1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.data[0].dtype

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        inputs, targets = data
        return 0.5 * (inputs @ theta - targets) ** 2 + 0.5 * self.l2 * jnp.dot(theta, theta)

    def minimum(self) -> Vector:
        """θ* = argmin L, the solution of (XᵀX/N + λ)θ = Xᵀy/N, least norm if singular.

        Summed and solved in float64 on the host, in the landscape's dtype at the end.
        """
        inputs, targets = (np.asarray(array, np.float64) for array in self.data)
        num, dim = inputs.shape
        hessian = inputs.T @ inputs / num + float(self.l2) * np.eye(dim)
        # What float32 data leave undetermined is not to be filled with their rounding.
        singular = dim * float(jnp.finfo(self.dtype).eps)
        solution = np.linalg.lstsq(hessian, inputs.T @ targets / num, rcond=singular)[0]
        return jnp.asarray(solution, self.dtype)


class LogisticRegression(AbstractFiniteSum):
    """ℓ_i(θ) = −log softmax(x_i W + b)_{y_i} + (λ/2)|θ|², θ = (W, b) flattened.

    With `num_classes=2` the binary form −log σ(±(x_i·w + b)) with d = features + 1. `unravel`
    gives (W, b) of the shapes (features, outputs) and (outputs,), without a bias (W,).

    **Arguments:**

    - `inputs`: (N, features).
    - `labels`: (N,) integers in [0, num_classes), of any numeric type.
    - `num_classes`: n ≥ 2; if not given, the labels are 0, …, n − 1 without a gap.
    - `l2`: λ ≥ 0 on all of θ.
    - `bias`: whether b is fitted.

    **Raises:** `ValueError` for labels that are none of the classes, and as `LeastSquares`.
    """

    data: tuple[Float[Array, "n features"], Any]
    l2: Float[Array, ""]
    num_classes: int = eqx.field(static=True)
    bias: bool = eqx.field(static=True)
    noise_form: AbstractNoiseForm

    def __init__(self, inputs, labels, *, num_classes=None, l2: RealLike = 0.0, bias: bool = True):
        inputs = as_real("inputs", inputs)
        labels, self.num_classes = check_labels(labels, num_classes)
        check_examples(inputs, labels)
        if inputs.ndim != 2:
            raise ValueError(f"LogisticRegression needs inputs (N, features); got {inputs.shape}.")
        self.data = (inputs, labels)
        self.l2 = check_non_negative("l2", l2, inputs.dtype)
        self.bias = bias
        self.noise_form = ExampleWeights()

    @property
    def _outputs(self) -> int:
        return 1 if self.num_classes == 2 else self.num_classes

    @property
    def dimension(self) -> int:
        return self._outputs * (self.data[0].shape[1] + int(self.bias))

    @property
    def dtype(self) -> jnp.dtype:
        return self.data[0].dtype

    def logits(
        self, theta: Vector, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n outputs"]:
        """x W + b for each row x, (n, num_classes), or (n, 1) for two classes."""
        weights, *bias = self.unravel(theta)
        logits = inputs @ weights
        return logits + bias[0] if self.bias else logits

    def unravel(self, theta: Vector) -> tuple[Array, ...]:
        features = self.data[0].shape[1]
        weights = theta[: self._outputs * features].reshape(features, self._outputs)
        return (weights, theta[self._outputs * features :]) if self.bias else (weights,)

    def ravel(self, parameters: tuple[Array, ...]) -> Vector:
        return jnp.concatenate([part.ravel() for part in parameters])

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        inputs, labels = data
        logits = self.logits(theta, inputs)
        penalty = 0.5 * self.l2 * jnp.dot(theta, theta)
        if self.num_classes == 2:
            sign = jnp.where(labels == 1, 1, -1).astype(theta.dtype)
            return jax.nn.softplus(-sign * logits[:, 0]) + penalty
        # A one-hot product rather than a gather: its transpose is no scatter.
        chosen = jnp.sum(jax.nn.one_hot(labels, self.num_classes, dtype=theta.dtype) * logits, -1)
        return jax.nn.logsumexp(logits, axis=-1) - chosen + penalty

    def accuracy(self, theta: Vector, inputs, labels) -> Float[Array, ""]:
        """Fraction of `labels` (n,) that θ predicts from `inputs` (n, features)."""
        labels = real_array("labels", labels)
        logits = self.logits(theta, real_array("inputs", inputs))
        if labels.shape != logits.shape[:1]:
            raise ValueError(f"labels must have shape {logits.shape[:1]}; got {labels.shape}.")
        guess = logits[:, 0] > 0 if self.num_classes == 2 else jnp.argmax(logits, axis=-1)
        return jnp.mean((guess == labels).astype(theta.dtype))


class EmpiricalRisk(AbstractFiniteSum):
    """ℓ_i(θ) = example_loss(model_θ(x_i), y_i) + (λ/2)|θ|² for a stateless Equinox model.

    θ is every inexact array of `model`, flattened in the order of `jax.tree.leaves`;
    `initial` (d,) are the parameters it came with, `model(θ)` is the Equinox model back.
    `unravel(θ)` is what an optimiser sees: the model with None for all that is no inexact array,
    as `eqx.filter(model, eqx.is_inexact_array)` gives it.

    **Arguments:**

    - `model`: an Equinox module, called on one input.
    - `inputs`: (N, ...) array. The model gets integers and booleans as they are: tokens for an
      `eqx.nn.Embedding`; pixels 0…255, for the model to cast to its dtype and to scale.
    - `targets`: (N, ...) array of any real kind, one target an example.
    - `example_loss`: (prediction, target) -> scalar.
    - `l2`: λ ≥ 0.
    - `example_block`: examples whose activations are in memory at a time, for one member; as
      many as fit if not given. The numbers do not depend on it, up to rounding.

    **Raises:** `ValueError` for models with state or active dropout (the loss is then not a
    sum over examples), for lengths that differ, NaN, floating dtypes that are not the parameters',
    complex, masked or half-precision numbers, a loss that is no scalar.
    """

    data: tuple[Shaped[Array, "n ..."], Any]
    l2: Float[Array, ""]
    initial: Vector
    example_loss: Callable = eqx.field(static=True)
    noise_form: AbstractNoiseForm
    _block: int = eqx.field(static=True)
    _unravel: Callable = eqx.field(static=True)
    _fixed: Any

    def __init__(
        self,
        model: Any,
        inputs,
        targets,
        example_loss: Callable,
        *,
        l2: RealLike = 0.0,
        example_block: int | None = None,
    ):
        if not callable(example_loss):
            raise ValueError(
                f"example_loss must be a function (prediction, target) -> scalar, such as "
                f"ss.cross_entropy; got {example_loss!r}."
            )
        refuse_stateful(model)
        inputs, targets = real_array("inputs", inputs), real_array("targets", targets)
        check_examples(inputs, targets)
        parameters, self._fixed = eqx.partition(model, eqx.is_inexact_array)
        initial, self._unravel = ravel_pytree(parameters)
        self.initial = as_real("The model's parameters", initial)
        check_one_dtype(
            {"The model's parameters": parameters, "inputs": inputs, "targets": targets}
        )
        self.data = (inputs, targets)
        self.l2 = check_non_negative("l2", l2, self.dtype)
        self.example_loss = example_loss
        self.noise_form = ExampleWeights()
        example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.data)
        check_tokens(model, inputs)
        prediction = _prediction(self.model, self.initial, example[0])
        value = jax.eval_shape(example_loss, prediction, example[1])
        if value.shape != () or value.dtype != self.dtype:
            raise ValueError(
                f"example_loss must give one {self.dtype} scalar an example; got shape "
                f"{value.shape} and dtype {value.dtype}."
            )
        if example_block is None:
            point = jax.ShapeDtypeStruct(self.initial.shape, self.initial.dtype)
            self._block = fitting_block(lambda *args: self._pull_back(*args), point, self.data)
        else:
            self._block = check_block(example_block)
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
        """The Equinox model whose parameters are θ."""
        return eqx.combine(self.unravel(theta), self._fixed)

    def unravel(self, theta: Vector) -> Any:
        return self._unravel(theta)

    def ravel(self, parameters: Any) -> Vector:
        return ravel_pytree(parameters)[0]

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        inputs, targets = data
        model = self.model(theta)

        def one(x, y):
            return self.example_loss(model(x), y)

        penalty = 0.5 * self.l2 * jnp.dot(theta, theta)
        return jax.vmap(one)(inputs, targets) + penalty


def _prediction(model: Callable, initial: Vector, example: Any) -> Any:
    """Shape and dtype of what the model makes of one input."""
    try:
        return jax.eval_shape(lambda theta, x: model(theta)(x), initial, example)
    except TypeError as error:
        told = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(
            f"The model cannot be called on one input, of shape {example.shape} and dtype "
            f"{example.dtype}: {told}. Give the inputs the shape and the kind of number that it "
            f"takes (an eqx.nn.Embedding takes integers)."
        ) from error


def _check_losses(risk: EmpiricalRisk) -> None:
    """Raises where losses are not finite: of some examples, and of every target.

    The model is run on few examples, since all of them may cost more than a run. Every target is
    tried with the prediction of the first example, which finds labels outside the classes.
    """
    num = risk.num_examples
    rows = np.unique(np.linspace(0, num - 1, _LOOKED_AT).astype(int))
    some = risk.data if len(rows) == num else jax.tree.map(lambda leaf: leaf[rows], risk.data)
    _refuse_bad(~np.isfinite(_losses(risk, some)), rows, f"{len(rows)} example losses looked at")
    if len(rows) < num:
        _refuse_bad(~np.isfinite(_target_losses(risk)), np.arange(num), f"{num} targets' losses")


def _refuse_bad(bad: np.ndarray, rows: np.ndarray, what: str) -> None:
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {what} are not finite at the model's own parameters, the first "
            f"of example {rows[np.argmax(bad)]}: look for NaN weights and for labels outside the "
            f"model's classes."
        )


@eqx.filter_jit
def _losses(risk: EmpiricalRisk, data: PyTree[Array]) -> Weights:
    return risk.losses(risk.initial, data)


@eqx.filter_jit
def _target_losses(risk: EmpiricalRisk) -> Weights:
    inputs, targets = risk.data
    prediction = risk.model(risk.initial)(inputs[0])
    return map_blocks(
        jax.vmap(lambda y: risk.example_loss(prediction, y)), targets, risk.example_block
    )


def cross_entropy(logits: Float[Array, " classes"], label) -> Float[Array, ""]:
    """−log softmax(logits)_label for one example, an `example_loss`.

    **Arguments:** `logits` (classes,); `label` a boolean, or an integer of any width in
    [0, classes), no one-hot vector (outside the loss is NaN, which `EmpiricalRisk` refuses).
    """
    label = jnp.asarray(label)
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


def squared_error(prediction: Float[Array, "*out"], target) -> Float[Array, ""]:
    """½|prediction − target|² for one example of equal shapes, an `example_loss`."""
    if jnp.shape(prediction) != jnp.shape(target):
        raise ValueError(
            f"squared_error needs prediction and target of one shape; got {jnp.shape(prediction)} "
            f"and {jnp.shape(target)}."
        )
    return 0.5 * jnp.sum((prediction - target) ** 2)
