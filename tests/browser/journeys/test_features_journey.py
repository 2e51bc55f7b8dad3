"""Features with a text of one's own, a feature turned up, a pin; two people at once."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.steps import settled
from tests.browser.test_accessibility import look_at
from tests.screenshots.scenes import try_text

OTHER_TEXT = "They had no idea why"


def test_two_people_read_texts_with_features_and_neither_sees_the_others(visit):
    asked = "/features?find=text"
    page = visit(asked, viewport={"width": 1280, "height": 900}, color_scheme="light")
    other = visit(asked)
    for one in (page, other):
        settled(one)
    other.get_by_role("textbox", name="Prompt").fill(OTHER_TEXT)
    other.get_by_role("button", name="Read it").click()
    try_text(page)
    expect(other.get_by_text("Most unusual is")).to_be_visible()
    other.get_by_role("button", name=re.compile(r"^Pin L\d+·F\d+$")).click()
    expect(other.get_by_role("button", name=re.compile(r"^Unpin L"))).to_be_visible()
    for one, own, strange in ((page, "glad", "idea"), (other, "idea", "glad")):
        settled(one)
        coloured = one.locator(".feature-contexts").first
        expect(coloured).to_contain_text(own)
        expect(coloured).not_to_contain_text(strange)
    page.get_by_role("button", name="How does the text go on?").click()
    expect(page.get_by_text(re.compile("^Of the next 24 tokens"))).to_be_visible()
    settled(page)
    look_at(page)
    for one in (page, other):
        assert "glad" not in one.url and "idea" not in one.url
        one.get_by_text("Yours", exact=True).click()
    expect(other.get_by_text("1 feature found.")).to_be_visible()
    expect(page.get_by_text("Nothing is noted yet.")).to_be_visible()
