"""The field's words explain themselves wherever a newcomer meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Block, Element

from lens import glossary

PAGES = (
    ("overview", {}),
    ("layers", {}),
    ("experts", {}),
    ("clustering", {}),
    ("features", {}),
    *(
        ("live_routing", {"mode": mode})
        for mode in ("inspect", "compare", "what_if", "generate", "many")
    ),
)
CONTROLS = ("selectbox", "number_input", "slider", "select_slider", "text_area", "multiselect")
CONTROLS += ("text_input", "checkbox", "toggle", "radio", "metric")
# Short forms that are no terms: files and units, names of files' kinds, numbers.
NO_TERMS = {
    *("CSV", "PNG", "SVG", "PDF", "ZIP", "JSON", "SHA", "ID", "OK", "NPZ", "URL", "README", "CPU"),
    *("HTML", "I", "A", "MOE", "RAM", "GB", "MB", "UTF", "TXT", "GPU", "HTTP", "HTTPS", "API"),
}


def shown(app: AppTest) -> list[str]:
    """Texts of the page as written, with their marks; explanations behind a button left out."""
    behind = [block for block in app.get("popover") if block.proto.popover.label == "How to read"]
    hidden = {id(element) for block in behind for element in block.markdown}
    return [
        element.proto.body
        for element in [*app.subheader, *app.markdown, *app.caption]
        if id(element) not in hidden
    ]


def controls(app: AppTest) -> list[tuple[str, str]]:
    """Label and help of every control and metric."""
    found = []
    for kind in CONTROLS:
        found += [(one.proto.label, one.proto.help) for one in app.get(kind)]
    for group in app.get("button_group"):
        offered = " | ".join(option.content for option in group.proto.options)
        found.append((f"{group.proto.label} | {offered}", group.proto.help))
    return found


def unexplained(app: AppTest) -> list[str]:
    """Terms of headlines and controls that don't say what they mean."""
    faults = []
    for line in app.subheader:
        terms = glossary.used_in(glossary.unmarked(line.proto.body))
        marks = {glossary.slug(term) for term in terms} - set(
            re.findall(r"\(#(term-[a-z0-9-]+)\)", line.proto.body)
        )
        faults += [f"{mark} in {line.value!r}" for mark in marks]
    for label, help in controls(app):
        terms = glossary.used_in(label)
        faults += [
            f"{term} in {label!r}" for term in terms if glossary.definition(term) not in help
        ]
    return faults


def unknown(app: AppTest) -> set[str]:
    """Short forms in capitals on the page that the glossary lacks."""
    said = " ".join([*map(glossary.unmarked, shown(app)), *(label for label, _ in controls(app))])
    said = re.sub(r"“[^”]*”|`[^`]*`|:[a-z_]+/\w+:", " ", said)
    forms = re.findall(r"(?<![\w·.'-])[A-Z]{2,}(?![\w·])", said)
    return {form for form in forms if not glossary.used_in(form)} - NO_TERMS


def levels(app: AppTest) -> list[int]:
    """Levels of the page's headings, in the order in which they are read."""
    found = []
    for element in walked(app.main):
        body = getattr(element.proto, "body", "")
        if element.type in ("title", "header", "subheader"):
            found.append(int(element.tag[1]))
        elif element.type in ("html", "markdown", "caption") and isinstance(body, str):
            found += [int(level) for level in re.findall(r"<h([1-6])", body)]
            found += [len(marks) for marks in re.findall(r"^(#{1,6}) ", body, re.MULTILINE)]
    return found


def walked(block: Block) -> Iterator[Element]:
    for child in block.children.values():
        if isinstance(child, Block):
            yield from walked(child)
        else:
            yield child


@pytest.mark.parametrize(("page", "query"), PAGES, ids=lambda part: str(part))
def test_every_term_of_a_headline_or_a_control_says_what_it_means(
    open_page, few_drawn_sets, page, query
):
    app = open_page(page, **query)
    assert not app.exception
    assert unexplained(app) == []
    assert unknown(app) == set()
    order = levels(app)
    assert order[:2] == [1, 2]
    assert all(after - before <= 1 for before, after in pairwise(order))


def test_a_term_without_its_meaning_is_seen():
    def page() -> None:
        import streamlit as st

        st.subheader("Experts of a layer")
        st.selectbox("Margin", ["a"])
        st.caption("XYZ is 0.3")

    app = AppTest.from_function(page).run()
    assert {fault.split(" in ")[0] for fault in unexplained(app)} == {
        "term-expert",
        "term-layer",
        "margin",
    }
    assert unknown(app) == {"XYZ"}
