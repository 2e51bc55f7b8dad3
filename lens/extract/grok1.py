"""The routers of a checkpoint in Grok-1's format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from grok.checkpoints.grok1 import Checkpoint, moe_norm_path, open_checkpoint, router_path
from grok.config import GROK_1
from lens.errors import LensError, as_lens_error
from lens.recipe.steps import remembered
from lens.routers.router_set import RouterSet

Progress = Callable[[int, int], None]
"""Called with the number of files, or tensors, read so far and the number to read."""


@remembered
def extract_routers(
    path: str | os.PathLike[str],
    *,
    norms: bool = True,
    progress: Progress | None = None,
) -> RouterSet:
    """The routers of a checkpoint, in the order of its layers.

    File order is not layer order (files are sorted as text: 0, 1, 10, 11, … 2),
    and all layers have the same shapes, so every file is asked for by the
    parameter it holds. bfloat16 values become the same float32 values.

    Args:
        path: the folder that holds `ckpt-0`, or `ckpt-0` itself; without a
            `config.json` beside it the checkpoint is taken to be Grok-1.
        norms: whether to read the norm scales too; without them the canonical
            routers lack their diagonal, and the set says that they are unknown.
        progress: told about every file.

    Raises:
        LensError: a layer is missing, a file is damaged, of another shape or dtype,
            foreign, or not finite, or two layers have the same router.
    """
    with as_lens_error():
        return _extract(open_checkpoint(path), norms, progress)


def needed_paths(checkpoint: Checkpoint, norms: bool = True) -> list[str]:
    """Parameters that extraction reads: every router, and every norm that feeds one."""
    layers = range(checkpoint.config.n_layers)
    kinds = (router_path, moe_norm_path) if norms else (router_path,)
    return [path(layer) for layer in layers for path in kinds]


def _extract(checkpoint: Checkpoint, norms: bool, progress: Progress | None) -> RouterSet:
    paths = needed_paths(checkpoint, norms)
    _check_present(checkpoint, paths)
    routers = {router_path(layer) for layer in range(checkpoint.config.n_layers)}
    found: dict[str, np.ndarray] = {}
    alike: dict[bytes, list[str]] = {}  # routers by their first rows, compared whole if those agree
    for path in paths:
        tensor = checkpoint.read(path)
        assert isinstance(tensor, np.ndarray)  # read() refuses quantized values here
        found[path] = tensor.astype(np.float32, copy=False)
        if path in routers:
            group = alike.setdefault(found[path][:2].tobytes(), [])
            first = next((p for p in group if np.array_equal(found[p], found[path])), None)
            group.append(path)
            if first is not None:
                raise LensError(
                    f"{checkpoint.file(path)} ({path}): the same router to the last bit as "
                    f"{checkpoint.file(first).name} ({first}); expected one of its own in each "
                    "layer. A file was copied over another; get both again."
                )
        if progress is not None:
            progress(len(found), len(paths))
    config = checkpoint.config
    layers = range(config.n_layers)
    name = checkpoint.folder.resolve().name
    return RouterSet(
        np.stack([found[router_path(layer)] for layer in layers]),
        np.stack([found[moe_norm_path(layer)] for layer in layers]) if norms else None,
        top_k=config.top_k,
        source="Grok-1 checkpoint" if config == GROK_1 else f"checkpoint '{name}'",
    )


def _check_present(checkpoint: Checkpoint, paths: Sequence[str]) -> None:
    missing = [path for path in paths if not checkpoint.file(path).is_file()]
    if missing:
        named = ", ".join(f"{checkpoint.file(path).name} ({path})" for path in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        config = checkpoint.config
        raise LensError(
            f"{checkpoint.tensor_folder}: {len(missing)} of the {len(paths)} router and norm files "
            f"of a model with {config.n_layers} layers are not there: {named}{more}. Complete the "
            "download or copy; if the model has another number of layers, put its config.json "
            "beside ckpt-0."
        )
