"""What a pass goes over, and how much it keeps.

The text is cut into windows and the windows into parts of a fixed number of tokens, which are
read one after the other. All that is kept adds up, so parts may be read in any order, by several
processes, and again from where a pass was ended.

Axes: N windows, T tokens of a window. No JAX here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from grok.dictionaries.kinds.dictionary import CONTEXT
from grok.dictionaries.training.windows import cut, evenly
from grok.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """How much of the text is read, and how much is kept of it.

    Attributes:
        tokens: at most so many; the held-out ones first, the rest spread over the other text.
        context: tokens of a window.
        part: tokens that are read together.
        sample: tokens whose active features are all kept, for associations.
        top: strongest contexts of a feature that are kept, at most one a window.
        reservoir: contexts kept at random of each bin of the histogram.
        shown_top, shown_band: contexts that are written of the strongest, and of each quarter.
        judged: contexts for explanations: so many active ones and so many others.
        before, after: tokens of a context around the one that is marked.
        held_out_only: contexts come from held-out text alone.
        routes: cells (layer, expert) written of each feature, by push and by association.
        column: features written of each cell and of each next token, whatever else they do.
        logits: next tokens written of each feature, up and down.
        neighbours: features written that are alike, or active together.
        map: "umap", "pca" or "none".
        seed: of what is random.

    Raises:
        ConfigError: a value outside its range.
    """

    tokens: int = 300_000
    context: int = CONTEXT
    part: int = 1024
    sample: int = 65_536
    top: int = 32
    reservoir: int = 8
    shown_top: int = 8
    shown_band: int = 2
    judged: int = 40
    before: int = 15
    after: int = 8
    held_out_only: bool = True
    routes: int = 4
    column: int = 32
    logits: int = 6
    neighbours: int = 5
    map: str = "umap"
    seed: int = 0

    def __post_init__(self) -> None:
        small = [
            name
            for name, value in asdict(self).items()
            if isinstance(value, int) and value < (0 if name in _MAY_BE_NONE else 1)
        ]
        if small:
            raise ConfigError(f"plan: {small[0]} is {getattr(self, small[0])}; it is too small.")
        if self.part < self.context:
            raise ConfigError(
                f"plan: parts of {self.part} tokens hold no window of {self.context}."
            )
        if self.map not in ("umap", "pca", "none"):
            raise ConfigError(f"plan: map is {self.map!r:.20}; expected umap, pca or none.")


_MAY_BE_NONE = ("sample", "judged", "before", "after", "routes", "column", "seed", "held_out_only")


@dataclass(frozen=True)
class Text:
    """The windows that a pass goes over.

    Attributes:
        tokens: [T] of each window.
        labels: index into `names` of each window [N].
        names: of the texts.
        held_out: windows that the dictionary was not trained on [N].
    """

    tokens: tuple[np.ndarray, ...]
    labels: np.ndarray
    names: tuple[str, ...]
    held_out: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each window [N]."""
        return np.array([len(one) for one in self.tokens])

    def sha256(self, plan: Plan) -> str:
        """A hash over the windows and the plan."""
        digest = hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode())
        digest.update(json.dumps(self.names).encode())
        for one, label, held in zip(self.tokens, self.labels, self.held_out, strict=True):
            digest.update(f"|{len(one)}:{label}:{int(held)}|".encode())
            digest.update(np.ascontiguousarray(one, "<i4").tobytes())
        return digest.hexdigest()

    def parts(self, plan: Plan) -> list[list[int]]:
        """Consecutive windows in parts of at most so many tokens."""
        parts: list[list[int]] = [[]]
        size = 0
        for window, length in enumerate(self.lengths.tolist()):
            if parts[-1] and size + length > plan.part:
                parts.append([])
                size = 0
            parts[-1].append(window)
            size += length
        return parts

    def sampled(self, plan: Plan) -> frozenset[int]:
        """Parts whose active features are all kept, spread over the text."""
        return frozenset(evenly(len(self.parts(plan)), -(-plan.sample // plan.part)).tolist())


def text_of(
    held_out: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], plan: Plan
) -> Text:
    """Windows of held-out text, and of other text up to the plan's number of tokens.

    Args:
        held_out: streams of token ids by name, which the dictionary was not trained on.
        others: streams of the same names.
        plan: how much of both.

    Raises:
        GrokError: there is no token.
    """
    names = tuple(dict.fromkeys((*held_out, *others)))
    tokens: list[np.ndarray] = []
    labels: list[int] = []
    held: list[bool] = []
    left = plan.tokens
    for streams, own in ((held_out, True), (others, False)):
        if not streams or left < plan.context:
            continue
        windows = cut(streams, plan.context)
        for i in evenly(len(windows.tokens), max(1, left // plan.context)):
            tokens.append(windows.tokens[i])
            labels.append(names.index(windows.names[windows.labels[i]]))
            held.append(own)
            left -= len(windows.tokens[i])
    if not tokens:
        cut({}, plan.context)  # says that there is no token
    return Text(tuple(tokens), np.array(labels, np.int32), names, np.array(held, bool))
