"""Explanations: planted rules are found, chance scores a half, a language model is only words."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from grok.dictionaries.indexing.run import index
from lens.errors import LensError
from lens.features import FeatureQuery, FeatureStore, explain
from lens.features.explaining.excerpts import Excerpts, all_excerpts, excerpts_of
from lens.features.explaining.judging import balanced, judged
from lens.features.explaining.language_model import (
    KEY_VARIABLE,
    MODEL_VARIABLE,
    URL_VARIABLE,
    explainer_of_environment,
    yes_or_no,
)
from lens.features.explaining.predicates import Vocabulary
from lens.features.explaining.templates import TemplateExplainer
from tests.feature_database import small_pass

PIECES = [*(f"▁w{chr(97 + i)}ing" for i in range(10)), *(f"▁x{chr(97 + i)}er" for i in range(10)),
          *"0123456789", "\n", ","]  # fmt: skip
VOCABULARY = Vocabulary(PIECES)
LABELS = ("prose", "sums")


def excerpts(rng, fires, n=240, t=12) -> Excerpts:
    """Random excerpts; `fires` says where a feature is active, from ids, labels and places."""
    ids = rng.integers(0, len(PIECES), (n, t))
    label, position = rng.integers(0, 2, n), rng.integers(0, 3, n) * 8
    place = position[:, None] + np.arange(t)
    active = fires(ids, np.broadcast_to(label[:, None], ids.shape), place)
    values = active * rng.uniform(1, 2, ids.shape)
    return Excerpts(ids, values, values.argmax(1), label, position, np.arange(n))


def after(ids, wanted):
    before = np.concatenate([np.full((len(ids), 1), -1), ids[:, :-1]], 1)
    return np.isin(before, wanted)


PLANTED = {
    "“ wcing”, “ xcer”": lambda ids, label, place: np.isin(ids, [2, 12]),
    "what follows “0”": lambda ids, label, place: after(ids, [20]),
    "pieces that end in “ing”": lambda ids, label, place: ids < 10,
    "numbers, where also: tokens of sums":
        lambda ids, label, place: (ids >= 20) & (ids < 30) & (label == 1),
    "the first 2 tokens of a text": lambda ids, label, place: place < 2,
}  # fmt: skip


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_rule_is_found_in_words_and_holds_on_unseen_excerpts(text):
    found = excerpts(np.random.default_rng(0), PLANTED[text])
    seen, unseen = found.halves()
    assert 60 < len(seen) < 180 and not set(seen.window) & set(unseen.window)
    proposal = TemplateExplainer(VOCABULARY, LABELS).explain(seen)
    assert sorted(proposal.text.split(", ")) == sorted(text.split(", "))
    scores = judged(proposal.judge, unseen)
    assert scores.fuzzing > 0.98
    if scores.detection == scores.detection:  # where some excerpts are without the feature
        assert scores.detection > 0.98 and scores.low > 0.85


def test_a_feature_of_chance_scores_a_half():
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(20):
        found = excerpts(rng, lambda ids, label, place: rng.random(ids.shape) < 0.05)
        seen, unseen = found.halves()
        own = judged(TemplateExplainer(VOCABULARY, LABELS).explain(seen).judge, unseen)
        scores.append((own.detection, own.fuzzing, own.low <= 0.5 <= own.high))
    detection, fuzzing, covered = np.mean(scores, axis=0)
    assert abs(detection - 0.5) < 0.05 and abs(fuzzing - 0.5) < 0.05 and covered >= 0.8


def test_balanced_accuracy_is_a_half_for_one_answer_to_all():
    truth = np.array([True] * 5 + [False] * 45)
    value, low, high = balanced(np.ones(50, bool), truth)
    assert value == 0.5 and low < 0.5 <= high
    value, low, high = balanced(truth, truth)
    assert value == high == 1.0 and 0.7 < low < 0.95
    assert all(np.isnan(balanced(truth[:6], truth[:6])))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    one = small_pass(tmp_path_factory.mktemp("explained") / "db", judged=12)
    index(one)
    return FeatureStore.open(one.output)


def test_excerpts_of_all_features_are_those_of_their_cards(store):
    checked = 0
    for group, feature, found in all_excerpts(store):
        contexts = store.judged(group, feature)
        own = excerpts_of(contexts, store.summary().labels)
        width = own.ids.shape[1]
        for name in ("mark", "label", "position", "window"):
            np.testing.assert_array_equal(getattr(found, name), getattr(own, name))
        np.testing.assert_array_equal(found.ids[:, :width], own.ids)
        np.testing.assert_allclose(found.values[:, :width], own.values)
        checked += len(contexts)
    assert checked > 200


def test_explanations_are_kept_searched_and_shown(store, tmp_path, capsys):
    assert explain.main([str(store.folder)]) == 0
    assert "features explained" in capsys.readouterr().out
    card = next(c for c in (store.card(1, f) for f in range(1, 16)) if c.explanation)
    own = card.explanation
    assert own.explainer == "rules" and own.text and own.contexts > 0
    found = store.find(FeatureQuery(text=own.text[:20], sort="detection"))
    at = [i for i in range(len(found)) if found.columns["feature"][i] == card.feature
          and found.columns["group"][i] == 1]  # fmt: skip
    assert found.columns["explanation"][at[0]] == own.text
    first = (store.folder / "explanations.parquet").read_bytes()
    explain.write_explanations(store)
    assert (store.folder / "explanations.parquet").read_bytes() == first
    small = FeatureStore.open(shutil.copytree(store.folder, tmp_path / "small"))
    assert explain.main([str(small.folder), "--small"]) == 0
    small = FeatureStore.open(small.folder)
    assert not (small.folder / "judged.parquet").exists() and small.judged(1, 4) == ()
    assert small.card(1, card.feature).explanation == own
    (store.folder / "explanations.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(LensError, match="set aside"):
        store.card(1, card.feature)
    assert store.card(1, card.feature).explanation is None


# --- a language model --------------------------------------------------------------------


class Stub(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible endpoint does; `answers` decides what it says."""

    answers: list = []
    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Stub.asked.append((self.path, self.headers.get("Authorization"), body))
        status, content = Stub.answers[0](body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Stub.asked = []
    yield {
        URL_VARIABLE: f"http://127.0.0.1:{server.server_port}/v1",
        MODEL_VARIABLE: "stub",
        KEY_VARIABLE: "secret",
    }
    server.shutdown()
    thread.join()
    server.server_close()


def chat(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def knows_ing(body):
    """A model that knows: says it, and answers every question by it."""
    system, user = (message["content"] for message in body["messages"])
    if "numbered excerpt" not in system:
        assert "<<" in user
        return chat(" It is active at words\nin -ing. ")
    lines = user.splitlines()
    if "anywhere" in system:
        assert "<<" not in user
        return chat(f"Sure: {json.dumps([int('ing' in line) for line in lines])}")
    marked = [line.split("<<")[1].split(">>")[0] for line in lines]
    return chat(json.dumps([int(one.endswith("ing")) for one in marked]))


def test_nothing_is_asked_unless_an_endpoint_is_configured(store, capsys, monkeypatch):
    assert explainer_of_environment(PIECES, {}) is None
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    assert explain.main([str(store.folder), "--language-model", "3"]) == 2
    assert URL_VARIABLE in capsys.readouterr().err
    for url in ("ftp://x", "x", "http://"):
        with pytest.raises(LensError, match=URL_VARIABLE):
            explainer_of_environment(PIECES, {URL_VARIABLE: url, MODEL_VARIABLE: "m"})


def test_a_language_model_explains_and_judges_through_the_same_protocol(endpoint):
    Stub.answers = [knows_ing]
    explainer = explainer_of_environment(PIECES, endpoint)
    found = excerpts(np.random.default_rng(0), PLANTED["pieces that end in “ing”"], n=30, t=3)
    seen, unseen = found.halves()
    proposal = explainer.explain(seen)
    assert proposal.text == "It is active at words in -ing."
    scores = judged(proposal.judge, unseen)
    assert scores.detection == scores.fuzzing == 1.0
    path, key, body = Stub.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "stub"
    assert "secret" not in repr(explainer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b""), "answers 500"),
        ((302, b""), "answers 302"),
        ((200, b"not json"), "none of a chat"),
        ((200, b'{"choices": []}'), "none of a chat"),
        ((200, b'{"choices": [{"message": {"content": 7}}]}'), "no text"),
        ((200, b"x" * (2**20 + 1)), "over a megabyte"),
    ],
)
def test_an_endpoint_that_answers_nonsense_is_said(endpoint, answer, said):
    Stub.answers = [lambda body: answer]
    found = excerpts(np.random.default_rng(0), lambda ids, label, place: ids < 10, n=20)
    with pytest.raises(LensError, match=said):
        explainer_of_environment(PIECES, endpoint).explain(found)


def test_an_endpoint_that_is_not_there_is_said(endpoint):
    found = excerpts(np.random.default_rng(0), lambda ids, label, place: ids < 10, n=20)
    closed = endpoint | {URL_VARIABLE: "http://127.0.0.1:9/v1"}
    with pytest.raises(LensError, match="127.0.0.1 does not answer"):
        explainer_of_environment(PIECES, closed).explain(found)


def test_an_answer_that_is_no_list_is_no():
    assert yes_or_no("[1, 0, 1]", 3) == [True, False, True]
    assert yes_or_no("I think [0,1] is right", 2) == [False, True]
    for odd in ("", "[1]", "[1, 0", "[1,,0]", "yes no", "[true, false]"):
        assert yes_or_no(odd, 2) == [False, False]
