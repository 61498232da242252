"""A sample of the bad inputs of `python -m tests.fuzz`, without the checks of types."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_bad_input_is_refused_where_it_comes_in():
    """Of 300 calls with one bad argument none hangs, crashes or fails inside JAX or NumPy."""
    command = [sys.executable, "-m", "tests.fuzz", "--sample", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "300" in done.stdout
