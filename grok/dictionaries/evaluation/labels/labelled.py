"""Tokens with labels that we own, and the features that are active in them.

Axes: N tokens, G groups, F features, K experts a token, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
from scipy import sparse

from grok.dictionaries.evaluation.tokens import Part
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.source import EXPERTS
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

CLASSES = ("word start", "word part", "digits", "space", "signs", "other")


@dataclass(frozen=True)
class Labelled:
    """Some tokens.

    Attributes:
        domain: an index into `domains` [N].
        domains: names of the texts.
        window: of each token [N].
        tokens: ids [N].
        classes: an index into `CLASSES` [N]; none without a tokenizer.
        experts: of each routed layer [N, K].
        features: of each dictionary by its name, of each group [N, F].
        read: what each group reads, sites beside each other [N, D].
        layers: of each group.
    """

    domain: np.ndarray
    domains: Sequence[str]
    window: np.ndarray
    tokens: np.ndarray
    classes: np.ndarray | None
    experts: Mapping[int, np.ndarray]
    features: Mapping[str, list[sparse.csr_matrix]]
    read: list[np.ndarray]
    layers: Sequence[int]


def expert_points(model: Model, layers: Sequence[int]) -> tuple[HookPoint, ...]:
    """The choices of the layers that have a router."""
    routed = set(model.config.moe_layers)
    return tuple(HookPoint(layer, EXPERTS) for layer in layers if layer in routed)


def labelled(
    model: Model,
    dictionaries: Mapping[str, Dictionary],
    parts: Sequence[Part],
    domains: Sequence[str],
) -> Labelled:
    """Parts of one text with what is active in them.

    Args:
        model: whose tokens they are.
        dictionaries: of one design, by name.
        parts: with the values of `expert_points`.
        domains: names of the texts.
    """
    design = next(iter(dictionaries.values())).design
    found: dict[str, list[list[sparse.csr_matrix]]] = {name: [] for name in dictionaries}
    for part in parts:
        for name, own in dictionaries.items():
            features = jax.device_get(apply(own, part.batch.x, part.batch.chosen).features)
            found[name].append([sparse.csr_matrix(one) for one in features])
    x = np.concatenate([np.asarray(part.batch.x) for part in parts], axis=1)
    experts = {
        point.layer: np.concatenate([part.values[point] for part in parts])
        for point in parts[0].values
        if point.site == EXPERTS
    }
    tokens, domain, window = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("tokens", "domain", "window")
    )
    return Labelled(
        domain,
        domains,
        window,
        tokens,
        None if model.tokenizer is None else token_classes(model.pieces(tokens)),
        experts,
        {
            name: [sparse.vstack(group, format="csr") for group in zip(*one, strict=True)]
            for name, one in found.items()
        },
        [np.concatenate([x[i] for i in group.reads], axis=1) for group in design.groups],
        [design.sources[group.reads[0]].layer for group in design.groups],
    )


def token_classes(pieces: Sequence[str]) -> np.ndarray:
    """What kind of piece each is, as an index into `CLASSES`."""
    return np.array([CLASSES.index(_class_of(piece)) for piece in pieces])


def _class_of(piece: str) -> str:
    text = piece.replace("▁", " ")
    own = text.strip()
    if not own:
        return "space"
    if own.isdecimal():
        return "digits"
    if own[0].isalpha():
        return "word start" if text[0].isspace() else "word part"
    return "signs" if not own[0].isalnum() and not own.startswith("<") else "other"
