"""Headers and single tensors of safetensors files, from strangers too."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from grok.checkpoints import safetensors
from grok.checkpoints.safetensors import FileRanges, parse_json, read_header, read_tensor
from grok.errors import CheckpointError
from tests.small_models import Bytes, D, E, numbers


def with_header(header: bytes, data: bytes = b"", length: int | None = None) -> Bytes:
    said = len(header) if length is None else length
    return Bytes(struct.pack("<Q", said) + header + data)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
def test_every_readable_dtype_gives_the_same_numbers(tmp_path, dtype):
    values = numbers(E, D).astype(dtype)
    save_file({"a": values}, tmp_path / "x.safetensors")
    source = FileRanges(tmp_path / "x.safetensors")
    found = read_tensor(source, "a", read_header(source)["a"])
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_bfloat16_gives_the_float32_of_the_same_upper_bits():
    bits = np.array([0x3F80, 0xBF80, 0x4049, 0x0000, 0x7F80, 0x0001], "<u2")
    header = {"a": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]}}
    source = with_header(json.dumps(header).encode(), bits.tobytes())
    found = read_tensor(source, "a", read_header(source)["a"])
    assert found.tolist()[:5] == [1.0, -1.0, 3.140625, 0.0, np.inf]
    assert 0 < found[5] < 1e-37


def test_only_the_bytes_of_the_header_and_the_tensor_are_asked_for():
    source = Bytes(save({name: numbers(100, 10) for name in "abcd"}))
    entry = read_header(source)["c"]
    start, length = source.asked[1]
    assert source.asked == [(0, 8), (8, length)] and start + length <= entry.begin
    read_tensor(source, "c", entry)
    assert source.asked[2:] == [(entry.begin, 4000)]


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"a": {**ONE, "data_offsets": [0, 99]}}, "expected a range within the 8 bytes"),
        ({"a": {**ONE, "data_offsets": [8, 0]}}, "expected a range within"),
        ({"a": {**ONE, "data_offsets": [-8, 0]}}, "data_offsets"),
        ({"a": {**ONE, "data_offsets": [0, 8, 8]}}, "expected two numbers"),
        ({"a": {**ONE, "shape": [3]}}, r"8 bytes for shape \[3\] of F32; expected 12"),
        ({"a": {**ONE, "shape": [2**40, 2**40]}}, r"8 bytes for shape .* of F32; expected \d+"),
        ({"a": {**ONE, "shape": [-1, -2]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [2**60]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [True, 2]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [2.0]}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "shape": [1] * 9}}, "expected up to 8 whole numbers"),
        ({"a": {**ONE, "dtype": 5}}, "expected a name"),
        ({"a": [1]}, "found list; expected dtype"),
        ({"a": ONE, "b": ONE}, "'a' and 'b' share bytes"),
        ({"a": ONE, "b": {**ONE, "shape": [1], "data_offsets": [4, 8]}}, "share bytes"),
    ],
)
def test_headers_that_lie_are_refused(entries, message):
    with pytest.raises(CheckpointError, match=message):
        read_header(with_header(json.dumps(entries).encode(), bytes(8)))


@pytest.mark.parametrize(
    "header, length, message",
    [
        (b"{}", 10**15, "the header is said to have"),
        (b"{}", 0, "the header is said to have 0 bytes"),
        (b"[1]", None, "found list as JSON"),
        (b'{"a":1,"a":2}', None, "a is there twice"),
        (b"[" * 90_000 + b"]" * 90_000, None, "the JSON cannot be read"),
        (b'{"a":' * 90_000, None, "the JSON cannot be read"),
        (b"\xff\xfe", None, "the JSON cannot be read"),
        (b'{"a":' + b"9" * 9000 + b"}", None, "the JSON cannot be read|expected dtype"),
        (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', None, "whole numbers"),
    ],
)
def test_headers_that_are_none_are_refused(header, length, message):
    with pytest.raises(CheckpointError, match=message):
        read_header(with_header(header, length=length))


def test_a_header_beyond_the_limit_is_refused_unread(monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_HEADER", 100)
    source = with_header(b"{" + b" " * 200 + b"}")
    with pytest.raises(CheckpointError, match="said to have 202 bytes; expected 2 to 100"):
        read_header(source)
    assert source.asked == [(0, 8)]


def test_a_file_that_is_too_short_is_refused():
    with pytest.raises(CheckpointError, match="3 bytes; expected a safetensors file"):
        read_header(Bytes(b"abc"))


def test_many_names_with_one_of_them_twice_are_refused_at_once():
    # Comparing each with each would take hours.
    text = ",".join(f'"{n}":0' for n in [*range(200_000), 199_999])
    with pytest.raises(CheckpointError, match="199999 is there twice"):
        parse_json(b"{" + text.encode() + b"}", "x")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "F4", "U8"])
def test_quantized_tensors_are_refused_unread(dtype):
    header = {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}}
    source = with_header(json.dumps(header).encode(), bytes(8))
    entry = read_header(source)["a"]
    asked = list(source.asked)
    with pytest.raises(CheckpointError, match=f"the dtype is {dtype}; expected one of F64, F32"):
        read_tensor(source, "a", entry)
    assert source.asked == asked


def test_a_tensor_larger_than_any_router_is_refused_unread(tmp_path):
    size = safetensors.MAX_TENSOR + 4
    header = {"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + size)
    source = FileRanges(path)
    with pytest.raises(CheckpointError, match="bytes; expected at most 1,073,741,824 for a router"):
        read_tensor(source, "a", read_header(source)["a"])


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": numbers(E, D)}, path)
    source = FileRanges(path)
    entry = read_header(source)["a"]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="379 of 384 bytes .* cut while it was read"):
        read_tensor(source, "a", entry)


def test_names_from_a_header_cannot_act_as_markup():
    entries = {"<b>[x](y)": {**ONE, "shape": [3]}}
    with pytest.raises(CheckpointError) as refused:
        read_header(with_header(json.dumps(entries).encode(), bytes(8)))
    assert "<" not in str(refused.value) and "](" not in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_lead_to_anything_but_an_error_or_a_header(content, length):
    try:
        read_header(Bytes(struct.pack("<Q", length) + content))
    except CheckpointError:
        pass


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=8,
)
sizes = st.lists(st.integers(0, 20), max_size=3)
entry_like = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F9"]) | json_like,
        "shape": sizes | json_like,
        "data_offsets": st.tuples(st.integers(0, 17), st.integers(0, 17)).map(sorted) | json_like,
    }
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8), entry_like, max_size=4))
def test_no_json_leads_to_anything_but_an_error_or_tensors_within_the_file(header):
    source = with_header(json.dumps(header).encode(), bytes(16))
    try:
        found = read_header(source)
    except CheckpointError:
        return
    used = sorted((e.begin, e.end) for e in found.values() if e.begin < e.end)
    assert all(8 < begin <= end <= source.size for begin, end in used)
    assert all(a[1] <= b[0] for a, b in zip(used, used[1:], strict=False))
