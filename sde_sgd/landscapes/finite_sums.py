"""Finite sums over data in closed form: least squares and logistic regression."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._checks import as_real, check_flag, check_non_negative, real_array, real_values
from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.noise_forms import AbstractNoiseForm, ExampleWeights, ResidualMoments
from sde_sgd.landscapes.validate import check_examples, check_labels, check_one_dtype, numbers
from sde_sgd.types import RealLike, Vector, Weights

# Up to here a d×d Cholesky factor of Σ(θ) costs less than N normal numbers.
_FEW_DIMENSIONS = 8


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
        inputs = as_real("inputs", numbers("inputs", inputs))
        targets = real_values("targets", numbers("targets", targets))
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
        return jnp.asarray(self.rest(), self.dtype)

    def rest(self) -> np.ndarray:
        inputs, targets = (np.asarray(array, np.float64) for array in self.data)
        num, dim = inputs.shape
        hessian = inputs.T @ inputs / num + float(self.l2) * np.eye(dim)
        # What float32 data leave undetermined is not to be filled with their rounding.
        singular = dim * float(jnp.finfo(self.dtype).eps)
        return np.linalg.lstsq(hessian, inputs.T @ targets / num, rcond=singular)[0]


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
        inputs = as_real("inputs", numbers("inputs", inputs))
        labels, self.num_classes = check_labels(labels, num_classes)
        check_examples(inputs, labels)
        if inputs.ndim != 2:
            raise ValueError(f"LogisticRegression needs inputs (N, features); got {inputs.shape}.")
        self.data = (inputs, labels)
        self.l2 = check_non_negative("l2", l2, inputs.dtype)
        self.bias = check_flag("bias", bias)
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
        labels = real_array("labels", numbers("labels", labels))
        logits = self.logits(theta, real_array("inputs", numbers("inputs", inputs)))
        if labels.shape != logits.shape[:1]:
            raise ValueError(f"labels must have shape {logits.shape[:1]}; got {labels.shape}.")
        guess = logits[:, 0] > 0 if self.num_classes == 2 else jnp.argmax(logits, axis=-1)
        return jnp.mean((guess == labels).astype(theta.dtype))
