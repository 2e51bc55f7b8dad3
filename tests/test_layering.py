"""Who imports whom: one order of all folders, read from the text of every file.

Imports inside functions and under TYPE_CHECKING count like all others: they are read from the
syntax tree, and nothing is imported for it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("grok", "lens", "pages")

# Top to bottom, a level a line. A file may import from its own folder and from every level
# below its own; what stands on one line does not know of each other. A file belongs to the
# longest name that fits: `lens/cached.py` before `lens`.
ORDER = """
app.py

pages/overview.py pages/layers.py pages/experts.py pages/clustering.py pages/features.py
pages/live_routing.py
pages/live/compare pages/live/what_if pages/live/generate pages/live/many
pages/live/one_trace
pages/live/circuit pages/feature_runs
pages/live/running
pages/live/session
pages/exports pages/expert_views pages/feature_views
pages/trees pages/vocabulary pages/layer_views pages/overview_views pages/notes
pages/hosting pages/guide
pages/shell
pages/access

lens/cached.py
lens/compare
lens/report
lens/tables lens/figures
lens/features
lens/questions lens/findings
lens/many_prompts lens/prompt_pairs lens/model_pairs
lens/traces
lens/chosen_by.py
lens/vocabulary lens/clustering
lens/experts
lens/layers
lens/extract
lens/routers
lens/stats lens/storage
lens/finding.py
lens/recipe
lens/words.py lens/version.py lens/glossary.py lens/escaping.py
lens/errors.py

grok/__init__.py grok/cached.py
grok/train.py grok/run.py grok/plan.py grok/serve.py
grok/serving
grok/dictionaries/train.py grok/dictionaries/ship.py grok/dictionaries/index.py
grok/dictionaries/exchange
grok/dictionaries/shipping
grok/dictionaries/evaluate.py
grok/dictionaries/attribution
grok/dictionaries/evaluation
grok/dictionaries/indexing
grok/dictionaries/training
grok/dictionaries/kinds
grok/experiments
grok/training
grok/runner
grok/planning
grok/streaming
grok/engine
grok/architectures
grok/interventions
grok/checkpoints
grok/config.py grok/trace.py
grok/files.py grok/units.py
grok/errors.py
"""

# An import against the order that is allowed, as (from, to): the reason. None is needed today.
ALLOWED: dict[tuple[str, str], str] = {}

LENS_TAKES_FROM_GROK = (
    "grok/architectures/families.py",  # opens a folder of whatever family, without JAX
    "grok/checkpoints",
    "grok/config.py",
    "grok/errors.py",
    "grok/files.py",
)
WITH_STREAMLIT = ("app.py", "pages", "lens/cached.py", "grok/cached.py")
JAX = ("jax", "jaxlib", "haiku", "optax")


@dataclass(frozen=True)
class Import:
    """One name that a file takes from a file of this project, or a library's top name."""

    file: str
    line: int
    target: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def texts() -> dict[str, str]:
    """The text of every file of the three packages and of app.py, by its path."""
    files = [ROOT / "app.py"] + [f for name in PACKAGES for f in (ROOT / name).rglob("*.py")]
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted(files)}


