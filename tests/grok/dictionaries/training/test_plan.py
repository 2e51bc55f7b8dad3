"""What a run will take is said before it starts, for sizes that nobody has too."""

from __future__ import annotations

import re

import jax
import pytest

from grok.config import GROK_1
from grok.dictionaries import train as command
from grok.dictionaries.kinds.parameters import shapes
from grok.dictionaries.training import plan
from grok.dictionaries.training.settings import settings_of
from grok.planning.machine import Rates
from tests.grok.dictionaries.training.test_settings import RECIPES


def test_a_plan_says_memory_and_time_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main([str(RECIPES / "clt.toml"), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "clt of 12 groups of 1,024 features, width 128: 11,810,304 parameters" in said
    assert "Adam" in said and "tokens/s at most" in said and "does not fit" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["transcoder", "clt"])
def test_a_plan_counts_what_there_is(kind):
    own = {"kind": kind, "reads": ["router.input"], "writes": ["moe.normed"], "features": 16384}
    settings = settings_of({"dictionary": own})
    design = settings.dictionary.design(GROK_1)
    found = shapes(design, settings.activation)
    assert sum(one.size for one in jax.tree.leaves(found)) == design.n_parameters
    parts = plan.memory(design, settings)
    assert parts["parameters"] == 4 * design.n_parameters
    if kind == "clt":  # Grok-1 whole, across all its layers: what nobody can hold
        assert design.n_parameters == pytest.approx(2.2e11, rel=0.03)
        assert sum(parts.values()) > 3e12
    split = plan.memory(design, settings, (2, 8))
    assert split["Adam"] == parts["Adam"] // 8
    assert split["features of tokens"] == parts["features of tokens"] // 16


GROK = """
[dictionary]
kind = "{kind}"
reads = ["router.input"]
writes = ["moe.normed"]
features = {features}
layers = {layers}
[text]
buffer = 8
"""


def planned(capsys, tmp_path, *options: str, **values: object) -> str:
    """What the command says of a run on Grok-1, of which nothing is here."""
    (tmp_path / "a.toml").write_text(GROK.format(**values))
    assert command.main([str(tmp_path / "a.toml"), "--model", "grok-1", "--plan", *options]) == 0
    return capsys.readouterr().out


def test_what_does_not_fit_is_said_and_what_would(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "product_rate", lambda *sizes: 1e12)
    said = planned(capsys, tmp_path, kind="clt", features=16384, layers=list(range(64)))
    assert "width 6,144: 215,823,548,416 parameters" in said
    assert "Adam                 1,727 GB  does not fit, even alone" in said
    assert "The largest part is Adam, which shrinks with features or layers" in said
    monkeypatch.setattr(plan, "unmeasured", lambda: Rates(None, None, None, 14 * 10**9, "", 0))
    said = planned(capsys, tmp_path, kind="transcoder", features=65536, layers=[20])
    assert "805,378,048 parameters" in said and "are read at least 611 times" in said
    fitting = int(re.search(r"With ([\d,]+) features", said).group(1).replace(",", ""))
    for features, fits in ((fitting, True), (fitting + 8, False)):
        own = planned(capsys, tmp_path, kind="transcoder", features=features, layers=[20])
        assert ("does not fit" not in own) == fits


def test_on_accelerators_each_device_and_the_machine_have_their_own(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "product_rate", lambda *sizes: 1e12)
    there = Rates(None, None, None, 64 * 10**9, "", 8 * 10**10, on_cpu=False, n_devices=8)
    monkeypatch.setattr(plan, "unmeasured", lambda: there)
    own = {"kind": "transcoder", "features": 65536, "layers": [20]}
    alone, together = (planned(capsys, tmp_path, *o, **own) for o in ((), ("--mesh", "2,4")))
    assert "Each of 1 devices, 10 GB free:" in alone and "It does not fit: 17 GB" in alone
    assert "Each of 8 devices, 10 GB free:" in together and "It does not fit" not in together
    assert "  parameters           0.8 GB" in together
