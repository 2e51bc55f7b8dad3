"""The benchmarks' command, its tables, and the dispatches that it compares."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import science
from benchmarks.__main__ import CLAIMS, main, module_of
from benchmarks.live import every_slot, every_token, operations
from benchmarks.machine import machine
from benchmarks.rows import Row, exit_code, table
from grok.architectures.moe import Experts, run_selected
from grok.config import GROK_1

pytestmark = pytest.mark.benchmarks


def test_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CLAIMS)
    assert all(callable(module_of(name).main) for name in CLAIMS)


def test_an_unknown_name_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["extraction", "sorting"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        "there is no 'sorting'; expected one of extraction, measures, science, live, features, app"
        in shown.err
    )


def test_every_measure_of_the_science_is_timed_cold_and_warm_beside_the_obvious_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(science, "WARM_SECONDS", 0.0)
    assert science.worker((6, 40, 4)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len({row["name"] for row in rows}) > 20
    assert all(row["cold"] > 0 and row["warm"] > 0 and row["peak"] >= 0 for row in rows)
    assert sum(row["obvious"] is not None for row in rows) >= 10
    limited = {row["name"] for row in rows if row["limit"] is not None}
    assert len(limited) == len(science.NULL_METRICS) + 4 and "four questions" in limited
    assert "×" in science.line(next(row for row in rows if row["obvious"] is not None))


def test_a_broken_limit_fails_the_command_and_a_missed_aim_does_not() -> None:
    held = Row("a", 1.02, "", limit=1.02)
    broken = Row("b", 1.03, "", limit=1.02)
    missed = Row("c", 9, "s", aim=5)
    assert exit_code([held, missed]) == 0
    assert exit_code([held, broken]) == 1
    assert exit_code([Row("d", float("nan"), "s", limit=5)]) == 1
    shown = table([held, broken, missed]).splitlines()
    assert [line.endswith("NOT HELD") for line in shown] == [False, True, True]


def test_the_machine_is_stated_with_its_load_and_versions() -> None:
    text = machine()
    assert (
        "cores" in text and "GiB" in text and "load" in text and f"numpy {np.__version__}" in text
    )


@pytest.mark.parametrize("all_experts", [every_slot, every_token])
def test_computing_all_experts_gives_what_the_selected_give(all_experts) -> None:
    rng = np.random.default_rng(0)
    n, d, f, e, k = 12, 8, 16, 5, 2

    def weights(*shape: int) -> jnp.ndarray:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    x = weights(n, d)
    experts = jnp.asarray([rng.choice(e, k, replace=False) for _ in range(n)], jnp.int32)
    gates = jnp.asarray(rng.uniform(0.1, 0.5, (n, k)), jnp.float32)
    own = Experts(weights(e, d, f), weights(e, d, f), weights(e, f, d))
    np.testing.assert_allclose(
        all_experts(x, experts, gates, own),
        run_selected(x, experts, gates, own),
        rtol=1e-4,
        atol=1e-4,
    )


def test_operations_of_one_token_are_two_for_each_active_weight_and_its_own_score() -> None:
    attention = 4 * GROK_1.n_layers * GROK_1.n_heads * GROK_1.d_head
    assert operations(GROK_1, 1) == 2 * GROK_1.n_parameters(active=True) + attention
