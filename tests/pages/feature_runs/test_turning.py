"""A feature turned up or taken out, on a press: the counts are those of plain runs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from grok.dictionaries.attribution import Change, read_features, steer
from grok.dictionaries.kinds.files import load_dictionary
from grok.interventions.edits import NO_EDITS
from pages.access import persons
from pages.feature_runs import by_text, going_on, turning
from tests.feature_database import small_model
from tests.pages.feature_runs.test_by_text import IDS, said, tried

PLACE = (1, 4)


@pytest.fixture(autouse=True)
def few_directions(monkeypatch):
    monkeypatch.setattr(turning, "DIRECTIONS", 3)


def opened(open_page, **query):
    app = open_page("features", feature="1-4", state={turning.FOLD: True}, **query)
    assert not app.exception and not app.error
    return app


def pressed(app):
    app.button(key="run_turned").click().run()
    assert not app.exception and not app.error
    return app


def numbers(app):
    return next(one for one in app.dataframe if "routes, random" in one.value).value


def changed(ids, edits) -> int:
    """Tokens, in layers after the first two, whose sets of experts are not a plain run's."""
    plain, other = (
        np.sort(small_model().trace_routing(ids, edits=one).experts, -1)[2:]
        for one in (NO_EDITS, edits)
    )
    return int((plain != other).any(-1).sum())


def test_routes_that_change_are_those_of_plain_runs(open_page, at_hand, small_folder, monkeypatch):
    charged: list[int] = []
    monkeypatch.setattr(turning.limits, "charge", lambda person, tokens: charged.append(tokens))
    app = opened(open_page)
    context = at_hand.card(*PLACE).of_kind("top")[0]
    ids = at_hand.up_to(context)
    assert ids[context.position] == context.tokens[context.mark] and not charged
    assert not any("routes, random" in one.value for one in app.dataframe)
    app = pressed(app)
    rows, dictionary = numbers(app), load_dictionary(small_folder)
    largest = at_hand.card(*PLACE).largest
    expected = [
        changed(ids, steer(dictionary, Change(4, group=1))),
        changed(ids, steer(dictionary, Change(4, "add", largest / 2, group=1))),
        changed(ids, steer(dictionary, Change(4, "add", largest, group=1))),
    ]
    assert list(rows["dose"]) == [turning.OUT, *turning.TIMES] and list(rows["routes"]) == expected
    assert charged == [13 * len(ids)]
    assert "Taken out of this text, **L1·F4** changes no more routes" in said(app)
    assert f"{expected[0]:,} of {len(ids)} (they" in said(app)  # one layer comes after it
    assert f"{expected[2]:,} of {len(ids)} fully up (they" in said(app)
    monkeypatch.setattr(going_on, "NEW", 4)
    app.button(key="run_going_on").click().run()
    assert not app.exception and not app.error and charged[1:] == [6 * (len(ids) + 4)]
    (texts,) = (one.proto.body for one in app.get("html") if "goes-on" in one.proto.body)
    shown = [re.sub("<[^>]+>", "", one) for one in re.findall("<dd>(.*?)</dd>", texts)]
    up = steer(dictionary, Change(4, "add", largest, group=1))
    for at, edits in ((0, NO_EDITS), (2, up)):
        new = small_model().generate(ids, max_new_tokens=4, edits=edits).new_tokens
        assert shown[at] == "".join(small_model().pieces(np.array(new)))
    assert len(shown) == 6 and "Of the next 4 tokens" in said(app)


def test_the_text_that_was_tried_comes_first_where_it_is_active_and_is_in_no_address(
    open_page, at_hand, small_folder
):
    app = tried(open_page("features", find="text", state={turning.FOLD: True}))
    read = read_features(small_model(), load_dictionary(small_folder), np.array(IDS))
    active = np.array([(one[1:] > 0).any(0) for one in read.features])
    group, feature = (int(one) for one in np.argwhere(active[:2])[0])
    app.session_state["link_values"]["feature"] = f"{group}-{feature}"
    app.run()
    box = app.selectbox(key=turning.TEXT)
    assert box.options[0].startswith("Your text: ")
    box.set_value("tried").run()
    key = next(iter(app.session_state[by_text.TRIED.key].values()))
    assert f"{len(key.ids)} tokens" in said(app)
    app = pressed(app)
    assert len(numbers(app)) == 3 and "5 17" not in json.dumps(dict(app.query_params))


def test_what_has_no_room_or_is_not_active_is_not_offered(open_page, at_hand, monkeypatch):
    found = turning.Turned(
        turning.Doses(
            tuple(turning.TIMES), np.ones(2), 20, np.array([1, 2]), np.array([[2, 3], [1, 2]]),
            np.ones(2), np.ones((2, 2)), np.ones(2), np.ones((2, 2)),
        ), 0, 10,
    )  # fmt: skip
    card, sha256 = at_hand.card(*PLACE), at_hand.summary().dictionary_sha256
    ids = at_hand.up_to(card.of_kind("top")[0])
    key = turning.key_of(at_hand, card, ids)
    assert sha256 in key and str(ids[0]) not in key.split()
    app = open_page(
        "features", feature="1-4", state={turning.FOLD: True, turning.TURNED.key: {key: found}}
    )
    assert "nothing to take out" in said(app) and list(numbers(app)["routes"]) == [1, 2]
    for length in (126, 128):  # of a context of 128
        text = np.resize(ids, length)
        app.session_state[turning.TURNED.key][turning.key_of(at_hand, card, text)] = found
        monkeypatch.setattr(turning, "tokens_of", lambda *_, text=text: text)
        app.run()
        buttons = [one.help for one in app.button if one.key == "run_going_on"]
        assert buttons == (["6 continuations of 2 tokens"] if length == 126 else [])
        assert ("no token is left of the model's context of 128" in said(app)) == (length == 128)


def test_a_closed_fold_reads_nothing_and_who_may_only_look_is_told(open_page, at_hand, monkeypatch):
    app = open_page("features", feature="1-4")
    assert not any(one.key == turning.TEXT for one in app.selectbox)
    monkeypatch.setattr(persons, "role", lambda: "viewer")
    app = opened(open_page)
    assert persons.MAY_LOOK in said(app) and not any(b.key == "run_turned" for b in app.button)
