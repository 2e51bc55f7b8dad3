"""Models in safetensors files that do not fit, lie or promise too much: all are refused."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from grok.checkpoints.model_files import Counted, FolderFiles
from lens.errors import LensError
from lens.extract.safetensors import NPZ_OVERHEAD, extract_model, extract_safetensors
from lens.routers.router_set import save_routers
from tests.small_models import CONFIG, ROUTER, D, E, model, numbers, write


@pytest.mark.parametrize(
    "config, message",
    [
        (None, "no config.json that says how many experts a token uses"),
        ({**CONFIG, "num_local_experts": 6}, r"the shape is \[4, 24\]; expected \[6, any\]"),
        ({**CONFIG, "hidden_size": 12}, r"expected \[4, 12\]"),
        ({**CONFIG, "num_experts_per_tok": "two"}, "top_k is two; expected a whole number"),
        ({**CONFIG, "num_experts_per_tok": 9}, "top_k: found 9; expected 1 to 4"),
        ({**CONFIG, "scoring_func": "tanh"}, "score: found 'tanh'; expected softmax or sigmoid"),
        ({**CONFIG, "num_hidden_layers": None}, None),
    ],
)
def test_what_a_config_says_is_held_against_the_files(tmp_path, config, message):
    folder = write(tmp_path / "m", model("mixtral", [0, 1]), config)
    if message is None:
        assert extract_safetensors(folder)[0].n_layers == 2
        return
    with pytest.raises(LensError, match=message):
        extract_safetensors(folder)


def without(name):
    return lambda tensors: tensors.pop(name)


def replaced(name, value):
    return lambda tensors: tensors.update({name: value})


NAN = np.full((E, D), np.nan, np.float32)


@pytest.mark.parametrize(
    "change, message",
    [
        (without("model.layers.1.post_attention_layernorm.weight"), "Layers 1 have no post_att"),
        (replaced(ROUTER.format(1), numbers(E + 1, D)), r"the shape is \[5, 24\]; expected \[4, "),
        (replaced(ROUTER.format(1), numbers(E, D + 1)), r"the shape is \[4, 25\]; expected \[4, "),
        (replaced(ROUTER.format(1), numbers(E * D)), r"the shape is \[96\]; expected \[4, 24\]"),
        (replaced(ROUTER.format(1), NAN), r"gate.weight': 96 of 96 values are not finite"),
        (replaced(ROUTER.format(1), numbers(E, D).astype(float) * 1e300), "not finite in float32"),
        (replaced(ROUTER.format(1), np.ones((E, D), np.int8)), "the dtype is I8; expected one of"),
        (replaced(ROUTER.format(1), np.zeros((E, D), np.float32)), "Layer 1, expert 0: .*zero"),
        (
            replaced("model.layers.0.block_sparse_moe.gate.bias", numbers(E)),
            "Layers 1 have no bias of the router, and the others do",
        ),
        (replaced("draft.layers.0.mlp.router.weight", numbers(E, D)), "Routers are named in 2"),
    ],
)
def test_layers_that_do_not_fit_are_refused(tmp_path, change, message):
    tensors = model("mixtral", [0, 1])
    change(tensors)
    with pytest.raises(LensError, match=message):
        extract_safetensors(write(tmp_path / "m", tensors, CONFIG))


def test_one_router_in_two_layers_is_refused_and_in_two_files_too(tmp_path):
    tensors = model("mixtral", [0, 1])
    copied = {**tensors, ROUTER.format(1): tensors[ROUTER.format(0)]}
    with pytest.raises(LensError, match="Layers 0 and 1: their routers are the same"):
        extract_safetensors(write(tmp_path / "a", copied, CONFIG))
    folder = write(tmp_path / "b", tensors, CONFIG)
    save_file({"model.embed_tokens.weight": numbers(2, D)}, folder / "other.safetensors")
    assert extract_safetensors(folder)[0].n_layers == 2  # what is not read may be there twice
    save_file({ROUTER.format(1): numbers(E, D)}, folder / "other.safetensors")
    with pytest.raises(LensError, match="is in model.safetensors and in other.safetensors"):
        extract_safetensors(folder)


def test_a_folder_of_too_many_tensors_is_refused(tmp_path, monkeypatch):
    folder = write(tmp_path / "m", model("mixtral", [0, 1]), CONFIG)
    monkeypatch.setattr("grok.checkpoints.tensor_index.MAX_TENSORS", 10)
    with pytest.raises(LensError, match="more than 10 tensors; expected one model"):
        extract_safetensors(folder)


def test_a_set_that_no_router_file_may_hold_is_refused_at_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "m", model("mixtral", [0, 1]), CONFIG)
    found, _ = extract_safetensors(folder)
    save_routers(found, tmp_path / "r.npz")
    least = (tmp_path / "r.npz").stat().st_size
    monkeypatch.setattr("lens.extract.safetensors.MAX_BYTES", least)
    with pytest.raises(LensError, match="too large for this version"):
        extract_safetensors(folder)
    monkeypatch.setattr("lens.extract.safetensors.MAX_BYTES", least + NPZ_OVERHEAD)
    assert extract_safetensors(folder)[0].n_layers == 2


def test_places_without_a_model_are_refused(tmp_path):
    with pytest.raises(LensError, match="there is no such file or folder"):
        extract_safetensors(tmp_path / "nowhere")
    with pytest.raises(LensError, match="no .safetensors file in it"):
        extract_safetensors(tmp_path)
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(LensError, match="no .safetensors file in it"):
        extract_safetensors(tmp_path)
    with pytest.raises(LensError, match="there is no such file or folder"):
        extract_safetensors(tmp_path / "model.safetensors")


def lying(path, n_layers, n_experts, width):
    """A file whose header promises such routers, with a hole for them; the header's bytes."""
    size = n_experts * width * 2
    entries = {
        ROUTER.format(n): {
            "dtype": "BF16",
            "shape": [n_experts, width],
            "data_offsets": [n * size, (n + 1) * size],
        }
        for n in range(n_layers)
    }
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + n_layers * size)
    return 8 + len(text)


@pytest.mark.parametrize(
    "n_layers, n_experts, width, message",
    [
        (600, 8, 64, "600 layers have a router .* expected 1 to 512"),
        (2, 2000, 4096, "2000 experts of width 4096; expected 2 to 1024"),
        (2, 8, 4, "8 experts of width 4; expected 2 to 1024 experts, fewer than dimensions"),
        (200, 512, 8192, "take 3,362,471,936 bytes as float32; expected at most"),
    ],
)
def test_routers_too_large_to_be_any_are_refused_before_one_is_read(
    tmp_path, n_layers, n_experts, width, message
):
    header = lying(tmp_path / "m", n_layers, n_experts, width)
    watched = Counted(FolderFiles(tmp_path / "m"))
    with pytest.raises(LensError, match=message):
        extract_model(watched, top_k=2)
    assert watched.bytes_read == header
