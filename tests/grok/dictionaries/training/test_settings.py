"""Settings of a run: what a file says is what is done, or an error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from grok.dictionaries.training.settings import load_settings, settings_of
from grok.errors import ConfigError, SiteError
from grok.train import SMALL

RECIPES = Path(__file__).resolve().parents[4] / "grok" / "dictionaries" / "recipes"
LEAST = {"kind": "sae", "reads": ["resid_mid"], "features": 64}


@pytest.mark.parametrize("name", ["sae", "transcoder", "clt"])
def test_the_recipes_of_the_bundled_model_fit_it(name):
    settings = load_settings(RECIPES / f"{name}.toml")
    design = settings.dictionary.design(SMALL)
    assert design.kind == name and len(design.groups) == SMALL.n_layers
    assert settings_of(settings.values()) == settings


WRONG = {
    r"Unknown part \[optimizer\]": {"dictionary": LEAST, "optimizer": {}},
    r"part \[dictionary\] is missing": {"training": {}},
    "dictionary: unknown key 'width'": {"dictionary": {**LEAST, "width": 3}},
    "dictionary.features is '64'; expected int": {"dictionary": {**LEAST, "features": "64"}},
    "dictionary.features is True": {"dictionary": {**LEAST, "features": True}},
    "dictionary.reads is 'resid_mid'; expected a list": {
        "dictionary": {**LEAST, "reads": "resid_mid"}
    },
    "dictionary is 3": {"dictionary": 3},
    "learning_rate is outside": {"dictionary": LEAST, "training": {"learning_rate": 0}},
    "learning_rate is inf": {"dictionary": LEAST, "training": {"learning_rate": float("inf")}},
    "tokens is outside": {"dictionary": LEAST, "training": {"tokens": 3}},
    "k 65 of 64": {"dictionary": LEAST, "activation": {"k": 65}},
    "penalty 'l0'": {"dictionary": LEAST, "loss": {"penalty": "l0"}},
    "step is for jumprelu": {"dictionary": LEAST, "loss": {"penalty": "step"}},
    "jumprelu needs a penalty": {"dictionary": LEAST, "activation": {"function": "jumprelu"}},
    "normalisation: 'unit'": {"dictionary": LEAST, "normalisation": {"reads": "unit"}},
    "missing 1 required": {"dictionary": {"kind": "sae", "features": 64}},
    "routing is for": {
        "dictionary": {**LEAST, "reads": ["resid_post"]},
        "loss": {"routing": 0.1},
    },
}


@pytest.mark.parametrize("said", WRONG)
def test_what_no_run_can_be_is_refused(said):
    with pytest.raises(ConfigError, match=said):
        settings_of(WRONG[said])


def test_layers_that_the_model_lacks_are_refused():
    settings = settings_of({"dictionary": {**LEAST, "layers": [3, 12]}})
    with pytest.raises(ConfigError, match="the model has layers 0 to 11"):
        settings.dictionary.design(SMALL)


def test_sites_of_experts_are_in_layers_that_have_some():
    model = SimpleNamespace(n_layers=4, moe_layers=(1, 2, 3), d_model=8, n_experts=2)
    own = {
        "kind": "transcoder",
        "reads": ["router.input"],
        "writes": ["moe.normed"],
        "features": 64,
    }
    assert settings_of({"dictionary": own}).dictionary.design(model).layers == (1, 2, 3)
    assert settings_of({"dictionary": LEAST}).dictionary.design(model).layers == (0, 1, 2, 3)
    settings = settings_of({"dictionary": {**own, "layers": [0, 1]}})
    with pytest.raises(SiteError, match="layer 0 of this model has no experts"):
        settings.dictionary.design(model)


def test_a_file_is_named_in_its_error(tmp_path):
    file = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=r"a\.toml: no settings"):
        load_settings(file)
    file.write_text("[dictionary]\nkind = ")
    with pytest.raises(ConfigError, match=r"a\.toml: no settings"):
        load_settings(file)
    file.write_text("[dictionary]\nkid = 1")
    with pytest.raises(ConfigError, match=r"a\.toml: dictionary: unknown key 'kid'"):
        load_settings(file)
