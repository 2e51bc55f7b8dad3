import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok.checkpoints.grok1 import (
    Checkpoint,
    expected_shape,
    is_matrix,
    moe_norm_path,
    open_checkpoint,
    router_path,
    tensor_paths,
    write_checkpoint,
)
from grok.checkpoints.tensor_file import QuantizedWeight8bit, write_tensor
from grok.config import GROK_1
from grok.errors import CheckpointError, ConfigError

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
GOLDEN = ["tiny3", "tiny3_bf16scales", "shard8", "tiny12"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Router files of the release, from its published list of files.
GROK_1_ROUTERS = {0: 13, 1: 25, 2: 157, 3: 289, 4: 421, 5: 553, 6: 685, 7: 745, 8: 757, 9: 769,
                  10: 37, 11: 49, 19: 145, 20: 169, 63: 733}  # fmt: skip
GROK_1_SHAPES = {
    "language_model/in_out_embed/embeddings": (131072, 6144),
    "language_model/rms_norm/scale": (6144,),
    "transformer/decoder_layer_9/moe/linear/w": (8, 6144, 32768),
    "transformer/decoder_layer_9/moe/linear_1/w": (8, 32768, 6144),
    "transformer/decoder_layer_9/moe/linear_v/w": (8, 6144, 32768),
    "transformer/decoder_layer_9/multi_head_attention/key/w": (6144, 1024),
    "transformer/decoder_layer_9/multi_head_attention/linear/w": (6144, 6144),
    "transformer/decoder_layer_9/multi_head_attention/query/w": (6144, 6144),
    "transformer/decoder_layer_9/multi_head_attention/value/w": (6144, 1024),
    "transformer/decoder_layer_9/rms_norm/scale": (6144,),
    "transformer/decoder_layer_9/rms_norm_1/scale": (6144,),
    "transformer/decoder_layer_9/rms_norm_2/scale": (6144,),
    "transformer/decoder_layer_9/rms_norm_3/scale": (6144,),
    "transformer/decoder_layer_9/router/w": (6144, 8),
}


def grok_1():
    """The released checkpoint, as far as names and shapes go."""
    return Checkpoint(Path("x"), Path("x/ckpt-0"), GROK_1)


@pytest.fixture
def tiny3(tmp_path):
    """A copy of a small checkpoint that a test may damage."""
    return Path(shutil.copytree(DATA / "tiny3", tmp_path / "tiny3"))


def parts(tensor):
    if isinstance(tensor, QuantizedWeight8bit):
        return [tensor.weight, tensor.scales]
    return [tensor]


def same(a, b):
    return len(parts(a)) == len(parts(b)) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(parts(a), parts(b), strict=True)
    )


# --- which file is which ------------------------------------------------------------


@pytest.mark.parametrize(("layer", "index"), GROK_1_ROUTERS.items())
def test_routers_of_the_release_are_in_their_files(layer, index):
    assert grok_1().file(router_path(layer)).name == f"tensor{index:05d}_000"
    assert grok_1().file(moe_norm_path(layer)).name == f"tensor{index - 2:05d}_000"


def test_the_release_begins_with_the_embedding_and_the_final_norm():
    assert grok_1().paths[:2] == list(GROK_1_SHAPES)[:2]
    assert grok_1().file("language_model/in_out_embed/embeddings").name == "tensor00000_000"


def test_the_twelve_files_of_a_layer_follow_each_other():
    paths = grok_1().paths
    assert len(paths) == 770
    # 9 sorts last of 0 .. 63 as text, so its files are the last twelve.
    assert paths[-12:] == list(GROK_1_SHAPES)[2:]


@pytest.mark.parametrize("n_layers", [1, 10, 12, 64, 101])
def test_layers_come_in_the_order_of_their_names(n_layers):
    order = sorted(range(n_layers), key=str)
    paths = tensor_paths(n_layers)
    for place, layer in enumerate(order):
        block = paths[2 + 12 * place : 14 + 12 * place]
        assert {path.split("/")[1] for path in block} == {f"decoder_layer_{layer}"}
        assert block[11] == router_path(layer)
        assert block[9] == moe_norm_path(layer)


