"""Hostile bytes, JSON, texts and archives, most of them near to something that is well-formed."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**63 - 1),
    *(2**63, 2**64 - 1, 2**64, 10**30, -1, -2, -(2**31), -(2**63), -(10**30)),
)
WORDS = (
    *("", " ", "[Sign in again](https://evil.example)", "<b>bold</b>", "$x^2$", "{0.__class__}"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "a\\b",
        "C:\\x",
        "\u202edrow",
        "\ud800",
        "\0",
        "\n\n# Big",
    ),
    *("nan", "inf", "-1", "1e400", "true", "null", "None", "0x10", "١٢", "𝟙", "½", "%00", "%s%n"),
    *("x" * 300, "a,b;c", "'", '"', "`id`", "$(id)", "__proto__", "=1+1", "é" * 50, "🜁" * 20),
)

numbers = st.sampled_from(NUMBERS) | st.integers()
words = st.sampled_from(WORDS) | st.text(max_size=40)
leaves = (
    st.none()
    | st.booleans()
    | numbers
    | st.sampled_from([0.0, -0.5, 1e308, float("nan"), float("inf"), -float("inf")])
    | words
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed_bytes(draw: st.DrawFn, seed: bytes, most: int = 6) -> bytes:
    """Bytes that began as `seed`."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:
            data[at:at] = draw(st.binary(max_size=16))
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            number = draw(st.sampled_from(NUMBERS)) % 2**64
            form = draw(st.sampled_from(["<Q", "<I", "<H", ">I"]))
            packed = struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))
            data[at : at + len(packed)] = packed
        elif kind == 5:
            other = draw(st.integers(0, len(data)))
            data[at:at] = data[other : other + draw(st.integers(1, 200))]
        else:
            data[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
    return bytes(data)


@st.composite
def changed_json(draw: st.DrawFn, seed: Any, most: int = 3) -> bytes:
    """JSON text that began as a well-formed document; at times no JSON any more."""
    document = json.loads(json.dumps(seed))
    for _ in range(draw(st.integers(1, most))):
        document = _replaced(draw, document)
    text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 7)) == 0:
        text = draw(
            st.sampled_from(
                ['{"a":' * 3000, "[" * 100_000, text + text, "\ufeff" + text, "9" * 5000]
            )
        )
    data = text.encode("utf-8", "surrogatepass")
    return draw(changed_bytes(data)) if draw(st.integers(0, 4)) == 0 else data


def _replaced(draw: st.DrawFn, node: Any) -> Any:
    """The document with one place in it replaced, taken out, or named anew."""
    if isinstance(node, dict) and node and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(node)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            return {k: v for k, v in node.items() if k != key}
        if kind == 1:
            return {**node, draw(words): node[key]}
        return {**node, key: _replaced(draw, node[key])}
    if isinstance(node, list) and node and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(node) - 1))
        return [*node[:at], _replaced(draw, node[at]), *node[at + 1 :]]
    return draw(values)


# --- archives of arrays ------------------------------------------------------------------------

DESCRIPTIONS = (
    *("<f4", ">f8", "<f2", "<f8", "|O", "O", "<U5", "<U0", "<U1", "|S3", "|S0", "<M8[s]", "<m8"),
    *("|V0", "|V8", "<c8", "|b1", "<i4", "<i8", "<u8", ">i2", "|i1", "<f16", "object", "no such"),
    [("a", "<f4")],
    [("[Sign in](https://evil.example)", "<f4"), ("<b>", "<U3")],
    [("a", "|O")],
    ("<f4", (2, 3)),
    ("<f4", (2**40,)),
    [("a", "<f4", (2**31, 2**31))],
)


