"""What every experiment shares: the protocol, its runner, its files, its exit code.

An experiment is a module beside this package with

- a docstring whose lines `Claim:`, `Source:`, `Subject:` say what it tests and where it belongs,
- `Config`, a frozen dataclass, and `PRESETS`, a dictionary of its instances,
- `measure(config, key) -> xr.Dataset`, the only part that simulates,
- `predict(config) -> dict`, by algebra or quadrature,
- `check(config, data, predicted) -> list[Comparison]`,
- `plot(config, data, predicted) -> Figure`,

and, where it needs them, `conclude(config, data, comparisons)`, a text, and `ALONE = True`, if
nothing else may run meanwhile.
"""

from .. import _files as files
from .estimates import get, put
from .every import run_all
from .protocol import (
    as_json,
    by_subject,
    docstring,
    from_json,
    headline,
    load,
    names,
    nearest,
    paragraph,
    preset,
    SUBJECTS,
)
from .results import Damaged, find, is_current, read, Result, Row
from .single import run, show

__all__ = [
    "as_json", "by_subject", "Damaged", "docstring", "files", "find", "from_json", "get",
    "headline", "is_current", "load", "names", "nearest", "paragraph", "preset", "put", "read",
    "Result", "Row", "run", "run_all", "show", "SUBJECTS",
]  # fmt: skip
