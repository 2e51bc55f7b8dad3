"""What experts take in a run, kept in a file that is read without trust."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from grok.config import BUNDLED_MODEL
from lens.errors import LensError
from lens.extract.grok1 import extract_routers
from lens.findings.of_experts import expert_takes
from lens.many_prompts.expert_cards import FILE, ExpertCards, cards_of_run, load_cards, save_cards
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.run_words import is_word
from tests.headline_words import faults
from tests.lens.many_prompts.run_making import finished, random_routing


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> ExpertCards:
    """Chance everywhere, but that expert 2 of layer 1 is the first choice of all tokens of "b"."""
    labels = ["a", "b"] * 8
    tokens, experts = random_routing(np.random.default_rng(0), [40] * len(labels))
    for one, label in zip(experts, labels, strict=True):
        rest = np.where(one[1, :, 1] == 2, one[1, :, 0], one[1, :, 1])
        there = label == "b"
        one[1, :, 1] = np.where(rest == 2, 3, rest) if there else np.where(rest == 2, 4, rest)
        one[1, :, 0] = 2 if there else np.where(one[1, :, 1] == 5, 6, 5)
    run = finished(RunStore(tmp_path_factory.mktemp("runs")), tokens, experts, labels)
    return cards_of_run(run)


def test_the_expert_of_a_kind_is_found_and_no_other_is_called_a_finding(planted):
    assert planted.most_telling == (1, 2)
    assert planted.main[1, 2] == planted.labels.index("b")
    assert planted.share[planted.labels.index("b"), 1, 2] == 1
    assert planted.elsewhere[planted.labels.index("b"), 1, 2] == pytest.approx(0)
    assert not planted.takes[:, [0, 2]].any()  # layers of chance
    found = expert_takes(planted, 1, 2, "L1·E2")
    assert found.found and found.sentence == "L1·E2 takes b: 100\u00a0% of its tokens go there."
    other = expert_takes(planted, 0, 0, "L0·E0")
    assert not other.found
    assert other.sentence == "Nothing that L0·E0 takes stands out from chance."
    assert not any(planted.words(0, expert).size for expert in range(8))


def test_contexts_are_tokens_that_the_expert_took_of_the_kind_that_it_takes(planted):
    found = planted.contexts(1, 2)
    assert len(found) == 8 and {one.label for one in found} == {"b"}
    assert all(one.piece.startswith("w") and one.gate == 0.5 for one in found)


def test_a_file_keeps_the_cards_and_the_same_cards_give_the_same_bytes(planted, tmp_path):
    for name in ("one.npz", "two.npz"):
        save_cards(planted, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = load_cards(tmp_path / "one.npz")
    for field in fields(planted):
        kept, was = getattr(again, field.name), getattr(planted, field.name)
        if isinstance(was, np.ndarray) and was.dtype.kind == "f":
            np.testing.assert_allclose(kept, was, rtol=1e-6)
        else:
            np.testing.assert_array_equal(kept, was)


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("taken", np.zeros((1, 2, 3), np.uint8), "has shape .* expected"),
        ("share", np.zeros(3, np.float32), "not of labels, words and contexts"),
        ("context_label", "beyond", "a label that is not there"),
        ("before", np.zeros((3, 8, 8), np.float32), "before has shape"),
    ],
)
def test_a_file_of_other_arrays_is_refused(planted, tmp_path, field, value, said):
    if isinstance(value, str):
        value = np.full_like(planted.context_label, 9)
    save_cards(replace(planted, **{field: value}), tmp_path / "cards.npz")
    with pytest.raises(LensError, match=said):
        load_cards(tmp_path / "cards.npz")


@pytest.mark.skipif(not (BUNDLED_MODEL / "ckpt-0").is_dir(), reason="no bundled model here")
def test_the_bundled_models_cards_are_small_plain_and_say_what_experts_take():
    routers = extract_routers(BUNDLED_MODEL)
    file = BUNDLED_MODEL / FILE
    assert file.stat().st_size < 2**20
    cards = load_cards(file)
    assert cards.model_sha256 == routers.sha256
    assert cards.share.shape[1:] == (routers.n_layers, routers.n_experts)
    german = cards.labels.index("German")
    assert cards.share[german, 2, 3] > 0.95 and cards.takes[german, 2, 3]
    assert {"▁die", "▁und"} <= {cards.pieces[i] for i in cards.words(2, 3)[:8]}
    for layer, expert in np.ndindex(*cards.main.shape):
        finding = expert_takes(cards, layer, expert, routers.label(layer, expert))
        assert not faults(finding.sentence), finding.sentence
        assert finding.found == bool(
            cards.takes[:, layer, expert].any() or cards.words(layer, expert, inside=True).size
        )


@pytest.mark.parametrize(
    "piece, word",
    [("▁the", True), ("▁a", True), ("42", True), ("ing", True), ("7", True), ("é", False),
     ("▁", False), (",", False), ("\n", False), ("<0xC3>", False), ("▁—", False)],
)  # fmt: skip
def test_a_word_is_told_from_signs_and_single_letters(piece, word):
    assert is_word(piece) == word
