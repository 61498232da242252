"""Predictions by subject, which never simulate: closed forms and deterministic numerics.

A subject is imported when it is used first: `ss.theory.escape.mean_exit_time`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sde_sgd.theory import (
        equations as equations,
        escape as escape,
        laws as laws,
        matrices as matrices,
        selection as selection,
        stationary as stationary,
    )

_SUBJECTS = ("equations", "escape", "laws", "matrices", "selection", "stationary")


def __getattr__(name: str):
    if name in _SUBJECTS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"{__name__} has the subjects {', '.join(_SUBJECTS)}; got {name!r}.")


def __dir__() -> list[str]:
    return sorted(_SUBJECTS)
