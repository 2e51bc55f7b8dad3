"""Routers from GGUF files: the same as from the safetensors that they were made of."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from lens.errors import LensError
from lens.extract.__main__ import main
from lens.extract.gguf import extract_gguf
from lens.extract.safetensors import extract_safetensors
from lens.routers.router_set import load_routers

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
FAMILIES = {"qwen3_moe": "qwen3moe", "minimax_m2": "minimax-m2", "deepseek_v3_fp8": "deepseek2"}


def write(file, routers, architecture="qwen3moe", *, layers=None, quantized=False, **changed):
    """A GGUF file with the routers of a set, an expert tensor, and a vocabulary."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("made")
    writer.add_expert_count(changed.get("count", routers.n_experts))
    writer.add_expert_used_count(routers.top_k)
    kinds = gguf.ExpertGatingFuncType
    writer.add_expert_gating_func(kinds.SIGMOID if routers.score == "sigmoid" else kinds.SOFTMAX)
    writer.add_token_list([f"piece{i}" for i in range(50)])
    for row, layer in enumerate(routers.layer_ids):
        if layers is not None and row not in layers:
            continue
        router = np.ascontiguousarray(routers.routers[row].T)
        if quantized:
            router = gguf.quants.quantize(router[:, :32], gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(
                f"blk.{layer}.ffn_gate_inp.weight",
                router,
                raw_dtype=gguf.GGMLQuantizationType.Q8_0,
            )
        else:
            writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", routers.norm_scales[row])
        if routers.biases is not None:
            writer.add_tensor(f"blk.{layer}.exp_probs_b.bias", routers.biases[row])
        writer.add_tensor(f"blk.{layer}.ffn_up_exps.weight", np.zeros((2, 64, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def routers():
    return extract_safetensors(DATA / "qwen3_moe")[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_those_of_the_safetensors(tmp_path, name):
    wanted, _ = extract_safetensors(DATA / name)
    file = write(tmp_path / "model.gguf", wanted, FAMILIES[name])
    found, n_bytes = extract_gguf(file)
    assert (found.sha256, found.score, found.top_k) == (wanted.sha256, wanted.score, wanted.top_k)
    np.testing.assert_array_equal(found.layer_ids, wanted.layer_ids)
    if wanted.biases is not None:
        np.testing.assert_array_equal(found.biases, wanted.biases)
    size = wanted.routers.nbytes + wanted.norm_scales.nbytes
    assert n_bytes == size + (0 if wanted.biases is None else wanted.biases.nbytes)
    assert found.source.startswith("made (gguf")


def test_the_parts_of_a_file_are_one_model(tmp_path, routers):
    for part, layers in ((1, [0, 1]), (2, [2])):
        write(tmp_path / f"m-{part:05}-of-00002.gguf", routers, layers=layers)
    found, _ = extract_gguf(tmp_path / "m-00002-of-00002.gguf")
    assert found.sha256 == routers.sha256
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    with pytest.raises(LensError, match="m-00001-of-00002.gguf: there is no such file"):
        extract_gguf(tmp_path / "m-00002-of-00002.gguf")


def test_the_command_writes_a_router_file(tmp_path, routers, capsys):
    file = write(tmp_path / "model.gguf", routers)
    output = tmp_path / "routers.npz"
    assert main(["--gguf", str(file), "--output", str(output)]) == 0
    assert (
        load_routers(output).sha256 == routers.sha256 and routers.sha256 in capsys.readouterr().out
    )


def test_what_contradicts_itself_or_is_quantized_is_refused(tmp_path, routers):
    with pytest.raises(LensError, match="expert_count is 11 and routers have 10 rows"):
        extract_gguf(write(tmp_path / "a.gguf", routers, count=11))
    with pytest.raises(LensError, match="stored as Q8_0; expected F32 or F16"):
        extract_gguf(write(tmp_path / "b.gguf", routers, quantized=True))
    with pytest.raises(LensError, match="0 layers have a router"):
        extract_gguf(write(tmp_path / "c.gguf", routers, layers=[]))


@pytest.mark.parametrize("where", [0, 4, 8, 16, 24, 40, 90, 400])
def test_a_damaged_or_cut_header_is_refused_at_once(tmp_path, routers, where):
    file = write(tmp_path / "model.gguf", routers)
    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:where])
    with pytest.raises(LensError, match="not a readable GGUF file|a router"):
        extract_gguf(tmp_path / "cut.gguf")
    huge = content[:where] + b"\xff" * 8 + content[where + 8 :]
    (tmp_path / "huge.gguf").write_bytes(huge)
    try:
        extract_gguf(tmp_path / "huge.gguf")
    except LensError as error:
        assert "gguf" in str(error)
