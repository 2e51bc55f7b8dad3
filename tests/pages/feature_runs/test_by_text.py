"""Try your text: what is active on it, beside usual rates and beside other stretches."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from grok.dictionaries.attribution import read_features
from grok.dictionaries.kinds.files import load_dictionary
from pages.access import persons
from pages.feature_runs import at_hand as running
from pages.feature_runs import by_text
from pages.feature_views import source
from pages.hosting import owner
from tests.feature_database import small_model

IDS = [5, 17, 3, 9, 22, 30, 11, 5, 8, 2]


def opened(open_page, **query):
    app = open_page("features", find="text", **query)
    assert not app.exception and not app.error
    return app


TEXT = " ".join(map(str, IDS))


def tried(app, text=TEXT):
    app.text_area(key="prompt").set_value(text)
    next(one for one in app.button if one.label == "Read it").click().run()
    assert not app.exception
    return app


def listed(app):
    return next(one for one in app.dataframe if "usually on" in one.value).value


def said(app):
    return "\n".join(one.value for one in (*app.markdown, *app.caption, *app.info))


def test_the_list_counts_tokens_as_a_plain_reading_does(
    open_page, at_hand, small_folder, monkeypatch
):
    charged: list[int] = []
    monkeypatch.setattr(by_text.limits, "charge", lambda person, tokens: charged.append(tokens))
    app = opened(open_page)
    assert not charged and f"{by_text.STRETCHES} stretches" in said(app)
    app = tried(app)
    rows = listed(app)
    read = read_features(small_model(), load_dictionary(small_folder), np.array(IDS))
    plain = {
        f"L{group}·F{feature}": int((values[1:, feature] > 0).sum())
        for group, values in enumerate(read.features)
        for feature in range(values.shape[1])
    }
    assert dict(zip(rows["feature"], rows["tokens"], strict=True)) == {
        name: n for name, n in plain.items() if n
    }
    stretches = at_hand.stretches(len(IDS), by_text.STRETCHES)
    assert charged == [(1 + len(stretches)) * len(IDS)] and len(stretches) > 2
    keys = list(zip(rows["as often in"], -rows["unusual"], strict=True))
    assert keys == sorted(keys)
    assert f"Most unusual is **{rows['feature'][0]}**" in said(app)
    assert f"of {len(IDS) - 1} tokens" in said(app)
    assert "5 17 3" not in json.dumps(dict(app.query_params))


def test_a_reload_brings_the_text_back_and_what_is_forgotten_is_gone(
    open_page, at_hand, monkeypatch
):
    monkeypatch.setattr(owner, "current", lambda: "f" * 64)
    app = tried(opened(open_page))
    kept, before = app.query_params["kept"], listed(app)
    again = opened(open_page, kept=kept if isinstance(kept, str) else kept[0])
    assert listed(again).equals(before) and again.text_area(key="prompt").value == TEXT
    again.button(key="forget_tab").click().run()
    assert not any("usually on" in one.value for one in again.dataframe)
    assert again.text_area(key="prompt").value == ""


def test_the_text_is_coloured_by_the_chosen_feature_and_listed_by_layer_and_token(
    open_page, at_hand
):
    app = tried(opened(open_page))
    rows = listed(app)
    app.selectbox(key="of_layer").set_value(2).run()
    assert set(listed(app)["feature"]) == {n for n in rows["feature"] if n.startswith("L2·")}
    app.selectbox(key="text_order").set_value("strongest").run()
    assert (np.diff(listed(app)["strength"]) <= 0).all()
    found = by_text.TRIED.key
    known = next(iter(app.session_state[found].values()))
    app.selectbox(key=by_text.TOKEN).set_value(4).run()
    own = listed(app)
    here = {
        f"L{g}·F{f}": value
        for g, f, value in zip(
            known.found.group, known.found.feature, known.found.at_token(4), strict=True
        )
        if g == 2 and value > 0
    }
    assert dict(zip(own["feature"], own["strength"], strict=True)) == pytest.approx(here)
    shown = next(one.proto.body for one in app.get("html") if "feature-contexts" in one.proto.body)
    place = (int(known.found.group[0]), int(known.found.feature[0]))
    app.query_params["feature"] = f"{place[0]}-{place[1]}"
    app.run()
    again = next(one.proto.body for one in app.get("html") if "feature-contexts" in one.proto.body)
    assert again.count("title=") == int((known.found.strengths(*place) > 0).sum())
    assert shown.count("<span") == shown.count("title=") > 0


def test_a_text_that_is_no_prompt_is_said_and_keeps_the_last_result(open_page, at_hand):
    app = tried(opened(open_page))
    before = listed(app)
    app = tried(app, "zqmarker")
    assert "takes token ids" in app.error[0].value
    assert listed(app).equals(before) and "the last result" in said(app)


def test_with_the_database_alone_a_sentence_says_what_is_missing(
    open_page, at_hand, small_folder, tmp_path, monkeypatch
):
    alone = shutil.copytree(small_folder / "features", tmp_path / "alone" / "features")
    monkeypatch.setenv(source.FEATURES_VARIABLE, str(alone))
    app = opened(open_page)
    assert running.DATABASE_ALONE in said(app) and not app.text_area


@pytest.mark.parametrize("mode", ["streamed", "remote"])
def test_a_model_that_is_not_in_memory_is_said(open_page, at_hand, monkeypatch, mode):
    monkeypatch.setattr(
        running.stream_choice, "decided", lambda choice, **_: replace(choice, mode=mode)
    )
    assert "needs the model's weights in this machine's memory" in said(opened(open_page))


def test_who_may_only_look_is_told_so(open_page, at_hand, monkeypatch):
    monkeypatch.setattr(persons, "role", lambda: "viewer")
    app = opened(open_page)
    assert persons.MAY_LOOK in said(app) and not app.text_area
