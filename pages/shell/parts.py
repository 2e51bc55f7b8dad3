"""Parts of a page that are drawn without the rest, where a choice changes nothing else.

A part is a function under `part(key=...)`. It calls `drawn` at its end, so that the address
follows; what it chooses counts for the rest of the page when that is drawn next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import streamlit as st
from streamlit.elements.lib.mutable_expander_container import ExpanderContainer
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.access import persons, settings
from pages.shell import links
from pages.shell.picks import Mark, OnPick
from pages.shell.session_keys import widget

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def part(
    *, key: str | None = None, run_every: float | None = None
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """`st.fragment` for those alone who are let in: an open tab outlives a sign-in.

    Args:
        key: by which `then_drawn` finds it.
        run_every: seconds after which it is drawn again by itself.
    """

    def part_of(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        return st.fragment(inside_alone(function), key=key, run_every=run_every)

    return part_of


def inside_alone(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same function; where the visitor is no longer let in the page is drawn, with its gate."""

    @functools.wraps(function)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if persons.standing(persons.current(), settings.current()) != "inside":
            st.rerun()
        return function(*args, **kwargs)

    return checked


def alone() -> bool:
    """True where a part is drawn now, and not the whole page."""
    context = get_script_run_ctx()
    return context is not None and bool(context.fragment_ids_this_run)


def drawn() -> None:
    """End of a part: the address follows, where it was drawn alone."""
    if alone():
        links.finish(whole=False)


def then_drawn(pick: OnPick, *parts: str) -> OnPick:
    """A pick after which these parts of the page, by the keys of their fragments, are drawn."""

    def picked(mark: Mark) -> None:
        pick(mark)
        st.rerun(parts)

    return picked


def fold(label: str, key: str, *, icon: str, opened: bool = False) -> ExpanderContainer:
    """A fold that stays as it was left; draw what is in it where it is `open` alone.

    Args:
        label: what is in it.
        key: of the widget.
        icon: before the label.
        opened: open at first.
    """
    known = widget(key)
    expanded = bool(known.get()) if known.known else opened
    return st.expander(label, expanded=expanded, key=key, icon=icon, on_change="rerun")


def statistics_fold(label: str, key: str, tabs: str, *, opened: bool = False) -> ExpanderContainer:
    """A fold of statistics in tabs, open at first where a link names one of them.

    Args:
        label: what is in it.
        key: of the widget.
        tabs: parameter of the tabs in the address.
        opened: open at first anyway.
    """
    opened = opened or tabs in links.ASKED.kept(dict)
    return fold(label, key, icon=":material/query_stats:", opened=opened)
