"""Attribution graphs from JSON, version 1: ours, circuit-tracer's or Neuronpedia's.

Axes: N nodes, M links. No JAX here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from grok.checkpoints.safetensors import parse_json
from grok.dictionaries.exchange.graph_json import ERROR, FEATURE, MOST_BYTES, OUTPUT, WORD
from grok.dictionaries.exchange.opening import refused, text_of
from grok.errors import CheckpointError, plain

KINDS = {FEATURE: "feature", ERROR: "error", WORD: "embedding", OUTPUT: "target"}


def uncantor(number: int) -> tuple[int, int]:
    """The layer and the feature of a number."""
    both = (math.isqrt(8 * number + 1) - 1) // 2
    feature = number - both * (both + 1) // 2
    return both - feature, feature


@dataclass(frozen=True, eq=False)
class GraphFile:
    """A graph from a file, checked.

    Attributes:
        metadata: as it stands there.
        pieces: of the prompt.
        ids, labels: of nodes.
        kinds: of nodes [N]: "target", "feature", "error", "embedding" or "other".
        layers: of nodes [N]; -1 for embeddings.
        tokens: of nodes [N].
        features: of nodes [N]: of a feature its number in the layer, of a target the output's, else
            -1.
        values: strength of features, shares of targets, 1 of others [N]; NaN where it is missing.
        influence: see `grok.dictionaries.exchange.graph_json`; NaN where it is missing.
        sources, targets, weights: of links [M], as nodes.
    """

    metadata: Mapping[str, Any]
    pieces: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    kinds: np.ndarray
    layers: np.ndarray
    tokens: np.ndarray
    features: np.ndarray
    values: np.ndarray
    influence: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def read_graph(file: Path) -> GraphFile:
    """A graph of ours, of circuit-tracer or of Neuronpedia.

    Raises:
        CheckpointError: it is none, two nodes have one id, or links lead to nodes that are missing.
    """
    found = parse_json(text_of(file, MOST_BYTES), str(file))
    metadata = _of(file, found, "metadata", dict)
    nodes, links = (_of(file, found, name, list) for name in ("nodes", "links"))
    pieces = _of(file, metadata, "prompt_tokens", list)
    if not all(isinstance(one, str) for one in pieces):
        raise refused(file, "prompt_tokens that are no texts", "texts", "Export it again.")
    rows = [_row(file, i, one, len(pieces)) for i, one in enumerate(nodes)]
    ids = tuple(row["id"] for row in rows)
    place = {name: i for i, name in enumerate(ids)}
    if len(place) < len(ids):
        twice = next(name for i, name in enumerate(ids) if place[name] != i)
        raise refused(
            file, f"two nodes of the id {plain(twice, 60)}", "one",
            "circuit-tracer gives errors ids that features of layer 0 have too; rename those of "
            "errors to LAYER_error_TOKEN.",
        )  # fmt: skip
    ends = [_link(file, i, one, place) for i, one in enumerate(links)]

    def column(name: str, kind: Any) -> np.ndarray:
        return np.array([row[name] for row in rows], kind)

    return GraphFile(
        metadata, tuple(pieces), ids, tuple(row["label"] for row in rows),
        column("kind", object).astype(str), column("layer", int), column("token", int),
        column("feature", np.int64), column("value", float), column("influence", float),
        np.array([one[0] for one in ends], int), np.array([one[1] for one in ends], int),
        np.array([one[2] for one in ends], float),
    )  # fmt: skip


def _of(file: Path, values: Mapping[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if not isinstance(value, kind):
        raise refused(
            file, f"{name} is {type(value).__name__}", f"a JSON {kind.__name__}",
            "This is no attribution graph of version 1.",
        )  # fmt: skip
    return value


def _row(file: Path, i: int, node: Any, n: int) -> dict[str, Any]:
    def wrong(name: str, expected: str) -> CheckpointError:
        found = plain(repr(node.get(name) if isinstance(node, dict) else node), 60)
        return refused(file, f"node {i}: {name} is {found}", expected, "Export it again.")

    if not isinstance(node, dict):
        raise wrong("it", "an object")
    for name in ("node_id", "feature_type"):
        if not isinstance(node.get(name), str):
            raise wrong(name, "a text")
    kind = KINDS.get(node["feature_type"], "other")
    token, feature = node.get("ctx_idx"), node.get("feature")
    if not _whole(token) or not 0 <= token < max(n, 1):
        raise wrong("ctx_idx", f"a token from 0 to {n - 1}")
    if feature is not None and (not _whole(feature) or not -1 <= feature < 2**62):
        raise wrong("feature", "a whole number")
    layer = -1 if kind == "embedding" else _layer(node.get("layer"))
    if layer is None:
        raise wrong("layer", "a layer")
    if kind == "feature":
        parts = uncantor(feature) if feature is not None and feature >= 0 else (-1, -1)
        if parts[0] != layer:
            raise wrong("feature", f"the number of a feature of layer {layer}")
        feature = parts[1]
    elif kind != "target":
        feature = -1
    value = node.get({"feature": "activation", "target": "token_prob"}.get(kind, ""), 1.0)
    return {
        "id": node["node_id"], "label": str(node.get("clerp") or "")[:1000], "kind": kind,
        "layer": layer, "token": token, "feature": -1 if feature is None else feature,
        "value": _number(value), "influence": _number(node.get("influence")),
    }  # fmt: skip


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _layer(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 5:
        return int(value)
    return value if _whole(value) and 0 <= value < 10_000 else None


def _number(value: Any) -> float:
    """A finite number, else NaN."""
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if fine else math.nan


def _link(file: Path, i: int, link: Any, place: Mapping[str, int]) -> tuple[int, int, float]:
    if not isinstance(link, dict):
        raise refused(file, f"link {i} is no object", "one", "Export it again.")
    ends = []
    for name in ("source", "target"):
        end = link.get(name)
        if not isinstance(end, str) or end not in place:
            raise refused(
                file, f"link {i}: {name} is {plain(repr(end), 60)}", "the id of a node",
                "Export it again.",
            )  # fmt: skip
        ends.append(place[end])
    weight = _number(link.get("weight"))
    if math.isnan(weight):
        raise refused(file, f"link {i}: no weight", "a finite number", "Export it again.")
    return ends[0], ends[1], weight
