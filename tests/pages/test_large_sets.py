"""Sets whose answers take a while: the page stands, then its first lines are filled in."""

import pytest

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
