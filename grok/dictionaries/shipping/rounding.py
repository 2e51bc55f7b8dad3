"""What it costs to store a dictionary in half the bytes.

Axes: M sites written, B tokens, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from grok.dictionaries.evaluation.sums import Reconstruction
from grok.dictionaries.evaluation.tokens import parts, spread
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.windows import Windows

if TYPE_CHECKING:
    from grok.runner.model import Model

BATCH = 2048


def rounding(
    model: Model, before: Dictionary, after: Dictionary, held_out: Windows, tokens: int
) -> dict[str, Any]:
    """Both on the same tokens.

    Returns:
        `fvu_before` and `fvu_after` by site and of all; `same_active`: of what is active in one of
        them, the share that is active in both.
    """
    places = spread(held_out, tokens, 0)
    sums: list[Reconstruction] = []
    both = either = 0
    for part in parts(model, before.design, held_out, places, BATCH):
        y = np.asarray(part.batch.y)
        if not sums:
            sums = [Reconstruction(y.astype(np.float64).mean(1)) for _ in range(2)]
        found = [
            jax.device_get(apply(own, part.batch.x, part.batch.chosen)) for own in (before, after)
        ]
        for own, one in zip(sums, found, strict=True):
            own.add(y, one.written)
        for a, b in zip(found[0].features, found[1].features, strict=True):
            both += int(((a > 0) & (b > 0)).sum())
            either += int(((a > 0) | (b > 0)).sum())
    numbers = [own.numbers()["fvu"] for own in sums]
    return {
        "tokens": len(places.window),
        "fvu_before": numbers[0],
        "fvu_after": numbers[1],
        "same_active": both / max(either, 1),
    }
