import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok.checkpoints.grok1 import moe_norm_path, open_checkpoint, router_path, tensor_paths
from grok.checkpoints.tensor_file import QuantizedWeight8bit, write_tensor
from grok.config import GROK_1, GrokConfig
from lens.errors import LensError
from lens.extract.__main__ import main
from lens.extract.grok1 import extract_routers
from lens.routers.router_set import load_routers

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
GOLDEN = ["tiny3", "tiny3_bf16scales", "shard8", "tiny12"]


def config_of(n_layers, d_model=24, top_k=2, n_experts=8):
    values = GROK_1.to_dict()
    values["model"] |= {
        "emb_size": d_model,
        "num_layers": n_layers,
        "num_selected_experts": top_k,
        "num_experts": n_experts,
    }
    return GrokConfig.from_dict(values)


def router_of(layer, config):
    """A router that says which layer it is of: its first row is the layer's number."""
    values = np.random.default_rng(layer).normal(size=(config.d_model, config.n_experts))
    values[0] = layer
    return values.astype(np.float32)


def write_router_files(folder, config, *, dtype=np.float32, norms=True):
    """A checkpoint folder with nothing but the files that extraction needs."""
    ckpt = folder / "ckpt-0"
    ckpt.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    paths = tensor_paths(config.n_layers)
    for layer in range(config.n_layers):
        index = paths.index(router_path(layer))
        write_tensor(ckpt / f"tensor{index:05d}_000", router_of(layer, config).astype(dtype))
        if norms:
            index = paths.index(moe_norm_path(layer))
            scale = np.full(config.d_model, 1 + layer, dtype=dtype)
            write_tensor(ckpt / f"tensor{index:05d}_000", scale)
    return folder


@pytest.fixture
def tiny3(tmp_path):
    """A copy of a small checkpoint that a test may damage."""
    return Path(shutil.copytree(DATA / "tiny3", tmp_path / "tiny3"))


@pytest.mark.parametrize("name", GOLDEN)
def test_the_routers_found_are_those_that_the_official_code_used(name):
    routers = extract_routers(DATA / name)
    with np.load(DATA / f"{name}.golden.f32.npz") as golden:
        inputs = golden["len7.f32.router_input"][:, 0]
        logits = golden["len7.f32.router_logits"][:, 0]
    found = np.einsum("ltd,lde->lte", inputs, routers.routers)
    np.testing.assert_allclose(found, logits, atol=1e-3)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_norms_found_are_those_before_the_router(name):
    routers = extract_routers(DATA / name)
    with np.load(DATA / f"{name}.golden.f32.npz") as golden:
        inputs = golden["len33.f32.router_input"][:, 0].astype(float)
    # RMSNorm's output over its scale has mean square 1 (a little less, for eps), token by token.
    assert routers.norm_scales is not None
    mean_square = ((inputs / routers.norm_scales[:, None]) ** 2).mean(-1)
    np.testing.assert_allclose(mean_square, 1, atol=1e-3)


@pytest.mark.parametrize("n_layers", [1, 9, 11, 12, 64, 101])
def test_every_layer_is_in_its_own_row(n_layers, tmp_path):
    config = config_of(n_layers)
    routers = extract_routers(write_router_files(tmp_path / "model", config))
    assert routers.norm_scales is not None and routers.layer_ids is not None
    for layer in range(n_layers):
        np.testing.assert_array_equal(routers.routers[layer], router_of(layer, config))
    np.testing.assert_array_equal(routers.norm_scales[:, 0], 1 + np.arange(n_layers))
    np.testing.assert_array_equal(routers.layer_ids, np.arange(n_layers))


def test_settings_come_from_the_config(tmp_path):
    routers = extract_routers(write_router_files(tmp_path / "my model", config_of(2, top_k=3)))
    assert routers.top_k == 3
    assert routers.score == "softmax"
    assert routers.source == "checkpoint 'my model'"


def test_a_checkpoint_of_the_released_shape_is_called_grok_1(tmp_path):
    ckpt = tmp_path / "ckpt-0"
    ckpt.mkdir()
    for layer in range(64):
        values = np.random.default_rng(layer).random((6144, 8), np.float32)
        write_tensor(
            ckpt / f"tensor{13 + 12 * sorted(range(64), key=str).index(layer):05d}_000", values
        )
    routers = extract_routers(ckpt, norms=False)
    assert routers.source == "Grok-1 checkpoint"
    assert routers.routers.shape == (64, 6144, 8)
    np.testing.assert_array_equal(
        routers.routers[2], np.random.default_rng(2).random((6144, 8), np.float32)
    )


def test_no_path_of_this_machine_gets_into_the_file(tmp_path):
    output = tmp_path / "routers.npz"
    assert main(["--checkpoint", str(DATA / "tiny3"), "--output", str(output)]) == 0
    assert load_routers(output).source == "checkpoint 'tiny3'"
    assert str(ROOT).encode() not in output.read_bytes()


