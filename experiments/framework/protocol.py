"""Which experiments there are, what they say of themselves, and where they belong."""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

SUBJECTS = {
    "side_by_side": "The two side by side",
    "stationary": "Stationary states",
    "escape": "Escape",
    "selection": "Selection",
    "equations": "Equations and their validity",
    "matrices": "Weight matrices",
    "noises": "Samplers and other noises",
}
"""Title of each subject, in the order in which they are listed."""

_ROOT = Path(__file__).parents[1]
_PACKAGE = __name__.rsplit(".", 2)[0]
COMMANDS = ("all", "atlas")
"""What `python -m experiments` does beside running one of them."""

_SHARED = {"framework", "peers", "probe", "__main__"}


@functools.cache
def _names() -> tuple[str, ...]:
    found = [info.name for info in pkgutil.iter_modules([str(_ROOT)])]
    return tuple(sorted(x for x in found if x not in _SHARED and not x.startswith("_")))


def names() -> list[str]:
    """All experiments, sorted."""
    return list(_names())


def nearest(kind: str, word: str, known: Iterable[str]) -> str:
    """«No experiment 'x'; the nearest are: a, b, c.», best first."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.0)
    return f"No {kind} {word!r}; the nearest are: {', '.join(close)}."


def load(name: str) -> ModuleType:
    """The experiment's module. **Raises:** `SystemExit`, with the nearest names."""
    if name not in names():
        told = nearest("experiment", name, [*names(), *COMMANDS])
        raise SystemExit(f"{told} python -m {_PACKAGE} lists all of them.")
    return importlib.import_module(f"{_PACKAGE}.{name}")


def preset(module: ModuleType, chosen: str) -> Any:
    """The experiment's parameters of that name. **Raises:** `SystemExit`, with the nearest."""
    if chosen not in module.PRESETS:
        raise SystemExit(nearest("preset", chosen, module.PRESETS))
    return module.PRESETS[chosen]


@functools.cache
def docstring(name: str) -> str:
    """What the experiment says of itself, without importing it."""
    tree = ast.parse((_ROOT / f"{name}.py").read_text("utf-8"))
    return ast.get_docstring(tree) or ""


def paragraph(text: str, word: str) -> str:
    """The paragraph of a docstring that starts with «word:», on one line; empty without one."""
    found = re.search(rf"^{word}:\s*(.+?)(?:\n\s*\n|\n[A-Z][a-z]+:|\Z)", text, re.S | re.M)
    return " ".join(found.group(1).split()) if found else ""


def headline(module: ModuleType, word: str) -> str:
    """That paragraph of an experiment's docstring."""
    return paragraph(inspect.cleandoc(module.__doc__ or ""), word)


def by_subject() -> dict[str, list[str]]:
    """The experiments of every subject. **Raises:** `SystemExit` for one that has no subject."""
    found: dict[str, list[str]] = {subject: [] for subject in SUBJECTS}
    for name in names():
        subject = paragraph(docstring(name), "Subject")
        if subject not in found:
            raise SystemExit(
                f"{name}.py has the subject {subject!r}: its docstring needs a line «Subject: x», "
                f"x one of {', '.join(SUBJECTS)}."
            )
        found[subject].append(name)
    return found


def as_json(config: Any) -> dict[str, Any]:
    """Parameters as a JSON file has them: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(value: Any) -> Any:
    """Lists of a JSON file as the tuples that a `Config` has."""
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value
