"""Compare: two texts or one change, what is said of them, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lens.prompt_pairs.alignment import SAME
from lens.prompt_pairs.paired_routing import kept_experts
from lens.prompt_pairs.paired_tests import agreement_test
from lens.traces.trace import Trace
from pages.live.compare import (
    examples,
    run,
    significance,
    views,
)
from pages.live.session import prompts, shared_models
from pages.shell import data_source
from tests.headline_words import told
from tests.pages.copied_code import check

SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"
LONG = ", ".join(str(10 + 7 * i % 90) for i in range(14))
IDS, OTHER = "5, 17, 3, 42, 99, 256, 12, 7", "5, 17, 4, 42, 256, 12, 7, 9"


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page runs a small model without a tokenizer, whatever model is bundled."""
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


def opened(open_page, **query: Any):
    return open_page("live_routing", mode="compare", **query)


def compared(app, first: str, second: str | None = None):
    app.text_area(key="prompt").set_value(first)
    if second is not None:
        app.text_area(key="second_prompt").set_value(second)
    app.button(key="run_compare").click()
    return app.run(timeout=300)


def heading(app) -> str:
    return told(app)


def result_of(app, side: str = "texts") -> run.Result:
    return app.session_state["compared"][side]


def test_the_mode_invites_before_anything_was_compared(open_page, small_model):
    app = opened(open_page)
    assert not app.exception and not app.error
    assert heading(app).startswith("Lay two texts side by side")


def test_without_a_model_the_mode_says_what_can_be_compared(open_page, small_model, monkeypatch):
    monkeypatch.setattr(shared_models, "model_choices", lambda person=None: {})
    app = opened(open_page)
    assert not app.exception and not app.error
    assert "No model can run prompts here" in app.info[0].value


def test_two_texts_are_aligned_and_every_tab_says_what_its_null_is(
    open_page, small_model, shown_figures
):
    app = compared(opened(open_page), f"1, {LONG}", f"2, 9, {LONG}")
    assert not app.tabs  # statistics are folded
    app = compared(opened(open_page, differences="agreement"), f"1, {LONG}", f"2, 9, {LONG}")
    assert "14 tokens stand in both texts after their first difference" in heading(app)
    found = result_of(app)
    assert found.alignment.common_start == 0
    assert found.alignment.count(SAME) == 14
    said = set()
    for tab in significance.PARTS:
        app.query_params["differences"] = tab
        app.run(timeout=300)
        assert not app.exception and not app.error and not app.info
        null = [m.value for m in app.markdown if "Null: " in m.value]
        assert len(null) == 1 and "seed 0" in null[0]
        said.update(null)
    assert len(said) == len(significance.PARTS)
    tests = {"agreement", "fading", "difference", "loads", "change_along", "next_tokens"}
    codes = check(
        shown_figures, {f"compare_{key}" for key in tests | {"strip", "map", "cell_0", "cell_1"}}
    )
    assert "trace_prompt(" in codes["compare_cell_1"]
    experts = r"in first text, place \d+: \*\*L\d·E\d\*\* and \*\*E\d\*\*, margin "
    assert any(re.search(experts, one.value) for one in app.markdown)


def test_too_few_tokens_to_see_a_difference_fade_are_said_to_be(open_page, small_model):
    app = compared(opened(open_page, differences="fading"), IDS, OTHER)
    assert not app.exception and not app.error
    assert any("4 tokens to compare; expected at least 8" in info.value for info in app.info)


def test_the_heading_says_what_the_tests_compute(open_page, small_model):
    app = compared(opened(open_page), IDS, OTHER)
    runs = result_of(app).runs()
    found = agreement_test(runs)
    assert f"keep {100 * found.value:.0f}\u00a0% of their experts" in heading(app)
    assert significance.chance(found.p, found.blocks, found.test.draws) in heading(app)
    kept = kept_experts(runs)[:, runs.pairs]
    assert found.value == pytest.approx(kept.mean())


