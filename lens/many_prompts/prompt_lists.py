"""Prompts with labels, from text that anybody may have written.

Three forms are read: lines (a prompt each, or a label, a tab and the prompt), CSV with a
column for the prompt, and JSON lines. What cannot be read names its line; nothing in it
is executed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from grok.errors import plain
from lens.errors import LensError

Form = Literal["lines", "csv", "jsonl"]
FORMS: Mapping[Form, str] = {"lines": "lines", "csv": "CSV", "jsonl": "JSON lines"}
PROMPT_COLUMNS = ("prompt", "text")
LABEL_COLUMNS = ("label", "domain", "category", "class", "topic")
UNLABELLED = "all"
MAX_PROMPTS = 2000
MAX_BYTES = 8 * 2**20
MAX_PROMPT = 50_000  # characters
MAX_LABELS = 50
MAX_LABEL = 80


@dataclass(frozen=True)
class PromptList:
    """Prompts in their order.

    Attributes:
        texts: the prompts.
        labels: one each; "all" where the source has none.
        form: what they were read as.
        columns: names of the source's columns or keys; empty for lines.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    form: Form
    columns: tuple[str, ...] = ()

    @property
    def by_label(self) -> dict[str, int]:
        """Prompts of each label, in the labels' order."""
        return {label: self.labels.count(label) for label in sorted(set(self.labels))}

    def jsonl(self) -> str:
        """The list as JSON lines, which hold line breaks and any character."""
        return "\n".join(
            json.dumps({"label": label, "prompt": text}, ensure_ascii=False)
            for label, text in zip(self.labels, self.texts, strict=True)
        )


def read_prompts(
    source: str | bytes,
    *,
    form: Form | None = None,
    prompt_column: str | None = None,
    label_column: str | None = None,
    where: str = "",
) -> PromptList:
    """The prompts of a text or of a file's bytes (UTF-8, or UTF-16 with its mark).

    Args:
        form: what the source is; None finds out: a line that starts with a brace makes JSON
            lines, a first line that names a column prompt or text makes CSV, all else is lines.
        prompt_column: column or key of the prompts; None takes prompt or text.
        label_column: column or key of the labels; None takes label, domain, category, class
            or topic where there is one.
        where: name of the file, for messages.

    Raises:
        LensError: it is no text, empty, too large, or a line of it cannot be used; nothing
            is left out silently.
    """
    where = f"{plain(where, 80)}, " if where else ""
    text = _decoded(source, where)
    form = form or _form_of(text)
    columns: tuple[str, ...] = ()
    if form == "lines":
        rows = list(_lines(text, where))
    else:
        columns, records = _records(text, where) if form == "csv" else _objects(text, where)
        rows = list(_rows(columns, records, (prompt_column, label_column), where))
    if not rows:
        raise LensError(
            f"{where or 'The list '}holds no prompts. Give one prompt a line, CSV with a column "
            "prompt, or JSON lines."
        )
    if len(rows) > MAX_PROMPTS:
        raise LensError(
            f"{where}{len(rows):,} prompts; at most {MAX_PROMPTS:,} are run at once. Take fewer."
        )
    for number, label, prompt in rows:
        _check(prompt, label, f"{where}line {number}")
    labels = tuple(label for _, label, _ in rows)
    if len(set(labels)) > MAX_LABELS:
        raise LensError(
            f"{where}{len(set(labels))} different labels; at most {MAX_LABELS} are compared. Use "
            "labels that several prompts share, or another column."
        )
    return PromptList(tuple(prompt for _, _, prompt in rows), labels, form, columns)


def columns_of(source: str | bytes, *, form: Form | None = None) -> tuple[str, ...]:
    """Names of the columns or keys of a list; none where it is of lines or cannot be read."""
    try:
        text = _decoded(source, "")
        form = form or _form_of(text)
        if form == "lines":
            return ()
        return (_records if form == "csv" else _objects)(text, "")[0]
    except LensError:
        return ()


def _decoded(source: str | bytes, where: str) -> str:
    if len(source) > MAX_BYTES:
        raise LensError(
            f"{where}{len(source):,} bytes; at most {MAX_BYTES:,} are read at once. Take fewer "
            "prompts."
        )
    if isinstance(source, bytes):
        content = source
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        try:
            source = content.decode("utf-16" if utf16 else "utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise LensError(
                f"{where}line {line}: this is not UTF-8 text. Save the file as UTF-8."
            ) from error
    if "\0" in source:
        line = source[: source.index("\0")].count("\n") + 1
        raise LensError(
            f"{where}line {line}: a zero character; expected text. Save the list as plain text."
        )
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _form_of(text: str) -> Form:
    first = next((line for line in text.split("\n") if line.strip()), "")
    if first.lstrip().startswith("{"):
        return "jsonl"
    try:
        names = [
            name.strip().lower() for name in next(csv.reader([first], delimiter=_comma(first)))
        ]
    except csv.Error:
        return "lines"
    return "csv" if set(names) & set(PROMPT_COLUMNS) and (len(names) > 1) else "lines"


