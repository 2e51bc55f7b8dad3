from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from grok.errors import GrokError
from grok.training import corpus
from grok.training.corpus import (
    DOMAINS,
    FILE_DOMAINS,
    Batches,
    EncodedDomain,
    encode_domains,
    load_domains,
    split_heldout,
)
from grok.training.sources import arithmetic, python_source


class CharacterTokenizer:
    """One token a character; counts how often it is asked."""

    def __init__(self, name: bytes = b"characters") -> None:
        self.name = name
        self.calls = 0

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        return [min(ord(character), 4000) for character in text]

    def serialized_model_proto(self) -> bytes:
        return self.name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for index, name in enumerate(FILE_DOMAINS):
        lines = [f"Ligne {number} à {name}, çà et là.\n" for number in range(200 + index)]
        (tmp_path / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(corpus, "python_source", lambda: python_source(20_000))
    monkeypatch.setattr(corpus, "arithmetic", lambda seed: arithmetic(seed, 5_000))
    return tmp_path


def streams(lengths: dict[str, int]) -> dict[str, EncodedDomain]:
    """Streams in which a token says which domain (thousands) and which place it comes from."""
    return {
        name: EncodedDomain(
            np.arange(length, dtype=np.int32) + 1000 * (index + 1), np.ones(3, np.int32)
        )
        for index, (name, length) in enumerate(lengths.items())
    }


def test_the_held_out_part_is_the_end_of_each_text_from_the_start_of_a_line(folder: Path) -> None:
    domains = load_domains(folder, seed=3)
    assert tuple(domains) == DOMAINS
    for name in FILE_DOMAINS:
        text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        domain = domains[name]
        assert domain.train_text + domain.heldout_text == text
        assert domain.train_text.endswith("\n")
        assert 0.02 < len(domain.heldout_text) / len(text) <= 0.03


def test_a_text_whose_last_lines_are_long_is_still_cut_at_a_line() -> None:
    assert split_heldout("a\n" + "b" * 500) == ("a\n", "b" * 500)
    assert split_heldout("a\n" + "b" * 500 + "\n") == ("a\n", "b" * 500 + "\n")


def test_a_text_of_one_line_cannot_be_split(folder: Path) -> None:
    (folder / "german_prose.txt").write_text("nur eine Zeile", encoding="utf-8")
    with pytest.raises(GrokError, match="german_prose.*14 characters.*too few lines"):
        load_domains(folder, seed=0)


def test_a_missing_folder_and_a_missing_file_are_named(folder: Path) -> None:
    with pytest.raises(GrokError, match="no corpus folder .*nowhere.*english_prose.txt"):
        load_domains(folder / "nowhere", seed=0)
    (folder / "spanish_prose.txt").unlink()
    with pytest.raises(GrokError, match="spanish_prose.txt is missing"):
        load_domains(folder, seed=0)


def test_a_file_that_is_not_utf8_text_is_refused_with_the_place(folder: Path) -> None:
    (folder / "french_prose.txt").write_bytes(b"voil\xe0\n" * 50)
    with pytest.raises(GrokError, match="french_prose.txt: byte 4 is not UTF-8"):
        load_domains(folder, seed=0)
    (folder / "french_prose.txt").write_bytes(b"voila\0\n" * 50)
    with pytest.raises(GrokError, match="french_prose.txt holds NUL"):
        load_domains(folder, seed=0)


def test_arithmetic_is_correct_and_the_same_for_the_same_seed() -> None:
    text = arithmetic(5, 20_000)
    assert text == arithmetic(5, 20_000)
    assert text != arithmetic(6, 20_000)
    lines = text.splitlines()
    for line in lines:
        question, answer = line.split(" = ")
        assert re.fullmatch(r"\d+( [-+*] \d+){1,2}", question)
        assert eval(question) == int(answer)
    for operator in (" + ", " - ", " * "):
        assert sum(operator in line for line in lines) > len(lines) / 20


def test_no_held_out_problem_nor_its_mirror_image_is_in_the_training_part() -> None:
    train, heldout = split_heldout(arithmetic(0, 60_000))
    seen = {line.split(" = ")[0] for line in train.splitlines()}
    questions = [line.split(" = ")[0] for line in heldout.splitlines()]
    assert len(questions) > 100
    assert len(set(questions)) == len(questions)
    for question in questions:
        assert question not in seen
        if "-" not in question:
            operator = "*" if "*" in question else "+"
            terms = question.split(f" {operator} ")
            assert f" {operator} ".join(reversed(terms)) not in seen


def test_python_source_is_whole_modules_without_tests_and_tables(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_a.py").write_text("assert 'a test'\n")
    (tmp_path / "encodings").mkdir()
    (tmp_path / "encodings" / "table.py").write_text("table = 'codes'\n")
    (tmp_path / "huge.py").write_text("x = 1\n" * 30_000)
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "tool.py").write_text("def tool():\n    return 1")
    (tmp_path / "heap.py").write_text("def heap():\n    return 2\n")
    text = python_source(stdlib=tmp_path)
    assert sorted(text.strip().split("\n\n")) == [
        "def heap():\n    return 2",
        "def tool():\n    return 1",
    ]


def test_python_source_stops_near_its_limit_and_is_the_same_every_time() -> None:
    text = python_source(50_000)
    assert 50_000 <= len(text) < 50_000 + 120_002
    assert text == python_source(50_000)
    ast.parse(text.replace("from __future__", "from __past__"))


def test_a_folder_without_python_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(GrokError, match=f"no Python source in {re.escape(str(tmp_path))}"):
        python_source(stdlib=tmp_path)


def test_cached_streams_are_reused_only_for_the_same_text_and_tokenizer(folder: Path) -> None:
    domains = load_domains(folder, seed=0)
    cache = folder / "tokens.npz"
    tokenizer = CharacterTokenizer()
    first = encode_domains(domains, tokenizer, cache)
    assert tokenizer.calls == 14
    again = encode_domains(domains, tokenizer, cache)
    assert tokenizer.calls == 14
    for name in DOMAINS:
        assert first[name].train.dtype == again[name].train.dtype == np.int32
        np.testing.assert_array_equal(first[name].train, again[name].train)
        np.testing.assert_array_equal(first[name].heldout, again[name].heldout)

    encode_domains(load_domains(folder, seed=1), tokenizer, cache)
    assert tokenizer.calls == 28
    other = CharacterTokenizer(b"another")
    encode_domains(load_domains(folder, seed=1), other, cache)
    assert other.calls == 14


def test_a_damaged_cache_is_made_again(folder: Path) -> None:
    domains = load_domains(folder, seed=0)
    cache = folder / "tokens.npz"
    encode_domains(domains, CharacterTokenizer(), cache)
    cache.write_bytes(cache.read_bytes()[:100])
    tokenizer = CharacterTokenizer()
    encode_domains(domains, tokenizer, cache)
    assert tokenizer.calls == 14
    assert [path.name for path in folder.glob("*.npz")] == ["tokens.npz"]


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    encoded = streams(dict.fromkeys(DOMAINS, 500))
    straight = Batches(encoded, 16, 32, seed=1)
    for step in range(5):
        straight.batch(step)
    resumed = Batches(encoded, 16, 32, seed=1)
    for left, right in zip(straight.batch(5), resumed.batch(5), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(straight.batch(5)[0], straight.batch(6)[0])
    assert not np.array_equal(straight.batch(5)[0], Batches(encoded, 16, 32, 2).batch(5)[0])


def test_every_row_is_a_window_of_its_domain_and_every_place_can_be_drawn() -> None:
    encoded = streams({"a": 9, "b": 30})
    batches = Batches(encoded, 8, 7, seed=0, weights={"a": 1, "b": 1})
    starts: dict[int, set[int]] = {0: set(), 1: set()}
    for step in range(200):
        tokens, domain = batches.batch(step)
        assert tokens.shape == (8, 8) and tokens.dtype == domain.dtype == np.int32
        assert (np.diff(tokens, axis=1) == 1).all()
        np.testing.assert_array_equal(tokens[:, 0] // 1000 - 1, domain)
        for row, index in zip(tokens, domain, strict=True):
            starts[int(index)].add(int(row[0]) % 1000)
    assert starts == {0: {0, 1}, 1: set(range(23))}


@pytest.mark.parametrize("size", [7, 8, 16, 33])
def test_every_batch_holds_every_domain_and_the_shares_are_the_weights(size: int) -> None:
    batches = Batches(streams(dict.fromkeys(DOMAINS, 100)), size, 8, seed=0)
    counts = np.array([np.bincount(batches.batch(step)[1], minlength=7) for step in range(400)])
    assert counts.sum(axis=1).tolist() == [size] * 400
    assert counts.min() >= 1
    if size >= 16:  # room for one each and the weights
        weights = np.array([corpus.WEIGHTS[name] for name in DOMAINS])
        np.testing.assert_allclose(counts.mean(axis=0) / size, weights, atol=0.015)


def test_a_batch_smaller_than_the_number_of_domains_follows_the_weights_over_time() -> None:
    batches = Batches(streams({"a": 50, "b": 50, "c": 50}), 2, 8, 0, {"a": 2, "b": 1, "c": 1})
    drawn = np.concatenate([batches.batch(step)[1] for step in range(1000)])
    np.testing.assert_allclose(np.bincount(drawn) / 2000, [0.5, 0.25, 0.25], atol=0.03)


def test_the_default_weights_are_shares_of_all_domains() -> None:
    assert tuple(corpus.WEIGHTS) == DOMAINS
    assert sum(corpus.WEIGHTS.values()) == pytest.approx(1)


def test_streams_that_cannot_be_sampled_are_refused() -> None:
    with pytest.raises(GrokError, match="Domain a has 8 training tokens, fewer than a row of 9"):
        Batches(streams({"a": 8}), 1, 8, 0, {"a": 1})
    with pytest.raises(GrokError, match="No positive weight for b"):
        Batches(streams({"a": 20, "b": 20}), 1, 8, 0, {"a": 1})
    padded = {"a": EncodedDomain(np.zeros(20, np.int32), np.ones(3, np.int32))}
    with pytest.raises(GrokError, match="Domain a holds token 0"):
        Batches(padded, 1, 8, 0, {"a": 1})


def test_a_file_that_is_not_the_known_one_is_not_taken_for_the_known_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "spanish_prose.txt"
    assert load_domains(folder, 0)["spanish_prose"].source.startswith("spanish_prose.txt")
    known = hashlib.sha256(file.read_bytes()).hexdigest()
    works = {**corpus._WORKS, "spanish_prose": (known, "a known work")}
    monkeypatch.setattr(corpus, "_WORKS", works)
    assert load_domains(folder, 0)["spanish_prose"].source == "a known work"


def test_a_negative_seed_is_refused(folder: Path) -> None:
    with pytest.raises(GrokError, match="seed is -1; expected a whole number of at least 0"):
        load_domains(folder, seed=-1)
