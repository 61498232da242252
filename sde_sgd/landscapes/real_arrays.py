"""Where a user's numbers become real arrays: what would change without a word is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def real_values(name: str, value: Any) -> np.ndarray | Array:
    """`value` as an array of real numbers of its own dtype: floating, integer or boolean.

    **Raises:** `ValueError` that names the argument, for complex numbers, masked entries and what
    is no number.
    """
    parts = value if isinstance(value, list | tuple) else (value,)
    masked = sum(int(np.ma.getmaskarray(part).sum()) for part in parts if np.ma.is_masked(part))
    if masked:
        raise ValueError(
            f"{name} has {masked} masked entries, and the numbers under a mask would be used: "
            f"leave them out, or fill them with .filled(value)."
        )
    array = value if isinstance(value, Array) else np.asarray(value)
    _refuse_unreal(name, array.dtype)
    return array


def _refuse_unreal(name: str, dtype: Any) -> None:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} must be real, not {dtype}: pass the real part, or the real and the imaginary "
            f"part as separate coordinates."
        )
    integer = jnp.issubdtype(dtype, jnp.integer) and not jnp.issubdtype(dtype, np.timedelta64)
    if not (integer or jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, np.bool_)):
        raise ValueError(f"{name} must be real numbers, not of dtype {dtype}.")


def real_array(name: str, value: Any) -> Array:
    """A copy on the device: integers stay integers, booleans booleans.

    **Raises:** `ValueError` as `real_values`, for half precision, and for integers that JAX's
    integers cannot hold.
    """
    values = real_values(name, value)
    _refuse_half(name, values.dtype)
    if isinstance(values, Array):
        return values
    # A copy: what is put on a CPU shares the memory of an aligned NumPy array.
    array = jax.device_put(np.array(values))
    if values.dtype.kind in "iu" and array.dtype != values.dtype:
        _refuse_changed(name, np.asarray(array) != values, values, array.dtype)
    return array


def as_real(name: str, value: Any, dtype: Any = None) -> Array:
    """A floating array: of `dtype`, or if that is not given of the value's, or JAX's default.

    **Raises:** `ValueError` as `real_values`, for half precision, and for integers that the
    floating dtype would round.
    """
    values = real_values(name, value)
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    if dtype is None:
        dtype = values.dtype if floating else jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    _refuse_half(name, dtype)
    if jnp.issubdtype(values.dtype, jnp.integer):
        exact = np.asarray(values)
        # Every integer up to 2^digits is a floating number, of the larger ones only some.
        large = np.abs(exact.astype(np.float64)) >= 2.0 ** (jnp.finfo(dtype).nmant + 1)
        rounded = np.zeros(exact.shape, bool)
        rounded[large] = [int(dtype.type(n)) != n for n in exact[large].tolist()]
        _refuse_changed(name, rounded, exact, dtype)
    if isinstance(values, Array):
        return values.astype(dtype)
    return jax.device_put(np.array(values, dtype))


def as_float64(name: str, value: Any) -> np.ndarray:
    """A float64 array on the host, a copy only where it must be; `ValueError` as `real_values`."""
    return np.asarray(real_values(name, value)).astype(np.float64, copy=False)


def real_output(name: str, value: Any, dtype: Any = None) -> Array:
    """What a user's function returned, traced or not, as a real array (of `dtype` if given).

    **Raises:** `ValueError` for complex numbers and what is no number.
    """
    array = jnp.asarray(value)
    _refuse_unreal(name, array.dtype)
    return array if dtype is None else array.astype(dtype)


def _refuse_half(name: str, dtype: Any) -> None:
    if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4:
        raise ValueError(
            f"{name} must be float32 or float64, not {dtype}, whose rounding (a relative "
            f"{float(jnp.finfo(dtype).eps):.1g}) swallows small steps: cast to one of them."
        )


def _refuse_changed(name: str, changed: np.ndarray, values: np.ndarray, dtype: Any) -> None:
    if changed.any():
        raise ValueError(
            f"{name} has {int(changed.sum())} integers that {dtype} cannot hold, the first is "
            f"{values[changed][0]}: subtract an offset, rescale, or enable JAX's 64-bit numbers."
        )
