"""How a memory budget is spent on a streamed pass.

Everything is counted in bytes of the whole process: the interpreter with its libraries, what the
largest pass needs beside weights, one layer's small weights, and read buffers with what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grok.checkpoints.tensor_spec import TensorSpec
from grok.config import ModelConfig
from grok.errors import DeviceError
from grok.streaming.read_ahead import BLOCK

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

DEFAULT_BUDGET = 8_000_000_000
# Python, JAX, numba and their threads, compiled programs included; measured at 0.8 GB.
PROCESS = 1_000_000_000
USUAL_TOKENS = 2048
MOST_BUFFERS = 128
LEAST_BUFFERS = 3
PIECE_BYTES = 64 * 2**20
# Logits [tokens, vocabulary] float32 that are looked at together.
HELD_LOGITS = 2**26
# Rows of the embedding that are read and multiplied together: few enough that what is computed of
# them takes memory that was used before. Above 32 MB every block takes new pages from the system.
ROWS_OF_TABLE = 1024
BLOCKS_OF_TABLE = 3


@dataclass(frozen=True)
class Sizes:
    """What a budget is spent on.

    Attributes:
        piece_bytes: the largest piece that is read at once.
        n_buffers: buffers of that size.
        working: bytes that the pass needs beside weights and buffers.
    """

    piece_bytes: int
    n_buffers: int
    working: int


def small_bytes(architecture: Architecture) -> int:
    """Bytes of a layer's weights outside its experts, of the largest of them."""
    return max(_held_bytes(spec) for spec in _small(architecture))


def _small(architecture: Architecture) -> list[TensorSpec]:
    """The matrices of a layer outside its experts."""
    specs = architecture.layer_specs(architecture.config.moe_layers[0])
    return [spec for spec in specs if not spec.per_expert and len(spec.shape) > 1]


def _held_bytes(spec: TensorSpec) -> int:
    scales = 8 * 4 * spec.shape[-1] if spec.quantizable else 0  # at most 8 groups of them
    return spec.n_bytes + scales + 2**16


def working_bytes(
    architecture: Architecture, n_tokens: int, *, logits: bool = True, kept_bytes: int = 0
) -> int:
    """Bytes that `n_tokens` rows in one pass need beside weights and buffers, at their worst.

    In a layer: streams and their copies, attention, and both hidden products of one expert that
    all rows chose. After the last layer, where `logits` are wanted: those in the activation dtype
    and in float32, and the softmax of some of them. The larger of the two counts. With logits,
    keys and values of all layers are counted too, for tokens that may be generated; or
    `kept_bytes`, when that is more.
    """
    config = architecture.config
    d, v = config.d_model, config.vocab_size
    attention = 4 * architecture.scores(n_tokens) * 4
    matrices = [
        spec
        for spec in _small(architecture)
        if spec.leaf != architecture.router_spec(architecture.config.moe_layers[0]).leaf
    ]
    small = 4 * sum(_held_bytes(spec) for spec in matrices)
    in_layer = n_tokens * (12 * d * 4 + 2 * config.d_ff * 4 + d * 4) + attention + small
    n = min(n_tokens, max(1, HELD_LOGITS // v))
    blocks = (2 + BLOCKS_OF_TABLE) * ROWS_OF_TABLE * d * 4
    after = n_tokens * (4 * d * 4 + v * (4 + 4)) + 4 * n * v * 4 + blocks
    scales = 3 * config.n_experts * 8 * max(d, config.d_ff) * 4
    if not logits:
        return int(in_layer + scales + kept_bytes)
    kept = n_tokens * config.n_layers * architecture.cache_values() * 4
    return int(max(in_layer, after) + scales + max(kept, kept_bytes))


def usual_tokens(config: ModelConfig) -> int:
    """Tokens that a budget has to allow for where no number is given."""
    return min(USUAL_TOKENS, config.context_length)


def smallest_budget(
    architecture: Architecture,
    n_tokens: int | None = None,
    *,
    logits: bool = True,
    kept_bytes: int = 0,
) -> int:
    """The smallest budget in bytes with which `n_tokens` rows in one pass work.

    Args:
        n_tokens: 2,048 by default, or what the context holds; padding counts.
        logits: whether they are wanted, for all rows.
        kept_bytes: of keys, values and other values that are kept until the pass is over.
    """
    n_tokens = usual_tokens(architecture.config) if n_tokens is None else n_tokens
    piece = least_piece(architecture)
    working = working_bytes(architecture, n_tokens, logits=logits, kept_bytes=kept_bytes)
    return PROCESS + working + LEAST_BUFFERS * (piece + 2 * BLOCK)


def least_piece(architecture: Architecture) -> int:
    """The smallest size of a buffer: the largest single tensor that is not cut, or a row."""
    config = architecture.config
    return max(small_bytes(architecture), 4 * config.d_ff, 4 * config.d_model)


def check_budget(budget: int, least: int, what: str, n_tokens: int) -> None:
    """Check that `what` of a model can be streamed for so many tokens with a budget.

    Raises:
        DeviceError: it is less than the least; the smallest that works is named.
    """
    if budget < least:
        enough = math.ceil(least / 1e7) / 100  # GB; rounded down it would be refused again
        raise DeviceError(
            f"A memory budget of {budget / 1e9:.2f} GB is too small to stream this model's {what} "
            f"for {n_tokens:,} tokens; the smallest that works is {enough:.2f} GB "
            f"({least:,} bytes). Raise the memory budget, or run fewer tokens at once."
        )


def sizes(
    architecture: Architecture,
    budget: int = DEFAULT_BUDGET,
    n_tokens: int | None = None,
    *,
    logits: bool = True,
    kept_bytes: int = 0,
) -> Sizes:
    """How a budget is spent; arguments as for `smallest_budget`.

    Raises:
        DeviceError: it is too small; the smallest that works is named.
    """
    n_tokens = usual_tokens(architecture.config) if n_tokens is None else n_tokens
    least = smallest_budget(architecture, n_tokens, logits=logits, kept_bytes=kept_bytes)
    check_budget(budget, least, "layers", n_tokens)
    working = working_bytes(architecture, n_tokens, logits=logits, kept_bytes=kept_bytes)
    left = budget - PROCESS - working
    specs = architecture.layer_specs(
        architecture.config.moe_layers[0]
    )  # no use for more than a layer
    whole = sum(spec.n_bytes for spec in specs if spec.per_expert)
    piece = max(least_piece(architecture), min(PIECE_BYTES, left // 8))
    buffers = min(MOST_BUFFERS, left // (piece + 2 * BLOCK), max(LEAST_BUFFERS, -(-whole // piece)))
    return Sizes(int(piece), int(max(LEAST_BUFFERS, buffers)), working)


def most_tokens(architecture: Architecture, budget: int, *, logits: bool = True) -> int:
    """The most rows that a pass within the budget can have; 0 when not even one."""
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high + 1) // 2
        if smallest_budget(architecture, middle, logits=logits) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
