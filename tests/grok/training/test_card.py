from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok.config import GrokConfig
from grok.errors import GrokError
from grok.training.card import PROMPTS, card_text, data_facts, model_facts, write_card
from grok.training.corpus import DOMAINS, Domain, EncodedDomain
from grok.training.evaluation import Measurement, evaluation_summary, heldout_windows

CONFIG = GrokConfig(
    vocab_size=60,
    d_model=16,
    n_layers=3,
    n_heads=2,
    n_kv_heads=1,
    d_head=8,
    widening=4,
    n_experts=4,
    top_k=2,
    context_length=32,
    embedding_multiplier=4.0,
    output_multiplier=0.5,
    attention_multiplier=0.35,
)


@pytest.fixture
def results() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = ("english_prose", "python")
    domains = {
        name: Domain(name, "train\n" * 50, "text\n" * 20, f"source|of {name}") for name in names
    }
    encoded = {
        name: EncodedDomain(
            rng.integers(1, 60, 300).astype(np.int32), rng.integers(1, 60, 90).astype(np.int32)
        )
        for name in names
    }
    windows = heldout_windows(encoded, 16)
    shape = windows.inputs.shape
    experts = rng.integers(4, size=(3, *shape, 2)).astype(np.int16)
    measured = {
        "float": Measurement(rng.uniform(2, 3, shape), experts),
        "int8": Measurement(rng.uniform(2, 3, shape), experts),
    }
    return {
        "model": model_facts(CONFIG, checkpoint_bytes=123_456, sha256="ab" * 32),
        "data": data_facts(domains, encoded, {"english_prose": 0.75, "python": 0.25}),
        "training": {"steps": np.int64(1234), "learning_rate": 0.003, "device": "two CPU cores"},
        "evaluation": evaluation_summary(measured, encoded, windows, np.ones(60, int), 4, draws=20),
        "samples": [
            {"domain": "python", "prompt": "def f(", "continuation": "x):\n    ```", "seed": 7}
        ],
    }


def test_the_card_holds_the_measured_numbers_in_every_section(
    results: dict[str, Any], tmp_path: Path
) -> None:
    readme, record = write_card(results, tmp_path / "demo")
    text = readme.read_text(encoding="utf-8")
    evaluation = results["evaluation"]
    for name in ("float", "int8", "unigram", "unigram_of_domain"):
        loss = evaluation["loss"][name]
        for entry in (loss["overall"], *loss["domains"].values()):
            assert f"{entry['nats_per_token']:.3f}" in text
            assert f"{entry['bits_per_byte']:.3f}" in text
    for row in evaluation["expert_load"]["share"]:
        assert f"{min(row):.1%} (E{np.argmin(row)})" in text
        assert f"{max(row):.1%} (E{np.argmax(row)})" in text
    for found in (
        evaluation["domain_information"]["assignments"],
        evaluation["domain_information"]["first_choice"],
    ):
        for layer in range(3):
            assert f"{found['nats'][layer]:.3f}" in text
            assert f"{found['null_mean'][layer]:.3f} [{found['null_low'][layer]:.3f}" in text
    assert "1,234" in text and "two CPU cores" in text and "123,456" in text
    assert f"{CONFIG.n_parameters():,}" in text
    assert "python -m grok.train --corpus DIR --output DIR" in text
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["README.md", "card.json"]


def test_no_measured_number_in_the_text_is_written_by_hand(results: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(results, default=lambda value: value.tolist()))
    before = set(re.findall(r"\d+\.\d+", card_text(changed)))

    def shift(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shift(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [shift(entry) for entry in value]
        return value + 100.5 if isinstance(value, float) else value

    after = set(re.findall(r"\d+\.\d+", card_text(shift(changed))))
    # Only the even load, 1 / E, and the licence's version do not come from a measured float.
    assert before & after == {"25.0", "2.0"}


def test_the_record_is_the_results_unrounded(results: dict[str, Any], tmp_path: Path) -> None:
    record = write_card(results, tmp_path)[1]
    stored = json.loads(record.read_text(encoding="utf-8"))
    assert stored["evaluation"] == results["evaluation"]
    assert stored["training"]["steps"] == 1234
    assert card_text(stored) == (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_missing_entry_is_named_and_nothing_is_written(
    results: dict[str, Any], tmp_path: Path
) -> None:
    broken = copy.deepcopy(results)
    del broken["evaluation"]["loss"]["int8"]["overall"]
    del broken["samples"]
    with pytest.raises(
        GrokError, match=r"lack evaluation\.loss\.int8\.overall\.nats_per_token.*samples"
    ):
        write_card(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_not_finite_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    results["training"]["final_loss"] = float("nan")
    with pytest.raises(GrokError, match="not finite"):
        write_card(results, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_continuation_with_backticks_cannot_break_out_of_its_block(
    results: dict[str, Any],
) -> None:
    text = card_text(results)
    assert "\n````text\ndef f(▸x):\n    ```\n````" in text
    assert "**python**, seed 7" in text


def test_a_bar_in_a_source_does_not_split_a_table_cell(results: dict[str, Any]) -> None:
    row = next(line for line in card_text(results).splitlines() if "of english_prose" in line)
    assert "source\\|of english_prose" in row
    assert len(re.split(r"(?<!\\)\|", row)) == 8


def test_the_ten_prompts_cover_every_domain() -> None:
    assert len(PROMPTS) == len(set(PROMPTS)) == 10
    assert {domain for domain, _ in PROMPTS} == set(DOMAINS)
