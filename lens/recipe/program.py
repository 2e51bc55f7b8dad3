"""The program that makes a value again, written from the calls that made it."""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grok.config import BUNDLED_MODEL
from lens.errors import LensError
from lens.recipe.steps import FILES, Call, File, Given, Group, Node, Part, node_of

WIDTH = 96  # characters of a line
MODULES = ("lens.cached", "lens.figures")
"""Modules that offer the functions of others under the same names."""


NAMES = {
    "load_routers": "routers",
    "extract_routers": "routers",
    "folder_routers": "routers",
    "with_top_k": "routers",
    "extract_from_hub": "fetched",
    "load_trace": "trace",
    "trace_prompt": "trace",
    "layer_labels": "labels",
}
"""Variables that are not called after the function that fills them."""


def program(
    made: Any,
    *,
    name: str = "chart",
    end: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> str:
    """Python that makes a value again.

    Args:
        made: the result of a remembered function.
        name: of the variable that holds it.
        end: lines that do something with it.
        imports: lines that those need.

    Raises:
        LensError: it isn't known how something in it was made.
    """
    node = node_of(made)
    if not isinstance(node, Call):
        raise LensError("It is not noted how this was made, so no code can be written for it.")
    writer = _Writer()
    value = writer.call(node)
    writer.lines += _assigned(name, value)
    lines = [*_sorted(writer.imports | set(imports)), "", *writer.lines]
    return "\n".join([*lines, *([""] if end else []), *end, ""])


def plain_text(value: Any) -> tuple[str, list[str]]:
    """A number, a text, or a dataclass of such as an expression, and the imports that it needs."""
    writer = _Writer()
    return writer.text(node_of(value)), sorted(writer.imports)


def _sorted(imports: set[str]) -> list[str]:
    """Import lines in the usual order: what comes with Python and libraries, then this project."""
    named: dict[str, set[str]] = {}  # what is taken from each module
    for line in imports:
        module, found, name = line.removeprefix("from ").partition(" import ")
        named.setdefault(module if found else "", set()).add(name if found else line)
    plain = named.pop("", set())
    lines = {f"from {module} import {', '.join(sorted(names))}" for module, names in named.items()}
    own = {line for line in lines if line.startswith(("from lens", "from grok"))}
    groups = [sorted(lines - own), sorted(plain), sorted(own)]
    sorted_lines: list[str] = []
    for group in filter(None, groups):
        sorted_lines += [*([""] if sorted_lines else []), *group]
    return sorted_lines


class _Writer:
    """Expressions for nodes; calls that others need become lines."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.lines: list[str] = []
        self._names: dict[str, str] = {}  # of variables, by what they hold
        self._modules: dict[str, str] = {}  # short names of modules, by the whole ones
        self._taken = {"chart", "np", "Path"}

    def text(self, node: Node) -> str:
        """An expression for a node."""
        if isinstance(node, Call):
            name = node.function.__name__
            return self._variable(NAMES.get(name, name), self.call(node))
        if isinstance(node, Part):
            return self.text(node.whole) + node.suffix
        if isinstance(node, Group):
            return self._group(node)
        if isinstance(node, Given):
            return self._given(node)
        if isinstance(node, File):
            return self._file(node.name)
        return self._plain(node.value)

    def call(self, node: Call) -> str:
        """The call as an expression; what it needs is written before it."""
        inside = [self.text(one) for one in node.args]
        inside += [f"{name}={self.text(one)}" for name, one in node.kwargs]
        return _wrapped(f"{self._function(node.function)}(", inside, ")")

    def _variable(self, wanted: str, value: str) -> str:
        if value not in self._names:
            self._names[value] = self._free(wanted)
            self.lines += _assigned(self._names[value], value)
        return self._names[value]

    def _free(self, wanted: str) -> str:
        name, number = wanted.lstrip("_"), 1
        while name in self._taken or keyword.iskeyword(name):
            number += 1
            name = f"{wanted.lstrip('_')}_{number}"
        self._taken.add(name)
        return name

    def _function(self, function: Callable[..., Any]) -> str:
        name = function.__name__
        for module in MODULES:
            if getattr(sys.modules.get(module), name, None) is function:
                return f"{self._module(module)}.{name}"
        if getattr(importlib.import_module(function.__module__), name, None) is not function:
            raise LensError(f"{function.__module__}.{name} cannot be imported by its name.")
        return f"{self._module(function.__module__)}.{name}"

    def _module(self, module: str) -> str:
        if module not in self._modules:
            package, _, last = module.rpartition(".")
            short = self._free(last)
            self._modules[module] = short
            if not package:
                self.imports.add(f"import {module}")
                return module
            renamed = "" if short == last else f" as {short}"
            self.imports.add(f"from {package} import {last}{renamed}")
        return self._modules[module]

    def _given(self, node: Given) -> str:
        if node.kind.__name__ not in FILES:
            raise LensError(f"It is not noted how a {node.kind.__name__} in it was made.")
        module, function, file = FILES[node.kind.__name__]
        call = f"{self._module(module)}.{function}({self._file(file)})"
        return self._variable(NAMES[function], call)

    def _file(self, name: str) -> str:
        """The name of a file, and a line before what reads it that says so."""
        said = f"# {_quoted(name)} was opened on the page: write where it lies."
        if said not in self.lines:
            self.lines.append(said)
        return _quoted(name)

    def _group(self, node: Group) -> str:
        members = [self.text(one) for one in node.members]
        if node.kind is dict:
            pairs = zip(node.keys, members, strict=True)
            return _wrapped("{", [f"{self._plain(key)}: {one}" for key, one in pairs], "}")
        if node.kind is list:
            return _wrapped("[", members, "]")
        return _wrapped("(", members, ",)" if len(members) == 1 else ")")

    def _plain(self, value: Any) -> str:
        if isinstance(value, np.ndarray):
            self.imports.add("import numpy as np")
            kind = "" if value.dtype.kind in "bU" else f", dtype=np.{value.dtype}"
            if value.dtype in (np.dtype(np.int64), np.dtype(np.float64)):
                kind = ""
            return f"np.array({self._plain(value.tolist())}{kind})"
        if isinstance(value, np.generic):
            return self._plain(value.item())
        if isinstance(value, float) and not np.isfinite(value):
            return f'float("{value}")'
        if isinstance(value, str | Path) and str(value).startswith(str(BUNDLED_MODEL)):
            self.imports.add("from grok.config import BUNDLED_MODEL")
            inside = Path(value).relative_to(BUNDLED_MODEL).parts
            return " / ".join(["BUNDLED_MODEL", *map(_quoted, inside)])
        if isinstance(value, str | Path):
            return _quoted(str(value))
        if is_dataclass(value):
            return self._dataclass(value)
        if isinstance(value, dict):
            pairs = value.items()
            return self._plain_group(
                "{", [f"{self._plain(k)}: {self._plain(v)}" for k, v in pairs], "}"
            )
        if isinstance(value, list):
            return self._plain_group("[", [self._plain(one) for one in value], "]")
        if isinstance(value, tuple):
            end = ",)" if len(value) == 1 else ")"
            return self._plain_group("(", [self._plain(one) for one in value], end)
        return repr(value)

    @staticmethod
    def _plain_group(start: str, members: list[str], end: str) -> str:
        return _wrapped(start, members, end, filled=True)

    def _dataclass(self, value: Any) -> str:
        kind = type(value)
        self.imports.add(f"from {kind.__module__} import {kind.__name__}")
        self._taken.add(kind.__name__)
        inside = [
            f"{one.name}={self._plain(getattr(value, one.name))}"
            for one in fields(value)
            if one.init and not _is_default(one, getattr(value, one.name))
        ]
        return _wrapped(f"{kind.__name__}(", inside, ")")


def _is_default(one: Any, value: Any) -> bool:
    return one.default is not MISSING and bool(one.default == value)


def _quoted(text: str) -> str:
    """A text between double quotes where that needs no more backslashes."""
    shown = repr(text)
    if shown.startswith("'") and '"' not in shown and "\\'" not in shown:
        return f'"{shown[1:-1]}"'
    return shown


def _assigned(name: str, value: str) -> list[str]:
    return f"{name} = {value}".splitlines()


def _wrapped(start: str, members: Sequence[str], end: str, *, filled: bool = False) -> str:
    """Members between brackets: in a line if that is short, else a line each or filled lines."""
    line = start + ", ".join(members) + end
    if len(line) <= WIDTH - 20 and "\n" not in line:
        return line
    if not filled:
        body = [f"    {row}" for one in members for row in f"{one},".splitlines()]
        return "\n".join([start, *body, end.lstrip(",")])
    rows, row = [], "   "
    for one in members:
        if len(row) + len(one) + 2 > WIDTH - 8 and row.strip():
            rows.append(row)
            row = "   "
        row += f" {one},"
    return "\n".join([start, *rows, row, end.lstrip(",")])
