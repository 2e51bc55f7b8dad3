"""The routers of other models: layouts, byte ranges, settings, and files from strangers."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lens.caveats import caveats
from lens.errors import LensError
from lens.extract import main
from lens.extract_safetensors import extract_safetensors
from lens.routers import RouterSet, load_routers
from lens.safetensors import FileRanges, read_header, read_tensor

RNG = np.random.default_rng(71)
E, D = 4, 24


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


FAMILIES = {
    "mixtral": ("model.layers.{}.", "block_sparse_moe.gate.weight", "post_attention_layernorm"),
    "grok-2": ("model.layers.{}.", "block_sparse_moe.gate.weight", "pre_moe_norm"),
    "olmoe": ("model.layers.{}.", "mlp.gate.weight", "post_attention_layernorm"),
    "gpt_oss": ("model.layers.{}.", "mlp.router.weight", "post_attention_layernorm"),
    "dbrx": ("transformer.blocks.{}.", "ffn.router.layer.weight", "norm_attn_norm.norm_2"),
    "llama4": (
        "language_model.model.layers.{}.",
        "feed_forward.router.weight",
        "post_attention_layernorm",
    ),
    "jamba": ("model.layers.{}.", "feed_forward.router.weight", "pre_ff_layernorm"),
}


def model(family: str, layers: list[int]) -> dict[str, np.ndarray]:
    """Tensors of a small model, with what surrounds routers in real ones."""
    place, router, norm = FAMILIES[family]
    tensors = {"model.embed_tokens.weight": numbers(50, D), "lm_head.weight": numbers(50, D)}
    for layer in range(max(layers) + 1):
        here = place.format(layer)
        tensors[f"{here}self_attn.q_proj.weight"] = numbers(D, D)
        tensors[f"{here}{norm}.weight"] = 1 + numbers(D) / 10
        tensors[f"{here}input_layernorm.weight"] = numbers(D)
        if layer in layers:
            tensors[here + router] = numbers(E, D)
            tensors[f"{here}mlp.shared_expert_gate.weight"] = numbers(1, D)
            tensors[f"{here}mlp.experts.0.gate_proj.weight"] = numbers(2 * D, D)
        else:
            tensors[f"{here}mlp.gate_proj.weight"] = numbers(2 * D, D)
    return tensors


def write(folder: Path, tensors: dict[str, np.ndarray], config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


CONFIG = {"model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": E}


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_and_norms_of_every_layout_come_out_in_layer_order(tmp_path, family):
    layers = [1, 3, 5, 7, 9, 11]
    tensors = model(family, layers)
    place, router, norm = FAMILIES[family]
    write(tmp_path / "m", tensors, {"model_type": family, "num_experts_per_tok": 2})
    found, _ = extract_safetensors(tmp_path / "m")
    assert found.layer_ids.tolist() == layers
    for row, layer in enumerate(layers):
        here = place.format(layer)
        np.testing.assert_array_equal(found.routers[row], tensors[here + router].T)
        np.testing.assert_array_equal(found.norm_scales[row], tensors[f"{here}{norm}.weight"])
    assert found.score == ("sigmoid" if family == "llama4" else "softmax")
    assert found.biases is None and family in found.source
    bare, _ = extract_safetensors(tmp_path / "m", norms=False)
    assert bare.norm_scales is None


def test_only_the_header_and_the_routers_are_read_of_a_file_of_many_gigabytes(tmp_path):
    # Mixtral's true sizes for two layers, the experts as a hole in the file.
    layers, experts, width = 2, 8, 4096
    entries, data = {}, 0
    values = {}
    for layer in range(layers):
        here = f"model.layers.{layer}."
        for name, shape, dtype, size in (
            ("block_sparse_moe.experts.0.w1.weight", [14336 * 96, width], "BF16", 2),
            ("block_sparse_moe.gate.weight", [experts, width], "BF16", 2),
            ("post_attention_layernorm.weight", [width], "BF16", 2),
        ):
            end = data + int(np.prod(shape)) * size
            entries[here + name] = {"dtype": dtype, "shape": shape, "data_offsets": [data, end]}
            data = end
    header = json.dumps(entries).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, entry in entries.items():
            if "experts" not in name:
                bits = numbers(*entry["shape"]).view(np.uint32) >> 16
                values[name] = (bits << 16).astype(np.uint32).view(np.float32)
                file.seek(8 + len(header) + entry["data_offsets"][0])
                file.write(bits.astype("<u2").tobytes())
    assert path.stat().st_size > 2e10
    found, n_bytes = extract_safetensors(path, top_k=2)
    needed = layers * (experts * width + width) * 2
    assert n_bytes == 8 + len(header) + needed
    gate = values["model.layers.1.block_sparse_moe.gate.weight"]
    np.testing.assert_array_equal(found.routers[1], gate.T)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
def test_every_readable_dtype_gives_the_same_numbers(tmp_path, dtype):
    values = numbers(E, D).astype(dtype)
    save_file({"a": values}, tmp_path / "x.safetensors")
    source = FileRanges(tmp_path / "x.safetensors")
    found = read_tensor(source, "a", read_header(source)["a"])
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_a_models_files_are_found_by_its_index_and_others_need_not_be_there(tmp_path):
    tensors = model("mixtral", [0, 1, 2])
    folder = tmp_path / "m"
    folder.mkdir()
    split = {"a.safetensors": {}, "b.safetensors": {}, "c.safetensors": {}}
    for name, value in tensors.items():
        part = "c" if "q_proj" in name else "b" if ".2." in name else "a"
        split[f"{part}.safetensors"][name] = value
    for name, part in split.items():
        save_file(part, folder / name)
    index = {"weight_map": {name: file for file, part in split.items() for name in part}}
    (folder / "config.json").write_text(json.dumps(CONFIG))
    whole, _ = extract_safetensors(folder)  # by the headers of all files
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "c.safetensors").unlink()
    found, _ = extract_safetensors(folder)
    assert found.sha256 == whole.sha256
    (folder / "b.safetensors").unlink()
    with pytest.raises(LensError, match=r"1 of the files that hold routers are not there: b\.saf"):
        extract_safetensors(folder)


@pytest.mark.parametrize("file", ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", "", 3])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, file):
    write(tmp_path / "m", model("mixtral", [0]), CONFIG)
    router = "model.layers.0.block_sparse_moe.gate.weight"
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {router: file}}))
    with pytest.raises(LensError, match="expected the name of a file in the same folder"):
        extract_safetensors(tmp_path / "m")


def test_biases_and_scores_are_kept(tmp_path):
    tensors = model("gpt_oss", [0, 1])
    bias = [numbers(E), numbers(E)]
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.mlp.router.bias"] = bias[layer]
    config = {"model_type": "gpt_oss", "experts_per_token": 2}
    found, _ = extract_safetensors(write(tmp_path / "a", tensors, config))
    np.testing.assert_array_equal(found.biases, np.stack(bias))
    assert found.score == "softmax" and found.logit_biases is not None
    tensors = model("olmoe", [1, 2])
    for layer in (1, 2):
        tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"] = numbers(E)
    config = {"model_type": "deepseek_v3", "num_experts_per_tok": 2, "scoring_func": "sigmoid"}
    config |= {"n_routed_experts": E, "num_hidden_layers": 2}
    found, _ = extract_safetensors(write(tmp_path / "b", tensors, config))
    # Layer 2 lies beyond the model's layers: it predicts a further token.
    assert found.layer_ids.tolist() == [1] and found.score == "sigmoid"
    assert found.biases.shape == (1, E) and found.logit_biases is None


def test_settings_inside_a_text_config_are_found(tmp_path):
    config = {
        "model_type": "llama4",
        "text_config": {"num_experts_per_tok": 1, "num_local_experts": E, "hidden_size": D},
    }
    found, _ = extract_safetensors(write(tmp_path / "m", model("llama4", [0, 1]), config))
    assert (found.top_k, found.score) == (1, "sigmoid")


@pytest.mark.parametrize(
    "config, message",
    [
        (None, "no config.json that says how many experts a token uses"),
        ({**CONFIG, "num_local_experts": 6}, r"the shape is \[4, 24\]; expected \[6, any\]"),
        ({**CONFIG, "hidden_size": 12}, r"expected \[4, 12\]"),
        ({**CONFIG, "num_experts_per_tok": "two"}, "top_k is two; expected a whole number"),
        ({**CONFIG, "num_experts_per_tok": 9}, "top_k: found 9; expected 1 to 4"),
        ({**CONFIG, "scoring_func": "tanh"}, "scoring_func is 'tanh'; expected softmax"),
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


def test_models_that_do_not_fit_are_refused(tmp_path):
    plain = {"model.layers.0.mlp.gate_proj.weight": numbers(D, D)}
    with pytest.raises(LensError, match="None of 1 tensors is a router of a known layout"):
        extract_safetensors(write(tmp_path / "a", plain, CONFIG))
    two = {**model("mixtral", [0]), "draft.layers.0.block_sparse_moe.gate.weight": numbers(E, D)}
    with pytest.raises(LensError, match="Routers are named in 2 ways"):
        extract_safetensors(write(tmp_path / "b", two, CONFIG))
    some = model("mixtral", [0, 1])
    del some["model.layers.1.post_attention_layernorm.weight"]
    with pytest.raises(LensError, match="Layers 1 have no norm before it, and the others do"):
        extract_safetensors(write(tmp_path / "c", some, CONFIG))
    odd = model("mixtral", [0, 1])
    odd["model.layers.1.block_sparse_moe.gate.weight"] = numbers(E + 1, D)
    with pytest.raises(LensError, match=r"the shape is \[5, 24\]; expected \[4, 24\]"):
        extract_safetensors(write(tmp_path / "d", odd, CONFIG))
    with pytest.raises(LensError, match="no .safetensors file in it"):
        (tmp_path / "e").mkdir()
        extract_safetensors(tmp_path / "e")
    with pytest.raises(LensError, match="there is no such file or folder"):
        extract_safetensors(tmp_path / "nowhere")


def header_file(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"a": {**ONE, "data_offsets": [0, 99]}}, "expected a range within the 8 bytes"),
        ({"a": {**ONE, "data_offsets": [8, 0]}}, "expected a range within"),
        ({"a": {**ONE, "data_offsets": [-8, 0]}}, "data_offsets"),
        ({"a": {**ONE, "shape": [3]}}, r"8 bytes for shape \[3\] of F32; expected 12"),
        ({"a": {**ONE, "shape": [-1, -2]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [2**60]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [True, 2]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [1] * 9}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "dtype": 5}}, "expected a name"),
        ({"a": [1]}, "found list; expected dtype"),
        ({"a": ONE, "b": ONE}, "'a' and 'b' share bytes"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, entries, message):
    path = header_file(tmp_path / "x", json.dumps(entries).encode(), bytes(8))
    with pytest.raises(LensError, match=message):
        read_header(FileRanges(path))


def test_headers_that_are_none_are_refused(tmp_path):
    bad = tmp_path / "x"
    for header, length, message in (
        (b"{}", 10**15, "the header is said to have"),
        (b"{}", 0, "the header is said to have 0 bytes"),
        (b"[1]", None, "found list as JSON"),
        (b'{"a":1,"a":2}', None, "a is there twice"),
        (b"[" * 90_000 + b"]" * 90_000, None, "the JSON cannot be read"),
        (b"\xff\xfe", None, "the JSON cannot be read"),
        (b'{"a":' + b"9" * 9000 + b"}", None, "the JSON cannot be read|expected dtype"),
    ):
        with pytest.raises(LensError, match=message):
            read_header(FileRanges(header_file(bad, header, length=length)))
    bad.write_bytes(b"abc")
    with pytest.raises(LensError, match="3 bytes; expected a safetensors file"):
        read_header(FileRanges(bad))
    quantized = {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}
    source = FileRanges(header_file(bad, json.dumps(quantized).encode(), bytes(8)))
    with pytest.raises(LensError, match="the dtype is F8_E4M3; expected one of F64, F32"):
        read_tensor(source, "a", read_header(source)["a"])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_lead_to_anything_but_an_error_or_a_header(tmp_path_factory, content, length):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(struct.pack("<Q", length) + content)
    try:
        read_header(FileRanges(path))
    except LensError:
        pass


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
entry_like = st.fixed_dictionaries(
    {"dtype": json_like | st.just("F32"), "shape": json_like, "data_offsets": json_like}
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=8), entry_like | json_like, max_size=4))
def test_no_json_leads_to_anything_but_an_error_or_a_header(tmp_path_factory, header):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    header_file(path, json.dumps(header).encode(), bytes(16))
    try:
        found = read_header(FileRanges(path))
    except LensError:
        return
    assert all(8 < e.begin <= e.end <= path.stat().st_size for e in found.values())


def test_the_command_writes_a_set_that_opens_and_says_what_it_read(tmp_path, capsys):
    write(tmp_path / "m", model("llama4", [0, 1]), {"model_type": "llama4", **CONFIG})
    out = tmp_path / "routers.npz"
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {"model_type": "llama4"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert main(["--safetensors", str(tmp_path / "m"), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 layers of routers [24, 4], top 2, sigmoid, with norm scales" in said
    assert "Gates are sigmoids" in said and "bytes read" in said
    assert load_routers(out).score == "sigmoid"


def test_the_command_refuses_what_it_cannot_do_and_writes_nothing(tmp_path, capsys):
    write(tmp_path / "m", model("mixtral", [0, 1]))
    out = tmp_path / "routers.npz"
    assert main(["--safetensors", str(tmp_path / "m"), "--output", str(out)]) == 2
    assert "give --top-k" in capsys.readouterr().err and not out.exists()
    arguments = ["--safetensors", str(tmp_path / "m"), "--output", str(out), "--top-k", "2"]
    assert main(arguments) == 0 and load_routers(out).top_k == 2
    with pytest.raises(SystemExit):
        main(["--safetensors", "a", "--checkpoint", "b", "--output", str(out)])
    assert main(["--checkpoint", "b", "--output", str(out), "--top-k", "2"]) == 2
    assert "--top-k and --score are for --safetensors alone" in capsys.readouterr().err


def choices(logits: np.ndarray, top_k: int) -> np.ndarray:
    return np.sort(np.argsort(-logits, axis=1)[:, :top_k], axis=1)


def test_what_the_caveats_say_of_sigmoids_and_biases_is_so():
    columns, shared = RNG.standard_normal((30, 6)), 3 * RNG.standard_normal((30, 1))
    tokens = RNG.standard_normal((400, 30))
    biases = 0.3 * RNG.standard_normal(6)

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    before, after = tokens @ columns, tokens @ (columns + shared)
    np.testing.assert_array_equal(choices(before, 2), choices(after, 2))
    np.testing.assert_array_equal(choices(before + biases, 2), choices(after + biases, 2))
    assert np.abs(sigmoid(before) - sigmoid(after)).max() > 0.5
    moved = choices(sigmoid(before) + biases, 2) != choices(sigmoid(after) + biases, 2)
    assert moved.any(axis=1).mean() > 0.05


def test_caveats_are_about_what_a_set_has():
    weights, biases = numbers(2, D, E), numbers(2, E)
    scales = np.abs(numbers(2, D))
    assert caveats(RouterSet(weights, scales)) == []
    assert ["unknown" in c for c in caveats(RouterSet(weights))] == [True]
    softmax = caveats(RouterSet(weights, scales, biases=biases))
    assert len(softmax) == 1 and "add the biases to logits" in softmax[0]
    sigmoid = caveats(RouterSet(weights, scales, biases=biases, score="sigmoid"))
    assert len(sigmoid) == 2 and "leave the biases out" in sigmoid[1]
