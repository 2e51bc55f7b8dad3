"""Controls that several modes of the live page share."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamlit.delta_generator import DeltaGenerator

from lens.words import fixed, percent
from pages.live.session.shared_models import ModelChoice
from pages.shell import links


def model_labels(choice: ModelChoice) -> list[str]:
    """Names of the layers with experts of the model that runs prompts."""
    return [f"L{layer}" for layer in choice.config.moe_layers]


def dtype_choice() -> str:
    """The dtype of activations."""
    return links.choice(
        "numbers",
        "Numbers",
        ["bfloat16", "float32"],
        "bfloat16",
        help="bfloat16 as Grok-1 runs; with float32 an effect of rounding is smaller.",
        width=160,
    )


def teller(bar: DeltaGenerator) -> Callable[[int, int], None]:
    """A function that shows progress with the time left, a few times a second."""
    started = time.perf_counter()
    last = [0.0]

    def tell(done: int, total: int) -> None:
        now = time.perf_counter()
        if now - last[0] < 0.15 and done < total:
            return
        last[0] = now
        left = (now - started) * (total - done) / max(done, 1)
        bar.progress(done / total, f"{percent(done / total)}, about {fixed(left, 0)}\u00a0s left")

    return tell
