"""A small dictionary of a small model, and the database of its features."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from grok.dictionaries.indexing.plan import Plan, Text, text_of
from grok.dictionaries.indexing.run import Indexing, index
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.dictionaries.kinds.files import save_dictionary, tensors_sha256
from grok.runner import loading

DATA = Path(__file__).resolve().parent / "data"
FEATURES = 16
PLAN = {
    "tokens": 400, "context": 16, "part": 32, "sample": 10_000, "top": 4, "reservoir": 3,
    "shown_top": 3, "shown_band": 1, "judged": 8, "before": 4, "after": 3, "routes": 2,
    "column": 3, "logits": 3, "neighbours": 3, "map": "pca",
}  # fmt: skip


@cache
def small_model() -> loading.Model:
    return loading.load(DATA / "tiny3", dtype="float32", mesh=(1, 1))


def small_dictionary(sha256: str, d_model: int) -> Dictionary:
    """A transcoder whose features are random directions; feature 0 is never active."""
    rng = np.random.default_rng(3)
    design = Design("transcoder", (0, 1, 2), ("router.input",), ("moe.normed",), FEATURES, d_model)
    thresholds = np.full((3, FEATURES), 1.0)
    thresholds[:, 0] = 1e9
    params = {
        "encoder": [rng.standard_normal((1, d_model, FEATURES)) / d_model**0.5 for _ in range(3)],
        "encoder_bias": np.zeros((3, FEATURES)),
        "decoder": [rng.standard_normal((FEATURES, 1, d_model)) for _ in range(3)],
        "decoder_bias": np.zeros((3, d_model)),
        "threshold": thresholds,
    }
    facts = {"model_sha256": sha256, "first_position": {"skipped": 1}}
    return Dictionary(design, Activation("jumprelu"), as_float32(params), facts)


def small_text(plan: Plan) -> Text:
    """Two texts of random ids, among few; the first half of each is held out.

    They are as long as the plan reads.
    """
    rng, times = np.random.default_rng(5), plan.tokens // 400
    held_out, others = ({name: rng.integers(1, 40, n * times).astype(np.int32) for name in "ab"}
                        for n in (90, 150))  # fmt: skip
    return text_of(held_out, others, plan)


def small_pass(
    output: Path, facts: Any = None, *, sha256: str = "a" * 64, **changes: Any
) -> Indexing:
    model, plan = small_model(), Plan(**PLAN | changes)
    dictionary = small_dictionary(model.sha256, model.config.d_model)
    if facts is not None:
        dictionary = replace(dictionary, facts={**dictionary.facts, "first_position": facts})
    return Indexing(model, dictionary, sha256, small_text(plan), plan, output)


def small_database(folder: Path) -> Path:
    """A dictionary's folder with the database of its features in it, as a bundled one."""
    model = small_model()
    save_dictionary(folder, small_dictionary(model.sha256, model.config.d_model))
    index(small_pass(folder / "features", sha256=tensors_sha256(folder)))
    return folder
