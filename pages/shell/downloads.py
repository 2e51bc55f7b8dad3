"""Download buttons under a figure, and the provenance written into what they give.

Files are made when a button is pressed, not when the page is drawn. PNG and SVG
carry the address of the view they show, the data's SHA-256 and the version; a
CSV's name carries the hash.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from xml.sax.saxutils import escape

import altair as alt
import streamlit as st

from lens.figures import figure_png, figure_svg

PNG_HEADER_BYTES = 33  # signature and the IHDR chunk, which must come first


def png_with_note(png: bytes, note: str) -> bytes:
    """A PNG with an international text chunk "Description" after its header."""
    content = b"Description\0\0\0\0\0" + note.encode()
    chunk = b"iTXt" + content
    packed = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:PNG_HEADER_BYTES] + packed + png[PNG_HEADER_BYTES:]


def svg_with_note(svg: str, note: str) -> str:
    """An SVG whose metadata element holds the note."""
    metadata = f"<metadata>{escape(note)}</metadata>"
    return re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + metadata, svg, count=1)


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
                lambda: png_with_note(figure_png(shown), note()),
                f"{stem}.png",
                "image/png",
                key,
            )
            _button(
                "SVG",
                lambda: svg_with_note(figure_svg(shown), note()).encode(),
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
