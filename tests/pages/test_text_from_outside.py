"""Whatever people, files and addresses say is text on every page."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from lens.storage.expert_notes import ExpertNote, NoteBook
from lens.traces.trace import load_trace
from pages.hosting import owner
from pages.shell.link_names import NAMES
from tests.hostile_words import MARK, WORDS, alive

ROOT = Path(__file__).resolve().parents[2]
ME = "e" * 64
# Elements whose words are no Markdown; the rest of them may be.
NO_MARKDOWN = ("arrow_data_frame", "vega_lite_chart", "code", "text", "html", "iframe")
NO_MARKDOWN_FIELDS = ("options", "id", "default", "value", "placeholder", "key", "raw_value")
SAYS = ("error", "warning", "info", "success", "toast")


def words_of(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name in NO_MARKDOWN_FIELDS:
            continue
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == 3
        for one in value if repeated and not hasattr(value, "items") else [value]:
            if isinstance(one, str):
                yield one
            elif isinstance(one, Message):
                yield from words_of(one)


def said(block: Any) -> Iterator[str]:
    """All Markdown of a page, labels and help included."""
    for child in block.children.values():
        proto = getattr(child, "proto", None)
        if isinstance(proto, Message) and getattr(child, "type", "") not in NO_MARKDOWN:
            yield from words_of(proto)
        if hasattr(child, "children"):
            yield from said(child)


def check(app: Any, *, least: int = 1) -> None:
    assert not app.exception
    texts = list(said(app._tree))
    holding = [text for text in texts if MARK in text]
    assert len(holding) >= least, texts
    assert [(text, found) for text in holding if (found := alive(text))] == []
    assert not any("<b>zq" in one.proto.body for one in app.get("html"))


@pytest.fixture
def strange(routers):
    """The bundled model's routers as a file of somebody who means harm."""
    return replace(routers, source=WORDS)


@pytest.fixture
def hostile_note(monkeypatch, routers, tmp_path):
    monkeypatch.setattr(owner, "current", lambda: ME)
    note = ExpertNote(routers.sha256, 0, 0, "L0·E0", name=WORDS[:40], note=WORDS, pinned=True)
    NoteBook(tmp_path / "notes").keep(ME, note)


@pytest.mark.parametrize("page", ["overview", "layers", "experts", "clustering"])
def test_pages_of_routers_show_sources_names_and_notes_as_text(
    open_page, strange, hostile_note, few_drawn_sets, page
):
    state = {
        "uploaded_routers": strange,
        "uploaded_name": f"{WORDS}.npz",
        "upload_error": WORDS,
        "hub_error": WORDS,
        "second_problem": WORDS,
        "notes_problem": WORDS,
    }
    app = open_page(page, state=state, source="upload", data=WORDS, **{WORDS: WORDS})
    check(app, least=4)


@pytest.mark.parametrize("mode", ["inspect", "compare", "many"])
def test_the_live_page_shows_names_pieces_and_texts_as_text(
    open_page, strange, hostile_note, mode, tmp_path
):
    trace = load_trace(ROOT / "grok" / "demo" / "example_trace.npz")
    pieces = [WORDS if i % 2 else WORDS[30:50] for i in range(len(trace.tokens))]
    trace = replace(trace, pieces=np.array(pieces))
    state = {
        "uploaded_routers": strange,
        "uploaded_name": WORDS,
        "uploaded_trace": (f"{WORDS}.npz", trace),
        "trace_shown": "file",
        "many_problem": WORDS,
        "share_problem": WORDS,
        "stream_said": ("error", WORDS),
        "texts_kept": {"inspect_text": WORDS},
    }
    app = open_page("live_routing", state=state, mode=mode, source="upload", example=WORDS)
    check(app)


@pytest.mark.parametrize("page", ["layers", "clustering", "live_routing"])
def test_every_name_of_an_address_takes_words_as_text(open_page, few_drawn_sets, page):
    asked = {name: WORDS for name in NAMES if name not in ("source", "kept", "run", "text")}
    check(open_page(page, **asked), least=2)


def test_a_file_that_a_link_asks_for_is_named_as_text(open_page):
    app = open_page("layers", source="upload", file=WORDS, data=WORDS)
    assert not any(alive(text) for text in said(app._tree))
    assert MARK in app.subheader[0].value


def unescaped(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that show an error or a kept message as Markdown without the one door."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if ast.unparse(node.func.value) == "st" and node.func.attr in (*SAYS, "caption"):
            (first, *_) = node.args
            raw = isinstance(first, ast.Call) and ast.unparse(first.func) == "str"
            kept = node.func.attr in ("error", "warning") and isinstance(first, ast.Name)
            if raw or (kept and first.id != "why"):
                yield node


def test_no_page_shows_an_error_as_markdown():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sorted((ROOT / "pages").rglob("*.py"))
        for node in unescaped(ast.parse(file.read_text()))
    ]
    assert found == []