def file_of(module: str, files: Mapping[str, str]) -> str | None:
    """The path of a module or of a package's __init__, if it is among the files."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in files), None)


def imports_of(file: str, files: Mapping[str, str]) -> Iterator[Import]:
    """Every import of a file, and every private attribute it takes from a module it imports."""
    modules: dict[str, str] = {}  # a name in this file, and the module that it stands for
    tree = ast.parse(files[file])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                target = file_of(alias.name, files)
                yield Import(file, node.lineno, target or alias.name.partition(".")[0])
                if target:
                    modules[alias.asname or alias.name] = target
        elif isinstance(node, ast.ImportFrom):
            above = file.split("/")[: -node.level] if node.level else []
            package = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                module = file_of(f"{package}.{alias.name}", files)
                target = module or file_of(package, files)
                name = "" if module else alias.name
                yield Import(file, node.lineno, target or package.partition(".")[0], name)
                if module:
                    modules[alias.asname or alias.name] = module
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
            yield Import(file, node.lineno, modules[ast.unparse(node.value)], node.attr)


def belongs(file: str, place: str) -> bool:
    return file == place or file.startswith(place + "/")


def levels(order: str = ORDER) -> dict[str, int]:
    """Each name of the table and its line, counted from the top."""
    lines = [line.split() for line in order.splitlines() if line]
    return {name: number for number, line in enumerate(lines) for name in line}


def room_of(file: str) -> str | None:
    """The name of the table that a file belongs to."""
    fitting = [name for name in levels() if belongs(file, name)]
    return max(fitting, key=len, default=None)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def order_fault(found: Import) -> str | None:
    here, there = room_of(found.file), room_of(found.target)
    if here == there or here is None or there is None or (found.file, found.target) in ALLOWED:
        return None
    level = levels()
    if level[here] == level[there]:
        return f"{found} imports sideways: {found.target}; {here} and {there} are on one level"
    if level[here] > level[there]:
        return f"{found} imports upwards: {found.target}; {there} stands above {here}"
    return None


def faults(files: Mapping[str, str]) -> list[str]:
    """What is against the rules in these files, a line for each.

    Args:
        files: the text of each file, by its path from the project's folder.
    """
    found: list[str] = []
    graph: dict[str, set[str]] = {file: set() for file in files}
    for file in files:
        if room_of(file) is None and files[file].count("\n") > 1:
            found.append(f"{file} stands in no line of ORDER in {Path(__file__).name}")
        for taken in imports_of(file, files):
            if taken.target in files:
                if taken.target != file:
                    graph[file].add(taken.target)
                    if is_private(taken.name):
                        found.append(
                            f"{taken} takes a private name: {taken.name} of {taken.target}"
                        )
                fault = order_fault(taken)
                if fault is not None:
                    found.append(fault)
                foreign = file.startswith("lens/") and taken.target.startswith("grok/")
                if foreign and not any(belongs(taken.target, p) for p in LENS_TAKES_FROM_GROK):
                    names = ", ".join(LENS_TAKES_FROM_GROK)
                    found.append(f"{taken} takes {taken.target}; lens may take only {names}")
            elif taken.target == "streamlit" and not any(belongs(file, p) for p in WITH_STREAMLIT):
                found.append(f"{taken} imports streamlit; only {', '.join(WITH_STREAMLIT)} may")
            elif taken.target in JAX and file.startswith("lens/"):
                found.append(f"{taken} imports {taken.target}; lens works without JAX")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("files import each other in a circle: " + " <- ".join(error.args[1]))
    return list(dict.fromkeys(found))


def test_every_import_follows_the_order():
    found = faults(texts())
    assert not found, "\n" + "\n".join(found)


def test_every_line_of_the_order_is_needed():
    """Names without a file, and allowed imports that nobody needs, go."""
    files = texts()
    rooms = {room_of(file) for file in files}
    assert set(levels()) - rooms == set()
    edges = {(i.file, i.target) for file in files for i in imports_of(file, files)}
    assert set(ALLOWED) - edges == set()


# A made-up file for every rule, what stands in it, and what must be said of it.
BROKEN = {
    "upwards": ("lens/routers/gram.py", "from lens.layers.similarity import cka", "upwards"),
    "upwards by a whole module": ("lens/stats/a.py", "import lens.layers.similarity", "upwards"),
    "out of a package": ("grok/runner/a.py", "from lens.layers import similarity", "upwards"),
    "to the doors": ("lens/routers/gram.py", "from lens import cached", "upwards"),
    "sideways": ("lens/storage/a.py", "from lens.stats import p_values", "sideways"),
    "between two pages": ("pages/layers.py", "from pages.experts import draw", "sideways"),
    "inside a function": (
        "lens/routers/gram.py",
        "def f():\n    from lens.layers.similarity import cka",
        "gram.py:2 imports upwards",
    ),
    "for types": (
        "grok/engine/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import grok.runner.model",
        "upwards",
    ),
    "relative": ("lens/routers/gram.py", "from ..layers import similarity", "upwards"),
    "private name": (
        "lens/report/a.py",
        "from lens.layers.similarity import _centered",
        "private name: _centered of lens/layers/similarity.py",
    ),
    "private attribute": (
        "lens/report/a.py",
        "from lens.layers import similarity as s\ns._centered()",
        "private name: _centered of lens/layers/similarity.py",
    ),
    "streamlit in lens": ("lens/routers/gram.py", "import streamlit as st", "imports streamlit"),
    "streamlit in grok": ("grok/runner/a.py", "def f():\n    import streamlit.web", "streamlit"),
    "jax in lens": ("lens/routers/gram.py", "from jax import numpy", "imports jax"),
    "haiku in lens": ("lens/cached.py", "def f():\n    import haiku", "imports haiku"),
    "lens runs a model": ("lens/report/a.py", "from grok.runner import model", "may take only"),
    "no place": ("lens/utils.py", "A = 1\nB = 2\n", "stands in no line"),
}
BESIDE = dict.fromkeys(
    [
        "lens/cached.py",
        "lens/layers/__init__.py",
        "lens/layers/similarity.py",
        "lens/stats/p_values.py",
        "pages/experts.py",
        "grok/runner/model.py",
    ],
    "",
)


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_said_with_its_file(rule):
    file, text, said = BROKEN[rule]
    found = faults({**BESIDE, file: text})
    assert len(found) == 1 and file in found[0], found
    assert said in found[0]


def test_a_circle_inside_a_folder_is_said_whole():
    files = {
        "lens/layers/a.py": "from lens.layers import b",
        "lens/layers/b.py": "def f():\n    from lens.layers.c import g",
        "lens/layers/c.py": "import lens.layers.a",
    }
    (found,) = faults(files)
    assert "circle" in found and all(file in found for file in files)


def test_imports_downwards_and_in_the_own_folder_are_fine():
    files = {
        "lens/layers/a.py": "import numpy\nfrom lens.layers.b import c\nfrom lens.errors import E",
        "lens/layers/b.py": "from grok.checkpoints import safetensors\n_own = 1\nc = _own",
        "lens/errors.py": "",
        "grok/checkpoints/safetensors.py": "",
        "lens/cached.py": "import streamlit\nfrom lens.layers import a\na.c.__doc__",
        "pages/layers.py": "import jax\nimport streamlit\nfrom lens import cached",
    }
    assert faults(files) == []


BLOCKED = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked here")

sys.meta_path.insert(0, Blocked())
for name in {modules!r}:
    importlib.import_module(name)
loaded = set({unloaded!r}) & set(sys.modules)
assert not loaded, loaded
"""