@pytest.mark.parametrize("path", GROK_1_SHAPES)
def test_shapes_of_the_release(path):
    assert expected_shape(GROK_1, path) == GROK_1_SHAPES[path]


def test_the_seven_products_of_a_layer_are_the_quantized_ones():
    quantized = [path for path in GROK_1_SHAPES if is_matrix(path)]
    assert len(quantized) == 7
    assert all("moe/" in path or "multi_head_attention/" in path for path in quantized)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_golden_file_holds_what_its_listing_says(name):
    checkpoint = open_checkpoint(DATA / name)
    lines = (DATA / name / "tensors.txt").read_text().splitlines()
    assert len(lines) == len(checkpoint.paths) == 2 + 12 * checkpoint.config.n_layers
    for path, line in zip(checkpoint.paths, lines, strict=True):
        file, listed, *_ = line.split()
        assert (checkpoint.file(path).name, path) == (file, listed)
        tensor = checkpoint.read(path)
        for part in parts(tensor):
            assert f"{part.dtype} {list(part.shape)}" in line
        assert isinstance(tensor, QuantizedWeight8bit) == ("Q8" in line)


def test_grouped_scales_are_where_the_release_has_them():
    checkpoint = open_checkpoint(DATA / "shard8")
    for path in filter(is_matrix, checkpoint.paths):
        grouped = path.endswith(("linear_1/w", "multi_head_attention/linear/w"))
        tensor = checkpoint.read(path)
        assert isinstance(tensor, QuantizedWeight8bit)
        assert tensor.scales.shape[-2] == (8 if grouped else 1), path


def test_a_parameter_that_the_model_lacks_is_refused():
    with pytest.raises(CheckpointError, match="decoder_layer_64/router/w is no parameter of .* 64"):
        grok_1().file(router_path(64))


# --- opening ------------------------------------------------------------------------


def test_both_the_folder_and_its_ckpt_0_can_be_given(monkeypatch):
    outer, inner = open_checkpoint(DATA / "tiny12"), open_checkpoint(DATA / "tiny12" / "ckpt-0")
    assert outer.config == inner.config and outer.config.n_layers == 12
    assert outer.tensor_folder == inner.tensor_folder
    monkeypatch.chdir(DATA / "tiny12" / "ckpt-0")
    assert open_checkpoint(".").config == outer.config


def test_without_a_config_it_is_grok_1(tmp_path):
    (tmp_path / "ckpt-0").mkdir()
    (tmp_path / "ckpt-0" / "tensor00769_000").touch()
    assert open_checkpoint(tmp_path).config == GROK_1


def test_opening_reads_no_tensor(tmp_path):
    (tmp_path / "ckpt-0").mkdir()
    (tmp_path / "ckpt-0" / "tensor00013_000").write_bytes(b"cos\nsystem\n")
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.missing()) == 769
    assert router_path(0) not in checkpoint.missing()


def test_other_files_in_the_folder_do_no_harm(tiny3):
    for name in ("tensor00099_000.part", "README", ".tensor00099_000", "xtensor00099_000"):
        (tiny3 / "ckpt-0" / name).touch()
    assert open_checkpoint(tiny3).missing() == []


def test_the_tokenizer_is_found_beside_the_tensors(tiny3):
    assert open_checkpoint(tiny3).tokenizer_file is None
    (tiny3 / "tokenizer.model").touch()
    assert open_checkpoint(tiny3 / "ckpt-0").tokenizer_file == tiny3 / "tokenizer.model"


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_a_path_that_is_no_folder_is_refused(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="there is no such folder. Give the folder"):
        open_checkpoint(tmp_path / name)


def test_a_folder_without_tensors_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tensor files"):
        open_checkpoint(tmp_path)


def test_files_of_more_layers_than_the_config_has_are_refused(tiny3):
    (tiny3 / "ckpt-0" / "tensor00038_000").touch()
    with pytest.raises(CheckpointError, match="tensor00038_000, but a model of 3 layers has 38"):
        open_checkpoint(tiny3)


def test_more_files_than_grok_1_ask_for_a_config(tmp_path):
    (tmp_path / "tensor00770_000").touch()
    with pytest.raises(CheckpointError, match="770 files. Check that a config.json is beside"):
        open_checkpoint(tmp_path)


