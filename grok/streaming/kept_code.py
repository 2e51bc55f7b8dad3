"""Compiled loops that are kept on disk where that is possible, and compiled again where not.

numba's own cache ends the program where a file of it is damaged, the disk is full or no folder can
be written, and would run machine code of which a byte has changed. Here each file begins with a
hash of the rest; one that does not fit is as good as missing, and takes nothing with it.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numba
from numba.core import caching as numba_caching

caching: Any = numba_caching  # its methods have no types
_DIGEST = hashlib.sha256().digest_size


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options, whose code is kept for the next process."""

    def decorate(function: Callable[..., Any]) -> Any:
        loop = numba.njit(**options)(function)
        try:
            loop._cache = _Cache(function)
        except (RuntimeError, OSError):  # no folder can be written
            pass
        return loop

    return decorate


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """numba's cache of one function, which only ever saves time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _SealedFiles(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except Exception:  # of a file that another version wrote, say
            return None

    def save_overload(self, signature: Any, code: Any) -> None:
        try:
            super().save_overload(signature, code)
        except Exception:  # the disk is full or read-only
            self.disable()


class _SealedFiles(caching.IndexDataCacheFile):  # type: ignore[misc]
    """The files of such a cache, each after a hash of what it holds."""

    def _load_index(self) -> Any:
        try:
            version, stamp, overloads = pickle.loads(_opened(self._index_path))
        except OSError:
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: Any) -> None:
        content = pickle.dumps((self._version, self._source_stamp, overloads))
        with self._open_for_write(self._index_path) as file:
            file.write(_sealed(content))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_opened(self._data_path(name)))

    def _save_data(self, name: str, data: Any) -> None:
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_sealed(self._dump(data)))


def _sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def _opened(path: str) -> bytes:
    """What a file holds after its hash.

    Raises:
        OSError: it is not there, or not as it was written.
    """
    with open(path, "rb") as file:
        content = file.read()
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        raise OSError(f"{path} is damaged")
    return content[_DIGEST:]
