"""Many prompts in a real browser: a run that outlives its page, its owner, and two at once."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import cell, numbers

PLACE = "/live_routing?mode=many"
SECRET = "xylophone"


def settled(page: Page) -> None:
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def press(page: Page, key: str) -> None:
    button = page.locator(f".st-key-{key} button").first
    expect(button).to_be_enabled()
    button.click()


def fill(page: Page, text: str) -> None:
    box = page.locator(".st-key-many_prompts textarea")
    box.fill(text)
    box.press("Control+Enter")
    expect(page.get_by_text(re.compile("^Read as "))).to_be_visible()
    settled(page)


def lines(word: str, n: int) -> str:
    return "\n".join(f"{'ab'[i % 2]}\tThe {word} number {i} is here." for i in range(n))


def downloaded(page: Page, file: Path) -> str:
    """The prompts of the run that is shown, out of its download."""
    settled(page)
    with page.expect_download() as download:
        press(page, "many_download")
    download.value.save_as(file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("prompts.csv").decode()


@pytest.mark.repeats
def test_the_ready_list_shows_kinds_apart_and_a_click_on_an_expert_its_words(visit):
    page = visit(PLACE)
    page.get_by_text("Ready list", exact=True).click()
    expect(page.get_by_text(re.compile(r"^L\d+·E\d+ takes \S+ tokens"))).to_be_visible()
    finding = numbers(page)
    expect(finding).to_contain_text("50 prompts")
    expect(finding).to_contain_text("The label tells of the expert in 12 of 12 layers")
    expect(finding).to_contain_text("labels permuted over prompts: 0.0")
    page.keyboard.press("Escape")
    settled(page)
    cell(page, "label_map", 2 * 8 + 3).click()
    expect(page.get_by_text(re.compile(r"^L2·E3 takes german"))).to_be_visible()
    page.get_by_text("Prompts and statistics").click()
    page.get_by_role("tab", name="Words").click()
    chart = page.locator(".st-key-word_map")
    expect(chart).to_be_visible()
    settled(page)
    chart.locator("svg.marks g.mark-rect.role-mark").first.locator("path").nth(3 * 8 + 5).click()
    expect(page).to_have_url(re.compile("layer=3"))
    expect(page).to_have_url(re.compile("expert=5"))
    expect(page.get_by_text("Highest gates of L3·E5")).to_be_visible()
    expect(page.locator(".concordance mark").first).to_be_visible()
    page.get_by_role("tab", name="Prompts").click()
    table = page.locator(".st-key-many_texts canvas").first
    table.scroll_into_view_if_needed()
    settled(page)
    at = table.bounding_box()
    page.mouse.click(at["x"] + 15, at["y"] + 35 + 17)  # the first row's box
    expect(page.locator(".st-key-token_layer_map")).to_be_visible()
    expect(page.get_by_text("The rain had stopped").first).to_be_visible()


def test_a_run_outlives_its_page_and_is_its_owners_alone_until_deleted(visit, tmp_path: Path):
    page = visit(PLACE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    fill(page, lines(SECRET, 12))
    press(page, "many_run")
    expect(page).to_have_url(re.compile(r"run=[\w-]{22}"))
    link = page.url
    page.get_by_role("link", name="Overview").click()  # the run goes on without the page
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
    again = page.context.new_page()
    again.goto(link.partition("/live_routing")[0] + PLACE)
    expect(again.get_by_text("Your runs (1)")).to_be_visible()
    again.locator("[class*='st-key-many_open_'] button").click()
    expect(numbers(again)).to_contain_text("12 prompts")
    again.reload()
    expect(numbers(again)).to_contain_text("12 prompts")
    cookie = next(one for one in page.context.cookies() if one["name"] == "grok_lens_owner")
    assert (cookie["sameSite"], cookie["path"]) == ("Strict", "/")
    assert not any(SECRET in url or cookie["value"] in url for url in asked + [again.url])

    assert downloaded(again, tmp_path / "run.zip").count(SECRET) == 12

    stranger = visit(PLACE)
    expect(stranger.get_by_role("button", name="Run", exact=True)).to_be_visible()
    expect(stranger.get_by_text("Your runs")).to_have_count(0)
    guest = visit("/live_routing?" + link.partition("?")[2])
    expect(numbers(guest)).to_contain_text("12 prompts")
    expect(guest.get_by_text("Your runs")).to_have_count(0)
    expect(guest.get_by_role("button", name="Delete")).to_have_count(0)

    settled(again)
    again.locator("[class*='st-key-many_delete_view'] button").first.click()
    again.get_by_role("button", name="Delete for good").click()
    expect(again.get_by_text("Your runs")).to_have_count(0)
    guest.reload()
    expect(guest.get_by_text("There is no run under this link.")).to_be_visible()


def test_two_people_run_at_once_and_each_sees_their_own(visit, tmp_path: Path):
    first, second = visit(PLACE), visit(PLACE)
    fill(first, lines("apple", 30))
    fill(second, lines("pear", 24))
    press(first, "many_run")
    press(second, "many_run")
    expect(numbers(first)).to_contain_text("30 prompts")
    expect(numbers(second)).to_contain_text("24 prompts")
    for page, own, other in ((first, "apple", "pear"), (second, "pear", "apple")):
        expect(page.get_by_text("Your runs (1)")).to_be_visible()
        prompts = downloaded(page, tmp_path / f"{own}.zip")
        assert own in prompts and other not in prompts
