"""The report as one page that opens offline: no script, no request, all images inside.

Everything that came with the data (names of sources, tokens, labels) is text here, never
markup; the page's policy forbids it to load or run anything.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens.escaping import as_html
from lens.finding import Finding
from lens.report.methods import METHODS
from lens.storage.csv_text import read_csv
from lens.words import significant

# Tables of so many rows are on the page too; larger ones are files beside it.
INLINE_ROWS = 40
# Those of more rows than these are folded up until they are asked for.
OPEN_ROWS = 10
# Images beyond this size are taken as PNG, which is smaller for many marks.
INLINE_SVG = 120_000
# A reader's fonts may be wider than those that a figure was measured with: room on its right.
ROOM = 1.12
# Figures beyond this width are scrolled sideways rather than made too small to read.
WIDE = 1250
QUESTIONS = "Four questions"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6673; --line: #d7dde4;
  --ground: #ffffff; --card: #f6f8fa; --link: #0b62a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa7b4; --line: #2e3946;
  --ground: #10161d; --card: #18212b; --link: #6cb6f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { margin: 3rem 0 .6rem; font-size: 1.4rem; }
h3 { margin: 1.8rem 0 .4rem; font-size: 1.05rem; }
a { color: var(--link); } p.soft, .soft { color: var(--soft); font-size: .92rem; }
nav ul, ul.plain { padding-left: 1.1rem; } code { font-size: .88em; overflow-wrap: anywhere; }
figure { margin: 1rem 0; padding: 1rem; background: #ffffff; border: 1px solid var(--line);
  border-radius: 8px; overflow-x: auto; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
@media screen { figure img.wide { max-width: none; } }
@media screen and (max-width: 700px) { figure { padding: .5rem; }
  figure img { max-width: max(100%, 640px); margin: 0; } }
.question { border: 1px solid var(--line); background: var(--card); border-radius: 8px;
  padding: .8rem 1rem; margin: .8rem 0; }
.found { color: #1a7f37; font-weight: 600; } .table { overflow-x: auto; }
@media (prefers-color-scheme: dark) { .found { color: #56d364; } }
summary { cursor: pointer; color: var(--soft); font-size: .92rem; margin: .4rem 0; }
table { border-collapse: collapse; font-size: .88rem; margin: .4rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { figure, .question { break-inside: avoid; } nav { display: none; } }
"""


@dataclass(frozen=True)
class Entry:
    """A figure or table that was written.

    Attributes:
        name: its file name without the suffix.
        section: heading that it stands under.
        files: names of its files.
        title, description: of a figure, empty for a table.
    """

    name: str
    section: str
    files: tuple[str, ...]
    title: str = ""
    description: str = ""


def page(
    title: str,
    origin: str,
    facts: Sequence[tuple[str, str]],
    findings: Mapping[str, Sequence[Finding] | Sequence[str]],
    entries: Sequence[Entry],
    skipped: Mapping[str, str],
    folder: Path,
    *,
    answers: Sequence[Any] = (),
) -> str:
    """The page as HTML.

    Args:
        title: of the page; its heading is what stands before a colon.
        origin: what it was made from and by, below the heading.
        facts: names and values of the header.
        findings: of each section, or sentences.
        entries: what was written, in order.
        skipped: names of what could not be made, and why.
        folder: where the files are.
        answers: the four questions.
    """
    sections = list(dict.fromkeys([*findings, *(entry.section for entry in entries)]))
    if answers:
        sections = list(dict.fromkeys([QUESTIONS, *sections]))
    body = [
        f"<h1>{_text(title.partition(':')[0])}</h1>",
        f"<p class=soft>{_text(origin)}</p>",
        "<dl>" + "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts) + "</dl>",
        "<nav><h2>Contents</h2><ul>"
        + "".join(f'<li><a href="#{_anchor(s)}">{_text(s)}</a></li>' for s in sections)
        + "</ul></nav>",
    ]
    for section in sections:
        body.append(f'<h2 id="{_anchor(section)}">{_text(section)}</h2>')
        if section == QUESTIONS:
            body += [_question(answer) for answer in answers]
        said = findings.get(section, ())
        if said:
            body.append(
                "<ul class=plain>" + "".join(f"<li>{_finding(one)}</li>" for one in said) + "</ul>"
            )
        if section in METHODS:
            body.append(f"<p class=soft>Method. {_text(METHODS[section])}</p>")
        body += [_entry(entry, folder) for entry in entries if entry.section == section]
    if skipped:
        rows = "".join(f"<li>{_text(n)}: {_text(why)}</li>" for n, why in skipped.items())
        body.append(f"<h2>Left out</h2><ul class=plain>{rows}</ul>")
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _question(answer: Any) -> str:
    found = "<span class=found>beyond chance</span>" if answer.distinguishable else ""
    return (
        f"<div class=question>{_text(answer.question)} {found}"
        f"<p><strong>{_text(answer.plain)}</strong></p>"
        f"<p>{_text(answer.sentence)}</p></div>"
    )


def _finding(found: Finding | str) -> str:
    if isinstance(found, str):
        return _text(found)
    return f"<strong>{_text(found.sentence)}</strong> {_text(found.detail)}"


def _entry(entry: Entry, folder: Path) -> str:
    links = " · ".join(f'<a href="{_text(name)}">{_text(name)}</a>' for name in entry.files)
    if entry.files[0].endswith(".csv"):
        written = entry.section == QUESTIONS  # which the page has in words
        table = "" if written else _table((folder / entry.files[0]).read_text(encoding="utf-8"))
        return f"{table}<p class=soft>Table: {links}</p>"
    return (
        f"<h3>{_text(entry.title)}</h3><figure>{_image(entry, folder)}</figure>"
        f"<p class=soft>{links}</p>"
    )


def _image(entry: Entry, folder: Path) -> str:
    """The figure inside the page, as wide as it was drawn."""
    svg = (folder / f"{entry.name}.svg").read_text(encoding="utf-8")
    size = re.search(r'width="([\d.]+)" height="([\d.]+)" viewBox="0 0 [\d.]+ [\d.]+"', svg)
    if size is None:
        raise ValueError(f"{entry.name}.svg: no width, height and viewBox in its first element")
    width, height = float(size[1]), float(size[2])
    if len(svg) <= INLINE_SVG:
        width *= ROOM
        box = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        content, kind = svg.replace(size[0], box, 1).encode("utf-8"), "svg+xml"
    else:
        content, kind = (folder / f"{entry.name}.png").read_bytes(), "png"
    wide = " class=wide" if width > WIDE else ""
    return (
        f'<img{wide} width="{width:.0f}" alt="{_text(entry.description)}" '
        f'src="data:image/{kind};base64,{base64.b64encode(content).decode("ascii")}">'
    )


def _table(text: str) -> str:
    """A small table in place; nothing for a large one."""
    rows = read_csv(text)
    if len(rows) - 1 > INLINE_ROWS or not rows or len(rows[0]) > 12:
        return ""
    head = "".join(f"<th>{_text(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(_short(cell))}</td>" for cell in row) + "</tr>"
        for row in rows[1:]
    )
    table = f"<div class=table><table><tr>{head}</tr>{body}</table></div>"
    if len(rows) - 1 <= OPEN_ROWS:
        return table
    return f"<details><summary>{len(rows) - 1} rows</summary>{table}</details>"


def _short(cell: str) -> str:
    """Numbers to four digits; the file has all of them."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    return cell.replace("-", "−") if value.is_integer() else significant(value, 4)


def _text(value: Any) -> str:
    return as_html(str(value))


def _anchor(section: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in section.lower())
