"""Every page with default data, in the raw view, with other sets, with nonsense in the link."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from lens import figures
from lens.escaping import as_markdown
from lens.finding import strongest
from lens.layers.similarity import LAYER_METRICS, layer_similarity
from lens.questions import four_questions
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet, load_routers, save_routers
from pages.shell.layout import QUESTION_VIEWS

pytestmark = pytest.mark.usefixtures("few_drawn_sets")

APP = str(Path(__file__).resolve().parents[2] / "app.py")
PAGES = ("overview", "layers", "experts", "clustering", "features", "live_routing")
TABS = ("table", "within", "chains", "by_index", "classic", "load")


def finding(app: AppTest) -> str:
    return app.subheader[0].value


def fine(app: AppTest) -> bool:
    return not app.exception and not app.error and bool(app.title)


def small_set(n_layers: int, n_experts: int = 4, top_k: int = 1, **more: object) -> RouterSet:
    weights = np.random.default_rng(1).standard_normal((n_layers, 24, n_experts))
    return RouterSet(weights.astype(np.float32), top_k=top_k, source="made for a test", **more)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_with_the_bundled_model(open_page, name):
    app = open_page(name)
    assert fine(app)
    assert app.title[0].value.lower().replace(" ", "_") == name
    assert app.sidebar.selectbox or app.sidebar.caption


@pytest.mark.parametrize(
    "name, places", [("layers", [0]), ("clustering", [1]), ("experts", [2, 3])]
)
def test_the_first_line_is_what_lens_answers(open_page, routers, name, places):
    answers = four_questions(routers, router_gram(routers))
    app = open_page(name)
    own = [answers[place] for place in places]
    assert {QUESTION_VIEWS[answer.id][0] for answer in own} == {f"/{name}"}
    assert finding(app) == strongest([answer.finding for answer in own]).sentence
    text = "\n".join(element.value for element in app.markdown)
    for answer in own:
        assert as_markdown(answer.sentence) in text  # behind "Numbers"


def test_the_overview_answers_all_four_questions_and_opens_with_the_first_that_is_found(
    open_page, routers
):
    answers = four_questions(routers, router_gram(routers))
    app = open_page()
    text = "\n".join(element.value for element in app.markdown)
    for answer in answers:
        for told in (answer.question, answer.plain, answer.sentence):
            assert told in text or as_markdown(told) in text
    assert finding(app) == next(one.plain for one in answers if one.distinguishable)


@pytest.mark.parametrize("name", PAGES)
def test_the_raw_view_is_labelled_and_works(open_page, name):
    app = open_page(name, view="raw")
    assert fine(app)
    if name in ("layers", "experts", "clustering"):
        assert any(caption.value.startswith("Raw routers") for caption in app.caption)


@pytest.mark.parametrize("name", PAGES)
def test_an_uploaded_set_without_norms_is_shown_and_labelled(open_page, name):
    routers = small_set(5)
    app = open_page(name, state={"uploaded_routers": routers}, source="upload")
    assert fine(app)
    side = "\n".join(element.value for element in app.sidebar.caption)
    assert routers.sha256[:12] in side
    assert "5 layers × 4 experts" in side
    assert any("norm scales unknown" in element.value for element in app.sidebar.markdown)


def test_a_file_that_does_not_say_how_many_experts_a_token_goes_to_is_asked_about(
    open_page, tmp_path
):
    np.savez(tmp_path / "routers.npz", routers=small_set(5).routers)
    routers = load_routers(tmp_path / "routers.npz")
    assert not routers.top_k_known
    app = open_page("experts", state={"uploaded_routers": routers}, source="upload")
    assert fine(app) and app.sidebar.number_input(key="upload_top_k").value == 2
    app.sidebar.number_input(key="upload_top_k").set_value(1).run()
    assert fine(app) and app.session_state["uploaded_routers"].top_k == 1
    assert any("1 for each token" in caption.value for caption in app.sidebar.caption)
    known = open_page("experts", state={"uploaded_routers": small_set(5)}, source="upload")
    assert not known.sidebar.number_input


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("name", PAGES)
def test_sets_of_very_few_layers_open(open_page, name, n_layers):
    app = open_page(name, state={"uploaded_routers": small_set(n_layers)}, source="upload")
    assert fine(app)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "query",
    [
        {"layer": "abc", "other": "-1", "expert": "99", "metric": "zzz"},
        {"layer": "999", "view": "nonsense", "measure": "%00", "clusters": "1e9"},
        {"map": "ga", "seed": "x", "axes": "9", "linkage": "?", "tab": "no", "token": "-5"},
        {"source": "/etc/passwd", "order": "", "colours": "<b>", "what": "x" * 5000},
    ],
)
def test_nonsense_in_the_address_falls_back_to_the_defaults(open_page, name, query):
    app = open_page(name, **query)
    assert fine(app)
    assert not set(query.values()) & set(app.query_params.values())


def test_a_notice_names_what_the_link_asked_for(open_page):
    app = open_page("layers", layer="999")
    assert any("999" in toast.value and "Showing L" in toast.value for toast in app.toast)


def test_a_link_restores_metric_layers_and_order(open_page):
    app = open_page("layers", metric="matched_cosine", layer="3", other="7", order="clustered")
    assert fine(app)
    assert app.selectbox(key="metric").value == "matched_cosine"
    assert (app.selectbox(key="layer").value, app.selectbox(key="other").value) == (3, 7)
    assert app.query_params["metric"] in ("matched_cosine", ["matched_cosine"])


def test_the_layer_in_the_address_is_the_models_own_number(open_page):
    routers = replace(small_set(4), layer_ids=np.array([10, 20, 30, 40]))
    app = open_page("layers", state={"uploaded_routers": routers}, source="upload", layer="30")
    assert app.selectbox(key="layer").value == 2
    assert app.query_params["layer"] in ("30", ["30"])


def test_a_layer_chosen_on_one_page_is_chosen_on_the_next(open_page):
    app = open_page("layers", layer="3")
    app.switch_page("pages/experts.py").run()
    assert fine(app)
    assert app.selectbox(key="layer").value == 3


def test_layers_open_on_the_two_that_are_most_alike_in_colours_fitted_to_them(open_page, routers):
    app = open_page("layers")
    shown = app.selectbox(key="layer").value, app.selectbox(key="other").value
    similarity = layer_similarity(router_gram(routers), "cka")
    np.fill_diagonal(similarity, -1)
    assert similarity[shown] == similarity.max()
    assert any("the most alike of all pairs" in element.value for element in app.markdown)
    assert any("fitted to these data" in caption.value for caption in app.caption)
    assert not {"layer", "other"} & set(app.query_params)  # nobody's choice stays out of the link


def test_what_a_page_opens_on_is_no_choice_for_the_next_page(open_page):
    alone = open_page("experts")
    app = open_page("layers").switch_page("pages/experts.py").run()
    assert fine(app)
    for name in ("layer", "expert"):
        assert app.selectbox(key=name).value == alone.selectbox(key=name).value
    assert alone.selectbox(key="expert").value != 0  # an expert that beats chance, and not E0


@pytest.mark.parametrize("metric", LAYER_METRICS)
@pytest.mark.parametrize("name", ["layers", "clustering"])
def test_every_metric_is_shown_in_both_views(open_page, name, metric):
    for view in ("canonical", "raw"):
        assert fine(open_page(name, metric=metric, view=view, draws="500"))


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_of_the_experts_opens_by_its_link(open_page, tab):
    app = open_page("experts", tab=tab, layer="2", expert="3")
    assert fine(app)


@pytest.mark.parametrize("linkage", ["average", "complete", "single", "ward", "classic"])
def test_every_tree_is_cut_into_as_many_groups_as_asked(open_page, linkage):
    app = open_page("clustering", linkage=linkage, clusters="4")
    assert fine(app)
    assert len(app.dataframe[0].value) == 4


def test_umap_and_tsne_wait_for_the_button(open_page):
    app = open_page("clustering", map="tsne")
    assert fine(app)
    charts = len(app.get("vega_lite_chart"))
    next(button for button in app.button if button.label == "Run t-SNE").click().run()
    assert fine(app)
    assert len(app.get("vega_lite_chart")) == charts + 1


def test_a_router_file_named_by_the_environment_is_the_default(open_page, tmp_path, monkeypatch):
    routers = small_set(6)
    save_routers(routers, tmp_path / "routers.npz")
    monkeypatch.setenv("GROK_LENS_ROUTERS", str(tmp_path / "routers.npz"))
    app = open_page("layers")
    assert fine(app)
    assert any(routers.sha256[:12] in caption.value for caption in app.sidebar.caption)


def test_a_router_file_that_is_missing_is_an_error_with_a_way_out(open_page, monkeypatch):
    monkeypatch.setenv("GROK_LENS_ROUTERS", "/nowhere/routers.npz")
    app = open_page("layers")
    assert not app.exception
    assert re.search("no such file", app.error[0].value)
    app.sidebar.selectbox(key="source").select("bundled").run()
    assert fine(app)


def test_a_checkpoint_named_by_the_environment_gives_its_routers(open_page, monkeypatch):
    folder = Path(__file__).resolve().parents[1] / "data" / "tiny3"
    monkeypatch.setenv("GROK_LENS_CHECKPOINT", str(folder))
    app = open_page("experts")
    assert fine(app)
    assert any("3 layers × 8 experts" in caption.value for caption in app.sidebar.caption)


def test_the_first_visitor_of_a_server_gets_a_page_inside_the_app():
    app = AppTest.from_file(APP, default_timeout=300).run()
    app.switch_page("pages/layers.py").run()
    assert fine(app)
    assert any("SHA-256" in caption.value for caption in app.sidebar.caption)


def test_a_link_made_with_other_data_says_so(open_page):
    app = AppTest.from_file(APP, default_timeout=300)
    app.query_params["data"] = "0123456789ab"
    app.run()
    assert any("0123456789ab" in warning.value for warning in app.sidebar.warning)


def contrast(one: str, other: str) -> float:
    """Of two colours such as "#18212B", by WCAG 2."""

    def light(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark, ground", [(False, "#FFFFFF"), (True, "#0F1520")])
def test_text_of_figures_reads_on_the_pages_background(dark, ground):
    look = figures.look(dark)
    text = [look["title"][name] for name in ("color", "subtitleColor")]
    text += [
        look[part][name] for part in ("axis", "legend") for name in ("labelColor", "titleColor")
    ]
    assert min(contrast(colour, ground) for colour in [*text, look["text"]["color"]]) >= 4.5


@pytest.mark.parametrize("name", PAGES)
def test_the_view_is_offered_where_it_acts(open_page, name):
    offered = {control.key for control in open_page(name).sidebar.segmented_control}
    assert ("view" in offered) == (name in ("layers", "experts", "clustering"))


def test_a_figures_title_is_text_of_the_page_and_its_labels_are_its_own(open_page):
    app = open_page("layers")
    assert any(element.value == "**Similarity of layers**" for element in app.markdown)
    for element in app.get("vega_lite_chart"):
        spec = json.loads(element.proto.spec)
        assert not element.proto.theme and "title" not in spec
        assert spec["config"]["title"] == figures.look()["title"]
