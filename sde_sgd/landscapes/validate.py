"""Checks that every landscape makes on what a user hands it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

# Relative asymmetry and negative eigenvalues that pass as rounding of a float32 computation.
_ROUNDING = 1e-6


def check_arrays(inputs, targets, *, target_rank=None, integer_targets=False):
    """Inputs and targets as arrays of one floating dtype and one length N ≥ 1, without NaN."""
    inputs, targets = _as_array(inputs), _as_array(targets)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        inputs = inputs.astype(jnp.result_type(float))
    if inputs.ndim < 1 or targets.ndim < 1 or inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"inputs and targets need one leading axis of examples; got shapes {inputs.shape} "
            f"and {targets.shape}."
        )
    if inputs.shape[0] == 0:
        raise ValueError("A finite sum needs at least one example; got N = 0.")
    if target_rank is not None and targets.ndim != target_rank:
        raise ValueError(f"targets must have shape (N,); got {targets.shape}.")
    if integer_targets:
        labels = np.asarray(targets)
        if not np.array_equal(labels, np.round(labels)):
            raise ValueError("labels must be integers; got fractional values.")
        targets = jax.device_put(labels.astype(np.int32))
    elif target_rank == 1 and not jnp.issubdtype(targets.dtype, jnp.floating):
        targets = targets.astype(inputs.dtype)
    for name, array in (("inputs", inputs), ("targets", targets)):
        if jnp.issubdtype(array.dtype, jnp.floating):
            check_finite(name, array)
            if array.dtype != inputs.dtype:
                raise ValueError(
                    f"inputs are {inputs.dtype} and targets {array.dtype}: cast one of them, so "
                    f"that the whole computation has one dtype."
                )
    return inputs, targets


def _as_array(value) -> Array:
    """As `jnp.asarray`, which for NumPy arrays compiles a function for each shape."""
    # A copy: what is put on a CPU shares the memory of an aligned NumPy array.
    return value if isinstance(value, Array) else jax.device_put(np.array(value))


def check_finite(name: str, array: Array) -> None:
    """Raises with the place of the first entry that is NaN or infinite."""
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} has {int(bad.sum())} entries that are NaN or infinite, the first at {where}: "
            f"remove or impute them."
        )


def check_non_negative(name: str, value, dtype) -> Array:
    """A finite scalar ≥ 0 in the landscape's dtype."""
    array = jnp.asarray(value, dtype)
    if array.shape != () or not 0 <= float(array) < np.inf:
        raise ValueError(f"{name} must be a finite number ≥ 0; got {value}.")
    return array


def check_positive(name: str, value, dtype=None) -> Array:
    """A finite scalar > 0."""
    array = jnp.asarray(value, dtype)
    if array.shape != () or not 0 < float(array) < np.inf:
        raise ValueError(f"{name} must be a finite number > 0; got {value}.")
    return array


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
    if not jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)):
        raise ValueError("The model has no floating-point arrays, so there is nothing to train.")


def as_real(value) -> Array:
    """An array of floating dtype: that of `value` if it has one, else JAX's default."""
    array = jnp.asarray(value)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array if floating else array.astype(jnp.result_type(float))


def check_symmetric(name: str, value) -> Array:
    """A finite symmetric (d, d) matrix, symmetrised exactly."""
    matrix = as_real(value)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"{name} must be a (d, d) matrix; got shape {matrix.shape}.")
    check_finite(name, matrix)
    values = np.asarray(matrix)
    asymmetry = float(np.max(np.abs(values - values.T)))
    if asymmetry > _ROUNDING * float(np.max(np.abs(values))):
        raise ValueError(
            f"{name} must be symmetric; it differs from its transpose by {asymmetry:g}. Pass "
            f"(A + A.T)/2 if that is rounding."
        )
    return jax.device_put((values + values.T) / 2)


def check_covariance(name: str, value) -> tuple[Array, np.ndarray]:
    """A covariance A, (d, d), and a float64 root R, (d, rank), with R Rᵀ = A.

    The root is the symmetric one at full rank, so that it depends continuously on A and not on
    the machine's choice of eigenvectors.
    """
    matrix = check_symmetric(name, value)
    eigenvalues, basis = np.linalg.eigh(np.asarray(matrix, np.float64))
    if eigenvalues[0] < -_ROUNDING * max(eigenvalues[-1], 0.0):
        raise ValueError(
            f"{name} must be positive semidefinite; its smallest eigenvalue is {eigenvalues[0]:g}."
        )
    kept = eigenvalues > len(eigenvalues) * jnp.finfo(matrix.dtype).eps * eigenvalues[-1]
    if kept.all():
        return matrix, (basis * np.sqrt(eigenvalues)) @ basis.T
    basis = basis[:, kept]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=0, keepdims=True), axis=0)
    return matrix, basis * np.sign(largest) * np.sqrt(eigenvalues[kept])
