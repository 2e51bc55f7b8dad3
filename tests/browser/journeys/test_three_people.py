"""Whole visits of three people: a newcomer, a researcher, and one with a phone and a keyboard."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from lens.extract.grok1 import extract_routers
from lens.routers.router_set import RouterSet, save_routers
from lens.storage.csv_text import read_csv
from pages.shell import data_source
from tests.browser.steps import cell, download, heading, numbers, settled, upload

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "user_agent": "Mozilla/5.0 (Linux; Android 14; Mobile) AppleWebKit/537.36 Chrome/140 Safari",
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}


def go(page: Page, name: str) -> None:
    settled(page)
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    heading(page, name)
    settled(page)


def headline(page: Page):
    return page.get_by_test_id("stMain").get_by_role("heading", level=3).first


def file_of(routers: RouterSet, folder: Path, without: str = "") -> bytes:
    data = io.BytesIO()
    save_routers(routers, folder / "whole.npz")
    with np.load(folder / "whole.npz", allow_pickle=False) as arrays:
        np.savez(data, **{name: arrays[name] for name in arrays.files if name != without})
    return data.getvalue()


@pytest.fixture(scope="module")
def routers() -> RouterSet:
    return extract_routers(data_source.bundled_checkpoint())


def test_a_newcomer_reads_tries_an_example_and_learns_what_an_expert_takes(visit):
    page = visit("/", viewport={"width": 1280, "height": 720})
    expect(headline(page)).to_contain_text("route alike")
    expect(page.get_by_text("morning", exact=True).first).to_be_in_viewport()
    settled(page)
    page.get_by_role("link", name="Try your own text").click()
    heading(page, "Live routing")
    settled(page)
    page.get_by_text("Sums", exact=True).click()
    expect(page.get_by_text(re.compile("shown: “1"))).to_be_visible()
    settled(page)
    expect(headline(page)).to_contain_text("digits")
    expect(headline(page)).to_be_in_viewport()
    expect(page.locator(".st-key-token_strip")).to_be_in_viewport()
    go(page, "Experts")
    expect(page.get_by_text(re.compile(r"^L\d+·E\d+ takes \w+: "))).to_be_visible()
    cell(page, "expert_map", 2 * 8 + 3).click()
    expect(page.get_by_text(re.compile("^L2·E3 takes German: "))).to_be_visible()
    expect(page.get_by_text("Words that it takes more often")).to_be_visible()


def test_a_researcher_opens_and_compares_sets_and_takes_a_link_and_a_file_home(
    visit, routers, tmp_path
):
    mine = file_of(routers, tmp_path, without="top_k")
    page = visit("/layers")
    settled(page)
    upload(page, "mine.npz", mine)
    expect(page.get_by_text("How many experts does a token go to?")).to_be_visible()
    settled(page)
    place = page.locator(".st-key-layer_similarity_heatmap_downloads")
    assert len(read_csv(download(page, place, "CSV").decode())) > 1
    link = page.url[page.url.index("/layers") :]

    other = visit(link)  # which has a browser of its own
    expect(other.get_by_text("mine.npz").first).to_be_visible()
    expect(other.locator(".st-key-layer_similarity_heatmap")).to_have_count(0)

    go(page, "Overview")
    rng = np.random.default_rng(3)
    second = routers.routers + 0.02 * rng.standard_normal(routers.routers.shape)
    page.get_by_text("Compare with another router set").click()
    settled(page)
    page.get_by_test_id("stFileUploaderDropzoneInput").last.set_input_files(
        {
            "name": "second.npz",
            "mimeType": "application/octet-stream",
            "buffer": file_of(
                dataclasses.replace(routers, routers=second.astype(np.float32)), tmp_path
            ),
        }
    )
    expect(page.get_by_text("Every layer still routes like its counterpart")).to_be_visible()


def test_a_researcher_runs_two_hundred_labelled_prompts(visit):
    page = visit("/live_routing?mode=many")
    settled(page)
    kinds = {
        "sums": "{0} + {1} = {2}",
        "python": "def f{0}(x): return x + {1}",
    }
    lines = [
        f"{kind}\t{form.format(i, i % 7 + 1, i + i % 7 + 1)}"
        for i in range(1, 101)
        for kind, form in kinds.items()
    ]
    box = page.locator(".st-key-many_prompts textarea")
    box.fill("\n".join(lines))
    box.press("Control+Enter")
    expect(page.get_by_text(re.compile("^Read as "))).to_be_visible()
    settled(page)
    page.get_by_role("button", name=re.compile("^Run")).first.click()
    expect(page.locator(".st-key-label_map")).to_be_visible()
    settled(page)
    expect(numbers(page)).to_contain_text("200 prompts")


def test_a_phone_and_a_keyboard_reach_an_experts_card(visit):
    page = visit("/", **PHONE)
    settled(page)
    page.get_by_test_id("stExpandSidebarButton").tap()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Experts").tap()
    heading(page, "Experts")
    settled(page)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    cell(page, "expert_map", 2 * 8 + 3).tap()
    expect(page.get_by_text(re.compile("^L2·E3 takes German: "))).to_be_visible()
    settled(page)
    expert = page.get_by_role("combobox", name="Expert")
    expert.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"^L2·E[0124567] takes "))).to_be_visible()
