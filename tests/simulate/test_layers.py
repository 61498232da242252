"""The package's own shape: imports run downwards, names are documented, files stay short."""

import ast
import inspect
from pathlib import Path

from fuzz.public import public

import sde_sgd

ROOT = Path(sde_sgd.__file__).parent
ORDER = (
    "types",
    "_user_functions",
    "_brief",
    "_checks",
    "memory",
    "terminal",
    "netcdf",
    "estimate",
    "random",
    "landscapes",
    "noise",
    "processes",
    "theory",
    "measure",
    "simulate",
    "rare_events",
    "compare",
    "identify",
    "plots",
    "sweeps",
    "side_by_side",
    "validity",
    "_experiments",
)
# Predictions never simulate, and never draw.
ONLY = {
    "theory": {
        "types",
        "_user_functions",
        "_brief",
        "_checks",
        "estimate",
        "landscapes",
        "noise",
        "processes",
    }
}


def layer(path):
    """Name of the layer of a file: its package, or the module at the top."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path, text):
    """Layers of this package that a file imports when it runs, wherever in the file."""
    parts = ("sde_sgd", *path.relative_to(ROOT).with_suffix("").parts)
    tree, found = ast.parse(text), set()
    never_run = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for line in block.body
        for node in ast.walk(line)
    }
    for node in ast.walk(tree):
        if node in never_run:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(x for x in (base, node.module) if x)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "sde_sgd":
                found.add(pieces[1] if len(pieces) > 1 else "")
    return found


def forbidden(path, text):
    """Imported layers that a file may not see."""
    own = layer(path)
    below = ONLY.get(own, set(ORDER[: ORDER.index(own)]))
    return imported(path, text) - below - {own}


def files():
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def test_every_file_has_a_layer():
    """Each module of the package stands in the order of the design."""
    assert {layer(p) for p in files()} <= set(ORDER)
    assert len(files()) > 30


def test_imports_run_downwards():
    """A module imports from earlier layers and its own; theory from what it predicts."""
    wrong = {str(p.relative_to(ROOT)): forbidden(p, p.read_text()) for p in files()}
    assert {name: layers for name, layers in wrong.items() if layers} == {}


def test_an_upward_import_is_seen():
    """Control: upward, absolute, hidden and top-level imports are found."""
    path = ROOT / "measure" / "moments.py"
    for line in (
        "from ..simulate import Run",
        "from ..simulate.run import Run",
        "from .. import simulate",
        "import sde_sgd.simulate.run",
        "from sde_sgd import simulate",
        "def f():\n    from sde_sgd.simulate import Run",
    ):
        assert forbidden(path, line) == {"simulate"}, line
    assert forbidden(path, "import sde_sgd") == {""}
    assert forbidden(path, "if TYPE_CHECKING:\n    from ..simulate import Run") == set()
    assert forbidden(ROOT / "theory" / "x.py", "from ..random import Draws") == {"random"}
    assert (
        forbidden(path, "from ..random.draws import Draws\nfrom .base import Tick\nimport jax")
        == set()
    )


def test_public_names_are_documented():
    """Every public class and function has a docstring of its own."""
    names = public()
    assert {"SGD", "simulate", "theory.escape.mean_exit_time", "curvature.trace"} <= set(names)
    # Without a docstring of its own a dataclass gets its signature, a subclass its parent's.
    bare = [n for n, v in names.items() if not (v.__doc__ or "").strip() or _generated(v)]
    assert bare == []


def _generated(value):
    return inspect.isclass(value) and value.__doc__.startswith(f"{value.__name__}(")


def test_names_are_few_and_say_one_thing():
    """At most 100 names at the top, and no two public classes of one name."""
    assert len(dir(sde_sgd)) <= 100
    classes = [value.__name__ for value in public().values() if inspect.isclass(value)]
    assert sorted(name for name in set(classes) if classes.count(name) > 1) == []


def test_every_module_is_documented():
    """Every file says in its first line what it is for."""
    assert [str(p) for p in files() if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_files_stay_short():
    """No file of the package is over 400 lines."""
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
