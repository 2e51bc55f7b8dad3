"""How a memory budget is spent on a streamed pass.

Everything is counted in bytes of the whole process: the interpreter with its libraries, what the
largest pass needs beside weights, one layer's small weights, and read buffers with what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grok.architectures.grok1 import query_rows
from grok.checkpoints.grok1 import MATRICES, expected_shape, layer_path
from grok.config import GrokConfig
from grok.errors import DeviceError
from grok.streaming.read_ahead import BLOCK

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


def small_bytes(config: GrokConfig) -> int:
    """Bytes of a layer's weights outside its experts, of the largest of them."""
    return max(_leaf_bytes(config, leaf) for leaf in MATRICES if not leaf.startswith("moe/"))


def _leaf_bytes(config: GrokConfig, leaf: str) -> int:
    shape = expected_shape(config, layer_path(0, leaf))
    return int(shape[0] * shape[1] + 8 * 4 * shape[1] + 2**16)  # int8, at most 8 groups of scales


def working_bytes(
    config: GrokConfig, n_tokens: int, *, logits: bool = True, kept_bytes: int = 0
) -> int:
    """Bytes that `n_tokens` rows in one pass need beside weights and buffers, at their worst.

    In a layer: streams and their copies, attention, and both hidden products of one expert that
    all rows chose. After the last layer, where `logits` are wanted: those in the activation dtype
    and in float32, and the softmax of some of them. The larger of the two counts. With logits,
    keys and values of all layers are counted too, for tokens that may be generated; or
    `kept_bytes`, when that is more.
    """
    d, v = config.d_model, config.vocab_size
    attention = _attention_bytes(config, n_tokens)
    small = 4 * sum(_leaf_bytes(config, leaf) for leaf in MATRICES if not leaf.startswith("moe/"))
    in_layer = n_tokens * (12 * d * 4 + 2 * config.d_ff * 4 + d * 4) + attention + small
    n = min(n_tokens, max(1, HELD_LOGITS // v))
    blocks = (2 + BLOCKS_OF_TABLE) * ROWS_OF_TABLE * d * 4
    after = n_tokens * (4 * d * 4 + v * (4 + 4)) + 4 * n * v * 4 + blocks
    scales = 3 * config.n_experts * 8 * max(d, config.d_ff) * 4
    if not logits:
        return int(in_layer + scales + kept_bytes)
    kept = n_tokens * config.n_layers * 2 * config.n_kv_heads * config.d_head * 4
    return int(max(in_layer, after) + scales + max(kept, kept_bytes))


def _attention_bytes(config: GrokConfig, n_tokens: int) -> int:
    rows = query_rows(1, n_tokens, n_tokens, config.n_heads)
    return 4 * config.n_heads * rows * n_tokens * 4


def usual_tokens(config: GrokConfig) -> int:
    """Tokens that a budget has to allow for where no number is given."""
    return min(USUAL_TOKENS, config.context_length)


def smallest_budget(
    config: GrokConfig,
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
    n_tokens = usual_tokens(config) if n_tokens is None else n_tokens
    piece = least_piece(config)
    working = working_bytes(config, n_tokens, logits=logits, kept_bytes=kept_bytes)
    return PROCESS + working + LEAST_BUFFERS * (piece + 2 * BLOCK)


def least_piece(config: GrokConfig) -> int:
    """The smallest size of a buffer: the largest single tensor that is not cut, or a row."""
    return max(small_bytes(config), 4 * config.d_ff, 4 * config.d_model)


def sizes(
    config: GrokConfig,
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
    n_tokens = usual_tokens(config) if n_tokens is None else n_tokens
    least = smallest_budget(config, n_tokens, logits=logits, kept_bytes=kept_bytes)
    if budget < least:
        enough = math.ceil(least / 1e7) / 100  # GB; rounded down it would be refused again
        raise DeviceError(
            f"A memory budget of {budget / 1e9:.2f} GB is too small to stream this model's layers "
            f"for {n_tokens:,} tokens; the smallest that works is {enough:.2f} GB "
            f"({least:,} bytes). Raise the memory budget, or run fewer tokens at once."
        )
    working = working_bytes(config, n_tokens, logits=logits, kept_bytes=kept_bytes)
    left = budget - PROCESS - working
    whole = config.n_experts * 3 * config.d_model * config.d_ff  # no use for more than a layer
    piece = max(least_piece(config), min(PIECE_BYTES, left // 8))
    buffers = min(MOST_BUFFERS, left // (piece + 2 * BLOCK), max(LEAST_BUFFERS, -(-whole // piece)))
    return Sizes(int(piece), int(max(LEAST_BUFFERS, buffers)), working)


def most_tokens(config: GrokConfig, budget: int, *, logits: bool = True) -> int:
    """The most rows that a pass within the budget can have; 0 when not even one."""
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high + 1) // 2
        if smallest_budget(config, middle, logits=logits) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
