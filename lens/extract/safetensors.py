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

from grok.checkpoints.model_files import CONFIG, Counted, FolderFiles, ModelFiles
from grok.checkpoints.prefetch import prefetch
from grok.checkpoints.routing.names import (
    LayerNames,
    check_n_layers,
    find_routers,
    layers_prefix,
)
from grok.checkpoints.routing.settings import SPEAKING_NORM, RoutingSettings, routing_settings
from grok.checkpoints.safetensors import check_readable, read_tensor
from grok.checkpoints.tensor_index import Tensors, find_tensors, read_json
from grok.errors import plain
from lens.errors import LensError, as_lens_error
from lens.routers.router_set import MAX_EXPERTS, MAX_LAYERS, SCORES, RouterSet
from lens.storage.npz import MAX_BYTES

NPZ_OVERHEAD = 2**16  # bytes of a router file beside its large arrays, amply

Progress = Callable[[int, int], None]
"""Called with the number of tensors read so far and the number to read."""


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
        norms: whether to read the scales of the norms before the routers too, where the
            config names a family whose norm is known.
        top_k: experts a token, instead of what the `config.json` beside the files says.
        score: "softmax" or "sigmoid", likewise; where nothing says it, sigmoid if biases
            are added to gates, else softmax, and the set's source says that it was assumed.
        progress: told about every tensor.

    Returns:
        The router set, and the number of bytes that were read.

    Raises:
        LensError: files are missing or damaged, no known layout fits, or what they hold
            disagrees with the config.
    """
    with as_lens_error():
        files = FolderFiles(Path(path))
    return extract_model(files, norms=norms, top_k=top_k, score=score, progress=progress)


@as_lens_error()
def extract_model(
    files: ModelFiles,
    *,
    norms: bool = True,
    top_k: int | None = None,
    score: str | None = None,
    progress: Progress | None = None,
) -> tuple[RouterSet, int]:
    """As `extract_safetensors`, from any place that serves byte ranges of a model's files."""
    files = Counted(files)
    there = files.names()
    settings = RoutingSettings()
    if CONFIG in there:
        settings = routing_settings(read_json(files, CONFIG))
    tensors = find_tensors(files, there)
    layout, layers = find_routers(tensors.of)
    if settings.n_layers is not None:  # heads that predict further tokens come after them
        prefix = layers_prefix(next(iter(layers.values())).router) or ""
        check_n_layers(f"{files.where}: {CONFIG}", settings.n_layers, tensors.of, prefix)
        layers = {layer: names for layer, names in layers.items() if layer < settings.n_layers}
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise LensError(
            f"{files.where}: {len(layers)} layers have a router and a number within the "
            f"{settings.n_layers or MAX_LAYERS} layers of the model; expected 1 to {MAX_LAYERS}. "
            "Check that config.json and files belong together."
        )
    chosen = settings.top_k if top_k is None else top_k
    if chosen is None:
        raise LensError(
            f"{files.where}: there is no config.json that says how many experts a token uses. Put "
            "the model's config.json beside its files, or give --top-k."
        )
    kind, notes = _score(settings, layers, score)
    plan = _plan(tensors, layers, norms, settings, kind, notes)
    tensors.check_there(plan.names())
    tensors.read_headers(tensors.of[name] for name in plan.names())
    routers, biases, scales = _read(tensors, plan, settings, progress)
    noted = "; ".join(["safetensors", layout.id, *settings.notes, *notes])
    extracted = RouterSet(
        routers=routers,
        norm_scales=scales,
        layer_ids=np.array(list(layers), np.int32),
        top_k=chosen,
        score=kind,
        biases=biases,
        source=f"{settings.name or files.name} ({noted})",
    )
    return extracted, files.bytes_read


# --- what is read of them -------------------------------------------------------


