"""Rows sum to their targets, and the path that was planted is the path that is found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grok.dictionaries.attribution import (
    Change,
    Node,
    Target,
    check_nodes,
    expected_plan,
    plan_graph,
    read_features,
    route_account,
    route_graph,
    smallest_flips,
    steer,
    verify_flips,
)
from grok.dictionaries.attribution.rows import Rows
from grok.dictionaries.attribution.scores import connected, influence, most, scored, shares
from grok.errors import GrokError
from grok.interventions.sites import HookPoint
from lens.features.values import as_values
from tests.grok.dictionaries.attribution.planted import (
    PROMPT,
    WORD,
    planted_model,
    planted_transcoder,
)
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.random.default_rng(2).integers(1, 300, 14).astype(np.int32)
LEAVES = {"error", "bias", "own bias", "embedding", "skip", "experts", "attention bias"}


@pytest.fixture(scope="module")
def planted():
    model = planted_model()
    return model, read_features(model, planted_transcoder(), PROMPT)


def test_the_word_that_was_planted_is_named_and_its_path_found(planted):
    model, read = planted
    assert read.experts[1, :, 0].tolist() == [1, 1, 3, 3, 3]
    graph = route_graph(model, read, Target("router", -1, 3, layer=1))
    assert graph.row_error < 1e-5
    names = [(k, int(t), int(f)) for k, t, f in
             zip(graph.kinds, graph.tokens, graph.features, strict=True)]  # fmt: skip
    assert names[:2] == [("target", 4, -1), ("feature", 2, 0)]
    word = names.index(("embedding", WORD - 1, -1))
    edges = {(int(s), int(t)): float(w) for s, t, w in
             zip(graph.sources, graph.targets, graph.weights, strict=True)}  # fmt: skip
    assert edges[1, 0] > 0.99 * graph.values[0] > 1
    assert edges[word, 1] == pytest.approx(float(graph.values[1])) == pytest.approx(1, rel=1e-3)
    assert graph.scores.replacement > 0.9 and graph.scores.completeness_inner > 0.9
    again = json.loads(json.dumps(as_values(graph)))
    assert again["kinds"][:2] == ["target", "feature"] and again["asked"][0]["index"] == 3


def test_a_node_of_the_graph_that_is_taken_out_takes_its_edge_away(planted):
    model, read = planted
    graph = route_graph(model, read, Target("router", -1, 3, layer=1))
    assert (graph.targets[0], graph.sources[0]) == (0, 1)
    check = check_nodes(model, read, [Node.of(graph, 1)], graph.asked[0], random=1)
    assert check.measured[0] == pytest.approx(check.predicted) == pytest.approx(-graph.weights[0])


def test_the_feature_that_was_planted_makes_and_unmakes_the_route(planted):
    model, read = planted
    ablated = model.run_one(PROMPT, edits=steer(read.dictionary, Change(0), positions=2))
    assert ablated.experts[1, 0, :5, 0].tolist() == [1] * 5
    # At WORD itself P comes through attention; the account names that, and the flip works.
    account = route_account(read, 1, 2)
    assert account.of_kind("attention")[3] > 0.9 * account.logits[3]
    table = smallest_flips(read, 1, 2, inactive=True)
    check = verify_flips(model, read, table, rows=4, random=2)
    assert len(check.agrees) >= 2 and check.agrees.all()


KINDS = {"transcoder": None, "clt": None, "sae": (1,)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_sums_to_its_target_whatever_the_dictionary(tiny3, kind):
    dictionary = random_dictionary(tiny3, kind, KINDS[kind], skip=kind == "transcoder")
    read = read_features(tiny3, dictionary, IDS)
    asked = [
        Target("router", -1, 2, 5, layer=2),
        Target("router", 6, 1, layer=1),
        Target("token", -2, 41, 7),
    ]
    graph = route_graph(tiny3, read, asked, budget=40, nodes=1, edges=1)
    assert graph.row_error <= 1e-4 and graph.n_targets == 3
    z = read.logits[2, -1].astype(np.float64)
    assert graph.values[0] == pytest.approx(z[2] - z[5], rel=1e-5)
    logits = tiny3.run_one(IDS).logits[0, IDS.size - 2]
    assert graph.values[2] == pytest.approx(float(logits[41] - logits[7]), rel=1e-4)
    total, size = np.zeros(len(graph.kinds)), np.zeros(len(graph.kinds))
    np.add.at(total, graph.targets, graph.weights)
    np.add.at(size, graph.targets, np.abs(graph.weights))
    inner = graph.open
    assert inner.sum() == 43
    assert (np.abs(total - graph.values)[inner] <= 1e-4 * size[inner]).all()
    assert set(graph.kinds[~inner]) <= LEAVES | {"feature"} and not total[~inner].any()
    assert (np.diff(graph.influence[3:]) <= 1e-12).all()


def test_rows_of_several_layers_made_together_are_those_made_one_by_one(tiny3):
    read = read_features(tiny3, random_dictionary(tiny3, "clt"), IDS)
    rows = Rows(tiny3, read)
    asked = [Target("router", 9, 1, layer=1), Target("token", -1, 7),
             Target("router", -1, 3, layer=2), Target("router", 4, 0, layer=0)]  # fmt: skip
    covectors = [rows.covector(target) for target in asked]
    every = np.concatenate([rows.of([one]) for one in covectors])
    np.testing.assert_allclose(rows.of(covectors), every, rtol=1e-4, atol=1e-6)
    assert (np.abs(every).sum(1) > 0.1).all()


def test_what_rows_have_of_their_own_is_the_bias_and_nothing_else(tiny3):
    """Rows would sum to anything if what is left counted as their own."""
    read = read_features(tiny3, random_dictionary(tiny3, "clt"), IDS)
    rows = Rows(tiny3, read)
    for g in (0, 1, 2):
        token, i = (int(one[0]) for one in np.nonzero(read.features[g]))
        found = rows.covector(Target("feature", token, i, group=g))
        bias = read.dictionary.params["encoder_bias"][g][i]
        assert found.own == pytest.approx(bias, abs=1e-5 * np.abs(found.g).sum())
        assert float(rows.of([found]).sum() + found.own) == pytest.approx(found.value, abs=1e-4)
    token = rows.covector(Target("token", 3, 1, 2))
    assert abs(token.own) < 1e-5
    held = rows.columns.leaves["attention bias", HookPoint(1, "attn.normed")]
    row = rows.of([rows.covector(Target("router", -1, 2, layer=2))])[0]
    assert not row[held : held + IDS.size].any() and np.abs(row).sum() > 1


def test_attention_of_other_families_is_held_too(model):
    own = model("huggingface/gpt_oss_mxfp4")
    last = own.config.moe_layers[-1]
    dictionary = random_dictionary(own, "transcoder", own.config.moe_layers[:2])
    read = read_features(own, dictionary, IDS % own.config.vocab_size)
    graph = route_graph(own, read, Target("router", -1, 1, 0, layer=last), budget=8)
    assert graph.row_error <= 1e-4
    assert {"attention bias", "experts"} <= set(graph.kinds)


def test_the_work_is_said_before_and_can_be_stopped(tiny3):
    read = read_features(tiny3, random_dictionary(tiny3, "transcoder"), IDS)
    plan = plan_graph(tiny3, read, 40)
    assert plan.rows == 41 and 1e5 < plan.bytes < 1e8 and plan.seconds > 0
    before = expected_plan(tiny3.config, read.dictionary, IDS.size, 40)
    assert before.rows == 41 and 0.5 < before.bytes / plan.bytes < 2
    told = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        route_graph(tiny3, read, Target("router", -1, 2, layer=2), budget=40, progress=stop)
    assert told == [(32, 40)]


def test_what_has_no_graph_is_refused_by_name(tiny3, model):
    read = read_features(tiny3, random_dictionary(tiny3, "clt"), IDS)
    at = int(np.flatnonzero(read.features[0][0] == 0)[0])
    for target, said in (
        (Target("router", 0, 8, layer=1), "expert 8: there are 8, from 0 to 7"),
        (Target("router", 0, 1, layer=4), "Layer 4 has no router here"),
        (Target("feature", 0, at, group=0), f"Feature {at} of group 0 is not active at token 0"),
        (Target("feature", 0, 99, group=0), "There is no feature 99 of group 0 in this clt"),
        (Target("tokens", 0, 1), "kind is 'tokens'; expected router, feature or token"),
    ):
        with pytest.raises(GrokError, match=said):
            route_graph(tiny3, read, target)
    crosscoder = read_features(tiny3, random_dictionary(tiny3, "crosscoder"), IDS)
    with pytest.raises(GrokError, match="A crosscoder's features read all layers at once"):
        route_graph(tiny3, crosscoder, Target("router", -1, 2, layer=2))
    rough = model("tiny3", "bfloat16")
    with pytest.raises(GrokError, match="tiny3 runs in bfloat16"):
        route_graph(rough, read, Target("router", -1, 2, layer=2))


# --- scores -----------------------------------------------------------------------------

# A target of features 0 and 1 and an error; feature 0 of a word; feature 1 was not looked into.
ROWS = np.array([[3.0, -1, 1, 0, 0], [0, 0, 0, 2, 2]])
KINDS_OF = np.array(["feature", "feature", "error", "embedding", "bias"])
COLUMN_OF = np.array([-1, 0])
WEIGHTS = np.array([1.0, 0])


def test_influence_and_scores_are_those_worked_out_by_hand():
    parts = shares(ROWS)
    np.testing.assert_allclose(parts[0], [0.6, 0.2, 0.2, 0, 0])
    found = influence(parts, WEIGHTS, COLUMN_OF)
    np.testing.assert_allclose(found, [0.6, 0.2, 0.2, 0.3, 0.3])
    scores = scored(parts, WEIGHTS, COLUMN_OF, KINDS_OF)
    assert scores.replacement == pytest.approx(0.3 / (0.3 + 0.2 + 0.2))
    assert scores.completeness_inner == pytest.approx((0.6 * 1 + 1 * 0.6) / 1.6)
    assert scores.completeness == pytest.approx((0.6 + 0.6 + 1.0) / (1.6 + 1.0))
    ends = (scores.words, scores.fixed, scores.missed, scores.unread)
    assert ends == pytest.approx((0.3, 0.3, 0.2, 0.2))


def test_pruning_keeps_the_share_asked_for_and_no_loose_ends():
    np.testing.assert_array_equal(most(np.array([1.0, 5, 3, 1]), 0.8), [False, True, True, False])
    assert most(np.array([1.0, 5]), 1).all()
    # 0 <- 1 <- 2 is a path; 3 has nothing to go to, 4 nothing that it is made of.
    sources, targets = np.array([1, 2, 4]), np.array([0, 1, 0])
    ends = np.array([True, False, False, False, False])
    leaves = np.array([False, False, True, True, False])
    nodes, edges = connected(np.ones(5, bool), sources, targets, ends, leaves)
    assert nodes.tolist() == [True, True, True, False, False]
    assert edges.tolist() == [True, True, False]