def test_bfloat16_files_become_the_same_float32_values(tmp_path):
    config = config_of(3)
    routers = extract_routers(write_router_files(tmp_path / "m", config, dtype=ml_dtypes.bfloat16))
    for layer in range(3):
        exact = router_of(layer, config).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(routers.routers[layer], exact)
    assert routers.norm_scales is not None
    np.testing.assert_array_equal(routers.norm_scales[:, 0], [1, 2, 3])


def test_a_fortran_ordered_router_is_read_like_any_other(tmp_path):
    config = config_of(2)
    folder = write_router_files(tmp_path / "m", config)
    checkpoint = open_checkpoint(folder)
    write_tensor(checkpoint.file(router_path(1)), np.asfortranarray(router_of(1, config)))
    np.testing.assert_array_equal(extract_routers(folder).routers[1], router_of(1, config))


def test_only_router_and_norm_files_are_opened(monkeypatch):
    opened = []
    real = Path.open

    def recording(self, *args, **kwargs):
        opened.append(self.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", recording)
    extract_routers(DATA / "tiny12")
    checkpoint = open_checkpoint(DATA / "tiny12")
    needed = [
        checkpoint.file(p(layer)).name for layer in range(12) for p in (router_path, moe_norm_path)
    ]
    tensors = [name for name in opened if name.startswith("tensor")]
    assert sorted(tensors) == sorted(needed)


def test_only_router_and_norm_files_have_to_be_there(tiny3):
    whole = extract_routers(tiny3)
    checkpoint = open_checkpoint(tiny3)
    for path in checkpoint.paths:
        if "router/w" not in path and "rms_norm_2" not in path:
            checkpoint.file(path).unlink()
    assert extract_routers(tiny3).sha256 == whole.sha256


def test_without_norms_only_routers_have_to_be_there(tmp_path):
    folder = write_router_files(tmp_path / "m", config_of(12), norms=False)
    routers = extract_routers(folder, norms=False)
    assert routers.norm_scales is None
    with pytest.raises(LensError, match="12 of the 24 router and norm files .* are not there"):
        extract_routers(folder)


def test_progress_counts_every_file_once():
    seen = []
    extract_routers(DATA / "tiny3", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]


# --- refusals -------------------------------------------------------------------


def test_missing_layers_are_named(tiny3):
    checkpoint = open_checkpoint(tiny3)
    checkpoint.file(router_path(1)).unlink()
    with pytest.raises(LensError, match="1 of the 6 .*tensor00025_000 .*decoder_layer_1/router/w"):
        extract_routers(tiny3)


def test_a_config_of_more_layers_than_there_are_is_refused(tiny3):
    text = (tiny3 / "config.json").read_text().replace('"num_layers": 3', '"num_layers": 4')
    (tiny3 / "config.json").write_text(text)
    with pytest.raises(LensError, match="2 of the 8 .* model with 4 layers are not there"):
        extract_routers(tiny3)


def test_a_config_of_fewer_layers_than_there_are_is_refused(tiny3):
    text = (tiny3 / "config.json").read_text().replace('"num_layers": 3', '"num_layers": 2')
    (tiny3 / "config.json").write_text(text)
    with pytest.raises(LensError, match="a model of 2 layers has 26 files"):
        extract_routers(tiny3)


def test_two_identical_routers_are_refused_by_both_names(tiny3):
    checkpoint = open_checkpoint(tiny3)
    shutil.copyfile(checkpoint.file(router_path(0)), checkpoint.file(router_path(2)))
    with pytest.raises(
        LensError, match=r"tensor00037_000 .*layer_2.* as tensor00013_000 .*layer_0"
    ):
        extract_routers(tiny3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("path", [router_path(1), moe_norm_path(1)])
def test_values_that_are_not_finite_are_refused_with_their_file(path, bad, tiny3):
    checkpoint = open_checkpoint(tiny3)
    values = np.array(checkpoint.read(path))
    values[3] = bad
    write_tensor(checkpoint.file(path), values)
    with pytest.raises(LensError, match=f"{checkpoint.file(path).name} .{path}.*not finite"):
        extract_routers(tiny3)


def test_a_router_of_another_shape_is_refused_with_both_shapes(tiny3):
    checkpoint = open_checkpoint(tiny3)
    write_tensor(checkpoint.file(router_path(0)), np.ones((8, 64), np.float32))
    with pytest.raises(LensError, match=r"shape \[8, 64\]; expected \[64, 8\]"):
        extract_routers(tiny3)


def test_a_quantized_router_is_refused(tiny3):
    checkpoint = open_checkpoint(tiny3)
    weight = QuantizedWeight8bit(np.ones((64, 8), np.int8), np.ones((1, 8), np.float32))
    write_tensor(checkpoint.file(router_path(0)), weight)
    with pytest.raises(LensError, match="int8 weight; expected a plain float array"):
        extract_routers(tiny3)


def test_a_zero_column_is_refused_with_layer_and_expert(tiny3):
    checkpoint = open_checkpoint(tiny3)
    values = np.array(checkpoint.read(router_path(1)))
    values[:, 5] = 0
    write_tensor(checkpoint.file(router_path(1)), values)
    with pytest.raises(LensError, match="Layer 1, expert 5: .* zero norm"):
        extract_routers(tiny3)


def test_a_foreign_pickle_is_refused_and_not_executed(tiny3, tmp_path):
    marker = tmp_path / "executed"
    program = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    open_checkpoint(tiny3).file(router_path(1)).write_bytes(program)
    with pytest.raises(LensError, match=r"asks for os\.system.* Nothing was executed"):
        extract_routers(tiny3)
    assert not marker.exists()


# --- the command ----------------------------------------------------------------


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lens.extract", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_writes_a_file_that_opens(tmp_path):
    output = tmp_path / "routers.npz"
    done = command("--checkpoint", DATA / "tiny12", "--output", output)
    assert (done.returncode, done.stderr) == (0, "")
    routers = load_routers(output)
    assert routers.sha256 == extract_routers(DATA / "tiny12").sha256
    assert "12 layers of routers [64, 8], top 2, softmax, with norm scales" in done.stdout
    assert routers.sha256 in done.stdout
    checkpoint = open_checkpoint(DATA / "tiny12")
    n_bytes = sum(
        checkpoint.file(p(layer)).stat().st_size
        for layer in range(12)
        for p in (router_path, moe_norm_path)
    )
    assert f"{n_bytes:,} bytes read from 24 files" in done.stdout


def test_the_command_takes_the_folder_of_the_tensors_itself(tmp_path):
    output = tmp_path / "routers.npz"
    assert main(["--checkpoint", str(DATA / "tiny3" / "ckpt-0"), "--output", str(output)]) == 0
    assert load_routers(output).n_layers == 3


def test_the_command_leaves_norms_out_when_told(tmp_path):
    output = tmp_path / "routers.npz"
    code = main(["--checkpoint", str(DATA / "tiny3"), "--output", str(output), "--no-norms"])
    assert code == 0
    assert load_routers(output).norm_scales is None


def test_a_refused_checkpoint_ends_with_2_and_a_message(tiny3, tmp_path):
    open_checkpoint(tiny3).file(router_path(2)).write_bytes(b"not a tensor")
    output = tmp_path / "routers.npz"
    done = command("--checkpoint", tiny3, "--output", output)
    assert done.returncode == 2
    assert done.stderr.startswith("Nothing was written.")
    assert "tensor00037_000" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not output.exists()


def test_a_refused_checkpoint_leaves_the_earlier_output_as_it_was(tiny3, tmp_path, capsys):
    output = tmp_path / "out" / "routers.npz"
    output.parent.mkdir()
    arguments = ["--checkpoint", str(tiny3), "--output", str(output)]
    assert main(arguments) == 0
    before = output.read_bytes()
    open_checkpoint(tiny3).file(router_path(2)).unlink()
    assert main(arguments) == 2
    assert "tensor00037_000" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert os.listdir(output.parent) == ["routers.npz"]


def test_an_existing_output_is_replaced(tmp_path):
    output = tmp_path / "routers.npz"
    output.write_bytes(b"old")
    assert main(["--checkpoint", str(DATA / "tiny3"), "--output", str(output)]) == 0
    assert load_routers(output).n_layers == 3
    assert os.listdir(tmp_path) == ["routers.npz"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    output = tmp_path / "routers.npz"
    output.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert main(["--checkpoint", str(DATA / "tiny3"), "--output", str(output)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert output.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["routers.npz"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "this is a folder"),
        ("no/such/folder/routers.npz", "there is no folder"),
        ("routers.bin", r"ends in \.npz"),
        ("pipe.npz", "no ordinary file"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(
    output, message, tmp_path, monkeypatch, capsys
):
    os.mkfifo(tmp_path / "pipe.npz")
    read = "lens.extract.__main__.extract_routers"
    monkeypatch.setattr(read, lambda *_, **__: pytest.fail("was read"))
    assert main(["--checkpoint", str(DATA / "tiny3"), "--output", str(tmp_path / output)]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("missing", ["--checkpoint", "--output"])
def test_both_arguments_are_needed(missing, capsys):
    arguments = {"--checkpoint": "a", "--output": "b.npz"}
    del arguments[missing]
    with pytest.raises(SystemExit) as stopped:
        main([text for pair in arguments.items() for text in pair])
    assert stopped.value.code == 2
    assert missing in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    arguments = ["--checkpoint", str(DATA / "tiny3"), "--output", str(tmp_path / "r.npz")]
    main(arguments)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    main(arguments)
    assert capsys.readouterr().err.endswith("\rReading routers: 6 of 6 files\n")


def test_extraction_needs_neither_jax_nor_streamlit(tmp_path):
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('jax', 'haiku', 'streamlit', 'altair', 'scipy')))\n"
        "from lens.extract.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    output = tmp_path / "routers.npz"
    done = subprocess.run(
        [sys.executable, "-c", program, "--checkpoint", DATA / "tiny3", "--output", output],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert load_routers(output).n_layers == 3
