"""Many traces: reading a folder and its labels, and comparing labels over traces."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import kstest, ttest_1samp
from sklearn.metrics import mutual_info_score

from lens.errors import LensError
from lens.many_prompts import label_tests, trace_folder
from lens.many_prompts.trace_folder import gather, load_folder, read_labels
from lens.report.parts import Settings
from lens.report.traces import trace_folder_parts, trace_parts
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.traces import routing
from lens.traces.trace import Trace


def records(text: str) -> list[dict[str, str]]:
    header, *rows = csv_text.read_csv(text)
    return [dict(zip(header, row, strict=True)) for row in rows]


def make_trace(seed, n_tokens=30, n_layers=2, lift=None, model="a", n_experts=8):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n_layers, n_tokens, n_experts)).astype(np.float32)
    logits += rng.standard_normal((n_layers, 1, n_experts)) * 0.4  # texts differ
    if lift is not None:
        logits[..., lift] += 3
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[..., :2].astype(np.int32)
    return Trace(
        tokens=rng.integers(0, 20, n_tokens).astype(np.int32),
        pieces=np.array(["x"] * n_tokens),
        prompt_length=n_tokens,
        router_logits=logits,
        router_probs=probs.astype(np.float32),
        experts=experts,
        gates=np.take_along_axis(probs, experts, axis=-1).astype(np.float32),
        candidates=np.zeros((n_tokens, 1), np.int32),
        candidate_probs=np.full((n_tokens, 1), 0.5, np.float32),
        model_sha256=model * 64,
    )


def save(trace, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f.name: getattr(trace, f.name)
        for f in dataclasses.fields(trace)
        if f.name not in ("settings", "candidate_pieces") and getattr(trace, f.name) is not None
    }
    arrays["plain_gates"] = int(trace.plain_gates)
    np.savez(path, settings=json.dumps(trace.settings), **arrays)


def folder_of(n=8, labels=("a", "b"), lift=None, seed=0, n_tokens=30):
    return gather(
        (
            f"t{i}",
            labels[i % len(labels)],
            make_trace([seed, i], n_tokens + i, lift=lift if i % len(labels) == 0 else None),
        )
        for i in range(n)
    )


# --- reading --------------------------------------------------------------------


def test_subfolders_are_the_labels(tmp_path):
    for label in ("french", "code"):
        for i in range(2):
            save(make_trace(i), tmp_path / label / f"{i}.npz")
    (tmp_path / "code" / "notes.txt").write_text("no trace")
    seen = []
    folder = load_folder(tmp_path, progress=lambda done, total, name: seen.append((done, total)))
    assert folder.labels == ("code", "french")
    assert folder.names == ("code/0.npz", "code/1.npz", "french/0.npz", "french/1.npz")
    np.testing.assert_array_equal(folder.label_of, [0, 0, 1, 1])
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_a_trace_with_a_banned_expert_is_refused_with_its_name():
    whole = make_trace(1)
    logits = whole.router_logits.copy()
    logits[1, :, 3] = -np.inf
    probs = softmax(logits, axis=2)
    experts = np.argsort(-probs, axis=2)[:, :, : whole.top_k]
    banned = dataclasses.replace(
        whole,
        router_logits=logits,
        router_probs=probs,
        experts=experts,
        gates=np.take_along_axis(probs, experts, axis=2),
        settings={"interventions": ["expert 3 of layer 1 banned"]},
    )
    with pytest.raises(LensError, match="t1: experts were banned .* expected finite logits. Use"):
        gather(iter([("t0", "a", make_trace(0)), ("t1", "a", banned)]))


def test_what_is_kept_is_what_the_traces_say():
    traces = [make_trace(i, 20 + i) for i in range(3)]
    folder = gather((f"t{i}", "ab"[i % 2], trace) for i, trace in enumerate(traces))
    np.testing.assert_array_equal(folder.n_tokens, [20, 21, 22])
    np.testing.assert_array_equal(folder.tokens, np.concatenate([t.tokens for t in traces]))
    for i, trace in enumerate(traces):
        np.testing.assert_array_equal(folder.experts[:, folder.trace_of == i], trace.experts)
        np.testing.assert_allclose(
            folder.counts[i] / folder.counts[i].sum(axis=1, keepdims=True), routing.load(trace)
        )
        np.testing.assert_allclose(folder.margins[i], routing.margin(trace).mean(axis=1))


@pytest.mark.parametrize("kind", ["csv", "bom", "jsonl"])
def test_a_file_of_labels_names_the_traces(tmp_path, kind):
    for i in range(3):
        save(make_trace(i), tmp_path / "traces" / f"{i}.npz")
    file = tmp_path / "labels"
    rows = [("0.npz", "left"), ("1.npz", "right, with comma"), ("2.npz", "left")]
    if kind == "jsonl":
        file.write_text("\n".join(json.dumps({"file": a, "label": b}) for a, b in rows) + "\n\n")
    else:
        text = "note,file,label\n" + "".join(f'x,{a},"{b}"\n' for a, b in rows)
        file.write_text(text, encoding="utf-8-sig" if kind == "bom" else "utf-8")
    folder = load_folder(tmp_path / "traces", file)
    assert folder.labels == ("left", "right, with comma")
    np.testing.assert_array_equal(folder.label_of, [0, 1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,label\n0.npz,a\n", "found the columns name, label; expected file and label"),
        (b"file,label\n0.npz,a\n0.npz,b\n", "line 3: 0.npz is named twice"),
        (b"file,label\n0.npz,\n", "line 2: found the label ''"),
        (b"file,label\n0.npz," + b"x" * 81 + b"\n", "1 to 80 printable"),
        (b"file,label\n0.npz,a\x00b\n", "printable|not CSV"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"", "found the columns none"),
        (b"file,label\n", "names no files"),
        (b'{"file": "0.npz"}\n', "line 1: expected"),
        (b'{"file": "0.npz", "label": 3}\n', "line 1: expected"),
        (b"{" * 9000, "line 1: expected"),
    ],
)
def test_a_bad_file_of_labels_says_what_is_wrong(content, message):
    with pytest.raises(LensError, match=message):
        read_labels(content)


def test_labels_and_files_have_to_fit(tmp_path):
    for i in range(2):
        save(make_trace(i), tmp_path / f"{i}.npz")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n0.npz,a\n")
    with pytest.raises(LensError, match=r"no label for 1 of 2 traces: 1\.npz"):
        load_folder(tmp_path, labels)
    labels.write_text("file,label\n0.npz,a\n1.npz,b\n9.npz,b\n")
    with pytest.raises(LensError, match=r"1 files are named that are not in the folder: 9\.npz"):
        load_folder(tmp_path, labels)
    with pytest.raises(LensError, match="gone.csv: No such file"):
        load_folder(tmp_path, tmp_path / "gone.csv")


def test_traces_beside_subfolders_have_no_label(tmp_path):
    save(make_trace(0), tmp_path / "a" / "0.npz")
    save(make_trace(1), tmp_path / "1.npz")
    with pytest.raises(LensError, match="1 traces lie beside the subfolders"):
        load_folder(tmp_path)


def test_a_folder_without_labels_has_one_for_all(tmp_path):
    save(make_trace(0), tmp_path / "0.npz")
    assert load_folder(tmp_path).labels == ("all",)


def test_traces_of_several_models_are_listed_by_model():
    traces = [("x", "a", make_trace(0)), ("y", "a", make_trace(1, model="b"))]
    with pytest.raises(LensError) as error:
        gather(iter(traces))
    text = str(error.value)
    assert "come from 2 models" in text
    assert "routers aaaaaaaaaaaa (2 layers, top 2 of 8): 1 traces (x)" in text
    assert "routers bbbbbbbbbbbb" in text and "(y)" in text


def test_a_folder_that_is_none_or_empty_or_damaged_is_explained(tmp_path):
    with pytest.raises(LensError, match="no such folder"):
        load_folder(tmp_path / "nothing")
    with pytest.raises(LensError, match=r"no \.npz files"):
        load_folder(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(LensError, match=r"bad\.npz"):
        load_folder(tmp_path)


def test_limits_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(trace_folder, "MAX_TRACES", 2)
    with pytest.raises(LensError, match="More than 2 traces"):
        folder_of(3)
    for i in range(3):
        (tmp_path / f"{i}.npz").write_bytes(b"")
    with pytest.raises(LensError, match=r"more than 2 \.npz files"):
        load_folder(tmp_path)
    monkeypatch.setattr(trace_folder, "MAX_CHOICES", 200)
    with pytest.raises(LensError, match="t1: with it the traces hold more than 200"):
        folder_of(2)
    monkeypatch.setattr(trace_folder, "MAX_LABELS", 1)
    monkeypatch.setattr(trace_folder, "MAX_CHOICES", 10**6)
    with pytest.raises(LensError, match="2 different labels; at most 1"):
        folder_of(2)


# --- labels ---------------------------------------------------------------------


def test_load_by_label_is_that_of_its_tokens_together():
    folder = folder_of(6)
    found = label_tests.load_by_label(folder)
    for group in range(2):
        own = np.isin(folder.trace_of, np.flatnonzero(folder.label_of == group))
        flat = folder.experts[0, own].ravel()
        np.testing.assert_allclose(
            found.share[group, 0], np.bincount(flat, minlength=8) / flat.size
        )


def test_with_texts_of_one_length_the_interval_is_students():
    traces = [(f"t{i}", "ab"[i % 2], make_trace(i, 25)) for i in range(10)]
    folder = gather(iter(traces))
    found = label_tests.load_by_label(folder)
    loads = np.stack([routing.load(trace)[1] for name, label, trace in traces if label == "a"])
    for expert in range(8):
        exact = ttest_1samp(loads[:, expert], 0).confidence_interval(0.95)
        assert found.low[0, 1, expert] == pytest.approx(max(exact.low, 0))
        assert found.high[0, 1, expert] == pytest.approx(min(exact.high, 0.5))


def test_a_label_with_one_trace_has_no_interval():
    folder = gather(iter([("x", "a", make_trace(0)), ("y", "b", make_trace(1))]))
    found = label_tests.load_by_label(folder)
    assert np.isnan(found.low).all() and np.isnan(found.high).all()
    assert np.isfinite(found.share).all()


def test_information_of_labels_agrees_with_scikit_learn():
    folder = folder_of(6, labels=("a", "b", "c"))
    found = label_tests.label_test(folder, draws=19)
    label = np.repeat(folder.label_of[folder.trace_of], 2)
    expected = [mutual_info_score(label, layer.ravel()) for layer in folder.experts]
    np.testing.assert_allclose(found.test.value, expected)
    load = found.load.share
    total = folder.counts.sum(axis=0) / folder.counts.sum(axis=(0, 2))[:, None]
    np.testing.assert_allclose(found.lift, load / total)


def test_the_null_is_that_of_labels_permuted_one_by_one():
    folder = folder_of(8)
    found = label_tests.label_test(folder, draws=1999)
    rng = np.random.default_rng(5)
    slow = []
    for _ in range(300):
        label = rng.permutation(folder.label_of)[folder.trace_of]
        slow.append(mutual_info_score(np.repeat(label, 2), folder.experts[0].ravel()))
    assert found.test.mean[0] == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / 300**0.5)


def test_a_planted_label_is_found_with_its_expert():
    found = label_tests.label_test(folder_of(16, lift=5))
    assert found.test.found() == 2
    assert (found.q[0, :, 5] <= 0.05).all() and (found.lift[0, :, 5] > 1.3).all()
    assert (found.difference[1, :, 5] < 0).all()
    np.testing.assert_allclose(found.difference[0], -found.difference[1])


def test_texts_that_differ_without_regard_to_labels_are_not_distinguishable_from_chance():
    p, single = [], []
    for seed in range(200):
        folder = folder_of(8, seed=seed, n_tokens=15)
        found = label_tests.label_test(folder, draws=99, seed=seed)
        p.append(found.test.p[0])
        single.append(found.p[0, 0, 3])
    assert kstest(p, "uniform").pvalue > 0.001
    for values in (p, single):
        assert np.mean(np.array(values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert 0.3 < np.mean(np.array(single) <= 0.5) < 0.7


def test_few_traces_say_how_small_a_p_they_can_give():
    found = label_tests.label_test(folder_of(4, lift=5))
    assert found.smallest_p == pytest.approx(1 / 3)  # {0,2 | 1,3} is one of three ways
    assert "in 3 ways only" in found.note
    assert label_tests.label_test(folder_of(20), draws=99).note == ""


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("a",), "found one: a"), (("a", "b", "b"), r"labels with fewer: a \(1\)")],
)
def test_a_comparison_needs_two_labels_with_two_traces(labels, message):
    with pytest.raises(LensError, match=message):
        label_tests.label_test(folder_of(3, labels=labels))


def test_an_expert_that_nobody_chose_has_no_lift():
    traces = []
    for i in range(4):
        trace = make_trace(i)
        logits = trace.router_logits.copy()
        logits[:, :, 7] = -20
        probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        experts = np.argsort(-probs, axis=-1)[..., :2].astype(np.int32)
        gates = np.take_along_axis(probs, experts, axis=-1)
        trace = dataclasses.replace(
            trace, router_logits=logits, router_probs=probs, experts=experts, gates=gates
        )
        traces.append((f"t{i}", "ab"[i % 2], trace))
    found = label_tests.label_test(gather(iter(traces)), draws=19)
    assert np.isnan(found.lift[:, :, 7]).all() and np.isnan(found.q[:, :, 7]).all()
    assert np.isfinite(found.test.value).all()


def test_statistics_of_single_texts_run_over_all_traces():
    folder = folder_of(6)
    tokens = label_tests.folder_token_information(folder, draws=19)
    assert tokens.n_tokens == len(folder.tokens)
    assert "each stretch's (of about 16 tokens)" in tokens.test.method
    assert "turned round" in label_tests.folder_position_information(folder, draws=19).test.method
    one = label_tests.folder_repeats(folder, 0, draws=19).first.value
    own = [i for i in range(6) if folder.label_of[i] == 0]
    same = [
        (folder.experts[:, folder.trace_of == i][:, 1:, 0]
         == folder.experts[:, folder.trace_of == i][:, :-1, 0])
        for i in own
    ]  # fmt: skip
    np.testing.assert_allclose(one, np.concatenate(same, axis=1).mean(axis=1))


# --- the report -----------------------------------------------------------------


def router_set(layers=2):
    rng = np.random.default_rng(0)
    return RouterSet(rng.standard_normal((layers, 16, 8)).astype(np.float32), top_k=2)


def test_a_report_of_many_traces_holds_every_table_and_figure():
    parts = trace_folder_parts(folder_of(16, lift=5), router_set())
    made = {part.name: part.make() for part in parts}
    assert {"traces", "traces_labels", "traces_label_lift_L0", "traces_information"} <= set(made)
    rows = records(made["traces_labels"])
    assert len(rows) == 2 * 2 * 8
    planted = [r for r in rows if r["label"] == "a" and r["expert (index in its layer)"] == "5"]
    assert all(float(r["q (Benjamini–Hochberg)"]) <= 0.05 for r in planted)
    assert all(part.settings["draws"] for part in parts if part.name != "traces")


def test_a_report_of_traces_without_labels_says_why_they_are_not_compared():
    parts = {
        part.name: part for part in trace_folder_parts(folder_of(3, labels=("all",)), router_set())
    }
    with pytest.raises(LensError, match="at least two labels"):
        parts["traces_labels"].make()
    assert len(records(parts["traces_information_by_layer"].make())) == 2 * 2


def test_a_report_of_one_trace_holds_every_statistic_with_its_null():
    trace = make_trace(0, 60)
    parts = {part.name: part for part in trace_parts(trace, router_set(), Settings())}
    for name in ("load", "coselection", "repeat_rates_by_layer", "information_by_layer", "margins"):
        header = " ".join(records(parts[name].make())[0])
        assert "chance" in header or "expected" in header, name
    table = records(parts["predicted_load_by_expert"].make())
    assert len(table) == 16
    assert "predicted by the weights alone" not in table[0]  # another model's routers
    with pytest.raises(LensError, match="other routers"):
        parts["breadth_against_load"].make()


def test_a_trace_of_three_tokens_leaves_out_the_position_only():
    parts = {part.name: part for part in trace_parts(make_trace(0, 3), router_set(), Settings())}
    names = {r["quantity"] for r in records(parts["information_by_layer"].make())}
    assert names == {"token id"}
