"""The tour: offered once, skipped at any step, and at home on whatever page somebody goes to."""

from __future__ import annotations

import pytest

from pages.guide import tour
from pages.shell.link_names import PAGES
from tests.headline_words import MOST_WORDS


def button(app, key):
    return next((one for one in app.button if one.key == key), None)


def said(app):
    return next((one.value for one in app.markdown if f"of {len(tour.STEPS)}**" in one.value), None)


def test_it_is_offered_in_a_line_on_the_first_page_and_declined_for_good(open_page):
    app = open_page()
    assert said(app) is None
    button(app, "tour_decline").click().run()
    assert button(app, "tour_start") is None and said(app) is None
    assert any(tour.COOKIE in one.proto.body for one in app.get("html"))
    app.switch_page("pages/layers.py").run()
    app.switch_page("pages/overview.py").run()
    assert button(app, "tour_start") is None


def test_next_and_back_go_through_the_pages_and_skip_ends_it(open_page):
    app = open_page()
    button(app, "tour_start").click().run()
    assert said(app).startswith("**1 of")
    assert button(app, "tour_back") is None
    button(app, "tour_next").click().run()
    button(app, "tour_next").click().run()
    assert said(app).startswith("**3 of") and app.title[0].value == "Live routing"
    button(app, "tour_back").click().run()
    assert said(app).startswith("**2 of") and app.title[0].value == "Overview"
    button(app, "tour_end").click().run()
    assert said(app) is None and not app.exception


def test_it_comes_along_to_a_page_that_somebody_chooses_and_ends_with_done(open_page):
    app = open_page("layers")
    button(app, "tour_again").click().run()
    assert said(app).startswith("**1 of") and app.title[0].value == "Overview"
    app.switch_page("pages/clustering.py").run()
    assert said(app).startswith(f"**{len(tour.STEPS)} of")
    assert button(app, "tour_next") is None and button(app, "tour_end").label == "Done"


@pytest.mark.parametrize("step", tour.STEPS, ids=lambda step: step.says[:20])
def test_a_step_is_short_and_has_a_page(step):
    assert (step.page or "overview") in PAGES
    assert len(step.says.split()) <= MOST_WORDS + 10
