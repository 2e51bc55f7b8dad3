"""Why this expert: the account of a cell sums to the trace's logits; its flip is run on a press."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import grok
from grok import cached
from grok.dictionaries.kinds.files import save_dictionary
from grok.serving.shared_model import SharedModel
from pages.live.one_trace import logit_lens, why_run
from pages.live.session import dictionaries, shared_models
from pages.shell import data_source
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = [5, 17, 3, 42, 99, 256, 12, 7]
SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"
TOKEN, LAYER = 3, 2


@pytest.fixture(scope="module")
def small():
    return grok.load(SMALL, dtype="float32")


@pytest.fixture(scope="module")
def trace(small):
    found = small.trace_routing(IDS)
    return replace(found, pieces=[f"[{i}](x)" for i in IDS])  # words from outside


@pytest.fixture
def at_hand(monkeypatch, tmp_path, small) -> Path:
    """A random dictionary of the small model, which is the one that runs prompts."""
    folder = save_dictionary(tmp_path / "sae", random_dictionary(small, "sae"))
    monkeypatch.setenv(dictionaries.VARIABLE, str(folder))
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    monkeypatch.setattr(logit_lens, "fill", lambda *_, **__: None)
    monkeypatch.setattr(shared_models, "shared", lambda choice, *_: SharedModel(small))
    return folder


def opened(open_page, trace, *, fold: bool = True):
    state = {"traces": {"first": trace}, "why_expert": fold}
    app = open_page("live_routing", state=state, token=str(TOKEN), layer=str(LAYER))
    assert not app.exception and not app.error
    return app


def said(app) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def steps(figure) -> list[dict]:
    spec = figure.to_dict()
    return next(rows for rows in spec["datasets"].values() if "start" in rows[0])


def test_the_waterfall_sums_to_the_logits_of_the_trace(
    open_page, at_hand, trace, shown_figures, monkeypatch
):
    card = SimpleNamespace(explanation=None, words=((1, "[7](x)", 0.5),))
    store = SimpleNamespace(
        summary=lambda: SimpleNamespace(dictionary_sha256="fake"), card=lambda *_: card
    )
    monkeypatch.setattr(dictionaries, "database", lambda _: ("own", store))
    app = opened(open_page, trace)
    assert all("dictionary=own" in one.proto.query_string for one in app.get("page_link"))
    assert app.get("page_link") and "(“\\[7" in said(app)
    z = trace.router_logits[LAYER, TOKEN].astype(float)
    first = int(trace.experts[LAYER, TOKEN, 0])
    left_out = np.setdiff1d(np.arange(len(z)), trace.experts[LAYER, TOKEN])
    nearest = int(left_out[np.argmax(z[left_out])])
    rows = steps(shown_figures["route_account"])
    assert rows[-1]["value"] == pytest.approx(z[first] - z[nearest], abs=1e-4)
    assert sum(row["value"] for row in rows[:-1]) == pytest.approx(rows[-1]["value"], abs=1e-4)
    assert [row["start"] for row in rows[1:-1]] == [row["end"] for row in rows[:-2]]
    assert not re.search(r"(?<!\\)\[\d+\]\(x", said(app))
    assert f"goes to **L{LAYER}·E{first}** rather than E{nearest}" in said(app)
    app.segmented_control(key="why_compared").set_value("alone_0").run()
    assert steps(shown_figures["route_account"])[-1]["value"] == pytest.approx(
        z[first] - z.mean(), abs=1e-4
    )


def test_the_flip_is_run_on_a_press_and_counted_among_what_one_may_run(
    open_page, at_hand, trace, monkeypatch
):
    charged: list[int] = []
    monkeypatch.setattr(why_run.limits, "charge", lambda person, tokens: charged.append(tokens))
    app = opened(open_page, trace)
    assert charged == [len(IDS)] and "the model agreed" not in said(app)
    app.button(key="run_flip").click().run()
    words = said(app)
    assert "**the model agreed**" in words and "of 15 random directions" in words
    assert len(charged) == 2 and charged[1] > len(IDS)
    app.button(key="move_right").click().run()
    assert "the model agreed" not in said(app) and len(charged) == 2


def test_a_closed_fold_reads_and_runs_nothing(open_page, at_hand, trace, monkeypatch):
    monkeypatch.setattr(cached, "shared_dictionary", None)
    monkeypatch.setattr(why_run, "read", None)
    app = opened(open_page, trace, fold=False)
    assert "Why this expert?" in [fold.label for fold in app.expander]
    assert "features_read" not in app.session_state


def test_the_shipped_dictionary_has_a_database_that_says_when_its_features_are_active():
    name, store = dictionaries.database(dictionaries.folder())
    said_of = dictionaries.usually_on(store.summary().dictionary_sha256, 6, 644, _store=store)
    assert name == "sae" and "“te”" in said_of


def test_where_there_is_no_account_a_sentence_says_why(
    open_page, at_hand, trace, monkeypatch, small
):
    monkeypatch.setattr(why_run, "read", None)
    other = replace(random_dictionary(small, "sae"), facts={"model_sha256": "another"})
    save_dictionary(at_hand, other)
    assert "is another model" in said(opened(open_page, trace))
    monkeypatch.setenv(dictionaries.VARIABLE, str(at_hand / "none"))
    assert "No dictionary of features is at hand" in said(opened(open_page, trace))
