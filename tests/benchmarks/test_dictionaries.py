"""The benchmark of dictionaries runs, at sizes that say nothing."""

from __future__ import annotations

import pytest

from benchmarks import dictionaries
from benchmarks.dictionaries import SMALL, of_worker, run_of, steps
from grok.dictionaries.training.plan import step_operations

pytestmark = pytest.mark.benchmarks


def test_a_step_counts_five_products_of_each_block() -> None:
    design, settings = run_of(SMALL, "clt", 64)
    assert step_operations(design) == 2 * 16 * 64 * (2 * 2 + 3 * 3)
    assert settings.training.anneal == 0 and settings.training.k_start == settings.activation.k


def test_every_kind_has_a_dense_step_with_an_aim_and_the_one_taken_here_with_a_limit() -> None:
    for kind in SMALL.kinds:
        rows, seconds = steps(SMALL, kind, 64, 1e9)
        assert seconds > 0 and rows[0].aim == dictionaries.AIM and rows[1].limit == 1.0
        assert "tokens/s" in rows[0].note and rows[1].note


def test_meshes_are_compared_with_one_device_in_a_process_that_has_eight() -> None:
    rows = of_worker("meshes", small=True)
    assert [row["name"].split(" on ")[1] for row in rows] == [
        "1 x 8 devices", "2 x 4 devices", "8 x 1 devices",
    ]  # fmt: skip
    assert all(row["value"] > 0 for row in rows)