def _comma(first: str) -> str:
    """Separator of the columns: the most frequent of comma, semicolon and tab."""
    return max((",", ";", "\t"), key=lambda mark: first.count(mark))


def _lines(text: str, where: str) -> Iterator[tuple[int, str, str]]:
    """Rows (line, label, prompt); a tab divides label and prompt where all lines have one."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    tabs = [n for n, line in lines if "\t" in line.strip("\n ")]
    labelled = len(tabs) == len(lines)
    if tabs and not labelled and len(tabs) > len(lines) // 2:
        bare = next(n for n, line in lines if "\t" not in line)
        raise LensError(
            f"{where}line {bare}: no tab, though {len(tabs)} of {len(lines)} lines have a label, a "
            "tab and a prompt. Label this line too, or remove the tabs."
        )
    for number, line in lines:
        label, tab, prompt = line.partition("\t") if labelled else (UNLABELLED, "", line)
        yield number, label.strip(), prompt.strip()


Record = tuple[int, Mapping[str, object]]


def _records(text: str, where: str) -> tuple[tuple[str, ...], list[Record]]:
    first = next((line for line in text.split("\n") if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_comma(first), strict=True)
    names: list[str] = []
    records: list[Record] = []
    last = 0
    try:
        for row in reader:
            number, last = last + 1, reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [name.strip() for name in row]
                twice = [name for name in names if names.count(name) > 1]
                if twice:
                    raise LensError(
                        f"{where}line {number}: two columns are called {plain(twice[0], 40)!r}. "
                        "Rename one."
                    )
                continue
            if len(row) != len(names):
                raise LensError(
                    f"{where}line {number}: {len(row)} columns; the first line names {len(names)}. "
                    "Put prompts that hold separators or line breaks into double quotes."
                )
            records.append((number, dict(zip(names, row, strict=True))))
    except csv.Error as error:
        raise LensError(
            f"{where}line {last + 1}: this is not CSV ({error}). A quote inside quotes is written "
            "twice; each quote is closed."
        ) from error
    return tuple(names), records


def _objects(text: str, where: str) -> tuple[tuple[str, ...], list[Record]]:
    records: list[Record] = []
    names: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise LensError(
                f'{where}line {number}: expected an object such as {{"label": "prose", "prompt": '
                '"…"}, on one line. Correct this line.'
            )
        names.update(dict.fromkeys(found))
        records.append((number, found))
    return tuple(names), records


def _rows(
    columns: tuple[str, ...],
    records: list[Record],
    chosen: tuple[str | None, str | None],
    where: str,
) -> Iterator[tuple[int, str, str]]:
    prompt_column, label_column = chosen
    prompt = prompt_column or _column(columns, PROMPT_COLUMNS)
    if (prompt is None or prompt not in columns) and records:
        raise LensError(
            f"{where}found the columns {plain(', '.join(columns), 120) or 'none'}; expected one "
            "called prompt or text. Rename the column of the prompts."
        )
    if label_column is not None and label_column not in columns:
        raise LensError(
            f"{where}there is no column {plain(label_column, 40)!r}; found "
            f"{plain(', '.join(columns), 120)}. Choose one of these for the labels."
        )
    label = label_column or _column(columns, LABEL_COLUMNS)
    for number, record in records:
        text = record.get(str(prompt))
        if not isinstance(text, str):
            raise LensError(
                f"{where}line {number}: {plain(str(prompt), 40)} is {plain(repr(text), 40)}; "
                "expected text. Correct this line."
            )
        name = UNLABELLED if label is None else record.get(label)
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str):
            raise LensError(
                f"{where}line {number}: {plain(str(label), 40)} is {plain(repr(name), 40)}; "
                "expected text. Label this line."
            )
        yield number, name.strip(), text


def _column(columns: tuple[str, ...], wanted: tuple[str, ...]) -> str | None:
    """The first of these names, however its letters are written."""
    lower = {name.lower(): name for name in reversed(columns)}
    return next((lower[name] for name in wanted if name in lower), None)


def _check(prompt: str, label: str, where: str) -> None:
    if not prompt.strip():
        raise LensError(f"{where}: the prompt is empty. Fill it in, or remove the line.")
    if len(prompt) > MAX_PROMPT:
        raise LensError(
            f"{where}: the prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are run. "
            "Shorten it."
        )
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise LensError(
            f"{where}: the prompt holds half of a surrogate pair, which is no Unicode text. "
            "Remove it."
        )
    if not label or len(label) > MAX_LABEL or not label.isprintable():
        raise LensError(
            f"{where}: found the label '{plain(label, 40)}'; expected 1 to {MAX_LABEL} printable "
            "characters. Correct the label."
        )
