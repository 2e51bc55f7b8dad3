"""The routers of a model's folder, of whatever family can be run, kept by their content.

The folder's files are told apart by names, sizes, times and places, without being read; what they
hold is kept under the hash of the routers themselves. So a folder that has not changed is not read
again, copies of a model share what is kept, and a file that changed gives new routers.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from grok.architectures.families import open_checkpoint
from grok.checkpoints.model_files import folder_identity
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from lens.errors import LensError, as_lens_error
from lens.extract.grok1 import extract_routers
from lens.extract.safetensors import extract_safetensors
from lens.recipe.steps import remembered
from lens.routers.router_set import RouterSet
from lens.storage.disk_cache import DiskCache, content_key

KIND = "routers"
FORMAT_VERSION = 1  # grows with every change of what is read from a folder
_PARTS = ("routers", "norm_scales", "layer_ids", "top_k", "score", "biases", "source")
_OPTIONAL = ("norm_scales", "biases")


@remembered
def folder_routers(path: str | os.PathLike[str]) -> RouterSet:
    """The routers, and the norms before them, of a model that can be run.

    Args:
        path: a folder in Grok-1's format, or a Hugging Face one of a family that is known.

    Raises:
        LensError: an unknown family, files that are missing or damaged, or files that do not
            hold what the config says.
    """
    with as_lens_error():
        checkpoint = open_checkpoint(path)
    if not isinstance(checkpoint, SafetensorsFolder):
        return extract_routers(path)
    routers, _ = extract_safetensors(path)
    config: Any = checkpoint.config
    said = (list(config.moe_layers), config.n_experts, config.top_k)
    if (routers.layer_ids.tolist(), routers.n_experts, routers.top_k) != said:
        raise LensError(
            f"{checkpoint.folder}: routers of {routers.n_experts} experts in layers "
            f"{_shown(routers.layer_ids.tolist())}, {routers.top_k} a token; expected "
            f"{config.n_experts} in layers {_shown(said[0])}, {config.top_k} a token, as "
            "config.json says. Complete the download, and check that config.json belongs to it."
        )
    return routers


def kept_routers(path: str | os.PathLike[str], cache: DiskCache) -> RouterSet:
    """`folder_routers`, from disk if they were read before, and kept there if not.

    An entry that is damaged, or holds other routers than its name says, is dropped, and the
    folder is read again.

    Raises:
        LensError: as `folder_routers`.
    """
    identity = (KIND, FORMAT_VERSION, folder_identity(path))
    key = cache.known_sha256(*identity)
    arrays = None if key is None else cache.get(KIND, key)
    if key is not None and arrays is not None:
        try:
            return _from_arrays(arrays, key)
        except LensError:
            cache.drop(KIND, key)
    routers = folder_routers(path)
    key = _key(routers)
    if cache.get(KIND, key) is not None or cache.put(KIND, key, _arrays(routers)):
        cache.note_sha256(key, *identity)
    return routers


def _shown(layers: list[int]) -> str:
    few = ", ".join(map(str, layers[:6]))
    return f"{few} … {layers[-1]} ({len(layers)} in all)" if layers[6:] else few


def _key(routers: RouterSet) -> str:
    """Hash of all that is kept of them."""
    return content_key(KIND, FORMAT_VERSION, routers.key, routers.source)


def _arrays(routers: RouterSet) -> dict[str, Any]:
    found = {name: getattr(routers, name) for name in _PARTS}
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def _from_arrays(arrays: dict[str, np.ndarray], key: str) -> RouterSet:
    """The routers in arrays that anybody may have written.

    Raises:
        LensError: a part is missing or makes no sense, or they are not those of the key.
    """
    if set(arrays) | set(_OPTIONAL) != set(_PARTS):
        raise LensError("a part of the routers is missing")
    scalars = (arrays["top_k"], arrays["score"], arrays["source"])
    if any(one.shape != () for one in scalars) or arrays["top_k"].dtype.kind not in "iu":
        raise LensError("a setting of the routers is none")
    found = RouterSet(
        routers=arrays["routers"],
        norm_scales=arrays.get("norm_scales"),
        layer_ids=arrays["layer_ids"],
        top_k=int(arrays["top_k"]),
        score=str(arrays["score"]),  # type: ignore[arg-type]
        biases=arrays.get("biases"),
        source=str(arrays["source"]),
    )
    if _key(found) != key:
        raise LensError("these are other routers")
    return found
