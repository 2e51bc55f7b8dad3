"""Read-outs of a vocabulary on disk, so that an embedding of gigabytes is read once."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from lens.errors import LensError
from lens.routers.router_set import RouterSet
from lens.storage.disk_cache import DiskCache, content_key
from lens.vocabulary.readout import (
    EmbeddingRows,
    Progress,
    Readout,
    ReadoutSettings,
    new_digest,
    vocabulary_readout,
)

KIND = "readout"
FORMAT_VERSION = 2
_COUNTS = ("frames", "silent", "n_tokens", "d_model", "top_k")


def kept_readout(
    routers: RouterSet,
    embedding: EmbeddingRows,
    identity: object,
    settings: ReadoutSettings,
    cache: DiskCache,
) -> Readout | None:
    """The read-out computed before, without reading the embedding; None if there is none.

    Args:
        identity: of the embedding's file: what tells that it is still the same one.
    """
    sha256 = cache.known_sha256(identity)
    if sha256 is None:
        return None
    key = _key(routers, embedding, sha256, settings)
    arrays = cache.get(KIND, key)
    if arrays is None:
        return None
    try:
        return _from_arrays(arrays, routers, embedding, settings)
    except LensError:
        cache.drop(KIND, key)
        return None


def stored_readout(
    routers: RouterSet,
    embedding: EmbeddingRows,
    identity: object,
    settings: ReadoutSettings | None = None,
    *,
    cache: DiskCache,
    progress: Progress | None = None,
) -> Readout:
    """`vocabulary_readout`, from disk if it was computed before, and kept there if not.

    Raises:
        LensError: as `vocabulary_readout`.
    """
    settings = settings or ReadoutSettings()
    kept = kept_readout(routers, embedding, identity, settings, cache)
    if kept is not None:
        return kept
    sha256 = cache.known_sha256(identity)
    digest = new_digest(embedding) if sha256 is None else None
    readout = vocabulary_readout(routers, embedding, settings, progress=progress, digest=digest)
    if digest is not None:
        sha256 = digest.hexdigest()
    assert sha256 is not None
    if cache.put(KIND, _key(routers, embedding, sha256, settings), _arrays(readout)):
        cache.note_sha256(sha256, identity)
    return readout


def _key(
    routers: RouterSet, embedding: EmbeddingRows, sha256: str, settings: ReadoutSettings
) -> str:
    norm = (float(embedding.multiplier).hex(), float(embedding.epsilon).hex(), embedding.centred)
    options = sorted(asdict(settings).items())
    return content_key(KIND, FORMAT_VERSION, routers.key, sha256, norm, options)


def _arrays(readout: Readout) -> dict[str, Any]:
    names = [field.name for field in fields(Readout) if field.name != "settings"]
    return {name: np.asarray(getattr(readout, name)) for name in names}


def _from_arrays(
    arrays: dict[str, np.ndarray],
    routers: RouterSet,
    embedding: EmbeddingRows,
    settings: ReadoutSettings,
) -> Readout:
    """The read-out in arrays that anybody may have written.

    Raises:
        LensError: a part is missing, or of another shape or range than it can have.
    """
    names = {field.name for field in fields(Readout)} - {"settings"}
    if set(arrays) != names:
        raise LensError("a part of the read-out is missing")
    n_tokens, kept = embedding.n_tokens, min(settings.kept, embedding.n_tokens)
    counts: dict[str, Any] = {}
    for name in _COUNTS:
        value = arrays[name]
        if value.shape != () or value.dtype.kind not in "iu":
            raise LensError(f"{name} is no whole number")
        counts[name] = int(value)
    if (counts["n_tokens"], counts["d_model"]) != (n_tokens, embedding.d_model):
        raise LensError("the read-out is of another embedding")
    units = (routers.n_layers, routers.n_experts)
    drawn = arrays["chance_top"].shape[:1]
    shapes: dict[str, tuple[int, ...]]
    shapes = {name: units for name in ("mean", "sd", "norm", "share", "share_low", "share_high")}
    shapes |= {"chance_top": (*drawn, kept), "chance_bottom": (*drawn, kept), "chance_sd": drawn}
    mixed = (routers.n_layers, *arrays["mixed_sd"].shape[1:2])
    shapes |= {"mixed_top": (*mixed, kept), "mixed_bottom": (*mixed, kept), "mixed_sd": mixed}
    shapes["limit_p"] = (2, *units)
    for name in sorted(names - set(_COUNTS)):
        array, ids = arrays[name], name in ("top", "bottom")
        kind = "i" if ids else "f"
        if array.shape != shapes.get(name, (*units, kept)) or array.dtype.kind != kind:
            raise LensError(f"{name} has the shape {array.shape} of {array.dtype}")
        if ids and (array.min() < 0 or array.max() >= n_tokens):
            raise LensError(f"{name} names tokens that there are not")
        if not ids and not (name.endswith("margin") or np.isfinite(array).all()):
            raise LensError(f"{name} is not finite")
    if not drawn or not len(mixed) > 1 or counts["top_k"] != routers.top_k:
        raise LensError("the read-out is of other routers")
    return Readout(**{**arrays, **counts}, settings=settings)
