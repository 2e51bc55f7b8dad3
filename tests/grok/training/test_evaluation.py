from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from grok.errors import GrokError
from grok.training.corpus import EncodedDomain
from grok.training.evaluation import (
    Measurement,
    Windows,
    domain_information,
    domain_losses,
    evaluation_summary,
    expert_load,
    heldout_windows,
    measure,
    mutual_information,
    token_losses,
    unigram_log_probs,
    unigram_nll,
)


def encoded(heldout: dict[str, int], vocab: int = 50, seed: int = 0) -> dict[str, EncodedDomain]:
    rng = np.random.default_rng(seed)
    return {
        name: EncodedDomain(
            rng.integers(1, vocab, 300).astype(np.int32),
            rng.integers(1, vocab, length).astype(np.int32),
        )
        for name, length in heldout.items()
    }


def windows_of(domain: list[int], length: int = 4, names: str = "abc") -> Windows:
    rows = len(domain)
    return Windows(
        np.ones((rows, length + 1), np.int32),
        np.array(domain, np.int32),
        np.ones((rows, length), bool),
        tuple(names),
    )


@pytest.mark.parametrize("length", [9, 16, 17, 18, 23, 24, 25, 100])
def test_every_heldout_token_but_the_first_is_counted_once_as_a_target(length: int) -> None:
    streams = {"a": EncodedDomain(np.ones(9, np.int32), np.arange(1, length + 1, dtype=np.int32))}
    windows = heldout_windows(streams, 8)
    assert sorted(windows.targets[windows.counted]) == list(range(2, length + 1))
    assert (windows.targets == windows.inputs + 1).all()


def test_limited_windows_are_spread_over_the_text() -> None:
    windows = heldout_windows(encoded({"a": 400, "b": 30}), 8, limit=5)
    everything = heldout_windows(encoded({"a": 400, "b": 30}), 8)
    assert np.bincount(windows.domain).tolist() == [5, 4]
    np.testing.assert_array_equal(windows.tokens[0], everything.tokens[0])
    np.testing.assert_array_equal(windows.tokens[4], everything.tokens[49])


def test_a_heldout_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(GrokError, match="Domain b has 8 held-out tokens, fewer than .* of 9"):
        heldout_windows(encoded({"a": 20, "b": 8}), 8)


def test_uniform_logits_cost_the_log_of_the_vocabulary_whatever_their_level() -> None:
    targets = np.array([[0, 3], [6, 2]])
    for level in (0.0, 1e4, -1e4):
        np.testing.assert_allclose(
            token_losses(np.full((2, 2, 7), level), targets), np.log(7), rtol=1e-6
        )


