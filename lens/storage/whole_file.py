"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PRIVATE = 0o600
READABLE = 0o644


@contextmanager
def whole_file(
    path: Path, *, mode: int = PRIVATE, prefix: str | None = None, sync: bool = False
) -> Iterator[IO[bytes]]:
    """An open binary file beside `path` that takes its place when the block ends well.

    A block that raises leaves `path` as it was and nothing beside it.

    Args:
        path: the file, in a folder that exists.
        mode: who may read the file.
        prefix: of the name until then; by default the file's own name, hidden.
        sync: the bytes are on the disk before the name is.

    Raises:
        OSError: the folder is missing, full or not to be written to.
    """
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}." if prefix is None else prefix, suffix=".part"
    )
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if mode != PRIVATE:  # what mkstemp gives
            os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
