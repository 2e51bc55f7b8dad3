"""The routers of other models: every layout, byte ranges, scores, biases, norms."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from lens.errors import LensError
from lens.extract.__main__ import main
from lens.extract.safetensors import extract_model, extract_safetensors
from lens.routers.caveats import caveats
from lens.routers.router_set import RouterSet, load_routers
from tests.small_models import CONFIG, FAMILIES, RNG, ROUTER, D, E, Served, model, numbers, write

INDEX = "model.safetensors.index.json"


def config_of(family: str, **more: object) -> dict[str, object]:
    return {"model_type": family, "num_experts_per_tok": 2, **more}


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_and_norms_of_every_layout_come_out_in_layer_order(tmp_path, family):
    layers = [1, 3, 5, 7, 9, 11]
    tensors = model(family, layers)
    place, router, norm = FAMILIES[family]
    write(tmp_path / "m", tensors, config_of(family))
    found, _ = extract_safetensors(tmp_path / "m")
    assert found.layer_ids.tolist() == layers and found.norm_scales is not None
    for row, layer in enumerate(layers):
        here = place.format(layer)
        np.testing.assert_array_equal(found.routers[row], tensors[here + router].T)
        np.testing.assert_array_equal(found.norm_scales[row], tensors[f"{here}{norm}.weight"])
    assert found.score == ("sigmoid" if family in ("llama4", "deepseek_v3") else "softmax")
    assert found.biases is None and family in found.source
    assert caveats(found) == [] or found.score == "sigmoid"
    bare, _ = extract_safetensors(tmp_path / "m", norms=False)
    assert bare.norm_scales is None


def test_of_a_file_of_mixtrals_size_two_megabytes_are_read(tmp_path):
    # True sizes of all 32 layers, the experts as holes in the file.
    layers, experts, width, hidden = 32, 8, 4096, 14336
    entries: dict[str, dict] = {}
    data = 0
    for layer in range(layers):
        here = f"model.layers.{layer}."
        shapes = [
            (f"{here}block_sparse_moe.experts.{e}.{w}.weight", [hidden, width])
            for e in range(experts)
            for w in ("w1", "w2", "w3")
        ]
        shapes.insert(layer % 24, (ROUTER.format(layer), [experts, width]))
        shapes.append((f"{here}post_attention_layernorm.weight", [width]))
        for name, shape in shapes:
            end = data + int(np.prod(shape)) * 2
            entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [data, end]}
            data = end
    header = json.dumps(entries).encode()
    path = tmp_path / "model.safetensors"
    values = {}
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, entry in entries.items():
            if "experts" not in name:
                bits = numbers(*entry["shape"]).view(np.uint32) >> 16
                values[name] = (bits << 16).astype(np.uint32).view(np.float32)
                file.seek(8 + len(header) + entry["data_offsets"][0])
                file.write(bits.astype("<u2").tobytes())
    assert path.stat().st_size > 9e10
    config = json.dumps(CONFIG | {"num_local_experts": 8, "hidden_size": width}).encode()
    (tmp_path / "config.json").write_bytes(config)
    found, n_bytes = extract_safetensors(path)
    needed = layers * (experts * width + width) * 2
    assert n_bytes == len(config) + 8 + len(header) + needed < 3e6
    for layer in range(layers):
        np.testing.assert_array_equal(found.routers[layer], values[ROUTER.format(layer)].T)
        norm = values[f"model.layers.{layer}.post_attention_layernorm.weight"]
        np.testing.assert_array_equal(found.norm_scales[layer], norm)


def sharded(folder, tensors, config=CONFIG):
    """A model in three files, routers in two of them, and what an index would say."""
    folder.mkdir()
    split: dict[str, dict] = {f"model-0000{n}-of-00003.safetensors": {} for n in (1, 2, 3)}
    for name, value in tensors.items():
        part = 3 if "q_proj" in name or "embed" in name else 2 if ".2." in name else 1
        split[f"model-0000{part}-of-00003.safetensors"][name] = value
    for file, part in split.items():
        save_file(part, folder / file)
    (folder / "config.json").write_text(json.dumps(config))
    return {"weight_map": {name: file for file, part in split.items() for name in part}}


def test_a_models_files_are_found_by_its_index_and_others_need_not_be_there(tmp_path):
    folder = tmp_path / "m"
    index = sharded(folder, model("mixtral", [0, 1, 2]))
    whole, by_headers = extract_safetensors(folder)
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "model-00003-of-00003.safetensors").unlink()
    found, _ = extract_safetensors(folder)
    assert found.sha256 == whole.sha256
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(LensError, match=r"1 of the files .* not there: model-00002-of-00003\.saf"):
        extract_safetensors(folder)


def test_shards_that_are_missing_without_an_index_are_named(tmp_path):
    folder = tmp_path / "m"
    sharded(folder, model("mixtral", [0, 1, 2]))
    (folder / "model-00002-of-00003.safetensors").unlink()
    for path in (folder, folder / "model-00001-of-00003.safetensors"):
        with pytest.raises(LensError, match=r"of 3 files .* not there: model-00002-of-00003"):
            extract_safetensors(path)


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path):
    folder = tmp_path / "m"
    index = sharded(folder, model("mixtral", [0, 1, 2]))
    index["weight_map"][ROUTER.format(2)] = "model-00001-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(LensError, match="the index says that .* is in it, and it is not"):
        extract_safetensors(folder)
    for text in ("{}", '{"weight_map": []}', '{"weight_map": {}}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(LensError, match="no weight_map in it"):
            extract_safetensors(folder)
    (folder / INDEX).write_text("[" * 50_000)
    with pytest.raises(LensError, match="the JSON cannot be read"):
        extract_safetensors(folder)


@pytest.mark.parametrize("file", ["../b.safetensors", "/etc/passwd", "s/b", "..", "", "a\\b", 3])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, file):
    write(tmp_path / "m", model("mixtral", [0]), CONFIG)
    index = tmp_path / "m" / INDEX
    index.write_text(json.dumps({"weight_map": {ROUTER.format(0): file}}))
    with pytest.raises(LensError, match="expected the name of a file in the same folder|not there"):
        extract_safetensors(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_cannot_lead_out_of_its_folder(tmp_path, name):
    folder = write(tmp_path / "m", model("mixtral", [0]), CONFIG)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LensError, match=f"{name} is a link that leads out of the folder"):
        extract_safetensors(folder)


def test_links_within_a_folder_and_in_the_hubs_cache_are_followed(tmp_path):
    plain = write(tmp_path / "m", model("mixtral", [0]), CONFIG)
    expected = extract_safetensors(plain)[0].sha256
    (plain / "model.safetensors").rename(plain / "data")
    (plain / "model.safetensors").symlink_to("data")
    assert extract_safetensors(plain)[0].sha256 == expected
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in ("model.safetensors", "config.json"):
        (plain / name).resolve().rename(cache / "blobs" / f"hash-{name}")
        (snapshot / name).symlink_to(f"../../blobs/hash-{name}")
    assert extract_safetensors(snapshot)[0].sha256 == expected
    lone = tmp_path / "lone.safetensors"
    lone.symlink_to(cache / "blobs" / "hash-model.safetensors")
    found, _ = extract_safetensors(lone, top_k=2)
    np.testing.assert_array_equal(found.routers, extract_safetensors(snapshot)[0].routers)


def test_files_that_another_transport_serves_give_the_same_set(tmp_path):
    folder = tmp_path / "m"
    index = sharded(folder, model("mixtral", [0, 1, 2]))
    (folder / INDEX).write_text(json.dumps(index))
    here, n_bytes = extract_safetensors(folder)
    served = Served(folder)
    there, n_served = extract_model(served)
    assert (there.key, n_served) == (here.key, n_bytes)
    asked = [length for file in served.files.values() for _, length in file.asked]
    assert sum(asked) == n_bytes
    assert served.files["model-00003-of-00003.safetensors"].asked == []


# --- scores, biases, norms ------------------------------------------------------


def test_biases_of_logits_are_kept_with_softmax(tmp_path):
    tensors = model("gpt_oss", [0, 1])
    bias = [numbers(E), numbers(E)]
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.mlp.router.bias"] = bias[layer]
    config = {"model_type": "gpt_oss", "experts_per_token": 2}
    found, _ = extract_safetensors(write(tmp_path / "m", tensors, config))
    np.testing.assert_array_equal(found.biases, np.stack(bias))
    assert found.score == "softmax" and found.logit_biases is not None


@pytest.mark.parametrize(
    "config, given, score, kept, note",
    [
        ({"model_type": "deepseek_v3", "scoring_func": "sigmoid"}, None, "sigmoid", True, ""),
        ({"model_type": "glm4_moe"}, None, "sigmoid", True, ""),
        ({"model_type": "new"}, None, "sigmoid", True, "sigmoid assumed"),
        ({"model_type": "new", "scoring_func": "new"}, "sigmoid", "sigmoid", True, ""),
        ({"model_type": "ernie4_5_moe"}, None, "softmax", False, "for the choice left out"),
        ({"scoring_func": "softmax"}, None, "softmax", False, "for the choice left out"),
    ],
)
def test_biases_of_gates_are_kept_with_sigmoids_and_never_taken_for_logits(
    tmp_path, config, given, score, kept, note
):
    tensors = model("deepseek_v3", [0, 1])
    bias = numbers(2, E)
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"] = bias[layer]
    folder = write(tmp_path / "m", tensors, {**config, "num_experts_per_tok": 2})
    found, _ = extract_safetensors(folder, score=given)
    assert found.score == score and note in found.source and found.logit_biases is None
    if kept:
        np.testing.assert_array_equal(found.biases, bias)
    else:
        assert found.biases is None


def test_heads_beyond_the_models_layers_are_left_out(tmp_path):
    tensors = model("deepseek_v3", [1, 2])
    config = config_of("deepseek_v3", num_hidden_layers=2)
    with pytest.raises(LensError, match="num_hidden_layers: found 2; expected 3, .*layers.2"):
        extract_safetensors(write(tmp_path / "layers", tensors, config))
    for layer in (1, 2):
        tensors[f"model.layers.{layer}.enorm.weight"] = numbers(D)
    with pytest.raises(LensError, match="num_hidden_layers: found 2; expected 1, .*1.enorm"):
        extract_safetensors(write(tmp_path / "heads", tensors, config))
    del tensors["model.layers.1.enorm.weight"]
    folder = write(tmp_path / "m", tensors, config)
    assert extract_safetensors(folder)[0].layer_ids.tolist() == [1]
    tensors["model.layers.1.enorm.weight"] = numbers(D)
    write(folder, tensors, config)
    (folder / "config.json").write_text(json.dumps(config_of("x", num_hidden_layers=1)))
    with pytest.raises(LensError, match="0 layers have a router and a number within the 1 layers"):
        extract_safetensors(folder)


def test_norms_that_store_their_scale_less_one_get_it_back(tmp_path):
    tensors = model("qwen3_moe", [0, 1])
    tensors["mtp.layers.0.mlp.gate.weight"] = numbers(E, D)  # a head, no layer
    found, _ = extract_safetensors(write(tmp_path / "m", tensors, config_of("qwen3_next")))
    stored = tensors["model.layers.1.post_attention_layernorm.weight"]
    assert found.n_layers == 2
    np.testing.assert_array_equal(found.norm_scales[1], stored + 1)


def test_the_norm_of_an_unknown_family_is_not_guessed(tmp_path):
    # FlexOlmo's norm of this name follows attention and feeds no router.
    for config in (config_of("flex_olmo"), {"num_experts_per_tok": 2}):
        found, _ = extract_safetensors(write(tmp_path / "m", model("olmoe", [0, 1]), config))
        assert found.norm_scales is None and "norm before the routers not known" in found.source
        assert "unknown" in caveats(found)[0]


def test_the_shift_of_a_layer_norm_becomes_the_bias_that_it_gives_the_logits(tmp_path):
    tensors = model("phimoe", [0, 1])
    shifts = numbers(2, D)
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.post_attention_layernorm.bias"] = shifts[layer]
    found, _ = extract_safetensors(write(tmp_path / "m", tensors, config_of("phimoe")))
    x = RNG.standard_normal(D)
    x = (x - x.mean()) / x.std()
    for layer in (0, 1):
        scale = tensors[f"model.layers.{layer}.post_attention_layernorm.weight"]
        router = tensors[ROUTER.format(layer)].astype(float)
        logits = router @ (scale * x + shifts[layer])
        folded = (x * found.norm_scales[layer]) @ found.routers[layer] + found.biases[layer]
        np.testing.assert_allclose(folded, logits, atol=1e-4)
    assert "LayerNorm" in found.source
    assert extract_safetensors(tmp_path / "m", norms=False)[0].biases is None


def test_what_a_set_cannot_say_is_in_its_source(tmp_path):
    config = config_of("grok", router_logit_softcapping=30.0, n_group=4, topk_group=2)
    found, _ = extract_safetensors(write(tmp_path / "m", model("grok-2", [0, 1]), config))
    assert "soft-capped at 30" in found.source and "within 2 of 4 groups" in found.source
    assert "softmax assumed" in found.source and found.norm_scales is not None


# --- the command ----------------------------------------------------------------


def test_the_command_writes_a_set_that_opens_and_says_what_it_read(tmp_path, capsys):
    write(tmp_path / "m", model("llama4", [0, 1]), config_of("llama4"))
    out = tmp_path / "routers.npz"
    assert main(["--safetensors", str(tmp_path / "m"), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 layers of routers [24, 4], top 2, sigmoid, with norm scales" in said
    assert "Gates are sigmoids" in said
    assert "llama4 (safetensors; feed_forward.router)" in said
    found, n_bytes = extract_safetensors(tmp_path / "m")
    assert f"{n_bytes:,} bytes read" in said
    assert load_routers(out).key == found.key


def test_the_command_refuses_what_it_cannot_do_and_writes_nothing(tmp_path, capsys):
    write(tmp_path / "m", model("mixtral", [0, 1]))
    out = tmp_path / "routers.npz"
    assert main(["--safetensors", str(tmp_path / "m"), "--output", str(out)]) == 2
    assert "give --top-k" in capsys.readouterr().err and not out.exists()
    arguments = ["--safetensors", str(tmp_path / "m"), "--output", str(out), "--top-k", "2"]
    assert main(arguments) == 0 and load_routers(out).top_k == 2
    assert main([*arguments, "--score", "sigmoid"]) == 0
    assert load_routers(out).score == "sigmoid"
    with pytest.raises(SystemExit):
        main(["--safetensors", "a", "--checkpoint", "b", "--output", str(out)])
    capsys.readouterr()
    assert main(["--checkpoint", "b", "--output", str(out), "--top-k", "2"]) == 2
    assert "--top-k and --score are for other models" in capsys.readouterr().err


# --- what the page says of such sets --------------------------------------------


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
