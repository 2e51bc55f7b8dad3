"""Pinned experts beside every page, and all notes on Experts, to take away or delete."""

from __future__ import annotations

import streamlit as st

from lens.escaping import as_markdown
from lens.routers.router_set import RouterSet
from lens.storage.expert_notes import ExpertNote, as_csv, as_json
from pages.access.messages import told
from pages.guide import tables
from pages.hosting import owner
from pages.notes import kept, kept_features
from pages.shell.link_names import page_file

EXPERTS = page_file("experts")


def beside(routers: RouterSet) -> None:
    """The pinned experts of these routers, each a link to its card; for the sidebar."""
    notes = kept.own(routers.sha256)
    problem = kept.problem()
    if problem is not None:
        st.warning(told(problem), icon=":material/warning:")
    if notes or kept_features.some():
        owner.remember()
    pinned = [note for note in notes if note.pinned]
    if not pinned:
        return
    with st.container(gap=None, key="pinned"):
        st.caption("Pinned experts")
        for note in pinned:
            st.page_link(
                EXPERTS,
                label=as_markdown(note.title),
                icon=":material/keep:",
                query_params=_place(routers, note),
            )


def show(routers: RouterSet) -> None:
    """All notes of the person, with their files; nothing where there are none."""
    notes = kept.own()
    if not notes:
        return
    with st.expander(f"Your notes ({len(notes)})", icon=":material/edit_note:"):
        here = [note for note in notes if note.model == routers.sha256]
        with st.container(horizontal=True, gap="small"):
            for note in here:
                st.page_link(
                    EXPERTS, label=as_markdown(note.title), query_params=_place(routers, note)
                )
        tables.show(
            {
                "expert": [note.label for note in notes],
                "name": [note.name for note in notes],
                "note": [note.note for note in notes],
                "pinned": [note.pinned for note in notes],
                "model": [_model(note, routers) for note in notes],
            },
            height="content" if len(notes) <= 12 else 420,
            key="notes_table",
        )
        _files(notes)


def _files(notes: list[ExpertNote]) -> None:
    with st.container(horizontal=True, gap="small"):
        for kind, make, mime in (
            ("CSV", as_csv, "text/csv"),
            ("JSON", as_json, "application/json"),
        ):
            st.download_button(
                f"Notes as {kind}",
                make(notes),
                file_name=f"expert_notes.{kind.lower()}",
                mime=mime,
                key=f"notes_{kind}",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
            )
        with st.popover("Delete all", icon=":material/delete:", type="tertiary"):
            st.button(
                f"Delete all {len(notes)} notes and pins"
                if len(notes) > 1
                else "Delete this note and pin",
                key="notes_delete_all",
                type="primary",
                on_click=kept.delete,
                args=tuple(notes),
            )


def _place(routers: RouterSet, note: ExpertNote) -> dict[str, str]:
    layer = routers.label(note.layer).removeprefix("L")
    return {"layer": layer, "expert": str(note.expert)}


def _model(note: ExpertNote, routers: RouterSet) -> str:
    return "this one" if note.model == routers.sha256 else note.model[:12]
