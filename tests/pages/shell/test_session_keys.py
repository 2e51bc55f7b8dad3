"""Names of the session and of the address: each stands once, and nobody goes past them."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st

from pages.live.compare import examples as compare_examples
from pages.live.generate import examples as generate_examples
from pages.live.one_trace import examples as one_trace_examples
from pages.live.what_if import examples as what_if_examples
from pages.live.what_if import patching
from pages.shell.link_names import NAMES, OF_EVERY_LINK
from pages.shell.session_keys import SessionKey, SessionValue, forget_tab, widget

ROOT = Path(__file__).resolve().parents[3]
REGISTRY = ROOT / "pages" / "shell" / "session_keys.py"
MAKERS = ("choice", "segments", "number", "decimal", "tabs", "reference", "refer", "forget")
MAKERS += ("asked", "show", "pending", "let_go")


def nodes(*, registry: bool = False) -> Iterator[tuple[str, ast.AST]]:
    """Every node of app.py and the pages, with its place."""
    files = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py"))]
    for file in files:
        if file != REGISTRY or registry:
            for node in ast.walk(ast.parse(file.read_text())):
                line = getattr(node, "lineno", 0)
                yield f"{file.relative_to(ROOT)}:{line}", node


def test_only_the_registry_touches_the_session_state():
    found = [
        place
        for place, node in nodes()
        if isinstance(node, ast.Attribute) and node.attr == "session_state"
    ]
    assert found == []


def test_every_key_has_one_owner_which_says_its_type():
    owners = Counter()
    for place, node in nodes():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "SessionKey":
                owners[node.attr] += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "SessionValue", f"{place}: a value without a type"
    assert owners == Counter(key.name for key in SessionKey)


def names_of(call: ast.Call) -> Iterator[str]:
    """Names in the address that a call speaks of."""
    function = call.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return
    module, name = function.value.id, function.attr
    if module == "links" and name == "choose":
        yield from (word.arg for word in call.keywords if word.arg)
    elif module == "links" and name in (*MAKERS, "chosen"):
        if isinstance(call.args[0], ast.Constant):
            yield call.args[0].value
    elif module == "layout" and name == "layer_choice" and len(call.args) > 1:
        yield call.args[1].value


def test_every_name_in_the_address_is_in_the_table_and_none_is_left_over():
    used = {
        name: place
        for place, node in nodes(registry=True)
        if isinstance(node, ast.Call)
        for name in names_of(node)
    }
    assert {name: place for name, place in used.items() if name not in NAMES} == {}
    assert set(NAMES) - set(used) == set()
    assert not set(NAMES) & set(OF_EVERY_LINK)


def test_examples_choose_by_names_that_there_are():
    tables = [
        compare_examples.TEXT_EXAMPLES,
        compare_examples.CHANGE_EXAMPLES,
        compare_examples.ID_TEXTS,
        compare_examples.ID_CHANGES,
        generate_examples.EXAMPLES,
        one_trace_examples.EXAMPLES,
        what_if_examples.EXAMPLES,
        patching.EXAMPLES,
        patching.ID_EXAMPLES,
    ]
    chosen = {name for table in tables for one in table.values() for name in one.choices}
    assert chosen and chosen <= set(NAMES)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict:
    found: dict = {}
    monkeypatch.setattr(st, "session_state", found)
    return found


def test_a_value_is_kept_given_and_let_go(state):
    value = SessionValue[list[int]](SessionKey.TOKEN_MATCHES)
    assert value.get() is None and state == {}
    made = value.kept(lambda: [3])
    assert value.kept(lambda: [4]) is made and value.get() is made
    value.set([5])
    assert state == {"vocabulary_matches": [5]}
    assert value.take() == [5] and value.take() is None
    value.set([6])
    value.drop()
    value.drop()
    assert state == {}


def test_a_widget_may_have_the_value_none(state):
    box = widget("prompt")
    assert not box.known and box.get() is None
    box.set(None)
    assert box.known and state == {"prompt": None}


def test_what_was_read_of_a_text_is_forgotten_with_it(monkeypatch):
    kept = {key.value: {"a": 1} for key in (SessionKey.TRACES, SessionKey.FEATURES_READ)}
    kept |= {SessionKey.LOGIT_LENSES.value: {"a": 1}, SessionKey.UPLOADED_NAME.value: "mine.npz"}
    monkeypatch.setattr(st, "session_state", kept)
    forget_tab()
    assert list(kept) == [SessionKey.UPLOADED_NAME.value]
