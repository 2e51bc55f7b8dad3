"""Download buttons under a figure, and the provenance written into what they give.

Files are made when a button is pressed, not when the page is drawn. PNG and SVG
carry the address of the view they show, the data's SHA-256 and the version; a
CSV's name carries the hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import altair as alt
import streamlit as st

from lens.figures import figure_png, figure_svg
from lens.figures.export import png_with_text, svg_with_text


def file_stem(name: str, sha256: str, *words: str) -> str:
    """A file name that says what the file shows and of which data."""
    text = "-".join([name, *(word for word in words if word), sha256[:8]])
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def row(
    key: str,
    stem: str,
    *,
    chart: alt.TopLevelMixin | None = None,
    table: Callable[[], str] | None = None,
    note: Callable[[], str] = str,
) -> None:
    """CSV, PNG and SVG of one figure in a line of small buttons."""
    with st.container(horizontal=True, gap="xsmall", key=f"{key}_downloads"):
        if table is not None:
            _button("CSV", lambda: table().encode(), f"{stem}.csv", "text/csv", key)
        if chart is not None:
            shown = chart
            _button(
                "PNG",
                lambda: png_with_text(figure_png(shown), "Description", note()),
                f"{stem}.png",
                "image/png",
                key,
            )
            _button(
                "SVG",
                lambda: svg_with_text(figure_svg(shown), note()).encode(),
                f"{stem}.svg",
                "image/svg+xml",
                key,
            )


def _button(label: str, make: Callable[[], bytes], name: str, mime: str, key: str) -> None:
    st.download_button(
        label,
        make,
        file_name=name,
        mime=mime,
        key=f"{key}_{label}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )
