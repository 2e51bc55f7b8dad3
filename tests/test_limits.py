"""No folder, file or function grows beyond what can be read at once.

Exceptions stand in the code, each with its reason: `# long file: ...` in the first 30 lines of a
file, `# long: ...` or `# many parameters: ...` in the comment lines right above a function.
One that is no longer needed must go.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("grok", "lens", "pages")
FOLDERS = (*PACKAGES, "benchmarks", "examples")
TESTS = "tests"  # whose folders are counted too, not their files' lines

MOST_FILES = 15  # of Python in a folder
MOST_LINES = 400  # in a file
LONGEST = 60  # lines of a function, without its docstring
MOST_PARAMETERS = 8  # without self and cls

MARKER_LINES = 30  # at the start of a file
LONG_FILE, LONG, MANY = "# long file:", "# long:", "# many parameters:"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def texts() -> dict[str, str]:
    """The text of every file, by its path from the project's folder."""
    files = [ROOT / "app.py"] + [f for name in FOLDERS for f in (ROOT / name).rglob("*.py")]
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted(files)}


def length_of(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return lines
    docstring = function.body[0]
    return lines - (docstring.end_lineno - docstring.lineno + 1)


def n_parameters(function: Function) -> int:
    """Named parameters, without self and cls."""
    named = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return len(named) - bool(named and named[0].arg in ("self", "cls"))


def comments_above(function: Function, lines: list[str]) -> list[str]:
    """The comment lines right above a function or its decorators."""
    first = min([function.lineno, *(node.lineno for node in function.decorator_list)])
    found = []
    while first > 1 and lines[first - 2].strip().startswith("#"):
        first -= 1
        found.append(lines[first - 1].strip())
    return found


def judged(where: str, found: int, most: int, unit: str, marker: str, lines: list[str]) -> str:
    """A line about what is too large, or about an exception that has no reason or no need."""
    markers = [line.strip() for line in lines if line.strip().startswith(marker)]
    if any(line == marker for line in markers):
        return f"{where}: `{marker}` gives no reason"
    if found > most and not markers:
        return f"{where} has {found} {unit}; at most {most}"
    if found <= most and markers:
        return f"{where} has {found} {unit}, so `{marker}` is no longer needed"
    return ""


def faults_of(file: str, text: str) -> Iterator[str]:
    lines = text.splitlines()
    yield judged(file, len(lines), MOST_LINES, "lines", LONG_FILE, lines[:MARKER_LINES])
    read = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            where = f"{file}:{node.lineno} {node.name}"
            above = comments_above(node, lines)
            read[node.lineno] = len([line for line in above if line.startswith((LONG, MANY))])
            yield judged(where, length_of(node), LONGEST, "lines of code", LONG, above)
            yield judged(where, n_parameters(node), MOST_PARAMETERS, "parameters", MANY, above)
    written = [line for line in lines if line.strip().startswith((LONG, MANY))]
    if len(written) > sum(read.values()):
        yield f"{file}: a marker stands above no function ({'; '.join(written)})"
    late = [line for line in lines[MARKER_LINES:] if line.strip().startswith(LONG_FILE)]
    if late:
        yield f"{file}: `{LONG_FILE}` is read in the first {MARKER_LINES} lines only"


def faults(files: Mapping[str, str], beside: Sequence[str] = ()) -> list[str]:
    """What is too large, a line for each, folders first; of files beside only those."""
    found = []
    folders = [PurePosixPath(file).parent.as_posix() for file in [*files, *beside]]
    for folder in sorted(name for name in set(folders) if name.startswith((*FOLDERS, TESTS))):
        found.append(judged(folder, folders.count(folder), MOST_FILES, "Python files", "#", []))
    for file, text in files.items():
        found.extend(faults_of(file, text))
    return [line for line in found if line]


def test_nothing_is_larger_than_can_be_read_at_once():
    tests = [file.relative_to(ROOT).as_posix() for file in (ROOT / TESTS).rglob("*.py")]
    found = faults(texts(), tests)
    assert not found, "\n" + "\n".join(found)


def function_of(lines: int, head: str = "def f():", above: str = "") -> str:
    """A function of so many lines of code, with a docstring that does not count."""
    return f'{above}{head}\n    """One.\n\n    More.\n    """\n' + "    a = 1\n" * (lines - 1)


EIGHT = ", ".join("abcdefgh")
BROKEN = {
    "a full folder": ({f"lens/a{i}.py": "" for i in range(16)}, "lens has 16 Python files"),
    "a long file": ({"a.py": "a = 1\n" * 401}, "a.py has 401 lines; at most 400"),
    "a long function": ({"a.py": function_of(61)}, "a.py:1 f has 61 lines of code; at most 60"),
    "a long method": (
        {"a.py": "class A:\n    async def f(self):\n" + "        a = 1\n" * 60},
        "a.py:2 f has 61 lines of code",
    ),
    "many parameters": (
        {"a.py": function_of(2, f"def f({EIGHT}, *more, i, **rest):")},
        "a.py:1 f has 9 parameters; at most 8",
    ),
    "an exception without a reason": (
        {"a.py": function_of(61, above="# long:\n")},
        "`# long:` gives no reason",
    ),
    "a needless exception for a function": (
        {"a.py": function_of(60, above="# long: once.\n")},
        "f has 60 lines of code, so `# long:` is no longer needed",
    ),
    "a needless exception for parameters": (
        {"a.py": function_of(2, f"def f({EIGHT}):", "# many parameters: once.\n")},
        "f has 8 parameters, so `# many parameters:` is no longer needed",
    ),
    "a needless exception for a file": (
        {"a.py": "# long file: once.\n"},
        "a.py has 1 lines, so `# long file:` is no longer needed",
    ),
    "an exception too late in a file": (
        {"a.py": "a = 1\n" * 30 + "# long file: a table.\n"},
        "in the first 30 lines only",
    ),
    "an exception above nothing": (
        {"a.py": "# long: a table.\n\n" + function_of(60)},
        "stands above no function",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_limit_is_said(rule):
    files, said = BROKEN[rule]
    (found,) = faults(files)
    assert said in found


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\n" * 400,
        "# long file: a table of all models.\n" + "a = 1\n" * 400,
        function_of(60),
        function_of(61, above="# long: one kernel.\n@cache\n"),
        function_of(61, f"def f({EIGHT}, i):", "# long: one.\n# many parameters: two.\n"),
        f"class A:\n    def f(self, {EIGHT}): ...\n",
    ],
    ids=range(6),
)
def test_what_is_within_the_limits_or_marked_is_fine(text):
    assert faults({"lens/a.py": text}) == []
