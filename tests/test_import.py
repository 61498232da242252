"""`import sde_sgd` brings in what every user needs, and the rest when somebody asks for it."""

import json
import subprocess
import sys

WAITING = ("scipy.optimize", "scipy.special", "scipy.sparse", "scipy.stats", "optax", "matplotlib")
SUBJECTS = ("stationary", "laws", "escape", "selection", "equations", "matrices")


def loaded(code):
    """Names of the modules that a new interpreter holds after some code."""
    report = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_nothing_comes_in_before_it_is_used():
    """Neither optimisers, solvers, drawing nor a subject of theory that nobody asked for.

    Control: what the package cannot do without is there, and a subject comes in by its name.
    """
    waiting = {*WAITING, "h5netcdf", *(f"sde_sgd.theory.{name}" for name in SUBJECTS)}
    before = loaded("import jax, equinox, diffrax, xarray")
    after = loaded("import sde_sgd")
    assert {"jax", "diffrax", "sde_sgd.simulate.engine"} <= after
    assert waiting & (after - before) == set()
    asked = loaded("import sde_sgd as ss; ss.theory.laws.GridDensity")
    assert "sde_sgd.theory.laws" in asked
