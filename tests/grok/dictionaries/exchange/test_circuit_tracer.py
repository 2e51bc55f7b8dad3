"""Transcoders of circuit-tracer, out and in, against its own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grok.dictionaries.exchange.circuit_tracer import read_circuit_tracer, write_circuit_tracer
from grok.dictionaries.exchange.opening import flat_yaml, yaml_of
from grok.errors import GrokError
from tests.grok.dictionaries.exchange.foreign import circuit_tracer, made, ours, same, tokens

CASES = {
    "relu": made("transcoder", "relu"),
    "jumprelu": made("transcoder", "jumprelu"),
    "skip": made("transcoder", "jumprelu", skip=True),
    "clt": made("clt", "jumprelu"),
    "clt relu": made("clt", "relu"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_out_computes_the_same_there_and_comes_back(case, tmp_path):
    own = CASES[case]
    x = tokens(own)
    assert write_circuit_tracer(tmp_path, own) == [tmp_path]
    same(ours(own, x), circuit_tracer(tmp_path, x))
    back = read_circuit_tracer(tmp_path)
    assert back.design == own.design and back.facts == own.facts
    same(ours(own, x), ours(back, x))


def test_a_config_that_was_written_by_hand_is_read_and_its_files_are_those_it_names(tmp_path):
    own = made("transcoder", "jumprelu", (0, 1))
    write_circuit_tracer(tmp_path, own)
    for i, name in enumerate(("b", "a")):
        (tmp_path / f"layer_{i}.safetensors").rename(tmp_path / f"{name}.safetensors")
    (tmp_path / "config.yaml").write_text(
        "# a set\n---\nmodel_name: \"gpt\"\nmodel_kind: transcoder_set  # not across layers\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
        "transcoders:\n  - b.safetensors\n  - 'a.safetensors'\nscan: it's\n"
    )  # fmt: skip
    back = read_circuit_tracer(tmp_path)
    assert back.design == own.design and back.facts == {"model": "gpt"}
    same(ours(own, tokens(own)), ours(back, tokens(own)))


REFUSED = {
    "kind": (made("sae", "relu"), "kind sae; expected transcoder or clt"),
    "layers": (made("transcoder", "relu", (1, 2)), "layers 1, 2; expected all from 0"),
    "rule": (made("clt", "topk"), "found the 3 largest of a token"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_circuit_tracer_cannot_say_is_refused_by_name(case, tmp_path):
    own, text = REFUSED[case]
    with pytest.raises(GrokError, match=text):
        write_circuit_tracer(tmp_path, own)
    assert not list(tmp_path.iterdir())


LIES = {
    "kind": ("model_kind: transcoder_set", "model_kind: sae", "model_kind is .sae."),
    "hook": ("hook_mlp_out", "ln2.hook_normalized", "with --writes SITE"),
    "elsewhere": ("scan: one", "transcoders:\n- ../../x.safetensors", "in this folder"),
    "fetched": ("scan: one", "transcoders:\n- hf://a/b/c.safetensors", "Download that file"),
    "pickle": ("scan: one", "transcoders:\n- params.pt", "expected NAME.safetensors"),
    "code": ("scan: one", "scan: !!python/object/apply:os.system [id]\n  a: b", "line ., column"),
    "nested": ("scan: one", "scan: {a: [b]}", "'scan' has nested parts"),
    "bomb": ("scan: one", "scan: &a [x, x]\nb: &b [*a, *a]\nmodel_kind: [*b, *b]", "nested parts"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_config_that_lies_is_refused(lie, tmp_path):
    was, now, text = LIES[lie]
    write_circuit_tracer(tmp_path, made("transcoder", "jumprelu"))
    file = tmp_path / "config.yaml"
    lines = [one for one in file.read_text().splitlines() if not one.startswith("grok_moe_lens")]
    assert was in (before := "\n".join(lines))
    file.write_text(before.replace(was, now))
    with pytest.raises(GrokError, match=text):
        read_circuit_tracer(tmp_path)


@pytest.mark.parametrize("kind", ["transcoder", "clt"])
def test_tensors_that_do_not_fit_are_refused_before_any_is_read(kind, tmp_path, monkeypatch):
    write_circuit_tracer(tmp_path, made(kind, "jumprelu"))
    file = tmp_path / ("W_enc_2.safetensors" if kind == "clt" else "layer_2.safetensors")
    arrays = load_file(file)
    name = "k" if kind == "transcoder" else "W_skip"
    save_file(arrays | {name: np.ones(3, np.float32)}, file)
    with pytest.raises(GrokError, match=f"a tensor {name}; expected"):
        read_circuit_tracer(tmp_path)
    threshold = "threshold_2" if kind == "clt" else "activation_function.threshold"
    save_file({name: one for name, one in arrays.items() if name != threshold}, file)
    with pytest.raises(GrokError, match=threshold if kind == "clt" else "rule jumprelu in one"):
        read_circuit_tracer(tmp_path)
    file.unlink()
    if kind == "clt":
        with pytest.raises(GrokError, match=r"W_dec_0 has shape \(10, 3, 6\); expected \(10, 2, 6"):
            read_circuit_tracer(tmp_path)


def test_texts_come_through_yaml_as_they_were(tmp_path):
    given = {"one": "it's: a 'test' # not a note", "two": ["a b", 'c"d'], "three": '{"x": [1]}'}
    file = tmp_path / "config.yaml"
    file.write_text(yaml_of(given))
    assert flat_yaml(file) == given
