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

from lens.escaping import as_markdown
from lens.glossary import help_of
from pages.access import limits
from pages.shell.link_names import NAMES, OF_EVERY_LINK, OF_NO_LINK
from pages.shell.session_keys import SessionKey, SessionValue, widget

Option = TypeVar("Option")
Number = TypeVar("Number", int, float)
Options = Sequence[Option] | Mapping[str, Option]

VALUES = SessionValue[dict[str, Any]](SessionKey.LINK_VALUES)
DEFAULTS = SessionValue[dict[str, Any]](SessionKey.LINK_DEFAULTS)
WRITTEN = SessionValue[dict[str, str]](SessionKey.LINK_WRITTEN)
ASKED = SessionValue[dict[str, str]](SessionKey.LINK_ASKED)
SHOWN = SessionValue[dict[str, str]](SessionKey.LINK_SHOWN)
NOTICES = SessionValue[list[str]](SessionKey.LINK_NOTICES)
DATA = SessionValue[str](SessionKey.LINK_DATA)
SEEN = SessionValue[dict[str, str]](SessionKey.LINK_SEEN)
UNREAD = SessionValue[set[str]](SessionKey.LINK_UNREAD)
SET_BY_EXAMPLE = SessionValue[Mapping[str, Any]](SessionKey.LINK_EXAMPLE)
LONGEST = 40


def through_app() -> None:
    """Make sure that a page runs inside `app.py`; every page calls this first.

    Streamlit takes a folder called pages for its older kind of app until `app.py`
    has run once. The first visitor of a server who opens a link to a page would
    get that page alone, without data source and navigation.
    """
    if PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def begin() -> None:
    """Start one run: take in what the address asks for, until a widget can show it."""
    written = WRITTEN.kept(dict)
    asked = ASKED.kept(dict)
    address, by_history = _address()
    # A run that the page itself starts anew is told the address as it was before.
    same_as_before = address == SEEN.get() and not by_history
    SEEN.set(address)
    for name, text in address.items():
        if text != written.get(name) and not same_as_before:
            asked[name] = text
    if by_history:  # the default stands for what the address of then does not name
        for name in set(written) - set(address):
            forget(name)
    DATA.kept(lambda: str(st.query_params.get("data", "")))
    SHOWN.set({})
    NOTICES.set([])
    SET_BY_EXAMPLE.set({})


def _address() -> tuple[dict[str, str], bool]:
    """The parameters in the address, and whether the back or forward button led there.

    Within a page Streamlit leaves `st.query_params` as they were when those buttons
    are pressed; the run's own query string has the new ones.
    """
    context = get_script_run_ctx()
    if context is None or not context.is_history_navigation:
        return dict(st.query_params.items()), False
    return dict(parse_qsl(context.query_string)), True


def choice(
    name: str,
    label: str,
    options: Options[Option],
    default: Option,
    *,
    shown: Callable[[Option], str] = str,
    help: str | None = None,
    collapsed: bool = False,
    width: int | Literal["stretch"] = "stretch",
) -> Option:
    """One of several options, by a list.

    Args:
        name: in the address.
        label: of the widget; not drawn where `collapsed`.
        options: to choose from; a mapping also says by which text the address holds each.
        default: what is chosen at first, and not written to the address.
        shown: what the widget says for an option.
        help: shown at the label.
        collapsed: whether the label is left out.
        width: of the widget, in pixels.

    Returns:
        The option that is chosen.
    """
    by_text = _prepare_options(name, label, options, default, shown)
    value = st.selectbox(
        label,
        list(by_text.values()),
        key=name,
        format_func=shown,
        help=help_of(help, label),
        label_visibility="collapsed" if collapsed else "visible",
        width=width,
    )
    return _record_option(name, value, by_text, default)


