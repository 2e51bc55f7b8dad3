from __future__ import annotations

from pathlib import Path

import pytest

from grok.errors import GrokError
from grok.training.sources import arithmetic, python_source
from grok.training.vocabulary import bytes_per_token, train_tokenizer

TEXTS = {
    "prose": "".join(
        f"Ce jour-là, l'été du {number}e an, il s'en alla à pied par le chemin.\n"
        for number in range(300)
    ),
    "python": python_source(20_000)[:40_000],
    "arithmetic": arithmetic(0, 8_000),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    train_tokenizer(TEXTS, path, vocab_size=700)
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(str(model))


def test_special_ids_are_those_of_grok_1(tokenizer) -> None:
    assert len(tokenizer) == 700
    assert [tokenizer.id_to_piece(i) for i in range(4)] == ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
    assert (tokenizer.pad_id(), tokenizer.bos_id()) == (0, 1)
    assert (tokenizer.eos_id(), tokenizer.unk_id()) == (2, 3)
    assert sum(tokenizer.is_byte(i) for i in range(700)) == 256


@pytest.mark.parametrize(
    "text",
    [
        "def f(n):\n    if n:\n\n        return  n\n\n\n\n\n\n",
        "  two spaces first, one last ",
        "\nnewline first\ttab\t\t\ttabs",
        " " * 40 + "deep",
        "naïve 🙂 日本語 ﬁ Å A\u030a \u00a0 \x0c\r\n",
        "37 + 58 = 95",
        "",
    ],
)
def test_decoding_gives_back_the_text_exactly(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_text_is_encoded_without_the_pad_and_unknown_ids(tokenizer) -> None:
    ids = tokenizer.encode("".join(TEXTS.values()) + "☃ \0 [PAD] [UNK]")
    assert not {0, 1, 2, 3} & set(ids)


def test_digits_are_tokens_one_by_one_and_indentation_is_one_token(tokenizer) -> None:
    pieces = [tokenizer.id_to_piece(i) for i in tokenizer.encode("1234\n        x")]
    assert pieces == ["▁", "1", "2", "3", "4", "\n", "▁" * 8, "x"]


def test_no_piece_joins_a_word_to_a_newline(tokenizer) -> None:
    for i in range(700):
        piece = tokenizer.id_to_piece(i)
        assert "\n" not in piece or set(piece) == {"\n"}


def test_the_same_texts_and_seed_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, tmp_path / "again.model", vocab_size=700)
    assert (tmp_path / "again.model").read_bytes() == model.read_bytes()


def test_the_model_names_no_path_of_the_machine(model: Path) -> None:
    assert str(model.parent).encode() not in model.read_bytes()


def test_a_sample_takes_about_as_much_of_each_domain(tmp_path: Path) -> None:
    texts = {"many": "abab cdcd\n" * 20_000, "few": "xyxy zwzw\n" * 400}
    learnt = {}
    for sample in (4_000, 1_000_000):
        tokenizer = train_tokenizer(texts, tmp_path / "m", vocab_size=305, sample_characters=sample)
        learnt[sample] = "|".join(tokenizer.id_to_piece(i) for i in range(305))
    assert "xy" in learnt[4_000] and "ab" in learnt[4_000]
    assert "xy" not in learnt[1_000_000] and "ab" in learnt[1_000_000]


def test_bytes_per_token_counts_utf8_bytes(tokenizer) -> None:
    assert bytes_per_token(tokenizer, {"digits": "1" * 99})["digits"] == pytest.approx(99 / 100)
    assert bytes_per_token(tokenizer, {"snow": "☃" * 10})["snow"] == pytest.approx(30 / 31)


def test_too_little_text_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(GrokError, match="No vocabulary of 4096 pieces.*1 texts of 10 characters"):
        train_tokenizer({"short": "ab cd ef \n"}, path)
    assert list(tmp_path.iterdir()) == []
