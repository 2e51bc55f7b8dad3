"""The routing of one token sequence, and the `.npz` that the explorer opens. No JAX needed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grok.errors import GrokError
from grok.files import write_whole

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """The routing of one token sequence.

    Axes: L layers with experts, T tokens, E experts, K experts a token, C candidates.

    Attributes:
        tokens: ids [T] int32; the first `prompt_length` are the prompt, the rest was generated.
        pieces: text pieces [T].
        prompt_length: tokens of the prompt.
        router_logits: [L, T, E] float32.
        router_probs: softmax over all experts, or sigmoid of each [L, T, E] float32.
        experts: chosen experts [L, T, K] int32, the first choice first.
        gates: their weights as applied [L, T, K] float32; of Grok-1 their probabilities, not
            renormalised.
        candidates: most probable next tokens after each token [T, C] int32.
        candidate_probs: their probabilities [T, C] float32.
        candidate_pieces: their pieces [T, C].
        model_sha256: hash over the routers (and pre-MoE norms) that decided.
        settings: of the run: dtype, temperature, seed and so on.
        layer_ids: numbers of the layers with experts [L] int32; None: 0, 1, …
        score: what router_probs are, "softmax" or "sigmoid".
        plain_gates: whether gates are router_probs of the chosen, and nothing else.
        choice_values: what the largest were taken of [L, T, E] float32; None: router_probs.
        beside_shared: of layers with an expert that every token passes through, the lengths of what
            the chosen experts and that one add, and the cosine between them [L, T, 3] float32.
    """

    tokens: np.ndarray
    pieces: np.ndarray
    prompt_length: int
    router_logits: np.ndarray
    router_probs: np.ndarray
    experts: np.ndarray
    gates: np.ndarray
    candidates: np.ndarray
    candidate_probs: np.ndarray
    candidate_pieces: np.ndarray
    model_sha256: str
    settings: dict[str, Any] = field(default_factory=dict)
    layer_ids: np.ndarray | None = None
    score: str = "softmax"
    plain_gates: bool = True
    choice_values: np.ndarray | None = None
    beside_shared: np.ndarray | None = None

    @property
    def layers(self) -> np.ndarray:
        """The model's numbers of the layers with experts [L], of which the arrays are."""
        return np.arange(len(self.experts)) if self.layer_ids is None else self.layer_ids

    def arrays(self) -> dict[str, np.ndarray]:
        """The entries of the `.npz`, none of them an object array."""
        return {
            "format_version": np.array(FORMAT_VERSION, np.int32),
            "tokens": self.tokens.astype(np.int32),
            "pieces": self.pieces.astype(np.str_),
            "prompt_length": np.array(self.prompt_length, np.int32),
            "router_logits": self.router_logits.astype(np.float32),
            "router_probs": self.router_probs.astype(np.float32),
            "experts": self.experts.astype(np.int32),
            "gates": self.gates.astype(np.float32),
            "candidates": self.candidates.astype(np.int32),
            "candidate_probs": self.candidate_probs.astype(np.float32),
            "candidate_pieces": self.candidate_pieces.astype(np.str_),
            "model_sha256": np.array(self.model_sha256),
            "settings": np.array(json.dumps(self.settings, sort_keys=True)),
            **self._of_family(),
        }

    def _of_family(self) -> dict[str, np.ndarray]:
        """The entries that a file has only where the model's family is not as Grok-1."""
        found: dict[str, np.ndarray] = {}
        if self.layer_ids is not None:
            found["layer_ids"] = self.layer_ids.astype(np.int32)
        if self.score != "softmax":
            found["score"] = np.array(self.score)
        if not self.plain_gates:
            found["plain_gates"] = np.array(0, np.int32)
        if self.choice_values is not None:
            found["choice_values"] = self.choice_values.astype(np.float32)
        if self.beside_shared is not None:
            found["beside_shared"] = self.beside_shared.astype(np.float32)
        return found

    def save(self, file: str | Path) -> None:
        """Writes the trace, whole or not at all.

        Raises:
            GrokError: the folder does not exist or cannot be written.
        """
        file = Path(file)
        if not file.parent.is_dir() or file.is_dir():
            raise GrokError(f"{file}: not a file in an existing folder; the trace was not saved.")
        try:
            arrays: Any = self.arrays()
            write_whole(file, lambda stream: np.savez_compressed(stream, **arrays))
        except OSError as error:
            raise GrokError(f"{file}: the trace was not saved ({error.strerror}).") from error
