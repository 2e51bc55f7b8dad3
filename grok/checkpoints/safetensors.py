"""Single tensors of safetensors files, read by their byte ranges.

A safetensors file is 8 bytes with the length of a header, the header (JSON: for each
tensor its dtype, its shape and where its bytes lie), and the bytes. To read one tensor
of a large file the header and that range are enough. Files come from strangers: nothing
in a header is believed before it was checked against the file's size.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from grok.errors import CheckpointError, plain

MAX_HEADER = 32 * 2**20  # 90,000 tensors take some 15 MB
MAX_TENSOR = 2**30  # bytes of one tensor that is read
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8,
    "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
READABLE = ("F64", "F32", "F16", "BF16")
ADVICE = "Download or copy the file again."


class ByteRanges(Protocol):
    """Where bytes come from: a file here, or anything else that serves ranges."""

    @property
    def where(self) -> str:
        """The name of the source, for messages."""
        ...

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes; a `CheckpointError` where they cannot be had."""
        ...


class FileRanges:
    """The byte ranges of a file on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"{path}: {error.strerror}. Complete the download or copy."
            ) from error

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, offset: int, length: int) -> bytes:
        found = bytearray(length)
        self.read_into(offset, memoryview(found))
        return bytes(found)

    def read_into(self, offset: int, room: memoryview) -> None:
        """Fills `room` with the bytes from `offset` on.

        Raises:
            CheckpointError: they cannot be had.
        """
        n_read = 0
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                while n := file.readinto(room[n_read:]):
                    n_read += n
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}. {ADVICE}") from error
        if n_read != len(room):
            raise CheckpointError(
                f"{self.path}: {n_read} of {len(room)} bytes at {offset}; expected a file of "
                f"{self.size} bytes. It was cut while it was read; try again."
            )


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its dtype, its shape and its bytes, counted from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(source: ByteRanges) -> dict[str, Entry]:
    """The tensors of a file by name.

    Raises:
      CheckpointError: the header is longer than the file, is no JSON of the right form, or
        puts a tensor where there is no room for it, or two over each other.
    """
    where = source.where
    if source.size < 8:
        raise CheckpointError(
            f"{where}: {source.size} bytes; expected a safetensors file. {ADVICE}"
        )
    length = int.from_bytes(source.read(0, 8), "little")
    if not 2 <= length <= min(source.size - 8, MAX_HEADER):
        raise CheckpointError(
            f"{where}: the header is said to have {length:,} bytes; expected 2 to "
            f"{min(source.size - 8, MAX_HEADER):,}. This is no safetensors file, or it was cut. "
            f"{ADVICE}"
        )
    header = parse_json(source.read(8, length), where)
    entries = {}
    for name, value in header.items():
        if name != "__metadata__":
            entries[name] = _entry(name, value, 8 + length, source)
    _check_apart(entries, where)
    return entries


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object from a stranger.

    Raises:
      CheckpointError: it is none, names a member twice, or is nested beyond reason.
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
            raise ValueError(f"{twice} is there twice")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=members)
    except (ValueError, RecursionError) as error:
        reason = plain(str(error), 100) if str(error) else type(error).__name__
        raise CheckpointError(f"{where}: the JSON cannot be read ({reason}). {ADVICE}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: found {type(found).__name__} as JSON; expected an object.")
    return found


def _entry(name: str, value: Any, start: int, source: ByteRanges) -> Entry:
    def wrong(found: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{source.where}: tensor '{plain(name, 80)}': {found}; expected {expected}. {ADVICE}"
        )

    if not isinstance(value, dict):
        raise wrong(f"found {type(value).__name__}", "dtype, shape and data_offsets")
    dtype = value.get("dtype")
    shape = _whole_numbers(value.get("shape"))
    offsets = _whole_numbers(value.get("data_offsets"))
    if not isinstance(dtype, str):
        raise wrong(f"dtype {plain(str(dtype), 20)}", "a name")
    if shape is None or len(shape) > 8:
        raise wrong(f"shape {plain(str(value.get('shape')), 40)}", "up to 8 whole numbers")
    if offsets is None or len(offsets) != 2:
        raise wrong(f"data_offsets {plain(str(value.get('data_offsets')), 40)}", "two numbers")
    begin, end = offsets
    room = source.size - start
    if not begin <= end <= room:
        raise wrong(f"bytes {begin} to {end}", f"a range within the {room} bytes after the header")
    item = ITEM_BYTES.get(dtype)
    if item is not None and math.prod(shape) * item != end - begin:
        needed = math.prod(shape) * item
        raise wrong(f"{end - begin} bytes for shape {shape} of {dtype}", f"{needed}")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _whole_numbers(value: Any) -> list[int] | None:
    """The list as given if it holds nothing but whole numbers from 0, else None."""
    if isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in value
    ):
        return value
    return None


def _check_apart(entries: Mapping[str, Entry], where: str) -> None:
    """Refuse tensors that share bytes."""
    ordered = sorted((e.begin, e.end, name) for name, e in entries.items() if e.end > e.begin)
    for (_, end, first), (begin, _, second) in zip(ordered, ordered[1:], strict=False):
        if begin < end:
            raise CheckpointError(
                f"{where}: tensors '{plain(first, 60)}' and '{plain(second, 60)}' share bytes; "
                f"expected each in a place of its own. {ADVICE}"
            )


def check_readable(source: ByteRanges, name: str, entry: Entry) -> None:
    """Refuse a tensor whose numbers cannot be had, before any of it is read.

    Raises:
      CheckpointError: its dtype is not read, or it is larger than any router.
    """
    where = f"{source.where}: tensor '{plain(name, 80)}'"
    if entry.dtype not in READABLE:
        raise CheckpointError(
            f"{where}: the dtype is {plain(entry.dtype, 20)}; expected one of "
            f"{', '.join(READABLE)}. Use a copy of the model whose routers are not quantized."
        )
    if entry.end - entry.begin > MAX_TENSOR:
        raise CheckpointError(
            f"{where}: {entry.end - entry.begin:,} bytes; expected at most {MAX_TENSOR:,} for a "
            "router."
        )


def read_tensor(source: ByteRanges, name: str, entry: Entry) -> np.ndarray:
    """One tensor as float32; what float32 cannot hold becomes infinite.

    Raises:
      CheckpointError: as `check_readable`, or the bytes cannot be had.
    """
    check_readable(source, name, entry)
    raw = source.read(entry.begin, entry.end - entry.begin)
    if entry.dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        values = bits.view(np.float32)
    else:
        code = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry.dtype]
        with np.errstate(over="ignore"):
            values = np.frombuffer(raw, code).astype(np.float32)
    return values.reshape(entry.shape)