def test_every_value_is_drawn_on_the_map_and_named_in_the_heading(open_page, small_model):
    app = compared(opened(open_page), IDS, OTHER)
    for what, name in views.SHOWN.items():
        app.query_params["differs"] = what
        app.run(timeout=300)
        assert not app.exception and not app.error
        assert (name in heading(app)) == (what != "kept")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (IDS, "  ", "One of the two prompts is empty"),
        (IDS, "5, 999999", "outside the vocabulary"),
        (IDS, " ".join(["5"] * 20), "at most 16"),
    ],
)
def test_a_text_that_cannot_be_run_says_why_and_loses_nothing(
    open_page, small_model, monkeypatch, first, second, message
):
    monkeypatch.setenv(prompts.LIMIT_VARIABLE, "16")
    app = compared(compared(opened(open_page), IDS, OTHER), first, second)
    assert not app.exception
    assert any(message in error.value for error in app.error)
    assert "4 tokens stand in both texts" in heading(app)
    assert app.text_area(key="second_prompt").value == second


@pytest.mark.parametrize(
    ("second", "message"),
    [(IDS, "the same 8 tokens, and so is their routing"), ("5, 17, 4", "share no token after")],
)
def test_texts_with_nothing_to_compare_are_explained(open_page, small_model, second, message):
    app = compared(opened(open_page), IDS, second)
    assert not app.exception and not app.error
    assert message in heading(app)


def test_texts_without_any_common_token_are_laid_side_by_side_all_the_same(open_page, small_model):
    app = compared(opened(open_page), "1, 2, 3", "4, 5")
    assert not app.exception and not app.error
    assert "share no token" in heading(app)
    assert any("no token in common" in info.value for info in app.info)


@pytest.mark.parametrize(
    ("change", "tab"), [("ban", "next"), ("include", "loads"), ("temperature", "difference")]
)
def test_a_change_stands_beside_the_same_change_elsewhere(open_page, small_model, change, tab):
    app = compared(opened(open_page, sides="change", change=change, differences=tab), IDS)
    assert not app.exception and not app.error
    found = result_of(app, "change")
    assert found.kl.shape == (8,) and found.others.size >= 1
    assert f"changes what the model expects next by {found.kl.mean():.3g} nats" in heading(app)
    assert f"The same on {found.others.size} other" in heading(app)
    assert "rank" in heading(app)


def test_a_ban_leaves_the_layers_before_it_as_they_are(open_page, small_model):
    app = opened(open_page, sides="change", change="ban", change_layer="1", expert="0")
    found = result_of(compared(app, IDS), "change")
    np.testing.assert_array_equal(found.first.experts[0], found.second.experts[0])
    assert not (found.second.experts[1] == 0).any()
    assert found.kept == pytest.approx(kept_experts(found.runs())[[0, *range(2, 12)]].mean())
    assert found.runs().tested.tolist() == [layer != 1 for layer in range(12)]
    assert found.second.settings["interventions"] == ["layers[1].router.logits: ban([0])"]


def test_a_temperature_in_all_layers_has_nothing_to_stand_beside(open_page, small_model):
    asked = {"change": "temperature", "change_layer": "all", "warmth": "2", "differs": "entropy"}
    app = compared(opened(open_page, sides="change", **asked), IDS)
    assert not app.exception and not app.error
    assert "Router temperature 2 in all layers" in heading(app)
    assert result_of(app, "change").others.size == 0
    assert "every layer is changed by hand" in heading(app)


def test_texts_are_not_in_the_address_but_choices_are(open_page, small_model):
    app = compared(opened(open_page, differences="loads", block="4"), IDS, OTHER)
    assert {**app.query_params}.items() >= {"block": "4", "differences": "loads"}.items()
    assert "17" not in str(app.query_params)


def test_few_blocks_are_said_to_be_too_few(open_page, small_model):
    app = compared(opened(open_page, differences="difference"), IDS, OTHER)
    assert any("Too few independent tokens" in caption.value for caption in app.caption)
    assert "too few independent tokens" in heading(app)


