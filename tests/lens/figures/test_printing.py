"""Figures for print: their size, what stands on them, and where they say they come from."""

from __future__ import annotations

import io
import re

import altair as alt
import numpy as np
import pytest
from PIL import Image

from lens import figures
from lens.figures import marks
from lens.figures.printing import Print, pdf_with_text, printed, size_mm, specification

NOTE = "data sha256 abc | Größe (1) \\ 日"
LABELS = [f"L{layer}" for layer in range(5)]


@pytest.fixture(scope="module")
def chart() -> alt.TopLevelMixin:
    values = np.random.default_rng(0).uniform(0.1, 0.4, (5, 4))
    return figures.expert_map(values, LABELS, "breadth", 0.25, picked=(2, 1))


def layers(chart: alt.TopLevelMixin, how: Print) -> int:
    return len(specification(chart, how)["layer"])


def test_a_png_has_the_width_and_resolution_that_were_asked_for(chart):
    data = printed(chart, "png", Print(width_mm=85, dpi=300), NOTE)
    image = Image.open(io.BytesIO(data))
    assert image.width == pytest.approx(85 / 25.4 * 300, abs=2)
    assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
    assert NOTE.encode() in data


def test_an_svg_is_measured_in_millimetres_and_keeps_its_shape(chart):
    text = printed(chart, "svg", Print(width_mm=120), NOTE).decode()
    root = text[: text.index(">")]
    width, height = (
        float(re.search(rf'{side}="([\d.]+)mm"', root)[1]) for side in ("width", "height")
    )
    box = [float(value) for value in re.search(r'viewBox="([^"]+)"', root)[1].split()]
    assert width == 120
    assert height / width == pytest.approx(box[3] / box[2], rel=1e-3)
    assert "日" in text


def test_a_pdf_has_its_width_and_says_where_its_numbers_come_from(chart):
    data = printed(chart, "pdf", Print(width_mm=85), NOTE)
    width = float(re.findall(rb"/MediaBox \[\s*0 0 ([\d.]+)", data)[0])
    assert width == pytest.approx(85 / 25.4 * 72, abs=0.1)
    said = re.findall(rb"/Subject <([0-9a-f]+)>", data)[-1]
    assert bytes.fromhex(said.decode()).decode("utf-16") == NOTE
    table = int(re.findall(rb"startxref\s+(\d+)", data)[-1])
    assert data[table:].startswith(b"xref\n")
    number, at = re.match(rb"xref\n(\d+) 1\n(\d{10}) ", data[table:]).groups()
    assert data[int(at) :].startswith(number + b" 0 obj")
    with pytest.raises(ValueError, match="no table of objects"):
        pdf_with_text(b"%PDF-1.7 cut", NOTE)


def test_the_size_is_that_on_screen_when_none_is_asked_for(chart):
    data = printed(chart, "png", Print(dpi=96), NOTE)
    assert Image.open(io.BytesIO(data)).width == pytest.approx(
        size_mm(chart, Print())[0] / 25.4 * 96, abs=1.5
    )


def test_what_was_clicked_is_marked_only_when_asked_for_and_findings_always(chart):
    assert layers(chart, Print(selection=True)) == layers(chart, Print()) + 2
    base = marks.chart({"x": ["a"], "y": ["b"]}, x="x:O", y="y:O")
    found = marks.layered(*marks.outlined(base, {"x": ["a"], "y": ["b"]}, 20, chosen=False))
    assert layers(found, Print()) == 2


def test_title_and_method_lines_can_each_be_left_out(chart):
    whole = specification(chart, Print())["title"]
    assert whole["text"] and whole["subtitle"]
    assert "subtitle" not in specification(chart, Print(method=False))["title"]
    assert specification(chart, Print(title=False))["title"]["text"] == whole["subtitle"]
    assert "title" not in specification(chart, Print(title=False, method=False))
