"""tokenizer.json: the ids of transformers, and pieces that people can read."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from grok.checkpoints.tokenizer import open_tokenizer
from grok.errors import PromptError, TokenizerError
from grok.runner.results import pieces_apart

DATA = Path(__file__).resolve().parents[2] / "data" / "tokenizers"
NAMES = ("olmoe", "qwen3_moe")
VOCABULARY = 512


@pytest.fixture(scope="module", params=NAMES)
def folder(request):
    return DATA / request.param


def test_texts_get_the_reference_ids_and_come_back(folder):
    tokenizer = open_tokenizer(folder / "tokenizer.json", VOCABULARY)
    cases = json.loads((folder / "tokenizer.cases.json").read_text())["cases"]
    assert len(cases) > 5
    for case in cases:
        assert tokenizer.encode(case["text"]).tolist() == case["ids"]
        assert tokenizer.decode(case["ids_without_added"]) == case["decoded"]


def test_pieces_are_text_and_make_up_the_prompt(folder):
    tokenizer = open_tokenizer(folder / "tokenizer.json", VOCABULARY)
    cases = json.loads((folder / "tokenizer.cases.json").read_text())["cases"]
    for case in cases:
        pieces = tokenizer.pieces(case["ids_without_added"])
        shown = "".join(piece for piece in pieces if not piece.startswith("<0x"))
        assert shown.replace("▁", " ") == case["decoded"].removeprefix("<|endoftext|>")


def test_a_character_of_several_tokens_is_shown_by_the_last_of_them():
    tokenizer = open_tokenizer(DATA / "qwen3_moe" / "tokenizer.json", VOCABULARY)
    ids = tokenizer.encode("é—").tolist()
    pieces = tokenizer.pieces(ids)
    assert "".join(pieces).endswith("—") and "<0x" in "".join(pieces[:-1])
    assert tokenizer.piece(ids[-1]).startswith("<0x")  # alone it is a part of a character
    assert tokenizer.piece(VOCABULARY - 1) == f"#{VOCABULARY - 1}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a tokenizer|cannot be read"),
        ("{}", "not a tokenizer"),
        ('{"model": {"type": "Secret"}}', "not a tokenizer"),
        ("[" * 100_000, "not a tokenizer|cannot be read"),
    ],
)
def test_another_file_is_refused(tmp_path, content, says):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=says):
        open_tokenizer(tmp_path / "tokenizer.json", VOCABULARY)


def test_a_tokenizer_of_another_model_and_half_a_letter_are_refused():
    file = DATA / "olmoe" / "tokenizer.json"
    with pytest.raises(TokenizerError, match="the model embeds 100 tokens"):
        open_tokenizer(file, 100)
    with pytest.raises(PromptError, match="character 1 is half of a surrogate pair"):
        open_tokenizer(file, VOCABULARY).encode("a\ud800")


def test_candidates_are_shown_each_by_itself(folder, model):
    tokenizer = open_tokenizer(folder / "tokenizer.json", VOCABULARY)
    of = {tokenizer.piece(token): token for token in range(tokenizer.n_pieces)}
    row = np.array([of["<0xC3>"], of["<0xA9>"]])
    assert tokenizer.pieces(row) == ["<0xC3>", "é"]
    family = copy.copy(model("huggingface/qwen3_moe"))
    family.tokenizer = tokenizer
    assert pieces_apart(family, row[None]).tolist() == [["<0xC3>", "<0xA9>"]]
