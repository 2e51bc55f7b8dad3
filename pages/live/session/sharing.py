"""The text of a mode in a link: its example by name, or the person's own text by choice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from lens.errors import LensError
from lens.many_prompts.retention import kept_days
from lens.many_prompts.run_store import runs_folder
from lens.many_prompts.shared_texts import SharedText, SharedTexts
from pages.access.messages import told
from pages.hosting import owner
from pages.shell import links
from pages.shell.session_keys import SessionKey, SessionValue

SWEEP_EVERY = 600.0  # seconds


@dataclass(frozen=True)
class Here:
    """What stands in the boxes of the mode that is drawn.

    Attributes:
        row: its examples, which stand for where it is.
        texts: by the names of the boxes.
        linked: name of the example, or id of the shared text, that they still are.
    """

    row: str
    texts: Mapping[str, str]
    linked: str | None


HERE = SessionValue[Here](SessionKey.SHARED_HERE)
LINKED = SessionValue[dict[str, str]](SessionKey.TEXT_LINKED)
PROBLEM = SessionValue[str](SessionKey.SHARE_PROBLEM)


@st.cache_resource(max_entries=4, show_spinner=False)
def _store(folder: str, keep_days: float, period: int) -> SharedTexts:
    texts = SharedTexts(keep_days=keep_days)
    texts.sweep()
    return texts


def store() -> SharedTexts:
    """The texts shared on this server; what is too old is cleared every ten minutes.

    Raises:
        LensError: the retention in the environment is no number of days.
    """
    return _store(str(runs_folder()), kept_days(), int(time.time() // SWEEP_EVERY))


def kept_for() -> str:
    """The time for which shared texts are kept, in words."""
    days = kept_days()
    return "until it is forgotten" if days == 0 else f"for {days:g} days"


def found(text_id: str) -> SharedText | None:
    """A shared text; None, and a notice that says why, where there is none."""
    try:
        return store().get(text_id)
    except LensError as error:
        links.notice(told(error))
        return None


def controls() -> None:
    """What the link of this view opens, and the choice to put the text into it."""
    here = HERE.take()
    problem = PROBLEM.take()
    if problem is not None:
        st.error(told(problem), icon=":material/error:")
    if here is None or not any(text.strip() for text in here.texts.values()):
        return
    try:
        _controls(here)
    except LensError as error:
        st.caption(told(error))


def _controls(here: Here) -> None:
    shared = None
    if here.linked is not None:
        try:
            shared = store().get(here.linked)
        except LensError:
            st.caption("This link opens the example with its result.")
            return
    if shared is None:
        st.caption(
            "This link opens the settings, but not your text: that stays yours. To share both, put "
            f"the text into the link. It is then kept on this server {kept_for()}, and who has "
            "the link can read it and see its result."
        )
        st.button(
            "Put my text into the link",
            key="share_text",
            icon=":material/link:",
            on_click=_share,
            args=(here,),
        )
        return
    st.caption(
        f"This link opens the text with its result. Who has it can read the text, which is kept on "
        f"this server {kept_for()}."
    )
    if shared.owner == owner.current():
        owner.remember()
        st.button(
            "Take my text out again",
            key="unshare_text",
            icon=":material/delete:",
            on_click=_unshare,
            args=(here.row, shared.id),
            help="The text is removed from the server, and the link opens the settings alone.",
        )


def _share(here: Here) -> None:
    try:
        made = store().create(owner.current(), here.row, here.texts)
    except LensError as error:
        PROBLEM.set(str(error))
        return
    LINKED.kept(dict)[here.row] = made.id


def _unshare(row: str, text_id: str) -> None:
    try:
        store().delete(text_id, owner.current())
    except LensError as error:
        PROBLEM.set(str(error))
        return
    LINKED.kept(dict).pop(row, None)
