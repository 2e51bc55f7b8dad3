import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok.checkpoints.grok1 import open_checkpoint
from grok.checkpoints.tensor_file import (
    QuantizedWeight8bit,
    dequantize,
    read_tensor,
    write_tensor,
)
from grok.errors import CheckpointError

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
GOLDEN = ["tiny3", "tiny3_bf16scales", "shard8", "tiny12"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def quantized(shape, groups=1, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, shape).astype(np.int8)
    scales = rng.random((*shape[:-2], groups, shape[-1])).astype(dtype)
    return QuantizedWeight8bit(weight, scales)


# --- reading what is right --------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_rewritten_files_are_the_same_to_the_byte(name, tmp_path):
    checkpoint = open_checkpoint(DATA / name)
    for path in checkpoint.paths:
        original = checkpoint.file(path)
        write_tensor(tmp_path / "again", read_tensor(original))
        assert (tmp_path / "again").read_bytes() == original.read_bytes(), path


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.int8])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4), (0, 4), (300, 257)])
def test_arrays_come_back_exactly(dtype, order, shape, tmp_path):
    values = np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)
    values = np.asarray(values, order=order)
    write_tensor(tmp_path / "t", values)
    found = read_tensor(tmp_path / "t")
    assert isinstance(found, np.ndarray)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)
    assert found.flags.c_contiguous == values.flags.c_contiguous


def test_signs_of_zero_and_the_smallest_numbers_come_back_to_the_bit(tmp_path):
    values = np.array([-0.0, 1e-45, np.finfo(np.float32).max, -np.inf, np.nan], np.float32)
    write_tensor(tmp_path / "t", values)
    assert read_tensor(tmp_path / "t").tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
@pytest.mark.parametrize(("shape", "groups"), [((6, 5), 1), ((16, 8), 8), ((8, 16, 8), 4)])
def test_int8_weights_stay_int8_and_keep_their_scales(dtype, shape, groups, tmp_path):
    weight = quantized(shape, groups, dtype)
    write_tensor(tmp_path / "t", weight)
    found = read_tensor(tmp_path / "t")
    assert isinstance(found, QuantizedWeight8bit)
    assert found.weight.dtype == np.int8 and found.scales.dtype == dtype
    np.testing.assert_array_equal(found.weight, weight.weight)
    np.testing.assert_array_equal(found.scales, weight.scales)
    assert found.shape == shape
    assert found.nbytes == weight.weight.nbytes + weight.scales.nbytes


def test_each_group_of_rows_has_its_own_scale():
    weight = QuantizedWeight8bit(
        np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int8),
        np.array([[1, 10], [100, 1000]], np.float32),
    )
    np.testing.assert_array_equal(dequantize(weight), [[1, 20], [3, 40], [500, 6000], [700, 8000]])


@pytest.mark.parametrize(
    ("make", "arguments", "n_bytes"),
    [
        (np.zeros, (6144, np.float32), 24_727),
        (np.zeros, ((6144, 8), np.float32), 196_770),
        (quantized, ((6144, 1024), 1, BFLOAT16), 6_293_814),
        (quantized, ((6144, 6144), 8, BFLOAT16), 37_847_359),
        (quantized, ((6144, 6144), 1, BFLOAT16), 37_761_334),
    ],
    ids=["norm", "router", "key and value", "attention output", "query"],
)
def test_files_of_the_released_shapes_have_the_released_size(make, arguments, n_bytes, tmp_path):
    write_tensor(tmp_path / "t", make(*arguments))
    assert (tmp_path / "t").stat().st_size == n_bytes


