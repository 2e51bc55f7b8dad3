"""Journeys through Inspect and Generate: keys, the cell's card, streaming, two people at once."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from lens.traces.trace import load_trace
from tests.browser.steps import cell, download, prompt_box, run_prompt, settled

TEXT = "It was a bright morning in May, and the whole village had come down to the harbour."
N_TOKENS = 23
MAP = "token_layer_map"


def at(page: Page, token: int, layer: int) -> None:
    """The chosen cell is this one, in the address and in the card."""
    expect(page).to_have_url(re.compile(rf"token={token}(&|$)"))
    expect(page).to_have_url(re.compile(rf"layer={layer}(&|$)"))
    expect(page.get_by_text(re.compile(rf"^Token {token} “"))).to_be_visible()


def has_focus(page: Page) -> bool:
    return page.locator(f".st-key-{MAP}").evaluate("e => e === document.activeElement")


def test_arrow_keys_move_the_cell_while_the_map_has_the_focus_and_only_then(visit):
    page = visit("/live_routing")
    run_prompt(page, TEXT)
    place = page.locator(f".st-key-{MAP}")
    expect(place).to_have_attribute("tabindex", "0")  # reached by the tab key, and says its keys
    expect(place).to_have_attribute("aria-label", re.compile("arrow keys"))
    cell(page, MAP, 3 * N_TOKENS + 5).click()
    at(page, 5, 3)
    assert has_focus(page)
    page.keyboard.press("ArrowRight")
    at(page, 6, 3)
    page.keyboard.press("ArrowDown")
    at(page, 6, 4)
    assert has_focus(page)
    for _ in range(8):  # faster than the page is drawn
        page.keyboard.press("ArrowRight")
    at(page, 14, 4)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    at(page, 0, 3)
    settled(page)
    assert has_focus(page)
    prompt_box(page).click()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    page.get_by_text("Statistics of this text").click()
    page.get_by_role("tab", name="Load", exact=True).focus()
    page.keyboard.press("ArrowRight")
    settled(page)
    at(page, 0, 3)
    page.get_by_role("button", name="Token after", exact=True).click()
    at(page, 1, 3)
    page.get_by_role("button", name="Share", exact=True).click()  # drawn before the moves
    link = page.get_by_test_id("stPopoverBody").get_by_test_id("stCode")
    expect(link).to_contain_text(re.compile("token=1&layer=3&"))


def test_statistics_of_a_layer_follow_the_cell_though_it_is_drawn_alone(visit):
    page = visit("/live_routing?part=pairs&layer=2")
    expect(page.get_by_text("Experts chosen together, L2", exact=True)).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Layer below in the map", exact=True).click()
    expect(page.get_by_text("Experts chosen together, L3", exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile("layer=3"))


def generate(page: Page, text: str) -> None:
    prompt_box(page).fill(text)
    page.get_by_test_id("stBaseButton-primaryFormSubmit").click()


def test_a_stop_keeps_the_tokens_there_are(visit):
    page = visit("/live_routing?mode=generate&new_tokens=900&sampling_seed=3")
    settled(page)
    generate(page, "It was a bright morning")
    expect(page.get_by_text(re.compile(r"of 900 tokens, \d+ a second"))).to_be_visible()
    page.locator(".st-key-stop_generating button").click()
    expect(page.get_by_text(re.compile(r"Stopped after [\d,]+ of 900 tokens"))).to_be_visible()
    settled(page)
    trace = load_trace(io.BytesIO(download(page, page.locator(".st-key-save_trace"), "Save")))
    said = page.get_by_text(re.compile(r"Stopped after [\d,]+ of")).inner_text()
    made = int(re.search(r"after ([\d,]+) of", said)[1].replace(",", ""))
    assert 1 < made < 900
    assert len(trace.tokens) == trace.prompt_length + made - 1


def continuation(page: Page) -> np.ndarray:
    """The tokens of a continuation that has been asked for, as the page saves them."""
    expect(page.get_by_text("Save trace (.npz)")).to_be_visible()
    settled(page)
    data = download(page, page.locator(".st-key-save_trace"), "Save")
    return load_trace(io.BytesIO(data)).tokens


def test_a_layer_chosen_in_the_lens_survives_a_reload_and_a_shared_link_opens_elsewhere(visit):
    page = visit("/live_routing")
    run_prompt(page, TEXT)
    expect(page.get_by_text(re.compile("If the model ended after L"))).to_be_visible()
    place = page.locator(".st-key-logit_lens svg.marks g.mark-rect.role-mark").first
    place.locator("path").nth(3).click()
    expect(page.get_by_text("If the model ended after L3")).to_be_visible()
    expect(page).to_have_url(re.compile("layer=3"))
    expect(page).to_have_url(re.compile("kept="))
    page.reload()
    expect(page.get_by_text(f"(shown: “{TEXT[:20]}")).to_be_visible()
    expect(page.get_by_text("If the model ended after L3")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Share").first.click()
    body = page.get_by_test_id("stPopoverBody")
    body.get_by_role("button", name="Put my text into the link").click()
    link = body.get_by_test_id("stCode")
    expect(link).to_contain_text("text=")
    address = "".join(link.inner_text().split())
    other = visit("/live_routing?" + address.split("?")[1])
    expect(other.get_by_text(f"(shown: “{TEXT[:20]}")).to_be_visible()
    expect(other).to_have_url(re.compile("text="))


@pytest.mark.repeats
def test_two_people_generate_at_once_and_each_gets_what_their_seed_gives_alone(visit):
    beginnings = {1: "It was a bright morning", 2: "def main():\n"}
    asked = "/live_routing?mode=generate&new_tokens=24&sampling_seed="
    pages = {seed: visit(f"{asked}{seed}") for seed in beginnings}
    for seed, page in pages.items():
        settled(page)
        prompt_box(page).fill(beginnings[seed])
    for page in pages.values():
        page.get_by_test_id("stBaseButton-primaryFormSubmit").click()
    together = {seed: continuation(page) for seed, page in pages.items()}
    for seed, page in pages.items():
        assert "bright" not in page.url and "main" not in page.url
        page.goto(page.url.split("/live_routing")[0] + f"{asked}{seed}")  # a new visit, alone
        expect(page.get_by_text("Save trace (.npz)")).to_have_count(0)
        settled(page)
        generate(page, beginnings[seed])
        np.testing.assert_array_equal(together[seed], continuation(page))
        assert len(together[seed]) > 24
