"""What the templates show of one result."""

import base64
import dataclasses
import io
from typing import Any

from markupsafe import Markup
from PIL import Image

from ..protocol import as_json, docstring, load, paragraph, SUBJECTS
from ..results import Result, Row
from . import chain, numbers, typeset

_PACKAGE = __name__.rsplit(".", 3)[0]


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row as text."""

    name: str
    process: str
    predicted: str
    measured: str
    factor: str
    z: str
    expected: str
    verdict: str
    as_expected: bool


@dataclasses.dataclass(frozen=True)
class Card:
    """A claim with all that belongs to it."""

    result: Result
    subject: str
    title: Markup
    claim: Markup
    source: Markup
    blocks: list[typeset.Block]
    rows: list[Shown]
    tally: str
    processes: list[str]
    """links of the chain first, the others under their own names"""
    verdicts: str
    """words to filter by"""
    words: str
    """all text, to search in"""
    line: chain.Line
    other_version: str
    changed: dict[str, Any]
    """parameters that differ from those of the preset"""
    command: str
    picture: str
    """data URI"""
    width: int
    height: int
    seconds: str

    @property
    def subject_title(self) -> str:
        """Of its heading."""
        return SUBJECTS[self.subject]


def card(result: Result) -> Card:
    """All that a page shows of a result; claim and source are those of the run."""
    text = docstring(result.experiment)
    rows = [shown(row) for row in result.rows]
    own = list(dict.fromkeys(chain.own(row.process) for row in result.rows))
    processes = [link for link in chain.LINKS if link in own]
    processes += sorted(name for name in own if name not in chain.LINKS)
    other, changed = result.other_version, _changed(result)
    picture, width, height = _picture(result.picture)
    title = typeset.title(text)
    parts = [result.experiment, title.striptags(), result.claim, result.source, *processes]
    parts += [row.name for row in rows]
    return Card(
        result=result,
        subject=paragraph(text, "Subject"),
        title=title,
        claim=typeset.prose(result.claim),
        source=typeset.source(result.source),
        blocks=typeset.blocks(text),
        rows=rows,
        tally=_tally(result),
        processes=processes,
        verdicts=_verdicts(result, other),
        words=" ".join(parts).casefold(),
        line=chain.line(result.experiment, result.rows),
        other_version=other,
        changed=changed,
        command=_command(result, changed),
        picture=picture,
        width=width,
        height=height,
        seconds=numbers.duration(result.seconds),
    )


def shown(row: Row) -> Shown:
    """One row; of an array the entry that decides, with its place."""
    place = f" [{', '.join(map(str, row.place))}]" if row.place else ""
    said = {"agrees": "agrees", "disagrees": "deviates", "inconclusive": "inconclusive"}
    return Shown(
        name=row.name + place,
        process=row.process,
        predicted=numbers.plain(row.predicted),
        measured=numbers.with_error(row.measured, row.standard_error),
        factor="–" if row.factor is None else numbers.factor(row.factor),
        z=numbers.score(row.z, row.standard_error),
        expected=row.expected,
        verdict=said[row.verdict],
        as_expected=row.as_expected,
    )


def _tally(result: Result) -> str:
    count = {v: 0 for v in ("agrees", "disagrees", "inconclusive")}
    for row in result.rows:
        count[row.verdict] += 1
    said = {"agrees": "agree", "disagrees": "deviate", "inconclusive": "inconclusive"}
    told = [f"{number} {said[verdict]}" for verdict, number in count.items() if number]
    wrong = sum(not row.as_expected for row in result.rows)
    end = f"{wrong} not as expected" if wrong else "all as expected"
    return f"{', '.join(told)}; {end}"


def _verdicts(result: Result, other: str) -> str:
    words = ["expected" if result.as_expected else "unexpected"]
    words += sorted({row.verdict for row in result.rows})
    return " ".join([*words, *(["other"] if other else [])])


def _changed(result: Result) -> dict[str, Any]:
    presets = load(result.experiment).PRESETS
    if not result.config or result.preset not in presets:
        return {}
    base = as_json(presets[result.preset])
    return {k: v for k, v in result.config.items() if k in base and base[k] != v}


def _command(result: Result, changed: dict[str, Any]) -> str:
    words = [f"python -m {_PACKAGE} {result.experiment}", f"--preset {result.preset}"]
    words += [f"--seed {result.seed}"]
    for name, value in changed.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            told = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{flag} {told}")
    return " ".join(words)


def _picture(png: bytes) -> tuple[str, int, int]:
    """The same pixels in a smaller file, as an address that needs no other file."""
    made = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(made, "WEBP", lossless=True, method=2)
        width, height = image.size
    coded = base64.b64encode(made.getvalue()).decode()
    return f"data:image/webp;base64,{coded}", width, height
