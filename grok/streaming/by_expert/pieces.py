"""Where the bytes of a layer lie: of its fixed part, and of each of its experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_spec import TensorSpec, check_stored_shape
from grok.streaming.read_ahead import Piece


class Slice(NamedTuple):
    """The key of a piece: part `part` of a parameter; of one expert, or -1 for all of it."""

    layer: int
    expert: int
    leaf: str
    part: int


def layer_pieces(
    folder: SafetensorsFolder, layer: int, specs: Sequence[TensorSpec]
) -> dict[tuple[int, str], list[Piece]]:
    """Where the parts of a layer's parameters lie, by expert (-1: no expert's) and leaf."""
    found: dict[tuple[int, str], list[Piece]] = {}
    for spec in specs:
        for number, name in enumerate(spec.names):
            parts = folder.parts(name)
            check_stored_shape(folder, spec, name)
            if not spec.per_expert or len(spec.names) > 1:
                expert = number if spec.per_expert else -1
                found[expert, spec.leaf] = [
                    Piece(
                        part,
                        part.weight.offset,
                        part.weight.n_bytes,
                        Slice(layer, expert, spec.leaf, i),
                    )
                    for i, part in enumerate(parts)
                ]
                continue
            for expert in range(spec.shape[0]):
                found[expert, spec.leaf] = [
                    Piece(
                        part,
                        part.weight.offset + expert * (part.weight.n_bytes // spec.shape[0]),
                        part.weight.n_bytes // spec.shape[0],
                        Slice(layer, expert, spec.leaf, i),
                    )
                    for i, part in enumerate(parts)
                ]
    return found