def test_nonsense_in_the_config_is_refused_with_its_file(tiny3):
    (tiny3 / "config.json").write_text('{"model": {"num_layers": -3}}')
    with pytest.raises(ConfigError, match=r"tiny3/config\.json: config\.json lacks vocab_size"):
        open_checkpoint(tiny3)


# --- reading ------------------------------------------------------------------------


def test_a_missing_file_is_named(tiny3):
    checkpoint = open_checkpoint(tiny3)
    checkpoint.file(router_path(2)).unlink()
    assert checkpoint.missing() == [router_path(2)]
    with pytest.raises(CheckpointError, match="tensor00037_000: there is no such file"):
        checkpoint.read(router_path(2))


def test_a_file_in_the_place_of_another_is_refused_by_its_shape(tiny3):
    checkpoint = open_checkpoint(tiny3)
    shutil.copyfile(checkpoint.file(moe_norm_path(0)), checkpoint.file(router_path(0)))
    with pytest.raises(
        CheckpointError,
        match=r"tensor00013_000 .transformer/decoder_layer_0/router/w.: shape \[64\]; "
        r"expected \[64, 8\]. Check that config.json belongs",
    ):
        checkpoint.read(router_path(0))


def test_a_config_of_another_width_is_refused_by_the_shapes(tiny3):
    text = (tiny3 / "config.json").read_text().replace('"emb_size": 64', '"emb_size": 128')
    (tiny3 / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"shape \[64, 8\]; expected \[128, 8\]"):
        open_checkpoint(tiny3).read(router_path(0))


def test_a_much_larger_file_is_refused_before_it_is_read(tiny3):
    checkpoint = open_checkpoint(tiny3)
    with checkpoint.file(router_path(0)).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="the file has 1099511627776 bytes"):
        checkpoint.read(router_path(0))


@pytest.mark.parametrize(
    "path", [router_path(0), moe_norm_path(0), "language_model/rms_norm/scale"]
)
def test_an_int8_weight_in_the_place_of_a_float_array_is_refused(path, tiny3):
    checkpoint = open_checkpoint(tiny3)
    shape = (*expected_shape(checkpoint.config, path), 1)[:2]
    weight = QuantizedWeight8bit(np.ones(shape, np.int8), np.ones((1, shape[1]), np.float32))
    write_tensor(checkpoint.file(path), weight)
    with pytest.raises(CheckpointError, match="int8 weight; expected a plain float|shape"):
        checkpoint.read(path)


def test_bare_int8_is_refused(tiny3):
    checkpoint = open_checkpoint(tiny3)
    write_tensor(checkpoint.file(router_path(0)), np.ones((64, 8), np.int8))
    with pytest.raises(CheckpointError, match="dtype int8; expected float32 or bfloat16"):
        checkpoint.read(router_path(0))


@pytest.mark.parametrize("path", [router_path(1), "transformer/decoder_layer_1/moe/linear/w"])
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
def test_float_weights_are_read_as_they_are(path, dtype, tiny3):
    checkpoint = open_checkpoint(tiny3)
    values = np.random.default_rng(0).random(expected_shape(checkpoint.config, path)).astype(dtype)
    write_tensor(checkpoint.file(path), values)
    assert same(checkpoint.read(path), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
def test_values_that_are_not_finite_are_refused(bad, dtype, tiny3):
    checkpoint = open_checkpoint(tiny3)
    values = np.ones((64, 8), dtype)
    values[3, 4] = values[5, 6] = bad
    write_tensor(checkpoint.file(router_path(0)), values)
    with pytest.raises(CheckpointError, match="2 values are not finite. The file is damaged"):
        checkpoint.read(router_path(0))


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_last_of_many_values_is_checked_too(order, tmp_path):
    config = dataclasses.replace(open_checkpoint(DATA / "tiny3").config, vocab_size=70_000)
    (tmp_path / "ckpt-0").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    values = np.zeros((70_000, 64), np.float32, order=order)
    values[-1, -1] = np.nan
    write_tensor(tmp_path / "ckpt-0" / "tensor00000_000", values)
    with pytest.raises(CheckpointError, match="1 values are not finite"):
        open_checkpoint(tmp_path).read("language_model/in_out_embed/embeddings")


def test_scales_that_are_not_finite_are_refused(tiny3):
    checkpoint = open_checkpoint(tiny3)
    path = "transformer/decoder_layer_0/moe/linear/w"
    weight = checkpoint.read(path)
    assert isinstance(weight, QuantizedWeight8bit)
    scales = weight.scales.copy()
    scales[0, 0, 0] = np.nan
    write_tensor(checkpoint.file(path), QuantizedWeight8bit(weight.weight, scales))
    with pytest.raises(CheckpointError, match="1 values are not finite"):
        checkpoint.read(path)


def test_reading_needs_no_jax():
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('jax', 'haiku', 'streamlit', 'scipy')))\n"
        "from grok.checkpoints.grok1 import open_checkpoint, router_path\n"
        "print(open_checkpoint(sys.argv[1]).read(router_path(0)).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, DATA / "tiny3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == ("(64, 8)\n", "")


