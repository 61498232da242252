"""What the README shows is what runs."""

import re
from pathlib import Path

import pytest

import sde_sgd as ss
from experiments import framework

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.slow
def test_readme_python_runs(tmp_path, monkeypatch):
    """Every Python block of the README runs."""
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert found
    for code in found:
        exec(compile(code, "README.md", "exec"), {})


def test_readme_has_exactly_two_commands():
    """Two shell blocks, each of one line that makes its own environment."""
    commands = blocks("bash")
    assert len(commands) == 2
    for command in commands:
        assert len(command.strip().splitlines()) == 1
        assert "-m venv" in command and "pip install" in command
    assert "experiments side_by_side" in commands[0] and "pytest" in commands[1]


def test_readme_figure_is_there():
    """The figure that the README shows exists."""
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[1] / path).is_file()


def table(heading: str) -> list[list[str]]:
    """Cells of the rows below a table's heading."""
    lines = README[README.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def assert_exist(cells: list[str], place) -> None:
    """Every name in backticks is one of `place`: options and what an object has are left out."""
    other = {"mnist", "sde", "diffrax"}  # an extra, an object, a package
    for code in re.findall(r"`([^`]+)`", " ".join(cells)):
        if re.match(r"\.|\w+=", code):
            continue
        name = re.match(r"[\w.]+", code.removeprefix("ss.")).group(0)
        found = place
        for part in [] if name.split(".")[0] in other else name.split("."):
            assert hasattr(found, part), f"{code} is not in {place.__name__}"
            found = getattr(found, part)


def test_names_in_the_tables_exist():
    """What «you type» is in `ss`, what «you want to know» in the subject of its row."""
    rows = table("| you want | you type |")
    assert len(rows) > 4
    for _, *cells in rows:
        assert_exist(cells, ss)
    subject, subjects = ss, set()
    for first, _, cell in table("| subject | you want to know |"):
        if first:
            name = first.strip("`").removeprefix("theory.")
            subject, subjects = getattr(ss.theory, name), subjects | {name}
        assert_exist([cell], subject)
    assert subjects == set(dir(ss.theory))


def test_every_experiment_is_in_the_table():
    """The experiments that the README lists are those that there are."""
    listed = [row[0].strip("`") for row in table("| experiment |") if row[0].startswith("`")]
    assert sorted(listed) == framework.names()
