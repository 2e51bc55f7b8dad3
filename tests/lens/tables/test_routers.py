"""Tables of routers hold the numbers exactly, under headers with units."""

from __future__ import annotations

import numpy as np
import pytest

from lens.clustering.trees import layer_tree
from lens.experts.chains import significant_chains
from lens.experts.measures import expert_measures
from lens.experts.similarity import expert_correlation
from lens.experts.unequal_experts import DEALT, MIXTURES, equal_experts, expert_lengths
from lens.layers.pair_null import layer_null
from lens.layers.similarity import adjacent_layers, layer_similarity
from lens.layers.transitions import drawn_series, transitions
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import routers as tables

LABELS = ["L1", "L4", "L5", "L9"]


@pytest.fixture
def routers() -> RouterSet:
    return RouterSet(np.random.default_rng(0).normal(size=(4, 24, 3)).astype(np.float32))


def read(text: str) -> list[list[str]]:
    return csv_text.read_csv(text)


def test_similarity_table_is_the_matrix_with_labels(routers):
    similarity = layer_similarity(router_gram(routers))
    header, *body = read(tables.layer_similarity_csv(similarity, LABELS, "cka"))
    assert header == ["CKA (0 to 1)", *LABELS]
    assert [row[0] for row in body] == LABELS
    assert np.array([row[1:] for row in body], float) == pytest.approx(similarity, rel=1e-8)


def test_adjacent_table_names_both_layers_and_the_rule(routers):
    adjacent = adjacent_layers(router_gram(routers))
    header, *body = read(tables.adjacent_csv(adjacent, LABELS, "cka"))
    assert [row[:2] for row in body] == [["L1", "L4"], ["L4", "L5"], ["L5", "L9"]]
    assert [float(row[3]) for row in body] == pytest.approx(adjacent.change_l2)
    assert "units of the weights" in header[3]
    assert {row[4] for row in body} <= {"0", "1"}


def test_adjacent_table_with_a_null_has_change_p_and_transitions(routers):
    gram = router_gram(routers)
    null = layer_null(gram, draws=99, seed=7)
    series = drawn_series(gram, null, draws=99, seed=7)
    found = transitions(adjacent_layers(gram), series, seed=7)
    header, *body = read(tables.adjacent_csv(adjacent_layers(gram), LABELS, "cka", found))
    assert len(header) == 8
    assert body[0][5] == body[0][6] == ""  # no pair comes before the first
    assert [float(row[5]) for row in body[1:]] == pytest.approx(found.change[1:])
    assert [float(row[6]) for row in body[1:]] == pytest.approx(found.p[1:])
    assert [row[7] for row in body] == [str(int(mark)) for mark in found.found]
    assert "99 draws, seed 7" in header[6]


def test_null_table_has_a_row_for_each_pair_with_its_null(routers):
    gram = router_gram(routers)
    similarity, null = layer_similarity(gram), layer_null(gram, draws=99, seed=7)
    header, *body = read(tables.layer_null_csv(null, similarity, LABELS))
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    assert [row[:2] for row in body] == [[LABELS[a], LABELS[b]] for a, b in pairs]
    for row, at in zip(body, pairs, strict=True):
        values = [similarity[at], *(x[at] for x in (null.mean, null.sd, null.z, null.p, null.q))]
        assert [float(field) for field in (row[2], *row[5:])] == pytest.approx(values, rel=1e-7)
        assert float(row[4]) == pytest.approx(similarity[at])  # nothing was taken away
    assert sorted(float(row[3]) for row in body) == pytest.approx(np.arange(6) / 5)
    assert "unrelated directions: " in header[5] and "99 draws, seed 7" in header[5]
    assert "Benjamini–Hochberg" in header[9]


def test_table_of_links_names_both_ends_and_the_chain_of_each(routers):
    found = significant_chains(router_gram(routers), draws=99, seed=7)
    header, *body = read(tables.significant_chains_csv(found, LABELS))
    assert len(body) == 3 * 3
    for row in body:
        layer, expert = LABELS.index(row[1]), int(row[2])
        assert found.chains[int(row[0])].expert_at(layer) == expert
        assert row[3] == LABELS[layer + 1]
        assert int(row[4]) == found.links.partner[layer, expert]
        values = [x[layer, expert] for x in (found.links.score, found.links.p, found.links.q)]
        assert [float(field) for field in row[5:8]] == pytest.approx(values, rel=1e-7)
        assert row[8] == str(int(found.links.q[layer, expert] <= found.level))
        steps = [found.links.step_p[layer], found.links.step_q[layer]]
        assert [float(field) for field in row[9:]] == pytest.approx(steps, rel=1e-7)
    assert "99 draws a link, seed 7" in header[6]


def test_measures_table_has_a_row_for_each_expert(routers):
    measures = expert_measures(routers, router_gram(routers))
    header, *body = read(tables.expert_measures_csv(measures, LABELS))
    assert [row[:2] for row in body] == [[a, str(e)] for a in LABELS for e in range(3)]
    assert [float(row[2]) for row in body] == pytest.approx(measures.norm.ravel())
    assert all("(" in name for name in header[1:])
    lengths = expert_lengths(router_gram(routers), equal_experts(routers, router_gram(routers)))
    header, *body = read(tables.expert_measures_csv(measures, LABELS, lengths))
    assert [float(row[8]) for row in body] == pytest.approx(lengths.p.ravel(), rel=1e-7)
    assert {row[10] for row in body} <= {DEALT, MIXTURES}


def test_expert_pairs_table_has_the_mean_over_layers_and_each_layer(routers):
    values = expert_correlation(router_gram(routers))
    header, *body = read(tables.expert_pairs_csv(values, LABELS))
    assert "classic" in header[2]
    assert [row[:2] for row in body] == [["0", "1"], ["0", "2"], ["1", "2"]]
    assert float(body[1][2]) == pytest.approx(values[:, 0, 2].mean())
    assert float(body[1][4]) == pytest.approx(values[1, 0, 2])


def test_tree_table_names_layers_and_earlier_merges(routers):
    tree = layer_tree(router_gram(routers))
    _, *body = read(tables.linkage_csv(tree, LABELS))
    named = [name for row in body for name in row[1:3]]
    assert sorted(named) == sorted([*LABELS, "merge 0", "merge 1"])
    assert body[-1][4] == "4"
