"""Choices that live in the address: one name, one value, the same on every page.

A choice is a widget whose value is kept for the session, written to the query
string when it is not the default, and read from there when a link is opened.
The address holds ids ("metric=cka", "layer=12"), the widgets show labels. What a
link asks for and the data does not have falls back to the default, with a notice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import streamlit as st
from streamlit.elements.lib.mutable_tab_container import TabContainer
from streamlit.runtime.pages_manager import PagesManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

Option = TypeVar("Option")
Widget = Literal["select", "segments", "radio"]

STORE = "link_values"  # name -> value chosen last, on whichever page
WRITTEN = "link_written"  # name -> text that this app put into the address
ASKED = "link_asked"  # name -> text that the address asks for and no widget has shown yet
LONGEST = 40


def through_app() -> None:
    """Make sure that a page runs inside `app.py`; every page calls this first.

    Streamlit takes a folder called pages for its older kind of app until `app.py`
    has run once. The first visitor of a server who opens a link to a page would
    get that page alone, without data source and navigation.
    """
    if getattr(PagesManager, "uses_pages_directory", False):
        PagesManager.uses_pages_directory = False
        st.rerun()


def begin() -> None:
    """Start one run: take in what the address asks for, until a widget can show it."""
    state = st.session_state
    written = state.setdefault(WRITTEN, {})
    asked = state.setdefault(ASKED, {})
    address, by_history = _address()
    for name, text in address.items():
        if text != written.get(name):
            asked[name] = text
    if by_history:  # the default stands for what the address of then does not name
        for name in set(written) - set(address):
            forget(name)
    if "link_data" not in state:
        state["link_data"] = st.query_params.get("data")
    state["link_shown"] = {}
    state["link_notices"] = []


def _address() -> tuple[dict[str, str], bool]:
    """The parameters in the address, and whether the back or forward button led there.

    Within a page Streamlit leaves `st.query_params` as they were when those buttons
    are pressed; the run's own query string has the new ones.
    """
    context = get_script_run_ctx()
    if context is None or not getattr(context, "is_history_navigation", False):
        return dict(st.query_params.items()), False
    return dict(parse_qsl(context.query_string)), True


def choice(
    name: str,
    label: str,
    options: Sequence[Option],
    default: Option,
    *,
    text: Callable[[Option], str] = str,
    shown: Callable[[Option], str] = str,
    widget: Widget = "select",
    help: str | None = None,
    collapsed: bool = False,
    width: int | Literal["stretch"] = "stretch",
) -> Option:
    """One of several options; `text` is what the address holds, `shown` what the widget says."""
    by_text = {text(option): option for option in options}
    _prepare(name, label, default, by_text.get, lambda value: value in by_text.values(), shown)
    arguments: dict[str, Any] = {
        "key": name,
        "format_func": shown,
        "help": help,
        "label_visibility": "collapsed" if collapsed else "visible",
    }
    if widget == "segments":
        value = st.segmented_control(label, list(options), required=True, **arguments)
    elif widget == "radio":
        value = st.radio(label, list(options), horizontal=True, **arguments)
    else:
        value = st.selectbox(label, list(options), width=width, **arguments)
    if value is None:
        value = default
    _record(name, value, text(value), text(default))
    return value


def tabs(name: str, pages: Mapping[str, str]) -> Iterator[tuple[str, TabContainer]]:
    """The tab that is open, by its id and its place: only what is looked at is computed.

    Args:
        name: of the parameter in the address.
        pages: id of each tab and its label.
    """
    ids = list(pages)
    labels = {label: page for page, label in pages.items()}
    _prepare(name, "Tab", pages[ids[0]], pages.get, lambda label: label in labels, str)
    for page, container in zip(
        ids, st.tabs(list(labels), key=name, on_change="rerun"), strict=True
    ):
        if container.open:
            _record(name, pages[page], page, ids[0])
            yield page, container


def number(
    name: str,
    label: str,
    low: int,
    high: int,
    default: int,
    *,
    slider: bool = False,
    help: str | None = None,
) -> int:
    """A whole number between two bounds."""

    def parse(words: str) -> int | None:
        try:
            value = int(words)
        except ValueError:
            return None
        return value if low <= value <= high else None

    _prepare(name, label, default, parse, lambda v: isinstance(v, int) and low <= v <= high, str)
    if slider:
        value = st.slider(label, low, high, key=name, help=help)
    else:
        value = st.number_input(label, low, high, key=name, help=help, step=1)
    _record(name, value, str(value), str(default))
    return value


def decimal(
    name: str, label: str, low: float, high: float, default: float, *, help: str | None = None
) -> float:
    """A number between two bounds, in steps of 0.05."""

    def parse(words: str) -> float | None:
        try:
            value = float(words)
        except ValueError:
            return None
        return value if low <= value <= high else None

    _prepare(name, label, default, parse, lambda v: isinstance(v, float) and low <= v <= high, str)
    value = st.slider(label, low, high, key=name, help=help, step=0.05)
    _record(name, value, f"{value:g}", f"{default:g}")
    return value


def choose(**values: Any) -> None:
    """Set choices from a click; call it in a callback, before the widgets are made."""
    st.session_state.setdefault(STORE, {}).update(values)
    for name, value in values.items():
        st.session_state[name] = value


def reference(name: str, label: str, pattern: str) -> str | None:
    """A text that no widget shows, such as an id: from the address, or as `refer` set it."""
    store = st.session_state.setdefault(STORE, {})
    asked = st.session_state.setdefault(ASKED, {}).pop(name, None)
    value = store.get(name) if asked is None else asked
    if value is not None and not re.fullmatch(pattern, value):
        st.session_state.setdefault("link_notices", []).append(
            f"The link's {label.lower()} is not whole. Copy the link again."
        )
        value = None
    store[name] = value
    if value is not None:
        _record(name, value, value, "")
    return value


def refer(name: str, value: str | None) -> None:
    """Set what `reference` returns; None lets it go."""
    st.session_state.setdefault(STORE, {})[name] = value


def forget(name: str) -> None:
    """Let a choice fall back to its default."""
    st.session_state.pop(name, None)
    st.session_state.get(STORE, {}).pop(name, None)


def chosen(name: str, default: Any = None) -> Any:
    """The value chosen last, also on a page that does not show the widget."""
    if name in st.session_state:
        return st.session_state[name]
    return st.session_state.get(STORE, {}).get(name, default)


def finish() -> None:
    """Bring the address in line with the choices this page shows, in one step."""
    shown: dict[str, str] = st.session_state.get("link_shown", {})
    if dict(st.query_params) != shown:
        st.query_params.from_dict(shown)
    st.session_state[WRITTEN] = dict(shown)
    for notice in st.session_state.get("link_notices", []):
        st.toast(notice, icon=":material/link_off:")


def permalink(sha256: str, version: str) -> Callable[[], str]:
    """The address of this view: its choices, the data's hash and the version.

    It is made when called, so that choices further down the page are in it.
    """
    parts = urlsplit(str(st.context.url or ""))
    shown: dict[str, str] = st.session_state.get("link_shown", {})

    def address() -> str:
        values = urlencode({**shown, "data": sha256[:12], "version": version})
        return urlunsplit((parts.scheme, parts.netloc, parts.path, values, ""))

    return address


def _prepare(
    name: str,
    label: str,
    default: Any,
    parse: Callable[[str], Any],
    valid: Callable[[Any], bool],
    shown: Callable[[Any], str],
) -> None:
    """Put into the session state what the widget `name` should show in this run."""
    state = st.session_state
    store = state.setdefault(STORE, {})
    asked = state.setdefault(ASKED, {}).pop(name, None)
    if asked is not None:
        value = parse(asked)
        if value is None:
            state.setdefault("link_notices", []).append(
                f"The link asks for {label.lower()} “{asked[:LONGEST]}”, which this data does not "
                f"have. Showing {shown(default)}."
            )
        state[name] = default if value is None else value
        return
    value = state[name] if name in state else store.get(name, default)
    # Assigned even when unchanged: the widget of another page doesn't hand its value on.
    state[name] = value if valid(value) else default


def _record(name: str, value: Any, text: str, default: str) -> None:
    st.session_state.setdefault(STORE, {})[name] = value
    if text != default:
        st.session_state.setdefault("link_shown", {})[name] = text
