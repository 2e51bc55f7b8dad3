"""Sets whose answers take a while: the page stands, then its first lines are filled in."""

import numpy as np
import pytest

from lens.routers.router_set import RouterSet
from pages.shell import layout
from pages.shell.session_keys import SessionKey


@pytest.mark.parametrize("page", ["overview", "layers", "experts"])
def test_first_lines_come_last_and_are_the_answers(open_page, monkeypatch, page):
    usual = open_page(page).subheader[0].value
    monkeypatch.setattr(layout, "AT_ONCE", 100)
    app = open_page(page)
    assert not app.exception
    assert app.subheader[0].value == usual != layout.ANSWERING
    assert SessionKey.LATE_FINDING not in app.session_state
    if page == "overview":
        assert sum(one.value.startswith("**Do adjacent") for one in app.markdown) == 1
        assert layout.ANSWERING not in [one.value for one in app.caption]


@pytest.mark.parametrize("shape, large", [((61, 16, 256), True), ((12, 512, 8), False)])
def test_a_set_of_very_many_experts_is_large_however_narrow_its_model(shape, large):
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert layout.is_large(RouterSet(weights, top_k=2)) == large
