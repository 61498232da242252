"""Command line: `python -m experiments [NAME --preset paper --seed 1 --out results]`."""

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


def main(arguments: list[str]) -> int:
    """Lists the experiments, or runs one; 0 if every verdict is as expected, else 1."""
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal has Greek letters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console()
    # A pipe has no width of its own; tables of 80 columns break every word.
    console.width = max(console.width, 120)
    if arguments and arguments[0].startswith("--") and arguments[0] != "--help":
        raise SystemExit(f"Name an experiment first: {', '.join(framework.names())}.")
    if not arguments:
        table = Table("experiment", "claim", "source")
        for name in framework.names():
            module = framework.load(name)
            table.add_row(
                name, framework.headline(module, "Claim"), framework.headline(module, "Source")
            )
        console.print(table)
        console.print(
            f"Run one: python -m {__package__} NAME [--preset paper] [--seed 0] [--out results]; "
            "the default preset is smoke, and NAME --help shows every parameter."
        )
        return 0
    name, *rest = arguments
    if name in ("-h", "--help"):
        console.print(__doc__)
        return main([])
    module = framework.load(name)
    chosen = _preset(rest, module)
    base = module.PRESETS[chosen]

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
    if not -(2**63) <= options.seed < 2**63:
        raise SystemExit(f"--seed {options.seed} does not fit into 64 bits: take one below 2⁶³.")
    good = framework.run(
        name, options.config, chosen, options.seed, options.out, options.replot, console
    )
    return 0 if good else 1


def _preset(arguments: list[str], module) -> str:
    preset = "smoke"
    for i, word in enumerate(arguments):
        if word == "--preset" and i + 1 < len(arguments):
            preset = arguments[i + 1]
        elif word.startswith("--preset="):
            preset = word.split("=", 1)[1]
    if preset not in module.PRESETS:
        raise SystemExit(f"No preset {preset!r}; there are: {', '.join(module.PRESETS)}.")
    return preset


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
