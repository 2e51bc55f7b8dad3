"""Who imports whom: the analyses need neither streamlit nor jax, and the checkpoint no jax."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

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
    """What goes wrong when these modules are imported with others out of reach."""
    code = BLOCKED.format(blocked=blocked, modules=modules, unloaded=unloaded)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return result.stderr if result.returncode else ""


def lens_modules() -> list[str]:
    files = (ROOT / "lens").rglob("*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
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


@pytest.mark.parametrize("module", ["grok", "grok.checkpoints.grok1", "grok.config", "grok.trace"])
def test_reading_checkpoints_needs_no_jax(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    assert imports_without([module], ["jax", "jaxlib", "haiku", "streamlit"], []) == ""


def test_lens_reaches_into_grok_only_to_extract():
    allowed = {"extract.py", "extract_embedding.py", "extract_hub.py"}
    for file in (ROOT / "lens").rglob("*.py"):
        if file.name not in allowed:
            text = file.read_text()
            assert "from grok" not in text and "import grok" not in text, file
