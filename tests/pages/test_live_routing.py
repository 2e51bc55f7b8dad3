"""The Live routing page: prompts, their errors, saved traces, two prompts side by side."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lens.traces import information, routing
from lens.traces.logit_moments import load_prediction
from lens.traces.trace import Trace, load_trace
from pages.live.many import traces as many_traces
from pages.live.one_trace import routing_statistics as statistics
from pages.live.running import stream_choice
from pages.live.session import kept_traces as traces
from pages.live.session import prompts
from pages.shell import data_source
from tests.headline_words import told

IDS = "5, 17, 3, 42, 99, 256, 12, 7"
SMALL = Path(__file__).resolve().parents[1] / "data" / "tiny12"


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of traces but a test's own, whatever the environment says."""
    monkeypatch.delenv(many_traces.TRACES_VARIABLE, raising=False)
    monkeypatch.delenv(many_traces.LABELS_VARIABLE, raising=False)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page runs a small model without a tokenizer, whatever model is bundled."""
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: SMALL)
    return SMALL


def saved_trace(
    n_layers: int = 3,
    n_tokens: int = 6,
    n_experts: int = 8,
    *,
    seed: int = 0,
    favourite: int | None = None,
) -> Trace:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n_layers, n_tokens, n_experts)).astype(np.float32)
    if favourite is not None:
        logits[..., favourite] += 2
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


def npz_of(trace: Trace) -> bytes:
    """The trace as a file."""
    arrays = {
        field.name: getattr(trace, field.name)
        for field in dataclasses.fields(trace)
        if field.name not in ("settings", "candidate_pieces")
        and getattr(trace, field.name) is not None
    }
    arrays["plain_gates"] = np.int32(trace.plain_gates)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def run_prompt(app, text: str, second: str = ""):
    app.text_area(key="prompt").set_value(text)
    app.text_area(key="second_prompt").set_value(second)
    next(button for button in app.button if button.label == "Run").click()
    return app.run(timeout=300)


def test_the_page_invites_a_prompt_before_there_is_a_trace(open_page, small_model):
    app = open_page("live_routing")
    assert not app.exception
    assert app.subheader[0].value.startswith("Type a text")


def test_a_prompt_shows_the_experts_that_the_runner_chooses(open_page, small_model):
    from grok import load

    app = run_prompt(open_page("live_routing", token="7", layer="0"), IDS)
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
    monkeypatch.setenv(prompts.LIMIT_VARIABLE, "16")
    app = run_prompt(open_page("live_routing"), prompt)
    assert not app.exception
    assert any(message in error.value for error in app.error)
    assert "traces" not in app.session_state or not app.session_state["traces"]


def test_the_prompt_is_not_in_the_address(open_page, small_model):
    app = run_prompt(open_page("live_routing"), IDS)
    assert "17" not in str(app.query_params)
    assert not set(app.query_params) & {"prompt", "second_prompt"}


PARTS = ["load", "pairs", "compare", "order", "information", "margins", "prediction", "paths"]
VALUES = ["margin", "top1", "entropy", "top1_prob", "lead"]


@pytest.mark.parametrize(
    ("part", "what"),
    [*((part, "margin") for part in PARTS), *(("load", what) for what in VALUES)],
)
def test_a_saved_trace_opens_in_every_part(open_page, small_model, part, what):
    state = {"uploaded_trace": ("trace.npz", saved_trace()), "trace_shown": "file"}
    app = open_page("live_routing", state=state, part=part, what=what)
    assert not app.exception and not app.error
    assert "Of 6 tokens" in told(app)


def test_only_a_trace_that_was_run_here_is_offered_for_saving(open_page, small_model):
    def offered(app) -> bool:
        return any("Save trace" in str(button.proto) for button in app.get("download_button"))

    assert not offered(opened(open_page, saved_trace()))
    assert offered(run_prompt(open_page("live_routing"), IDS))


def test_a_trace_of_one_token_and_one_layer_opens(open_page, small_model):
    state = {"uploaded_trace": ("t.npz", saved_trace(1, 1)), "trace_shown": "file"}
    for part in PARTS:
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
    from grok.checkpoints.grok1 import moe_norm_path, open_checkpoint, router_path

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
    from grok.runner import loading as runner

    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(small_model.parent / "tiny3"))
    monkeypatch.setattr(runner, "device_memory", lambda: 1)
    monkeypatch.setenv(stream_choice.MODE_VARIABLE, "resident")
    app = open_page("live_routing")
    assert not app.exception and not app.error
    assert "GB" in app.warning[0].value
    assert "bundled model" in app.warning[0].value
    assert app.text_area(key="prompt") is not None


# --- statistics with their nulls ------------------------------------------------


def opened(open_page, trace: Trace, **query: str):
    state = {"uploaded_trace": ("trace.npz", trace), "trace_shown": "file"}
    app = open_page("live_routing", state=state, **query)
    assert not app.exception and not app.error
    return app


def said(app) -> str:
    return "\n".join([element.value for element in [*app.markdown, *app.caption]])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("load", "lies outside the interval of **0 of 24** experts"),
        ("pairs", "not distinguishable from what their loads explain"),
        ("order", "not distinguishable from the same tokens in random order"),
        ("information", "not distinguishable from chance in any layer"),
        ("margins", "not distinguishable from those of normal logits"),
        ("prediction", "relabelled"),
    ],
)
def test_noise_is_not_distinguishable_from_chance_on_every_tab(open_page, small_model, part, words):
    assert words in said(opened(open_page, saved_trace(n_tokens=120), part=part))


@pytest.mark.parametrize("part", ["order", "information", "margins", "prediction"])
def test_every_statistic_names_its_null_and_seed(open_page, small_model, part):
    words = said(opened(open_page, saved_trace(n_tokens=60), part=part))
    assert "Null: " in words or "null: " in words
    assert "seed 0" in words


def test_the_numbers_on_the_page_are_those_of_the_library(open_page, small_model):
    trace = saved_trace(n_tokens=60)
    words = said(opened(open_page, trace, part="information"))
    found = information.token_information(trace.tokens, trace.experts, 8)
    assert f"mean {found.test.value.mean():.3f} nats" in words
    words = said(opened(open_page, trace, part="prediction"))
    assert f"correlation **{load_prediction(trace).normal.correlation:.2f}**" in words


def test_a_short_text_says_what_it_is_too_short_for(open_page, small_model):
    words = said(opened(open_page, saved_trace(n_tokens=6), part="information"))
    assert "too few repeats to tell" in words
    assert "expected at least 16 tokens" in words


# --- many traces ----------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of traces of two labels, one of which prefers an expert."""
    for i in range(12):
        trace = saved_trace(2, 24, seed=i, favourite=3 if i % 2 else None)
        path = tmp_path / ("code" if i % 2 else "prose") / f"{i}.npz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(npz_of(trace))
    monkeypatch.setenv(many_traces.TRACES_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("tab", ["labels", "many_information", "many_order"])
def test_a_configured_folder_is_compared_by_label(open_page, small_model, labelled, tab):
    app = open_page("live_routing", mode="many", many=tab)
    assert not app.exception and not app.error
    head = told(app)
    assert "12 traces, 288 tokens, 2 labels." in head
    assert "tells of the expert in 2 of 2 layers" in head
    assert list(app.dataframe[0].value["label"]) == ["code", "prose"]
    if tab == "labels":
        assert "L0·E3" in set(app.dataframe[1].value["expert"])
        assert "labels permuted over the 12 traces" in said(app)


def test_a_file_of_labels_can_be_configured(open_page, small_model, labelled, monkeypatch):
    sheet = labelled / "labels.csv"
    names = [f"{path.parent.name}/{path.name}" for path in labelled.glob("*/*.npz")]
    sheet.write_text("file,label\n" + "".join(f"{name},same\n" for name in names))
    monkeypatch.setenv(many_traces.LABELS_VARIABLE, str(sheet))
    app = open_page("live_routing", mode="many")
    assert not app.exception and not app.error
    assert "1 label. No labels to compare." in told(app)
    assert "at least two labels" in app.info[0].value


def test_without_a_folder_the_section_says_how_to_get_one(open_page, small_model):
    app = open_page("live_routing", mode="many", many_source="traces")
    assert not app.exception and not app.error
    assert app.subheader[0].value == many_traces.INVITATION
    assert many_traces.TRACES_VARIABLE in said(app)


def test_a_folder_that_cannot_be_read_is_explained(open_page, small_model, monkeypatch, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    monkeypatch.setenv(many_traces.TRACES_VARIABLE, str(tmp_path))
    app = open_page("live_routing", mode="many")
    assert not app.exception
    assert "bad.npz" in app.error[0].value


def test_options_after_the_dashes_name_folder_and_labels(monkeypatch):
    monkeypatch.setenv(many_traces.TRACES_VARIABLE, "from_environment")
    assert many_traces.configured() == ("from_environment", None)
    monkeypatch.setattr("sys.argv", ["app.py", "--traces", "given", "--trace-labels", "x.csv"])
    assert many_traces.configured() == ("given", "x.csv")


class Upload(io.BytesIO):
    """What Streamlit hands over for a file."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name, self.size, self.file_id = name, len(content), name


def uploads(*names: str) -> list[Upload]:
    return [Upload(name, npz_of(saved_trace(2, 10, seed=i))) for i, name in enumerate(names)]


def test_uploads_are_read_with_and_without_labels():
    folder, error = many_traces._read(uploads("a.npz", "b.npz"), None)
    assert error is None
    assert folder.names == ("a.npz", "b.npz") and folder.labels == ("all",)
    sheet = Upload("labels.csv", b"file,label\na.npz,x\nb.npz,y\n")
    folder, error = many_traces._read(uploads("a.npz", "b.npz"), sheet)
    assert error is None and folder.labels == ("x", "y")


def test_uploads_that_do_not_fit_are_explained():
    sheet = Upload("labels.csv", b"file,label\na.npz,x\n")
    for files, labels, message in [
        (uploads("a.npz", "a.npz"), None, "Two files are called a.npz"),
        (uploads("a.npz", "b.npz"), sheet, "no label for 1 of 2 traces: b.npz"),
        ([Upload("a.npz", b"no zip")], None, "a.npz: this is not a complete .npz"),
    ]:
        folder, error = many_traces._read(files, labels)
        assert folder is None and message in error


def test_traces_that_differ_in_one_choice_have_keys_of_their_own():
    trace = saved_trace(n_tokens=40)
    experts = trace.experts.copy()
    experts[0, 0] = experts[0, 0, ::-1]
    other = SimpleNamespace(tokens=trace.tokens, experts=experts, router_logits=trace.router_logits)
    keys = {statistics.trace_key(one) for one in (trace, other, saved_trace(n_tokens=40))}
    assert len(keys) == 2


# --- names of traces --------------------------------------------------------------------


def test_an_opened_trace_has_the_name_of_its_file_on_the_page(open_page, small_model):
    state = {"uploaded_trace": ("my *best*.npz", saved_trace()), "trace_shown": "file"}
    app = open_page("live_routing", state=state)
    assert any("Saved trace my \\*best\\*.npz" in one.value for one in app.caption)


def test_a_saved_trace_is_named_by_its_text_and_its_model(open_page, small_model):
    app = run_prompt(open_page("live_routing"), IDS)
    trace = app.session_state["traces"]["first"]
    name = traces.file_name(trace)
    assert name.startswith("trace-") and name.endswith(f"-{trace.model_sha256[:8]}.npz")
    made = dataclasses.replace(
        trace,
        prompt_length=3,
        settings={"seed": 4},
        pieces=np.array(["▁Once", "▁upon", *["/"] * 6]),
    )
    assert traces.file_name(made) == f"generation-once_upon-seed4-{trace.model_sha256[:8]}.npz"
