"""What every experiment shares: the protocol, its runner, its files, its exit code.

An experiment is a module of this package with

- a docstring whose lines `Claim:` and `Source:` say what it tests,
- `Config`, a frozen dataclass, and `PRESETS`, a dictionary of its instances,
- `measure(config, key) -> xr.Dataset`, the only part that simulates,
- `predict(config) -> dict`, by algebra or quadrature,
- `check(config, data, predicted) -> list[Comparison]`,
- `plot(config, data, predicted) -> Figure`.
"""

import dataclasses
import importlib
import json
import pkgutil
import platform
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import diffrax
import equinox
import jax
import jax.random as jr
import numpy as np
import xarray as xr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import sde_sgd as ss
from sde_sgd.netcdf import write_dataset

_SHARED = {"framework", "peers", "probe", "__main__"}


def names() -> list[str]:
    """All experiments, sorted."""
    package = importlib.import_module("experiments")
    found = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in found if name not in _SHARED and not name.startswith("_"))


def load(name: str) -> ModuleType:
    """The experiment's module."""
    if name not in names():
        raise SystemExit(f"No experiment {name!r}; there are: {', '.join(names())}.")
    return importlib.import_module(f"experiments.{name}")


def headline(module: ModuleType, word: str) -> str:
    """The paragraph that starts with «word:» in an experiment's docstring, on one line."""
    text = module.__doc__ or ""
    found = re.search(rf"^{word}:\s*(.+?)(?:\n\s*\n|\n[A-Z][a-z]+:|\Z)", text, re.S | re.M)
    return " ".join(found.group(1).split()) if found else ""


def run(
    name: str, config: Any, preset: str, seed: int, out: Path, replot: bool, console: Console
) -> bool:
    """Measures (or reloads), predicts, checks, draws; True if every verdict is as expected."""
    module = load(name)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    if replot:
        config, preset, seed, seconds, device, data = _reload(module, folder)
    else:
        started = time.monotonic()
        data = module.measure(config, jr.key(seed))
        seconds, device = time.monotonic() - started, _device()
        described = {"preset": preset, "seed": seed, "config": dataclasses.asdict(config)}
        _write(folder / "config.json", described)
        write_dataset(data, folder / "data.nc")
    predicted = module.predict(config)
    comparisons = module.check(config, data, predicted)
    verdict = {
        "experiment": name,
        "claim": headline(module, "Claim"),
        "source": headline(module, "Source"),
        "preset": preset,
        "seed": seed,
        "versions": _versions(),
        "device": device,
        "seconds": round(seconds, 2),
        "checks": [comparison.row() for comparison in comparisons],
    }
    _write(folder / "verdict.json", verdict)
    module.plot(config, data, predicted).savefig(folder / "figure.png", dpi=150)
    show(console, name, comparisons)
    console.print(f"{seconds:.1f} s of simulation; files in {folder}/")
    if hasattr(module, "conclude"):
        console.print(module.conclude(config, data, comparisons))
    return all(comparison.as_expected for comparison in comparisons)


def show(console: Console, name: str, comparisons: list[ss.Comparison]) -> None:
    """The verdict table; of an array, its worst entry, with its place in the array."""
    table = Table(title=name, title_justify="left")
    for heading in ("check", "process", "predicted", "measured", "z", "expected", "verdict"):
        table.add_column(heading)
    for c in comparisons:
        index, z = c.worst
        predicted, measured, error = (
            np.asarray(x)[index] if np.ndim(x) else x
            for x in (c.predicted, c.measured, c.standard_error)
        )
        style = "green" if c.as_expected else "bold red"
        # Where nothing was sampled there is no z: the resolution decides.
        sampled = (f"{measured:.6g} ± {error:.2g}", f"{z:+.2f}")
        values = (f"{predicted:.6g}", *(sampled if error else (f"{measured:.6g}", "–")))
        place = f" {list(index)}" if index else ""
        verdict = f"[{style}]{c.verdict}[/{style}]"
        table.add_row(escape(c.name + place), c.process, *values, c.expected, verdict)
    console.print(table)


def put(data: dict[str, Any], name: str, estimate: ss.Estimate, dims: tuple[str, ...] = ()) -> None:
    """Stores an Estimate as `name`, `name_standard_error` and `name_num_samples`."""
    data[name] = (dims, estimate.value)
    data[f"{name}_standard_error"] = (dims, estimate.standard_error)
    data[f"{name}_num_samples"] = ((), estimate.num_samples)


def get(data: xr.Dataset, name: str) -> ss.Estimate:
    """The Estimate that `put` stored."""
    return ss.Estimate(
        data[name].values,
        data[f"{name}_standard_error"].values,
        int(data[f"{name}_num_samples"]),
    )


def _reload(module: ModuleType, folder: Path):
    try:
        described = json.loads((folder / "config.json").read_text())
        verdict = json.loads((folder / "verdict.json").read_text())
    except FileNotFoundError as error:
        raise SystemExit(f"--replot needs an earlier run in {folder}/: {error}.") from None
    config = module.Config(**{k: _tuples(v) for k, v in described["config"].items()})
    with xr.open_dataset(folder / "data.nc", engine="h5netcdf") as opened:
        data = opened.load()
    kept = described["preset"], described["seed"], verdict["seconds"], verdict["device"]
    return config, *kept, data


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _write(path: Path, value: Any) -> None:
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    fresh.replace(path)


def _versions() -> dict[str, str]:
    modules = {"jax": jax, "equinox": equinox, "diffrax": diffrax, "numpy": np}
    found = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), **found}


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind}), {platform.machine()}"
