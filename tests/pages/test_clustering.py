"""The Clustering page: groups, branches, depth and maps beside chance; slow numbers come later."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from lens.clustering import tree_null
from lens.clustering.branch_support import branch_support
from lens.clustering.reference_sets import ClusterSettings, clustered_layers
from lens.clustering.tree_null import depth_agreement_null, group_null, groups_finding
from lens.clustering.trees import cut_tree, layer_tree
from lens.routers.router_set import RouterSet
from pages.shell import deferred
from pages.shell.deferred import Deferred
from pages.shell.finding_block import NUMBERS
from pages.trees import chance as tree_chance


def texts(app: Any) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def fine(app: Any) -> bool:
    return not app.exception and not app.error and bool(app.title)


def drawn(n_layers: int, n_experts: int = 4, d_model: int = 24) -> RouterSet:
    weights = np.random.default_rng(3).standard_normal((n_layers, d_model, n_experts))
    return RouterSet(weights.astype(np.float32), source="made for a test")


def test_the_page_says_what_lens_finds_of_groups_branches_and_depth(open_page, routers):
    app = open_page("clustering")
    assert fine(app)
    layers = clustered_layers(routers, ClusterSettings())
    tree = layer_tree(layers.gram)
    text = texts(app)
    found = groups_finding(group_null(layers, tree), drifts=True)
    assert found.sentence in text and found.detail in text
    support = branch_support(layers, tree)
    stable = int(support.stable.sum())
    found = f"{stable} of {len(support.support) - 1} branches have more" if stable else "No branch"
    assert found in text
    assert "m = 1 by rule" in "\n".join(caption.value for caption in app.caption)
    depth = depth_agreement_null(cut_tree(tree, 3))
    assert "Agreement with depth" in text and f"p = {depth.p:.2g}" in text
    assert "maps of layers mixed from all layers" in text
    assert "…" not in text  # nothing is missing at the end


def test_draws_and_seed_are_in_the_link_and_change_the_null(open_page):
    app = open_page("clustering", sets="100", trees="50", null_seed="7")
    assert fine(app)
    assert "in 95 % of 100 draws" in texts(app)
    assert "50 resampled trees, seed 7" in texts(app)
    assert app.query_params["sets"] in ("100", ["100"])


@pytest.mark.parametrize(
    ("query", "drawn"),
    [
        ({"reference": "unrelated"}, "unrelated layers give"),
        ({"reference": "shuffled", "sets": "100"}, "layers with shuffled coordinates give"),
        ({"directions": "3", "sets": "100"}, "layers mixed from all layers give"),
        ({"view": "raw", "sets": "100"}, "unrelated layers give"),
    ],
)
def test_each_reference_is_named_in_the_finding(open_page, query, drawn):
    app = open_page("clustering", trees="50", **query)
    assert fine(app)
    assert drawn in texts(app)


def test_settings_that_are_not_offered_fall_back(open_page):
    app = open_page("clustering", sets="12", trees="-1")
    assert fine(app)
    assert "in 95 % of 200 draws" in texts(app)


def test_the_classic_tree_has_a_null_of_its_own_and_no_support(open_page):
    app = open_page("clustering", linkage="classic")
    assert fine(app)
    assert "in 95 % of 200 draws" in texts(app)
    assert "resampled trees, seed" not in texts(app)


def test_a_button_takes_the_number_of_groups_that_stands_out(open_page, routers):
    layers = clustered_layers(routers, ClusterSettings(reference="unrelated"))
    null = group_null(layers, layer_tree(layers.gram))
    best = int(null.k[null.best])
    app = open_page("clustering", clusters=str(best + 1), reference="unrelated")
    app.button(key="best_cut").click().run()
    assert fine(app)
    assert app.slider(key="clusters").value == best
    assert len(app.dataframe[0].value) == best


def test_seeded_maps_say_whether_seeds_agree(open_page):
    app = open_page("clustering", map="tsne", seed="5")
    next(button for button in app.button if button.label == "Run t-SNE").click().run()
    assert fine(app)
    assert "Maps of the seeds 5, 6, 7 share" in texts(app)


@pytest.mark.parametrize("n_layers", [2, 3, 4])
def test_very_few_layers_show_what_they_can(open_page, n_layers):
    app = open_page("clustering", state={"uploaded_routers": drawn(n_layers)}, source="upload")
    assert fine(app)
    assert ("in 95 % of 200 draws" in texts(app)) == (n_layers > 2)


def test_what_takes_some_ten_seconds_counts_as_long_and_a_small_set_does_not(routers):
    weights = np.random.default_rng(0).standard_normal((64, 6144, 8), dtype=np.float32)
    big = RouterSet(weights, top_k=2)
    assert tree_chance.support_seconds(big, 100) > tree_chance.LONG_SECONDS
    assert tree_chance.support_seconds(routers, 100) < tree_chance.LONG_SECONDS
    assert tree_null.seconds(64 * 8, 200) > tree_chance.LONG_SECONDS
    assert tree_null.seconds(12 * 8, 200) < 1


@pytest.mark.parametrize(
    ("button", "says"),
    [("run_support", "resampled trees, seed"), ("run_groups", "in 95 % of 200 draws")],
)
def test_what_takes_long_waits_for_a_button_with_its_time(open_page, monkeypatch, button, says):
    monkeypatch.setattr(tree_chance, "LONG_SECONDS", 1e-6)
    app = open_page("clustering", state={"uploaded_routers": drawn(6)}, source="upload")
    assert fine(app) and says not in texts(app)
    assert "about" in app.button(key=button).label
    app.button(key=button).click().run()
    assert fine(app) and says in texts(app)


class Place:
    """Where progress is shown."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def progress(self, share: float, text: str) -> None:
        self.shares.append(share)


