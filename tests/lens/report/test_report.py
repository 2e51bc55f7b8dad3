"""The report writes every figure and table, says what from, whole or not at all."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from lens.errors import LensError
from lens.extract.grok1 import extract_routers
from lens.report import contents
from lens.report import write as report
from lens.report.__main__ import main
from lens.report.experts import expert_parts
from lens.report.layers import layer_parts, question_parts
from lens.report.numbers import RouterNumbers
from lens.report.parts import Part, Settings
from lens.report.traces import trace_parts
from lens.report.write import write_report
from lens.routers.router_set import RouterSet, save_routers
from lens.traces.trace import Trace

REQUIRED = (
    "layer_similarity_heatmap",
    "layer_dendrogram",
    "layer_umap",
    "layer_tsne",
    "layer_pca",
    "expert_similarity_across_layers",
    "expert_correlation_matrix",
    "adjacent_layer_similarity",
    "expert_variance_analysis",
)


def router_set(n_layers: int = 6, seed: int = 0) -> RouterSet:
    weights = np.random.default_rng(seed).normal(size=(n_layers, 32, 4))
    return RouterSet(weights.astype(np.float32), source="drawn at random")


def trace_of(routers: RouterSet, n_tokens: int = 7, sha256: str | None = None) -> Trace:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(routers.n_layers, n_tokens, routers.n_experts)).astype(np.float32)
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1, kind="stable")[..., : routers.top_k].astype(np.int32)
    return Trace(
        tokens=np.arange(n_tokens, dtype=np.int32),
        pieces=np.array([f"▁t{i}" for i in range(n_tokens)]),
        prompt_length=n_tokens - 2,
        router_logits=logits,
        router_probs=probs,
        experts=experts,
        gates=np.take_along_axis(probs, experts, axis=-1),
        candidates=np.zeros((n_tokens, 2), dtype=np.int32),
        candidate_probs=np.full((n_tokens, 2), [0.5, 0.25], dtype=np.float32),
        model_sha256=sha256 or routers.sha256,
    )


def few_parts(monkeypatch: pytest.MonkeyPatch, *failing: str) -> None:
    """Leaves only quick parts; those named raise what a full disk would."""

    def broken() -> str:
        raise OSError(28, "No space left on device")

    def parts(numbers: RouterNumbers) -> list[Part]:
        tables = [Part("one", lambda: "a\n1\n"), Part("two", lambda: "a\n2\n")]
        return [*tables, *(Part(name, broken) for name in failing)]

    monkeypatch.setattr(contents, "router_parts", parts)


@pytest.mark.parametrize("name", REQUIRED)
def test_command_writes_each_required_figure_as_png_and_svg(written, name):
    folder, _ = written
    image = (folder / f"{name}.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert min(width, height) >= 300
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    index = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    entry = next(e for e in index["files"] if e["file"] == f"{name}.svg")
    assert entry["description"]
    assert svg.startswith("<svg")
    assert entry["title"] in svg


def test_index_lists_exactly_what_was_written_and_what_from(written):
    folder, routers = written
    index = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = {entry["file"] for entry in index["files"]}
    assert {path.name for path in folder.iterdir()} == names | {"report.json"}
    assert index["sha256"] == routers.sha256
    assert index["source"] == routers.source
    assert index["settings"] == {
        "view": "canonical",
        "metric": "cka",
        "seed": 7,
        "draws": 1000,
        "null_seed": 0,
        "reference": "shared",
        "directions": None,
    }
    assert index["skipped"] == {}
    assert index["program"].startswith("grok-moe-lens ")
    assert index["program"] != "grok-moe-lens unknown"


def test_images_carry_the_hash_of_their_data(written):
    folder, routers = written
    assert routers.sha256 in (folder / "layer_pca.svg").read_text(encoding="utf-8")
    assert routers.sha256.encode() in (folder / "layer_pca.png").read_bytes()


def test_no_work_folder_is_left_behind(written):
    folder, _ = written
    assert {path.name for path in folder.parent.iterdir()} == {"figures", "routers.npz"}


def test_three_layers_give_everything_but_maps_and_the_reason(tmp_path, capsys):
    save_routers(router_set(3), tmp_path / "r.npz")
    arguments = ["--input", str(tmp_path / "r.npz"), "--output-dir", str(tmp_path / "out")]
    assert main([*arguments, "--draws", "50"]) == 0
    said = capsys.readouterr().err
    assert "skipped layer_pca" in said
    assert "at least 4 layers; this router set has 3" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "layer_dendrogram.png" in names
    assert not {name for name in names if name.startswith(("layer_umap", "layer_tsne"))}
    index = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert "layer_umap" in index["skipped"]


def test_one_layer_still_gives_the_figures_of_its_experts(tmp_path):
    found = write_report(router_set(1), tmp_path / "out", Settings(draws=50))
    assert "expert_variance_analysis.png" in found.files
    assert "expert_correlation_matrix.svg" in found.files
    assert "layer_similarity_heatmap" in found.skipped


def test_a_trace_adds_the_figures_of_a_prompt(tmp_path, monkeypatch):
    few_parts(monkeypatch)
    routers = router_set(3)
    found = write_report(routers, tmp_path / "out", trace=trace_of(routers))
    assert found.skipped == {}
    for name in ("token_map_margin", "token_map_top1", "load_by_layer", "coselection_matrix"):
        assert {f"{name}.png", f"{name}.svg"} <= set(found.files)
    for name in ("routing_paths.svg", "breadth_against_load.png", "load.csv", "token_margin.csv"):
        assert name in found.files


def test_a_trace_of_another_model_is_shown_but_not_compared():
    routers = router_set(3)
    trace = trace_of(routers, sha256="0" * 64)
    made = {part.name: part for part in trace_parts(trace, routers, Settings())}
    assert made["load_by_layer"].make().to_dict()
    with pytest.raises(LensError, match="other routers"):
        made["breadth_against_load"].make()


@pytest.mark.parametrize("view", ["canonical", "raw"])
@pytest.mark.parametrize("metric", ["matched_cosine", "euclidean"])
def test_each_view_and_metric_gives_the_layer_figures(view, metric):
    parts = contents.router_parts(RouterNumbers(router_set(4), Settings(view, metric, 0, 50)))
    made = {part.name: part for part in parts}
    title = made["layer_similarity_heatmap"].make().to_dict()["title"]
    assert ("not computed" in " ".join(title["subtitle"])) == (view == "raw")
    assert made["layer_dendrogram"].make().to_dict()
    if view == "raw":
        with pytest.raises(LensError, match="no chance level"):
            made["adjacent_layers_against_chance"].make()


def test_files_of_other_names_stay_and_earlier_ones_are_replaced(tmp_path, monkeypatch):
    few_parts(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "one.csv").write_text("old")
    write_report(router_set(2), out)
    assert (out / "mine.txt").read_text() == "kept"
    assert (out / "one.csv").read_text() == "a\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_half_way_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    few_parts(monkeypatch, "three")
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.csv").write_text("old")
    with pytest.raises(LensError, match="No space left on device. Nothing was changed"):
        write_report(router_set(2), out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"one.csv": "old"}
    with pytest.raises(LensError):
        write_report(router_set(2), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_while_moving_takes_back_what_was_moved(tmp_path, monkeypatch):
    few_parts(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.csv").write_text("old")
    rename = report.os.rename

    def fails_at_the_second(source, target):
        if Path(target) == out / "two.csv":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(report.os, "rename", fails_at_the_second)
    with pytest.raises(LensError, match="Input/output error"):
        write_report(router_set(2), out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"one.csv": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "missing.npz"), (b"not a zip", "Expected"), (b"PK\x03\x04 truncated", "Expected")],
)
def test_bad_input_is_a_message_and_code_2_and_writes_nothing(tmp_path, capsys, content, said):
    source = tmp_path / "missing.npz"
    if content is not None:
        source.write_bytes(content)
    out = tmp_path / "out"
    assert main(["--input", str(source), "--output-dir", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lens.report: ")
    assert said in error
    assert "Traceback" not in error
    assert not out.exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, capsys):
    save_routers(router_set(2), tmp_path / "r.npz")
    (tmp_path / "out").write_text("mine")
    assert main(["--input", str(tmp_path / "r.npz"), "--output-dir", str(tmp_path / "out")]) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_range_is_refused(tmp_path, capsys, seed):
    save_routers(router_set(2), tmp_path / "r.npz")
    arguments = ["--input", str(tmp_path / "r.npz"), "--output-dir", str(tmp_path / "out")]
    assert main([*arguments, f"--seed={seed}"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_progress_counts_every_part_in_order(tmp_path, monkeypatch):
    few_parts(monkeypatch)
    seen = []
    write_report(router_set(2), tmp_path / "out", progress=lambda *step: seen.append(step))
    assert seen == [(0, 2, "one"), (1, 2, "two")]


def test_the_nulls_draws_and_seed_are_settings_that_the_report_keeps(tmp_path, capsys, monkeypatch):
    def pairs_alone(numbers: RouterNumbers) -> list[Part]:
        return [part for part in layer_parts(numbers) if part.name == "layer_similarity_pairs"]

    monkeypatch.setattr(contents, "router_parts", pairs_alone)
    save_routers(router_set(3), tmp_path / "r.npz")
    arguments = ["--input", str(tmp_path / "r.npz"), "--output-dir", str(tmp_path / "out")]
    assert main([*arguments, "--draws", "60", "--null-seed", "5"]) == 0
    index = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (index["settings"]["draws"], index["settings"]["null_seed"]) == (60, 5)
    pairs = (tmp_path / "out" / "layer_similarity_pairs.csv").read_text(encoding="utf-8")
    assert "directions that all layers share: " in pairs
    assert "seed 5" in pairs
    assert main([*arguments, "--draws", "60", "--reference", "unrelated"]) == 0
    pairs = (tmp_path / "out" / "layer_similarity_pairs.csv").read_text(encoding="utf-8")
    assert "unrelated directions: each layer turned at random; 60 draws" in pairs
    assert main([*arguments, "--draws", "3"]) == 2
    assert "draws: found 3" in capsys.readouterr().err
    assert main([*arguments, "--labels", "x.csv"]) == 2
    assert "--traces" in capsys.readouterr().err


def test_the_same_input_gives_the_same_page(tmp_path, monkeypatch):
    def parts(numbers: RouterNumbers) -> list[Part]:
        return [*layer_parts(numbers), *question_parts(numbers), *expert_parts(numbers)]

    monkeypatch.setattr(contents, "router_parts", parts)
    pages = []
    for name in ("a", "b"):
        write_report(router_set(3), tmp_path / name, Settings(draws=50))
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_checkpoint_adds_what_the_experts_listen_to_if_the_routers_are_its_own(
    tmp_path, capsys, monkeypatch
):
    few_parts(monkeypatch)
    checkpoint = Path(__file__).resolve().parents[2] / "data" / "tiny3"
    save_routers(extract_routers(checkpoint), tmp_path / "r.npz")
    arguments = ["--input", str(tmp_path / "r.npz"), "--output-dir", str(tmp_path / "out")]
    assert main([*arguments, "--draws", "50", "--checkpoint", str(checkpoint)]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="vocabulary">Vocabulary</h2>' in page
    save_routers(router_set(3), tmp_path / "r.npz")
    assert main([*arguments, "--checkpoint", str(checkpoint)]) == 2
    assert "expected the checkpoint that they were extracted from" in capsys.readouterr().err
