"""Plain-text tables."""

from collections.abc import Sequence

from sde_sgd._brief import for_stdout


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, a header and a rule, joined by newlines."""
    header = [for_stdout(cell) for cell in header]
    rows = [[for_stdout(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    return f"{value:.5g}"


def with_error(value: float, error: float) -> str:
    """value ± error; the value alone where nothing was sampled (an error of zero)."""
    return f"{value:.5g} ± {error:.2g}" if error else number(value)


def score(z: float, error: float) -> str:
    """z, or "-" where there is none: nothing was sampled, or it is NaN."""
    return f"{z:+.3g}" if error and z == z else "-"
