import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from grok.checkpoints.tensor_file import QuantizedWeight8bit, read_tensor, write_tensor
from grok.errors import CheckpointError

ROOT = Path(__file__).parents[3]
WEIGHT = QuantizedWeight8bit(
    np.arange(32, dtype=np.int8).reshape(8, 4), np.ones((4, 4), ml_dtypes.bfloat16)
)


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


def test_the_hand_made_array_is_a_good_one(tmp_path):
    np.testing.assert_array_equal(read_tensor(written(tmp_path, array_of())), [0.0, 0.0])


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
        ("grok.checkpoints.tensor_file", "read_tensor"),
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


def test_a_name_that_is_refused_is_shown_as_text(tmp_path):
    with pytest.raises(CheckpointError, match=r"asks for \?\?Sign in\?\?https") as error:
        read_tensor(written(tmp_path, named("\0[Sign in](https:", "x\n")))
    assert str(error.value).isprintable()


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
        "from grok.checkpoints.tensor_file import read_tensor\n"
        "read_tensor(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, file], cwd=ROOT, capture_output=True, text=True, timeout=300
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
    [np.ones((6, 8), np.float32), np.ones(20_000, np.float32), WEIGHT],
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
    write_tensor(tmp_path / "whole", WEIGHT)
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
