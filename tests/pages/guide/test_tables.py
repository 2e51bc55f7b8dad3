"""Heads of tables say what their words mean."""

from __future__ import annotations

from pages.guide import tables


def test_a_head_says_what_is_said_of_it_and_what_its_words_mean():
    own = {"margin": {"help": "In logits.", "type_config": {"type": "number"}}}
    said = tables.explained("margin", own)
    assert said["help"].startswith("In logits.\n\n**Margin.**")
    assert said["type_config"] == {"type": "number"}
    assert "Expert" in tables.explained("expert", {})["help"]
    assert tables.explained("of", {})["help"] is None


def test_a_p_value_has_two_digits_that_count():
    assert tables.explained("q", {})["type_config"]["format"] == "%.2g"


def test_the_table_of_experts_explains_its_heads(open_page):
    app = open_page("experts", tab="table")
    columns = next(one.proto.columns for one in app.dataframe if "Breadth" in one.value)
    for word in ("Breadth", "Norm", "expert"):
        assert f'"{word}"' in columns
    assert "How likely an expert is to be chosen" in columns
