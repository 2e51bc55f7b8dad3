"""What newcomers read: the README is short, links lead somewhere, and the docs build."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lens import glossary

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 150
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && "
    ".venv/bin/streamlit run app.py",
    "bash tests/run",
)
RETIRED = ("README, '", 'README, "')
POINTER = re.compile(r"docs/([a-z0-9-]+\.md), '([^']+)'")
FETCHED = re.compile(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\">\s]+)")


def heading_names(file: Path) -> set[str]:
    return {line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#")}


class Words(HTMLParser):
    """The text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The docs, built as strictly as they can be, where no network answers."""
    folder = tmp_path_factory.mktemp("site")
    # A proxy where nobody listens: whatever asked for the network would fail.
    alone = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, **alone, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def words_of(page: Path) -> str:
    reader = Words()
    reader.feed(page.read_text())
    return " ".join(" ".join(reader.said).split())


def test_the_readme_is_short_and_has_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert not set(COMMANDS) - set(lines)


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.name)
def test_every_link_to_a_file_leads_to_one(file: Path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", file.read_text())
    pictures = {link for link in links if link.startswith("images/")}  # of examples/, when built
    missing = [link for link in links if link not in pictures and not (file.parent / link).exists()]
    missing += [name for name in pictures if not (ROOT / "examples" / Path(name).name).is_file()]
    assert not missing


def test_every_page_of_the_docs_is_in_the_readme_or_on_their_first_page():
    said = (ROOT / "README.md").read_text() + (ROOT / "docs" / "index.md").read_text()
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"}
    assert not [page for page in sorted(pages) if f"{page})" not in said]


def test_messages_point_to_sections_that_exist():
    pointers, retired = [], []
    for package in ("grok", "lens", "pages"):
        for source in ROOT.glob(f"{package}/**/*.py"):
            text = source.read_text()
            pointers += POINTER.findall(text)
            retired += [source.name for words in RETIRED if words in text]
    assert not retired
    assert pointers
    for page, section in pointers:
        assert section in heading_names(ROOT / "docs" / page)


def test_the_site_holds_what_the_app_says(site: Path):
    said = words_of(site / "glossary" / "index.html")
    assert not [term for term, meaning in glossary.TERMS.items() if meaning not in said]
    numbers = (site / "numbers" / "index.html").read_text()
    for page in ("Overview", "Layers", "Experts", "Clustering", "Vocabulary"):
        assert re.search(rf"<h3[^>]*>{page}<", numbers), page
    assert "Effective dimension" in numbers
    live = (site / "live-routing" / "index.html").read_text()
    for mode in ("Inspect", "Compare", "What if", "Many prompts"):
        assert re.search(rf"<h3[^>]*>{mode}<", live), mode


def test_the_site_holds_the_docstrings_of_the_interface(site: Path):
    said = words_of(site / "interface" / "index.html")
    assert "trace_routing" in said and "ablation_sweep" in said
    assert "layer_similarity" in said


def test_the_site_asks_no_other_server(site: Path):
    asked = []
    for page in site.rglob("*.html"):
        asked += re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\">\s]+)", page.read_text()
        )
    assert not asked


def test_an_explanation_that_is_gone_is_an_error_and_lists_are_lists():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    with pytest.raises(ValueError, match="pages/hosting: no HOW_TO_READ"):
        hooks.shared("how to read", "pages/hosting")
    assert hooks.spaced("Of two:\n- one\n  more\n- two") == "Of two:\n\n- one\n  more\n- two"
    assert hooks.spaced("```\na\n- b\n```") == "```\na\n- b\n```"


def test_a_hover_says_what_its_terms_mean():
    said = glossary.hover("expert", "margin")
    assert said.startswith("**Expert.** One of the feed-forward networks")
    assert "\n\n**Margin.** How clear a choice was" in said
    assert glossary.definition("p").startswith("**p.** How often chance alone")
    with pytest.raises(KeyError, match="gizmo"):
        glossary.hover("gizmo")


def test_the_words_of_a_text_are_found_as_words():
    text = "Experts of L2·E3 have a KL of 0.1 nats, p = 0.02; `router` is code, a planet no p."
    assert glossary.used_in(text) == ["expert", "nats", "KL", "p"]
    assert "expert" not in glossary.used_in(text, skip=("expert",))
    assert glossary.used_in("kl, cka, P") == []


def test_the_glossary_is_plain():
    for term, meaning in glossary.TERMS.items():
        assert len(meaning.split()) <= 45, term
        assert meaning.endswith("."), term
        assert not re.search(r"[∑Σ‖√=≤]|\d\.\d{3}", meaning), term
