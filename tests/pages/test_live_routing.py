"""The Live routing page: prompts, their errors, saved traces, two prompts side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from lens import routing
from lens.traces import Trace, load_trace
from pages.parts import data_source, traces

IDS = "5, 17, 3, 42, 99, 256, 12, 7"
SMALL = Path(__file__).resolve().parents[1] / "data" / "tiny12"


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page runs a small model without a tokenizer, whatever model is bundled."""
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


def saved_trace(n_layers: int = 3, n_tokens: int = 6, n_experts: int = 8) -> Trace:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n_layers, n_tokens, n_experts)).astype(np.float32)
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[:, :, :2]
    return Trace(
        tokens=np.arange(1, n_tokens + 1, dtype=np.int32),
        pieces=np.array([f"▁w{i}" for i in range(n_tokens)]),
        prompt_length=n_tokens,
        router_logits=logits,
        router_probs=probs.astype(np.float32),
        experts=experts.astype(np.int32),
        gates=np.take_along_axis(probs, experts, axis=-1).astype(np.float32),
        candidates=np.tile(np.arange(3, dtype=np.int32), (n_tokens, 1)),
        candidate_probs=np.tile(np.float32([0.5, 0.2, 0.1]), (n_tokens, 1)),
        model_sha256="0" * 64,
    )


def run_prompt(app, text: str, second: str = ""):
    app.text_area(key="prompt").set_value(text)
    app.text_area(key="second_prompt").set_value(second)
    next(button for button in app.button if button.label == "Run").click()
    return app.run(timeout=120)


def test_the_page_invites_a_prompt_before_there_is_a_trace(open_page, small_model):
    app = open_page("live_routing")
    assert not app.exception
    assert app.subheader[0].value.startswith("Type a text")


def test_a_prompt_shows_the_experts_that_the_runner_chooses(open_page, small_model):
    from grok import load

    app = run_prompt(open_page("live_routing"), IDS)
    assert not app.exception and not app.error
    expected = load(small_model).trace_routing([int(i) for i in IDS.split(",")])
    trace = app.session_state["traces"]["first"]
    np.testing.assert_array_equal(trace.experts, expected.experts)
    cell = next(m.value for m in app.markdown if m.value.startswith("Token 7"))
    for expert in expected.experts[0, 7]:
        assert f"**L0·E{expert}**" in cell
    margin = routing.margin(expected)[0, 7]
    assert f"margin {margin:.3f} logits" in cell


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("5, seven", "no tokenizer"),
        ("5, 999999", "outside the vocabulary"),
        (" ".join(["5"] * 20), "at most 16"),
    ],
)
def test_a_prompt_that_cannot_be_run_says_why(open_page, small_model, monkeypatch, prompt, message):
    monkeypatch.setenv(traces.LIMIT_VARIABLE, "16")
    app = run_prompt(open_page("live_routing"), prompt)
    assert not app.exception
    assert any(message in error.value for error in app.error)
    assert "traces" not in app.session_state or not app.session_state["traces"]


def test_the_prompt_is_not_in_the_address(open_page, small_model):
    app = run_prompt(open_page("live_routing"), IDS)
    assert "17" not in str(app.query_params)
    assert not set(app.query_params) & {"prompt", "second_prompt"}


@pytest.mark.parametrize("part", ["load", "pairs", "compare", "order", "paths"])
@pytest.mark.parametrize("what", ["margin", "top1", "entropy", "top1_prob", "lead"])
def test_a_saved_trace_opens_in_every_part(open_page, small_model, part, what):
    state = {"uploaded_trace": ("trace.npz", saved_trace()), "trace_shown": "file"}
    app = open_page("live_routing", state=state, part=part, what=what)
    assert not app.exception and not app.error
    assert "Of 6 tokens" in app.subheader[0].value


def test_a_trace_of_one_token_and_one_layer_opens(open_page, small_model):
    state = {"uploaded_trace": ("t.npz", saved_trace(1, 1)), "trace_shown": "file"}
    for part in ("load", "pairs", "compare", "order", "paths"):
        app = open_page("live_routing", state=state, part=part)
        assert not app.exception and not app.error


def test_two_prompts_are_compared_token_by_token(open_page, small_model):
    app = run_prompt(open_page("live_routing", part="compare"), IDS, "5, 17, 4, 42")
    assert not app.exception and not app.error
    assert set(app.session_state["traces"]) == {"first", "second"}
    assert any("second prompt" in element.value for element in app.markdown)


def test_a_run_trace_saves_as_a_file_that_lens_opens(open_page, small_model):
    app = run_prompt(open_page("live_routing"), IDS)
    trace = app.session_state["traces"]["first"]
    opened = load_trace(io.BytesIO(traces.file_bytes(trace)))
    np.testing.assert_array_equal(opened.experts, trace.experts)
    assert opened.model_sha256 == trace.model_sha256


def test_a_checkpoint_without_its_tensors_is_explained_and_the_bundled_model_offered(
    open_page, small_model, monkeypatch, tmp_path
):
    import shutil

    folder = tmp_path / "routers_only"
    (folder / "ckpt-0").mkdir(parents=True)
    shutil.copy(small_model / "config.json", folder / "config.json")
    from grok.checkpoint import moe_norm_path, open_checkpoint, router_path

    whole = open_checkpoint(small_model)
    for layer in range(whole.config.n_layers):
        for path in (router_path(layer), moe_norm_path(layer)):
            shutil.copy(whole.file(path), folder / "ckpt-0" / whole.file(path).name)
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(folder))
    app = open_page("live_routing")
    assert not app.exception and not app.error
    assert "tensor files are missing" in app.warning[0].value
    run_prompt(app, IDS)
    assert not app.error
    assert "first" in app.session_state["traces"]


def test_a_checkpoint_that_does_not_fit_says_what_is_needed(open_page, small_model, monkeypatch):
    from grok import runner

    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(small_model.parent / "tiny3"))
    monkeypatch.setattr(runner, "device_memory", lambda: 1)
    app = open_page("live_routing")
    assert not app.exception and not app.error
    assert "GB" in app.warning[0].value
    assert "bundled model" in app.warning[0].value
    assert app.text_area(key="prompt") is not None
