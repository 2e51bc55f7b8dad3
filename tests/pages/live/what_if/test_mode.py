"""The What if mode: runs what it says, beside controls, and says what it cannot do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from grok.config import BUNDLED_MODEL
from pages.live.session import prompts
from pages.live.what_if import every_expert, examples, one_expert, patching
from pages.shell import data_source
from tests.headline_words import told
from tests.pages.copied_code import check

IDS = "5, 17, 3, 42, 99, 256, 12, 7"
OTHER = "5, 17, 3, 44, 99, 256, 12, 7"
SMALL = Path(__file__).resolve().parents[3] / "data" / "tiny12"


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


def press(app, start: str):
    next(button for button in app.button if button.label.startswith(start)).click()
    return app.run(timeout=300)


def asked(open_page, question: str, texts: dict[str, str], **query: str):
    app = open_page("live_routing", mode="what_if", question=question, **query)
    assert not app.exception
    for name, text in texts.items():
        app.text_area(key=name).set_value(text)
    return press(app, "Run")


def test_the_mode_invites_before_anything_ran(open_page, small_model):
    app = open_page("live_routing", mode="what_if")
    assert not app.exception and not app.error
    assert told(app).startswith("Take each expert away")


def test_one_expert_is_banned_beside_the_others_of_its_layer(open_page, small_model, shown_figures):
    from grok import load
    from grok.experiments.what_if import what_if
    from grok.interventions.edits import ban, edit

    app = asked(open_page, "one", {"prompt": IDS}, layer="3", expert="2", numbers="float32")
    assert not app.exception and not app.error
    model = load(small_model, dtype="float32")
    tokens = [int(i) for i in IDS.split(",")]
    each = [
        what_if(model, tokens, edit("router.logits", ban(e), layers=3)).kl.mean() for e in range(8)
    ]
    result = app.session_state[one_expert.KEPT.key]
    assert result.own.kl.mean() == pytest.approx(each[2], abs=1e-6)
    np.testing.assert_allclose(result.kl.mean(axis=1), np.delete(each, 2), atol=1e-6)
    said = told(app)
    rank = 1 + sum(value >= each[2] for i, value in enumerate(each) if i != 2)
    assert "Banning L3·E2, which" in said and f"rank {rank} of 8" in said
    assert not (result.own.changed.experts[3] == 2).any()
    check(shown_figures, {"next_tokens_changed", "effects_in_layer", "moved_map"})


def test_a_ban_stands_beside_one_of_another_expert_of_the_same_tokens(open_page, small_model):
    from grok import load
    from grok.experiments.what_if import what_if
    from grok.interventions.edits import ban, edit

    model = load(small_model, dtype="float32")
    tokens = [int(i) for i in IDS.split(",")]
    experts = model.trace_routing(tokens).experts[3]
    expert = int(experts[-1, 0])
    app = asked(open_page, "one", {"prompt": IDS}, layer="3", expert=str(expert), numbers="float32")
    assert not app.exception and not app.error
    result = app.session_state[one_expert.KEPT.key]
    uses = (experts == expert).any(axis=-1)
    other = np.where(experts[:, 0] == expert, experts[:, 1], experts[:, 0])
    np.testing.assert_array_equal(result.other_choice, np.where(uses, other, -1))
    bans = [
        edit("router.logits", ban(int(e)), layers=3, positions=[int(t)])
        for t, e in enumerate(other)
        if uses[t]
    ]
    expected = what_if(model, tokens, sum(bans[1:], bans[0])).kl
    np.testing.assert_allclose(result.instead, expected, atol=1e-6)
    assert f"their other expert instead: {expected.mean():.3g}" in told(app)
    assert any("signs of 1 blocks" in caption.value for caption in app.caption)
    assert "too few independent tokens to tell the two apart" in told(app)


def test_an_expert_that_no_token_uses_has_no_such_control(open_page, small_model):
    from grok import load

    experts = load(small_model).trace_routing([5, 17]).experts[3]
    unused = next(e for e in range(8) if e not in experts)
    app = asked(open_page, "one", {"prompt": "5, 17"}, layer="3", expert=str(unused))
    assert not app.exception and not app.error
    assert app.session_state[one_expert.KEPT.key].instead is None
    assert "instead" not in told(app)


def test_another_expert_is_looked_at_without_pressing_run_again(
    open_page, small_model, monkeypatch
):
    monkeypatch.setattr(one_expert, "QUICK", np.inf)  # what counts as quick on a busy machine
    app = asked(open_page, "one", {"prompt": IDS}, layer="3", expert="2")
    app.selectbox(key="expert").set_value(5)
    app.run(timeout=300)
    assert "Banning L3·E5, which" in told(app)
    app.text_area(key="prompt").set_value("8, 9")
    app.run(timeout=300)
    assert "Banning L3·E5, which" in told(app)
    assert any("press Run" in caption.value for caption in app.caption)


def test_every_expert_is_swept_and_use_is_tested_beside_relabelled_experts(
    open_page, small_model, shown_figures
):
    app = asked(open_page, "every", {"prompt": IDS})
    assert not app.exception and not app.error
    sweep = app.session_state[every_expert.KEPT.key].sweep
    assert sweep.effect.shape == (12, 8)
    layer, expert = np.unravel_index(sweep.effect.argmax(), sweep.effect.shape)
    said = told(app)
    assert said.startswith(f"L{layer}·E{expert} matters most for this text")
    assert "relabelled experts" in said and re.search(r"p [=≤] 0\.\d", said)
    table = app.dataframe[0].value
    used = table["share of assignments"] > 0
    expected = table.iloc[:, 1] / (2 * table["share of assignments"])
    np.testing.assert_allclose(table[every_expert.PER_USE][used], expected[used])
    check(shown_figures, {"expert_effects", "effects_against_use"})


@pytest.mark.parametrize("measure", list(every_expert.MEASURES))
@pytest.mark.parametrize("action", list(one_expert.ACTIONS))
def test_every_measure_and_action_can_be_swept(open_page, small_model, measure, action):
    app = asked(open_page, "every", {"prompt": "5, 17, 3"}, measure=measure, action=action)
    assert not app.exception and not app.error
    assert "matters most" in told(app)


@pytest.mark.parametrize("site", list(patching.SITES))
def test_a_patch_of_every_place_runs(open_page, small_model, site):
    texts = {"clean": IDS, "corrupt": OTHER}
    app = asked(open_page, "patch", texts, site=site, regained="probability", numbers="float32")
    assert not app.exception and not app.error
    sweep = app.session_state[patching.KEPT.key].sweep
    assert sweep.recovered.shape == (1, 12, 8)
    assert "control in the same place" in told(app)
    if site == "resid_pre":
        assert sweep.recovered[0, 0, 3] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("question", "texts", "message"),
    [
        ("one", {"prompt": ""}, "empty"),
        ("one", {"prompt": "five"}, "no tokenizer"),
        ("every", {"prompt": "999999"}, "outside the vocabulary"),
        ("patch", {"clean": IDS, "corrupt": "5, 17"}, "8 tokens and the corrupt one 2"),
        ("patch", {"clean": IDS, "corrupt": ""}, "empty"),
        ("every", {"prompt": " ".join(["5"] * 20)}, "at most 16"),
    ],
)
def test_what_cannot_be_run_says_why(open_page, small_model, monkeypatch, question, texts, message):
    monkeypatch.setenv(prompts.LIMIT_VARIABLE, "16")
    app = asked(open_page, question, texts)
    assert not app.exception
    assert any(message in error.value for error in app.error)


def test_prompts_without_a_difference_say_that_there_is_nothing_to_recover(open_page, small_model):
    texts = {"clean": IDS, "corrupt": IDS}
    app = asked(open_page, "patch", texts, regained="probability")
    assert not app.exception
    assert any("no difference to recover" in info.value for info in app.info)
    app = asked(open_page, "patch", texts)
    assert any("Both next tokens are" in error.value for error in app.error)


def test_next_tokens_that_are_typed_are_what_a_patch_is_measured_by(
    open_page, small_model, shown_figures
):
    from grok import load

    texts = {"clean": IDS, "corrupt": OTHER}
    app = open_page("live_routing", mode="what_if", question="patch", numbers="float32")
    for name, text in texts.items():
        app.text_area(key=name).set_value(text)
    app.text_input(key="answer").set_value("11")
    app.text_input(key="other_answer").set_value("30")
    app = press(app, "Run")
    assert not app.exception and not app.error
    sweep = app.session_state[patching.KEPT.key].sweep
    model = load(small_model, dtype="float32")
    for text, found in ((IDS, sweep.clean), (OTHER, sweep.corrupt)):
        with model.trace([int(i) for i in text.split(",")]) as run:
            logits = run.logits.save()
        last = np.asarray(logits.value, np.float64).reshape(-1, logits.value.shape[-1])[-1]
        assert found == pytest.approx(last[11] - last[30], abs=1e-5)
    assert "logit of “#11” minus logit of “#30”" in told(app)
    assert "The control brings back most in L" in told(app)
    assert "11" not in str(app.query_params)
    check(shown_figures, {"patch_map", "patch_control"})
    app.text_input(key="answer").set_value("11, 12")
    app = press(app, "Run")
    assert any("is 2 tokens to this model" in error.value for error in app.error)


def test_the_texts_are_not_in_the_address(open_page, small_model):
    app = asked(open_page, "patch", {"clean": IDS, "corrupt": OTHER}, site="moe.output")
    settings = {"mode", "question", "site", "regained", "numbers"}
    assert set(app.query_params) <= settings | {"kept", "example"}
    assert "17" not in str(app.query_params)


@pytest.mark.skipif(not (BUNDLED_MODEL / "ckpt-0").is_dir(), reason="no bundled model here")
def test_the_examples_are_set_to_what_matters_most_for_them():
    from grok import load
    from grok.experiments.ablation import ablation_sweep
    from lens.prompt_pairs.interventions import strongest

    model = load()
    for example in examples.EXAMPLES.values():
        if example.shows == examples.STRONGEST:
            sweep = ablation_sweep(model, example.texts["prompt"])
            layer, expert = strongest(sweep.effect, 1)[0]
            assert (example.choices["layer"], example.choices["expert"]) == (layer, expert)


@pytest.mark.skipif(not (BUNDLED_MODEL / "ckpt-0").is_dir(), reason="no bundled model here")
def test_the_examples_of_patches_show_what_they_say():
    from grok import load
    from grok.experiments.metrics import logit_difference, probability
    from grok.experiments.patching import patch_sweep

    model = load()

    def sweep(name: str):
        texts = patching.EXAMPLES[name].texts.values()
        ids = [int(model.trace_routing(text).candidates[-1, 0]) for text in texts]
        kind = patching.EXAMPLES[name].choices["regained"]
        metric = logit_difference(*ids) if kind == "difference" else probability(ids[0])
        found = patch_sweep(model, *texts, metric=metric, layers=[0, 11])
        return found.recovered[0], found.control[0]

    value, control = sweep("A method's self")
    assert value[1, -1] > 0.9 and control[1, -1] < 0.2
    value, control = sweep("She or he")
    assert value[0, 0] > 0.9 and control[0, 0] < 0.2
    assert value[1, -1] > 0.8 and control[1, -1] > 0.8
