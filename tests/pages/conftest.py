"""A running app without a browser, at any page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.pages_manager import PagesManager
from streamlit.runtime.scriptrunner.script_cache import ScriptCache
from streamlit.testing.v1 import AppTest, local_script_runner
from streamlit.testing.v1.element_tree import HeadingBase, Markdown
from streamlit.testing.v1.local_script_runner import LocalScriptRunner

import grok
from grok.files import CACHE_VARIABLE
from lens.clustering import branch_support, tree_null
from lens.extract.grok1 import extract_routers
from lens.figures import printing
from lens.glossary import unmarked
from lens.routers.router_set import RouterSet
from lens.storage.expert_notes import FOLDER_VARIABLE
from pages.feature_views import source
from pages.live.running import preload
from pages.shell import data_source, downloads
from pages.trees import chance as tree_chance

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "overview": "Overview",
    "layers": "Layers",
    "experts": "Experts",
    "clustering": "Clustering",
    "features": "Features",
    "live_routing": "Live routing",
}
PATIENCE = 300  # seconds that a busy machine may take for a page

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def bundled_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but the bundled, nobody's notes, no model in the background: whatever is set."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "notes"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(preload.VARIABLE, "off")
    monkeypatch.delenv(data_source.ROUTERS_VARIABLE, raising=False)
    monkeypatch.delenv(data_source.CHECKPOINT_VARIABLE, raising=False)
    monkeypatch.delenv(source.FEATURES_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["app.py"])


@pytest.fixture(scope="session", autouse=True)
def what_every_run_repeats_is_done_once() -> Iterator[None]:
    """Every `AppTest` looks through all installed packages for components: a third of a second.

    And every run compiles the page, and looks for its end a thousand times a second.
    """

    def wait(runner: LocalScriptRunner, timeout: float = 3) -> None:
        thread = runner._script_thread
        assert thread is not None
        thread.join(timeout)
        if thread.is_alive():
            given_up(runner, 0)

    given_up = local_script_runner.require_widgets_deltas
    with pytest.MonkeyPatch.context() as patch:
        scan = manifest_scanner.scan_component_manifests
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(scan))
        patch.setattr(local_script_runner, "ScriptCache", cache(ScriptCache))
        patch.setattr(local_script_runner, "require_widgets_deltas", wait)
        yield


@pytest.fixture(autouse=True)
def texts_are_read_without_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown, as people read it; the marks of the field's words stay in `proto.body`."""
    for kind in (HeadingBase, Markdown):
        shown = property(lambda element: unmarked(element.proto.body))
        monkeypatch.setattr(kind, "value", shown)


@pytest.fixture
def shown_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, alt.TopLevelMixin]:
    """The figures that pages offer to save, by their keys; code that makes them saves nothing."""
    found: dict[str, alt.TopLevelMixin] = {}

    def kept(key: str, stem: str, *, chart: alt.TopLevelMixin | None = None, **_: Any) -> None:
        if chart is not None:
            found[key] = chart

    monkeypatch.setattr(downloads, "row", kept)
    monkeypatch.setattr(printing, "printed", lambda *_: b"")
    monkeypatch.setattr(grok, "load", cache(grok.load))  # once for all figures
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def few_drawn_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustering draws a tenth of its sets and trees: what more of them give is tested in lens."""
    monkeypatch.setattr(tree_chance, "SETS", (20, 100, 1000))
    monkeypatch.setattr(tree_chance, "TREES", (10, 50, 500))
    monkeypatch.setattr(tree_null, "DRAWS", 20)
    monkeypatch.setattr(branch_support, "DRAWS", 10)


@pytest.fixture
def served_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has had a visitor: from then on Streamlit runs app.py for every page."""
    start = PagesManager.__init__

    def started(self: PagesManager, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", started)


@pytest.fixture(scope="session")
def routers() -> RouterSet:
    """What the app shows by default."""
    return extract_routers(data_source.bundled_checkpoint())


@pytest.fixture
def open_page(served_before: None) -> Open:
    """Opens the app at a page, with query parameters and session state."""

    def open_at(page: str = "overview", *, state: dict | None = None, **query: str) -> AppTest:
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE)
        for name, value in (state or {}).items():
            app.session_state[name] = value
        for name, value in query.items():
            app.query_params[name] = value
        if page != "overview":
            app.switch_page(f"pages/{page}.py")
        app.run()
        assert all(title.value == TITLES[page] for title in app.title)  # no other page
        return app

    return open_at
