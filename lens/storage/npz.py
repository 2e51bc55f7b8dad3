"""Arrays from `.npz` files that anybody may have made.

An `.npz` is a zip of `.npy` members. numpy's own reader trusts what the members
declare: it allocates before it has read, and with pickles allowed it runs code.
Here sizes, dtypes and shapes are checked against the zip's directory before
anything is allocated, pickles are refused, and nothing in a file is executed.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from grok.errors import plain
from lens.errors import LensError

# The largest release that is read, Kimi-K2, has 60 routers of [384, 7168]: 661 MB as float32.
# Arrays are unpacked once and used where they lie: a hostile file can take this memory, no more.
MAX_BYTES = 768 * 2**20
READ = 2**24  # bytes of an array that are unpacked at a time
MAX_MEMBERS = 64
MAX_TEXT = 2**20  # bytes of a single value

Source = str | os.PathLike[str] | IO[bytes]


@dataclass(frozen=True)
class Npz:
    """An opened `.npz`: which arrays it declares, and a way to read one safely."""

    where: str
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def names(self) -> str:
        """The names of the arrays, for a message."""
        return plain(", ".join(sorted(self.members)), 300) or "no arrays"

    def array(self, name: str, advice: str) -> np.ndarray:
        """The array called `name`, in native byte order and C order.

        Raises:
            LensError: it is absent, holds Python objects, declares a size other
                than it has, or cannot be decompressed. `advice` ends the message.
        """
        if name not in self.members:
            raise LensError(
                f"{self.where}: there is no array '{name}' (found: {self.names()}). {advice}"
            )
        info = self.members[name]
        try:
            with self.archive.open(info) as stream:
                return _read_npy(stream, info.file_size)
        except _Refused as error:
            raise LensError(f"{self.where}, array '{name}': {error}. {advice}") from error
        except Exception as error:  # zlib, zipfile and numpy raise a dozen kinds for damaged bytes
            raise LensError(
                f"{self.where}, array '{name}': the bytes could not be read "
                f"({type(error).__name__}), so the file is damaged or incomplete. {advice}"
            ) from error

    def scalar(self, name: str, kinds: str, advice: str, default: Any = None) -> Any:
        """The single value called `name`, of a dtype kind in `kinds`.

        Without a `default` it has to be there.

        Raises:
            LensError: as for `array`, or it holds more than one value or another kind.
        """
        if default is not None and name not in self.members:
            return default
        value = self.array(name, advice)
        if value.dtype.kind not in kinds or value.size != 1 or value.nbytes > MAX_TEXT:
            expected = "one short text" if kinds == "U" else "one whole number"
            raise LensError(
                f"{name}: found shape {value.shape} of {value.dtype}; expected {expected}. {advice}"
            )
        return value.reshape(()).item()


class _Refused(Exception):
    """A member that is well-formed enough to say what is wrong with it."""


def _read_npy(stream: IO[bytes], file_size: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        header = 10
    elif version in ((2, 0), (3, 0)):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        header = 12
    else:
        raise _Refused(f"npy format {version} is unknown; expected 1.0, 2.0 or 3.0")
    if dtype.hasobject:
        raise _Refused("it holds pickled Python objects, which could run code and are never opened")
    if dtype.kind == "V":  # whose description may hold any words
        raise _Refused("it holds records, not numbers or text")
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise _Refused(f"its shape {shape} is not a list of lengths")
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes + header > file_size:
        raise _Refused(
            f"its header declares shape {shape} of {dtype}, {n_bytes:,} bytes, "
            f"but only {file_size:,} bytes are stored"
        )
    data, got = np.empty(n_bytes, np.uint8), 0
    while part := stream.read(min(READ, n_bytes - got)):
        data[got : got + len(part)] = np.frombuffer(part, np.uint8)
        got += len(part)
    if got != n_bytes:
        raise _Refused(f"{n_bytes:,} bytes were expected and {got:,} are there")
    data.flags.writeable = False
    if stream.read():  # reading to the end is also what makes zipfile verify the checksum
        raise _Refused(f"there are bytes left after an array of shape {shape}")
    if dtype.itemsize == 0:
        return np.zeros(shape if math.prod(shape) < 2**16 else (0,), dtype)
    array = data.view(dtype).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array, dtype=dtype.newbyteorder("=")).reshape(shape)
    if dtype.kind == "U":
        codes = array.reshape(-1).view(np.uint32)
        if np.any((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))):
            # numpy would make broken Python strings of them.
            raise _Refused("its text holds code points that are no characters")
    return array


def name_of(source: Source) -> str:
    """The name to call a source by in messages: a file's name without its folders."""
    name: Any = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    try:
        text = Path(os.fspath(name)).name
    except TypeError:
        text = ""
    return plain(text, 120) or "the uploaded file"


@contextmanager
def open_npz(source: Source, *, max_bytes: int = MAX_BYTES) -> Iterator[Npz]:
    """An `.npz` at a path or in a seekable binary file, with its declared sizes checked.

    Raises:
        LensError: there is no such file, it is not a zip, or what it declares to
            hold is too large, too numerous, encrypted or duplicated.
    """
    where = name_of(source)
    advice = "Expected an .npz written by numpy.savez or by this project."
    try:
        if not isinstance(source, (str, os.PathLike)):
            source.seek(0)
        archive = zipfile.ZipFile(source)
    except FileNotFoundError as error:
        raise LensError(f"{where}: there is no such file. Check the path.") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LensError(f"{where}: the file could not be opened ({reason}). {advice}") from error
    except Exception as error:
        raise LensError(
            f"{where}: this is not a complete .npz file (a zip of arrays); it may be cut short or "
            f"of another format. {advice}"
        ) from error
    with archive:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise LensError(
                f"{where}: {len(infos)} members found, at most {MAX_MEMBERS} expected. {advice}"
            )
        total = sum(info.file_size for info in infos)
        if total > max_bytes:
            raise LensError(
                f"{where}: its arrays declare {total:,} bytes when unpacked; at most "
                f"{max_bytes:,} are read. Save only the routers, not the other weights."
            )
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if info.flag_bits & 0x1:
                raise LensError(f"{where}: member '{plain(name, 80)}' is encrypted. {advice}")
            if name in members:
                raise LensError(f"{where}: two members are called '{plain(name, 80)}'. {advice}")
            members[name] = info
        yield Npz(where, archive, members)
