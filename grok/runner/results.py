"""Results of generating: a step for each token, and the whole continuation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from grok.engine.compiled import Forward
from grok.trace import RoutingTrace


class Step(NamedTuple):
    """One generated token, and the routing of the tokens that were read to choose it.

    Attributes:
        token: the id.
        piece: its piece.
        read: the tokens read in this step [T]: the prompt at first, then one.
        routing: their routing, batch axis of 1.
    """

    token: int
    piece: str
    read: np.ndarray
    routing: Forward


@dataclass(frozen=True)
class Generation:
    """A continuation.

    Attributes:
        new_tokens: generated ids, the end-of-sequence token included when it came.
        text: their text; ids separated by spaces when there is no tokenizer.
        trace: routing of the prompt and of all generated tokens but the last, which the
            model never read.
    """

    new_tokens: list[int]
    text: str
    trace: RoutingTrace
