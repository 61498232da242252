"""What the README shows is what runs."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


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
