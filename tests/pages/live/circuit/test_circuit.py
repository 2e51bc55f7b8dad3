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
from pages.live.circuit import run, view
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
