"""One layer's features by themselves, as most other tools keep them.

    pre = x @ encoder + encoder_bias        active: pre > 0, or > threshold, or of the k largest
    y = features @ decoder + decoder_bias (+ x @ skip)

Axes: D width, F features. No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grok.dictionaries.exchange.opening import check_amount, refused
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.errors import GrokError
from grok.interventions.sites import LAYER_SITES

OWN = "grok_moe_lens"  # under which our own facts stand in files of other tools


@dataclass(frozen=True, eq=False)
class Coder:
    """Features of one layer.

    Attributes:
        layer: that it is of.
        reads, writes: sites; the same ones for an autoencoder.
        encoder: [D, F]; encoder_bias: [F].
        decoder: [F, D]; decoder_bias: [D].
        function: `relu`, `jumprelu` or `topk`.
        k: of `topk`.
        threshold: [F], of `jumprelu`.
        skip: [D, D], or None.
        facts: what the file says of it.
    """

    layer: int
    reads: str
    writes: str
    encoder: np.ndarray
    encoder_bias: np.ndarray
    decoder: np.ndarray
    decoder_bias: np.ndarray
    function: str = "relu"
    k: int = 1
    threshold: np.ndarray | None = None
    skip: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def taken_apart(dictionary: Dictionary, tool: str, kinds: Sequence[str]) -> list[Coder]:
    """The features of each group by themselves.

    Gates of `topk` are folded: features are multiplied by theirs and what they write is divided by
    it, so the same ones are active and the same is written.

    Args:
        dictionary: of one of the kinds.
        tool: that they are for, for messages.
        kinds: that it can hold.

    Raises:
        GrokError: the tool cannot say what this dictionary is.
    """
    design, rule, params = dictionary.design, dictionary.activation, dictionary.params
    if design.kind not in kinds:
        raise GrokError(
            f"{tool}: found a dictionary of kind {design.kind}; expected {' or '.join(kinds)}, "
            "since it has no files for others. Export it to another format (docs/dictionaries.md)."
        )
    if rule.function == "topk" and rule.pooled and len(design.groups) > 1:
        raise GrokError(
            f"{tool}: found groups that share {rule.k} active features each; expected groups that "
            "each have their own, since its files know of one layer. Train with pooled = false."
        )
    coders = []
    for i, (read, write) in enumerate(zip(design.sources, design.targets, strict=True)):
        gate = np.ones(design.features)
        if rule.function == "topk":
            gate = np.asarray(params["gate"][i], np.float64)
            if not (gate > 0).all():
                n = int(np.argmin(gate))
                raise GrokError(
                    f"{tool}: group {i}, feature {n}: found a gate of {gate[n]:g}; expected one "
                    "above 0, so that it can be folded. Train the dictionary again."
                )
        coders.append(
            Coder(
                read.layer,
                read.site,
                write.site,
                (params["encoder"][i][0] * gate).astype(np.float32),
                (params["encoder_bias"][i] * gate).astype(np.float32),
                (params["decoder"][i][:, 0] / gate[:, None]).astype(np.float32),
                params["decoder_bias"][i],
                rule.function,
                min(rule.k, design.features),
                params["threshold"][i] if rule.function == "jumprelu" else None,
                params["skip"][i] if design.skip else None,
                dict(dictionary.facts),
            )
        )
    return coders


def own_facts(coder: Coder) -> dict[str, Any]:
    """What our own reader needs to give the dictionary back as it was."""
    return {
        "layer": coder.layer, "reads": coder.reads, "writes": coder.writes,
        "facts": dict(coder.facts),
    }  # fmt: skip


def put_together(where: Path, coders: Sequence[Coder], kind: str) -> Dictionary:
    """One dictionary of all layers.

    Args:
        where: the folder, for messages.
        coders: of different layers or sites, otherwise alike.
        kind: `sae` or `transcoder`.

    Raises:
        GrokError: they cannot be one dictionary.
    """
    if not coders:
        raise refused(where, "no dictionary", "one", "Name the folder that holds its config.")
    order = sorted(coders, key=lambda one: (one.layer, LAYER_SITES.index(one.reads)))
    places = [(one.layer, one.reads) for one in order]
    layers = tuple(sorted({one.layer for one in order}))
    reads = tuple(site for site in LAYER_SITES if site in {one.reads for one in order})
    for what, values in _alike(order).items():
        if len(values) > 1:
            a, b = sorted(map(str, values))[:2]
            raise refused(
                where, f"{what} {a} in one layer and {b} in another", "the same in all",
                "Import layers of each sort into a dictionary of their own.",
            )  # fmt: skip
    if len(set(places)) < len(places) or len(places) != len(layers) * len(reads):
        raise refused(
            where, f"{len(places)} of {len(layers)} layers and sites {', '.join(reads)}",
            "each site once in every layer", "Import folders that fit one by one.",
        )  # fmt: skip
    first = order[0]
    d, f = first.encoder.shape
    writes = reads if kind == "sae" else (first.writes,)
    design = Design(kind, layers, reads, writes, f, d, first.skip is not None)
    check_amount(where, design.n_parameters)
    params: dict[str, Any] = {
        "encoder": [one.encoder[None] for one in order],
        "encoder_bias": np.stack([one.encoder_bias for one in order]),
        "decoder": [one.decoder[:, None] for one in order],
        "decoder_bias": np.stack([one.decoder_bias for one in order]),
    }
    if first.function == "jumprelu":
        params["threshold"] = _stacked([one.threshold for one in order])
    if first.function == "topk":
        params["gate"] = np.ones((len(order), f))
    if design.skip:
        params["skip"] = _stacked([one.skip for one in order])
    rule = Activation(first.function, first.k)
    return Dictionary(design, rule, as_float32(params), dict(first.facts))


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.stack([one for one in arrays if one is not None])


def _alike(coders: Sequence[Coder]) -> dict[str, set[Any]]:
    return {
        "width": {one.encoder.shape[0] for one in coders},
        "features": {one.encoder.shape[1] for one in coders},
        "rule": {one.function for one in coders},
        "k": {one.k for one in coders},
        "skip": {one.skip is not None for one in coders},
        "site written": {"" if one.writes == one.reads else one.writes for one in coders},
        "model": {str(one.facts.get("model_sha256", "")) for one in coders},
    }
