import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok.checkpoint import open_checkpoint
from grok.errors import CheckpointError
from grok.tensor_file import QuantizedWeight8bit, dequantize, read_tensor, write_tensor

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
GOLDEN = ["tiny3", "tiny3_bf16scales", "shard8", "tiny12"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def quantized(shape, groups=1, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, shape).astype(np.int8)
    scales = rng.random((*shape[:-2], groups, shape[-1])).astype(dtype)
    return QuantizedWeight8bit(weight, scales)


def text(value):
    """A short unicode string as pickle bytes."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module, name):
    return text(module) + text(name) + b"\x93"


RECONSTRUCTED = (
    named("numpy.core.multiarray", "_reconstruct")
    + named("numpy", "ndarray")
    + b"K\x00\x85C\x01b\x87R"
)


def dtype_of(code, order="<"):
    return (
        named("numpy", "dtype") + text(code) + b"\x89\x88\x87R"
        b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )


def array_of(shape=b"K\x02\x85", dtype=None, data=b"C\x08" + b"\x00" * 8, fortran=b"\x89"):
    """A pickled array, put together by hand so that any part of it can be wrong."""
    return RECONSTRUCTED + b"(K\x01" + shape + (dtype or dtype_of("f4")) + fortran + data + b"tb"


def quantized_of(attributes):
    return named("__main__", "QuantizedWeight8bit") + b")\x81" + attributes + b"b"


def written(tmp_path, body):
    file = tmp_path / "tensor00000_000"
    file.write_bytes(b"\x80\x04" + body + b".")
    return file


# --- reading what is right --------------------------------------------------------


def test_the_hand_made_array_is_a_good_one(tmp_path):
    np.testing.assert_array_equal(read_tensor(written(tmp_path, array_of())), [0.0, 0.0])


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
    ("tensor", "n_bytes"),
    [
        (np.zeros(6144, np.float32), 24_727),
        (np.zeros((6144, 8), np.float32), 196_770),
        (quantized((6144, 1024), 1, BFLOAT16), 6_293_814),
        (quantized((6144, 6144), 8, BFLOAT16), 37_847_359),
        (quantized((6144, 6144), 1, BFLOAT16), 37_761_334),
    ],
    ids=["norm", "router", "key and value", "attention output", "query"],
)
def test_files_of_the_released_shapes_have_the_released_size(tensor, n_bytes, tmp_path):
    write_tensor(tmp_path / "t", tensor)
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
        timeout=60,
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
        "from grok.tensor_file import read_tensor\n"
        "tracemalloc.start()\n"
        "tensor = read_tensor(Path(sys.argv[1]))\n"
        "print(tracemalloc.get_traced_memory()[1], tensor.nbytes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "t"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
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


# --- refusing to read ---------------------------------------------------------------


class Foreign:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_foreign_call_is_refused_by_name_and_not_executed(tmp_path):
    marker = tmp_path / "executed"
    for protocol in range(5):
        data = pickle.dumps(Foreign(os.system, f"touch {marker}"), protocol=protocol)
        (tmp_path / "t").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"refused"):
            read_tensor(tmp_path / "t")
    assert not marker.exists()
    with pytest.raises(CheckpointError, match=r"posix\.system.*Nothing was executed"):
        read_tensor(tmp_path / "t")


def test_a_foreign_call_inside_a_quantized_weight_is_refused_and_not_executed(tmp_path):
    marker = tmp_path / "executed"
    call = named("os", "system") + text(f"touch {marker}"[:200]) + b"\x85R"
    body = quantized_of(b"}(" + text("weight") + array_of() + text("scales") + call + b"u")
    with pytest.raises(CheckpointError, match=r"asks for os\.system"):
        read_tensor(written(tmp_path, body))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "frombuffer"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("numpy.core", "multiarray._reconstruct"),
        ("ml_dtypes", "float8_e4m3fn"),
        ("__main__", "QuantizedWeight8bit.__init__"),
        ("__main__", "Other"),
        ("grok.tensor_file", "read_tensor"),
        ("_codecs", "encode"),
        ("copyreg", "_reconstructor"),
        ("", ""),
    ],
)
def test_any_other_name_is_refused(module, name, tmp_path):
    old_style = b"c" + module.encode() + b"\n" + name.encode() + b"\n"
    for body in (named(module, name), old_style):
        with pytest.raises(CheckpointError) as error:
            read_tensor(written(tmp_path, body))
        assert f"refused: the file asks for {module}.{name}," in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        b"Pname\n",  # persistent id
        b"K\x01Q",
        b"\x82\x01",  # extension registry
        b"(ios\nsystem\n",  # instance of a named class
        b"(" + named("numpy", "ndarray") + b"o",
        b"]",  # a list
        b"\x8f",  # a set
        b"I1\n",
        b"\x96" + struct.pack("<Q", 2**40),  # a byte array of any length
        b"\x97",  # an out-of-band buffer
        named("__main__", "QuantizedWeight8bit") + b")}\x92",
    ],
)
def test_instructions_that_no_tensor_needs_are_refused(body, tmp_path):
    with pytest.raises(CheckpointError, match="refused: pickle instruction"):
        read_tensor(written(tmp_path, body))


@pytest.mark.parametrize(
    "target",
    [
        named("numpy", "dtype"),
        named("numpy", "ndarray"),
        named("numpy", "ndarray") + b")\x81",
        named("ml_dtypes", "bfloat16"),
        named("numpy.core.multiarray", "_reconstruct"),
        named("__main__", "QuantizedWeight8bit"),
        b"K\x01",
        b"}",
    ],
)
def test_a_file_cannot_set_attributes_of_the_reader(target, tmp_path):
    state = b"N}" + text("__doc__") + text("changed") + b"s\x86b"
    with pytest.raises(CheckpointError, match="sets attributes of something that has none"):
        read_tensor(written(tmp_path, target + state))


def test_deep_nesting_does_not_bring_the_interpreter_down(tmp_path):
    body = b"}K\x01" + b"\x85" * 300_000 + b"K\x01s"
    file = written(tmp_path, body)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from grok.tensor_file import read_tensor\n"
        "read_tensor(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, file], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "CheckpointError" in done.stderr


def test_a_large_memo_index_takes_no_memory(tmp_path):
    file = written(tmp_path, b"K\x01r" + struct.pack("<I", 2**28))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="neither an array nor"):
        read_tensor(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (array_of(dtype=dtype_of("f4", ">")), "byte order is '>'"),
        (array_of(dtype=dtype_of("O", "|")), "dtype 'O'; expected int8, float32 or bfloat16"),
        (array_of(dtype=dtype_of("f8")), "dtype 'f8'"),
        (array_of(dtype=dtype_of("V4", "|")), "dtype 'V4'"),
        (array_of(dtype=text("f4")), "state is malformed"),
        (array_of(shape=b"K\x03\x85"), "needs 12 bytes; the file holds 8"),
        (array_of(shape=b"K\x01\x85"), "needs 4 bytes; the file holds 8"),
        (array_of(shape=b"J\xff\xff\xff\xff\x85"), r"shape is \(-1,\)"),
        (array_of(shape=b"\x88\x85"), r"shape is \(True,\)"),
        (array_of(shape=b"K\x02"), "shape is 2"),
        (array_of(shape=b"(" + b"K\x01" * 9 + b"t"), "shape is"),
        (array_of(shape=b"(" + b"\x8a\xff" + b"\x7f" * 255 + b"K\x02t"), "the file holds 8"),
        (array_of(data=text("12345678")), "state is malformed"),
        (array_of(data=b"N"), "state is malformed"),
        (RECONSTRUCTED, "something else where an array is due"),
        (RECONSTRUCTED + b"K\x01\x85b", "state is malformed"),
        (RECONSTRUCTED + b"Nb", "state is malformed"),
        (named("numpy", "ndarray"), "neither an array nor a QuantizedWeight8bit"),
        (b"N", "neither an array nor a QuantizedWeight8bit"),
        (array_of() + array_of() + b"\x86", "neither an array nor a QuantizedWeight8bit"),
        (named("numpy", "dtype") + b")R", "not a tensor file"),
        (text("x") + b")R", "not a tensor file"),
        (b"R", "not a tensor file"),
        (b"b", "not a tensor file"),
        (b"h\x09", "not a tensor file"),
        (quantized_of(b"}"), "other attributes than its two"),
        (quantized_of(b"N"), "other attributes than its two"),
        (named("__main__", "QuantizedWeight8bit") + b")\x81", "neither an array nor"),
        (
            quantized_of(b"}(" + text("weight") + b"N" + text("scales") + b"Nu"),
            "something else where an array is due",
        ),
        (
            quantized_of(b"}(" + text("weight") + array_of() + text("scales") + array_of() + b"u"),
            "dtypes float32 and float32; expected int8",
        ),
        (b"}K\x01K\x02s", "fills something else than named attributes"),
        (b"})K\x02s", "fills something else than named attributes"),
        (b"}(K\x01K\x02u", "fills something else than named attributes"),
        (b"K\x05" + text("a") + b"K\x02s", "fills something else than named attributes"),
    ],
)
def test_malformed_tensors_are_refused(body, message, tmp_path):
    with pytest.raises(CheckpointError, match=message) as error:
        read_tensor(written(tmp_path, body))
    assert "tensor00000_000" in str(error.value)


@pytest.mark.parametrize(
    "lie",
    [
        b"\x8e" + struct.pack("<Q", 2**60),  # bytes
        b"B" + struct.pack("<I", 2**31),
        b"X" + struct.pack("<I", 2**31),  # text
        b"\x95" + struct.pack("<Q", 2**50),  # a frame
    ],
)
def test_lengths_beyond_the_file_are_refused_before_memory_is_taken(lie, tmp_path):
    file = written(tmp_path, lie + b"12345")
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="truncated: .* more bytes are due and 6 are there"):
        read_tensor(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    "tensor",
    [np.ones((6, 8), np.float32), np.ones(20_000, np.float32), quantized((16, 8), 8, BFLOAT16)],
    ids=["small", "out of frame", "quantized"],
)
def test_every_truncation_is_refused(tensor, tmp_path):
    write_tensor(tmp_path / "whole", tensor)
    data = (tmp_path / "whole").read_bytes()
    cuts = {*range(0, len(data), max(1, len(data) // 200)), *range(300), len(data) - 1}
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        (tmp_path / "t").write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            read_tensor(tmp_path / "t")


def test_altered_bytes_give_a_tensor_or_a_message_and_nothing_else(tmp_path):
    write_tensor(tmp_path / "whole", quantized((4, 4), 2, BFLOAT16))
    data = (tmp_path / "whole").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "t").write_bytes(damaged)
        try:
            found = read_tensor(tmp_path / "t")
        except CheckpointError:
            refused += 1
        else:
            assert isinstance(found, np.ndarray | QuantizedWeight8bit)
    assert refused > 1000


def test_bytes_after_the_tensor_are_refused(tmp_path):
    write_tensor(tmp_path / "t", np.ones(3, np.float32))
    with (tmp_path / "t").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match="4 bytes are left after the tensor"):
        read_tensor(tmp_path / "t")


def test_a_file_much_larger_than_its_place_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "t").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="the file has 1099511627776 bytes"):
        read_tensor(tmp_path / "t", max_bytes=1000)


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 1000, b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80"]
)
def test_other_files_are_refused(data, tmp_path):
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(CheckpointError, match="/t: "):
        read_tensor(tmp_path / "t")


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="there is no such file. Complete the download"):
        read_tensor(tmp_path / "none")
    for name in (".", "pipe"):
        with pytest.raises(CheckpointError, match="no ordinary file"):
            read_tensor(tmp_path / name)
