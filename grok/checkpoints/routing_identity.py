"""The hash that says two models, or a model and a routers `.npz`, route by the same numbers."""

from __future__ import annotations

import hashlib

import numpy as np

from grok.checkpoints.grok1 import moe_norm_path, router_path
from grok.config import GrokConfig


def deciding_paths(config: GrokConfig) -> list[str]:
    """Paths of what decides the routing: routers and the norms before them."""
    layers = range(config.n_layers)
    return [path for i in layers for path in (router_path(i), moe_norm_path(i))]


def checkpoint_sha256(config: GrokConfig, routers: dict[str, np.ndarray]) -> str:
    layers = range(config.n_layers)
    return routers_sha256(
        np.stack([routers[router_path(i)] for i in layers]),
        np.stack([routers[moe_norm_path(i)] for i in layers]),
    )


def routers_sha256(routers: np.ndarray, norm_scales: np.ndarray | None) -> str:
    """Identity of a set of routers, the same as in a routers `.npz`.

    SHA-256 over "NAME|SHAPE|float32|" and the little-endian float32 values in C order, of
    `routers` [L, d_model, E] and then of `norm_scales` [L, d_model] when known.
    """
    digest = hashlib.sha256()
    for name, array in (("routers", routers), ("norm_scales", norm_scales)):
        if array is not None:
            values = np.ascontiguousarray(array, "<f4")
            digest.update(f"{name}|{','.join(map(str, values.shape))}|float32|".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()
