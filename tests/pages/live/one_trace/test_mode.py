"""Inspect: the cell's card, agreement with a second text, moving between cells, examples."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lens.extract.grok1 import extract_routers
from lens.prompt_pairs.agreement import agreement
from lens.traces import router_geometry
from lens.traces.trace import Trace
from pages.live.one_trace import cell_keys, cell_view, logit_lens
from pages.live.one_trace import examples as inspect_examples
from pages.live.running import prompt_form
from pages.live.session import kept_traces, shared_models
from pages.overview_views import hero
from pages.shell import data_source
from tests.headline_words import told

STALE = "the last result"
IDS = "5, 17, 3, 42, 99, 256, 12, 7"
OTHER = "5, 17, 3, 42, 98, 256, 12, 7, 4, 4"
SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


def saved(trace) -> Trace:
    """A trace as it comes out of a file."""
    names = [field.name for field in dataclasses.fields(Trace) if field.name != "format_version"]
    return Trace(**{name: getattr(trace, name) for name in names})


@pytest.fixture(scope="module")
def traces():
    from grok import load

    model = load(SMALL)
    return [saved(model.trace_routing([int(i) for i in ids.split(",")])) for ids in (IDS, OTHER)]


def shown(open_page, trace, second=None, **query: str):
    state = {"traces": {"first": trace} | ({"second": second} if second is not None else {})}
    app = open_page("live_routing", state=state, **query)
    assert not app.exception and not app.error
    return app


def said(app) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


# --- the cell's card -------------------------------------------------------------------


def test_the_card_says_what_would_flip_the_choice_as_the_library_has_it(
    open_page, small_model, traces
):
    words = said(shown(open_page, traces[0], token="6", layer="4"))
    found = router_geometry.flips(traces[0], extract_routers(SMALL), 4)
    assert f"Next in line is **L4·E{found.next_in_line[6]}**" in words
    assert f"**{100 * found.push[6]:.2g}\u00a0%** of the length" in words
    assert "Control: 999 directions from one mixture" in words and "Unrelated directions" in words


def test_the_card_reads_the_next_token_after_the_chosen_layer(open_page, small_model, traces):
    from grok import load
    from grok.serving.shared_model import SharedModel

    app = shown(open_page, traces[0], token="3", layer="2")
    found = SharedModel(load(SMALL)).logit_lens(np.asarray(traces[0].tokens))
    words = said(app)
    assert f"“{found.pieces[2, 3, 0]}” ({found.probs[2, 3, 0]:.3f})" in words
    assert f"is {found.kl[2, 3]:.2f} nats" in words
    kept = app.session_state[logit_lens.LENSES.key]
    assert list(kept) == [logit_lens.lens_key(traces[0])]
    app.run()
    assert app.session_state[logit_lens.LENSES.key] is not None and len(kept) == 1


def test_the_card_lists_the_nearest_tokens_with_their_chance(open_page, small_model, traces):
    app = shown(open_page, traces[0], token="2", layer="1")
    assert not app.dataframe  # folded
    app.session_state[cell_view.NEAR] = True
    app.run()
    found = router_geometry.neighbours(traces[0], 1, 2)
    table = app.dataframe[0].value
    assert list(table["token"]) == found.tokens.tolist()
    np.testing.assert_allclose(table["distance"], found.distance)
    assert f"(p = {found.as_near:.2g}, its rank among" in said(app)


def test_a_trace_of_another_model_says_what_is_missing(open_page, small_model, traces):
    other = dataclasses.replace(traces[0], model_sha256="1" * 64)
    words = said(shown(open_page, other))
    assert "none of the sources has them" in words
    assert "needs the model that made the trace" in words


def test_a_trace_under_an_intervention_shows_its_choice_and_no_flip(open_page, small_model, traces):
    from grok import load
    from grok.interventions.edits import ban, edit

    expert = int(traces[0].experts[0, 7, 0])
    edits = edit("router.logits", ban(expert), layers=[0])
    changed = load(SMALL).trace_routing([int(i) for i in IDS.split(",")], edits=edits)
    words = said(shown(open_page, saved(changed), token="7", layer="0"))
    assert f"**L0·E{expert}**" not in words
    assert "changed by an intervention" in words and "no logit lens" in words


def test_a_lens_of_an_opened_file_waits_until_it_is_asked_for(open_page, small_model, traces):
    state = {"uploaded_trace": ("t.npz", traces[0]), "trace_shown": "file"}
    app = open_page("live_routing", state=state)
    assert not app.exception
    assert "If the model ended after" not in said(app)
    next(b for b in app.button if b.label == "Read the logit lens").click()
    app.run()
    assert not app.exception and "If the model ended after" in said(app)


def test_a_text_of_one_token_has_a_card_without_what_needs_others(open_page, small_model):
    from grok import load

    words = said(shown(open_page, saved(load(SMALL).trace_routing([5]))))
    assert "Next in line is" in words and "If the model ended after" in words
    assert "other tokens" not in words and "nan" not in words


# --- agreement ------------------------------------------------------------------------


def test_agreement_with_a_second_text_is_offered_and_has_its_null(open_page, small_model, traces):
    app = shown(open_page, *traces, what="agreement")
    found = agreement(*traces)
    words = said(app)
    assert app.query_params["what"] in ("agreement", ["agreement"])
    assert f"{found.compared} aligned tokens share" in words
    assert "the same tokens paired at random" in words and "seed 0" in words
    assert f"the first {found.common_start} tokens, the same in both" in words


def test_without_a_second_text_agreement_falls_back_to_the_margin(open_page, small_model, traces):
    app = shown(open_page, traces[0], what="agreement")
    assert app.session_state["what"] == "margin"


# --- moving between cells ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("move", "cell"), [("left", (4, 5)), ("right", (6, 5)), ("up", (5, 4)), ("down", (5, 6))]
)
def test_buttons_move_the_cell_by_one(open_page, small_model, traces, move, cell):
    app = shown(open_page, traces[0], token="5", layer="5")
    app.button(key=f"move_{move}").click().run()
    assert (app.session_state["token"], app.session_state["layer"]) == cell


def test_buttons_end_at_the_edges(open_page, small_model, traces):
    app = shown(open_page, traces[0], token="0", layer="11")
    off = {move: app.button(key=f"move_{move}").disabled for move in cell_keys.MOVES}
    assert off == {"left": True, "right": False, "up": False, "down": True}


@pytest.mark.parametrize(
    "sent", [None, [], [1], [1, 2, 3], ["1", 2], [8, 0], [0, -1], [1.5, 2], {}]
)
def test_what_is_no_cell_of_the_map_moves_nothing(sent):
    assert cell_keys.valid_cell(sent, (8, 12)) is None


def test_a_cell_that_the_browser_sends_is_taken():
    assert cell_keys.valid_cell([7.0, 11], (8, 12)) == (7, 11)


# --- examples ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", inspect_examples.EXAMPLES)
def test_an_example_in_the_address_is_run_and_opens_with_what_it_shows(open_page, name):
    example = inspect_examples.EXAMPLES[name]
    app = open_page("live_routing", example=prompt_form.slug(name))
    assert not app.exception and not app.error
    p_value = re.search(r"p [=≤<] ([\d.]+\d)", told(app))
    assert p_value or "q ≤ 0.05" in told(app)
    assert p_value is None or float(p_value[1]) <= 0.05
    assert app.query_params["example"] == prompt_form.slug(name)
    for choice, value in example.choices.items():
        assert app.session_state[choice] == value
    assert {box: app.text_area(key=box).value for box in example.texts} == example.texts


def test_the_first_visit_opens_with_a_stored_example_and_loads_no_model(open_page, monkeypatch):
    monkeypatch.setattr(shared_models, "shared", None)
    app = open_page("live_routing")
    assert not app.exception and not app.error
    assert "of the English tokens" in app.subheader[0].value
    assert app.text_area(key="prompt").value == hero_text()
    assert app.selectbox(key="layer").value == 6  # of the finding
    assert not [caption for caption in app.caption if STALE in caption.value]


def hero_text() -> str:
    return inspect_examples.EXAMPLES[inspect_examples.FIRST].texts["prompt"]


def test_the_stored_routing_is_of_the_first_example():
    assert kept_traces.text_of(hero.example()) == hero_text()


def test_an_example_runs_on_one_click_and_the_form_folds(open_page, small_model):
    app = open_page("live_routing")
    assert app.expander[0].proto.expanded
    app.pills(key="inspect_examples").set_value("A repeat").run()
    assert not app.exception and not app.error
    assert app.session_state["traces"]["first"].tokens.tolist() == [8, 8, 8, 8, 9, 9, 9, 9]
    assert not app.expander[0].proto.expanded


def test_a_result_of_another_text_is_said_to_be_one_also_after_a_failed_run(open_page, small_model):
    app = open_page("live_routing")

    def run(text: str) -> bool:
        app.text_area(key="prompt").set_value(text)
        next(button for button in app.button if button.label == "Run").click().run()
        return any(STALE in caption.value for caption in app.caption)

    assert not run(IDS)
    assert run("five") and app.error
    assert not run(OTHER)


def test_a_text_that_is_no_example_has_no_note():
    assert inspect_examples.ran("something", "", None) == {}


def test_context_marks_the_token_among_its_neighbours():
    pieces = ["▁The", "▁old", "▁sea", "▁was", "▁calm"]
    assert cell_view.context(pieces, 2) == "·The·old ⟦·sea⟧ ·was·calm"
    assert "⟦·The⟧" in cell_view.context(pieces, 0)


def test_lenses_of_texts_that_differ_in_one_token_or_in_dtype_are_kept_apart():
    def key(tokens, dtype="bfloat16"):
        one = SimpleNamespace(
            tokens=np.array(tokens), model_sha256="0" * 64, settings={"dtype": dtype}
        )
        return logit_lens.lens_key(one)

    assert len({key([1, 2, 3]), key([1, 2, 4]), key([1, 2, 3], "float32")}) == 3
