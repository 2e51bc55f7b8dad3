"""Measures with known answers, controls, and models in which a dictionary stands."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from grok.dictionaries import evaluate as command
from grok.dictionaries.evaluation.alone import alone
from grok.dictionaries.evaluation.controls import Fitted, Means
from grok.dictionaries.evaluation.curve import Subject, curve
from grok.dictionaries.evaluation.measure import Control, Plan, measured, stability
from grok.dictionaries.evaluation.methods import Sequences
from grok.dictionaries.evaluation.replacing import put, replacement
from grok.dictionaries.evaluation.spliced import compared
from grok.dictionaries.evaluation.standing_in import standing_in
from grok.dictionaries.evaluation.sums import (
    Activity,
    Reconstruction,
    nearest_cosines,
    partner_cosines,
)
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.dictionaries.kinds.files import save_dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.source import Computed, taken
from grok.dictionaries.training.windows import cut
from grok.errors import GrokError
from grok.interventions.edits import edit, zero_out
from grok.interventions.sites import HookPoint
from tests.grok.conftest import DATA

RNG = np.random.default_rng(0)
M, N, D = 2, 4000, 6


def sums(y, found, size: int) -> Reconstruction:
    own = Reconstruction(y[:, :3].astype(np.float64).mean(1))
    for i in range(0, N, size):
        own.add(y[:, i : i + size], found[:, i : i + size])
    return own


def test_explained_variance_is_that_of_the_text_whatever_its_mean_and_batches():
    off = RNG.standard_normal((M, N, D))
    off = (off - off.mean(1, keepdims=True)) / off.std(1, keepdims=True)
    error = RNG.standard_normal((M, N, D))
    error *= np.sqrt(0.25 * np.square(off).sum((1, 2)) / np.square(error).sum((1, 2)))[
        :, None, None
    ]
    y = 5000 + off
    numbers = sums(y, y + error, N).numbers()
    np.testing.assert_allclose(numbers["ev"], 0.75, rtol=1e-9)
    np.testing.assert_allclose(numbers["mse"], [D / 4, D / 4, D / 4], rtol=1e-9)
    for size in (1, 7, 1000):
        cut_up = sums(y, y + error, size).numbers()
        for name, values in numbers.items():
            np.testing.assert_allclose(cut_up[name], values, rtol=1e-9, err_msg=name)
    # The mean explains nothing, and a constant error counts.
    np.testing.assert_allclose(sums(y, np.full_like(y, 5000), 7).numbers()["fvu"], 1)
    np.testing.assert_allclose(sums(y, y + 2, 7).numbers()["fvu"], 4)


def test_norms_say_how_far_reconstructions_shrink():
    y = RNG.standard_normal((M, N, D))
    numbers = sums(y, y / 2, 100).numbers()
    np.testing.assert_allclose(numbers["norm_ratio"], 0.5)
    np.testing.assert_allclose(numbers["shrinkage"], 2)
    np.testing.assert_allclose(numbers["cosine"], 1)


def test_features_are_counted_by_token():
    activity = Activity()
    f = np.zeros((100, 4), np.float32)
    f[:, 0], f[:5, 1], f[0, 2] = 1.0, 1.0, 1.0
    activity.add([f[:40]])
    activity.add([f[40:]])
    numbers = activity.numbers()
    assert numbers["l0"] == [1.06, 1.06] and numbers["dead"] == [0.25, 0.25]
    assert numbers["dense"] == [0.25, 0.25] and numbers["above_1_percent"] == [0.5, 0.5]
    assert sum(activity.histogram()[0]) == 3


def test_nearest_cosines_find_features_that_are_the_same():
    w = np.eye(4)[:, None, :] * 3.0
    assert nearest_cosines(w).max() == 0
    w[3] = w[0] / 7
    np.testing.assert_allclose(nearest_cosines(w), [1, 0, 0, 1])
    np.testing.assert_allclose(partner_cosines(np.eye(4)[:, None, :], w), [1, 1, 1, 0])


# --- in a model -------------------------------------------------------------------------

IDS = np.random.default_rng(1).integers(1, 300, 160).astype(np.int32)
TEXT = cut({"a": IDS[:128]}, 16)


def perfect(tiny3, levels: float = 0.0) -> Dictionary:
    """Every coordinate of resid_mid and its opposite as a feature: nothing is lost."""
    d = tiny3.config.d_model
    design = Design("sae", (0, 1, 2), ("resid_mid",), ("resid_mid",), 2 * d, d)
    both = np.concatenate([np.eye(d), -np.eye(d)])
    params = {
        "encoder": [both.T[None]] * 3,
        "encoder_bias": np.zeros((3, 2 * d)),
        "decoder": [both[:, None]] * 3,
        "decoder_bias": np.zeros((3, d)),
        "threshold": np.full((3, 2 * d), levels),
    }
    return Dictionary(design, Activation("jumprelu"), as_float32(params), {})


def random_one(tiny3, kind: str) -> Dictionary:
    d, f = tiny3.config.d_model, 16
    experts = tiny3.config.n_experts if kind == "expert_transcoder" else 0
    design = Design(kind, (0, 1, 2), ("router.input",), ("moe.normed",), f, d, n_experts=experts)
    rng = np.random.default_rng(4)
    params = {
        "encoder": [rng.standard_normal((1, d, f))] * 3,
        "encoder_bias": rng.standard_normal((3, f)),
        "decoder": [rng.standard_normal((f, len(g.writes), d)) / 10 for g in design.groups],
        "decoder_bias": rng.standard_normal((3, d)) / 10,
        "gate": np.ones((3, f)),
    }
    return Dictionary(design, Activation("topk", 4), as_float32(params), {})


def subject_of(tiny3, own: Dictionary) -> Subject:
    """The dictionary with text, and controls that were fitted on some of it."""
    d = tiny3.config.d_model
    mean, axes = np.zeros((3, d)), np.stack([np.eye(d)] * 3)
    none = Means(np.zeros(0, int), (3, d))
    fitted = Fitted(mean, axes, none, none, tiny3.config.vocab_size, mean)
    return Subject(tiny3, own, cut({"a": IDS}, 16), TEXT, fitted, 64)


def test_a_perfect_dictionary_changes_nothing_and_an_empty_one_does(tiny3):
    whole, empty = (replacement(perfect(tiny3, level)) for level in (0.0, 1e9))
    runs = compared(tiny3, TEXT.tokens, {"same": whole, "lost": empty})
    same, lost = (one.numbers() for one in runs.values())
    assert same["kl"] < 1e-6 and abs(same["delta_ce"]) < 1e-5 and same["same_next"] == 1
    assert min(same["same_set"]) == min(same["same_first"]) == 1
    assert min(same["router_ev"]) > 1 - 1e-6 and max(same["route_kl"]) < 1e-6
    assert lost["kl"] > 0.01 and max(lost["router_ev"]) < 0.5
    shares = np.array(lost["flips_by_margin"])
    np.testing.assert_allclose(shares.mean(1), 1 - np.array(lost["same_set"]), atol=1e-9)


@pytest.mark.parametrize("kind", ["transcoder", "clt", "expert_transcoder"])
def test_a_replaced_layer_writes_what_the_dictionary_does(tiny3, kind):
    own = random_one(tiny3, kind)
    window = TEXT.tokens[0]
    point = HookPoint(1, "moe.normed")
    inputs = [HookPoint(i, "router.input") for i in range(3)]
    experts = [HookPoint(i, "router.experts") for i in range(3)]
    run = tiny3.run_one(window, edits=replacement(own), wanted=[point, *inputs, *experts])
    kept = {p: value[0, : len(window)] for p, value in run.kept.items()}
    x = np.stack([kept[p] for p in inputs])
    chosen = np.stack([kept[p] for p in experts])
    expected = apply(own, x, chosen if own.design.n_experts else None).written[1]
    np.testing.assert_allclose(kept[point], expected, atol=1e-5)


def test_a_dictionary_that_writes_nothing_is_zero_ablation(tiny3):
    own = random_one(tiny3, "transcoder")
    params = {**own.params, "decoder": [w * 0 for w in own.params["decoder"]],
              "decoder_bias": own.params["decoder_bias"] * 0}  # fmt: skip
    empty = Dictionary(own.design, own.activation, params, {})
    runs = {"a": replacement(empty), "b": edit("moe.normed", zero_out())}
    a, b = (one.numbers() for one in compared(tiny3, TEXT.tokens, runs).values())
    assert a["kl"] == pytest.approx(b["kl"], rel=1e-5) and a["kl"] > 1e-3


def test_only_dictionaries_of_one_design_are_compared(tiny3):
    with pytest.raises(GrokError, match="A transcoder with 16 features a group and a clt with 16"):
        stability(random_one(tiny3, "transcoder"), random_one(tiny3, "clt"))


def test_kinds_that_belong_to_no_layer_are_refused(tiny3):
    own = random_one(tiny3, "transcoder")
    both = Design("crosscoder", (0, 1), ("resid_mid",), ("resid_mid",), 4, own.design.d_model)
    with pytest.raises(GrokError, match="A crosscoder reads all layers"):
        replacement(Dictionary(both, own.activation, {}, {}))
    with pytest.raises(GrokError, match="A pooled topk"):
        replacement(Dictionary(own.design, Activation("topk", 4, pooled=True), {}, {}))


def test_measures_are_the_same_for_any_batch_and_name_their_model(tiny3):
    own, fit = perfect(tiny3), cut({"a": IDS}, 16)
    a, b = (measured(tiny3, own, fit, TEXT, Plan(n, 100, 64, 0, 0, 0, 0)) for n in (64, 17))
    assert a["held_out_tokens"] == 64 and len(a["sites"]) == 3
    assert max(a["dictionary"]["fvu"]) < 1e-10
    assert a["dictionary"]["l0"] == pytest.approx([own.design.d_model] * 4, rel=1e-6)
    np.testing.assert_allclose(a["controls"]["pca_best"], 0, atol=1e-9)
    assert min(a["controls"]["token_mean"]) > 0.1
    for part in ("dictionary", "controls"):
        for name, values in a[part].items():
            np.testing.assert_allclose(values, b[part][name], rtol=1e-5, atol=1e-6, err_msg=name)
    other = Dictionary(own.design, own.activation, own.params, {"model_sha256": "0" * 64})
    with pytest.raises(GrokError, match="another model"):
        measured(tiny3, other, fit, TEXT, Plan())


def test_the_command_prints_and_keeps_what_it_measured(tiny3, tmp_path, capsys):
    own = random_one(tiny3, "clt")
    facts = {"settings": {"text": {"context": 16}}, "model_sha256": tiny3.sha256}
    own = Dictionary(own.design, own.activation, own.params, facts)
    folder = save_dictionary(tmp_path / "d", own)
    np.save(tmp_path / "ids.npy", np.tile(IDS, 8))
    arguments = ["--model", str(DATA / "tiny3"), "--text", str(tmp_path / "ids.npy")]
    small = [f"--{name}-tokens" for name in ("fitted", "curve", "spliced", "labelled")]
    small = [*(one for name in small for one in (name, "32")), "--tokens", "32"]
    beside = ["--beside", str(folder), "--control", f"again={folder}"]
    assert command.main([str(folder), *arguments, *small, *beside]) == 0
    said = capsys.readouterr().out
    assert "pca_best" in said and "layers[2].moe.normed" in said and "CE recovered" in said
    kept = json.loads((folder / "evaluation.json").read_text())
    assert kept["dictionary"]["l0"][0] <= 4 and 0 < kept["held_out_tokens"] <= 32
    assert kept["stability"]["share"] == [1, 1, 1] and max(kept["stability"]["chance_share"]) < 0.2
    rows = {(row["method"], row["level"]): row for row in kept["curve"]["rows"]}
    assert rows["again", "own"]["fvu"] == rows["dictionary", "own"]["fvu"]
    assert ("neurons", "own") in rows
    assert command.main([str(tmp_path), *arguments]) == 2
    assert "no dictionary" in capsys.readouterr().err
    assert command.main([str(folder), *arguments, "--control", "again"]) == 2
    assert "expected NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sae", "clt", "expert_transcoder"])
def test_with_errors_added_back_the_model_is_itself(tiny3, kind):
    own = perfect(tiny3, 0.5) if kind == "sae" else random_one(tiny3, kind)
    subject = subject_of(tiny3, own)
    found = standing_in(subject, 64)
    assert found["live"]["kl"] > 1e-3
    change = {name: found[name]["largest_logit_change"] for name in ("errors_added", "put_back")}
    assert max(change.values()) < 1e-5
    assert min(found["errors_added"]["same_set"]) == 1
    assert ("offline" in found) == ("frozen_attention" in found) == (kind != "sae")


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
def test_layers_are_replaced_one_at_a_time(tiny3, kind):
    good = perfect(tiny3, 0) if kind == "sae" else random_one(tiny3, kind)
    found = alone(subject_of(tiny3, good), 64, [4.0] * 3)
    own = found["methods"]
    assert found["layers"] == [0, 1, 2] and set(own) == {"dictionary", "pca_best", "zero", "mean"}
    again = compared(tiny3, subject_of(tiny3, good).sequences(64)[0], {"x": replacement(good, [1])})
    assert own["dictionary"]["kl"][1] == again["x"].numbers()["kl"]
    share = own["dictionary"]["kl_recovered_zero"]
    for i, (mine, zero) in enumerate(zip(own["dictionary"]["kl"], own["zero"]["kl"], strict=True)):
        assert share[i] is None if zero < 0.01 else share[i] == pytest.approx(1 - mine / zero)


def test_offline_and_frozen_runs_are_what_they_say(tiny3):
    own = random_one(tiny3, "transcoder")
    subject = subject_of(tiny3, own)
    windows, labels = subject.sequences(64)
    sequences = Sequences(own.design, windows, labels)
    found = standing_in(subject, 64)
    # Offline by hand: each window's own values in the place of what the layers write.
    kl = []
    for window in windows:
        points = [*own.design.sources, *own.design.targets]
        plain = tiny3.run_one(window, wanted=points)
        x = np.stack([plain.kept[point][0] for point in own.design.sources])
        values = np.asarray(apply(own, x).written)
        put_there = put({point: value[None] for point, value in
                         zip(own.design.targets, values, strict=True)})  # fmt: skip
        changed = tiny3.run_one(window, edits=put_there)
        t = len(window)
        a, b = (log_softmax(run.logits[0, :t].astype(float), -1) for run in (plain, changed))
        kl.append((np.exp(a) * (a - b)).sum(-1).mean())
    assert found["offline"]["kl"] == pytest.approx(np.mean(kl), rel=1e-4)
    assert sequences.points == tuple(points)
    # With attention frozen the first layer's router sees what it saw, and others do not.
    assert found["frozen_attention"]["same_set"][0] == 1
    assert found["frozen_attention"]["kl"] != pytest.approx(found["live"]["kl"], rel=1e-3)


def test_a_router_fed_from_a_reconstruction_does_what_the_replaced_layer_does(tiny3):
    own = perfect(tiny3, 0.4)
    subject = subject_of(tiny3, own)
    rows, again = (curve(replace(subject, batch=n), {}, 64, 0)["rows"] for n in (64, 17))
    row = rows[0]
    for one, other in zip(rows, again, strict=True):
        assert (one["method"], one["level"], one["l0"]) == (
            other["method"], other["level"], pytest.approx(other["l0"]))  # fmt: skip
        if one["method"] != "shuffled":  # within windows, which a batch may cut
            np.testing.assert_allclose(one["fvu"], other["fvu"], rtol=1e-3, atol=1e-6)
            assert one["routers"]["same_set"] == other["routers"]["same_set"]
    for layer in range(3):
        runs = {"one": replacement(own, [layer])}
        windows = [TEXT.tokens[i] for i in np.linspace(0, 7, 4).astype(int)]
        expected = compared(tiny3, windows, runs)["one"].numbers()
        for key in ("same_set", "same_first"):
            assert row["routers"][key][layer] == expected[key][layer]
        for key in ("route_kl", "router_ev"):
            assert row["routers"][key][layer] == pytest.approx(expected[key][layer], rel=1e-2)


def test_a_control_of_another_model_is_measured_on_that_models_values(tiny3):
    own, fit = random_one(tiny3, "transcoder"), cut({"a": IDS}, 16)
    plan = Plan(64, 100, 64, 64, 0, 0, 0)
    others = {"here": Control(own), "elsewhere": Control(own, tiny3)}
    rows = measured(tiny3, own, fit, TEXT, plan, others)["curve"]["rows"]
    own_level = {row["method"]: row for row in rows if row["level"] == "own"}
    assert own_level["elsewhere"]["fvu"] == pytest.approx(own_level["here"]["fvu"])
    assert own_level["elsewhere_pca_best"]["fvu"] == pytest.approx(own_level["pca_best"]["fvu"])
    smaller = random_one(tiny3, "clt")
    with pytest.raises(GrokError, match="Control other: a clt with 16 features"):
        measured(tiny3, own, fit, TEXT, plan, {"other": Control(smaller)})


def test_values_of_the_same_tokens_are_the_same_in_any_company(tiny3):
    design = perfect(tiny3).design
    window, position = np.array([3, 0, 3, 5]), np.array([2, 0, 15, 7])
    values = Computed(tiny3, TEXT)
    together = taken(design, values, window, position)
    for i in range(4):
        alone = taken(design, values, window[i : i + 1], position[i : i + 1])
        np.testing.assert_allclose(alone.x[:, 0], together.x[:, i], atol=3e-5)