def _score(
    settings: RoutingSettings, layers: Mapping[int, LayerNames], given: str | None
) -> tuple[Literal["softmax", "sigmoid"], list[str]]:
    """Name of the function that turns logits into gates, and a note where nothing says it."""
    notes = []
    score = given or settings.score or settings.family.score
    if score is None:
        corrected = any(names.correction is not None for names in layers.values())
        score = "sigmoid" if corrected else "softmax"
        notes.append(f"{score} assumed")
    if score not in SCORES:
        raise LensError(
            f"score: found '{plain(score, 40)}'; expected softmax or sigmoid. If the order of its "
            "gates is the order of its logits, --score sigmoid opens it."
        )
    return cast(Literal["softmax", "sigmoid"], score), notes


@dataclass(frozen=True)
class Plan:
    """The tensors to read, a name a layer; None for those that are not read."""

    routers: list[str]
    biases: list[str] | None
    scales: list[str] | None
    shifts: list[str] | None  # biases of LayerNorms before the routers

    def names(self) -> list[str]:
        """All of them."""
        return self.routers + (self.biases or []) + (self.scales or []) + (self.shifts or [])

    def in_order(self) -> list[str]:
        """All of them layer by layer: router, bias, scale, shift."""
        groups = (self.routers, self.biases, self.scales, self.shifts)
        layers = range(len(self.routers))
        return [group[layer] for layer in layers for group in groups if group is not None]


def _plan(
    tensors: Tensors,
    layers: Mapping[int, LayerNames],
    norms: bool,
    settings: RoutingSettings,
    score: str,
    notes: list[str],
) -> Plan:
    """Plan of the tensors to read; `notes` gains what there is and is not read."""
    biases = _all_or_none({n: layers[n].bias for n in layers}, "bias of the router")
    corrections = _all_or_none({n: layers[n].correction for n in layers}, "correction bias")
    if biases is not None and score == "sigmoid":
        notes.append("biases of logits under sigmoid left out")
        biases = None
    if corrections is not None and score == "sigmoid":
        biases = corrections
    elif corrections is not None:
        notes.append("biases that are added to softmax gates for the choice left out")
    scales = shifts = None
    if norms:
        scales = _norm(tensors, layers, SPEAKING_NORM, "weight")
        if scales is None and settings.family.norm:
            scales = _norm(tensors, layers, settings.family.norm, "weight")
            if scales is not None and settings.family.layer_norm:
                if score == "softmax":
                    shifts = _norm(tensors, layers, settings.family.norm, "bias")
                notes.append("the norm is a LayerNorm")
        if scales is None:
            notes.append("norm before the routers not known for this family")
    return Plan([names.router for names in layers.values()], biases, scales, shifts)


def _norm(
    tensors: Tensors, layers: Mapping[int, LayerNames], norm: str, what: str
) -> list[str] | None:
    """The named tensors of a norm in each layer, if they are there."""
    names = {layer: f"{layers[layer].place}{norm}.{what}" for layer in layers}
    found = {layer: name if name in tensors.of else None for layer, name in names.items()}
    return _all_or_none(found, f"{norm}.{what}")


def _all_or_none(names: Mapping[int, str | None], what: str) -> list[str] | None:
    """The names if all layers have one, None if none has; refused when only some do."""
    there = [name for name in names.values() if name is not None]
    if there and len(there) < len(names):
        without = [layer for layer, name in names.items() if name is None]
        shown = ", ".join(map(str, without[:5])) + (" …" if without[5:] else "")
        raise LensError(
            f"Layers {shown} have no {what}, and the others do; expected all or none. Complete "
            "the files."
        )
    return there or None


