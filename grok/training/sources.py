"""The domains of the training text that need no file: Python source and arithmetic.

Both are deterministic: the one in the running interpreter, the other in its seed.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from grok.errors import GrokError

PYTHON_CHARACTERS = 2_500_000
ARITHMETIC_CHARACTERS = 800_000

# Folders of the standard library whose files are tests, tables or vendored
# copies rather than code that reads like a module.
_SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "__phello__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idle_test",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
# A module larger than this is mostly a table, or would be a large share of the domain alone.
_LARGEST_MODULE = 120_000


def python_source(limit: int = PYTHON_CHARACTERS, stdlib: str | Path | None = None) -> str:
    """Modules of the standard library, one after the other, about `limit` characters in all.

    Modules come in the order of a hash of their path, so that any cut through
    the text, by the limit or for the held-out part, takes modules of all kinds
    and not a stretch of the alphabet. The same interpreter always gives the
    same text.

    Args:
        limit: Characters after which no further module is added.
        stdlib: Folder to read; by default the running interpreter's.

    Raises:
        GrokError: The folder holds no Python source.
    """
    root = Path(stdlib if stdlib is not None else sysconfig.get_paths()["stdlib"])
    parts: list[str] = []
    length = 0
    for path in sorted(_modules(root), key=lambda path: _digest(path.relative_to(root).as_posix())):
        if length >= limit:
            break
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if not text.strip() or len(text) > _LARGEST_MODULE or "\0" in text:
            continue
        parts.append(text.rstrip() + "\n\n")
        length += len(parts[-1])
    if not parts:
        raise GrokError(
            f"There is no Python source in {root}. Run under an interpreter whose standard "
            "library is installed as .py files."
        )
    return "".join(parts)


def arithmetic(seed: int, characters: int = ARITHMETIC_CHARACTERS) -> str:
    """Solved problems such as `37 + 58 = 95`, one a line, no problem twice.

    Sums, differences, products and three-term sums of small numbers. `a + b`
    and `b + a` count as one problem (as do factors), so a held-out line cannot
    be answered by having seen it, or its mirror image, in training.

    Args:
        seed: Same seed, same lines.
        characters: Length after which no further line is added.
    """
    rng = np.random.default_rng([seed, 0xA1])
    lines: list[str] = []
    seen: set[tuple[str, tuple[int, ...]]] = set()
    length = 0
    while length < characters:
        for kind, size, x, y, z in zip(
            rng.choice(5, size=1024, p=[0.30, 0.25, 0.15, 0.15, 0.15]),
            rng.choice([10, 100, 1000], size=1024, p=[0.1, 0.55, 0.35]),
            *rng.integers(0, 1 << 30, size=(3, 1024)),
            strict=True,
        ):
            a, b, c = (int(value % size) for value in (x, y, z))
            if kind == 0:
                key = ("+", tuple(sorted((a, b))))
                line = f"{a} + {b} = {a + b}"
            elif kind == 1:
                key = ("-", (a, b))
                line = f"{a} - {b} = {a - b}"
            elif kind == 2:
                a, b = a % 100, b % 100
                key = ("*", tuple(sorted((a, b))))
                line = f"{a} * {b} = {a * b}"
            elif kind == 3:
                a, b, c = a % 100, b % 100, c % 100
                key = ("++", tuple(sorted((a, b, c))))
                line = f"{a} + {b} + {c} = {a + b + c}"
            else:
                a, b, c = a % 100, b % 100, c % 100
                key = ("+-", (*sorted((a, b)), c))
                line = f"{a} + {b} - {c} = {a + b - c}"
            if key in seen:
                continue
            seen.add(key)
            lines.append(line + "\n")
            length += len(line) + 1
            if length >= characters:
                break
    return "".join(lines)


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS and not name.startswith("config-")
        ]
        for name in files:
            # _sysconfigdata_* is generated on the machine that built the interpreter.
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                yield Path(folder, name)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
