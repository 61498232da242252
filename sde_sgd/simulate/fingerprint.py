"""What a run *is*, in words that do not change between interpreters."""

import copyreg
import dataclasses
import functools
import hashlib
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd.simulate.references import file_digest, library, references

# What `type` and decorators write into a class, which its own lines do not say.
_GENERATED = {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__slots__"}

_TYPE_CHECKS = (["jaxtyping"], ["beartype"])


def describe(value: Any) -> Any:
    """A JSON-able description: fields of objects, digests of arrays, code of functions.

    Functions are described by name, bytecode, constants (nested functions among them), defaults,
    the values that they close over, the object that they are bound to, and all that they name:
    globals, attributes of the user's modules, and in turn the functions and classes among those.
    It stops at installed packages, which are named with their version. What cannot be looked into,
    such as an open file or a compiled function of the user's, is marked (`unseen`).
    """
    return _Description().of(value, frozenset())


def unseen(description: Any, path: str = "") -> list[str]:
    """What a description could not look into, as «path (kind)»."""
    if isinstance(description, dict):
        if "unseen" in description:
            return [f"{path} ({description['unseen']})"]
        parts = [(f"{path}.{key}".lstrip("."), item) for key, item in description.items()]
    elif isinstance(description, list):
        parts = [(f"{path}[{i}]", item) for i, item in enumerate(description)]
    else:
        return []
    return [found for name, item in parts for found in unseen(item, name)]


class _Description:
    """Functions, classes and modules are described where they are met first, and named later."""

    def __init__(self):
        self.known: dict[int, Any] = {}
        self.arrays: dict[int, tuple[Any, dict[str, Any]]] = {}

    def of(self, value: Any, seen: frozenset[int]) -> Any:
        """The description of anything; `seen` are the objects around it."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, np.dtype):
            return str(value)
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = _array(jax.random.key_data(value))
            return {"key": str(jax.random.key_impl(value)), "data": data}
        if isinstance(value, np.ndarray | np.generic | jax.Array) and value.dtype != object:
            # The data of a landscape are found in each function that names it, and hashed once.
            if id(value) not in self.arrays:
                self.arrays[id(value)] = value, _array(value)
            return self.arrays[id(value)][1]
        if isinstance(value, complex | bytes | type(Ellipsis)):
            return repr(value)
        if id(value) in seen:
            return "(itself)"
        try:
            return self._object(value, seen | {id(value)})
        except Exception as error:
            return {"unseen": f"{_kind(value)}: {error}"}

    def _object(self, value: Any, seen: frozenset[int]) -> Any:
        if isinstance(value, np.ndarray):
            return {"shape": list(value.shape), "items": self.of(value.ravel().tolist(), seen)}
        if isinstance(value, dict | types.MappingProxyType):
            items = sorted(value.items(), key=lambda pair: _key(pair[0]))
            return {_key(key): self.of(item, seen) for key, item in items}
        if isinstance(value, tuple | list):
            return [self.of(item, seen) for item in value]
        if isinstance(value, set | frozenset):
            return sorted(str(self.of(item, seen)) for item in value)
        if isinstance(value, types.ModuleType | type | types.FunctionType):
            return self._once(value, seen)
        if isinstance(value, types.MethodType):
            bound = self.of(value.__self__, seen)
            return {"method": self.of(value.__func__, seen), "bound_to": bound}
        if isinstance(value, functools.partial):
            return [self.of(part, seen) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            owner = getattr(value, "__self__", None)
            if isinstance(owner, types.ModuleType):
                package = library(owner.__name__)
                return {"function": value.__qualname__, "of": package or file_digest(owner)}
            return {"function": value.__qualname__, "bound_to": self.of(owner, seen)}
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__, seen)
        if isinstance(value, property):
            return [self.of(part, seen) for part in (value.fget, value.fset, value.fdel)]
        return self._instance(value, seen)

    def _once(self, value: Any, seen: frozenset[int]) -> Any:
        name = getattr(value, "__qualname__", value.__name__)
        if id(value) in self.known:
            return f"({name}, see above)"
        self.known[id(value)] = value
        if isinstance(value, types.FunctionType):
            return self._function(value, seen)
        where = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        package = library(where)
        if package is not None:
            return f"{where} of {package}" if where == name else f"{where}.{name} of {package}"
        if isinstance(value, types.ModuleType):
            return {"module": name, "source": file_digest(value)}
        return {"class": name, **self._class(value, seen)}

    def _class(self, value: type, seen: frozenset[int]) -> dict[str, Any]:
        """What the user's lines say of a class and its bases."""
        found: dict[str, Any] = {}
        for base in value.__mro__:
            if library(base.__module__) is not None:
                continue
            for name, member in sorted(vars(base).items()):
                inner = getattr(member, "__func__", getattr(member, "method", member))
                code = getattr(inner, "__code__", None)
                special = name.startswith("__") or name.startswith("_abc")
                # What a decorator has written comes from "<string>" or from its package.
                written = (
                    code is None or library(inner.__module__) or code.co_filename == "<string>"
                )
                if name in _GENERATED or (special and written) or name in found:
                    continue
                if not isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
                    found[name] = self.of(inner, seen)
        return found

    def _instance(self, value: Any, seen: frozenset[int]) -> Any:
        kind = type(value)
        known = getattr(sys.modules.get(getattr(value, "__module__", None) or ""), "__dict__", {})
        name = getattr(value, "__name__", None)
        if callable(value) and known.get(name) is value and library(value.__module__):
            return f"{value.__module__}.{name} of {library(value.__module__)}"
        own: dict[str, Any] = {"type": self._type(kind, seen)}
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                own[field.name] = self.of(getattr(value, field.name, None), seen)
            return own
        state = dict(getattr(value, "__dict__", {}))
        slots = [s for base in kind.__mro__ for s in _slots(base)]
        state |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        reduced = kind.__reduce__ is not object.__reduce__ or kind.__module__ == "builtins"
        if hasattr(value, "__wrapped__"):
            own["wraps"] = self.of(value.__wrapped__, seen)
            state = {k: v for k, v in state.items() if not k.startswith("__")}
        elif not state or (reduced and library(kind.__module__)):
            plain = not reduced and not slots and library(kind.__module__) is None
            reduce = copyreg.dispatch_table.get(kind, lambda x: x.__reduce_ex__(2))
            parts: Any = None if plain else reduce(value)
            if isinstance(parts, tuple):
                parts = [*parts[:3], *(list(items) for items in parts[3:5] if items is not None)]
            state = parts
        return own | {"state": self.of(state, seen)}

    def _type(self, kind: type, seen: frozenset[int]) -> Any:
        if library(kind.__module__) is None:
            return self._once(kind, seen)
        return f"{kind.__module__}.{kind.__qualname__}"

    def _function(self, function: types.FunctionType, seen: frozenset[int]) -> dict[str, Any]:
        # Not __module__, which a wrapper takes over from what it wraps.
        package = library(function.__globals__.get("__name__"))
        if hasattr(function, "__wrapped__") and (package or "").split()[:1] in _TYPE_CHECKS:
            # Type checks are no part of what is computed.
            return self.of(function.__wrapped__, seen)
        code = function.__code__
        text: dict[str, Any] = {"function": function.__qualname__}
        if package is None:
            text |= self._code(code, function.__doc__, seen)
        else:
            text["package"] = package
        text["defaults"] = self.of(function.__defaults__, seen)
        text["keyword_defaults"] = self.of(function.__kwdefaults__, seen)
        cells = function.__closure__ or ()
        values = [self.of(_cell(cell), seen) for cell in cells]
        text["closure"] = dict(zip(code.co_freevars, values, strict=True))
        if package is None:
            found = references(code, function.__globals__)
            text["globals"] = {name: self.of(found[name], seen) for name in sorted(found)}
        given = {k: v for k, v in vars(function).items() if k != "__wrapped__"}
        return text | ({"attributes": self.of(given, seen)} if given and package is None else {})

    def _code(self, code: types.CodeType, text: str | None, seen: frozenset[int]) -> dict[str, Any]:
        constants = [
            self._code(c, None, seen) if isinstance(c, types.CodeType) else self.of(c, seen)
            for c in code.co_consts
        ]
        if text is not None and constants and constants[0] == text:
            constants[0] = None
        digest = hashlib.sha256(code.co_code).hexdigest()[:16]
        return {"code": digest, "constants": constants, "names": list(code.co_names)}


def _array(value) -> dict[str, Any]:
    array = np.ascontiguousarray(np.asarray(value))
    if array.ndim == 0 or array.size <= 4:
        # Readable, so that a refused checkpoint can say what the number was.
        return {"dtype": str(array.dtype), "values": [str(x) for x in array.ravel()]}
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    plain = isinstance(key, int | float | tuple | bytes | None)
    return repr(key) if plain else getattr(key, "__qualname__", _kind(key))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [slots] if isinstance(slots, str) else list(slots)


def _cell(cell) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "(empty)"