def _read(
    tensors: Tensors, plan: Plan, settings: RoutingSettings, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Routers [L, d, E], biases [L, E] and norm scales [L, d]."""
    shape = _checked_shape(tensors, plan, settings)
    n_experts, d_model = shape
    n_layers = len(plan.routers)
    total = n_layers * (1 + sum(x is not None for x in (plan.biases, plan.scales, plan.shifts)))
    done = 0

    def values_of(name: str) -> np.ndarray:
        source, entry = tensors.entry(name)
        values = read_tensor(source, name, entry)
        n_bad = values.size - int(np.isfinite(values).sum())
        if n_bad:
            raise LensError(
                f"{source.where}: tensor '{plain(name, 80)}': {n_bad} of {values.size} values are "
                "not finite in float32; expected numbers only. Download the file again."
            )
        return values

    coming = prefetch(values_of, plan.in_order(), tensors.files.at_once)

    def read() -> np.ndarray:
        nonlocal done
        values = next(coming)
        done += 1
        if progress is not None:
            progress(done, total)
        return values

    routers = np.empty((n_layers, d_model, n_experts), np.float32)
    biases = None if plan.biases is None else np.empty((n_layers, n_experts), np.float32)
    scales = None if plan.scales is None else np.empty((n_layers, d_model), np.float32)
    if plan.shifts is not None and biases is None:
        biases = np.zeros((n_layers, n_experts), np.float32)
    for layer in range(n_layers):
        routers[layer] = read().T
        if plan.biases is not None and biases is not None:
            biases[layer] = read().reshape(-1)
        if plan.scales is not None and scales is not None:
            scales[layer] = read() + np.float32(_offset(plan, settings))
        if plan.shifts is not None and biases is not None:
            # x̂ is scaled and then shifted by β, so the logits are shifted by Wᵀβ.
            shift = read().astype(np.float64)
            with np.errstate(over="ignore"):
                biases[layer] += (shift @ routers[layer].astype(np.float64)).astype(np.float32)
    return routers, biases, scales


def _offset(plan: Plan, settings: RoutingSettings) -> float:
    """Number to add to the stored values of the norm to have its scale."""
    assert plan.scales is not None
    return 0.0 if f".{SPEAKING_NORM}." in plan.scales[0] else settings.family.offset


def _checked_shape(tensors: Tensors, plan: Plan, settings: RoutingSettings) -> tuple[int, int]:
    """[experts, d_model] of the routers, once every tensor was found to fit: nothing is read."""
    n_experts, d_model = settings.n_experts, settings.d_model
    for name in plan.routers:
        shape = _check(tensors, name, [(n_experts, d_model)])
        n_experts, d_model = shape
    assert n_experts is not None and d_model is not None
    first = plain(plan.routers[0], 80)
    if not 2 <= n_experts <= MAX_EXPERTS or (settings.n_experts is None and n_experts > d_model):
        raise LensError(
            f"'{first}': {n_experts} experts of width {d_model}; expected 2 to {MAX_EXPERTS} "
            "experts, fewer than dimensions. Check the layout."
        )
    for name in plan.biases or []:  # some are stored as one row
        _check(tensors, name, [(n_experts,), (1, n_experts)])
    for name in (plan.scales or []) + (plan.shifts or []):
        _check(tensors, name, [(d_model,)])
    size = 4 * len(plan.routers) * (d_model * (n_experts + 1) + n_experts) + NPZ_OVERHEAD
    if size > MAX_BYTES:
        raise LensError(
            f"'{first}': {len(plan.routers)} routers of [{n_experts}, {d_model}] take {size:,} "
            f"bytes as float32; expected at most {MAX_BYTES:,}, what a router file may hold. "
            "This model is too large for this version."
        )
    return n_experts, d_model


def _check(tensors: Tensors, name: str, shapes: list[tuple[int | None, ...]]) -> tuple[int, ...]:
    """The shape of a tensor if it is one of these, None standing for any length."""
    source, entry = tensors.entry(name)
    check_readable(source, name, entry)
    for shape in shapes:
        if len(shape) == len(entry.shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, entry.shape, strict=True)
        ):
            return entry.shape
    wanted = ", ".join("any" if size is None else str(size) for size in shapes[0])
    raise LensError(
        f"'{plain(name, 80)}': the shape is {list(entry.shape)}; expected [{wanted}]. "
        "Check that files and config.json are of one model."
    )
