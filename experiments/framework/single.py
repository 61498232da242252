"""One experiment: measured or read again, predicted, checked, drawn, written."""

import dataclasses
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.random as jr
import numpy as np
import xarray as xr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import sde_sgd as ss
from sde_sgd.simulate.checkpoint import checkpoints_in
from sde_sgd.terminal import Interrupt

from .. import _files as files
from .protocol import from_json, headline

_SAVE_EVERY = 60.0


def run(
    name: str,
    module: ModuleType,
    config: Any,
    *,
    preset: str,
    seed: int,
    out: Path,
    replot: bool,
    console: Console,
) -> bool:
    """Measures (or reloads), predicts, checks, draws; True if every verdict is as expected.

    A call that was killed or interrupted goes on when it is made again: every `simulate` and
    `splitting` of `measure` has a checkpoint in OUT/NAME/unfinished/, for these arguments and this
    code alone, until all files are written. Everything else, timings too, is done anew.
    """
    folder = out / name
    if replot:
        described, data = files.read_data(folder, name)
        files.make_writable(folder)
        try:
            with files.owned(folder, console.print):
                return _finish(module, described, data, folder, console)
        except files.NotWritten as error:
            raise SystemExit(f"--replot: {error}") from None
    files.make_writable(folder)
    with files.owned(folder, console.print):
        return _measured(name, module, config, preset, seed, folder, console)


def _measured(
    name: str,
    module: ModuleType,
    config: Any,
    preset: str,
    seed: int,
    folder: Path,
    console: Console,
) -> bool:
    """`run` in a folder that no other process writes to."""
    kept = files.unfinished(folder, preset, seed, config, jax.config.read("jax_enable_x64"))
    if kept.found:
        console.print(f"Goes on with what an earlier call left in {kept.folder}/.")
    if kept.others:
        console.print(
            f"{kept.folder.parent}/ also holds runs of other arguments or code: "
            f"{', '.join(kept.others)}. Remove what you do not go back to."
        )
    try:
        with Interrupt(at_once=True):
            resumed, started = kept.found, time.monotonic()
            with checkpoints_in(kept.folder, _SAVE_EVERY, kept.version):
                data = module.measure(config, jr.key(seed))
            seconds, values = time.monotonic() - started, dataclasses.asdict(config)
            told = (preset, seed, values, round(seconds, 2), resumed, files.device(), files.code())
            described = files.Described(name, *told)
            files.write_data(folder, data, described)
            good = _finish(module, described, data, folder, console)
    except KeyboardInterrupt:
        console.print(f"Interrupted. {kept.way}")
        raise SystemExit(130) from None
    except files.NotWritten as error:
        raise SystemExit(f"{error} {kept.way}") from None
    except ValueError as error:
        if str(kept.folder) not in str(error):
            raise
        # A checkpoint that is broken, or of other data than there are now.
        raise SystemExit(str(error)) from None
    finally:
        if not kept.found:
            kept.remove()
    kept.remove()
    return good


def _finish(
    module: ModuleType, described: files.Described, data: xr.Dataset, folder: Path, console: Console
) -> bool:
    """All that follows from the numbers; nothing is written before all of it is there."""
    name = described.experiment
    try:
        config = module.Config(**{k: from_json(v) for k, v in described.config.items()})
        predicted = module.predict(config)
        comparisons = module.check(config, data, predicted)
        figure = module.plot(config, data, predicted)
        said = module.conclude(config, data, comparisons) if hasattr(module, "conclude") else None
    except Exception as error:
        if described.code == files.code():
            raise
        raise SystemExit(
            f"--replot: {str(folder / 'data.nc')!r} was written by another version of the code, "
            f"and this one cannot read it ({type(error).__name__}: {error}): run {name} without "
            f"--replot."
        ) from error
    verdict = {
        "experiment": name,
        "claim": headline(module, "Claim"),
        "source": headline(module, "Source"),
        "preset": described.preset,
        "seed": described.seed,
        "config": described.config,
        "code": described.code,
        "versions": files.packages(),
        "device": described.device,
        "seconds": described.seconds,
        "resumed": described.resumed,
        "checks": [comparison.row() for comparison in comparisons],
    }
    # A verdict is of the files beside it: the old one goes first, the new one comes last.
    files.remove_verdict(folder)
    files.write_json(folder / "config.json", dataclasses.asdict(described))
    files.write_figure(folder / "figure.png", figure)
    files.write_json(folder / "verdict.json", verdict)
    show(console, name, comparisons)
    part = " in the last of several calls" if described.resumed else ""
    console.print(f"{described.seconds:.1f} s of simulation{part}; files in {folder}/")
    if said is not None:
        console.print(said)
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