@st.composite
def npy(draw: st.DrawFn, array: np.ndarray) -> bytes:
    """A member of an archive: an array with other values, bytes or a header that lies."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(changed_bytes(_as_npy(array)))
    if kind == 1:
        shape = draw(st.just(array.shape) | st.lists(numbers, max_size=4).map(tuple))
        description = draw(st.sampled_from(DESCRIPTIONS))
        text = f"{{'descr': {description!r}, 'fortran_order': {draw(st.booleans())}, "
        text += f"'shape': {draw(st.sampled_from([shape, list(shape), None, 'x']))!r}, }}"
        header = (text + draw(st.sampled_from(["\n", "", " " * 9000, "\0"]))).encode()
        version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\4\0", b"\0\0"]))
        length = len(header) if draw(st.integers(0, 4)) else draw(st.sampled_from(NUMBERS))
        form = "<H" if version == b"\1\0" else "<I"
        packed = struct.pack(form, length % 2 ** (8 * struct.calcsize(form)))
        return b"\x93NUMPY" + version + packed + header + array.tobytes()[: draw(numbers) % 2**16]
    return _as_npy(_changed_array(draw, array))


def _changed_array(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    kind = draw(st.integers(0, 8))
    with np.errstate(all="ignore"):
        if kind == 0 and array.dtype.kind in "fiu" and array.size:
            array = array.copy()
            at = draw(st.integers(0, array.size - 1))
            some = draw(st.sampled_from([np.nan, np.inf, -np.inf, -1, 0, 1e30, 3.5, 1]))
            array.reshape(-1)[at : at + 1] = np.array([some]).astype(array.dtype)
        elif kind == 1 and array.dtype.kind in "fiub":
            array = array.astype(
                draw(st.sampled_from(["f4", "f8", "f2", "i4", "u8", "i1", "?", "c8"]))
            )
        elif kind == 2:
            array = array.T
        elif kind == 3:
            array = array.reshape(-1)
        elif kind == 4 and array.ndim:
            array = array[: draw(st.integers(0, array.shape[0]))]
        elif kind == 5:
            array = array[None]
        elif kind == 6 and array.dtype.kind in "fiu":
            array = array * array.dtype.type(draw(st.sampled_from([0, 1, 100])))
        elif kind == 7:
            array = np.full(array.shape, draw(words))
        else:
            number = draw(st.sampled_from(NUMBERS))
            array = np.array(number if -(2**63) <= number < 2**64 else 0)
    return array


def _as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return file.getvalue()


@st.composite
def archives(draw: st.DrawFn, seed: Mapping[str, Any]) -> bytes:
    """An `.npz` that began as these arrays."""
    members = [(f"{name}.npy", _as_npy(np.asarray(value))) for name, value in seed.items()]
    arrays = {f"{name}.npy": np.asarray(value) for name, value in seed.items()}
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(members) - 1))
        name, data = members[at]
        kind = draw(st.integers(0, 9))
        if kind == 0 and len(members) > 1:
            del members[at]
        elif kind == 1:
            members.append((name, data))
        elif kind == 2:
            members[at] = (draw(words).replace("\ud800", "?") or "x", data)
        elif kind == 3:
            members.append(
                (draw(words).replace("\ud800", "?") or "x", draw(st.binary(max_size=40)))
            )
        else:
            members[at] = (name, draw(npy(arrays.get(name, np.zeros(3)))))
    content = _zipped(members, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(changed_bytes(content))
    return _lying(draw, content) if kind == 1 else content


def _zipped(members: Sequence[tuple[str, bytes]], compression: int) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.writestr(info, data)
    return file.getvalue()


def _lying(draw: st.DrawFn, content: bytes) -> bytes:
    """The archive with one number of its directory replaced: sizes, offsets, flags, method."""
    data = bytearray(content)
    places = [at for at in range(len(data)) if data[at : at + 4] == b"PK\1\2"]
    at = draw(st.sampled_from(places))
    offset, form = draw(
        st.sampled_from([(8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (42, "<I")])
    )
    number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * struct.calcsize(form))
    data[at + offset : at + offset + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(data)
