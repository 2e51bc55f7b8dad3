"""A second router set beside the one at hand, on Overview."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lens.escaping import as_markdown
from lens.figures import printing
from lens.figures.as_python import figure_program
from lens.figures.printing import Print
from lens.recipe.steps import note
from lens.routers.router_set import RouterSet, load_routers, save_routers
from pages.shell import downloads
from tests.headline_words import faults

pytestmark = pytest.mark.usefixtures("few_drawn_sets")
SENTENCE = "Every layer still routes like its counterpart; L3 changed most."


@pytest.fixture
def changed(routers) -> RouterSet:
    weights = routers.routers.copy()
    spread = np.random.default_rng(0).standard_normal(weights[3].shape)
    weights[3] += (0.5 * weights[3].std() * spread).astype(np.float32)
    return replace(routers, routers=weights, source="a fine-tune $x$ [in](http://x.y)")


def texts(app) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.warning, *app.caption])


def test_a_second_set_says_what_changed_and_its_code_makes_the_figures(
    open_page, changed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_routers(changed, "second.npz")
    second = load_routers("second.npz")
    note(second, load_routers, "second.npz")
    charts = {}
    row = downloads.row
    monkeypatch.setattr(
        downloads, "row", lambda key, *a, **o: (charts.update({key: o}), row(key, *a, **o))
    )
    monkeypatch.setattr(printing, "printed", lambda *_: b"")
    app = open_page(state={"second_routers": second}, beside="second", draws="500")
    assert not app.exception and not app.error
    assert SENTENCE in texts(app) and not faults(SENTENCE)
    assert r"a fine-tune \$x\$" in texts(app)
    assert as_markdown("[in](http://x.y)") in texts(app)
    assert app.query_params["beside"] in ("second", ["second"])
    for key in ("layers_changed", "layers_across"):
        code = figure_program(charts[key]["chart"], "pdf", Print(), file="x.pdf")
        space: dict = {}
        exec(code, space)
        assert space["chart"].to_dict() == charts[key]["chart"].to_dict()
    assert charts["layers_changed"]["table"]().count("\n") >= 12


def test_sets_of_other_sizes_are_compared_by_how_their_layers_relate(open_page):
    weights = np.random.default_rng(1).standard_normal((5, 40, 4)).astype(np.float32)
    app = open_page(state={"second_routers": RouterSet(weights)}, beside="second", draws="500")
    assert not app.exception
    assert any("the widths differ (128 and 40)" in one.value for one in app.warning)
    assert "not alike beyond chance" in texts(app)


def test_a_link_to_a_second_set_that_is_not_here_shows_none(open_page):
    app = open_page(beside="second")
    assert not app.exception
    assert "Layers of A and of B" not in texts(app)