def segments(
    name: str,
    label: str,
    options: Options[Option],
    default: Option,
    *,
    shown: Callable[[Option], str] = str,
    help: str | None = None,
    collapsed: bool = False,
) -> Option:
    """One of a few options, side by side; see `choice`."""
    by_text = _prepare_options(name, label, options, default, shown)
    value = st.segmented_control(
        label,
        list(by_text.values()),
        required=True,
        key=name,
        format_func=shown,
        help=help_of(help, label, *map(shown, by_text.values())),
        label_visibility="collapsed" if collapsed else "visible",
    )
    return _record_option(name, value, by_text, default)


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
    _prepare_number(name, label, low, high, default, int)
    if slider:
        value = st.slider(label, low, high, key=name, help=help_of(help, label))
    else:
        value = st.number_input(label, low, high, key=name, help=help_of(help, label), step=1)
    _record(name, value, str(value), str(default))
    return value


def decimal(
    name: str, label: str, low: float, high: float, default: float, *, help: str | None = None
) -> float:
    """A number between two bounds, in steps of 0.05."""
    _prepare_number(name, label, low, high, default, float)
    value = st.slider(label, low, high, key=name, help=help_of(help, label), step=0.05)
    _record(name, value, f"{value:g}", f"{default:g}")
    return value


def choose(**values: object) -> None:
    """Set choices from a click; call it in a callback, before the widgets are made."""
    VALUES.kept(dict).update(values)
    for name in values:
        DEFAULTS.kept(dict).pop(name, None)
    for name, value in values.items():
        widget(name).set(value)


def asked(name: str, label: str, pattern: str) -> str | None:
    """A text that no widget shows, such as an id, where the address newly asks for one."""
    value = ASKED.kept(dict).pop(name, None)
    if value is not None and not re.fullmatch(pattern, value):
        notice(f"The link's {label.lower()} is not whole. Copy the link again.")
        return None
    return value


def show(name: str, text: str) -> None:
    """Have the address hold a text that no widget shows."""
    SHOWN.kept(dict)[name] = text


def pending(name: str) -> str | None:
    """What the address asks for under a name, as long as no widget has shown it."""
    return ASKED.kept(dict).get(name)


def let_go(name: str) -> None:
    """Ask no longer for what the address said under a name."""
    ASKED.kept(dict).pop(name, None)


def hold() -> None:
    """Leave the address as it is asked for, while the page cannot show it yet."""
    data = DATA.get()
    SHOWN.kept(dict).update(ASKED.kept(dict) | ({"data": data} if data else {}))


def reference(name: str, label: str, pattern: str) -> str | None:
    """A text that no widget shows, such as an id: from the address, or as `refer` set it."""
    store = VALUES.kept(dict)
    known = ASKED.kept(dict).get(name)
    value = asked(name, label, pattern)
    if known is None:
        value = store.get(name)
    store[name] = value
    if value is not None:
        show(name, value)
    return value


def refer(name: str, value: str | None) -> None:
    """Set what `reference` returns; None lets it go."""
    VALUES.kept(dict)[name] = value


def forget(name: str) -> None:
    """Let a choice fall back to its default."""
    widget(name).drop()
    VALUES.kept(dict).pop(name, None)


def chosen(name: str, default: Option) -> Option:
    """The value chosen last, also on a page that does not show the widget."""
    state = widget(name)
    value: Option = state.get() if state.known else VALUES.kept(dict).get(name, default)
    return value


def set_by_example(choices: Mapping[str, Any]) -> None:
    """Say what the example in the address chooses: only what differs is written beside it."""
    SET_BY_EXAMPLE.set(choices)


def notice(sentence: str) -> None:
    """Say something about the link, when the page stands."""
    NOTICES.kept(list).append(sentence)


def unread() -> None:
    """Notice what the link asks for and no part of the page has read; for when it stands."""
    said = UNREAD.kept(set)
    for name, text in list(ASKED.kept(dict).items()):
        if name in OF_EVERY_LINK or name in said:
            continue
        said.add(name)
        asked = f"“{as_markdown(name[:LONGEST])}={as_markdown(text[:LONGEST])}”"
        if name in NAMES:
            notice(f"The link also asks for {asked} ({NAMES[name]}), which is not shown here.")
        else:
            del ASKED.kept(dict)[name]
            notice(f"The link's {asked} means nothing here.")


