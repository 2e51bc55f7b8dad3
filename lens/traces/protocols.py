"""The routing of a text, whether it was made by the runner or loaded from a file."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class RoutedTokens(Protocol):
    """What the statistics in `lens.traces.routing` read; the runner's traces have it too."""

    @property
    def router_logits(self) -> np.ndarray: ...
    @property
    def router_probs(self) -> np.ndarray: ...
    @property
    def experts(self) -> np.ndarray: ...
    @property
    def gates(self) -> np.ndarray: ...
    @property
    def choice_values(self) -> np.ndarray | None: ...


class RoutedLayers(Protocol):
    """Something that is known layer by layer."""

    @property
    def experts(self) -> np.ndarray: ...
    @property
    def layer_ids(self) -> np.ndarray | None: ...


def layer_numbers(trace: RoutedLayers) -> np.ndarray:
    """The model's own numbers of the layers of a trace."""
    return np.arange(len(trace.experts)) if trace.layer_ids is None else trace.layer_ids


class RoutedText(RoutedTokens, Protocol):
    """A text with its routing: a `Trace`, or a trace that the runner has just made."""

    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def pieces(self) -> np.ndarray: ...
    @property
    def prompt_length(self) -> int: ...
    @property
    def candidates(self) -> np.ndarray: ...
    @property
    def candidate_probs(self) -> np.ndarray: ...
    @property
    def candidate_pieces(self) -> np.ndarray | None: ...
    @property
    def model_sha256(self) -> str: ...
    @property
    def layer_ids(self) -> np.ndarray | None: ...
    @property
    def score(self) -> str: ...
    @property
    def plain_gates(self) -> bool: ...
    @property
    def beside_shared(self) -> np.ndarray | None: ...
    @property
    def settings(self) -> dict[str, Any]: ...
