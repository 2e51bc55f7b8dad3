"""Folders of other families, named by their path alone, against what transformers computed."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from lens.traces.trace import Trace, load_trace
from tests.browser.steps import download, heading, prompt_box, settled

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
# A softmax over all, in memory; sigmoid scores corrected and in groups, a first layer without
# experts and FP8 blocks, streamed by expert.
MODES = {"qwen3_moe": "resident", "deepseek_v3_fp8": "streamed"}


@pytest.fixture(scope="module", params=MODES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(serve, family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp(family)
    # Without its tokenizer, so that a prompt can be the reference's own tokens.
    checkpoint = shutil.copytree(
        DATA / family, place / family, ignore=shutil.ignore_patterns("tokenizer*")
    )
    settings = {"GROK_LENS_CHECKPOINT": str(checkpoint), "GROK_LENS_MODE": MODES[family]}
    with serve(place, settings) as address:
        yield address


def run(page: Page, family: str, ids: list[int], button: str = "") -> None:
    """Types tokens' ids and has the model read them; streamed, once it was said what that costs."""
    box = prompt_box(page)
    box.fill(", ".join(map(str, ids)))
    box.press("Control+Enter")
    if button:
        settled(page)
        page.locator(f".st-key-{button} button").click()
    if MODES[family] == "streamed":
        page.locator(".st-key-stream_start button").click()


def saved(page: Page) -> Trace:
    expect(page.get_by_text("Save trace (.npz)")).to_be_visible()
    settled(page)
    return load_trace(io.BytesIO(download(page, page.locator(".st-key-save_trace"), "Save")))


def test_a_folder_of_another_family_is_looked_at_run_and_changed_or_continued(
    visit, family, server
):
    with np.load(DATA / f"{family}.golden.npz") as file:
        golden = {name: file[name] for name in file.files}
    ids = golden["p7.tokens"].tolist()
    page = visit("/experts")
    n_layers, _, n_experts = golden["p33.router_logits"].shape
    expect(page.get_by_text(f"{n_layers} layers × {n_experts} experts")).to_be_visible()
    page.get_by_role("link", name="Live routing").click()
    heading(page, "Live routing")
    run(page, family, golden["p33.tokens"].tolist())
    # In bfloat16, where nothing else is asked for: an expert that is as good as tied changes all
    # layers after it.
    found, wanted = saved(page).router_logits, golden["p33.router_logits"]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted)[0].max() < 0.05 * np.abs(wanted[0]).max()

    if MODES[family] == "streamed":
        page.goto(f"{server}/live_routing?mode=generate&dtype=float32&temperature=0&new_tokens=8")
        run(page, family, ids)
        greedy = golden["greedy.tokens"].tolist()
        assert saved(page).tokens.tolist() == [*ids, *greedy[:-1]]  # the last one was not read
        return
    layer, expert = int(golden["edit.ban.layer"]), int(golden["edit.ban.expert"])
    page.goto(f"{server}/live_routing?mode=what_if&question=one&layer={layer}&expert={expert}")
    run(page, family, ids, "run_one")
    expect(page.get_by_text(re.compile(f"L{layer}·E{expert}")).first).to_be_visible()
    expect(page.locator(".st-key-change_by_token svg.marks").first).to_be_visible()