def imports_without(modules: list[str], blocked: list[str], unloaded: list[str]) -> str:
    """The error when these modules are imported with others out of reach."""
    code = BLOCKED.format(blocked=blocked, modules=modules, unloaded=unloaded)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    return result.stderr if result.returncode else ""


def lens_modules() -> list[str]:
    names = [file[:-3].replace("/", ".") for file in texts() if file.startswith("lens/")]
    return sorted(name.removesuffix(".__init__") for name in names if name != "lens.cached")


def test_every_lens_module_but_cached_imports_without_streamlit_and_jax():
    modules = lens_modules()
    assert {
        "lens.routers.gram",
        "lens.layers.similarity",
        "lens.routers.router_set",
        "lens.questions",
    } <= set(modules)
    assert imports_without(modules, ["streamlit", "jax", "jaxlib", "haiku"], []) == ""


def test_the_block_itself_works():
    assert "streamlit is blocked here" in imports_without(["lens.cached"], ["streamlit"], [])


def test_the_analyses_leave_slow_libraries_to_the_functions_that_need_them():
    modules = [
        "lens.questions",
        "lens.clustering.maps",
        "lens.experts.measures",
        "lens.clustering.trees",
    ]
    assert imports_without(modules, ["sklearn", "umap", "numba"], ["scipy.stats", "pandas"]) == ""


def test_the_live_page_stands_before_jax_is_there():
    modes = ["one_trace", "compare", "what_if", "generate", "many"]
    modules = [f"pages.live.{mode}.mode" for mode in modes]
    assert imports_without(modules, ["jax", "jaxlib", "haiku"], []) == ""


def test_reading_checkpoints_needs_no_jax():
    modules = ["grok", "grok.checkpoints.grok1", "grok.config", "grok.trace"]
    assert imports_without(modules, ["jax", "jaxlib", "haiku", "streamlit"], []) == ""
