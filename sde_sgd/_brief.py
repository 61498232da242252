"""Values as messages and tables show them, in letters that the terminal has."""

import inspect
import sys
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

# Numbers of an array that are shown, and characters of anything else.
_MOST_NUMBERS = 6
_MOST_TEXT = 80
# What is written where an encoding lacks the letters of formulas (ASCII, Windows' cp1252).
_SPELT = {
    "η": "eta", "θ": "theta", "λ": "lambda", "μ": "mu", "ρ": "rho", "σ": "sigma", "κ": "kappa",
    "τ": "tau", "χ": "chi", "Σ": "Sigma", "∇": "grad ", "√": "sqrt ", "∞": "inf", "±": "+-",
    "−": "-", "·": "*", "×": "x", "²": "^2", "³": "^3", "½": "1/2", "≤": "<=", "≥": ">=", "≠": "!=",
    "→": "->", "…": "...", "✓": "yes", "✗": "no",
}  # fmt: skip


def for_stdout(text: str) -> str:
    """`text`, which a user may print, with the letters spelt out that his stdout does not have."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_letter(letter, encoding) for letter in text)
    return text


def _letter(letter: str, encoding: str) -> str:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return _SPELT.get(letter, "?")
    return letter


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


def as_typed(module: eqx.Module) -> str:
    """A module as a user would type it: its arguments, without those that are as by default."""
    told = []
    for name, argument in inspect.signature(type(module)).parameters.items():
        value = getattr(module, name, None)
        plain = _plain(value)
        if value is None or (plain is not None and plain == _plain(argument.default)):
            continue
        told.append(f"{name}={typed(value)}")
    return for_stdout(f"{type(module).__name__}({', '.join(told)})")


def _plain(value: Any) -> Any:
    """A number, text or truth value as one of Python, which can be compared; else None."""
    if isinstance(value, jax.Array | np.ndarray) and not isinstance(value, Tracer):
        value = value.item() if value.ndim == 0 else None
    return value if isinstance(value, bool | int | float | str) else None


def typed(value: Any) -> str:
    """An argument as a user would type it; arrays by dtype and shape, functions by name."""
    plain = _plain(value)
    if plain is not None:
        return f"{plain:.6g}" if isinstance(plain, float) else repr(plain)
    if isinstance(value, list | tuple) and any(isinstance(v, eqx.Module) for v in value):
        return f"[{', '.join(typed(v) for v in value)}]"
    if isinstance(value, eqx.Module):
        return repr(value)
    if callable(value) or hasattr(value, "_fields"):  # optax's optimisers are tuples of functions
        return getattr(value, "__qualname__", type(value).__name__).rpartition(".")[2]
    return eqx.tree_pformat(value, width=10_000)


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
