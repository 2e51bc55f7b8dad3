"""The order of tokens: each once an epoch, and a function of seed and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from grok.dictionaries.training.windows import Order, cut, evenly
from grok.errors import GrokError

STREAMS = {"a": np.arange(1, 96), "b": np.arange(200, 230), "c": np.zeros(0, int)}


@pytest.mark.parametrize("skipped", [0, 1])
def test_every_token_that_counts_comes_once_an_epoch(skipped):
    windows = cut(STREAMS, 8)
    order = Order(windows.lengths, skipped, 50, seed=4)
    per_epoch = int(np.maximum(windows.lengths - skipped, 0).sum())
    blocks = 2 * per_epoch // 50 + 1
    seen = []
    for block in range(blocks):
        places, mixed = order.places(block), order.mixed(block)
        assert len(places.window) == 50 and sorted(mixed) == list(range(50))
        seen += list(zip(places.window.tolist(), places.position.tolist(), strict=True))
    epochs = [seen[:per_epoch], seen[per_epoch : 2 * per_epoch]]
    for epoch in epochs:
        assert Counter(epoch).most_common(1)[0][1] == 1
        found = sorted(int(windows.tokens[w][p]) for w, p in epoch)
        whole = [t for w in windows.tokens for t in w[skipped:].tolist()]
        assert found == sorted(whole)
    assert epochs[0] != epochs[1]


def test_another_seed_is_another_order():
    windows = cut(STREAMS, 8)
    a, b = (Order(windows.lengths, 0, 60, seed).places(0) for seed in (0, 1))
    assert not np.array_equal(a.window, b.window)


def test_windows_know_their_text():
    windows = cut(STREAMS, 32)
    assert windows.names == ("a", "b", "c")
    assert windows.labels.tolist() == [0, 0, 0, 1] and windows.lengths.tolist() == [32, 32, 31, 30]
    assert windows.sha256() != cut(STREAMS, 16).sha256()


def test_text_without_tokens_is_refused():
    with pytest.raises(GrokError, match="no tokens"):
        cut({"c": STREAMS["c"]}, 8)
    with pytest.raises(GrokError, match="No token of the text counts"):
        Order(np.array([1, 1]), 1, 10, 0)


def test_some_of_many_are_spread_over_all_of_them():
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    for total in (1, 2, 7, 100):
        for n in (0, 1, 2, total - 1, total, 3 * total):
            found = evenly(total, n)
            assert len(found) == min(n, total) and (np.diff(found) >= 1).all()
            assert n < 2 or (found[0], found[-1]) == (0, total - 1)
