"""What a run *is*, in words that do not change between interpreters."""

import dataclasses
import functools
import hashlib
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def describe(value: Any) -> Any:
    """A JSON-able description: fields of modules, digests of arrays, code of functions.

    Functions are described by qualified name, bytecode, constants (nested functions among
    them), defaults, the values that they close over, the object that they are bound to and
    the numbers and arrays among the globals that they name: two schedules from one factory
    differ when their parameters do. Not seen: what the functions that they call read.
    """
    return _describe(value, frozenset())


def _describe(value: Any, seen: frozenset[int]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return {"key": str(jax.random.key_impl(value)), "data": _array(jax.random.key_data(value))}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value)
    if id(value) in seen:
        return "(itself)"
    seen = seen | {id(value)}
    if isinstance(value, dict):
        return {str(key): _describe(item, seen) for key, item in sorted(value.items(), key=str)}
    if isinstance(value, tuple | list):
        return [_describe(item, seen) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_describe(item, seen)) for item in value)
    if isinstance(value, complex | bytes | type(Ellipsis)):
        return repr(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, eqx.Module) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    ):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return {
            "type": f"{type(value).__module__}.{type(value).__qualname__}",
            **{name: _describe(item, seen) for name, item in fields.items()},
        }
    if isinstance(value, functools.partial):
        return [_describe(part, seen) for part in (value.func, value.args, value.keywords)]
    if callable(value):
        return _function(value, seen)
    if hasattr(value, "__dict__") and not isinstance(value, types.ModuleType):
        own = _describe(vars(value), seen)
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", "state": own}
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _array(value) -> dict[str, Any]:
    array = np.ascontiguousarray(np.asarray(value))
    if array.ndim == 0 or array.size <= 4:
        # Readable, so that a refused checkpoint can say what the number was.
        return {"dtype": str(array.dtype), "values": [str(x) for x in array.ravel()]}
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}


def _function(function: Any, seen: frozenset[int]) -> dict[str, Any]:
    wrapped = getattr(function, "__wrapped__", None)
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    text: dict[str, Any] = {"function": name or type(function).__qualname__}
    if code is not None:
        text |= _code(code, seen)
        text["defaults"] = _describe(getattr(function, "__defaults__", None), seen)
        text["keyword_defaults"] = _describe(getattr(function, "__kwdefaults__", None), seen)
        cells = getattr(function, "__closure__", None) or ()
        text["closure"] = dict(
            zip(code.co_freevars, [_describe(_cell(cell), seen) for cell in cells], strict=True)
        )
        known = getattr(function, "__globals__", {})
        values = {name: known[name] for name in _names(code) if name in known}
        text["globals"] = {name: _describe(v, seen) for name, v in values.items() if _plain(v)}
        if hasattr(function, "__self__"):
            text["bound_to"] = _describe(function.__self__, seen)
    elif wrapped is not None:
        text["wraps"] = _describe(wrapped, seen)
    elif dataclasses.is_dataclass(function) or hasattr(function, "__dict__"):
        text["state"] = _describe(dict(vars(function)), seen)
    return text


def _code(code: types.CodeType, seen: frozenset[int]) -> dict[str, Any]:
    constants = [
        _code(c, seen) if isinstance(c, types.CodeType) else _describe(c, seen)
        for c in code.co_consts
    ]
    digest = hashlib.sha256(code.co_code).hexdigest()[:16]
    return {"code": digest, "constants": constants, "names": list(code.co_names)}


def _names(code: types.CodeType) -> list[str]:
    """Global names of a function and of the functions inside it."""
    inner = [n for c in code.co_consts if isinstance(c, types.CodeType) for n in _names(c)]
    return sorted({*code.co_names, *inner})


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple | np.ndarray | np.generic | jax.Array)


def _cell(cell) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "(empty)"
