"""The functions that users write, looked at once before time is spent.

JAX compiles them, and then their numbers are not known: a Python `if`, `math.exp` or a NumPy table
in one of them fails. What it raises becomes one `ValueError` that names the function, its line and
the way out. Where a whole run is asked for inside `jax.jit`, `vmap` or `grad`, that is said too.
"""

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import errors
from jax.core import Tracer

# What fails where a number is not known, with its usual causes and the way out; subclasses first.
_UNKNOWN = (
    (
        errors.TracerBoolConversionError,
        "a Python if, while, and, or, not, min or max needs it: use jnp.where(condition, a, b), "
        "jnp.minimum or jnp.maximum, with &, | and ~ between conditions",
    ),
    (
        errors.TracerIntegerConversionError,
        "an index into a list or a NumPy array needs it: take it from jnp.asarray(table)",
    ),
    (
        errors.TracerArrayConversionError,
        "a function or a table of NumPy needs it: use jnp.* in place of np.*, and jnp.asarray of a "
        "table",
    ),
    (
        errors.NonConcreteBooleanIndexError,
        "x[mask] needs it for its length: use jnp.where(mask, x, 0)",
    ),
    (
        errors.ConcretizationTypeError,
        "float(), int(), range() or a function of math needs it: use jnp.* in their place",
    ),
)
_PACKAGE = str(Path(__file__).parent)
_NOT_THE_USERS = (_PACKAGE, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """What a user's function raises in here as a `ValueError` that names it; those pass as is."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        refuse_unknown_number(name, error)
        reason = " ".join(str(error).split("\n")[0].split()).rstrip(".")
        raise ValueError(
            f"{name} cannot be called: {type(error).__name__}{_place(error)}: {reason}."
        ) from error


def refuse_unknown_number(name: str, error: Exception) -> None:
    """Raises `ValueError` where `error` is that of a function whose numbers JAX does not know."""
    for kind, advice in _UNKNOWN:
        if isinstance(error, kind):
            raise ValueError(
                f"{name} is compiled, and its numbers are not known then, but{_place(error)} "
                f"{advice}."
            ) from error


def refuse_tracing(name: str, *given: Any) -> None:
    """Raises `ValueError` where a run is asked for inside jit, vmap or grad.

    Under jit every new array is a tracer; under vmap and grad only what was made of an argument.
    """
    try:
        leaves = jax.tree.leaves(given)
    except ValueError:  # keys that cannot be sorted, which are refused where they are read
        leaves = []
    if isinstance(jnp.zeros(()), Tracer) or any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(
            f"{name} cannot be traced by jax.jit, vmap or grad, as it looks at its numbers and "
            f"compiles a loop of its own: call it outside. What JAX can trace is process.step, and "
            f"the Diffrax terms that ModifiedEquation.terms gives."
        )


def refuse_traced_number(name: str, value: Any, leaf: str) -> None:
    """Raises `ValueError` for a number that jit, vmap or grad trace, where it is looked at."""
    if isinstance(value, Tracer):
        raise ValueError(
            f"{name} is traced by jax.jit, vmap or grad, and must be known when a process is made: "
            f"make it outside, and put the traced number in with equinox.tree_at(lambda process: "
            f"process.{leaf}, process, number)."
        )


def _place(error: BaseException) -> str:
    """Where in the user's own code it happened: " in drift (model.py, line 12)", or nothing."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    if not own:
        return ""
    last = own[-1]
    return f" in {last.name} ({Path(last.filename).name}, line {last.lineno})"
