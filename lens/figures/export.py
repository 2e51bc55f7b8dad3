"""Figures as PNG and SVG bytes, without a browser and without network.

What a figure shows is not enough to draw it again: `note` puts what is (the hash of
the data, the version, the settings) into the file itself, where image viewers and
`exiftool` find it.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import altair as alt
import vl_convert

from lens.figures import theme

# The Vega-Lite version that Altair writes, in vl-convert's notation ("6.4").
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
BACKGROUND = "#FFFFFF"
# Figures are measured with Liberation Sans, which these are as wide as; most readers have one.
FONTS = "Liberation Sans, Arial, Helvetica, sans-serif"
NOTE_KEYWORD = "grok-moe-lens"


class Written(NamedTuple):
    """A figure as it stands in files: its title, SVG text and PNG bytes."""

    title: str
    svg: str
    png: bytes


def written(
    chart: alt.TopLevelMixin, scale: float = 2, *, note: Mapping[str, Any] | None = None
) -> Written:
    """The figure on white in both formats, laid out once: the PNG is the SVG's pixels.

    Args:
        chart: the figure.
        scale: of the PNG: pixels for one on screen.
        note: names and values kept in both files as JSON: in an iTXt chunk and in the SVG's
            metadata element.
    """
    spec = exported(chart)
    svg = svg_of(spec)
    png = vl_convert.svg_to_png(svg, scale=scale)
    if note is not None:
        svg, png = svg_with_text(svg, _json(note)), png_with_text(png, NOTE_KEYWORD, _json(note))
    return Written(theme.title_of(spec), svg, png)


def figure_png(
    chart: alt.TopLevelMixin, scale: float = 2, *, note: Mapping[str, Any] | None = None
) -> bytes:
    """The figure as PNG on white; see `written`."""
    return written(chart, scale, note=note).png


def figure_svg(chart: alt.TopLevelMixin, *, note: Mapping[str, Any] | None = None) -> str:
    """The figure as SVG text on white, with its note in the metadata element."""
    text = svg_of(exported(chart))
    return text if note is None else svg_with_text(text, _json(note))


def png_with_text(image: bytes, keyword: str, text: str) -> bytes:
    """A PNG with an uncompressed iTXt chunk after its header (PNG specification, 11.3.4.5)."""
    header_end = 8 + 4 + 4 + 13 + 4  # signature; length, type, data and checksum of IHDR
    body = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return image[:header_end] + chunk + image[header_end:]


def svg_with_text(svg: str, text: str) -> str:
    """An SVG whose metadata element holds the text."""
    end = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:end]}<metadata>{escape(text)}</metadata>{svg[end:]}"


def _renumbered(svg: str) -> str:
    """Names of gradients and clips counted within the figure.

    Vega counts them over the life of the process, so that equal figures would differ.
    """
    names = dict.fromkeys(re.findall(r'\bid="([a-z]+_?)(\d+)"', svg))
    numbers = {name: str(count) for count, name in enumerate(names, 1)}

    def renumbered(found: re.Match[str]) -> str:
        name = found["name"], found["number"]
        return found["before"] + name[0] + numbers.get(name, name[1]) + found["after"]

    named = r"(?P<name>[a-z]+_?)(?P<number>\d+)"
    return re.sub(rf'(?P<before>\bid="|="url\(#){named}(?P<after>"|\)")', renumbered, svg)


def svg_of(spec: dict[str, Any]) -> str:
    """A Vega-Lite figure as SVG text, the same for the same figure."""
    text = _renumbered(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE))
    return text.replace('font-family="sans-serif"', f'font-family="{FONTS}"')


def exported(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The figure as Vega-Lite, on white and in the look of files."""
    spec = chart.to_dict()
    return {**spec, "background": BACKGROUND, "config": {**spec.get("config", {}), **theme.look()}}


def _json(note: Mapping[str, Any]) -> str:
    return json.dumps(dict(note), ensure_ascii=False, sort_keys=True)
