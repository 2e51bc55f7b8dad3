"""Examples end in something found: what is shown first should not be that nothing is."""

from __future__ import annotations

import pytest

from pages.live.compare.examples import CHANGE_EXAMPLES

RUNS = [
    *(("compare", "compare_example_change", name, {"sides": "change"}) for name in CHANGE_EXAMPLES),
    *(("generate", "generate_example", name, {}) for name in ("A tale", "German")),
]


@pytest.mark.parametrize(("mode", "row", "name", "query"), RUNS, ids=lambda part: str(part))
def test_an_example_ends_in_a_finding(open_page, mode, row, name, query):
    app = open_page("live_routing", mode=mode, **query)
    next(one for one in app.get("button_group") if one.key == row).set_value(name).run()
    assert not app.exception and not app.error
    said = app.subheader[0].value
    assert "no more than" not in said and "No jump" not in said and "is compared" not in said
    assert not any("not beyond chance" in one.value for one in app.markdown)
