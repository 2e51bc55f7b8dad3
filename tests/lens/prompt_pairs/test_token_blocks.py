"""Blocks of neighbouring tokens: long enough for values that are alike, and no longer."""

from __future__ import annotations

import numpy as np
import pytest

from lens.prompt_pairs.token_blocks import block_sums, flipped_signs, token_blocks


def walks(n_texts: int, n_tokens: int, reach: float, seed: int = 0) -> np.ndarray:
    """Values without a mean that follow their neighbour [text, token]."""
    values = np.random.default_rng(seed).standard_normal((n_texts, n_tokens))
    values[:, 1:] *= np.sqrt(1 - reach**2)
    for t in range(1, n_tokens):
        values[:, t] += reach * values[:, t - 1]
    return values


def topics(n_texts: int, n_tokens: int, seed: int = 0) -> np.ndarray:
    """Values a quarter of whose variance stays for 50 tokens."""
    rng = np.random.default_rng(seed)
    kept = np.repeat(rng.standard_normal((n_texts, n_tokens // 50 + 2)), 50, axis=1)
    off = int(rng.integers(50))
    return 0.5 * kept[:, off : off + n_tokens] + 0.87 * rng.standard_normal((n_texts, n_tokens))


def called(values: np.ndarray, block: int | None = None, *, told: bool = True) -> float:
    """Share of texts whose mean is told from 0 at 5 %."""
    found = 0
    for seed, one in enumerate(values):
        blocks = token_blocks(one[None], block)
        sums = block_sums(one, blocks.length)
        signs, _ = flipped_signs(blocks.count, 299, seed)
        reached = np.count_nonzero(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12)
        p = (1 + reached) / (1 + len(signs))
        found += p <= 0.05 and not (told and blocks.too_few)
    return found / len(values)


@pytest.mark.parametrize("reach", [0.0, 0.5, 0.8, 0.9, 0.95])
def test_means_of_values_alike_are_called_as_seldom_as_they_should_be(reach):
    # Of 600 texts 5.0, 6.8, 6.0, 5.3, 7.8 %; chance of 200 around 6 %: up to 9.4 %.
    assert called(walks(200, 1024, reach)) <= 0.095


def test_blocks_of_eight_are_too_short_for_values_that_run_on():
    assert called(walks(200, 1024, 0.9), 8) > 0.18


def test_a_topic_that_is_kept_raises_false_alarms_of_which_longer_blocks_leave_less_than_half():
    values = topics(200, 1024)
    assert called(values) <= 0.22 < 0.3 <= called(values, 8)


def test_short_texts_of_values_alike_say_that_there_are_too_few():
    blocks = [token_blocks(one[None]) for one in walks(100, 96, 0.95)]
    assert np.mean([one.too_few for one in blocks]) >= 0.95
    assert max(one.length for one in blocks) == 16 and min(one.count for one in blocks) == 6


def test_a_mean_is_found_in_independent_values_as_with_blocks_of_eight():
    values = walks(100, 256, 0) + 0.2
    assert called(values) >= 0.75 and called(values) == pytest.approx(called(values, 8), abs=0.06)


def test_the_correlation_is_that_of_neighbours_without_its_bias():
    found = [token_blocks(one[None]).correlation for one in walks(300, 60, 0.6)]
    assert np.mean(found) == pytest.approx(0.6, abs=0.03)
    assert np.isnan(token_blocks(np.ones((1, 60))).correlation)
    assert token_blocks(np.ones((1, 60))).length == 8
