"""The routers of other models, from their safetensors files.

Only headers and the routers' own byte ranges are read: of Mixtral's 93 GB, 2 MB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from lens.errors import LensError
from lens.layouts import LayerNames, RoutingSettings, find_routers, routing_settings
from lens.npz import plain
from lens.routers import SCORES, RouterSet
from lens.safetensors import Entry, FileRanges, parse_json, read_header, read_tensor

INDEX = "model.safetensors.index.json"
MAX_JSON = 100 * 2**20
MAX_FILES = 2000

Progress = Callable[[int, int], None]
"""Called with the number of tensors read so far and the number to read."""


@dataclass
class Tensors:
    """The tensors of a model: which file each is in, and what it takes to read it."""

    files: dict[str, FileRanges]
    of: dict[str, str]
    headers: dict[str, dict[str, Entry]]

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        file = self.files[self.of[name]]
        if self.of[name] not in self.headers:
            self.headers[self.of[name]] = read_header(file)
        entry = self.headers[self.of[name]].get(name)
        if entry is None:
            raise LensError(
                f"{file.where}: the index says that '{plain(name, 80)}' is in it, and it is not. "
                "Download index and files again, from one revision."
            )
        return read_tensor(file, name, entry)

    @property
    def bytes_read(self) -> int:
        """Of all files, headers included."""
        return sum(file.bytes_read for file in self.files.values())


def extract_safetensors(
    path: str | os.PathLike[str],
    *,
    norms: bool = True,
    top_k: int | None = None,
    score: str | None = None,
    progress: Progress | None = None,
) -> tuple[RouterSet, int]:
    """The routers of a model in safetensors files, by the number of its layers.

    Args:
      path: a folder with the model's files, or one file.
      norms: whether to read the scales of the norms before the routers too.
      top_k: experts a token, where no `config.json` beside the files says it.
      score: "softmax" or "sigmoid", likewise; softmax where nothing says otherwise.
      progress: told about every tensor.

    Returns:
      The router set, and the number of bytes that were read.

    Raises:
      LensError: files are missing or damaged, no known layout fits, or what they hold
        disagrees with the config.
    """
    path = Path(path)
    tensors = _open(path)
    folder = path if path.is_dir() else path.parent
    settings = _settings(folder)
    layout, layers = find_routers(tensors.of)
    if settings.n_layers is not None:  # heads that predict further tokens come after them
        layers = {layer: names for layer, names in layers.items() if layer < settings.n_layers}
    if not layers:
        raise LensError(
            f"{path}: all routers are of layers beyond the {settings.n_layers} of config.json. "
            "Check that the files belong together."
        )
    chosen = settings.top_k if top_k is None else top_k
    if chosen is None:
        raise LensError(
            f"{folder}: there is no config.json that says how many experts a token uses. Put the "
            "model's config.json beside its files, or give --top-k."
        )
    kind = (settings.score or "softmax") if score is None else score
    if kind not in SCORES:
        raise LensError(f"score: found '{plain(kind, 40)}'; expected softmax or sigmoid.")
    routers, biases, scales = _read(tensors, layers, norms, settings, progress)
    name = settings.name or folder.resolve().name
    found = RouterSet(
        routers=routers,
        norm_scales=scales,
        layer_ids=np.array(list(layers), np.int32),
        top_k=chosen,
        score=cast(Literal["softmax", "sigmoid"], kind),
        biases=biases,
        source=f"{name} (safetensors, {layout.id})",
    )
    return found, tensors.bytes_read


def _open(path: Path) -> Tensors:
    """Which file holds which tensor: by the index where there is one, else by their headers."""
    if path.is_file():
        file = FileRanges(path)
        header = read_header(file)
        return Tensors({path.name: file}, dict.fromkeys(header, path.name), {path.name: header})
    if not path.is_dir():
        raise LensError(f"{path}: there is no such file or folder. Check the path.")
    index = path / INDEX
    if index.is_file():
        return _indexed(path, parse_json(_bounded(index), str(index)).get("weight_map"), index)
    names = sorted(p.name for p in path.glob("*.safetensors"))
    if not names:
        raise LensError(f"{path}: no .safetensors file in it. Choose the folder of the model.")
    if len(names) > MAX_FILES:
        raise LensError(f"{path}: {len(names)} files; expected at most {MAX_FILES}.")
    tensors = Tensors({}, {}, {})
    for name in names:
        tensors.files[name] = FileRanges(path / name)
        tensors.headers[name] = read_header(tensors.files[name])
        for tensor in tensors.headers[name]:
            if tensor in tensors.of:
                raise LensError(
                    f"{path}: tensor '{plain(tensor, 80)}' is in {tensors.of[tensor]} and in "
                    f"{name}; expected the files of one model."
                )
            tensors.of[tensor] = name
    return tensors


def _indexed(folder: Path, weight_map: object, index: Path) -> Tensors:
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise LensError(f"{index}: no weight_map in it; expected names of tensors and files.")
    _, layers = find_routers(str(name) for name in weight_map)
    wanted = {name for names in layers.values() for name in vars(names).values() if name}
    tensors = Tensors({}, {}, {})
    missing = []
    for tensor in sorted(wanted):
        file = weight_map[tensor]
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise LensError(
                f"{index}: '{plain(tensor, 80)}' is said to be in '{plain(str(file), 80)}'; "
                "expected the name of a file in the same folder."
            )
        tensors.of[tensor] = file
        if file in tensors.files or file in missing:
            continue
        place = folder / file
        if not place.is_file():
            missing.append(file)
        else:
            tensors.files[file] = FileRanges(place)
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
        raise LensError(
            f"{folder}: {len(missing)} of the files that hold routers are not there: {named}. "
            "Complete the download; files without routers are not needed."
        )
    return tensors


def _settings(folder: Path) -> RoutingSettings:
    config = folder / "config.json"
    if not config.is_file():
        return RoutingSettings()
    return routing_settings(parse_json(_bounded(config), str(config)))


def _bounded(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_JSON:
            raise LensError(f"{path}: more than {MAX_JSON:,} bytes; expected a small JSON file.")
        return path.read_bytes()
    except OSError as error:
        raise LensError(f"{path}: {error.strerror}. Check its permissions.") from error


def _read(
    tensors: Tensors,
    layers: Mapping[int, LayerNames],
    norms: bool,
    settings: RoutingSettings,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Routers [L, d, E], biases [L, E] and norm scales [L, d]."""
    names = list(layers.values())
    with_bias = _all_or_none({n: layers[n].bias for n in layers}, "a bias of the router")
    with_norm = norms and _all_or_none({n: layers[n].norm for n in layers}, "a norm before it")
    total = len(names) * (1 + with_bias + with_norm)
    done = 0

    def read(name: str | None, shape: tuple[int | None, ...]) -> np.ndarray:
        nonlocal done
        assert name is not None  # all layers have it, or none is read
        values = tensors.read(name)
        if len(values.shape) != len(shape) or any(
            w is not None and w != h for w, h in zip(shape, values.shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise LensError(
                f"'{plain(name, 80)}': the shape is {list(values.shape)}; expected [{wanted}]. "
                "Check that files and config.json are of one model."
            )
        done += 1
        if progress is not None:
            progress(done, total)
        return values

    first = read(names[0].router, (settings.n_experts, settings.d_model))
    n_experts, d_model = first.shape
    if settings.n_experts is None and n_experts > d_model:
        raise LensError(
            f"'{plain(names[0].router, 80)}': {n_experts} experts of width {d_model}; expected "
            "fewer experts than dimensions. Check the layout."
        )
    routers = [first] + [read(layer.router, (n_experts, d_model)) for layer in names[1:]]
    biases = [read(layer.bias, (n_experts,)) for layer in names] if with_bias else None
    scales = [read(layer.norm, (d_model,)) for layer in names] if with_norm else None
    return (
        np.stack(routers).transpose(0, 2, 1),
        None if biases is None else np.stack(biases),
        None if scales is None else np.stack(scales),
    )


def _all_or_none(names: Mapping[int, str | None], what: str) -> bool:
    """Whether all layers have something; refused when only some of them do."""
    without = [layer for layer, name in names.items() if name is None]
    if without and len(without) < len(names):
        shown = ", ".join(map(str, without[:5])) + (" …" if without[5:] else "")
        raise LensError(
            f"Layers {shown} have no {what.split(' ', 1)[1]}, and the others do; expected all or "
            "none. Complete the files."
        )
    return not without
