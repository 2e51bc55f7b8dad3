"""Downloads under a figure, and the provenance written into what they give.

Files are made when a button is pressed, not when the page is drawn. PNG, SVG and PDF
carry the address of the view they show, the data's SHA-256 and the version; a
CSV's name carries the hash. Each button says, to those who hear it, which figure it is of.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import altair as alt
import streamlit as st

from lens.errors import LensError
from lens.figures.as_python import figure_program
from lens.figures.printing import KINDS, Kind, Print, printed, size_mm
from lens.words import fixed
from pages.access import settings
from pages.access.messages import told
from pages.shell import data_source

MIME: dict[Kind, str] = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}
AT_ONCE: tuple[Kind, ...] = ("png", "svg")
DPI = (150, 300, 600)


LONGEST_STEM = 100


def file_stem(name: str, sha256: str, *words: str) -> str:
    """A file name that says what the file shows and of which data: plain ASCII, not too long."""
    text = "-".join([name, *(word for word in words if word)])
    return f"{_plain(text)[: LONGEST_STEM - 9].rstrip('-_.')}-{sha256[:8]}"


def first_words(text: str, most: int = 40) -> str:
    """The beginning of a text as a part of a file's name; empty where it has no Latin letter."""
    words = re.findall(r"[a-z0-9]+", _plain(text[: 4 * most], " ").lower())
    found = ""
    for word in words:
        longer = f"{found}_{word}" if found else word[:most]
        if len(longer) > most:
            break
        found = longer
    return found


def _plain(text: str, other: str = "_") -> str:
    """Text in the letters that every system takes in a file's name, without accents."""
    bare = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", other, bare)


def row(
    key: str,
    stem: str,
    *,
    chart: alt.TopLevelMixin | None = None,
    table: Callable[[], str] | None = None,
    note: Callable[[], str] = str,
) -> None:
    """CSV, PNG and SVG of one figure in a line of small buttons, and a dialog for print."""
    name = _spoken(chart, key)
    with st.container(horizontal=True, gap="xsmall", key=f"{key}_downloads"):
        if table is not None:
            _button("CSV", name, lambda: table().encode(), f"{stem}.csv", "text/csv", key)
        if chart is None:
            return
        for kind in ("png", "svg"):
            _button(
                kind.upper(),
                name,
                _maker(chart, kind, Print(), note),
                f"{stem}.{kind}",
                MIME[kind],
                key,
            )
        if st.button(
            f"PDF, size, Python **of {name}**",
            key=f"{key}_print",
            type="tertiary",
            icon=":material/tune:",
        ):
            _print_dialog(chart, stem, note)


def _maker(
    chart: alt.TopLevelMixin, kind: Kind, how: Print, note: Callable[[], str]
) -> Callable[[], bytes]:
    return lambda: printed(chart, kind, how, note())


@st.dialog("Save this figure", width="medium")
def _print_dialog(chart: alt.TopLevelMixin, stem: str, note: Callable[[], str]) -> None:
    picture, python = st.tabs(["Picture", "Copy as Python"])
    with picture:
        kind, how = _picture(chart, stem, note)
    with python:
        st.caption("Reads the same data, makes the same choices and saves the same file.")
        try:
            file = f"{stem}.{kind}"
            made = figure_program(chart, kind, how, file=file, note=note())
            st.code(_without_places(made), height=420)
            st.caption("Runs as it is where this project is on Python's path.")
        except LensError as error:
            st.caption(told(error))


def _without_places(program: str) -> str:
    """A program that names the files which a server was started with, not where they are."""
    if settings.current().is_server:
        found = data_source.configured()
        for place in filter(None, (found.routers, found.checkpoint)):
            program = program.replace(place, Path(place).name)
    return program


def _picture(chart: alt.TopLevelMixin, stem: str, note: Callable[[], str]) -> tuple[Kind, Print]:
    """What is asked of the file, and the button that saves it."""
    kind: Kind = st.segmented_control(
        "Format", KINDS, default="pdf", format_func=str.upper, required=True
    )
    left, right = st.columns(2)
    width = left.number_input(
        "Width, mm",
        min_value=20,
        max_value=1000,
        value=min(1000, max(20, round(size_mm(chart, Print())[0]))),
        help="Of the whole figure. A column of a journal has about 85 mm, a page about 175 mm.",
    )
    dpi = right.selectbox("Dots an inch", DPI, index=1, disabled=kind != "png")
    title = st.checkbox("Title", value=True)
    method = st.checkbox("Method lines: what was measured and drawn", value=True)
    selection = st.checkbox("What is selected on screen")
    how = Print(float(width), dpi, title, method, selection)
    st.caption(" × ".join(fixed(side, 0) for side in size_mm(chart, how)) + " mm")
    st.download_button(
        "Save",
        _maker(chart, kind, how, note),
        file_name=f"{stem}.{kind}",
        mime=MIME[kind],
        type="primary",
        on_click="ignore",
        icon=":material/download:",
    )
    st.caption(
        "Inside the file: a link to this view where there is one, the data's hash, the version."
    )
    return kind, how


def _spoken(chart: alt.TopLevelMixin | None, key: str) -> str:
    """What a figure is called when its buttons are read aloud: its title, or its key's words."""
    title = getattr(chart, "title", None)
    text = title if isinstance(title, str) else getattr(title, "text", None)
    if not isinstance(text, str):
        text = key.replace("_", " ")
    return re.sub(r"[^\w\s.,;%-]+", " ", text).strip() or key


def _button(
    label: str, name: str, make: Callable[[], bytes], file: str, mime: str, key: str
) -> None:
    st.download_button(
        f"{label} **of {name}**",
        make,
        file_name=file,
        mime=mime,
        key=f"{key}_{label}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )
