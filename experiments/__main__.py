"""Command line: `python -m experiments [NAME | all | atlas] [--preset paper --seed 1 ...]`."""

import dataclasses
import io
import signal
import sys
from pathlib import Path
from typing import Annotated

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Where nothing is there to save Ctrl-C ends the process, without a traceback of the imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import jax

# Theory is checked in float64; an experiment that times float32 says so in its own code.
jax.config.update("jax_enable_x64", True)

import tyro  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from . import framework  # noqa: E402


@dataclasses.dataclass
class All:
    """Runs every experiment that has no verdict of this version, preset and seed yet.

    Interrupted or killed, it goes on when the same command is given again.
    """

    preset: str = "smoke"
    """preset of every experiment"""
    seed: int = 0
    """of the random keys, below 2⁶³"""
    out: Path = Path("results")
    """results go to OUT/NAME/, what an experiment prints to OUT/NAME/log.txt"""
    jobs: int = 2
    """experiments at a time; timings run alone, after all others"""
    only: tuple[str, ...] = ()
    """these experiments, instead of all"""


@dataclasses.dataclass
class Atlas:
    """Writes OUT/atlas/index.html, one page of all results that are in OUT."""

    out: Path = Path("results")
    """where the results are"""


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs one or all; 0 if every verdict is as expected, else 1."""
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal has Greek letters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console()
    # A pipe has no width of its own; tables of 80 columns break every word.
    console.width = max(console.width, 120)
    if not arguments:
        _list(console)
        return 0
    name, *rest = arguments
    if name in ("-h", "--help"):
        console.print(__doc__)
        _list(console)
        return 0
    if name.startswith("--"):
        raise SystemExit(
            f"Name an experiment first, or all, or atlas: python -m {__package__} NAME {name} ...; "
            f"without a name it lists them."
        )
    if name == "all":
        chosen = tyro.cli(All, args=rest, prog=f"python -m {__package__} all")
        _check_seed(chosen.seed)
        return framework.run_all(**vars(chosen), console=console)
    if name == "atlas":
        from .framework import atlas

        chosen = tyro.cli(Atlas, args=rest, prog=f"python -m {__package__} atlas")
        atlas.write(chosen.out, console)
        return 0
    return _one(name, rest, console)


def _list(console: Console) -> None:
    table = Table("experiment", "claim", "source")
    for subject, found in framework.by_subject().items():
        table.add_section()
        table.add_row(f"[bold]{framework.SUBJECTS[subject]}[/bold]", "", "")
        for name in found:
            text = framework.docstring(name)
            claim, source = (framework.paragraph(text, word) for word in ("Claim", "Source"))
            table.add_row(name, claim, source)
    console.print(table)
    console.print(
        f"Run one: python -m {__package__} NAME [--preset paper] [--seed 0] [--out results]; "
        f"the default preset is smoke, and NAME --help shows every parameter. Run what is not done "
        f"yet: python -m {__package__} all [--preset paper] [--jobs 2]. Make one page of what is "
        f"there: python -m {__package__} atlas.",
        markup=False,
    )


def _one(name: str, rest: list[str], console: Console) -> int:
    module = framework.load(name)
    chosen = _preset(rest)
    base = framework.preset(module, chosen)

    @dataclasses.dataclass
    class Options:
        """Options of one experiment."""

        preset: str = chosen
        """which of the experiment's presets to start from"""
        seed: int = 0
        """of the random key, below 2⁶³"""
        out: Path = Path("results")
        """results go to OUT/NAME/"""
        replot: bool = False
        """predict, check and draw again from OUT/NAME/, without simulating"""
        config: Annotated[module.Config, tyro.conf.arg(name="")] = base  # pyright: ignore
        """parameters that differ from the preset"""

    options = tyro.cli(
        Options, args=rest, prog=f"python -m {__package__} {name}", description=module.__doc__
    )
    _check_seed(options.seed)
    good = framework.run(
        name,
        module,
        options.config,
        preset=chosen,
        seed=options.seed,
        out=options.out,
        replot=options.replot,
        console=console,
    )
    return 0 if good else 1


def _check_seed(seed: int) -> None:
    if not -(2**63) <= seed < 2**63:
        raise SystemExit(f"--seed {seed} does not fit into 64 bits: take one below 2⁶³.")


def _preset(arguments: list[str]) -> str:
    preset = "smoke"
    for i, word in enumerate(arguments):
        if word == "--preset" and i + 1 < len(arguments):
            preset = arguments[i + 1]
        elif word.startswith("--preset="):
            preset = word.split("=", 1)[1]
    return preset


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
