"""A database opened, searched and shown; what is damaged or hostile ends in words."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from grok.dictionaries.indexing.run import index
from lens.errors import LensError
from lens.features import FeatureQuery, FeatureStore, headline, publish
from lens.features.query import SORTS
from tests.feature_database import FEATURES, small_pass


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    one = small_pass(tmp_path_factory.mktemp("features") / "db", tokens=1200)
    index(one)
    return FeatureStore.open(one.output)


@pytest.fixture
def copied(store, tmp_path):
    return shutil.copytree(store.folder, tmp_path / "db")


def rows(store, name):
    return pq.read_table(store.folder / f"{name}.parquet").to_pylist()


def test_a_card_is_what_the_tables_hold_of_one_feature(store):
    card, row = store.card(1, 4), rows(store, "features")[FEATURES + 4]
    assert card.title == "L1·F4" and (card.n, card.largest) == (row["n"], row["max"])
    assert card.counts.sum() == card.n and card.n > 0
    inside = np.flatnonzero(card.counts)
    assert card.edges[inside[0]] <= card.contexts[-1].value and card.edges[65 - 1] == 1000
    assert card.largest <= card.edges[inside[-1] + 1]
    own = [r for r in rows(store, "examples") if (r["group"], r["feature"]) == (1, 4)]
    assert len(card.contexts) == len(own) and card.of_kind("top")
    for context, r in zip(card.contexts, own, strict=True):
        assert context.values[context.mark] == pytest.approx(context.value, rel=1e-3)
        assert context.held_out and len(context.pieces) == len(context.tokens)
        assert context.position == r["position"]
    assert [v for _, _, v in card.near] == sorted((v for _, _, v in card.near), reverse=True)
    assert all((g, f) != (1, 4) for g, f, _ in card.near)
    assert len(card.raised) == 3 and card.raised[0][2] > 0 > card.lowered[0][2]
    later = card.routes["layer"][np.isfinite(card.routes["push"])]
    assert set(later.tolist()) <= {2}  # what is added after layer 1's router
    np.testing.assert_allclose(
        card.routes["base"], store.summary().chosen[card.routes["layer"], card.routes["expert"]]
    )
    assert sum(share for _, _, share in card.words) <= 1.001
    dead = store.card(1, 0)
    assert dead.n == 0 and dead.contexts == () and dead.near == () and not dead.counts.any()
    with pytest.raises(LensError, match="There is no feature"):
        store.card(3, 0)


def test_routes_beyond_chance_come_first_and_each_kind_by_its_size(store):
    found = 0
    for feature in range(FEATURES):
        routes = store.card(1, feature).strongest_routes()
        assert routes["found"].tolist() == (routes["log10_q"] <= np.log10(0.05)).tolist()
        beyond = int(routes["found"].sum())
        assert routes["found"][:beyond].all()
        for part in (routes["excess"][:beyond], routes["excess"][beyond:]):
            assert (np.diff(np.abs(np.nan_to_num(part))) <= 0).all()
        found += beyond
        few = store.card(1, feature).strongest_routes(2)
        assert few["expert"].tolist() == routes["expert"][:2].tolist()
    assert found


def test_the_layer_of_a_group_is_that_of_its_features(store):
    for group, layer in enumerate(store.group_layers):
        assert {r["layer"] for r in rows(store, "features") if r["group"] == group} == {layer}


def test_the_headline_counts_features_and_says_whether_any_is_beyond_chance(store, monkeypatch):
    for apart in (0.0, headline.APART, 2.0):
        monkeypatch.setattr(headline, "APART", apart)
        far = [r for r in rows(store, "features") if r["n"] and r["associations"]
               and r["excess"] >= apart]  # fmt: skip
        found = headline.sending(store)
        assert found.found == bool(far) and np.isnan(found.null_mean)
        assert found.sentence.startswith(f"{len(far):,} of" if far else "No learned feature")
    assert not far


def test_searches_find_what_the_tables_hold(store):
    features = rows(store, "features")
    alive = [r for r in features if r["n"]]
    table = store.find()
    assert table.found == len(alive) and table.columns["rate"].tolist() == sorted(
        (r["rate"] for r in alive), reverse=True
    )
    few = store.find(FeatureQuery(layer=2, rate=(0.05, 0.2), sort="max", limit=2, offset=1))
    expected = sorted(
        (r["max"] for r in alive if r["layer"] == 2 and 0.05 <= r["rate"] <= 0.2), reverse=True
    )
    assert few.found == len(expected) and few.columns["max"].tolist() == expected[1:3]
    routes = [r for r in rows(store, "routes") if (r["layer"], r["expert"]) == (2, 1)]
    to = store.find(FeatureQuery(expert=(2, 1)))
    pushes = [float(r["push"]) for r in routes if r["push"] is not None]
    assert to.found == len(pushes) > 0 and to.columns["to_push"].tolist() == sorted(pushes)[::-1]
    token = alive[0]["words"][0]
    by_token = store.find(FeatureQuery(token=token))
    assert by_token.found == sum(token in r["words"] for r in alive)
    logits = [r for r in rows(store, "logits") if r["token"] == 7]
    up = store.find(FeatureQuery(raises=7)).columns["next_by"]
    down = store.find(FeatureQuery(lowers=7)).columns["next_by"]
    assert len(up) + len(down) == len(logits) and up.min() > 0 > down.max()
    assert np.abs(down).tolist() == sorted(np.abs(down), reverse=True)
    like = store.find(FeatureQuery(like=(1, 4)))
    assert [(int(g), int(f)) for g, f in zip(like.columns["group"], like.columns["feature"],
            strict=True)] == [(g, f) for g, f, _ in store.card(1, 4).near]  # fmt: skip
    assert store.find(FeatureQuery(dead=True)).found == len(features)
    few = ((1, 4), (2, 0))
    among = store.find(FeatureQuery(among=few, dead=True, sort="feature", descending=False))
    assert tuple(
        zip(among.columns["group"].tolist(), among.columns["feature"].tolist(), strict=True)
    ) == few  # fmt: skip
    assert store.find(FeatureQuery(among=())).found == 0
    for sort in SORTS:
        assert len(store.find(FeatureQuery(sort=sort, descending=False, limit=3))) == 3


HOSTILE = ("'; DROP TABLE features; --", '" OR 1=1', "$token", "%", "\x00", "read_parquet('/etc')")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_searched_for_is_text(store, text):
    known = [piece for piece in store.pieces if text.lower() in piece.lower()]
    found = store.find(FeatureQuery(text=text))
    assert (found.found > 0) <= bool(known)
    assert store.find().found > 0


def test_text_finds_the_pieces_of_a_features_tokens(store):
    token = store.find().columns["feature"].size and rows(store, "features")[FEATURES + 4]["words"]
    piece = store.pieces[token[0]]
    found = store.find(FeatureQuery(text=piece.upper()))
    assert (1, 4) in zip(found.columns["group"], found.columns["feature"], strict=True)


def test_searches_that_cannot_be_are_refused():
    for given in ({"sort": "rate; DROP"}, {"by": "x"}, {"limit": 0}, {"limit": 10**6},
                  {"text": "x" * 201}, {"raises": 1, "lowers": 1}):  # fmt: skip
        with pytest.raises(LensError):
            FeatureQuery(**given)


def test_the_map_has_every_feature_that_was_active(store):
    drawn, alive = store.map(), [r for r in rows(store, "features") if r["n"]]
    assert len(drawn.x) == len(alive) and max(abs(drawn.x).max(), abs(drawn.y).max()) <= 1
    for row, label in zip(alive, drawn.label, strict=True):
        assert row["label_rates"][label] == max(row["label_rates"])


def test_a_damaged_table_is_set_aside_in_words(copied):
    file = copied / "routes.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(LensError, match="set aside as damaged-.*routes.parquet.*again"):
        FeatureStore.open(copied)
    with pytest.raises(LensError, match="routes.parquet: cannot be read"):
        FeatureStore.open(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format 2"),
        ({"features": -1}, "features is -1"),
        ({"features": FEATURES + 1}, "48 features"),
        ({"labels": "x"}, "labels is"),
        ({"chosen": [[0.1]]}, "chosen is"),
        ({"layers": [0.5, 1, 2]}, "layers is"),
        ({"files": {}}, "files is"),
        ({"files": {"features": {"sha256": "../x", "bytes": 1}}}, "files is"),
        ({"bins": {"lowest": 0, "highest": 1}}, "bins is"),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(copied, change, said):
    file = copied / "features.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(LensError, match=said):
        FeatureStore.open(copied)


def test_no_database_is_said_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(LensError, match="grok.dictionaries.index"):
        FeatureStore.open(tmp_path)


def test_pages_of_features_say_what_cards_say_under_the_numbers_of_graphs(store, tmp_path):
    given = [str(store.folder), "--output", str(tmp_path), "--form", "pages"]
    graph = tmp_path / "graph.json"
    kind = "cross layer transcoder"
    nodes = [{"feature_type": kind, "feature": 19}, {"feature_type": "logit", "feature": 2}]
    graph.write_text(json.dumps({"nodes": nodes}))
    assert publish.main([*given, "--graph", str(graph)]) == 0
    files = list((tmp_path / "features" / "own").iterdir())
    assert [file.name for file in files] == ["19.json"]  # layer 1, feature 4
    found, card = json.loads(files[0].read_text()), store.card(1, 4)
    assert (found["index"], found["act_max"]) == (19, card.largest)
    assert sum(found["histogram"]) == pytest.approx(card.n)
    middle = found["quantile_values"][49]
    below = card.edges[np.searchsorted(np.cumsum(card.counts), card.n / 2)]
    assert below * 0.999 <= middle <= below * (card.edges[1] / card.edges[0]) * 1.001
    assert found["top_logits"] == [piece for _, piece, _ in card.raised]
    strongest = found["examples_quantiles"][0]["examples"][0]
    top = card.of_kind("top")[0]
    assert strongest["tokens_acts_list"][strongest["train_token_ind"]] == top.values[top.mark]
    assert len(strongest["tokens"]) == len(top.pieces)
    n = int((store.find(FeatureQuery(limit=100)).columns["n"] > 0).sum())
    assert publish.main(given) == 0
    assert len(list((tmp_path / "features" / "own").iterdir())) == n


def test_uploads_hold_every_active_feature_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "MOST_OF_A_FILE", 10)
    files = publish.write_uploads(store, tmp_path, "set")
    texts = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*/batch-*.json"))]
    assert len(texts) == files == 6 and all(len(one["features"]) <= 10 for one in texts)
    seen = [(one["source"], f["index"]) for one in texts for f in one["features"]]
    active = [(f"{r['layer']}-set", str(r["feature"])) for r in rows(store, "features") if r["n"]]
    assert sorted(seen) == sorted(active)
    one = texts[0]["features"][0]["activations"][0]
    assert len(one["tokens"]) == len(one["values"]) > 0


def test_what_cannot_be_published_ends_in_words(store, tmp_path, capsys):
    given = [str(store.folder), "--output", str(tmp_path), "--form", "pages"]
    assert publish.main([*given, "--name", "../up"]) == 2
    assert "expected letters, digits" in capsys.readouterr().err
    assert publish.main([*given, "--graph", str(tmp_path / "none")]) == 2
    assert "expected a graph as JSON" in capsys.readouterr().err
