"""Graphs as other tools' pages read them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from grok.dictionaries.attribution import Target, read_features, route_graph
from grok.dictionaries.exchange.graph_json import cantor, graph_values, write_graph
from grok.dictionaries.exchange.graph_reading import read_graph, uncantor
from grok.errors import GrokError
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.array([5, 17, 3, 42, 99, 101, 7, 11])
ROUTER, EARLIER = Target("router", -1, 2, 5, layer=2), Target("router", 6, 1, layer=1)
ASKED = [ROUTER, Target("token", -2, 41), EARLIER]
REQUIRED = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}


@pytest.fixture(scope="module")
def made(tiny3):
    read = read_features(tiny3, random_dictionary(tiny3, "clt"), IDS)
    graph = route_graph(tiny3, read, ASKED, budget=24, weights=[2, 1, 1], nodes=1, edges=1)
    return graph, read, graph_values(graph, read, tiny3, "a-graph", weights=[2, 1, 1])


def of_type(values: dict, kind: str) -> list[dict]:
    return [one for one in values["nodes"] if one["feature_type"] == kind]


def test_only_sorts_that_pages_know_and_all_that_the_schema_asks_for(made, tiny3):
    graph, read, values = made
    assert {"slug", "scan", "prompt_tokens", "prompt"} <= set(values["metadata"])
    assert all(set(one) >= REQUIRED for one in values["nodes"])
    assert {one["feature_type"] for one in values["nodes"]} == {
        "cross layer transcoder", "mlp reconstruction error", "embedding", "logit",
    }  # fmt: skip
    assert {"bias", "own bias", "error"} <= set(graph.kinds)  # were there, and are folded
    ids = [one["node_id"] for one in values["nodes"]]
    assert len(set(ids)) == len(ids)
    kept = [one for one in values["nodes"] if one["feature_type"] != "cross layer transcoder"]
    shown = {one["jsNodeId"] for one in of_type(values, "cross layer transcoder")}
    assert len({one["jsNodeId"] for one in kept} - shown) == len(kept)
    for node in of_type(values, "cross layer transcoder"):
        layer, feature, token = map(int, node["node_id"].split("_"))
        assert (node["layer"], node["ctx_idx"]) == (str(layer), token)
        assert node["feature"] == cantor(layer, feature)
        assert node["activation"] == pytest.approx(read.features[layer][token, feature])
    for node in of_type(values, "embedding"):
        assert node["node_id"] == f"E_{IDS[node['ctx_idx']]}_{node['ctx_idx']}"


def test_errors_have_ids_of_their_own_and_hold_biases_and_links_tell_the_parts(made):
    graph, _, values = made
    for node in of_type(values, "mlp reconstruction error"):
        assert re.fullmatch(r"\d_error_\d", node["node_id"]) and node["feature"] == -1
    weights = [one for one in values["links"] if "_error_" in one["source"]]
    assert any(set(one["grok_moe_lens"]) > {"error"} for one in weights)
    for link in weights:
        assert link["weight"] == pytest.approx(sum(link["grok_moe_lens"].values()))
    assert not any("grok_moe_lens" in one for one in values["links"] if one not in weights)


def test_targets_are_outputs_with_a_label_that_pages_can_cut(made, tiny3):
    _, _, values = made
    vocabulary, above = tiny3.config.vocab_size, tiny3.config.n_layers + 1
    outputs = of_type(values, "logit")
    assert [one["clerp"] for one in outputs] == [
        'Output "L2 E2−E5" (p=0.500)', 'Output "#41" (p=0.250)', 'Output "L1 E1" (p=0.250)',
    ]  # fmt: skip
    assert [one["feature"] for one in outputs] == [vocabulary, 41, vocabulary + 2]
    assert [one["is_target_logit"] for one in outputs] == [True, False, False]
    assert all(one["layer"] == str(above) and "influence" not in one for one in outputs)
    assert [one["ctx_idx"] for one in outputs] == [7, 6, 6]
    shares = sorted(one["influence"] for one in values["nodes"] if "influence" in one)
    assert 0 < shares[0] < shares[-1] and shares[-1] == pytest.approx(1)


def test_rows_still_sum_to_their_targets_when_they_come_back(made, tmp_path):
    graph, _, values = made
    back = read_graph(write_graph(tmp_path, values))
    assert back.metadata["slug"] == "a-graph" and len(back.pieces) == len(IDS)
    total = np.zeros(len(back.ids))
    np.add.at(total, back.targets, back.weights)
    size = np.zeros(len(back.ids))
    np.add.at(size, back.targets, np.abs(back.weights))
    where = {
        (int(graph.layers[i]), int(graph.features[i]), int(graph.tokens[i])): graph.values[i]
        for i in np.flatnonzero(graph.open & (graph.kinds == "feature"))
    }
    seen = 0
    for i in np.flatnonzero((back.kinds == "feature") & (size > 0)):
        value = where[int(back.layers[i]), int(back.features[i]), int(back.tokens[i])]
        assert back.values[i] == pytest.approx(value)
        assert abs(total[i] - value) <= 1e-4 * size[i]
        seen += 1
    assert seen == len(where) == 24
    aims = np.flatnonzero(back.kinds == "target")
    np.testing.assert_allclose(total[aims], graph.values[:3], atol=1e-3)
    np.testing.assert_allclose(back.values[aims], [0.5, 0.25, 0.25])


def test_a_folder_lists_its_graphs_once_each(made, tmp_path):
    _, _, values = made
    other = values | {"metadata": values["metadata"] | {"slug": "other"}}
    for one in (values, other, values):
        write_graph(tmp_path, one)
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [one["slug"] for one in listed] == ["other", "a-graph"]


def test_numbers_of_features_are_those_of_the_pairing(tmp_path):
    assert [cantor(*pair) for pair in ((0, 0), (1, 0), (0, 1), (3, 5))] == [0, 1, 2, 41]
    for pair in ((0, 7), (63, 131_071), (9, 0)):
        assert uncantor(cantor(*pair)) == pair


def test_what_pages_cannot_show_is_refused(made, tiny3):
    graph, read, _ = made
    with pytest.raises(GrokError, match="name is .A graph"):
        graph_values(graph, read, tiny3, "A graph")
    with pytest.raises(GrokError, match="expected those of 3 targets"):
        graph_values(graph, read, tiny3, "a", weights=[1])
    low = route_graph(tiny3, read, Target("router", -1, 2, layer=0), budget=4)
    with pytest.raises(GrokError, match="no feature and no error above layer 0"):
        graph_values(low, read, tiny3, "a")


NODE = {"node_id": "0_3_1", "feature": 9, "layer": "0", "ctx_idx": 1, "clerp": "",
        "feature_type": "cross layer transcoder", "jsNodeId": "0_3-0"}  # fmt: skip
LIES = {
    "collision": ({"nodes": [NODE, NODE | {"feature_type": "mlp reconstruction error",
                                           "feature": -1, "layer": "3"}]}, "LAYER_error_TOKEN"),
    "end": ({"links": [{"source": "0_3_1", "target": "x", "weight": 1}]}, "link 0: target is ?"),
    "weight": ({"links": [{"source": "0_3_1", "target": "0_3_1", "weight": None}]}, "no weight"),
    "token": ({"nodes": [NODE | {"ctx_idx": 2}]}, "ctx_idx is 2; expected a token from 0 to 1"),
    "number": ({"nodes": [NODE | {"feature": 10}]}, "the number of a feature of layer 0"),
    "layer": ({"nodes": [NODE | {"layer": "x"}]}, "node 0: layer is .x.; expected a layer"),
    "nodes": ({"nodes": {}}, "nodes is dict; expected a JSON list"),
    "node": ({"nodes": [3]}, "node 0: it is 3; expected an object"),
    "prompt": ({"metadata": {}}, "prompt_tokens is NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_graph_that_is_none_is_refused(lie, tmp_path):
    changes, text = LIES[lie]
    fine = {"metadata": {"prompt_tokens": ["a", "b"]}, "nodes": [NODE], "links": []}
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(fine))
    assert read_graph(file).features.tolist() == [3]
    file.write_text(json.dumps(fine | changes))
    with pytest.raises(GrokError, match=text):
        read_graph(file)
