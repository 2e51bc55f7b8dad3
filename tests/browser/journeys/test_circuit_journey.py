"""From a choice to the features that made it: why, the circuit, tests on the model, a card."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.steps import heading, settled
from tests.browser.test_accessibility import look_at
from tests.screenshots.scenes import run_example

# Features of the drawing, as they are read aloud.
FEATURES = ".st-key-route_circuit svg path[aria-label*=', feature: influence']"


def test_a_choice_is_traced_to_a_feature_which_is_tested_and_has_a_page(visit):
    page = visit("/live_routing", viewport={"width": 1280, "height": 900}, color_scheme="light")
    run_example(page)
    page.get_by_text("Why this expert?").click()
    expect(
        page.get_by_text(re.compile("^Of all that this router sees of the token"))
    ).to_be_visible()
    page.get_by_text("Circuit of this choice").click()
    page.get_by_role("button", name="Trace the circuit").click()
    node = page.locator(FEATURES).first
    expect(node).to_be_visible()
    settled(page)
    name = node.get_attribute("aria-label").partition(" at ")[0]  # L4·F17
    node.click(force=True)
    page.get_by_role("button", name="Test it").click()
    expect(page.get_by_text(re.compile("With all held it changes by"))).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Compare their claims").click()
    expect(page.locator(".st-key-claim_numbers")).to_be_visible()
    settled(page)
    look_at(page)
    page.get_by_role("link", name="Its card").click()
    heading(page, "Features")
    layer, feature = re.fullmatch(r"L(\d+)·F(\d+)", name).groups()
    expect(page).to_have_url(re.compile(f"feature={layer}-{feature}(&|$)"))
    expect(page.get_by_role("heading", name=name)).to_be_visible()
