"""What a function names: globals, attributes of modules, imports; and whose code that is."""

import builtins
import dis
import hashlib
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

# Their versions are in the header of a checkpoint, where another one is a warning.
_COMPARED = {"sde_sgd", "jax", "jaxlib", "numpy", "equinox", "diffrax", "python"}
_INSTALLED = {"site-packages", "dist-packages"}


def library(module: str | None) -> str | None:
    """Name and version of the installed package that a module belongs to; None if it is the user's.

    Python, this library and what it computes with are named without a version.
    """
    top = (module or "").partition(".")[0]
    if top in ("", "__main__", "__mp_main__"):
        return None
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return "python"
    if top in _COMPARED:
        return top
    loaded = sys.modules.get(module or "") or sys.modules.get(top)
    file = getattr(loaded, "__file__", None)
    if file is None or not _INSTALLED & set(Path(file).parts):
        return None
    return f"{top} {_version(top)}".strip()


def _version(top: str) -> str:
    known = getattr(sys.modules.get(top), "__version__", None)
    if isinstance(known, str):
        return known
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        return ""


def file_digest(module: types.ModuleType) -> str:
    """Of the source of a module, and of the modules of its package that are loaded.

    **Raises:** `ValueError` for a module without a file.
    """
    names = [n for n in sys.modules if n == module.__name__ or n.startswith(f"{module.__name__}.")]
    files = [getattr(sys.modules[name], "__file__", None) for name in sorted(names)]
    digest = hashlib.sha256()
    if not any(files):
        raise ValueError(f"module {module.__name__!r} has no file")
    for file in filter(None, files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def references(code: types.CodeType, known: dict[str, Any]) -> dict[str, Any]:
    """Values that a function and the functions inside it name, by name ("module.attribute")."""
    found: dict[str, Any] = {}
    instructions = [i for i in dis.get_instructions(code) if i.opname != "EXTENDED_ARG"]
    for place, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            name = str(instruction.argval)
            inside = sys.modules.get(name)
            if inside is not None and library(name) is None:
                found[name] = inside
        if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        name = instruction.argval
        if name not in known:
            if not hasattr(builtins, name):
                found[name] = "(not defined)"
            continue
        value = known[name]
        # Of a module only what is used of it.
        for following in instructions[place + 1 :]:
            used = following.opname in ("LOAD_ATTR", "LOAD_METHOD")
            if not used or not isinstance(value, types.ModuleType):
                break
            if not hasattr(value, following.argval):
                break
            name, value = f"{name}.{following.argval}", getattr(value, following.argval)
        found[name] = value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= references(constant, known)
    return found
