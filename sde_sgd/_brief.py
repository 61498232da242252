"""Values as messages and tables show them, in letters that the terminal has."""

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
