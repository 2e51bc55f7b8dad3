"""Compare in a real browser: an example, a click on the map, a tab, a link; two people at once."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import answer_in_view

PLACE = "/live_routing?mode=compare"
KEPT = re.compile(r"^(The same tokens keep \d+.% of their experts in both|The texts share too few)")


def settled(page: Page) -> None:
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def test_an_example_is_compared_and_a_clicked_cell_becomes_the_one_looked_at(visit):
    page = visit(PLACE)
    settled(page)
    page.get_by_text("A phrase put in", exact=True).click()
    expect(page.locator(".st-key-compare_map")).to_be_visible()
    settled(page)
    expect(page.get_by_text(re.compile("^Your own texts .shown: “In spring"))).to_be_visible()
    expect(page.get_by_text(KEPT)).to_be_visible()
    answer_in_view(page)
    page.locator(".st-key-compare_map svg.marks g.mark-rect.role-mark path").nth(0).click()
    expect(page).to_have_url(re.compile(r"pair=0"))
    expect(page.get_by_text("in first text, place 0")).to_be_visible()
    page.get_by_text("Statistics: each difference beside chance").click()
    page.get_by_role("tab", name="Loads").click()
    expect(page.locator(".st-key-compare_loads")).to_be_visible()
    expect(page).to_have_url(re.compile(r"differences=loads"))
    assert "gardener" not in page.url and "spring" not in page.url
    page.reload()
    expect(page.get_by_text(KEPT)).to_be_visible()
    expect(page.locator(".st-key-compare_loads")).to_be_visible()


@pytest.mark.repeats
def test_two_people_compare_different_texts_at_once_and_see_their_own(visit):
    one, two = visit(PLACE), visit(PLACE + "&sides=change")
    settled(one)
    settled(two)
    one.get_by_text("Sums under two headings", exact=True).click()
    two.get_by_text("Python without its busiest expert", exact=True).click()
    expect(one.get_by_text(KEPT)).to_be_visible()
    expect(two.get_by_text(re.compile("^(Without|Banning) L5·E1 .*guesses"))).to_be_visible()
    assert "Sehen" not in two.content()
    assert "spread" not in one.content()
