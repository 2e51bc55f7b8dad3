"""The notes of the person who looks: read from the store, changed by a click."""

from __future__ import annotations

import time
from dataclasses import replace

import streamlit as st

from lens.errors import LensError
from lens.routers.router_set import RouterSet
from lens.storage.expert_notes import DAY, ExpertNote, NoteBook, kept_notes_days, notes_folder
from pages.hosting import owner
from pages.shell.session_keys import SessionKey, SessionValue

CHANGED = SessionValue[bool](SessionKey.NOTES_CHANGED)  # since the page was drawn as a whole
PROBLEM = SessionValue[str](SessionKey.NOTES_PROBLEM)


@st.cache_resource(max_entries=4, show_spinner=False)
def _book(folder: str, keep_days: float, day: int) -> NoteBook:
    made = NoteBook(folder)
    made.sweep(keep_days)
    return made


def book() -> NoteBook:
    """The store that all sessions of this server share."""
    return _book(str(notes_folder()), kept_notes_days(), int(time.time() // DAY))


def own(model: str | None = None) -> list[ExpertNote]:
    """The person's notes, of one model or of all; none where they cannot be read."""
    try:
        return book().of(owner.current(), model)
    except LensError as error:
        PROBLEM.set(str(error))
        return []


def on(routers: RouterSet, layer: int, expert: int) -> ExpertNote:
    """What the person keeps of one expert; empty where nothing."""
    for note in own(routers.sha256):
        if (note.layer, note.expert) == (layer, expert):
            return note
    return ExpertNote(routers.sha256, layer, expert, routers.label(layer, expert))


def given_names(model: str) -> dict[tuple[int, int], str] | None:
    """Names that the person gave to experts, by layer and expert; None where there are none."""
    return {(note.layer, note.expert): note.name for note in own(model) if note.name} or None


def titles(model: str, layer: int) -> dict[int, str]:
    """Names that the person gave to a layer's experts, by their number."""
    return {note.expert: note.name for note in own(model) if note.layer == layer and note.name}


def keep(note: ExpertNote) -> None:
    """Keep a note, cut of blanks around its texts; for a callback."""
    clean = replace(note, name=" ".join(note.name.split()), note=note.note.strip())
    try:
        book().keep(owner.current(), clean)
        CHANGED.set(True)
    except LensError as error:
        PROBLEM.set(str(error))


def delete(*notes: ExpertNote) -> None:
    """Take notes out; for a callback."""
    try:
        for note in notes:
            book().delete(owner.current(), note.model, note.layer, note.expert)
    except LensError as error:
        PROBLEM.set(str(error))


def problem() -> str | None:
    """What went wrong with the notes since it was asked last."""
    aside = book().set_aside
    if aside is not None:
        book().set_aside = None
        return (
            f"The file of notes was damaged and has been set aside as {aside.name} on the server, "
            "where nothing of it is deleted. A new one is begun."
        )
    return PROBLEM.take()
