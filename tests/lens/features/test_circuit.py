"""What is drawn of a graph keeps its sums, whatever is folded, grouped or pinned."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lens import figures
from lens.errors import LensError
from lens.features.circuit import Shown, circuit_of, edges_of

# A target of layer 2 at token 2; feature 7 of layer 1 at tokens 1 and 2, feature 3 of layer 0;
# words at tokens 0 and 2, errors of layers 0 and 1, and two kinds of bias.
NODES = [
    ("target", 2, 2, -1, -1, 3.0, 0.0),
    ("feature", 1, 2, 1, 7, 2.0, 0.4),
    ("feature", 1, 1, 1, 7, 1.0, 0.2),
    ("feature", 0, 1, 0, 3, 4.0, 0.1),
    ("embedding", 0, 2, -1, -1, 1.0, 0.3),
    ("embedding", 0, 0, -1, -1, 1.0, 0.05),
    ("error", 0, 1, -1, -1, 1.0, 0.02),
    ("error", 0, 2, -1, -1, 1.0, 0.03),
    ("error", 1, 2, -1, -1, 1.0, 0.01),
    ("bias", 0, 0, -1, -1, 1.0, 0.02),
    ("own bias", 2, 2, -1, -1, 1.0, 0.02),
]
EDGES = [
    (1, 0, 1.5), (2, 0, 0.5), (3, 0, 0.25), (4, 0, 0.75), (8, 0, -0.5), (10, 0, 0.25),
    (3, 1, 1.0), (4, 1, 1.5), (7, 1, -0.5), (3, 2, 2.0), (6, 2, -0.75), (9, 2, -0.25),
    (5, 3, 4.0),
]  # fmt: skip
GRAPH = SimpleNamespace(
    **{
        name: np.array(column)
        for name, column in zip(
            ("kinds", "layers", "tokens", "groups", "features", "values", "influence"),
            zip(*NODES, strict=True),
            strict=True,
        )
    },
    **{
        name: np.array(column)
        for name, column in zip(("sources", "targets", "weights"), zip(*EDGES, strict=True),
                                strict=True)
    },
    open=np.array([True] * 4 + [False] * 7),
)  # fmt: skip
SHOWN = {
    "all": Shown(),
    "few": Shown(most=2),
    "over tokens": Shown(over_tokens=True),
    "folded": Shown(most=4, pinned=["0-3@1"], folded=True),
    "grouped": Shown(groups={"te": ["1-7@2", "0-3@1"]}),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_inputs_and_what_is_not_drawn_sum_to_the_target(shown):
    circuit = circuit_of(GRAPH, SHOWN[shown])
    given = sum(edge.weight for edge in edges_of(circuit, "target")[0])
    at = circuit.at("target")
    assert given + circuit.hidden[at] + circuit.left_out[at] == pytest.approx(3.0)
    assert circuit.left_out[at] == pytest.approx(0.25)  # what the edges leave of 3
    shares = [edge.share for edge in edges_of(circuit, "target")[0]]
    assert sum(shares) + abs(circuit.hidden[at]) / 3.75 == pytest.approx(1.0)
    assert {"missed 0", "missed 1", "fixed"} <= set(circuit.keys)  # whatever is asked for


def test_errors_of_a_layer_are_one_node_and_biases_one():
    circuit = circuit_of(GRAPH)
    missed = circuit.at("missed 0")
    assert circuit.members[missed].tolist() == [6, 7] and circuit.tokens[missed] == -1
    assert circuit.influence[missed] == pytest.approx(0.05)
    assert [edge.weight for edge in edges_of(circuit, "missed 0")[1]] == [-0.75, -0.5]
    assert circuit.members[circuit.at("fixed")].tolist() == [9, 10]


def test_a_feature_over_its_tokens_is_one_node_that_gives_what_both_gave():
    circuit = circuit_of(GRAPH, SHOWN["over tokens"])
    made, gives = edges_of(circuit, "1-7")
    assert [edge.weight for edge in gives] == [2.0]
    assert {circuit.keys[edge.other]: edge.weight for edge in made}["0-3"] == 3.0
    assert circuit.values[circuit.at("1-7")] == 3.0 and circuit.tokens[circuit.at("1-7")] == 2


def test_what_is_pinned_stays_and_the_rest_is_folded_into_its_layer():
    circuit = circuit_of(GRAPH, SHOWN["folded"])
    kinds = dict(zip(circuit.keys, circuit.kinds, strict=True))
    assert [key for key, kind in kinds.items() if kind == "feature"] == ["0-3@1"]
    assert circuit.members[circuit.at("others 1")].tolist() == [1, 2]
    few = circuit_of(GRAPH, Shown(most=1, pinned=["1-7"]))  # pinned over tokens, drawn apart
    assert {"1-7@1", "1-7@2"} <= set(few.keys) and few.not_drawn == 3


def test_a_group_keeps_no_edge_to_itself_and_is_there_whatever_its_influence():
    circuit = circuit_of(GRAPH, Shown(most=0, groups={"te": ["1-7@2", "0-3@1"]}))
    at = circuit.at("group te")
    assert at not in circuit.sources[circuit.targets == at]
    assert {edge.weight for edge in edges_of(circuit, "group te")[1]} == {1.75}
    with pytest.raises(LensError, match="no such node is drawn"):
        circuit.at("1-7@2")


def drawn(picked: str = "", shown: Shown | None = None):
    circuit = circuit_of(GRAPH, shown)
    names = {key: (key[:3], f"name of {key}") for key in circuit.keys}
    return circuit, figures.circuit_rows(circuit, names, {0: "a", 1: "it's", 2: "c"}, picked)


def test_layers_go_up_and_tokens_across_with_the_choice_on_top():
    circuit, (nodes, edges) = drawn()
    row = dict(zip(nodes["key"], nodes["row"], strict=True))
    assert (row["target"], row["1-7@2"], row["word 0"]) == ("L2 router", "L1", "words")
    y = dict(zip(nodes["key"], nodes["y"], strict=True))
    x = dict(zip(nodes["key"], nodes["x"], strict=True))
    assert y["target"] > y["1-7@2"] > y["0-3@1"] > y["word 0"] == 0
    assert x["word 0"] < x["0-3@1"] < x["1-7@2"] < x["missed 0"]
    places = list(zip(nodes["x"], nodes["y"], strict=True))
    assert len(set(places)) == len(places)
    assert set(edges["sign"]) == {"raises", "lowers"} and edges["lit"].all()
    at = circuit.at("target")
    assert (edges["y2"][np.array(edges["to"]) == "name of target"] == nodes["y"][at]).all()


def test_the_figure_marks_what_is_looked_at_and_is_read_aloud():
    _, (nodes, edges) = drawn("missed 0")
    lit = {(a, b) for a, b, on in zip(edges["from"], edges["to"], edges["lit"], strict=True) if on}
    assert lit == {("name of missed 0", f"name of 1-7@{t}") for t in (1, 2)}
    chart = figures.route_circuit(nodes, edges, title="L2: E1", picked="missed 0")
    svg = figures.figure_svg(chart)
    assert "name of 1-7@2, feature" in svg and "missed by the dictionary" in svg
    assert "1 it&#39;s" in svg or "1 it's" in svg
    spec = chart.to_dict()
    assert [one["description"] for one in spec["layer"] if "description" in one] == ["chosen"]
    assert figures.on_page(chart, dark=True).spec["config"]["text"]["color"] != "#56606B"
