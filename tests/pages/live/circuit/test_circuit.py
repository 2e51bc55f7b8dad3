"""The circuit of a choice: traced on a press, looked at node by node, tested on the model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import grok
from grok.dictionaries.kinds.files import save_dictionary
from grok.serving.shared_model import SharedModel
from lens.features.claims import Settled, settled
from pages.live.circuit import layers, run, view
from pages.live.one_trace import logit_lens
from pages.live.session import dictionaries, shared_models
from pages.shell import data_source
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = [5, 17, 3, 42, 99, 256, 12, 7]
SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"
TOKEN, LAYER = 5, 5


@pytest.fixture(scope="module")
def small():
    return grok.load(SMALL, dtype="float32")


@pytest.fixture(scope="module")
def trace(small):
    found = small.trace_routing(IDS)
    return replace(found, pieces=[f"[{i}](x)" for i in IDS])  # words from outside


@pytest.fixture
def at_hand(monkeypatch, tmp_path, small) -> Path:
    """A random transcoder of the small model, which is the one that runs prompts."""
    folder = save_dictionary(tmp_path / "own", random_dictionary(small, "transcoder"))
    monkeypatch.setenv(dictionaries.VARIABLE, str(folder))
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.setattr(logit_lens, "fill", lambda *_, **__: None)
    monkeypatch.setattr(shared_models, "shared", lambda choice, *_: SharedModel(small))
    return folder


def opened(open_page, trace, **state):
    state = {"traces": {"first": trace}, view.FOLD: True, **state}
    app = open_page("live_routing", state=state, token=str(TOKEN), layer=str(LAYER))
    assert not app.exception and not app.error
    return app


def said(app) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def pressed(app, key: str):
    app.button(key=key).click().run()
    assert not app.exception and not app.error
    return app


def test_a_choice_is_traced_looked_at_pinned_grouped_and_tested(
    open_page, at_hand, trace, shown_figures, monkeypatch
):
    charged: list[int] = []
    monkeypatch.setattr(run.limits, "charge", lambda person, tokens: charged.append(tokens))
    app = opened(open_page, trace)
    assert "looked into: about" in said(app) and "route_circuit" not in shown_figures
    assert not charged and not app.session_state["circuits"]
    pressed(app, "trace_circuit")
    assert len(charged) == 1 and "the dictionary misses" in said(app)
    z = trace.router_logits[LAYER, TOKEN].astype(float)
    known = next(iter(app.session_state["circuits"].values()))
    first = int(trace.experts[LAYER, TOKEN, 0])
    assert known.graph.values[0] == pytest.approx(z[first] - z[known.target.other], abs=1e-4)
    assert json.loads(view.graph_json(known))["kinds"][0] == "target"
    assert not re.search(r"(?<!\\)\[\d+\]\(x", said(app))

    circuit = view.circuit_of(known.graph)
    feature = circuit.keys[circuit.kinds.index("feature")]
    app.selectbox(key=view.NODE).set_value(feature).run()
    assert "of the influence" in said(app)
    pressed(app, "circuit_pin")
    app.slider(key="circuit_most").set_value(5)
    app.toggle(key="circuit_folded").set_value(True).run()
    spec = shown_figures["route_circuit"].to_dict()
    rows = next(rows for rows in spec["datasets"].values() if "influence" in rows[0])
    assert [row["key"] for row in rows if row["kind"] == "feature"] == [feature]
    assert any(row["kind"].startswith("other features") for row in rows)
    app.text_input(key="circuit_name").set_value("[mine](x)")
    pressed(app, "circuit_together")
    assert app.selectbox(key=view.NODE).value == "group [mine](x)"

    pressed(app, "circuit_test")
    check = next(iter(app.session_state["circuit_checks"].values()))
    assert check.measured[0] == pytest.approx(check.predicted, rel=1e-3, abs=1e-6)
    assert len(charged) == 2 and "of 8 random directions" in said(app)
    pressed(app, "circuit_apart")
    assert not next(iter(app.session_state["circuit_pins"].values())).groups


def test_two_dictionaries_are_held_against_the_model_layer_by_layer(
    open_page, at_hand, trace, small, shown_figures, monkeypatch, tmp_path
):
    """By the transcoder that the app was started with, and by a CLT."""
    charged: list[int] = []
    monkeypatch.setattr(run.limits, "charge", lambda person, tokens: charged.append(tokens))
    across = save_dictionary(tmp_path / "all" / "clt", random_dictionary(small, "clt"))
    monkeypatch.setattr(dictionaries, "BUNDLED_DICTIONARIES", across.parent)
    app = opened(open_page, trace)
    assert "claim_layers" not in [button.key for button in app.button]
    pressed(app, "trace_circuit")
    assert f"then {2 * LAYER} runs of the text" in said(app)
    assert "layer_claims" not in shown_figures
    pressed(app, "claim_layers")
    assert charged[1] == (6 + 2 * LAYER) * len(IDS)
    found = next(iter(app.session_state["circuit_claims"].values()))
    assert found.names == ("your dictionary", "the CLT") and found.claims.shape == (2, LAYER)
    told = settled(found)
    assert layers.in_words(found.names, told) in said(app) and told.layers == LAYER
    spec = shown_figures["layer_claims"].to_dict()
    rows = [row for rows in spec["datasets"].values() for row in rows if "name" in row]
    assert [row["value"] for row in rows] == pytest.approx(found.claims.ravel().tolist(), rel=1e-3)
    table = next(one for one in app.dataframe if "measured" in one.value.columns)
    assert table.value["measured"].tolist() == pytest.approx(found.measured[1].tolist())
    # Of the first layer there is nothing below.
    app.query_params["layer"] = "0"
    assert "Which layer acts?" not in said(pressed(app.run(), "trace_circuit"))


def test_the_sentence_says_who_was_nearer_and_what_it_beat():
    def words(nearer, even, missed, disputed=4):
        values = [np.array(one, float) for one in (nearer, missed, (1.5, 1.4), (0.01, 0.4))]
        told = Settled(9, disputed, values[0], even, *values[1:])
        return layers.in_words(("the transcoder", "the CLT"), told), told

    line, told = words((1, 3), 0.62, (0.65, 1.2))
    assert "disagree about **4 of 9 layers**" in line
    assert "the CLT in 3 and the transcoder in 1: no more than a coin would give" in line
    assert "**the transcoder** misses 65\u00a0% of what they did, the CLT 120\u00a0%" in line
    assert "p = 0.4" in layers.in_numbers(("the transcoder", "the CLT"), told)
    assert "Neither is better than claiming nothing" in words((4, 0), 0.01, (1.1, 3.0))[0]
    assert "more than a coin gives" in words((9, 0), 0.004, (0.5, 3.0), 9)[0]
    assert "agree about the 9 layers" in words((0, 0), float("nan"), (0.5, 0.6), 0)[0]


def test_biases_and_the_choice_are_not_tested(open_page, at_hand, trace):
    app = pressed(opened(open_page, trace), "trace_circuit")
    assert "Choose a node to test" in said(app)
    app.selectbox(key=view.NODE).set_value("fixed").run()
    assert "can't be taken out" in said(app)
    assert "circuit_test" not in [button.key for button in app.button]


def test_where_there_is_no_circuit_a_sentence_says_why(open_page, at_hand, trace, small):
    other = replace(random_dictionary(small, "transcoder"), facts={"model_sha256": "another"})
    save_dictionary(at_hand, other)
    assert "No dictionary of what experts add" in said(opened(open_page, trace))
    edited = replace(trace, settings={**trace.settings, "interventions": ["ban"]})
    assert "A circuit is of a plain run" in said(opened(open_page, edited))
    choice = next(iter(shared_models.model_choices().values()))
    for mode, why in (("streamed", "read from disk"), ("remote", "held by a server")):
        assert why in dictionaries.why_not(trace, replace(choice, mode=mode), "A circuit")


def test_a_choice_that_rounding_decided_has_no_circuit(open_page, at_hand, trace):
    swapped = trace.experts.copy()
    others = np.setdiff1d(np.arange(8), swapped[LAYER, TOKEN])
    swapped[LAYER, TOKEN, 0] = others[0]
    app = pressed(opened(open_page, replace(trace, experts=swapped)), "trace_circuit")
    assert "rounding decided this choice" in said(app)
