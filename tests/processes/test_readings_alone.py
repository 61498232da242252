"""A process is known by what it answers: nothing outside `processes` asks for its class."""

import ast
from pathlib import Path

import sde_sgd as ss

PACKAGE = Path(ss.__file__).parent
ROOM = PACKAGE / "processes"


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


CLASSES = {
    kind.__name__
    for kind in subclasses(ss.AbstractProcess)
    if kind.__module__.startswith("sde_sgd.processes")
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if ROOM not in path.parents)


def branches(tree):
    """Questions `isinstance(x, SomeProcess)` that are no refusal, and getattr of a process."""
    refusals = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise):
            refusals |= {id(inner) for inner in ast.walk(node.test)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if node.func.id == "isinstance" and names & CLASSES and id(node) not in refusals:
            yield ast.unparse(node)
        text = ast.unparse(node.args[0]) if node.args else ""
        of_process = text.split(".")[-1] in ("process", "sgd", "sde", "equation")
        if node.func.id in ("getattr", "hasattr") and of_process:
            yield ast.unparse(node)


def test_no_file_branches_on_the_class_of_a_process():
    found = {str(f.relative_to(PACKAGE)): list(branches(ast.parse(f.read_text()))) for f in FILES}
    assert {name: asked for name, asked in found.items() if asked} == {}


def test_it_sees_what_it_looks_for():
    """A ladder and a name asked for are found; a refusal of an argument is none."""
    assert {"SGD", "ModifiedEquation", "Stages"} <= CLASSES
    ladder = "x = 1 if isinstance(p, SGD | SVAG) else getattr(process, 'momentum', 0)"
    assert len(list(branches(ast.parse(ladder)))) == 2
    assert not list(branches(ast.parse("if not isinstance(p, SGD):\n    raise ValueError(p)")))
