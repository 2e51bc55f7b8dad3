"""An expert's pin, name and note, on its card."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from lens.escaping import as_html, as_markdown
from lens.routers.router_set import RouterSet
from lens.storage.expert_notes import LONGEST_NAME, LONGEST_NOTE, ExpertNote
from pages.notes import kept


def show(routers: RouterSet, layer: int, expert: int) -> None:
    """The name that the person gave, a pin, and a note, each changed by a click."""
    note = kept.on(routers, layer, expert)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="note_row"):
        if note.name:
            st.markdown(f"**“{as_markdown(note.name)}”**", width="content")
        st.button(
            f"Unpin {note.label}" if note.pinned else f"Pin {note.label}",
            icon=":material/keep_off:" if note.pinned else ":material/keep:",
            type="tertiary",
            key="pin_expert",
            help="Pinned experts are listed beside every page.",
            on_click=kept.keep,
            args=(replace(note, pinned=not note.pinned),),
        )
        with st.popover(
            "Your note" if note.note or note.name else "Add a note",
            icon=":material/edit_note:",
            type="tertiary",
        ):
            _form(note)
    if note.note:
        words = as_html(note.note, keep_lines=True)
        st.html(f'<p style="white-space:pre-wrap;margin:0">{words}</p>')


def _form(note: ExpertNote) -> None:
    """Name and note; a change of what is kept makes new boxes."""
    key = f"{note.model[:12]}_{note.layer}_{note.expert}_{note.changed}"
    with st.form(f"note_{key}", border=False):
        name = st.text_input(
            f"Name of {note.label}",
            note.name,
            max_chars=LONGEST_NAME,
            key=f"note_name_{key}",
            placeholder="A few words, such as: German endings",
        )
        text = st.text_area("Note", note.note, max_chars=LONGEST_NOTE, key=f"note_text_{key}")
        if st.form_submit_button("Save", type="primary", icon=":material/check:"):
            kept.keep(replace(note, name=name, note=text))
            st.rerun()
    if note.name or note.note:
        st.button(
            "Delete name and note",
            key="note_delete",
            type="tertiary",
            icon=":material/delete:",
            on_click=kept.keep,
            args=(replace(note, name="", note=""),),
        )
    st.caption("Kept on this server, for you alone: see “Your notes” on the page Experts.")
