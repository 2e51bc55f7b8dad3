"""What a pass has computed so far, kept on disk after every layer.

A pass that was killed goes on from its last finished layer with the same numbers. What is kept
belongs to one pass: its key is a hash over the tokens, the edits with their values, what is wanted,
the dtype, and the identity of every tensor file. It is removed when the pass has finished.

In the folder, `pass-KEY/layer-00012.state` holds what layer 12 gave and `stream.state` the residual
streams after the last finished layer. Each file appears whole, begins with a hash of the rest, and
is not used when that does not fit. Arrays are plain bytes under a JSON description; nothing in a
file is executed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import ml_dtypes
import numpy as np

from grok.checkpoints.tensor_offsets import FileIdentity
from grok.errors import GrokError
from grok.files import write_whole
from grok.interventions.hooks import Edit, SameLayer
from grok.interventions.kinds import Intervention
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.engine.engine import Batch

VERSION = 1
_DTYPES = {
    str(np.dtype(d)): np.dtype(d)
    for d in (np.float32, np.int32, np.bool_, np.float16, ml_dtypes.bfloat16)
}
_MOST_HEADER = 2**24


class Keeper:
    """Finds the state of a pass by what the pass is.

    Args:
        folder: where state is kept.
        model: what tells the model and its weights apart from others.
    """

    def __init__(self, folder: Path, *model: Any) -> None:
        self._folder, self._model = folder, model

    def of_pass(self, batches: Sequence[Batch]) -> Kept | None:
        """Where this pass keeps its state; None when it cannot be known again.

        Raises:
            GrokError: the folder is a file.
        """
        if self._folder.exists() and not self._folder.is_dir():
            raise GrokError(f"{self._folder}: is a file; expected a folder to keep state in.")
        told = [
            (b.tokens, b.start, b.key_is_token, b.candidates, b.real)
            + (b.caches is not None, b.hooks.layers, b.hooks.embed, b.hooks.head)
            + (b.hooks.wanted, b.hooks.referenced)
            + tuple(leaf for cache in b.caches or () for leaf in cache if b.start)
            for b in batches
        ]
        key = key_of(self._model, told)
        return None if key is None else Kept(self._folder, key)


class Kept:
    """The state of one pass in a folder.

    Args:
        folder: for passes of all kinds; made when something is kept.
        key: of this pass.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.place = folder, folder / f"pass-{key}"

    def load(self) -> list[list[np.ndarray]] | None:
        """What each finished layer gave, then the streams; None when there is nothing usable."""
        streams = _read(self.place / "stream.state")
        if streams is None:
            return None
        layers, found = int(streams[0][0]), []
        for i in range(layers):  # which a damaged file may say are very many
            given = _read(self.place / f"layer-{i:05d}.state")
            if given is None:
                return None
            found.append(given)
        return [*found, streams[1:]] if found else None

    def save(self, layer: int, given: Sequence[np.ndarray], streams: Sequence[np.ndarray]) -> None:
        """Keeps what `layer` gave, and the streams after it.

        Raises:
            GrokError: it cannot be written.
        """
        count = np.array([layer + 1], np.int32)
        try:
            _write(self.place / f"layer-{layer:05d}.state", given)
            _write(self.place / "stream.state", [count, *streams])
        except OSError as error:
            raise GrokError(
                f"{self.place}: the state of the pass cannot be kept "
                f"({error.strerror or error}). Free space or name another folder to resume from."
            ) from error

    def remove(self) -> None:
        """Removes this pass's state, and the folder when nothing else is in it."""
        if not self.place.is_dir():
            return
        for file in self.place.iterdir():
            if file.name.lstrip(".").startswith(("layer-", "stream.state")):
                file.unlink(missing_ok=True)
        for folder in (self.place, self.folder):
            try:
                folder.rmdir()
            except OSError:
                return


class _Unknown(Exception):
    """A function whose name does not tell what it does."""


def key_of(*parts: Any) -> str | None:
    """The key of a pass: a hash over texts, numbers, arrays, edits, and collections of them.

    None when an edit has a function of somebody else's: its name does not tell what it does, so
    there is nothing to know the pass by.
    """
    digest = hashlib.sha256()
    try:
        _add(digest, (VERSION, parts))
    except _Unknown:
        return None
    return digest.hexdigest()[:32]


def _add(digest: Any, part: Any) -> None:
    """Adds a value with its kind and size, so that no two values look alike."""
    if isinstance(part, Intervention):
        _add(digest, ("intervention", part.name, _name(part.function), part.arguments))
    elif isinstance(part, jax.tree_util.Partial):
        _add(digest, ("partial", _name(part.func), part.args, part.keywords))
    elif isinstance(part, Edit):
        _add(digest, ("edit", part.function, part.positions, part.references))
    elif isinstance(part, Mapping):
        _add(digest, ("mapping", *sorted(part.items(), key=lambda item: str(item[0]))))
    elif isinstance(part, frozenset):
        _add(digest, ("set", *sorted(str(one) for one in part)))
    elif part is None or isinstance(part, str | int | float | HookPoint | SameLayer | FileIdentity):
        digest.update(f"{type(part).__name__}:{len(repr(part))}:{part!r}".encode())
    elif isinstance(part, tuple | list):
        digest.update(f"tuple:{len(part)}:".encode())
        for one in part:
            _add(digest, one)
    elif callable(part):
        raise _Unknown
    else:
        array = np.asarray(part)
        digest.update(f"array:{array.dtype}:{array.shape}:".encode())
        digest.update(np.ascontiguousarray(array).tobytes())


def _name(function: Any) -> str:
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not str(module).startswith("grok.") or not name or "<" in name:
        raise _Unknown
    return f"{module}.{name}"


def _write(file: Path, arrays: Sequence[np.ndarray]) -> None:
    kept = [np.ascontiguousarray(a) for a in arrays]
    header = json.dumps([[str(a.dtype), list(a.shape)] for a in kept]).encode()
    body = [struct.pack("<I", len(header)), header, *(a.tobytes() for a in kept)]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    write_whole(file, b"".join([digest.digest(), *body]))


def _read(file: Path) -> list[np.ndarray] | None:
    """The arrays of a file; None when it is missing or not whole."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if len(content) < 36 or hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    (length,) = struct.unpack("<I", content[32:36])
    if length > min(_MOST_HEADER, len(content) - 36):
        return None
    try:
        described = json.loads(content[36 : 36 + length])
        found, at = [], 36 + length
        for name, shape in described:
            dtype = _DTYPES[name]
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            flat = np.frombuffer(content, dtype, size // dtype.itemsize, at)
            found.append(flat.reshape(shape).copy())
            at += size
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return found if at == len(content) else None
