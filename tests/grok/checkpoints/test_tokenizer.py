"""Text to token ids and back, whatever the text."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import grok
from grok.checkpoints.tokenizer import PieceTokenizer as Tokenizer
from grok.errors import GrokError, PromptError, TokenizerError
from grok.runner.loading import Model
from grok.training.vocabulary import train_tokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
TEXTS = {
    "ascii": "the cat sat on the mat and the dog sat on the log\n" * 60,
    "french": "le chat était déjà là, où il dort été comme hiver\n" * 60,
}
PIECES = 400  # fewer than tiny3's 512 embeddings


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(TEXTS, file, PIECES)
    return file


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> Tokenizer:
    return Tokenizer(file, 512)


@pytest.fixture(scope="module")
def reading(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """tiny3 with a tokenizer beside its ckpt-0."""
    folder = tmp_path_factory.mktemp("models") / "reading"
    shutil.copytree(DATA / "tiny3", folder)
    shutil.copy(file, folder / "tokenizer.model")
    return grok.load(folder, dtype="float32", mesh=(1, 1))


UNUSUAL = {
    "emoji": "cat 🐈‍⬛ and 👩🏽‍🚀 and 🏳️‍🌈",
    "right to left": "שלום עולם, مرحبا بالعالم \u202eabc\u202c",
    "combining marks": "e\u0301\u0327" + "\u0300" * 40,
    "NUL and controls": "a\0b\x01\x1b[31m\x7f\x85",
    "line ends": "a\r\nb\rc\n\n\n\n\n\nd\u2028e",
    "spaces": "  a   b" + " " * 50 + "c\t\t\t",
    "beyond the basic plane": "𝔊𝔯𝔬𝔨 \U0010ffff\ufffe",
    "byte order mark": "\ufeffabc",
    "the pieces' own space": "a▁b ▁",
    "special pieces' names": "[PAD][BOS][EOS][UNK]<0x41>",
    "ten thousand characters": "le chat " * 1250,
    "one space": " ",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_text_comes_back_as_it_was(name, tokenizer):
    text = UNUSUAL[name]
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32 and tokens.ndim == 1 and tokens.size
    assert tokens.min() > 3  # no special id, whatever the text says; bytes stand for the rest
    assert tokens.max() < PIECES
    assert tokenizer.decode(tokens) == text.replace("▁", " ")  # the piece for a space
    assert len(tokenizer.pieces(tokens)) == tokens.size


def test_no_beginning_or_end_of_sequence_is_added(tokenizer):
    assert "".join(tokenizer.pieces(tokenizer.encode("the cat"))) == "▁the▁cat"


def test_half_a_surrogate_pair_is_refused_with_its_place(reading):
    for prompt in ("ab\ud83d", "ab\udc00cd"):
        with pytest.raises(PromptError, match="character 2 is half of a surrogate pair"):
            reading.trace_routing(prompt)


def test_ids_beyond_the_tokenizer_are_shown_as_numbers_and_left_out_of_text(tokenizer):
    assert tokenizer.pieces([PIECES, 511]) == [f"#{PIECES}", "#511"]
    ids = tokenizer.encode("the cat").tolist()
    assert tokenizer.decode([*ids, 511]) == "the cat"


def test_a_tokenizer_beside_the_checkpoint_is_found(reading):
    trace = reading.trace_routing("the cat")
    assert "".join(trace.pieces) == "▁the▁cat"
    assert np.array_equal(trace.tokens, reading.encode("the cat"))
    assert np.array_equal(reading.trace_routing(trace.tokens).experts, trace.experts)
    generation = reading.generate("the cat", max_new_tokens=3)
    assert generation.text == reading.text(generation.new_tokens)


def test_another_tokenizer_can_be_named(file, reading):
    model = grok.load(DATA / "tiny3", dtype="float32", mesh=(1, 1), tokenizer=file)
    assert np.array_equal(model.encode("the cat"), reading.encode("the cat"))


def test_an_empty_text_is_refused(reading):
    with pytest.raises(PromptError, match="The prompt is empty"):
        reading.trace_routing("")


def test_a_long_text_is_refused_with_its_length_in_tokens(reading):
    n = reading.tokenizer.encode("the cat " * 500).size
    with pytest.raises(PromptError, match=f"has {n} tokens; this model's context holds 128"):
        reading.trace_routing("the cat " * 500)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04\x95" * 50, b"\0" * 4096])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    wrong = tmp_path / "wrong.model"
    wrong.write_bytes(content)
    with pytest.raises(TokenizerError, match="wrong.model: not a SentencePiece model"):
        Tokenizer(wrong, 512)


def test_a_cut_off_tokenizer_is_refused(file, tmp_path):
    cut = tmp_path / "cut.model"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TokenizerError, match="cut.model: not a SentencePiece model"):
        Tokenizer(cut, 512)


def test_a_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(GrokError, match="nowhere.model: there is no such tokenizer file"):
        grok.load(DATA / "tiny3", tokenizer=tmp_path / "nowhere.model")


def test_a_tokenizer_with_more_pieces_than_embeddings_is_refused(file):
    with pytest.raises(TokenizerError, match=f"has {PIECES} pieces.* embeds 300 tokens"):
        Tokenizer(file, 300)
