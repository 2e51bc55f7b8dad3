"""The benchmark of products counts what it runs."""

from __future__ import annotations

import pytest

from benchmarks import products

pytestmark = pytest.mark.benchmarks


def test_seconds_are_those_of_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "COPIES", 5 * 2 * 256 * 128)
    made = []
    monkeypatch.setattr(products, "_each", lambda run, x, own: made.append(len(own)))

    def timed(known: dict[str, products.Run], spent: float) -> dict[str, float]:
        for run in known.values():
            run()
        return {name: 1.0 + (name != "plain") for name in known}

    monkeypatch.setattr(products, "seconds_of", timed)
    rates = 2 * 256 * 128 / 0.1, 1e30  # reading the weights once takes a tenth of a second
    row = products.compared("bfloat16 turned", "float32", 8, (256, 128), rates, 0.0)
    assert set(made) == {5}
    assert row.value == 1 and row.note.startswith("200.00 ms, 50% of float32's limit; plain 1.00")
