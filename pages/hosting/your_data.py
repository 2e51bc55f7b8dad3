"""All that is kept of a person who is signed in: to take away, or to delete."""

from __future__ import annotations

import streamlit as st

from lens.errors import LensError
from lens.many_prompts.own_data import OwnData
from lens.many_prompts.retention import kept_days
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.shared_texts import SharedTexts
from lens.storage.expert_notes import NoteBook, kept_notes_days
from lens.words import counted
from pages.access.messages import told
from pages.hosting import owner
from pages.shell.session_keys import SessionKey, SessionValue

PROBLEM = SessionValue[str](SessionKey.YOUR_DATA_PROBLEM)


def own() -> OwnData:
    """The stores of this server, for the person of this session.

    Raises:
        LensError: a retention in the environment is no number of days.
    """
    return OwnData(owner.current(), NoteBook(), RunStore(), SharedTexts())


def popover() -> None:
    """What is kept, one archive of it, and the button that deletes it."""
    problem = PROBLEM.take()
    with st.popover(
        "Your data", icon=":material/folder_shared:", key="own", on_change="rerun"
    ) as box:
        if problem is not None:
            st.error(told(problem), icon=":material/error:")
        if box.open:
            try:
                _contents(own())
            except LensError as error:
                st.error(told(error), icon=":material/error:")


def _contents(data: OwnData) -> None:
    notes, runs, texts = data.counts
    st.markdown(
        f"This server keeps {counted(notes, 'note')}, {counted(runs, 'run')} and "
        f"{counted(texts, 'shared text')} of yours, on whatever device you made them."
    )
    st.caption(
        f"Runs and texts: {_kept(kept_days())}. Notes: {_kept(kept_notes_days())}. What a tab "
        "shows is in the server's memory alone, for a day."
    )
    if not notes + runs + texts:
        return
    st.download_button(
        "Download all (ZIP)",
        data.archive,
        file_name="my-grok-moe-lens-data.zip",
        mime="application/zip",
        key="own_archive",
        on_click="ignore",
        icon=":material/download:",
    )
    sure = st.checkbox("Delete all of it, links to it too", key="own_sure")
    st.button(
        "Delete for good",
        key="own_delete",
        icon=":material/delete_forever:",
        disabled=not sure,
        on_click=_delete,
    )


def _kept(days: float) -> str:
    return f"for {days:g} days" if days else "until you delete them"


def _delete() -> None:
    try:
        own().delete()
    except LensError as error:
        PROBLEM.set(str(error))
