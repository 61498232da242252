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


def test_names_in_the_tables_exist():
    """What «you type» is in `ss`, what «you want to know» in `ss.theory`."""
    other = {"mnist", "sde", "diffrax"}  # an extra, an object, a package
    for heading, place in (("| you want | you type |", ss), ("| you want to know |", ss.theory)):
        rows = table(heading)
        assert len(rows) > 4
        for _, *cells in rows:
            for code in re.findall(r"`([^`]+)`", " ".join(cells)):
                name = code.replace("..._", "stationary_covariance_")
                name = re.match(r"\.?(\w+)", name.removeprefix("ss.")).group(1)
                option = re.match(r"\.|\w+=", code)
                if option is None and name not in other:
                    assert hasattr(place, name), f"{code} is not in {place.__name__}"


def test_every_experiment_is_in_the_table():
    """The experiments that the README lists are those that there are."""
    listed = [row[0].strip("`") for row in table("| experiment |") if row[0].startswith("`")]
    assert sorted(listed) == framework.names()
