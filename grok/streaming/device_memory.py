"""How many layers stay on devices that cannot hold them all.

Counted in bytes of the devices together; what a pass needs beside layers is an estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grok.errors import DeviceError

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

ON_DEVICES = 2  # layers on their way: one in use, one arriving
SCALE_GROUPS = 8  # at most, of a released matrix


def layer_bytes(architecture: Architecture) -> int:
    """Bytes of one layer on the devices: as released, with room for scales in bfloat16."""
    specs = architecture.layer_specs(architecture.config.moe_layers[0])
    scales = [2 * SCALE_GROUPS * spec.size // spec.shape[-2] for spec in specs if spec.quantizable]
    return sum(spec.n_bytes for spec in specs) + sum(scales)


def other_bytes(architecture: Architecture, n_tokens: int) -> int:
    """Bytes beside the layers for passes of `n_tokens` rows, an estimate on the safe side.

    The embedding; keys and values of all layers; streams and hidden values of the rows; logits
    with their softmax; attention scores; and one expert's matrices as floats, which is what the
    program may hold of them if the compiler does not fuse the product with the scaling.
    """
    config = architecture.config
    d, f, v = config.d_model, config.d_ff, config.vocab_size
    table = 4 * v * d
    caches = 2 * config.n_layers * n_tokens * architecture.cache_values()
    rows = n_tokens * (16 * d + 3 * f) * 4 * 2
    logits = 3 * 4 * n_tokens * v
    scores = 3 * 4 * architecture.scores(n_tokens)
    floats = 3 * 4 * d * f
    return table + caches + rows + max(logits, scores) + floats


def fit(architecture: Architecture, device_bytes: int, n_tokens: int = 2048) -> int:
    """Layers that can stay on devices with `device_bytes` together; all, or those that leave
    room for two on their way.

    Raises:
        DeviceError: not even two layers on their way have room, with the smallest that works.
    """
    n_layers = architecture.config.n_layers
    one, other = layer_bytes(architecture), other_bytes(architecture, n_tokens)
    if other + n_layers * one <= device_bytes:
        return n_layers
    stay = (device_bytes - other) // one - ON_DEVICES
    if stay < 0:
        raise DeviceError(
            f"The devices have {device_bytes / 1e9:,.1f} GB together. To take layers of "
            f"{one / 1e9:,.1f} GB through them with {n_tokens:,} tokens they need "
            f"{(other + ON_DEVICES * one) / 1e9:,.1f} GB. Use shorter prompts, or stream through "
            "the machine's own memory."
        )
    return min(stay, n_layers - 1)


def passing(n_layers: int, stay: int) -> list[int]:
    """The layers that do not stay, spread evenly; what can be read first comes last."""
    n = n_layers - stay
    return [i for i in range(n_layers) if (i + 1) * n // n_layers > i * n // n_layers]
