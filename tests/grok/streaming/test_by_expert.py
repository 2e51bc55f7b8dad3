"""Experts read one by one: what is read, what stays in memory, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import time
import weakref
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import grok
from grok import run
from grok.architectures.families import open_checkpoint
from grok.errors import CheckpointError, ConfigError, DeviceError
from grok.streaming.by_expert import layers
from grok.streaming.by_expert.cache import ExpertCache
from grok.streaming.by_expert.memory import ExpertSizes
from grok.streaming.by_expert.places import Places
from grok.streaming.read_ahead import ReadAhead

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
BUDGET = 2_500_000_000
TOKEN = np.array([5], np.int32)


def streamed(folder, budget=BUDGET):
    return grok.load(folder, mode="streamed", dtype="float32", memory_budget=budget)


@pytest.fixture
def model():
    return streamed(DATA / "qwen3_moe")


def expert_bytes(model):
    c = model.config
    return 3 * c.d_model * c.d_ff * 4


def test_one_token_reads_the_fixed_parts_and_its_own_experts(model):
    found = model.run_one(TOKEN)
    assert found.experts.shape[-1] == model.config.top_k
    figures = model.last_pass
    assert [(one.hits, one.misses) for one in figures] == [(0, 3)] * 3
    fixed = {one.bytes_read - 3 * expert_bytes(model) for one in figures}
    assert len(fixed) == 1 and 0 < fixed.pop()


def stored_bytes(layer, experts):
    """Of a layer's fixed tensors and of some experts' in the file."""
    found = 0
    for name, tensor in load_file(DATA / "qwen3_moe" / "model.safetensors").items():
        if name.startswith(f"model.layers.{layer}."):
            own = name.partition(".experts.")[2]
            found += tensor.nbytes if not own or int(own.split(".")[0]) in experts else 0
    return found


@pytest.mark.parametrize("n_tokens", [1, 2, 33])
def test_bytes_read_are_those_of_what_was_chosen_and_not_held(model, n_tokens):
    held = [set(), set(), set()]
    for first in (5, 40):
        found = model.run_one(np.arange(first, first + n_tokens, dtype=np.int32))
        for one in model.last_pass:
            chosen = set(found.experts[one.layer, 0, :n_tokens].ravel().tolist())
            new = chosen - held[one.layer]
            fixed = stored_bytes(one.layer, []) if held[one.layer] else 0  # read once
            assert one.bytes_read == stored_bytes(one.layer, new) - fixed
            assert (one.hits, one.misses) == (len(chosen) - len(new), len(new))
            held[one.layer] |= chosen


def test_the_next_expert_is_read_while_one_is_computed(monkeypatch, model):
    readers, compute = [], layers._expert_rows

    class Seen(ReadAhead):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            readers.append(self)

    def waiting(*args):
        wanted = stored_bytes(0, []) + min(3, len(calls) + 2) * expert_bytes(model)
        calls.append(wanted)
        until = time.monotonic() + 30
        while readers[0].bytes_read < wanted and time.monotonic() < until:
            time.sleep(0.001)
        assert readers[0].bytes_read >= wanted
        return compute(*args)

    calls = []
    monkeypatch.setattr(layers, "ReadAhead", Seen)
    monkeypatch.setattr(layers, "_expert_rows", waiting)
    model.run_one(TOKEN)
    assert len(calls) == 9


@pytest.fixture
def brought(monkeypatch):
    """Where weights were put that were read, and how many bytes of them are in use."""
    places, sizes, bring = [], {}, Places.room

    def recorded(self, shape, dtype):
        own = bring(self, shape, dtype)
        places.append(own.ctypes.data)
        sizes[len(places)] = own.nbytes
        weakref.finalize(own if own.base is None else own.base, sizes.pop, len(places))
        return own

    monkeypatch.setattr(Places, "room", recorded)
    return places, sizes


def test_weights_are_computed_with_and_kept_where_they_were_put_when_read(brought, model):
    chosen = model.run_one(TOKEN).experts[1, 0, 0]
    held = [jax.tree.leaves(model.engine.layers.cache.get((1, int(e)))) for e in chosen]
    assert len(held) == 3 and all(held)
    assert {leaf.unsafe_buffer_pointer() for leaves in held for leaf in leaves} <= set(brought[0])


def test_experts_that_are_not_kept_are_in_memory_a_few_at_a_time(monkeypatch, brought, model):
    sizes, most = brought[1], []
    weights = layers._Walk._weights

    def counted(self, layer, expert):
        found = weights(self, layer, expert)
        most.append(sum(sizes.values()))
        return found

    monkeypatch.setattr(ExpertCache, "put", lambda *_, **__: None)
    monkeypatch.setattr(layers._Walk, "_weights", counted)
    model.run_one(np.arange(1, 65, dtype=np.int32))
    fixed = stored_bytes(0, [])
    assert len(most) > 3 * 8  # of ten experts each, nearly all were used
    # One more may be on its way out.
    assert max(most) <= 2 * fixed + (layers.RUNNING + 2) * expert_bytes(model)


def test_rows_are_filled_up_by_less_than_a_quarter_to_few_shapes(monkeypatch, model):
    shapes, run = set(), layers._expert_pass
    own = []

    def seen(form, x, weights):
        shapes.add(len(x))
        return run(form, x, weights)

    rows = layers._expert_rows

    def given(form, x, weights):
        found = rows(form, x, weights)
        own.append((len(x), len(found)))
        return found

    monkeypatch.setattr(layers, "_expert_pass", seen)
    monkeypatch.setattr(layers, "_expert_rows", given)
    for n in (7, 100, 200):
        model.run_one(np.arange(1, n + 1, dtype=np.int32))
    assert max(n for n, _ in own) > layers.MANY
    for n, filled in own:
        assert n <= filled < (2 * n if n <= layers.MANY else 1.25 * n)
    assert len(shapes) < len({n for n, _ in own}) / 2
    doubled = Counter((n - 1).bit_length() for n in shapes)
    assert all(n <= (4 if 2**bits > layers.MANY else 1) for bits, n in doubled.items())


def test_the_command_says_which_experts_were_in_memory(capsys):
    asked = ["--tokens", "5,6", "--max-new-tokens", "2", "--dtype", "float32"]
    budget = ["--mode", "streamed", "--memory-budget", "2.5"]
    assert run.main(["--checkpoint", str(DATA / "qwen3_moe"), *asked, *budget]) == 0
    said = re.search(r"last pass: (\d+) were in memory, (\d+) were read", capsys.readouterr().err)
    assert said and int(said[1]) + int(said[2]) == 9


def test_what_was_read_is_not_read_again_while_there_is_room(model):
    first = model.run_one(TOKEN)
    again = model.run_one(TOKEN)
    assert [(one.hits, one.misses, one.bytes_read) for one in model.last_pass] == [(3, 0, 0)] * 3
    np.testing.assert_array_equal(first.logits, again.logits)


def test_what_every_token_needs_is_kept_before_experts(monkeypatch, model):
    fixed, experts = stored_bytes(0, []), 3 * expert_bytes(model)
    first, read = model.run_one(TOKEN), {}
    for room in (0, 2 * fixed + 1, 3 * fixed + expert_bytes(model)):
        sizes = ExpertSizes(3, room)
        monkeypatch.setattr(layers, "expert_sizes", lambda *_, sizes=sizes, **__: sizes)
        for _ in range(2):
            again = model.run_one(TOKEN)
            np.testing.assert_array_equal(first.logits, again.logits)
            kept = model.engine.layers
            assert kept.fixed.n_bytes + kept.cache.n_bytes <= room
        read[room] = sorted(one.bytes_read for one in model.last_pass)
    nothing, some, all_fixed = read.values()
    assert nothing == [fixed + experts] * 3
    assert some == [experts, experts, fixed + experts]
    assert all_fixed[-1] <= experts


def test_a_long_prompt_reads_ahead_all_that_is_not_held(model):
    tokens = np.arange(1, 34, dtype=np.int32)
    model.run_one(TOKEN)
    model.run_one(tokens)
    for one in model.last_pass:
        assert one.hits == 3 and one.hits + one.misses <= model.config.n_experts
    model.run_one(tokens)
    assert all(one.misses == 0 for one in model.last_pass)


def test_a_cache_lets_go_of_what_was_not_used_for_longest():
    one = np.zeros(10, np.uint8)
    cache = ExpertCache(20)
    cache.put((0, 0), one)
    cache.put((0, 1), one)
    assert cache.get((0, 0)) is not None
    cache.put((0, 2), one)
    assert (0, 0) in cache and (0, 1) not in cache and cache.n_bytes == 20
    cache.put((0, 3), one, evict=False)
    assert (0, 3) not in cache
    cache.put((0, 4), np.zeros(21, np.uint8))
    assert (0, 4) not in cache and (cache.hits, cache.misses) == (1, 0)
    assert cache.get((0, 1)) is None and cache.misses == 1


def test_a_budget_without_room_is_refused_with_the_smallest_that_works():
    with pytest.raises(DeviceError, match="the smallest that works is"):
        streamed(DATA / "qwen3_moe", 10_000_000)


# --- damage -------------------------------------------------------------------------------------


def copied(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(DATA / name, folder)
    return folder


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


GATE = "model.layers.1.mlp.gate.weight"
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.mark.parametrize("mode", ["resident", "streamed"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(GATE), "holds no tensor .*mlp.gate.weight"),
        (lambda t: t[GATE].__setitem__((0, 0), np.nan), "1 values are not finite"),
        (lambda t: t.update({EXPERT: t[EXPERT][:-1]}), r"shape \[19, 48\]; expected \[20, 48\]"),
        (lambda t: t.update({EXPERT: t[EXPERT].astype(np.int64)}), "dtype I64; expected one of"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, mode, change, says):
    folder = copied("qwen3_moe", tmp_path)
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=says):
        grok.load(folder, mode=mode, dtype="float32", memory_budget=BUDGET)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_code_in_a_folder_is_never_run(tmp_path):
    folder, mark = copied("qwen3_moe", tmp_path), tmp_path / "was run"
    (folder / "model.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({GATE: Trap(mark)}))
    file = folder / "config.json"
    own = {"auto_map": {"AutoModelForCausalLM": "model.Model"}, "trust_remote_code": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    open_checkpoint(folder).check_complete()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="tensors are in no file .* Complete the download"):
        grok.load(folder, mode="resident", dtype="float32")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "own"}))
    with pytest.raises(ConfigError, match="model_type: found 'own'; expected one of"):
        grok.load(folder, mode="resident", dtype="float32")
    assert not mark.exists()
    with (folder / "pytorch_model.bin").open("rb") as trap:
        pickle.load(trap)
    assert mark.exists()  # the trap works


def test_an_expert_that_is_damaged_is_refused_when_it_is_read(tmp_path):
    folder = copied("qwen3_moe", tmp_path)
    rewrite(folder, lambda t: t[EXPERT].__setitem__((0, 0), np.inf))
    model = streamed(folder)
    with pytest.raises(CheckpointError, match=f"{EXPERT}.*1 values are not finite"):
        model.run_one(np.arange(1, 34, dtype=np.int32))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "qwen9"}, "model_type: found 'qwen9'; expected one of"),
        ({"hidden_act": "relu"}, "hidden_act: found 'relu'; expected 'silu'"),
        ({"num_experts_per_tok": 11}, "11 experts a token of 10"),
        ({"num_experts": "many"}, "num_experts: found 'many'; expected a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: found 1000000000"),
        ({"rope_scaling": {"type": "dynamic"}}, "rotary embedding of type 'dynamic'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method: found 'awq'"),
        ({"eos_token_id": [10**6]}, "eos_token_id"),
        ({"rms_norm_eps": -1}, "rms_norm_eps: found -1; expected a number above 0"),
        ({"head_dim": None, "num_attention_heads": 10**6}, "num_attention_heads: found 1000000"),
    ],
)
def test_a_config_that_is_not_supported_or_lies_is_refused_by_name(tmp_path, change, says):
    folder = copied("qwen3_moe", tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=says):
        grok.load(folder, mode="resident", dtype="float32")


def test_scales_that_do_not_fit_are_refused(tmp_path):
    folder = copied("deepseek_v3_fp8", tmp_path)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["weight_block_size"] = [16, 32]
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="one for each block of 16 × 32"):
        grok.load(folder, mode="resident", dtype="float32")


def test_a_cache_that_is_made_smaller_lets_go_of_what_was_not_used_for_longest():
    cache = ExpertCache(30)
    for expert in range(3):
        cache.put((0, expert), np.zeros(10, np.int8))
    cache.get((0, 0))
    cache.resize(19)
    assert cache.n_bytes == 10 and (0, 0) in cache
    assert (0, 1) not in cache and (0, 2) not in cache
    cache.put((0, 1), np.zeros(10, np.int8), evict=False)
    assert (0, 1) not in cache  # there is no room for it
    cache.resize(20)
    cache.put((0, 1), np.zeros(10, np.int8), evict=False)
    assert cache.n_bytes == 20
