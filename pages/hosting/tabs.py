"""What a tab shows, kept so that a reload brings it back: for its own browser alone.

A reload is a new session to the server. The address holds the tab's id, which nobody guesses;
the browser's cookie says whose it is. Texts and results wait in the server's memory.
"""

from __future__ import annotations

import streamlit as st

from pages.hosting import owner
from pages.hosting.shelf import HOURS, ID, Shelf, new_id
from pages.shell import links, session_keys
from pages.shell.session_keys import SessionKey, SessionValue

TAB = SessionValue[str](SessionKey.TAB)
LOST = SessionValue[bool](SessionKey.TAB_LOST)
FOR_YOU_ALONE = "A reload keeps it, for this browser alone: see Share."
KEPT = (
    "Texts and results of this tab (up to 64 MB) stay in this server's memory for up to "
    f"{HOURS} hours, for this browser alone, so that a reload brings them back. On disk is only a "
    "text that you put into a link."
)
GONE = (
    "What this tab showed is no longer kept: it was forgotten, its time is over, the server was "
    "started again, or the address comes from another browser. “Share” there makes a link that "
    "opens everywhere."
)


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """What this server keeps for all tabs."""
    return Shelf()


def bring_back() -> None:
    """Give a new session what the tab in its address held; call it before anything is drawn."""
    asked = links.asked("kept", "Tab", ID)
    if TAB.get() is not None or asked is None:
        return
    found = shelf().get(asked, owner.current())
    if found is None:
        LOST.set(True)
        return
    session_keys.put_back(found)
    TAB.set(asked)


def put_away() -> None:
    """Keep what this tab holds now, where there is something; call it when the page stands."""
    values = session_keys.of_the_tab()
    known = TAB.get()
    if not values:
        return
    tab = known or new_id()
    if shelf().put(tab, owner.current(), values):
        TAB.set(tab)
        links.show("kept", tab)


def remember() -> None:
    """Leave the browser the key by which it finds its tab again, where it holds something."""
    if session_keys.of_the_tab():
        owner.remember()


def gone_note() -> None:
    """Says that the tab in the address is not kept, once."""
    if LOST.take():
        st.info(GONE, icon=":material/history:")


def forget() -> None:
    """Let go of all texts and results of this tab."""
    tab = TAB.take()
    if tab is not None:
        shelf().drop(tab, owner.current())
    session_keys.forget_tab()


def controls() -> None:
    """What is kept of this tab, and the button that forgets it; for the Share popover."""
    if not session_keys.of_the_tab():
        return
    st.caption(KEPT)
    st.button(
        "Forget texts and results", key="forget_tab", icon=":material/delete:", on_click=forget
    )
