"""What a word means is shown where it stands: by pointer, by keyboard, and on a phone by a tap."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.steps import settled


def test_a_word_of_the_field_says_what_it_means_and_lets_go(visit):
    page = visit("/", viewport={"width": 390, "height": 844}, color_scheme="dark")
    settled(page)
    address = page.url
    note = page.get_by_role("tooltip")
    word = page.locator('a[href="#term-layer"]').first
    word.hover()
    expect(note).to_contain_text("Layer. One of the model's steps.")
    box = note.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.mouse.move(0, 0)
    expect(note).to_be_hidden()
    word.focus()
    expect(note).to_be_visible()
    assert word.get_attribute("aria-describedby") == note.get_attribute("id")
    page.keyboard.press("Escape")
    expect(note).to_be_hidden()
    word.click()
    expect(note).to_be_visible()
    assert page.url == address


def test_the_tour_goes_through_pages_by_keyboard_and_is_offered_once(visit):
    page = visit("/")
    settled(page)
    page.get_by_role("button", name="Take the tour").press("Enter")
    page.get_by_role("button", name="Next", exact=True).press("Enter")
    expect(page.get_by_text("2 of 7")).to_be_visible()
    page.keyboard.press("Enter")  # the focus stays on the button, on the next page too
    expect(page.get_by_text("3 of 7")).to_be_visible()
    expect(page.get_by_role("heading", name="Live routing", level=1)).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Skip").press("Enter")
    expect(page.get_by_text("3 of 7")).to_be_hidden()
    page.goto(page.url.split("/live_routing")[0])
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
    settled(page)
    expect(page.get_by_role("button", name="Take the tour")).to_have_count(0)
