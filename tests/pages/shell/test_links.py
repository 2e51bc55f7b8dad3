"""What a link asks for in vain is said by name; files that no link holds are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from lens.escaping import as_markdown
from lens.routers.router_set import RouterSet
from pages.shell import data_source, downloads

HOSTILE = "![x](http://evil)"


def small_set(n_layers: int = 4) -> RouterSet:
    rng = np.random.default_rng(0)
    return RouterSet(
        routers=rng.standard_normal((n_layers, 16, 8)).astype(np.float32),
        layer_ids=np.arange(n_layers),
        top_k=2,
        norm_scales=None,
        source="a test",
    )


def toasts(app) -> list[str]:
    return [toast.value for toast in app.toast]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"groups": "999"}, "“groups=999” means nothing here"),
        ({"seed": "-4"}, "“seed=-4” (seed of the map), which is not shown here"),
        ({"source": "/etc/passwd"}, "where the routers come from"),
    ],
)
def test_what_a_link_asks_for_in_vain_is_named_once(open_page, query, words):
    app = open_page("layers", **query)
    assert not app.exception
    assert any(words.replace("\\", "") in toast.replace("\\", "") for toast in toasts(app))
    app.run()
    assert toasts(app) == []


def test_a_seed_below_its_bounds_is_named_where_there_is_a_seed(open_page, few_drawn_sets):
    app = open_page("clustering", map="tsne", seed="-4")
    assert any("seed" in toast and "4" in toast for toast in toasts(app))


def test_a_link_names_the_uploaded_file_and_not_what_this_tab_holds(open_page):
    state = {"uploaded_routers": small_set(), "uploaded_name": "my set.npz"}
    app = open_page("layers", state=state, source="upload", layer="3")
    (code,) = [one.value for one in app.code if "source=upload" in one.value]
    assert "file=my+set.npz" in code and "kept=" not in code and "kept" in app.query_params


@pytest.mark.parametrize("page", ["overview", "layers", "live_routing"])
def test_a_link_to_a_file_that_is_not_open_asks_for_it_by_name(open_page, page):
    app = open_page(page, source="upload", file=f"a{HOSTILE}.npz", data="0123456789ab")
    assert not app.exception
    assert app.subheader[0].value == f"Open the file “a{as_markdown(HOSTILE)}.npz” first"
    assert any("0123456789ab" in one.value for one in app.main.caption)
    assert not app.get("vega_lite_chart") and not app.sidebar.warning
    assert app.query_params["file"] == f"a{HOSTILE}.npz"  # the link stays whole until then
    app.button(key="bundled_instead").click().run()
    assert not app.exception and not app.subheader[0].value.startswith("Open")
    assert "file" not in app.query_params


def test_a_bare_source_of_an_upload_asks_for_the_file(open_page):
    app = open_page("experts", source="upload")
    assert app.subheader[0].value == "Open the file with its routers first"
    assert len(app.main.get("file_uploader")) == 1


def test_the_view_of_the_link_appears_when_the_file_is_open(open_page):
    app = open_page("layers", source="upload", file="r.npz", layer="3", metric="matched_cosine")
    app.session_state["uploaded_routers"] = small_set()
    app.session_state["uploaded_name"] = "r.npz"
    app.run()
    assert not app.exception
    assert app.selectbox(key="layer").value == 3
    assert app.selectbox(key="metric").value == "matched_cosine"
    assert any("4 layers × 8 experts" in one.value for one in app.sidebar.caption)
    assert toasts(app) == []


def test_routers_of_the_hub_are_asked_for_too(open_page):
    app = open_page("layers", source="hub")
    assert app.subheader[0].value == "Fetch the routers first"


def test_live_routing_says_which_model_runs_where_the_routers_are_anothers(open_page):
    state = {"uploaded_routers": small_set(), "uploaded_name": "my *set*.npz"}
    app = open_page("live_routing", state=state, source="upload")
    (note,) = [one.value for one in app.info if "Prompts here run on" in one.value]
    assert "**bundled model** (12 layers × 8 experts)" in note
    assert "my \\*set\\*.npz" in note and "not on the routers" in note
    assert not [one for one in open_page("live_routing").info if "Prompts here" in one.value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She opened the window and said good morning. Sie", "she_opened_the_window_and_said_good"),
        ("Größe: naïve ½", "groe_naive_12"),
        ("../../etc/passwd", "etc_passwd"),
        ("日本語", ""),
        ("x" * 500, "x" * 40),
    ],
)
def test_the_beginning_of_a_text_is_a_safe_part_of_a_name(text, words):
    assert downloads.first_words(text) == words


def test_a_files_name_is_plain_and_bounded_and_ends_with_the_hash():
    stem = downloads.file_stem("trace", "ab" * 32, "é/\\\n" * 90, "seed3")
    assert stem.isascii() and len(stem) <= 100 and stem.endswith("-abababab")
    assert not set(stem) & set("/\\ \n")
    assert data_source.short_name("a\x00b" + "c" * 200) == "c" * 80
