"""Pages of docs/ that code writes are what it writes."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_what_is_exact():
    """docs/what_is_exact.md is what the library answers."""
    spec = importlib.util.spec_from_file_location("what_is_exact", DOCS / "what_is_exact.py")
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    table = page.table()
    assert table == (DOCS / "what_is_exact.md").read_text(), "run python docs/what_is_exact.py"
    assert "| SGD, momentum | exact | exact | exact | about=θ |" in table
