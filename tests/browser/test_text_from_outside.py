"""What the browser makes of words from outside: nothing but words."""

from __future__ import annotations

import io
from urllib.parse import quote

import numpy as np
from playwright.sync_api import expect

from lens.escaping import JOINER
from tests.hostile_words import WORDS

# What the words would become: links, bold and code, formulas, colours, icons, emoji.
AT_WORK = """() => {
  const found = [...document.querySelectorAll(
    "a[href*='zq'], strong, b, code, .katex, .stMarkdownColoredText, [role=img]")]
    .filter(one => one.matches(".katex, [aria-label*='key icon']") || /zq/.test(one.textContent));
  return found.map(one => one.outerHTML).concat(
    (document.body.innerText.match(/\\u{1F604}|zq \\u2192 zq|\\u202E/gu) || []));
}"""


def shown(text: str) -> str:
    return text.replace(JOINER, "")


def hostile_file() -> dict:
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    np.savez(
        buffer,
        routers=rng.standard_normal((2, 16, 4)).astype(np.float32),
        top_k=np.int64(2),
        source=np.str_(WORDS),
    )
    return {"name": "**zq**.npz", "mimeType": "application/zip", "buffer": buffer.getvalue()}


def test_words_of_files_and_addresses_are_words_in_a_real_browser(visit):
    strange = f"{quote(WORDS[:30])}={quote('www.zq.io :red[zq]')}"
    page = visit(f"/layers?order={quote(WORDS[:40])}&{strange}")
    toasts = page.get_by_test_id("stToast")
    expect(toasts).to_have_count(2)
    assert page.evaluate(AT_WORK) == []
    assert any("[zq](https://zq.example) **zq**" in shown(one) for one in toasts.all_inner_texts())
    page.get_by_test_id("stSidebar").get_by_text("Open a file").click()
    page.locator("input[type=file]").first.set_input_files(hostile_file())
    expect(page.get_by_text("Router set opened.")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    origin = page.get_by_test_id("stCaptionContainer").filter(has_text="zq.example")
    expect(origin.first).to_be_visible()
    assert page.evaluate(AT_WORK) == []
    words = shown(origin.first.inner_text())
    for part in ("[zq](https://zq.example)", "**zq**", "$zq$", ":red[zq]", ":material/key:"):
        assert part in words
    assert ":smile:" in words and "<b>zq</b>" in words and "`zq`" in words
