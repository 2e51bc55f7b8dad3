"""The smallest sets, and one of many experts, open on every page and tab."""

from __future__ import annotations

import numpy as np
import pytest

from lens.routers.router_set import RouterSet

pytestmark = pytest.mark.usefixtures("few_drawn_sets")

TABS = ("table", "listens", "within", "chains", "by_index", "classic", "load")


def made(n_layers: int, d_model: int, n_experts: int, top_k: int, **more: object) -> RouterSet:
    """Noise with gaps between the numbers of its layers."""
    rng = np.random.default_rng(n_layers)
    weights = rng.standard_normal((n_layers, d_model, n_experts)).astype(np.float32)
    ids = 1 + 3 * np.arange(n_layers)
    return RouterSet(weights, layer_ids=ids, top_k=top_k, source="made for a test", **more)


ONE = made(1, 64, 4, 2)
TWO = made(2, 64, 4, 2, norm_scales=np.full((2, 64), 0.5, np.float32))
FIVE = made(5, 32, 3, 1, score="sigmoid", biases=np.full((5, 3), 0.1, np.float32))
MANY = made(20, 64, 40, 4)


def check(open_page, routers: RouterSet, name: str, **query: str) -> None:
    app = open_page(
        name, state={"uploaded_routers": routers}, source="upload", draws="500", **query
    )
    assert not app.exception
    assert not app.error
    assert any(routers.sha256[:12] in caption.value for caption in app.sidebar.caption)


@pytest.mark.parametrize("name", ["overview", "layers", "experts", "clustering", "live_routing"])
@pytest.mark.parametrize("routers", [ONE, TWO, FIVE, MANY], ids=lambda r: str(r.routers.shape))
def test_every_page_opens_at_both_ends_of_size(open_page, routers, name):
    check(open_page, routers, name)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("routers", [ONE, TWO, FIVE, MANY], ids=lambda r: str(r.routers.shape))
def test_every_tab_of_the_experts_opens_at_both_ends_of_size(open_page, routers, tab):
    last = {"layer": str(routers.layer_ids[-1]), "expert": str(routers.n_experts - 1)}
    check(open_page, routers, "experts", tab=tab, **last)


@pytest.mark.parametrize("colours", ["z", "beyond"])
@pytest.mark.parametrize("routers", [TWO, FIVE, MANY], ids=lambda r: str(r.routers.shape))
def test_layers_against_chance_open_at_both_ends_of_size(open_page, routers, colours):
    metric = "principal_angles" if routers.n_experts < 8 else "cka"  # angles of many take seconds
    query = {"colours": colours, "order": "clustered", "pair": "angles", "metric": metric}
    check(open_page, routers, "layers", **query)


def test_one_layer_says_that_there_is_nothing_to_compare_it_with(open_page):
    app = open_page("layers", state={"uploaded_routers": ONE}, source="upload")
    assert any("one layer" in info.value for info in app.info)


def test_two_layers_are_a_pair_with_its_null(open_page):
    app = open_page("layers", state={"uploaded_routers": TWO}, source="upload")
    text = "\n".join(element.value for element in app.markdown)
    assert "The one pair of layers is not alike more than" in text
    assert "L1 with L4" in text
    assert "nan" not in text
