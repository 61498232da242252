"""Writes `OUT/atlas/index.html` and `literature.html`."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich.console import Console

from ... import _files as files
from ..protocol import names, SUBJECTS
from ..results import Damaged, find
from . import chain, literature, typeset
from .cards import Card, card, Shown, shown

_PACKAGE = __name__.rsplit(".", 3)[0]


@dataclasses.dataclass(frozen=True)
class Reported:
    """A row with the card that it is of."""

    card: Card
    row: Shown


def write(out: Path, console: Console) -> Path:
    """Makes the pages of what is in `out`; names on the console what it leaves out.

    Results of another version are there, and marked as such. **Raises:** `SystemExit` in one line
    where there is no result, or the page cannot be written.
    """
    results, damaged = find(out)
    for error in damaged:
        console.print(f"Left out: {error}", style="bold", markup=False, soft_wrap=True)
    if not results:
        raise SystemExit(
            f"--out: there is no whole result in {str(out)!r}: run python -m {_PACKAGE} all "
            f"--out {out} first, or name the folder that has some."
        )
    cards = [card(result) for result in results]
    folder = out / "atlas"
    files.make_writable(folder)
    try:
        for name, text in _pages(cards, damaged).items():
            files.write_page(folder / name, text)
    except files.NotWritten as error:
        raise SystemExit(f"--out: {error}") from None
    other = sum(bool(one.other_version) for one in cards)
    marked = f", {other} of them of another version and marked as such" if other else ""
    console.print(f"{len(cards)} results{marked}: {folder / 'index.html'}", soft_wrap=True)
    return folder / "index.html"


def _pages(cards: list[Card], damaged: Iterable[Damaged]) -> dict[str, str]:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["breakable"] = _breakable
    subjects = {
        subject: [one for one in cards if one.subject == subject]
        for subject in SUBJECTS
        if any(one.subject == subject for one in cards)
    }
    there = {one.result.experiment for one in cards}
    present = {name for one in cards for name in one.processes}
    known = {
        "titles": SUBJECTS,
        "subjects": subjects,
        "cards": cards,
        "current": [one for one in cards if not one.other_version],
        "damaged": [str(error) for error in damaged],
        "absent": [name for name in names() if name not in there],
        "links": chain.LINKS,
        "chain_processes": [name for name in chain.LINKS if name in present],
        "other_processes": sorted(name for name in present if name not in chain.LINKS),
        "statements": _statements(cards),
        "package": _PACKAGE,
        "code": files.code(),
        "packages": files.packages(),
    }
    pages = ("index.html", "literature.html")
    return {name: templates.get_template(f"{name}.j2").render(known) for name in pages}


def _breakable(name: str) -> Markup:
    """A long name that may go on in the next line after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _statements(cards: list[Card]) -> list[dict[str, object]]:
    """The statements of the literature, typeset, each with the rows that are there."""
    by_name = {one.result.experiment: one for one in cards}
    made = []
    for found in literature.find(one.result for one in cards):
        rows = [Reported(by_name[result.experiment], shown(row)) for result, row in found.rows]
        says: Markup = typeset.prose(found.statement.says)
        made.append(
            {
                "says": says,
                "source": typeset.source(found.statement.source),
                "rows": rows,
                "missing": found.missing,
                "fails": found.fails,
            }
        )
    return made
