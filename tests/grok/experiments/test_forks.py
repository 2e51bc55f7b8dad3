"""Runs that share their first layers."""

from __future__ import annotations

import numpy as np

from grok.experiments.forks import ForkedRuns

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]


def test_batches_hold_every_run_once(tiny3):
    runs = ForkedRuns(tiny3, np.array(TOKENS), batch=8)
    for count in range(1, 40):
        batches = runs._batches(count)
        assert np.unique(np.concatenate(batches)).tolist() == list(range(count))
        assert {len(one) for one in batches} <= {2, 8}
        flat = np.concatenate(batches)
        assert flat[:count].tolist() == list(range(count))
