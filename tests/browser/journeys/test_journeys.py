"""Whole journeys in a real browser against the real server."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from lens.extract.grok1 import extract_routers
from lens.layers.similarity import layer_similarity
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet, save_routers
from lens.storage.csv_text import read_csv
from lens.traces.trace import load_trace
from pages.shell import data_source
from tests.browser.steps import (
    PATHS,
    cell,
    choose_file,
    download,
    heading,
    prompt_box,
    run_prompt,
    settled,
    upload,
)

TEXT = "The old harbour was quiet."


@pytest.fixture(scope="module")
def routers() -> RouterSet:
    return extract_routers(data_source.bundled_checkpoint())


PROMPTS = (TEXT, "def f(x):\n    return x")


def test_every_page_is_reached_by_its_link(visit):
    page = visit("/")
    for name, path in PATHS.items():
        settled(page)  # a link that is pressed while a page is drawn may be lost
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
        heading(page, name)
        settled(page)
        assert page.url.split("?")[0].endswith(path)
        expect(page).to_have_title(re.compile(rf"^({name} · )?Grok MoE Lens$"))


def test_a_clicked_cell_becomes_a_link_that_survives_a_reload(visit, routers):
    page = visit("/")
    settled(page)
    row, column = 2, 5
    cell(page, "layer_similarity_heatmap", row * (routers.n_layers - 1) + column - 1).click()
    value = layer_similarity(router_gram(routers), "cka")[2, 5]
    detail = page.get_by_text(re.compile(rf"L2 with L5: CKA {value:.3f}"))
    expect(detail).to_be_visible()
    expect(page).to_have_url(re.compile(r"layer=2.*other=5|other=5.*layer=2"))
    page.reload()
    expect(detail).to_be_visible()


def test_an_expert_is_chosen_by_click_and_stays_on_the_other_pages(visit, routers):
    page = visit("/")
    settled(page)
    cell(page, "expert_map", 2 * routers.n_experts + 3).click()
    heading(page, "Experts")
    expect(page).to_have_url(re.compile("expert=3"))
    expect(page.get_by_text(re.compile("L2·E3 takes German"))).to_be_visible()
    settled(page)
    cell(page, "expert_map", 4 * routers.n_experts + 6).click()
    expect(page).to_have_url(re.compile("expert=6"))
    expect(page).to_have_url(re.compile("layer=4"))
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Layers").click()
    heading(page, "Layers")
    expect(page).to_have_url(re.compile("layers.*layer=4"))


def test_a_prompt_shows_the_experts_that_the_runner_gives_and_opens_from_its_file(visit):
    from grok import load

    model = load(data_source.bundled_checkpoint())
    text = PROMPTS[0]
    expected = model.trace_routing(text)
    page = visit("/live_routing")
    run_prompt(page, text)
    shown = page.get_by_text(re.compile(r"^Token \d+ .* goes to ")).inner_text()
    token = int(re.findall(r"^Token (\d+)", shown)[0])
    named = [tuple(map(int, one)) for one in re.findall(r"L(\d+)·E(\d+)", shown)]
    layer = named[0][0]
    assert named == [(layer, expert) for expert in expected.experts[layer, token]]
    assert "harbour" not in page.url
    data = download(page, page.locator(".st-key-save_trace"), "Save trace")
    trace = load_trace(io.BytesIO(data))
    np.testing.assert_array_equal(trace.experts, expected.experts)
    np.testing.assert_array_equal(trace.tokens, expected.tokens)

    other = visit("/live_routing")
    upload(other, "trace.npz", data)
    expect(other.get_by_text("Trace opened")).to_be_visible()
    found = re.compile(r"of the tokens, more than|token of this text|of these tokens than")
    expect(other.get_by_text(found).first).to_be_visible()


def test_downloads_of_a_figure_open_and_carry_the_hash(visit, routers):
    page = visit("/layers?metric=matched_cosine")
    settled(page)
    place = page.locator(".st-key-layer_similarity_heatmap_downloads")
    table = download(page, place, "CSV").decode()
    rows = read_csv(table)
    pairs = routers.n_layers * (routers.n_layers - 1) // 2
    assert len(rows) == pairs + 1 and rows[0][-2] == "p"
    expected = layer_similarity(router_gram(routers), "matched_cosine")[0, 1]
    assert float(rows[1][2]) == pytest.approx(expected, rel=1e-6)
    assert 0 < float(rows[1][-2]) <= float(rows[1][-1]) <= 1
    png = download(page, place, "PNG")
    assert png.startswith(b"\x89PNG") and routers.sha256.encode() in png
    svg = download(page, place, "SVG").decode()
    assert "<svg" in svg and routers.sha256 in svg and "metric=matched_cosine" in svg


def test_two_browsers_with_different_prompts_each_see_their_own_tokens(visit):
    first, second = visit("/live_routing"), visit("/live_routing")
    for page, text in zip((first, second), PROMPTS, strict=True):
        prompt_box(page).fill(text)
    for page in (first, second):
        prompt_box(page).press("Control+Enter")
    seen = []
    for page in (first, second):
        expect(page.get_by_text("Save trace (.npz)")).to_be_visible()
        settled(page)
        data = download(page, page.locator(".st-key-save_trace"), "Save trace")
        seen.append(load_trace(io.BytesIO(data)))
    assert "harbour" in "".join(seen[0].pieces)
    assert "return" in "".join(seen[1].pieces)


def uploads(tmp_path: Path) -> dict[str, bytes]:
    weights = np.random.default_rng(3).standard_normal((5, 32, 4)).astype(np.float32)
    save_routers(RouterSet(weights, source="a test"), tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    pickled, misshapen = io.BytesIO(), io.BytesIO()
    np.savez(pickled, routers=np.array([{"a": 1}, None], dtype=object))
    np.savez(misshapen, routers=weights[0])
    return {
        "good": good,
        "truncated": good[: len(good) // 2],
        "pickled": pickled.getvalue(),
        "misshapen": misshapen.getvalue(),
    }


def test_bad_uploads_are_explained_and_a_good_one_is_seen_by_its_own_session_alone(visit, tmp_path):
    page = visit("/layers")
    settled(page)
    side = page.get_by_test_id("stSidebar")
    before = side.get_by_text(" layers × ").inner_text()
    files = uploads(tmp_path)
    explained = {
        "truncated": "not a complete .npz file",
        "pickled": "object",
        "misshapen": "expected .layer, d_model, expert.",
    }
    page.get_by_text("Open a file").click()
    for kind, message in explained.items():
        choose_file(page, f"{kind}.npz", files[kind])
        alert = side.get_by_role("alert")
        expect(alert).to_contain_text(re.compile(message))
        expect(alert).not_to_contain_text("Traceback")
        assert side.get_by_text(" layers × ").inner_text() == before
    choose_file(page, "good.npz", files["good"])
    expect(page.get_by_text("Router set opened.")).to_be_visible()
    expect(page.get_by_text("5 layers × 4 experts")).to_be_visible()
    expect(page.get_by_test_id("stSidebar")).to_contain_text("norm scales unknown")
    other = visit("/layers?source=upload")
    settled(other)
    expect(other.get_by_text("5 layers × 4 experts")).to_have_count(0)


def test_nonsense_in_a_link_gives_the_page_and_no_traceback(visit):
    page = visit("/layers?layer=999&other=-1&metric=zzz")
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible()
    expect(page).not_to_have_url(re.compile("999|-1|zzz"))


def test_a_layer_is_chosen_by_keyboard_alone_and_back_and_forward_undo_and_redo_a_choice(visit):
    page = visit("/layers")
    settled(page)
    box = page.get_by_role("combobox", name=re.compile("Compared with"))
    box.focus()
    page.keyboard.type("L9")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("other=9"))
    settled(page)
    beyond = page.get_by_role("radio", name="Beyond chance")
    page.get_by_text("Beyond chance", exact=True).click()
    expect(page).to_have_url(re.compile("colours=beyond"))
    settled(page)
    page.go_back()
    expect(beyond).not_to_be_checked()
    expect(page).not_to_have_url(re.compile("colours="))
    settled(page)
    page.go_forward()
    expect(beyond).to_be_checked()


def test_an_address_without_a_page_says_so_and_asks_for_nothing_that_is_not_there(visit):
    page = visit("/no/such-page")
    expect(page.get_by_text("There is no page “such-page” here.")).to_be_visible()
    page.locator(".st-key-unknown_page").get_by_role("link", name="Layers").click()
    heading(page, "Layers")