class Drawn(Exception):
    """The page is drawn again."""


def test_slow_numbers_are_made_in_slices_each_of_which_is_shown(monkeypatch):
    state: dict[str, Any] = {}
    monkeypatch.setattr(deferred.st, "session_state", state)

    def again() -> None:
        raise Drawn

    monkeypatch.setattr(deferred.st, "rerun", again)
    monkeypatch.setattr(deferred, "FIRST_SLICE", 0.02)
    monkeypatch.setattr(deferred, "MADE", deferred.Made(most_of_a_kind=3))
    made: list[int] = []

    def make(i: int) -> int:
        time.sleep(0.03)
        made.append(i)
        return i

    def page() -> list[int | None]:
        work = Deferred()
        found = [work.get(("number", i), lambda i=i: make(i)) for i in range(4)]
        work.run(place)
        return found

    place = Place()
    now = Deferred()
    assert now.get(("quick",), lambda: 7, at_once=True) == 7 and not now.missing
    with pytest.raises(Drawn):  # nothing known: one is made, then shown
        page()
    assert made == [0] and place.shares == [0]
    with pytest.raises(Drawn):  # the first is asked of its cache again, the rest made
        page()
    assert made == [0, 0, 1, 2, 3]
    assert page() == [0, 1, 2, 3]  # nothing is missing, nothing is drawn again
    state.clear()  # another visitor, for whom all is there but what was forgotten since
    with pytest.raises(Drawn):
        page()
    assert place.shares[-1] == 3 / 4


def test_until_all_questions_are_answered_the_page_states_the_one_of_depth_alone(
    open_page, monkeypatch
):
    monkeypatch.setattr(Deferred, "run", lambda self, place: None)
    monkeypatch.setattr(deferred, "MADE", deferred.Made())
    app = open_page("clustering")
    assert fine(app)
    told = app.get("popover")
    numbers = next(one.markdown[0].value for one in told if one.proto.popover.label == NUMBERS)
    assert "(for this question alone)" in numbers
    assert "in 95 % of 999 draws" in numbers