def finish(*, whole: bool = True) -> None:
    """Bring the address in line with the choices shown, in one step; a whole page says notices."""
    shown = SHOWN.kept(dict)
    if dict(st.query_params) != shown:
        st.query_params.from_dict(shown)
    WRITTEN.set(dict(shown))
    for sentence in NOTICES.kept(list) if whole else ():
        st.toast(sentence, icon=":material/link_off:")


def permalink(sha256: str, version: str) -> Callable[[], str]:
    """The address of this view: its choices, the data's hash and the version.

    It is made when called, so that choices further down the page are in it.
    """
    parts = urlsplit(str(st.context.url or ""))
    shown = SHOWN.kept(dict)

    def address() -> str:
        handed_on = {name: text for name, text in shown.items() if name not in OF_NO_LINK}
        values = urlencode({**handed_on, "data": sha256[:12], "version": version})
        return urlunsplit((parts.scheme, parts.netloc, parts.path, values, ""))

    return address


def _prepare_options(
    name: str,
    label: str,
    options: Options[Option],
    default: Option,
    shown: Callable[[Option], str],
) -> dict[str, Option]:
    """Prepare a choice; returns its options by the texts that the address holds."""
    by_text = dict(options) if isinstance(options, Mapping) else {str(one): one for one in options}
    _prepare(name, label, default, by_text.get, lambda value: value in by_text.values(), shown)
    return by_text


def _record_option(
    name: str, value: Option | None, by_text: Mapping[str, Option], default: Option
) -> Option:
    """Record what a widget gave, the default where it gave nothing."""
    texts = {option: text for text, option in by_text.items()}
    found = default if value is None else value
    _record(name, found, texts.get(found, str(found)), texts.get(default, str(default)))
    return found


def _prepare(
    name: str,
    label: str,
    default: Option,
    parse: Callable[[str], Option | None],
    valid: Callable[[object], bool],
    shown: Callable[[Option], str],
) -> None:
    """Put into the session state what the widget `name` should show in this run."""
    state = widget(name)
    asked = ASKED.kept(dict).pop(name, None)
    if asked is not None:
        value = parse(asked)
        if value is None:
            NOTICES.kept(list).append(
                f"The link asks for {label.lower()} “{as_markdown(asked[:LONGEST])}”, "
                f"{limits.reason(name)}. Showing {shown(default)}."
            )
        state.set(default if value is None else value)
        return
    value = chosen(name, default)
    shown_before = DEFAULTS.kept(dict)
    if name in shown_before and value == shown_before[name]:
        value = default  # of this page and these data: what stood there was nobody's choice
    # Assigned even when unchanged: the widget of another page doesn't hand its value on.
    state.set(value if valid(value) else default)


def _prepare_number(
    name: str, label: str, low: Number, high: Number, default: Number, kind: type[Number]
) -> None:
    """Prepare a number between two bounds."""

    def parse(words: str) -> Number | None:
        try:
            value = kind(words)
        except ValueError:
            return None
        return value if low <= value <= high else None

    def valid(value: object) -> bool:
        return isinstance(value, kind) and low <= value <= high

    _prepare(name, label, default, parse, valid, str)


def _record(name: str, value: object, text: str, default: str) -> None:
    VALUES.kept(dict)[name] = value
    if text == default:
        DEFAULTS.kept(dict)[name] = value
    else:
        DEFAULTS.kept(dict).pop(name, None)
    by_example = SET_BY_EXAMPLE.kept(dict)
    said_already = value == by_example[name] if name in by_example else text == default
    if said_already:
        SHOWN.kept(dict).pop(name, None)  # shown before, where a part is drawn alone
    else:
        SHOWN.kept(dict)[name] = text
