"""Every check of what a user hands over: a number, an array, a part, a key.

Each check returns what it checked in the form that the library computes with, or raises one
`ValueError` that names the argument, its value and the way out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sde_sgd._brief import in_brief as in_brief
from sde_sgd._user_functions import naming
from sde_sgd.types import RealLike

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
    """An integer from `least` to `most` (of 64 bits), of Python or of NumPy."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    largest = 2**63 - 1 if most is None else most
    if not integer or not least <= value <= largest:
        bound = f"from {least} to {largest}" if integer and value > largest else f"≥ {least}"
        raise ValueError(f"{name} must be an integer {bound}; got {in_brief(value)}.")
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


def check_at_least(name: str, value: Any, least: RealLike = 0.0) -> float:
    """A finite number ≥ `least`, as a float of the host."""
    number = check_number(name, value)
    if number < least:
        raise ValueError(f"{name} must be a finite number ≥ {least:g}; got {in_brief(value)}.")
    return number


def check_callable(name: str, value: Any, example: str) -> Callable:
    """A function of the user's; `example` shows one."""
    if not callable(value):
        raise ValueError(f"{name} must be a function, such as {example}; got {in_brief(value)}.")
    return value


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """One of a few words, or of a few integers or truth values."""
    for choice in choices:
        if _kind(value) == _kind(choice) and value == choice:
            return choice
    told = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"{name} must be one of {told}; got {in_brief(value)}.")


def _kind(value: Any) -> type:
    for kind in (bool, str):
        if isinstance(value, kind):
            return kind
    return int if isinstance(value, int | np.integer) else type(value)


def check_flag(name: str, value: Any) -> bool:
    """True or False, of Python or of NumPy."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False; got {in_brief(value)}.")
    return bool(value)


def check_progress(progress: Any) -> None:
    """Whether a line is shown: True, False, or None where a terminal decides."""
    if progress is not None:
        check_flag("progress", progress)


def check_text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text; got {in_brief(value)}.")
    return value


def check_path(name: str, value: Any) -> Path:
    """A path in the file system."""
    if not isinstance(value, str | Path):
        raise ValueError(f"{name} must be a path, as a text or a Path; got {in_brief(value)}.")
    return Path(value)


def check_list(name: str, value: Any, example: str) -> list:
    """The entries of a list, tuple, array or other iterable whose order means something."""
    told = isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable)
    if told or getattr(value, "ndim", 1) == 0:
        raise ValueError(f"{name} must be a list, such as {example}; got {in_brief(value)}.")
    return list(value)


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
    is_key = isinstance(key, jax.Array | np.ndarray) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == jnp.uint32 and key.shape == (2,))
    )
    if not is_key:
        raise ValueError(
            f"key must be one JAX key, such as jax.random.key(0); got {in_brief(key)}."
        )
    return key if isinstance(key, jax.Array) else jnp.asarray(key)


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
    array = value if isinstance(value, Array) else _as_array(name, value)
    _refuse_unreal(name, array.dtype, value)
    return array


def _told(value: Any) -> str:
    """What was given instead: a word, a dictionary, a model; of arrays the dtype says enough."""
    return "" if isinstance(value, Array | np.ndarray) else f"; got {in_brief(value)}"


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        # NumPy's own word for rows of several lengths.
        raise ValueError(
            f"{name} must be a number or an array, all of whose rows have one length; got "
            f"{in_brief(value)}."
        ) from None


def _refuse_unreal(name: str, dtype: Any, value: Any) -> None:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} must be real, not {dtype}: pass the real part, or the real and the imaginary "
            f"part as separate coordinates."
        )
    integer = jnp.issubdtype(dtype, jnp.integer) and not jnp.issubdtype(dtype, np.timedelta64)
    if not (integer or jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, np.bool_)):
        raise ValueError(f"{name} must be real numbers, not of dtype {dtype}{_told(value)}.")


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
    if isinstance(value, list | tuple) and value:
        rows = [real_output(name, entry) for entry in value]
        if len({row.shape for row in rows}) > 1:
            raise ValueError(
                f"{name} must give one array; it gives a list of arrays of the shapes "
                f"{', '.join(str(row.shape) for row in rows)}."
            )
        value = jnp.stack(rows)
    if not isinstance(value, Array | np.ndarray | np.generic | int | float | complex):
        raise ValueError(f"{name} must give real numbers; it gives {in_brief(value)}.")
    array = jnp.asarray(real_values(name, value))
    return array if dtype is None else array.astype(dtype)


def output_shape(name: str, function: Callable, *arguments: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of what a user's function gives for arguments of these shapes.

    Nothing is computed. **Raises:** `ValueError` as `real_output`, and for a function that JAX
    cannot compile or that fails, with the place in it.
    """
    with naming(name):
        return eqx.filter_eval_shape(lambda *given: real_output(name, function(*given)), *arguments)


def check_landscape(landscape: Any, kind: type) -> None:
    """A landscape of the wanted kind, whose numbers JAX can still hold."""
    check_part("landscape", landscape, kind, "a landscape such as LeastSquares")
    check_precision(type(landscape).__name__, landscape.dtype)


def check_precision(name: str, dtype: Any) -> None:
    """Raises where float64 numbers meet a JAX whose 64-bit numbers were switched off since."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"{name} was made in {dtype}, and JAX's 64-bit numbers are off now: switch them on "
            f"once, at the start of the program (jax.config.update('jax_enable_x64', True)), or "
            f"make it again."
        )


def check_vector(name: str, value: Any, size: int, dtype: Any) -> Array:
    """An array (size,) of a dtype, whose numbers may not be known yet."""
    vector = as_real(name, value, dtype)
    if vector.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},); got {vector.shape}.")
    return vector


def check_point(name: str, value: Any, landscape: Any) -> Array:
    """θ, (d,) and finite, in the landscape's dtype."""
    point = check_vector(name, value, landscape.dimension, landscape.dtype)
    if not np.isfinite(np.asarray(point)).all():
        raise ValueError(f"{name} has entries that are not finite; got {in_brief(value)}.")
    return point


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