def test_other_changes_are_of_the_same_layer_and_a_few_of_many_at_most():
    ban = run.Change("ban", 3, 5)
    others = ban.elsewhere(12, 8)
    assert {c.expert for c in others} == set(range(8)) - {5}
    assert {(c.kind, c.layer) for c in others} == {("ban", 3)}
    many = ban.elsewhere(64, 256)
    assert len(many) == run.MOST_OTHERS and 5 not in {c.expert for c in many}
    warm = run.Change("temperature", 3, temperature=2.0).elsewhere(5, 8)
    assert [c.layer for c in warm] == [0, 1, 2, 4] and {c.temperature for c in warm} == {2.0}
    assert run.Change("temperature", run.ALL).elsewhere(12, 8) == []


def file_like(trace, **changes):
    """A trace as one opened from a file."""
    given = {f.name: getattr(trace, f.name) for f in dataclasses.fields(Trace) if f.init}
    return Trace(**(given | changes))


@pytest.fixture
def trace():
    from grok import load

    given = load(SMALL).trace_routing([int(i) for i in LONG.split(",")])
    values = {f.name: getattr(given, f.name, 1) for f in dataclasses.fields(Trace) if f.init}
    return Trace(**values)


def test_traces_of_the_session_are_compared_and_one_alone_is_not_enough(
    open_page, small_model, trace
):
    app = opened(open_page, sides="traces")
    assert not app.exception and "holds 0 of the two traces" in app.info[0].value
    other = file_like(trace, model_sha256="1" * 64)
    state = {"traces": {"first": trace}, "uploaded_trace": ("t.npz", other)}
    app = opened(open_page, sides="traces", state=state)
    assert not app.exception and not app.error
    # Of other models, nothing is known to be alike from the start.
    assert "14 tokens stand in both texts. They keep 100\u00a0%" in heading(app)


def test_traces_of_models_of_other_shapes_are_refused(open_page, small_model, trace):
    few = file_like(
        trace,
        **{
            name: getattr(trace, name)[:3]
            for name in ("router_logits", "router_probs", "experts", "gates")
        },
    )
    state = {"traces": {"first": trace}, "uploaded_trace": ("t.npz", few)}
    app = opened(open_page, sides="traces", state=state)
    assert not app.exception
    assert any("expected runs of one model" in error.value for error in app.error)


def test_a_trace_without_candidates_is_compared_as_far_as_that_goes(open_page, small_model, trace):
    bare = file_like(
        trace,
        candidates=trace.candidates[:, :0],
        candidate_probs=trace.candidate_probs[:, :0],
        candidate_pieces=None,
        model_sha256="1" * 64,
    )
    state = {"traces": {"first": trace}, "uploaded_trace": ("t.npz", bare)}
    app = opened(open_page, sides="traces", state=state, differences="next")
    assert not app.exception and not app.error
    assert any("and 0 candidates after each" in info.value for info in app.info)
    assert "keep 100" in heading(app) and "expect next" not in heading(app)


def test_a_quantity_that_a_model_does_not_have_leaves_the_rest_of_the_page(
    open_page, small_model, trace
):
    order = np.argsort(-trace.router_probs, axis=-1, kind="stable")
    every = file_like(
        trace, experts=order, gates=np.take_along_axis(trace.router_probs, order, axis=-1)
    )
    other = file_like(every, model_sha256="1" * 64)
    state = {"traces": {"first": every}, "uploaded_trace": ("t.npz", other)}
    app = opened(open_page, sides="traces", state=state, differs="margin")
    assert not app.exception and not app.error
    assert any("no choice was close" in info.value for info in app.info)
    assert "14 tokens stand in both texts. They keep 100" in heading(app)


@pytest.mark.parametrize("name", list(examples.TEXT_EXAMPLES))
def test_examples_of_texts_share_tokens_that_go_elsewhere(name):
    from grok.cached import shared_model

    choice = shared_models.ModelChoice("Bundled", str(data_source.bundled_checkpoint()), None, True)
    model = shared_model(choice.path, "bfloat16")
    texts = examples.TEXT_EXAMPLES[name].texts
    first, second = (model.trace(texts[box]) for box in ("prompt", "second_prompt"))
    found = run.Result(
        first,
        second,
        run.align(first.tokens, second.tokens),
        run.TEXTS,
    )
    agreement = agreement_test(found.runs())
    assert not agreement.blocks.too_few
    assert agreement.changed >= 20 and agreement.p <= 0.05
