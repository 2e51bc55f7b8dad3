"""The live page on a folder of another family: dense layers, sigmoid scores, a tokenizer.json."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
MODES = {
    "inspect": {"example": "two_languages"},
    "generate": {"mode": "generate", "example": "arithmetic", "new_tokens": "3"},
    "what_if": {"mode": "what_if", "question": "one", "example": "german", "layer": "1"},
}

# What stands on the page when a run is shown.
SHOWN = {"inspect": "of the tokens", "generate": "tokens generated after", "what_if": "L1·E"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models with a tokenizer that fits their vocabulary."""
    made = {}
    for name in ("qwen3_moe", "qwen2_moe"):
        made[name] = tmp_path_factory.mktemp("families") / name
        shutil.copytree(DATA / "huggingface" / name, made[name])
    return made


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_on_a_folder_of_another_family(open_page, monkeypatch, folders, mode):
    monkeypatch.setenv("GROK_LENS_CHECKPOINT", str(folders["qwen3_moe"]))
    app = open_page("live_routing", **MODES[mode])
    assert not app.exception
    assert not app.error
    text = " ".join(one.value for one in [*app.subheader, *app.markdown])
    assert SHOWN[mode] in text
