"""Docstrings as HTML: equations from their Unicode, tables, links of sources.

A variable is italic, a function or a word upright, ^ and _ (with braces, or before one name or
number) raise and lower, and a gap of two spaces or more stays one.
"""

import dataclasses
import re

from markupsafe import escape, Markup

_SINGLE = r"[A-Za-z]+|\d+|[α-ωΑ-Ω]|[∞*+−]"
# Of two or three letters and yet no product of variables.
_WORDS = {
    "SGD", "SDE", "all", "and", "at", "det", "exp", "for", "has", "is", "its", "lim", "ln", "log",
    "max", "min", "of", "on", "one", "or", "the", "to", "tr", "two", "Var", "Cov",
}  # fmt: skip
_ARXIV = re.compile(r"(?<![\d.])(\d{4}\.\d{4,5})(?![\d.]*\d)")
_EMPTY = Markup()
_NOT_PROSE = re.compile(r"^(Claim|Source|Command|Subject):")


@dataclasses.dataclass(frozen=True)
class Block:
    """A paragraph, an equation or a table of a docstring."""

    kind: str
    """"text", "equation" or "table\""""
    html: Markup = _EMPTY
    head: tuple[Markup, ...] = ()
    rows: tuple[tuple[Markup, ...], ...] = ()
    """of a table"""


def title(docstring: str) -> Markup:
    """Its first line, without the full stop."""
    return prose(docstring.split("\n", 1)[0].rstrip("."))


def blocks(docstring: str) -> list[Block]:
    """What stands between the title and the claim, or after the command."""
    found = []
    for text in re.split(r"\n\s*\n", docstring)[1:]:
        lines = text.split("\n")
        if _NOT_PROSE.match(text):
            continue
        if all(line.startswith("    ") for line in lines):
            found.append(Block("equation", _equation([line[4:] for line in lines])))
        elif text.startswith("|"):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            head, _, *rows = ([prose(cell) for cell in row] for row in cells)
            found.append(Block("table", head=tuple(head), rows=tuple(map(tuple, rows))))
        else:
            found.append(Block("text", prose(" ".join(lines))))
    return found


def prose(text: str) -> Markup:
    """Running text: `code`, *emphasis*, raised and lowered parts; names such as a_b stay."""
    parts = re.split(r"`([^`]+)`", text)
    made = Markup()
    for i, part in enumerate(parts):
        if i % 2:
            made += Markup("<code>{}</code>").format(part)
            continue
        # A dotted name of the library is code too.
        for j, piece in enumerate(
            re.split(r"(\bsde_sgd(?:\.\w+)+|\b[a-z]+(?:_[a-z]+){2,}\b)", part)
        ):
            if j % 2:
                made += Markup("<code>{}</code>").format(piece)
                continue
            for k, words in enumerate(re.split(r"(?<!\w)\*([^*\s][^*]*)\*(?!\w)", piece)):
                set_ = _scripts(words, italic=False)
                made += Markup("<em>{}</em>").format(set_) if k % 2 else set_
    return made


def source(text: str) -> Markup:
    """A source with a link for every number of arXiv."""
    made = Markup()
    for i, part in enumerate(_ARXIV.split(text)):
        link = '<a href="https://arxiv.org/abs/{0}">arXiv:{0}</a>'
        made += Markup(link).format(part) if i % 2 else prose(part)
    return made


def _equation(lines: list[str]) -> Markup:
    return Markup("<br>").join(_spaced(line) for line in lines)


def _spaced(line: str) -> Markup:
    pieces = re.split(r" {2,}", line.strip())
    return Markup('<span class="gap"></span>').join(_scripts(p, italic=True) for p in pieces)


def _scripts(text: str, italic: bool) -> Markup:
    """`text` with what follows ^ and _ raised and lowered."""
    made, plain, i = Markup(), "", 0
    while i < len(text):
        base = plain[-1:]
        if text[i] in "^_" and base.strip() and (italic or _is_base(plain)):
            scripts, i = _read_scripts(text, i)
            if scripts:
                made += _letters(plain, italic) + _set(scripts, italic)
                plain = ""
                continue
        plain += text[i]
        i += 1
    return made + _letters(plain, italic)


def _is_base(plain: str) -> bool:
    """In running text a letter that stands alone, or a bracket; else it is a name such as a_b."""
    return not re.search(r"[A-Za-z0-9]{2}$", plain)


def _read_scripts(text: str, i: int) -> tuple[dict[str, str], int]:
    scripts: dict[str, str] = {}
    while i < len(text) and text[i] in "^_" and text[i] not in scripts:
        if text[i + 1 : i + 2] == "{":
            depth, j = 1, i + 2
            while j < len(text) and depth:
                depth += {"{": 1, "}": -1}.get(text[j], 0)
                j += 1
            scripts[text[i]], i = text[i + 2 : j - 1], j
            continue
        found = re.compile(_SINGLE).match(text, i + 1)
        if not found:
            break
        scripts[text[i]], i = found.group(), found.end()
    return scripts, i


def _set(scripts: dict[str, str], italic: bool) -> Markup:
    tags = {"^": "sup", "_": "sub"}
    parts = [
        Markup("<{0}>{1}</{0}>").format(tags[mark], _scripts(scripts[mark], italic))
        for mark in "^_"
        if mark in scripts
    ]
    if len(parts) == 2:
        return Markup('<span class="both">{}{}</span>').format(*parts)
    return parts[0]


def _letters(text: str, italic: bool) -> Markup:
    """Variables in italics, words upright."""
    if not italic:
        return escape(text)
    made = Markup()
    for i, part in enumerate(re.split(r"([A-Za-z]+|[α-ω])", text)):
        if i % 2 == 0:
            made += escape(part)
        elif len(part) == 2 and part[0] == "d" and part not in _WORDS:
            made += Markup("d<i>{}</i>").format(part[1])
        elif len(part) == 1 or (len(part) <= 3 and part not in _WORDS):
            made += Markup("<i>{}</i>").format(part)
        else:
            made += escape(part)
    return made
