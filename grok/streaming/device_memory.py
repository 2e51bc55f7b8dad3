"""How many layers stay on devices that cannot hold them all.

Counted in bytes of the devices together; what a pass needs beside layers is an estimate.
"""

from __future__ import annotations

import numpy as np

from grok.architectures.grok1 import query_rows
from grok.checkpoints.grok1 import expected_shape, is_matrix, layer_path, tensor_paths
from grok.config import GrokConfig
from grok.errors import DeviceError

ON_DEVICES = 2  # layers on their way: one in use, one arriving
SCALE_GROUPS = 8  # at most, of a released matrix
LEAVES = [path.split("/", 2)[2] for path in tensor_paths(1) if path.startswith("transformer/")]


def layer_bytes(config: GrokConfig) -> int:
    """Bytes of one layer on the devices: int8 values with bfloat16 scales, float32 vectors."""
    total = 0
    for leaf in LEAVES:
        path = layer_path(0, leaf)
        shape = expected_shape(config, path)
        n = int(np.prod(shape, dtype=np.int64))
        scales = 2 * SCALE_GROUPS * n // shape[-2] if is_matrix(path) else 0
        total += n + scales if is_matrix(path) else 4 * n
    return total


def other_bytes(config: GrokConfig, n_tokens: int) -> int:
    """Bytes beside the layers for passes of `n_tokens` rows, an estimate on the safe side.

    The embedding; keys and values of all layers; streams and hidden values of the rows; logits
    with their softmax; attention scores; and one expert's matrices as floats, which is what the
    program may hold of them if the compiler does not fuse the product with the scaling.
    """
    d, f, v = config.d_model, config.d_ff, config.vocab_size
    table = 4 * v * d
    caches = 2 * 2 * config.n_layers * n_tokens * config.n_kv_heads * config.d_head
    rows = n_tokens * (16 * d + 3 * f) * 4 * 2
    logits = 3 * 4 * n_tokens * v
    scores = 3 * 4 * config.n_heads * n_tokens * query_rows(1, n_tokens, n_tokens, config.n_heads)
    floats = 3 * 4 * d * f
    return table + caches + rows + max(logits, scores) + floats


def fit(config: GrokConfig, device_bytes: int, n_tokens: int = 2048) -> int:
    """Layers that can stay on devices with `device_bytes` together; all, or those that leave
    room for two on their way.

    Raises:
        DeviceError: not even two layers on their way have room, with the smallest that works.
    """
    one, other = layer_bytes(config), other_bytes(config, n_tokens)
    if other + config.n_layers * one <= device_bytes:
        return config.n_layers
    stay = (device_bytes - other) // one - ON_DEVICES
    if stay < 0:
        raise DeviceError(
            f"The devices have {device_bytes / 1e9:,.1f} GB together. To take layers of "
            f"{one / 1e9:,.1f} GB through them with {n_tokens:,} tokens they need "
            f"{(other + ON_DEVICES * one) / 1e9:,.1f} GB. Use shorter prompts, or stream through "
            "the machine's own memory."
        )
    return min(stay, config.n_layers - 1)


def passing(n_layers: int, stay: int) -> list[int]:
    """The layers that do not stay, spread evenly; what can be read first comes last."""
    n = n_layers - stay
    return [i for i in range(n_layers) if (i + 1) * n // n_layers > i * n // n_layers]
