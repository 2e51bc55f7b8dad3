"""How a memory budget is spent where experts are read one by one.

Everything is counted in bytes of the whole process: the interpreter with its libraries, what the
largest pass needs beside weights, two layers' fixed parts, one expert in floats, read buffers; and
what is left keeps weights from pass to pass: fixed parts first, which every token needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grok.streaming.host_memory import (
    BLOCKS_OF_TABLE,
    HELD_LOGITS,
    PROCESS,
    ROWS_OF_TABLE,
    check_budget,
    usual_tokens,
)
from grok.streaming.read_ahead import BLOCK

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

LEAST_BUFFERS, MOST_BUFFERS = 3, 24
BUFFER_SHARE = 8  # at most this part of what is left goes to buffers
# Above this share of a layer's experts, as expected, all of them are read ahead.
NEARLY_ALL = 0.9


@dataclass(frozen=True)
class ExpertSizes:
    """What a budget is spent on. n_buffers: to read into; cache: bytes of weights that stay."""

    n_buffers: int
    cache: int


def fixed_bytes(architecture: Architecture) -> list[int]:
    """Bytes of each layer's parameters outside its experts, as stored."""
    layers = range(architecture.config.n_layers)
    return [
        sum(spec.n_bytes for spec in architecture.layer_specs(layer) if not spec.per_expert)
        for layer in layers
    ]


def weights_at_once(architecture: Architecture) -> int:
    """Bytes of what is in memory at once of a pass whose experts are not kept, as stored: two fixed
    parts and two experts, one that is computed with and one that is brought."""
    specs = architecture.layer_specs(architecture.config.moe_layers[0])
    experts = sum(spec.n_bytes for spec in specs if spec.per_expert)
    return 2 * max(fixed_bytes(architecture)) + 2 * experts // architecture.config.n_experts


def largest_piece(architecture: Architecture) -> int:
    """Bytes of the largest tensor, or slice of one expert, by what the model says of them."""
    return max(
        spec.n_bytes // (spec.shape[0] if spec.per_expert else len(spec.names))
        for layer in range(architecture.config.n_layers)
        for spec in architecture.layer_specs(layer)
    )


def _largest_matrix(architecture: Architecture) -> int:
    """Values of the largest matrix outside the experts, which one product may need as floats."""
    return max(
        spec.size
        for layer in range(architecture.config.n_layers)
        for spec in architecture.layer_specs(layer)
        if not spec.per_expert
    )


def working(
    architecture: Architecture, n_tokens: int, *, logits: bool = True, kept_bytes: int = 0
) -> int:
    """Bytes that `n_tokens` rows in one pass need beside buffers and kept experts, at their worst.

    In a layer: streams and their copies, attention scores, the widest hidden product, two fixed
    parts, the largest matrix and one expert in float32. After the last: logits in the activation
    dtype and in float32, the softmax of some, blocks of the table. The larger counts. With logits,
    keys and values of all layers are counted too; or `kept_bytes`, when that is more.
    """
    c = architecture.config
    specs = architecture.layer_specs(c.moe_layers[0])
    expert = sum(spec.size for spec in specs if spec.per_expert) // c.n_experts
    widest = max(spec.shape[-1] for spec in specs)
    attention = 4 * architecture.scores(n_tokens) * 4
    in_layer = n_tokens * (14 * c.d_model + 4 * widest) * 4 + attention
    in_layer += 2 * max(fixed_bytes(architecture)) + 4 * (_largest_matrix(architecture) + expert)
    n = min(n_tokens, max(1, HELD_LOGITS // c.vocab_size))
    blocks = (2 + BLOCKS_OF_TABLE) * ROWS_OF_TABLE * c.d_model * 4
    after = n_tokens * (4 * c.d_model * 4 + c.vocab_size * 8) + 4 * n * c.vocab_size * 4 + blocks
    if not logits:
        return int(in_layer + kept_bytes)
    kept = n_tokens * c.n_layers * architecture.cache_values() * 4
    return int(max(in_layer, after) + max(kept, kept_bytes))


def smallest_expert_budget(
    architecture: Architecture,
    piece_bytes: int,
    n_tokens: int | None = None,
    *,
    logits: bool = True,
    kept_bytes: int = 0,
) -> int:
    """The smallest budget in bytes with which `n_tokens` rows in one pass work.

    Args:
        architecture: the model.
        piece_bytes: of the largest tensor, or slice of one expert, that is read at once.
        n_tokens: 2,048 by default, or what the context holds; padding counts.
        logits: whether they are wanted, for all rows.
        kept_bytes: of what is kept until the pass is over.
    """
    n_tokens = usual_tokens(architecture.config) if n_tokens is None else n_tokens
    needed = working(architecture, n_tokens, logits=logits, kept_bytes=kept_bytes)
    return PROCESS + needed + LEAST_BUFFERS * (piece_bytes + 2 * BLOCK)


def expert_sizes(
    architecture: Architecture,
    budget: int,
    piece_bytes: int,
    n_tokens: int | None = None,
    *,
    logits: bool = True,
    kept_bytes: int = 0,
) -> ExpertSizes:
    """How a budget is spent; arguments as for `smallest_expert_budget`.

    Raises:
        DeviceError: it is too small; the smallest that works is named.
    """
    n_tokens = usual_tokens(architecture.config) if n_tokens is None else n_tokens
    least = smallest_expert_budget(
        architecture, piece_bytes, n_tokens, logits=logits, kept_bytes=kept_bytes
    )
    check_budget(budget, least, "experts", n_tokens)
    left = budget - least
    buffer = piece_bytes + 2 * BLOCK
    more = min(MOST_BUFFERS - LEAST_BUFFERS, left // BUFFER_SHARE // buffer)
    return ExpertSizes(LEAST_BUFFERS + more, left - more * buffer)


def most_expert_rows(
    architecture: Architecture,
    budget: int,
    piece_bytes: int,
    kept_bytes: int = 0,
    *,
    logits: bool = False,
) -> int:
    """Rows that a pass can have within a budget, of which each keeps so many bytes; 0 when not
    even one."""
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high + 1) // 2
        least = smallest_expert_budget(
            architecture, piece_bytes, middle, logits=logits, kept_bytes=middle * kept_bytes
        )
        low, high = (middle, high) if least <= budget else (low, middle - 1)
    return low
