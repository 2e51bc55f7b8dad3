"""Dictionaries of SAELens, out and in, against its own arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grok.dictionaries.exchange.saelens import read_saelens, write_saelens
from grok.errors import GrokError
from tests.grok.dictionaries.exchange.foreign import D, F, K, made, ours, saelens, same, tokens

CASES = {
    "standard": made("sae", "relu"),
    "jumprelu": made("sae", "jumprelu"),
    "topk": made("sae", "topk"),
    "transcoder": made("transcoder", "relu"),
    "skip_transcoder": made("transcoder", "relu", skip=True),
    "jumprelu_transcoder": made("transcoder", "jumprelu"),
    "jumprelu_skip_transcoder": made("transcoder", "jumprelu", skip=True),
}


@pytest.mark.parametrize("architecture", CASES)
def test_what_goes_out_computes_the_same_there_and_comes_back(architecture, tmp_path):
    own = CASES[architecture]
    x = tokens(own)
    folders = write_saelens(tmp_path, own)
    assert len(folders) == 3
    texts = [json.loads((one / "cfg.json").read_text()) for one in folders]
    assert {one["architecture"] for one in texts} == {architecture}
    there = [saelens(folder, x[i]) for i, folder in enumerate(folders)]
    same(ours(own, x), ([one[0] for one in there], np.stack([one[1] for one in there])))
    back = read_saelens(tmp_path)
    assert back.design == own.design and back.facts == own.facts
    same(ours(own, x), ours(back, x))


@pytest.mark.parametrize("norm", ["none", "expected_average_only_in"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("taken_off", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "batchtopk"])
def test_whatever_is_done_before_and_after_is_folded(
    architecture, taken_off, rescale, norm, tmp_path
):
    rescale = rescale and architecture in ("topk", "batchtopk")
    scale = 1.0 if norm == "none" else 2.5
    folder = foreign(tmp_path, architecture, taken_off, rescale, norm)
    found = read_saelens(folder, scale=None if norm == "none" else scale)
    assert found.design.layers == (4,) and found.design.reads == ("resid_post",)
    x = tokens(found)
    features, out = saelens(folder, x[0], scale)
    same(ours(found, x), ([features], out[None]))
    strength = scale if rescale and norm != "none" else 1.0  # norms are those after the scale
    np.testing.assert_allclose(ours(found, x)[0][0] * strength, features, atol=1e-4)


def foreign(folder: Path, kind: str, taken_off: bool, rescale: bool, norm: str, **changes) -> Path:
    rng = np.random.default_rng(5)
    arrays = {
        "W_enc": rng.standard_normal((D, F)),
        "W_dec": rng.standard_normal((F, D)),
        "b_enc": rng.standard_normal(F),
        "b_dec": rng.standard_normal(D),
    }
    if kind == "jumprelu":
        arrays["threshold"] = rng.standard_normal(F)  # below 0 for some: relu comes first there
    if kind == "batchtopk":
        arrays["topk_threshold"] = np.array(0.7)
    kinds = {name: np.float64 if one.ndim == 0 else np.float32 for name, one in arrays.items()}
    save_file(
        {name: one.astype(kinds[name]) for name, one in arrays.items()},
        folder / "sae_weights.safetensors",
    )
    cfg = {
        "architecture": kind, "d_in": D, "d_sae": F, "apply_b_dec_to_input": taken_off,
        "normalize_activations": norm, "rescale_acts_by_decoder_norm": rescale, "k": K,
        "metadata": {"hook_name": "blocks.4.hook_resid_post", "model_name": "gpt"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(cfg | changes))
    return folder


def test_a_config_from_before_version_6_is_read_as_it_was_meant(tmp_path):
    folder = foreign(tmp_path, "topk", True, False, "none")
    new = read_saelens(folder)
    cfg = {
        "d_in": D, "d_sae": F, "hook_point": "blocks.4.hook_resid_post", "model_name": "gpt",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(cfg))
    old = read_saelens(folder)
    x = tokens(new)
    assert old.design == new.design
    np.testing.assert_array_equal(ours(old, x)[1], ours(new, x)[1])


REFUSED = {
    "kind": (made("clt", "relu"), "kind clt; expected sae or transcoder"),
    "experts": (made("expert_transcoder", "relu"), "kind expert_transcoder"),
    "budget": (made("sae", "topk", pooled=True), "groups that share 3"),
    "topk": (made("transcoder", "topk"), "layer 0: found a transcoder with the 3 largest"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_saelens_cannot_say_is_refused_by_name(case, tmp_path):
    own, text = REFUSED[case]
    with pytest.raises(GrokError, match=text):
        write_saelens(tmp_path, own)
    assert not list(tmp_path.iterdir())


def test_a_threshold_below_zero_is_refused_where_it_would_act_as_zero(tmp_path):
    own = made("sae", "jumprelu")
    own.params["threshold"][1, 2] = -0.5
    with pytest.raises(GrokError, match=r"layer 1, feature 2: found a threshold of -0.5"):
        write_saelens(tmp_path, own)


LIES = {
    "architecture": ({"architecture": "gated"}, "architecture is .gated.; expected standard"),
    "width": ({"d_in": 5}, r"W_enc has shape \(6, 10\); expected \(5, 10\)"),
    "huge": ({"d_sae": 2**31 - 1}, "values; expected at most"),
    "no number": ({"d_sae": "ten"}, "d_sae is .ten.; expected a whole number"),
    "heads": ({"reshape_activations": "hook_z"}, "reshape_activations"),
    "token norm": ({"normalize_activations": "layer_norm"}, "no fold gives"),
    "whitening": ({"normalize_activations": "covariance_whitening"}, "not in these files"),
    "no scale": ({"normalize_activations": "expected_average_only_in"}, "give it with --scale"),
    "rescale": ({"rescale_acts_by_decoder_norm": True}, "Only topk"),
    "flag": ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input is 1; expected true or false"),
    "hook": ({"metadata": {"hook_name": "blocks.4.attn.hook_z"}}, "with --reads SITE"),
    "layer": ({"metadata": {"hook_name": "hook_embed"}}, "with --reads SITE"),
    "k": ({"architecture": "topk", "k": 11}, "k is 11; expected at most 10"),
    "metadata": ({"metadata": [1]}, "metadata is .*expected an object"),
    "function": ({"metadata": None, "activation_fn": "tanh-relu"}, "hook"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_config_that_lies_or_says_what_cannot_be_is_refused(lie, tmp_path):
    changes, text = LIES[lie]
    folder = foreign(tmp_path, "standard", True, False, "none", **changes)
    with pytest.raises(GrokError, match=text):
        read_saelens(folder)


def test_tensors_that_nothing_was_said_of_are_refused(tmp_path):
    folder = foreign(tmp_path, "standard", True, False, "none")
    file = folder / "sae_weights.safetensors"
    arrays = load_file(file)
    save_file(arrays | {"scaling_factor": np.ones(F, np.float32)}, file)
    with pytest.raises(GrokError, match="a tensor scaling_factor; expected .*fold that into W_dec"):
        read_saelens(folder)
    arrays["W_dec"][0, 0] = np.nan
    save_file(arrays, file)
    with pytest.raises(GrokError, match="W_dec has values that are no numbers"):
        read_saelens(folder)
    with pytest.raises(GrokError, match="no cfg.json; expected one in it"):
        read_saelens(tmp_path / "nothing")


def test_layers_that_differ_are_not_made_one_dictionary(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    foreign(tmp_path / "a", "standard", True, False, "none")
    foreign(tmp_path / "b", "jumprelu", True, False, "none",
            metadata={"hook_name": "blocks.5.hook_resid_post"})  # fmt: skip
    with pytest.raises(GrokError, match="rule jumprelu in one layer and relu in another"):
        read_saelens(tmp_path)
    foreign(tmp_path / "b", "standard", True, False, "none")
    with pytest.raises(GrokError, match="2 of 1 layers and sites resid_post"):
        read_saelens(tmp_path)