# --- writing ------------------------------------------------------------------------


def all_tensors(checkpoint):
    return {path: checkpoint.read(path) for path in checkpoint.paths}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_checkpoint_written_again_is_the_same_to_the_byte(name, tmp_path):
    checkpoint = open_checkpoint(DATA / name)
    copy = write_checkpoint(tmp_path / "new" / "copy", checkpoint.config, all_tensors(checkpoint))
    assert copy.config == checkpoint.config
    assert sorted(os.listdir(copy.tensor_folder)) == sorted(os.listdir(checkpoint.tensor_folder))
    for path in checkpoint.paths:
        assert copy.file(path).read_bytes() == checkpoint.file(path).read_bytes(), path
        assert same(copy.read(path), checkpoint.read(path))


def test_further_files_are_copied_beside_the_tensors(tmp_path):
    checkpoint = open_checkpoint(DATA / "tiny3")
    (tmp_path / "any").write_bytes(b"pieces")
    copy = write_checkpoint(
        tmp_path / "copy",
        checkpoint.config,
        all_tensors(checkpoint),
        extra_files={"tokenizer.model": tmp_path / "any"},
    )
    assert copy.tokenizer_file is not None
    assert copy.tokenizer_file.read_bytes() == b"pieces"


def test_missing_and_unknown_parameters_are_named_and_nothing_is_written(tmp_path):
    checkpoint = open_checkpoint(DATA / "tiny3")
    tensors = all_tensors(checkpoint)
    tensors["transformer/decoder_layer_7/router/w"] = tensors.pop(router_path(1))
    with pytest.raises(
        CheckpointError, match="missing parameters .*layer_1/router.* unknown .*layer_7/router"
    ):
        write_checkpoint(tmp_path / "copy", checkpoint.config, tensors)
    assert os.listdir(tmp_path) == []


def test_a_wrong_shape_is_named_and_nothing_is_written(tmp_path):
    checkpoint = open_checkpoint(DATA / "tiny3")
    tensors = all_tensors(checkpoint) | {router_path(1): np.ones((8, 64), np.float32)}
    with pytest.raises(CheckpointError, match=r"layer_1/router/w has shape \[8, 64\], expected"):
        write_checkpoint(tmp_path / "copy", checkpoint.config, tensors)
    assert os.listdir(tmp_path) == []


def test_a_wrong_dtype_leaves_no_half_written_folder(tmp_path):
    checkpoint = open_checkpoint(DATA / "tiny3")
    tensors = all_tensors(checkpoint) | {router_path(2): np.ones((64, 8), np.float64)}
    with pytest.raises(CheckpointError, match="dtype float64; expected int8, float32 or bfloat16"):
        write_checkpoint(tmp_path / "copy", checkpoint.config, tensors)
    assert os.listdir(tmp_path) == []


def test_a_folder_in_use_is_not_written_to(tmp_path):
    checkpoint = open_checkpoint(DATA / "tiny3")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
        write_checkpoint(tmp_path, checkpoint.config, all_tensors(checkpoint))
    assert os.listdir(tmp_path) == ["notes.txt"]
