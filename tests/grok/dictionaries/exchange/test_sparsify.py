"""Dictionaries of sparsify, out and in, against its own arithmetic."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grok.dictionaries.exchange.sparsify import read_sparsify, write_sparsify
from grok.errors import GrokError
from tests.grok.dictionaries.exchange.foreign import F, made, ours, same, sparsify, tokens

CASES = {
    "sae": made("sae", "topk"),
    "relu": made("sae", "relu"),
    "transcoder": made("transcoder", "topk"),
    "skip": made("transcoder", "topk", skip=True),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_out_computes_the_same_there_and_comes_back(case, tmp_path):
    own = CASES[case]
    x = tokens(own)
    folders = write_sparsify(tmp_path, own)
    there = [sparsify(folder, x[i]) for i, folder in enumerate(folders)]
    same(ours(own, x), ([one[0] for one in there], np.stack([one[1] for one in there])))
    back = read_sparsify(tmp_path)
    assert back.design == own.design and back.facts == own.facts
    assert back.activation.k == (F if case == "relu" else own.activation.k)
    same(ours(own, x), ours(back, x))


def test_the_name_of_a_folder_says_the_module_where_it_can(tmp_path):
    own = made("sae", "topk", (4,), sites=("resid_post", "resid_post"))
    folder = write_sparsify(tmp_path, own)[0]
    folder = folder.rename(tmp_path / "layers.4")
    changed(folder, grok_moe_lens=None, num_latents=0, expansion_factor=2, d_in=5)
    with pytest.raises(GrokError, match=r"encoder.weight has shape \(10, 6\); expected \(10, 5\)"):
        read_sparsify(folder)
    changed(folder, num_latents=10, d_in=6)
    back = read_sparsify(folder)
    assert back.design == own.design and not back.facts
    changed(folder, transcode=True)
    folder = folder.rename(tmp_path / "layers.4.mlp")
    with pytest.raises(GrokError, match=r"the hook 'layers.4.mlp', which can mean more than one"):
        read_sparsify(folder)
    back = read_sparsify(folder, reads="router.input", writes="moe.normed")
    assert back.design.kind == "transcoder" and back.design.layers == (4,)


def changed(folder, **values) -> None:
    file = folder / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"activation": "groupmax"}, "activation is .groupmax.; expected topk"),
        ({"skip_connection": True}, "skip_connection is true; expected false"),
        ({"k": 11}, "k is 11; expected at most 10"),
        ({"k": None}, "k is null; expected a whole number"),
        ({"num_latents": 2**31 - 1}, "values; expected at most"),
        ({"transcode": "yes"}, "transcode is .yes.; expected true or false"),
    ],
)
def test_a_config_that_lies_is_refused(values, text, tmp_path):
    folder = write_sparsify(tmp_path, made("sae", "topk", (0,)))[0]
    changed(folder, **values)
    with pytest.raises(GrokError, match=text):
        read_sparsify(folder)


def test_thresholds_are_refused_by_name(tmp_path):
    with pytest.raises(GrokError, match="layer 0: found a threshold for each feature"):
        write_sparsify(tmp_path, made("transcoder", "jumprelu"))
    with pytest.raises(GrokError, match="groups that share 3"):
        write_sparsify(tmp_path, made("transcoder", "topk", pooled=True))
