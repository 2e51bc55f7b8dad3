"""Pin, name and note on an expert's or a feature's card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import streamlit as st

from lens.escaping import as_html, as_markdown
from lens.routers.router_set import RouterSet
from lens.storage.expert_notes import LONGEST_NAME, LONGEST_NOTE, ExpertNote
from lens.storage.feature_notes import LONGEST_TAGS, FeatureNote
from pages.notes import kept, kept_features

Note = TypeVar("Note", ExpertNote, FeatureNote)


@dataclass(frozen=True)
class _Subject(Generic[Note]):
    """What a note is on.

    Attributes:
        note: what is kept of it now.
        label: as pages write it, "L2·E3".
        kind: "expert" or "feature".
        keep: keeps another note in its place.
        pinned: where pinned ones are found.
        place: where all notes are found.
        such_as: a name that one might give.
    """

    note: Note
    label: str
    kind: str
    keep: Callable[[Note], None]
    pinned: str
    place: str
    such_as: str


def show(routers: RouterSet, layer: int, expert: int) -> None:
    """An expert's name, pin and note, each changed by a click."""
    note = kept.on(routers, layer, expert)
    _show(
        _Subject(
            note,
            note.label,
            "expert",
            kept.keep,
            "Pinned experts are listed beside every page.",
            "“Your notes” on the page Experts",
            "German endings",
        )
    )


def show_feature(note: FeatureNote, label: str) -> None:
    """A feature's name, pin, tags and note, each changed by a click.

    Args:
        note: what is kept of it; empty where nothing.
        label: the feature as pages write it.
    """
    _show(
        _Subject(
            note,
            label,
            "feature",
            kept_features.keep,
            "Pinned features are found by “Yours” in the search.",
            "“Yours” in the search",
            "ends of questions",
        )
    )


def _show(subject: _Subject[Note]) -> None:
    note = subject.note
    key = f"{subject.kind}_note"
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}_row"):
        if note.name:
            st.markdown(f"**“{as_markdown(note.name)}”**", width="content")
        st.button(
            f"Unpin {subject.label}" if note.pinned else f"Pin {subject.label}",
            icon=":material/keep_off:" if note.pinned else ":material/keep:",
            type="tertiary",
            key=f"pin_{subject.kind}",
            help=subject.pinned,
            on_click=subject.keep,
            args=(replace(note, pinned=not note.pinned),),
        )
        with st.popover(
            "Your note" if note.note or note.name or _tags(note) else "Add a note",
            icon=":material/edit_note:",
            type="tertiary",
        ):
            _form(subject)
    if _tags(note):
        st.caption(f":material/sell: {as_markdown(_tags(note))}")
    if note.note:
        words = as_html(note.note, keep_lines=True)
        st.html(f'<p style="white-space:pre-wrap;margin:0">{words}</p>')


def _tags(note: ExpertNote | FeatureNote) -> str:
    return " ".join(note.tags) if isinstance(note, FeatureNote) else ""


def _written(note: Note, name: str, text: str, tags: str) -> Note:
    """The note with other words, its pin as it was."""
    words: dict[str, Any] = {"name": name, "note": text}
    if isinstance(note, FeatureNote):
        words["tags"] = tuple(dict.fromkeys(tags.split()))
    return replace(note, **words)


def _form(subject: _Subject[Note]) -> None:
    """Name, tags and note; a change of what is kept makes new boxes."""
    note, kind = subject.note, subject.kind
    key = f"{kind}_{subject.label}_{note.changed}"
    with st.form(f"note_{key}", border=False):
        name = st.text_input(
            f"Name of {subject.label}",
            note.name,
            max_chars=LONGEST_NAME,
            key=f"note_name_{key}",
            placeholder=f"A few words, such as: {subject.such_as}",
        )
        tags = ""
        if isinstance(note, FeatureNote):
            tags = st.text_input(
                "Tags",
                _tags(note),
                max_chars=LONGEST_TAGS,
                key=f"note_tags_{key}",
                placeholder="Single words, blanks between them",
            )
        text = st.text_area("Note", note.note, max_chars=LONGEST_NOTE, key=f"note_text_{key}")
        if st.form_submit_button("Save", type="primary", icon=":material/check:"):
            subject.keep(_written(note, name, text, tags))
            st.rerun()
    if note.name or note.note or _tags(note):
        st.button(
            "Delete name and note",
            key=f"{kind}_note_delete",
            type="tertiary",
            icon=":material/delete:",
            on_click=subject.keep,
            args=(_written(note, "", "", ""),),
        )
    st.caption(f"Kept on this server, for you alone: see {subject.place}.")
