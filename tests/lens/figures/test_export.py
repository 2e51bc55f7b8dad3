"""Figures leave the program as PNG and SVG, complete and with their origin inside."""

from __future__ import annotations

import json
import struct
import zlib

import altair as alt
import numpy as np
import pytest

from lens import figures
from lens.figures import marks, theme

NOTE = {"sha256": "ab" * 32, "source": 'a "quoted" <source> & мир'}


@pytest.fixture
def chart() -> alt.LayerChart:
    return figures.layer_similarity_heatmap(
        np.full((4, 4), 0.3), None, ["L0", "L1", "L2", "L3"], "cka"
    )


def chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        kind, data = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", image[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + data)
        found.append((kind, data))
        at += 12 + length
    return found


def test_png_is_a_png_of_the_figures_size(chart):
    image = figures.figure_png(chart, scale=2)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert width > 2 * 4 * 44
    assert height > 2 * 4 * 44
    small = struct.unpack(">II", figures.figure_png(chart, scale=1)[16:24])
    assert abs(small[0] * 2 - width) <= 2


def test_png_keeps_its_note_in_a_valid_chunk(chart):
    parts = chunks(figures.figure_png(chart, note=NOTE))
    (text,) = [data for kind, data in parts if kind == b"iTXt"]
    keyword, rest = text.split(b"\0", 1)
    assert keyword == b"grok-moe-lens"
    assert json.loads(rest[4:]) == NOTE
    assert [kind for kind, _ in parts][0] == b"IHDR"
    assert [kind for kind, _ in parts][-1] == b"IEND"


def test_svg_holds_the_title_and_the_note(chart):
    import xml.etree.ElementTree as ElementTree

    text = figures.figure_svg(chart, note=NOTE)
    root = ElementTree.fromstring(text)
    assert json.loads(root.findtext("{http://www.w3.org/2000/svg}metadata")) == NOTE
    assert "Similarity of layers" in text


def test_equal_figures_give_equal_files_however_many_were_drawn_before(chart):
    first = figures.figure_svg(chart, note=NOTE), figures.figure_png(chart, note=NOTE)
    assert (figures.figure_svg(chart, note=NOTE), figures.figure_png(chart, note=NOTE)) == first
    assert first[0].count("url(#gradient_") == first[0].count('id="gradient_') > 0


def test_exports_do_not_change_altairs_settings(chart):
    before = alt.data_transformers.active, alt.renderers.active, alt.theme.active
    figures.figure_png(chart)
    figures.figure_svg(chart)
    assert (alt.data_transformers.active, alt.renderers.active, alt.theme.active) == before


def test_embedded_values_that_are_not_finite_become_null():
    data = theme.embed({"value": np.array([0.5, np.nan, np.inf]), "name": ["a", "b", "c"]})
    assert list(data["values"]) == [
        {"value": 0.5, "name": "a"},
        {"value": None, "name": "b"},
        {"value": None, "name": "c"},
    ]


def test_rows_are_not_copied_when_charts_are_put_together():
    cells = marks.chart({"a": [1, 2]}, x="a:Q").mark_rect()
    rows = cells.data["values"]
    ring = marks.ring(cells, {"a": [1]})
    chart = marks.cell_figure([cells, ring], (9, 9), theme.title("Cells"), "Cells")
    assert chart.layer[0].data["values"] is rows


def test_columns_of_different_lengths_are_a_defect_that_names_them():
    with pytest.raises(ValueError, match="a 1, b 2"):
        theme.embed({"a": [1], "b": [1, 2]})


def test_a_large_heatmap_is_specified_in_a_fraction_of_a_second():
    import time

    labels = [f"L{i}" for i in range(64)]
    start = time.process_time()
    figures.layer_similarity_heatmap(np.zeros((64, 64)), None, labels, "cka").to_dict()
    assert time.process_time() - start < 1.0


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#FFFFFF", "#0E1117"])
def test_the_grey_of_second_lines_reads_on_light_and_dark(background):
    assert contrast(theme.MID_GREY, background) > 4


def test_blue_and_orange_are_told_apart_in_grey_and_seen_on_either_background():
    assert contrast(theme.BLUE, theme.ORANGE) > 1.9
    for colour in (theme.BLUE, theme.ORANGE):
        assert min(contrast(colour, ground) for ground in ("#FFFFFF", "#0E1117")) > 2.8


@pytest.mark.parametrize("expert", range(8))
def test_digits_read_on_every_experts_colour(expert):
    from lens.figures.traces.token_maps import digit_ink

    ink = str(digit_ink(np.array([expert]))[0])
    assert contrast(ink, theme.OKABE_ITO[expert]) > 4.5
