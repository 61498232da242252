"""Every check of what a user hands over: a number, an array, a part, a key.

Each check returns what it checked in the form that the library computes with, or raises one
`ValueError` that names the argument, its value and the way out.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .types import RealLike

# Relative asymmetry and negative eigenvalues that pass as rounding of a float32 computation.
_ROUNDING = 1e-6


def check_finite(name: str, array: Array | np.ndarray) -> None:
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
    array = as_real(name, value, dtype)
    if array.shape != () or not 0 <= float(array) < np.inf:
        raise ValueError(f"{name} must be a finite number ≥ 0; got {in_brief(value)}.")
    return array


def check_positive(name: str, value, dtype=None) -> Array:
    """A finite scalar > 0."""
    array = as_real(name, value, dtype)
    if array.shape != () or not 0 < float(array) < np.inf:
        raise ValueError(f"{name} must be a finite number > 0; got {in_brief(value)}.")
    return array


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """An integer from `least` to `most`, of Python or of NumPy."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least:
        raise ValueError(f"{name} must be an integer ≥ {least}; got {in_brief(value)}.")
    if most is not None and value > most:
        raise ValueError(f"{name} must be an integer from {least} to {most}; got {value}.")
    return int(value)


def check_number(
    name: str, value: Any, above: RealLike = -np.inf, below: RealLike = np.inf
) -> float:
    """A finite number between `above` and `below`, both excluded, as a float of the host."""
    if isinstance(value, str | bytes | bool) or value is None:
        raise ValueError(f"{name} must be a number; got {in_brief(value)}.")
    number = as_float64(name, value)
    if number.shape != () or not np.isfinite(number) or not above < number < below:
        bound = {
            (True, True): "",
            (False, True): f" > {above:g}",
            (True, False): f" < {below:g}",
            (False, False): f" between {above:g} and {below:g}",
        }[bool(np.isinf(above)), bool(np.isinf(below))]
        raise ValueError(f"{name} must be a finite number{bound}; got {in_brief(value)}.")
    return float(number)


def check_fraction(name: str, value: Any) -> Array:
    """A number in [0, 1), as an array."""
    number = as_real(name, value, jnp.result_type(float))
    if number.shape != () or not 0 <= float(number) < 1:
        raise ValueError(f"{name} must be a number in [0, 1); got {in_brief(value)}.")
    return number


def check_part(name: str, value: Any, kind: type, example: str) -> None:
    """Raises unless `value` is of the kind of module that belongs there."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {example}; got {in_brief(value)}.")


def check_key(key: Any) -> jax.Array:
    """A JAX key, as `jax.random.key(0)` gives (or `PRNGKey`)."""
    is_key = isinstance(key, jax.Array) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == jnp.uint32 and key.shape == (2,))
    )
    if not is_key:
        raise ValueError(f"key must be one JAX key, such as jax.random.key(0); got {key!r}.")
    return key


def check_symmetric(name: str, value) -> Array:
    """A finite symmetric (d, d) matrix, symmetrised exactly."""
    matrix = as_real(name, value)
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


# Numbers of an array that are shown, and characters of anything else.
_MOST_NUMBERS = 6
_MOST_TEXT = 80


def in_brief(value: Any) -> str:
    """`value` in one line: up to six numbers whole, of larger arrays the first ones and the shape.

    Of an Equinox module the name, of anything else the start of its repr.
    """
    if isinstance(value, eqx.Module):
        return f"a {type(value).__name__}"
    array = _as_numbers(value)
    if array is None or (array.ndim == 0 and not isinstance(value, np.ndarray | jax.Array)):
        text = " ".join(repr(value).split())
        return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"
    if array.ndim == 0:
        return f"{array[()]:.6g}"
    shown = ", ".join(f"{x:.6g}" for x in array.ravel()[:_MOST_NUMBERS])
    if array.ndim == 1 and array.size <= _MOST_NUMBERS:
        return f"[{shown}]"
    dots = ", …" if array.size > _MOST_NUMBERS else ""
    size = f"d = {array.size}" if array.ndim == 1 else f"shape {array.shape}"
    return f"[{shown}{dots}] ({size})"


def _as_numbers(value: Any) -> np.ndarray | None:
    """`value` as an array of real numbers, or None."""
    if not isinstance(value, np.ndarray | np.generic | jax.Array | list | tuple):
        return None
    if isinstance(value, Tracer):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "fiu" else None
