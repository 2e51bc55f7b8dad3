"""Figures as files for print: size in millimetres, resolution, what stands on them, where from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import vl_convert

from lens.figures import marks
from lens.figures.export import (
    exported,
    png_with_text,
    svg_of,
    svg_with_text,
)

Kind = Literal["png", "svg", "pdf"]
KINDS: tuple[Kind, ...] = ("png", "svg", "pdf")
MM_PER_INCH = 25.4
PX_PER_INCH = 96  # of CSS: what a figure measures on screen
PT_PER_INCH = 72


@dataclass(frozen=True)
class Print:
    """How a figure is printed.

    Attributes:
        width_mm: of the whole figure; its size on screen where None.
        dpi: of a PNG.
        title: whether its title stands above it.
        method: whether the lines below the title do, which say what was measured and drawn.
        selection: whether what was clicked is marked.
    """

    width_mm: float | None = None
    dpi: int = 300
    title: bool = True
    method: bool = True
    selection: bool = False


def printed(chart: alt.TopLevelMixin, kind: Kind, how: Print, note: str) -> bytes:
    """The figure as a file.

    Args:
        chart: the figure.
        kind: of the file.
        how: its size and what stands on it.
        note: where its numbers come from, kept inside the file.
    """
    spec = specification(chart, how)
    svg = svg_of(spec)
    across, down = size_px(svg)
    inches = (how.width_mm or across / PX_PER_INCH * MM_PER_INCH) / MM_PER_INCH
    if kind == "png":
        scale = inches * PT_PER_INCH / across
        image = vl_convert.svg_to_png(svg, scale=scale, ppi=how.dpi)
        return png_with_text(image, "Description", note)
    if kind == "pdf":  # whose points are the SVG's pixels
        document = vl_convert.svg_to_pdf(sized(svg, inches * PT_PER_INCH, down / across))
        return pdf_with_text(document, note)
    return svg_with_text(sized(svg, inches * MM_PER_INCH, down / across, "mm"), note).encode()


def size_mm(chart: alt.TopLevelMixin, how: Print) -> tuple[float, float]:
    """Width and height that a printed figure has, in millimetres."""
    across, down = size_px(svg_of(specification(chart, how)))
    width = how.width_mm or across / PX_PER_INCH * MM_PER_INCH
    return width, width * down / across


def specification(chart: alt.TopLevelMixin, how: Print) -> dict[str, Any]:
    """The figure as Vega-Lite, with what `how` asks for."""
    spec = exported(chart)
    title = spec.get("title")
    if isinstance(title, str):
        title = {"text": title}
    if title:
        if not how.method:
            title.pop("subtitle", None)
        if not how.title:
            title["text"] = title.pop("subtitle", [])
            title |= {"fontWeight": "normal", "fontSize": title.get("subtitleFontSize", 12)}
        spec["title"] = title
        if not title["text"]:
            del spec["title"]
    if not how.selection and "layer" in spec:
        layers = spec["layer"]
        spec["layer"] = [one for one in layers if one.get("description") != marks.CHOSEN]
    return spec


def size_px(svg: str) -> tuple[float, float]:
    """Width and height that an SVG gives itself."""
    root = svg[svg.index("<svg") : svg.index(">", svg.index("<svg"))]
    found = {name: float(value) for name, value in re.findall(r'\b(width|height)="([\d.]+)', root)}
    return found["width"], found["height"]


def sized(svg: str, width: float, shape: float, unit: str = "") -> str:
    """An SVG of another size, whose drawing keeps its coordinates.

    Args:
        svg: the figure.
        width: that it gets.
        shape: its height over its width.
        unit: of the width.
    """
    at = svg.index("<svg")
    end = svg.index(">", at)
    root = re.sub(r'\bwidth="[\d.]+"', f'width="{width:.2f}{unit}"', svg[at:end], count=1)
    root = re.sub(r'\bheight="[\d.]+"', f'height="{width * shape:.2f}{unit}"', root, count=1)
    return svg[:at] + root + svg[end:]


def pdf_with_text(document: bytes, text: str) -> bytes:
    """A PDF whose document information says the text, as its subject.

    The information is added as an incremental update (ISO 32000-1, 7.5.6).

    Raises:
        ValueError: the document has no table of its objects at its end.
    """
    end = re.search(rb"startxref\s+(\d+)\s+%%EOF\s*$", document)
    size = re.findall(rb"/Size (\d+)", document)
    root = re.findall(rb"/Root (\d+ \d+ R)", document)
    if end is None or not size or not root:
        raise ValueError("the PDF has no table of objects at its end to which one could be added")
    number = int(size[-1])
    said = ("\ufeff" + text).encode("utf-16-be").hex().encode()
    body = b"\n%d 0 obj\n<< /Subject <%s> /Creator (Grok MoE Lens) >>\nendobj\n" % (number, said)
    table = len(document) + len(body)
    return (
        document
        + body
        + b"xref\n%d 1\n%010d 00000 n\r\n" % (number, len(document) + 1)
        + b"trailer\n<< /Size %d /Root %s /Info %d 0 R /Prev %s >>\n"
        % (number + 1, root[-1], number, end[1])
        + b"startxref\n%d\n%%%%EOF\n" % table
    )
