"""The command, and which model an imported dictionary opens on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from grok.dictionaries.exchange.__main__ import main
from grok.dictionaries.exchange.binding import For, bound
from grok.dictionaries.kinds.files import load_dictionary, save_dictionary
from grok.errors import GrokError
from tests.grok.dictionaries.exchange.foreign import D, made, ours, same, tokens

DATA = Path(__file__).parents[3] / "data"
MODEL = For("two", "b" * 64, D, 3, (0, 1, 2))
OUT = Path("folder")


def test_a_dictionary_goes_out_and_comes_back_by_the_command(tmp_path, capsys):
    own = made("transcoder", "jumprelu")
    save_dictionary(tmp_path / "own", own)
    for way, source, output in (("to", "own", "there"), ("from", "there", "back")):
        given = [way, "saelens", str(tmp_path / source), "--output", str(tmp_path / output)]
        assert main(given) == 0
    back = load_dictionary(tmp_path / "back")
    assert "It is for one (aaaaaaaaaaaa…)." in capsys.readouterr().out
    assert back.design == own.design
    assert back.facts == own.facts | {
        "imported": {"format": "saelens", "from": "there", "model_named": False}
    }
    x = tokens(own)
    same(ours(own, x), ours(back, x))
    back.check_model("a" * 64, D, 3, "one")
    with pytest.raises(GrokError, match="is another model"):
        back.check_model("b" * 64, D, 3, "two")


def test_without_a_hash_the_person_names_the_model_and_is_told_so(tmp_path, capsys, tiny3):
    own = made("sae", "relu", facts={"seed": 1})
    d = tiny3.config.d_model
    main_from = ["from", "saelens", str(tmp_path / "there"), "--output", str(tmp_path / "back")]
    save_dictionary(tmp_path / "own", own)
    assert main(["to", "saelens", str(tmp_path / "own"), "--output", str(tmp_path / "there")]) == 0
    assert main(main_from) == 2
    assert "found no hash of the model that it was trained on" in capsys.readouterr().err
    assert main([*main_from, "--model", str(DATA / "tiny3")]) == 2
    assert f"is for width {D}" in (told := capsys.readouterr().err) and f"width {d}" in told
    found, told = bound(own, MODEL, OUT, "saelens")
    assert "only layers, sites and width were checked" in told
    assert found.facts["model_sha256"] == "b" * 64 and found.facts["imported"]["model_named"]
    with pytest.raises(GrokError, match="layers up to 2; two has width 6 and 2 layers"):
        bound(own, MODEL._replace(n_layers=2), OUT, "saelens")


def test_a_site_of_experts_needs_experts_and_a_hash_its_model():
    own = made("transcoder", "relu")
    with pytest.raises(GrokError, match="is another model"):
        bound(own, MODEL, OUT, "saelens")
    own = replace(own, facts={})
    with pytest.raises(GrokError, match=r"router.input of layer 0; expected a layer with experts"):
        bound(own, MODEL._replace(moe_layers=(1, 2)), OUT, "saelens")


def test_a_site_that_no_hook_says_for_certain_is_named_by_the_person(tmp_path, capsys):
    own = made("transcoder", "relu", (1,), sites=("router.input", "moe.output"))
    save_dictionary(tmp_path / "own", own)
    main(["to", "saelens", str(tmp_path / "own"), "--output", str(tmp_path / "there")])
    file = next((tmp_path / "there").glob("*/cfg.json"))
    cfg = json.loads(file.read_text())
    cfg["metadata"] = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "layers.1.mlp",
                       "grok_moe_lens": {"facts": own.facts}}  # fmt: skip
    file.write_text(json.dumps(cfg))
    given = ["from", "saelens", str(tmp_path / "there"), "--output", str(tmp_path / "back")]
    assert main(given) == 2
    assert "blocks.1.ln2.hook_normalized', which can mean more" in capsys.readouterr().err
    assert main([*given, "--reads", "router.input"]) == 2
    assert "say which site it is with --writes" in capsys.readouterr().err.lower()
    assert main([*given, "--reads", "router.input", "--writes", "moe.output"]) == 0
    assert load_dictionary(tmp_path / "back").design == own.design
