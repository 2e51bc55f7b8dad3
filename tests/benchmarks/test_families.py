"""The benchmark of other families: its checkpoints, its rows, and what is said without a peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import families
from benchmarks.families import COMMON, OLMOE, compared, make
from grok.architectures.architecture import all_specs
from grok.architectures.families import architecture_of, open_checkpoint
from grok.checkpoints.tensor_spec import read_parameter

pytestmark = pytest.mark.benchmarks

SMALL = {
    **OLMOE,
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "vocab_size": 99,
}
OURS = {
    "prompts": {"64": 3.0},
    "processor": {"64": 1.0},
    "token": 0.5,
    "peak": 3e9,
    "logits": {"64": [[1, 4.0], [2, 3.0]]},
    "layers": {"64": [[10**9, 1.0], [10**9, 1.5]]},
    "disk": 1e9,
    "hits": [3, 5],
    "token_read": 10**6,
}
THEIRS = OURS | {"prompts": {"64": 6.0}, "peak": 12e9, "token": 1.0, "version": "transformers 5"}


def test_a_checkpoint_is_whole_and_holds_what_its_config_says(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    n_bytes = make(folder, SMALL)
    checkpoint = open_checkpoint(folder)
    checkpoint.check_complete()
    architecture = architecture_of(checkpoint)
    specs = list(all_specs(architecture))
    assert n_bytes == 2 * sum(spec.size for spec in specs)
    assert all(read_parameter(checkpoint, spec).shape == spec.shape for spec in specs)
    norm = read_parameter(checkpoint, architecture.router_norm_spec(0))
    assert (np.asarray(norm) == 1).all()
    assert COMMON["torch_dtype"] == "bfloat16"


def rows_of(monkeypatch: pytest.MonkeyPatch, python: str, theirs: Any) -> dict[str, Any]:
    told = {"peer": theirs, "resident": OURS, "streamed": OURS}
    monkeypatch.setattr(families, "run", lambda python, mode, *_, **__: told[mode])
    return {row.name: row for row in compared(Path(), "float32", python, 2, 16, small=True)}


def test_ratios_and_whole_models_follow_from_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(monkeypatch, "python", THEIRS)
    assert rows["resident: 64 tokens, over transformers"].value == 0.5
    assert rows["resident: memory, over transformers"].value == 0.25
    assert rows["streamed: 64 tokens, layers over the disk's time"].value == 1.25
    assert rows["streamed: 64 tokens, processors busy over the disk's time"].value == 0.5
    whole = rows["streamed: 64 tokens through all 16 layers, by arithmetic"]
    assert whole.value == 16 * 1.25 + 0.5 and "16 × 1.25 s + 0.50 s" in whole.note
    assert rows["resident: 64 tokens, largest logits apart"].value == 0
    assert rows["streamed: last token read"].note == "3 experts were in memory, 5 were read"


def test_without_transformers_its_rows_are_skipped_and_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(monkeypatch, "", None)
    (peer,) = (row for name, row in rows.items() if "--peer" in name)
    assert peer.note == "skipped: no Python is named"
    assert not any("over transformers" in name for name in rows)
    rows = rows_of(monkeypatch, "python", "ModuleNotFoundError: No module named 'torch'")
    assert "skipped: ModuleNotFoundError" in next(iter(rows.values())).note
