"""What if in a real browser: examples, a sweep that can be cancelled, clicks that lead on."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import answer_in_view, numbers

PLACE = "/live_routing?mode=what_if"
PYTHON = "Python"


def settled(page: Page) -> None:
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def example(page: Page, name: str) -> None:
    """Click an example, which runs it; the form then folds to a line."""
    settled(page)
    page.get_by_role("button", name=name, exact=True).or_(
        page.get_by_text(name, exact=True)
    ).first.click()
    expect(page.get_by_text(re.compile("^Your own texts? .shown: “"))).to_be_visible()
    settled(page)


def press(page: Page, key: str) -> None:
    page.locator(f".st-key-{key} button").first.click()


def test_a_ban_is_shown_beside_the_other_experts_and_survives_a_click_on_a_token(visit):
    page = visit(f"{PLACE}&question=one")
    example(page, PYTHON)
    expect(page).to_have_url(re.compile("example=python"))  # which says layer and expert
    finding = page.get_by_text(re.compile(r"^Without L2·E4 the model's guesses change"))
    expect(finding).to_be_visible()
    settled(page)
    answer_in_view(page)
    page.locator(".st-key-change_by_token svg.marks g.mark-rect.role-mark path").nth(3).click()
    expect(page).to_have_url(re.compile("token=3"))
    expect(finding).to_be_visible()
    shown = numbers(page)
    expect(shown).to_contain_text(re.compile(r"Banning L2·E4, which \d+.% of \d+ tokens use"))
    expect(shown).to_contain_text("more than every other, which is all that 8 experts can show")
    assert "mean" not in page.url


@pytest.mark.repeats
def test_a_sweep_shows_progress_and_a_click_on_an_expert_looks_at_it_alone(visit):
    page = visit(f"{PLACE}&question=every")
    example(page, PYTHON)
    chart = page.locator(".st-key-expert_effects")
    expect(chart).to_be_visible()
    settled(page)
    expect(page.get_by_text(re.compile("^L2·E4 matters most for this text"))).to_be_visible()
    answer_in_view(page)
    chart.locator("svg.marks g.mark-rect.role-mark").first.locator("path").nth(3 * 8 + 5).click()
    expect(page).to_have_url(re.compile("layer=3"))
    expect(page).to_have_url(re.compile("expert=5"))
    expect(page.get_by_role("radio", name="One expert")).to_be_checked()
    page.get_by_text("Every expert", exact=True).click()
    expect(chart).to_be_visible()  # the sweep is kept


def test_a_patch_says_where_the_difference_is_carried(visit):
    page = visit(f"{PLACE}&question=patch")
    example(page, "She or he")
    for title in ("Recovered by one value of the clean run", "Control: the value of another token"):
        expect(page.get_by_text(title, exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("^One value in L0 at “She”"))).to_be_visible()
    finding = numbers(page)
    expect(finding).to_contain_text("The prompts differ by")
    expect(finding).to_contain_text("in L0 at token “·She | ·He”")
    expect(finding).to_contain_text("control in the same place")


def test_two_people_sweep_and_ask_at_once_and_each_gets_their_own(visit):
    sweeping, asking = visit(f"{PLACE}&question=every"), visit(f"{PLACE}&question=one")
    example(sweeping, "Sums")
    example(asking, "German")
    expect(asking.get_by_text(re.compile("^Without L11·E7"))).to_be_visible()
    expect(sweeping.get_by_text(re.compile("^L9·E1 matters most"))).to_be_visible()
    expect(asking.get_by_text(re.compile("matters most"))).to_have_count(0)


def test_a_prompt_that_cannot_be_run_says_why_and_a_cancelled_sweep_leaves_the_page_whole(visit):
    page = visit(f"{PLACE}&question=every")
    press(page, "run_every")
    expect(page.get_by_role("alert")).to_contain_text("The prompt is empty")
    page.get_by_role("textbox").first.fill("and so it went on, day after day; " * 40)
    page.get_by_role("textbox").first.press("Control+Enter")
    settled(page)
    press(page, "run_every")
    page.locator(".st-key-cancel_every button").click()
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.locator(".st-key-run_every button").first).to_be_enabled()
    expect(page.locator(".st-key-expert_effects")).to_have_count(0)
