"""The page Features on the databases that ship, on damaged ones, and without any."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from grok.config import BUNDLED_DICTIONARIES
from lens.features.card import feature_name
from lens.features.query import FeatureQuery
from lens.features.store import FeatureStore
from lens.routers.router_set import RouterSet
from pages.feature_views import search, source


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    return FeatureStore.open(BUNDLED_DICTIONARIES / "sae" / "features")


def texts(app) -> str:
    return "\n".join(one.value for one in (*app.subheader, *app.markdown, *app.caption))


def rows(app) -> list[str]:
    return list(next(one for one in app.dataframe if "mostly on" in one.value).value["feature"])


def test_the_databases_that_ship_are_of_the_bundled_model_and_offered(open_page, routers):
    stores, problems = source.of_routers(routers)
    assert set(stores) == {"sae", "transcoder", "clt"} and not problems
    app = open_page("features", dictionary="transcoder")
    assert not app.exception and not app.error
    assert {one.summary().kind for one in stores.values()} == set(stores)
    alive = stores["transcoder"].tables.ask(
        "SELECT count(*) AS n FROM read_parquet($features) WHERE n > 0"
    )
    assert f"of {int(alive['n'][0]):,} learned features" in app.subheader[0].value


def test_features_of_an_expert_come_in_the_order_of_what_they_add(open_page, store):
    app = open_page("features", dictionary="sae", find="expert", layer="5", expert="3", by="push")
    found = store.find(FeatureQuery(expert=(5, 3), limit=search.ROWS))
    pushes = found.columns["to_push"]
    assert np.isfinite(pushes).all() and (np.diff(pushes) <= 0).all() and pushes[0] > 0
    names = [
        feature_name(layer, feature)
        for layer, feature in zip(found.columns["layer"], found.columns["feature"], strict=True)
    ]
    assert rows(app) == names


def test_a_link_opens_a_feature_and_its_card_says_where_its_tokens_go(open_page, store):
    found = store.find(FeatureQuery(sort="excess", limit=1))
    group, feature = (int(found.columns[name][0]) for name in ("group", "feature"))
    card = store.card(group, feature)
    app = open_page("features", dictionary="sae", feature=f"{group}-{feature}", about="experts")
    assert not app.exception and card.title in [one.value for one in app.subheader]
    best = int(np.nanargmax(card.routes["excess"]))
    layer, expert = (int(card.routes[name][best]) for name in ("layer", "expert"))
    assert f"L{layer}·E{expert}" in texts(app)
    assert any("goes there" in one.value for one in app.dataframe)


def test_a_word_finds_features_that_carry_it_and_a_strange_one_says_so(open_page, store):
    app = open_page("features", dictionary="sae", find="word")
    token = search.token_of(store, "the")
    assert token is not None and store.pieces[token] == "▁the"
    first = store.find(FeatureQuery(token=token, limit=1))
    assert rows(app)[0].endswith(f"F{int(first.columns['feature'][0])}")
    app.text_input(key=search.WORD_BOX).set_value("'); DROP TABLE x; -- **b**").run()
    assert not app.exception and any("No feature is found" in one.value for one in app.info)


def test_a_feature_that_is_not_there_is_let_go(open_page):
    for asked in ("9999-9999999", "x", "3-999999"):
        app = open_page("features", dictionary="sae", feature=asked)
        assert not app.exception and app.query_params.get("feature") != [asked]


def test_a_damaged_database_is_left_out_with_a_sentence(open_page, tmp_path, monkeypatch):
    folder = tmp_path / "features"
    shutil.copytree(BUNDLED_DICTIONARIES / "sae" / "features", folder)
    damaged = folder / "routes.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    monkeypatch.setenv(source.FEATURES_VARIABLE, str(folder))
    app = open_page("features")
    assert not app.exception and app.warning
    assert "routes.parquet" in app.warning[0].value
    assert "learned features" in app.subheader[0].value  # of those that ship


def test_other_routers_are_told_how_to_get_features(open_page):

    weights = np.random.default_rng(1).standard_normal((4, 24, 4)).astype(np.float32)
    other = RouterSet(weights, top_k=1, source="made for a test")
    app = open_page("features", state={"uploaded_routers": other}, source="upload")
    assert not app.exception and "python -m grok.dictionaries.train" in texts(app)
    assert not app.dataframe
