"""The live page on a model whose first layer has no experts: what is named is what is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lens.prompt_pairs import interventions
from pages.live.compare import mode as compare_mode
from pages.live.one_trace import logit_lens
from pages.live.what_if import every_expert, one_expert, patching

FOLDER = Path(__file__).resolve().parents[2] / "data" / "huggingface" / "deepseek_v3_fp8"
IDS, OTHER = "5, 17, 3, 80, 9, 44", "5, 17, 3, 81, 9, 44"
FLOAT32 = {"numbers": "float32"}


@pytest.fixture(autouse=True)
def dense_first(monkeypatch):
    """Four layers, of which L1 to L3 have 16 experts each."""
    monkeypatch.setenv("GROK_LENS_CHECKPOINT", str(FOLDER))


def ran(open_page, button: str, texts: dict[str, str], **query: str):
    app = open_page("live_routing", **query)
    for name, text in texts.items():
        app.text_area(key=name).set_value(text)
    app.button(key=button).click()
    app.run(timeout=300)
    assert not app.exception and not app.error
    return app


def test_an_expert_is_banned_in_the_layer_that_is_named(open_page):
    query = {"mode": "what_if", "question": "one", "layer": "2", "expert": "5"}
    app = ran(open_page, "run_one", {"prompt": IDS}, **query, **FLOAT32)
    assert app.selectbox(key="layer").options == ["L1", "L2", "L3"]
    result = app.session_state[one_expert.KEPT.key]
    (text,) = result.own.changed.settings["interventions"]
    assert "layers[2]" in text and "L2·E5" in app.subheader[0].value
    assert not (result.own.changed.experts[1] == 5).any()
    np.testing.assert_array_equal(result.own.changed.experts[0], result.own.base.experts[0])


def test_every_expert_is_of_a_layer_that_has_some(open_page):
    query = {"mode": "what_if", "question": "every"}
    app = ran(open_page, "run_every", {"prompt": IDS}, **query, **FLOAT32)
    assert "Run 48 times" in app.button(key="run_every").label
    sweep = app.session_state[every_expert.KEPT.key].sweep
    layer, expert = (int(i) for i in interventions.strongest(sweep.effect, 1)[0])
    assert f"L{layer + 1}·E{expert}" in app.subheader[0].value
    share = every_expert.weights(sweep)
    assert (share > 0).tolist() == (sweep.load > 0).tolist()


@pytest.mark.parametrize(("site", "layers"), [("resid_pre", 4), ("router.logits", 3)])
def test_a_patch_goes_into_the_layers_that_have_its_place(open_page, site, layers):
    query = {"mode": "what_if", "question": "patch", "site": site, "regained": "kl"}
    texts = {"clean": IDS, "corrupt": OTHER}
    app = ran(open_page, "run_patch", texts, **query, **FLOAT32)
    sweep = app.session_state[patching.KEPT.key].sweep
    assert sweep.layers.tolist() == list(range(4))[-layers:]


def test_a_change_beside_the_text_is_made_in_the_layer_that_is_named(open_page):
    query = {"mode": "compare", "sides": "change", "change_layer": "3", "expert": "5"}
    app = ran(open_page, "run_compare", {"prompt": IDS}, **query)
    result = app.session_state[compare_mode.KEPT.key]["change"]
    (text,) = result.second.settings["interventions"]
    assert "layers[3]" in text and len(result.others) == 7
    assert not (result.second.experts[2] == 5).any()
    np.testing.assert_array_equal(result.second.experts[:2], result.first.experts[:2])


def test_the_logit_lens_is_of_the_layer_that_is_named(open_page):
    app = ran(open_page, "FormSubmitter:run-Run", {"prompt": IDS}, token="2", layer="1")
    (lens,) = app.session_state[logit_lens.LENSES.key].values()
    said = next(one.value for one in app.markdown if one.value.startswith("**Next token.**"))
    assert "If the model ended after L1" in said
    assert f"“{lens.pieces[1, 2, 0]}” ({lens.probs[1, 2, 0]:.3f})" in said.replace("\\", "")


def test_a_cell_says_what_is_a_score_what_chooses_and_what_the_shared_expert_adds(open_page):
    app = ran(open_page, "FormSubmitter:run-Run", {"prompt": IDS}, token="2", layer="1")
    said = next(one.value for one in app.markdown if one.value.startswith("Token 2 "))
    assert "of corrected score" in said and "logits" not in said
    captions = " ".join(one.value for one in app.caption)
    assert "scores, each expert's own: they do not sum to 1" in captions
    (trace,) = app.session_state["traces"].values()
    chosen, shared, cosine = trace.beside_shared[0, 2]  # L1 is the first with experts
    (added,) = [one.value for one in app.markdown if "shared expert" in one.value]
    assert f"has {100 * shared / chosen:.0f}\u00a0% of the length" in added
    assert f"Lengths {shared:.3f} (shared) and {chosen:.3f} (chosen)" in captions
