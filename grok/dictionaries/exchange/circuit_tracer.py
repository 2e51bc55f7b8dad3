"""circuit-tracer: per-layer transcoders and cross-layer transcoders with their `config.yaml`.

Read in version 0.5.0. A set of transcoders has `layer_I.safetensors` for each layer from 0, with
W_enc [F, D], W_dec [F, D], b_enc, b_dec, `activation_function.threshold` where features have one,
and W_skip [D, D], multiplied from the right, transposed. A cross-layer one has, for each layer I,
`W_enc_I.safetensors` with W_enc_I [F, D], b_enc_I, b_dec_I, threshold_I, and
`W_dec_I.safetensors` with W_dec_I [F, L − I, D].

Axes: L layers, D width, F features. No JAX here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grok.checkpoints.safetensors import parse_json
from grok.dictionaries.exchange.hooks import hook_of, site_of
from grok.dictionaries.exchange.opening import (
    Shape,
    Tensors,
    Values,
    check_amount,
    flat_yaml,
    refused,
    write_tensors,
    write_text,
    yaml_of,
)
from grok.dictionaries.exchange.saelens import own_sites
from grok.dictionaries.exchange.single import OWN, Coder, put_together, taken_apart
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.errors import GrokError, plain

CONFIG, THRESHOLD = "config.yaml", "activation_function.threshold"
SET, CROSS = "transcoder_set", "cross_layer_transcoder"
REASONS = {
    "k": "Its topk keeps values below 0 too, which no rule here does; turn it into thresholds.",
    "W_skip": "No cross-layer transcoder here has a skip, and circuit-tracer does not load one.",
    "log_thresholds": "Save the thresholds themselves, as activation_function.threshold.",
}


def write_circuit_tracer(folder: Path, dictionary: Dictionary) -> list[Path]:
    """Writes a transcoder or a cross-layer transcoder; the folder.

    Raises:
        GrokError: it is of another kind, does not have all layers from 0, has `topk`, or cannot be
            written.
    """
    design, rule = dictionary.design, dictionary.activation
    kinds = ("transcoder", "clt")
    if design.kind not in kinds:
        raise GrokError(
            f"circuit-tracer: found a dictionary of kind {design.kind}; expected transcoder or clt"
            ", since it puts them in the place of a block. Export it for SAELens."
        )
    if design.layers != tuple(range(len(design.layers))):
        raise GrokError(
            f"circuit-tracer: found layers {', '.join(map(str, design.layers))}; expected all from "
            "0, since its files are numbered so. Train the missing ones, or export for SAELens."
        )
    if rule.function == "topk":
        raise GrokError(
            f"circuit-tracer: found the {rule.k} largest of a token; expected relu or jumprelu, "
            "since it loads no others. Train with batch_topk, which ends with thresholds."
        )
    if design.kind == "clt":
        _write_cross(folder, dictionary)
    else:
        for coder in taken_apart(dictionary, "circuit-tracer", ("transcoder",)):
            arrays = {
                "W_enc": coder.encoder.T,
                "W_dec": coder.decoder,
                "b_enc": coder.encoder_bias,
                "b_dec": coder.decoder_bias,
            }
            if coder.threshold is not None:
                arrays[THRESHOLD] = coder.threshold
            if coder.skip is not None:
                arrays["W_skip"] = coder.skip.T
            write_tensors(folder / f"layer_{coder.layer}.safetensors", arrays)
    write_text(folder / CONFIG, yaml_of(_config(dictionary)))
    return [folder]


def _write_cross(folder: Path, dictionary: Dictionary) -> None:
    params = dictionary.params
    for i in range(len(dictionary.design.layers)):
        arrays = {
            f"W_enc_{i}": params["encoder"][i][0].T,
            f"b_enc_{i}": params["encoder_bias"][i],
            f"b_dec_{i}": params["decoder_bias"][i],
        }
        if "threshold" in params:
            arrays[f"threshold_{i}"] = params["threshold"][i]
        write_tensors(folder / f"W_enc_{i}.safetensors", arrays)
        write_tensors(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": params["decoder"][i]})


def _config(dictionary: Dictionary) -> dict[str, str]:
    design, facts = dictionary.design, dict(dictionary.facts)
    name = str(facts.get("model", ""))
    own = {"reads": design.reads[0], "writes": design.writes[0], "facts": facts}
    return {
        "model_name": name,
        "model_kind": CROSS if design.kind == "clt" else SET,
        "feature_input_hook": hook_of(design.reads[0]),
        "feature_output_hook": hook_of(design.writes[0]),
        "scan": name or "own",
        OWN: json.dumps(own),
    }


def read_circuit_tracer(
    folder: Path, *, reads: str | None = None, writes: str | None = None
) -> Dictionary:
    """The transcoders of a folder with `config.yaml`, as one dictionary.

    Args:
        folder: to be read; nothing in it is executed and nothing is fetched.
        reads, writes: sites, where the hooks in the file do not say which.

    Raises:
        GrokError: it is none, lies, or is of a sort that cannot be said here exactly.
    """
    file = folder / CONFIG
    given = flat_yaml(file)
    own = parse_json(given[OWN].encode(), f"{file}: {OWN}") if given.get(OWN) else {}
    config, named = Values(file, given), Values(file, own)
    sites = own_sites(named, (reads, writes))
    at = (
        site_of(file, config.text("feature_input_hook"), sites[0], "--reads"),
        site_of(file, config.text("feature_output_hook"), sites[1], "--writes"),
    )
    facts = named.part("facts") or {"model": config.text("model_name")}
    kind = config.text("model_kind")
    if kind == SET:
        files = _files(folder, config, given)
        return put_together(
            folder, [_coder(one, i, at, facts) for i, one in enumerate(files)], "transcoder"
        )
    if kind == CROSS:
        return _cross(folder, at, facts)
    raise config.wrong("model_kind", f"{SET} or {CROSS}", "Other kinds have other files.")


def _files(folder: Path, config: Values, given: Mapping[str, Any]) -> list[Path]:
    """The files of all layers, which lie in the folder itself."""
    names = given.get("transcoders") or []
    if not names:
        n = len(list(folder.glob("layer_*.safetensors")))
        names = [f"layer_{i}.safetensors" for i in range(n)]
    if not isinstance(names, list) or not names or len(names) > 1000:
        raise refused(
            folder, "no layers", "layer_0.safetensors and so on", "Download the weights too."
        )
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise refused(
                config.where, f"transcoders names {plain(name, 80)!r}",
                "NAME.safetensors in this folder",
                "Download that file, put it here and name it so.",
            )  # fmt: skip
    return [folder / name for name in names]


def _coder(file: Path, layer: int, sites: tuple[str, str], facts: Mapping[str, Any]) -> Coder:
    tensors = Tensors(file)
    f, d = _sizes(tensors, "W_enc")
    shapes: dict[str, Shape] = {"W_enc": (f, d), "W_dec": (f, d), "b_enc": (f,), "b_dec": (d,)}
    more: dict[str, Shape] = {THRESHOLD: (f,), "W_skip": (d, d)}
    shapes |= {name: shape for name, shape in more.items() if name in tensors.names}
    tensors.check(shapes, REASONS)
    check_amount(file, 2 * d * f + d * d)
    threshold = tensors.read(THRESHOLD) if THRESHOLD in shapes else None
    return Coder(
        layer,
        *sites,
        tensors.read("W_enc").T,
        tensors.read("b_enc"),
        tensors.read("W_dec"),
        tensors.read("b_dec"),
        "relu" if threshold is None else "jumprelu",
        threshold=threshold,
        skip=tensors.read("W_skip").T if "W_skip" in shapes else None,
        facts=facts,
    )


def _sizes(tensors: Tensors, name: str) -> tuple[int, int]:
    shape = tensors.shape(name)
    if len(shape) != 2 or not all(shape):
        raise refused(
            tensors.file, f"{name} has shape {shape}", "two numbers above 0", "Copy it again."
        )
    return shape[0], shape[1]


def _cross(folder: Path, sites: tuple[str, str], facts: Mapping[str, Any]) -> Dictionary:
    n = len(list(folder.glob("W_enc_*.safetensors")))
    if not 0 < n <= 1000:
        raise refused(
            folder, f"{n} files W_enc_I.safetensors", "one for each layer, from 0",
            "Download the weights too.",
        )  # fmt: skip
    opened = []
    for i in range(n):
        encoders = Tensors(folder / f"W_enc_{i}.safetensors")
        decoders = Tensors(folder / f"W_dec_{i}.safetensors")
        opened.append((encoders, decoders))
    first = opened[0][0]
    f, d = _sizes(first, "W_enc_0")
    above = "threshold_0" in first.names
    design = Design("clt", tuple(range(n)), (sites[0],), (sites[1],), f, d)
    check_amount(folder, design.n_parameters)
    for i, (encoders, decoders) in enumerate(opened):  # all of them, before any is read
        shapes: dict[str, Shape] = {f"W_enc_{i}": (f, d), f"b_enc_{i}": (f,), f"b_dec_{i}": (d,)}
        if above:
            shapes[f"threshold_{i}"] = (f,)
        encoders.check(shapes, REASONS)
        decoders.check({f"W_dec_{i}": (f, n - i, d)}, REASONS)
    params: dict[str, Any] = {
        "encoder": [one.read(f"W_enc_{i}").T[None] for i, (one, _) in enumerate(opened)],
        "encoder_bias": np.stack([one.read(f"b_enc_{i}") for i, (one, _) in enumerate(opened)]),
        "decoder": [one.read(f"W_dec_{i}") for i, (_, one) in enumerate(opened)],
        "decoder_bias": np.stack([one.read(f"b_dec_{i}") for i, (one, _) in enumerate(opened)]),
    }
    if above:
        params["threshold"] = np.stack(
            [one.read(f"threshold_{i}") for i, (one, _) in enumerate(opened)]
        )
    rule = Activation("jumprelu" if above else "relu", 1)
    return Dictionary(design, rule, as_float32(params), dict(facts))