@pytest.mark.parametrize(
    "tensor",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.arange(70_000, dtype=np.float32).astype(BFLOAT16),
        quantized((64, 32), 8, BFLOAT16),
        quantized((4, 64, 300), 1, np.float32),
    ],
    ids=["small", "fortran", "bfloat16", "grouped", "experts"],
)
def test_the_official_way_of_reading_opens_what_was_written(tensor, tmp_path):
    # The official loader unpickles in a program whose __main__ has the class.
    write_tensor(tmp_path / "t", tensor)
    program = """
import pickle, sys, warnings
import ml_dtypes
import numpy as np

class QuantizedWeight8bit:
    pass

warnings.simplefilter("ignore")
with open(sys.argv[1], "rb") as file:
    found = pickle.load(file)
parts = [found.weight, found.scales] if isinstance(found, QuantizedWeight8bit) else [found]
np.savez(sys.argv[2], *[np.ascontiguousarray(part).view(np.uint8) for part in parts])
print(*[part.dtype for part in parts], *[part.shape for part in parts])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "t", tmp_path / "out.npz"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    parts = [tensor.weight, tensor.scales] if isinstance(tensor, QuantizedWeight8bit) else [tensor]
    expected = [str(part.dtype) for part in parts] + [str(part.shape) for part in parts]
    assert done.stdout.strip() == " ".join(expected)
    with np.load(tmp_path / "out.npz") as found:
        for part, name in zip(parts, found.files, strict=True):
            np.testing.assert_array_equal(found[name], np.ascontiguousarray(part).view(np.uint8))


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_pickled_by_the_numpy_of_today_are_read(protocol, tmp_path):
    values = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    (tmp_path / "t").write_bytes(pickle.dumps(values, protocol=protocol))
    if protocol == 2:  # stores bytes as encoded text, which the format never does
        with pytest.raises(CheckpointError, match=r"_codecs\.encode"):
            read_tensor(tmp_path / "t")
    else:
        np.testing.assert_array_equal(read_tensor(tmp_path / "t"), values)


def test_only_names_of_the_format_are_written(tmp_path):
    write_tensor(tmp_path / "t", quantized((64, 32), 8, BFLOAT16))
    data = (tmp_path / "t").read_bytes()
    strings = {value for _, value, _ in pickletools.genops(data) if isinstance(value, str)}
    modules = {"numpy.core.multiarray", "numpy", "ml_dtypes", "__main__"}
    names = {"_reconstruct", "ndarray", "dtype", "bfloat16", "QuantizedWeight8bit"}
    assert strings == modules | names | {"weight", "scales", "i1", "<", "|"}


def test_reading_keeps_one_copy_in_memory(tmp_path):
    n_bytes = 64 * 2**20
    write_tensor(tmp_path / "t", np.zeros(n_bytes // 4, np.float32))
    program = (
        "import sys, tracemalloc\n"
        "from pathlib import Path\n"
        "from grok.checkpoints.tensor_file import read_tensor\n"
        "tracemalloc.start()\n"
        "tensor = read_tensor(Path(sys.argv[1]))\n"
        "print(tracemalloc.get_traced_memory()[1], tensor.nbytes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "t"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    peak, found = map(int, done.stdout.split())
    assert found == n_bytes
    assert peak < 1.02 * n_bytes


# --- refusing to write --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.bool_, ">f4", object])
def test_dtypes_that_the_format_lacks_are_not_written(dtype, tmp_path):
    with pytest.raises(CheckpointError, match="expected int8, float32 or bfloat16"):
        write_tensor(tmp_path / "t", np.zeros(3, dtype))
    assert os.listdir(tmp_path) == []


def test_scales_that_do_not_fit_are_not_written(tmp_path):
    weight = QuantizedWeight8bit(np.zeros((6, 4), np.int8), np.zeros((4, 4), np.float32))
    with pytest.raises(CheckpointError, match="do not fit a weight of shape"):
        write_tensor(tmp_path / "t", weight)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_tensor(tmp_path / "t", np.ones(3, np.float32))
    before = (tmp_path / "t").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensor(tmp_path / "t", np.zeros(3, np.float32))
    assert (tmp_path / "t").read_bytes() == before
    assert os.listdir(tmp_path) == ["t"]
