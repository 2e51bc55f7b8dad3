"""Plans of models whose experts are read one by one, beside what streaming reads and holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import grok
from grok import plan as command
from grok.architectures.families import architecture_of, open_checkpoint
from grok.errors import DeviceError
from grok.planning import machine
from grok.planning.costs import expert_bytes, expert_pass_work, layer_operations, read_layer_bytes
from grok.planning.machine import Rates
from grok.planning.modes import choose, most_rows, plan
from grok.streaming.by_expert.memory import largest_piece, smallest_expert_budget

FOLDER = Path(__file__).resolve().parents[2] / "data" / "huggingface" / "qwen2_moe"  # bfloat16
GB = 10**9
RATES = Rates(1e9, 4e9, 200e9, 23 * GB, "CPU, 2 cores", 23 * GB, resident_bytes_per_s=8e9)


@pytest.fixture(scope="module")
def architecture():
    return architecture_of(open_checkpoint(FOLDER))


def test_a_plan_says_what_streaming_reads(architecture):
    model = grok.load(FOLDER, mode="streamed", dtype="float32", memory_budget=3 * GB)
    model.run_one(np.array([5], np.int32))
    layers = [one.bytes_read for one in model.last_pass]
    *steps, head = expert_pass_work(architecture, 1)
    # Norms and routers are two bytes a value in this folder, where four are allowed for.
    assert sum(step.count * step.n_read for step in steps) == pytest.approx(sum(layers), rel=0.1)
    assert head.n_read == 2 * (architecture.config.vocab_size + 1) * architecture.config.d_model
    streamed = plan(architecture, RATES, n_tokens=1, memory_budget=3 * GB)[1]
    assert streamed.read_bytes_per_pass == sum(s.count * s.n_read for s in (*steps, head))
    assert [step.count for step in steps] == [3, 1]  # one of its layers is dense


def test_weights_that_stay_are_not_read_for_the_next_token(architecture):
    one, held = expert_pass_work(architecture, 1), expert_pass_work(architecture, 1, 1.0)
    chosen = architecture.config.top_k * expert_bytes(architecture)
    assert one[0].n_read - held[0].n_read == chosen
    *layers, head = expert_pass_work(architecture, 1, 1.0, 1.0)
    assert [step.n_read for step in layers] == [0, 0] and head.n_read > 0
    after = plan(architecture, RATES, n_tokens=64, memory_budget=3 * GB)[1]
    assert after.read_bytes_per_token == head.n_read


def test_many_tokens_read_whole_layers_and_few_their_own_experts(architecture):
    c, expert = architecture.config, expert_bytes(architecture)
    others = read_layer_bytes(architecture, 1) - c.top_k * expert
    assert read_layer_bytes(architecture, 2) == others + round(expert * 10 * (1 - 0.6**2))
    assert read_layer_bytes(architecture, 64) == others + c.n_experts * expert
    # Two operations a value, of which a bfloat16 one has two bytes.
    assert layer_operations(architecture, 1, 0) < others + c.top_k * expert


def test_memory_is_that_of_reading_by_expert(architecture):
    least = smallest_expert_budget(architecture, largest_piece(architecture))
    streamed = plan(architecture, RATES, memory_budget=least)[1]
    assert streamed.fits and streamed.smallest_bytes == least >= streamed.memory_bytes
    assert not plan(architecture, RATES, memory_budget=least - 1)[1].fits
    grok.load(FOLDER, mode="streamed", memory_budget=least)
    small = replace(RATES, device_bytes=100, memory_bytes=least)
    assert (
        "the chosen experts are read from disk"
        in choose(architecture, small, memory_budget=least).plans[1].why
    )
    with pytest.raises(DeviceError, match="streaming needs at least"):
        choose(architecture, small, memory_budget=least // 2)
    assert most_rows(architecture, least) > 1 > most_rows(architecture, least // 8)


def test_the_command_says_memory_bytes_and_time_of_both_ways(monkeypatch, capsys):
    monkeypatch.setattr(machine, "rates", lambda *_, **__: replace(RATES, resident_flops=1e11))
    assert command.main(["--checkpoint", str(FOLDER), "--json"]) == 0
    resident, streamed = json.loads(capsys.readouterr().out)["modes"]
    for mode in (resident, streamed):
        assert mode["memory_bytes"] > 0 and mode["seconds_per_pass"] > 0
    assert resident["read_bytes_per_pass"] == 0 < streamed["read_bytes_per_pass"]
