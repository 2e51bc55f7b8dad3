"""Measures with known answers, controls, and models in which a dictionary stands."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grok.dictionaries import evaluate as command
from grok.dictionaries.evaluation.controls import Controls, Fitting, at_level
from grok.dictionaries.evaluation.measure import Plan, measured, stability
from grok.dictionaries.evaluation.replacing import replacement
from grok.dictionaries.evaluation.spliced import compared
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


def test_controls_are_what_they_say():
    turned = np.linalg.qr(RNG.standard_normal((D, D)))[0]
    sizes = np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.2])
    coefficients = RNG.standard_normal((1, N, D)) * sizes
    tokens = RNG.integers(0, 5, N)
    y = 100 + coefficients @ turned.T
    fitting = Fitting(np.full((1, D), 99.0), 5)
    for i in range(0, N, 999):
        fitting.add(y[:, i : i + 999], tokens[i : i + 999])
    controls = Controls(fitting.fitted())
    for i in range(0, N, 777):
        controls.add(y[:, i : i + 777], tokens[i : i + 777])
    total = np.square(y - y.mean(1)).sum()
    share = controls.first[0] / total
    np.testing.assert_allclose(share[[0, 1, 2, 6]], [1, 21.29 / 85.29, 5.29 / 85.29, 0], atol=0.02)
    assert (controls.best[0] <= controls.first[0] + 1e-6).all()
    own = np.square(coefficients[0] - coefficients[0].mean(0))
    best = total - np.sort(own, axis=1)[:, -2:].sum()
    assert controls.best[0, 2] == pytest.approx(best, rel=0.01)
    halfway = at_level(controls.best, np.array([1.5]))
    assert halfway[0] == pytest.approx(controls.best[0, 1:3].mean())
    # Tokens say nothing here, and all where values are theirs alone.
    assert controls.token_mean / total == pytest.approx(1, abs=0.02)
    of_token = RNG.standard_normal((5, D))[tokens][None] * 10
    fitting = Fitting(np.zeros((1, D)), 5)
    fitting.add(of_token, tokens)
    controls = Controls(fitting.fitted())
    controls.add(of_token, tokens)
    assert controls.token_mean / np.square(of_token - of_token.mean(1)).sum() < 1e-5


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


def test_a_perfect_dictionary_changes_nothing_and_an_empty_one_does(tiny3):
    whole, empty = (replacement(perfect(tiny3, level)) for level in (0.0, 1e9))
    same, lost = (one.numbers() for one in compared(tiny3, TEXT.tokens, [whole, empty]))
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
    edits = [replacement(empty), edit("moe.normed", zero_out())]
    a, b = (one.numbers() for one in compared(tiny3, TEXT.tokens, edits))
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
    a, b = (measured(tiny3, own, fit, TEXT, Plan(size, 100, 64, 32)) for size in (64, 17))
    assert a["held_out_tokens"] == 64 and len(a["sites"]) == 3
    assert max(a["dictionary"]["fvu"]) < 1e-10
    assert a["dictionary"]["l0"] == pytest.approx([own.design.d_model] * 4, rel=1e-6)
    np.testing.assert_allclose(a["controls"]["pca_best"], 0, atol=1e-9)
    assert min(a["controls"]["token_mean"]) > 0.1
    assert a["spliced"]["routers"]["same_set"] == [1, 1, 1]
    assert a["spliced"]["zero"]["ce_recovered"] == pytest.approx(1, abs=1e-3)
    for part in ("dictionary", "controls"):
        for name, values in a[part].items():
            np.testing.assert_allclose(values, b[part][name], rtol=1e-5, atol=1e-9, err_msg=name)
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
    small = ["--tokens", "32", "--spliced-tokens", "32", "--beside", str(folder)]
    assert command.main([str(folder), *arguments, *small]) == 0
    said = capsys.readouterr().out
    assert "pca_best" in said and "layers[2].moe.normed" in said and "CE recovered" in said
    kept = json.loads((folder / "evaluation.json").read_text())
    assert kept["dictionary"]["l0"][0] <= 4 and 0 < kept["held_out_tokens"] <= 32
    assert "other has too: 100.0% 100.0% 100.0%" in said
    assert command.main([str(tmp_path), *arguments]) == 2
    assert "no dictionary" in capsys.readouterr().err


def test_values_of_the_same_tokens_are_the_same_in_any_company(tiny3):
    design = perfect(tiny3).design
    window, position = np.array([3, 0, 3, 5]), np.array([2, 0, 15, 7])
    values = Computed(tiny3, TEXT)
    together = taken(design, values, window, position)
    for i in range(4):
        alone = taken(design, values, window[i : i + 1], position[i : i + 1])
        np.testing.assert_allclose(alone.x[:, 0], together.x[:, i], atol=1e-5)
