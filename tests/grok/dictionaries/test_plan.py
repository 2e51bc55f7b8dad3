"""What a run will take is said before it starts, for sizes that nobody has too."""

from __future__ import annotations

import jax
import pytest

from grok.config import GROK_1
from grok.dictionaries import train as command
from grok.dictionaries.kinds.parameters import shapes
from grok.dictionaries.training import plan
from grok.dictionaries.training.settings import settings_of
from tests.grok.dictionaries.test_settings import RECIPES


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


def test_what_does_not_fit_is_said(monkeypatch):
    settings = settings_of({"dictionary": {"kind": "sae", "reads": ["resid_mid"], "features": 64}})
    monkeypatch.setattr(plan, "memory", lambda *a: {"parameters": 10**16})
    assert "It does not fit" in plan.plan_text(settings, None)