def test_token_losses_agree_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 11)) * 4
    targets = rng.integers(11, size=(3, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
    np.testing.assert_allclose(token_losses(logits, targets), expected, atol=1e-5)


def test_measure_calls_the_model_with_one_shape_and_keeps_rows_in_place() -> None:
    windows = heldout_windows(encoded({"a": 90, "b": 60}), 8)
    shapes = set()

    def forward(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes.add(tokens.shape)
        logits = np.zeros((*tokens.shape, 50))
        np.put_along_axis(logits, tokens[..., None], 3.0, axis=-1)
        first, second = tokens % 8, (tokens + 1) % 8
        pair = np.stack([first, second], axis=-1)
        return logits, np.stack([pair, pair[..., ::-1]])

    measured = measure(forward, windows, batch_size=6)
    assert len(windows.tokens) % 6 != 0
    assert shapes == {(6, 8)}
    np.testing.assert_array_equal(measured.experts[0, ..., 0], windows.inputs % 8)
    np.testing.assert_array_equal(measured.experts[1, ..., 1], windows.inputs % 8)
    same = windows.inputs == windows.targets
    np.testing.assert_allclose(
        measured.nll, np.log(49 + np.exp(3)) - np.where(same, 3, 0), rtol=1e-6
    )


def test_the_unigram_baseline_is_the_smoothed_frequency_of_training_tokens() -> None:
    log_p = unigram_log_probs(np.array([1, 1, 1, 2]), 4)
    np.testing.assert_allclose(np.exp(log_p), np.array([1, 4, 2, 1]) / 8)


def test_unigram_baselines_never_see_heldout_counts_and_the_one_told_the_domain_is_its_own() -> (
    None
):
    streams = {
        "a": EncodedDomain(np.full(10, 1, np.int32), np.array([2, 2, 2], np.int32)),
        "b": EncodedDomain(np.full(30, 2, np.int32), np.array([2, 2, 2], np.int32)),
    }
    windows = heldout_windows(streams, 2)
    own = unigram_nll(streams, windows, 4, pooled=False)
    np.testing.assert_allclose(np.exp(-own), [[1 / 14] * 2, [31 / 34] * 2])
    pooled = unigram_nll(streams, windows, 4, pooled=True)
    np.testing.assert_allclose(np.exp(-pooled), 31 / 44)


def test_losses_weigh_counted_tokens_alike_and_bits_are_over_bytes() -> None:
    windows = Windows(
        np.array([[1, 2, 2], [1, 3, 3], [1, 3, 3]], np.int32),
        np.array([0, 1, 1], np.int32),
        np.array([[True, True], [True, True], [False, True]]),
        ("a", "b"),
    )
    nll = np.array([[1.0, 3.0], [5.0, 5.0], [1e9, 8.0]])
    losses = domain_losses(nll, windows, np.array([0, 1, 2, 4]))
    assert losses["domains"]["a"]["nats_per_token"] == 2
    assert losses["domains"]["b"]["nats_per_token"] == 6
    assert losses["overall"]["nats_per_token"] == pytest.approx(22 / 5)
    assert losses["domains"]["a"]["bits_per_byte"] == pytest.approx(4 / np.log(2) / 4)
    assert losses["overall"]["bits_per_byte"] == pytest.approx(22 / np.log(2) / 16)
    assert losses["domains"]["b"]["tokens"] == 3


def test_token_bytes_add_up_to_the_bytes_of_the_text(tmp_path) -> None:
    from grok.training.evaluation import token_bytes
    from grok.training.vocabulary import train_tokenizer

    text = "".join(f"L'été {n}:\n    il s'en va ☃ là-bas\t{n * n}\n" for n in range(200))
    tokenizer = train_tokenizer({"a": text}, tmp_path / "m", vocab_size=325)
    lengths = token_bytes(tokenizer)
    assert lengths[:4].tolist() == [0, 0, 0, 0]
    for sample in (text, text + "日本 \0"):  # one byte more: the dummy space before the text
        assert lengths[tokenizer.encode(sample)].sum() == len(sample.encode()) + 1


def test_load_is_the_share_of_assignments_of_counted_tokens() -> None:
    experts = np.array([[[[0, 1], [0, 2], [3, 3]]]])
    load = expert_load(experts, np.array([[True, True, False]]), 4)
    np.testing.assert_allclose(load, [[0.5, 0.25, 0.25, 0.0]])


def test_mutual_information_agrees_with_an_independent_implementation() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(5, size=2000)
    b = np.where(rng.random(2000) < 0.3, a, rng.integers(8, size=2000))
    joint = np.zeros((5, 8))
    np.add.at(joint, (a, b), 1)
    assert mutual_information(joint) == pytest.approx(mutual_info_score(a, b), rel=1e-10)


def test_mutual_information_of_a_copy_is_the_entropy_and_of_a_product_is_zero() -> None:
    counts = np.array([3.0, 5.0, 0.0, 8.0])
    p = counts[counts > 0] / 16
    assert mutual_information(np.diag(counts)) == pytest.approx(-(p * np.log(p)).sum())
    assert mutual_information(np.outer(counts, [1.0, 7.0])) == pytest.approx(0, abs=1e-15)


def test_domain_information_counts_all_choices_or_the_first_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(2)
    windows = windows_of([0, 0, 1, 1, 2, 2], length=50)
    windows.counted[1, :20] = False
    experts = rng.integers(4, size=(2, 6, 50, 2))
    experts[1, :, :, 0] = windows.domain[:, None]
    row, position = np.nonzero(windows.counted)
    labels = windows.domain[row]
    every = domain_information(experts, windows, 4, draws=10)
    first = domain_information(experts, windows, 4, draws=10, first_choice=True)
    for layer in range(2):
        chosen = experts[layer, row, position]
        assert every.nats[layer] == pytest.approx(
            mutual_info_score(np.repeat(labels, 2), chosen.ravel())
        )
        assert first.nats[layer] == pytest.approx(mutual_info_score(labels, chosen[:, 0]))
    assert first.nats[1] == pytest.approx(first.domain_entropy)


def test_the_null_moves_whole_windows_so_runs_of_tokens_do_not_look_like_specialisation() -> None:
    # Every window sticks to one expert at random: large plug-in information, none of it real.
    rng = np.random.default_rng(3)
    windows = windows_of([0] * 10 + [1] * 10 + [2] * 10, length=20)
    own = rng.integers(8, size=(60, 30, 1, 1))  # 60 layers: 60 repeats of the experiment
    found = domain_information(np.broadcast_to(own, (60, 30, 20, 1)), windows, 8, draws=100)
    independent_bias = 2 * 7 / (2 * 600)
    assert found.nats.mean() > 10 * independent_bias
    assert found.null_mean.mean() == pytest.approx(found.nats.mean(), rel=0.05)
    assert 0.35 < found.p_value.mean() < 0.65
    assert (found.p_value < 0.05).mean() < 0.15


def test_a_planted_specialisation_stands_out_of_its_null() -> None:
    rng = np.random.default_rng(4)
    windows = windows_of([0] * 10 + [1] * 10 + [2] * 10, length=100)
    experts = rng.integers(8, size=(2, 30, 100, 2))
    experts[1, ..., 0] = windows.domain[:, None]
    found = domain_information(experts, windows, 8)
    assert found.p_value[1] == pytest.approx(1 / 201)
    assert found.nats[1] > 4 * found.null_high[1]
    assert found.nats[0] < 0.02
    again = domain_information(experts, windows, 8)
    np.testing.assert_array_equal(found.null_mean, again.null_mean)


def test_the_summary_compares_int8_with_float_and_survives_json() -> None:
    streams = encoded({"a": 200, "b": 120})
    windows = heldout_windows(streams, 16)
    rng = np.random.default_rng(5)
    shape = windows.inputs.shape
    experts = rng.integers(8, size=(3, *shape, 2)).astype(np.int16)
    measured = {
        "float": Measurement(np.full(shape, 2.0), experts[::-1]),
        "int8": Measurement(np.full(shape, 2.01), experts),
    }
    summary = evaluation_summary(measured, streams, windows, np.ones(50, int), 8, draws=20)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["int8_over_float"] == pytest.approx(1.005)
    assert set(summary["loss"]) == {"float", "int8", "unigram", "unigram_of_domain"}
    assert summary["tokens"] == 199 + 119
    load = expert_load(experts, windows.counted, 8)
    np.testing.assert_allclose(summary["expert_load"]["share"], load)
    assert summary["expert_load"]["smallest"] == load.min()
    assert len(summary["domain_information"]["first_choice"]["nats"]) == 3
