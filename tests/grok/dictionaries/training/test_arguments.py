"""What the commands of dictionaries share: a budget that is none is refused, text is passed on."""

from __future__ import annotations

import argparse

import pytest

from grok.dictionaries import evaluate, index, ship, train
from grok.dictionaries.kinds.files import save_dictionary
from grok.dictionaries.training.arguments import add_text_arguments, text_arguments
from grok.runner import loading
from tests.grok.dictionaries.kinds.test_files import made

CONFIG = """
[dictionary]
kind = "sae"
layers = [0]
reads = ["resid_mid"]
features = 64
"""


@pytest.mark.parametrize("budget", ["nan", "inf", "-1", "0"])
@pytest.mark.parametrize("command", [train, evaluate, index, ship], ids=lambda one: one.__name__)
def test_every_command_refuses_what_is_no_budget_before_a_model_is_opened(
    command, budget, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("opened"))
    config = tmp_path / "a.toml"
    config.write_text(CONFIG)
    given = config if command is train else save_dictionary(tmp_path / "d", made())
    output = [] if command is evaluate else ["--output", str(tmp_path / "out")]
    assert command.main([str(given), *output, f"--memory-budget={budget}"]) == 2
    assert f"--memory-budget is {budget}; expected gigabytes" in capsys.readouterr().err


def test_a_command_passes_its_model_text_and_budget_on():
    parser = argparse.ArgumentParser()
    add_text_arguments(parser)
    for given in ([], ["--model", "m", "--corpus", "c", "--text", "a", "b"],
                  ["--text", "a", "--memory-budget", "2.5"]):  # fmt: skip
        args = parser.parse_args(given)
        assert text_arguments(args) == given
        assert parser.parse_args(text_arguments(args)) == args
