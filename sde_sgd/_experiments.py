"""The console command `sde-sgd-experiments`: `python -m experiments`, wherever that is."""

import importlib.util
import runpy
from pathlib import Path


def main() -> None:
    """Runs the package of the experiments: inside of this one from a wheel, beside it from a clone.

    **Raises:** `SystemExit` in one line where the packages of the extra are missing.
    """
    here = Path(__file__).parent
    package = "sde_sgd.experiments" if (here / "experiments").is_dir() else "experiments"
    if package == "experiments" and not (here.parent / package / "framework").is_dir():
        raise SystemExit("The experiments are not installed: install sde_sgd from its wheel.")
    # The names to import of what the extra `experiments` brings.
    needed = ("tyro", "rich", "sklearn", "jinja2", "PIL", "filelock")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"The experiments need {', '.join(missing)}: pip install 'sde_sgd[experiments]'."
        )
    runpy.run_module(package, run_name="__main__", alter_sys=True)
