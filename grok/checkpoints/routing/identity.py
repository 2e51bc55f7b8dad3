"""The hash that says two models, or a model and a routers `.npz`, route by the same numbers."""

from __future__ import annotations

import hashlib

import numpy as np


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
