"""The report's page: everything inside, nothing run, nothing fetched, text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lens.routers.router_set import RouterSet
from lens.storage.csv_text import read_csv
from tests.lens.report.conftest import HOSTILE


class Seen(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def folder(written: tuple[Path, RouterSet]) -> Path:
    return written[0]


@pytest.fixture(scope="module")
def seen(written: tuple[Path, RouterSet]) -> Seen:
    found = Seen()
    found.feed((written[0] / "report.html").read_text(encoding="utf-8"))
    return found


def test_every_image_is_inside_and_described(seen):
    images = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(images) > 15
    for attributes in images:
        assert re.match(r"data:image/(png|svg\+xml);base64,", attributes["src"] or "")
        assert len(attributes["alt"] or "") > 20


def test_nothing_is_run_or_fetched(seen):
    tags = {tag for tag, _ in seen.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "video"}
    policy = next(a["content"] for t, a in seen.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:")
    for tag, attributes in seen.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "a":
            assert re.fullmatch(r"#[\w-]+|[\w-]+\.(csv|png|svg)", attributes["href"] or "")


def test_links_lead_to_files_and_sections_that_are_there(seen, folder):
    anchors = {attributes["id"] for _, attributes in seen.tags if attributes.get("id")}
    for tag, attributes in seen.tags:
        if tag == "a":
            target = attributes["href"] or ""
            assert target[1:] in anchors if target.startswith("#") else (folder / target).is_file()


def test_what_came_with_the_data_is_text(seen):
    assert HOSTILE in seen.text


def test_the_questions_come_first_with_their_p_values_and_the_settings_above(seen):
    order = [seen.text.index(s) for s in ("SHA-256", "Do adjacent layers", "Similarity of layers")]
    assert order == sorted(order)
    assert len(re.findall(r"\(for four questions [=≤<]", seen.text)) == 4
    assert "1,000 draws, seed 0" in seen.text and "Effective dimension" in seen.text
    assert "--draws 1000" in seen.text and "norms before the routers are unknown" in seen.text


def test_every_section_has_findings_with_nulls_and_a_method(seen):
    for words in (
        "pairs of layers are alike more than the directions that all layers share at a false",
        "are closer than the directions that both layers read explain",
        "experts are longer than equal experts of their layer at a false discovery rate of 5 %",
        "pairs of experts are other than equal experts",
        "Method. CKA = ",
        "Method. Breadth is P(z_k among the top K)",
        "Method. Distances √(2 − 2·CKA)",
    ):
        assert words in seen.text
    assert "2→L3" in seen.text or "1 of 15 pairs" in seen.text


def test_a_table_has_the_findings_in_the_words_of_the_page(seen, folder):
    rows = read_csv((folder / "findings.csv").read_text(encoding="utf-8"))
    said = {row[0]: row[1] for row in rows[1:]}
    assert {"Layers", "Experts", "Clustering"} == set(said)
    for row in rows[1:]:
        assert row[1] in seen.text and row[3] in seen.text
        assert row[2] in ("found", "not told from chance")


def test_small_tables_are_on_the_page_and_large_ones_are_files(seen, folder):
    cells = [tag for tag, _ in seen.tags if tag == "td"]
    assert len(cells) > 50
    assert (folder / "expert_measures.csv").is_file()
    assert (folder / "report.html").stat().st_size < 6_000_000
