"""Cells are read aloud as plain sentences, and their printed digits are not read a second time."""

from __future__ import annotations

import re

import numpy as np

from lens import figures

LABELS = ["L3", "L8"]


def said(chart) -> list[str]:
    return re.findall(r'aria-label="([^"]*)"', figures.figure_svg(chart))


def test_a_pair_of_layers_is_read_as_both_its_names():
    similarity = np.array([[1.0, 0.25], [0.25, 1.0]])
    spoken = said(figures.layer_similarity_heatmap(similarity, None, LABELS, "cka"))
    assert "L3 with L8: CKA 0.2500" in spoken and "L8 with L3: CKA 0.2500" in spoken
    assert not any("layer: " in words for words in spoken)


def test_a_token_is_read_with_its_layer_and_its_experts_once():
    experts = np.array([[[4, 1], [0, 3]]])
    pieces = ["it's", "b"]
    chart = figures.token_layer_map(experts[:, :, 0], "top1", pieces, ["L0"], experts=experts)
    spoken = said(chart)
    assert sum("it's, L0: First choice 4" in words.replace("&#39;", "'") for words in spoken) == 1
    assert any("experts, in order of choice E4 E1" in words for words in spoken)
    strip = said(figures.token_strip(pieces, experts=experts[0]))
    assert sum("position 1" in words for words in strip) == 1
