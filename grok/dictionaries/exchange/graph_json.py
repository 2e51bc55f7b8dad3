"""Attribution graphs as JSON, version 1: what Neuronpedia and circuit-tracer's page show.

Held against Neuronpedia's `graph-schema.json` 1.0.0 and circuit-tracer 0.5.0. Their pages know four
sorts of nodes (features, errors, words and outputs), so

- what a graph aims at is an output: an expert's logit has a number beyond the vocabulary;
- biases, skips and whatever else is no feature and no word are part of the error of their layer and
  token, since a further sort makes the scores that the page computes wrong. What each part gives
  stands under `grok_moe_lens` in the link;
- an error's id is LAYER_error_TOKEN: 0_LAYER_TOKEN is also a feature of layer 0.

No JAX here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.dictionaries.exchange.opening import config_of, refused, write_json
from grok.dictionaries.exchange.single import OWN
from grok.errors import GrokError, plain

if TYPE_CHECKING:
    from grok.dictionaries.attribution.graph import RouteGraph
    from grok.dictionaries.attribution.reading import PromptFeatures
    from grok.dictionaries.attribution.rows import Target
    from grok.runner.model import Model

MOST_BYTES = 100 * 2**20  # that Neuronpedia takes
FEATURE, ERROR, WORD, OUTPUT = (
    "cross layer transcoder",
    "mlp reconstruction error",
    "embedding",
    "logit",
)
INDEX = "graph-metadata.json"
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,98}")


def cantor(layer: int, feature: int) -> int:
    """One number for a layer and a feature: (l + f)(l + f + 1)/2 + f."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def graph_values(
    graph: RouteGraph,
    read: PromptFeatures,
    model: Model,
    slug: str,
    *,
    weights: Sequence[float] | None = None,
    pages: str | None = None,
) -> dict[str, Any]:
    """A graph as values that JSON holds.

    A node's influence is the share that it and all larger ones have of the file's influence, so
    small is important; outputs have none.

    Args:
        graph: from `route_graph`.
        read: the prompt that it is of.
        model: that both are of.
        slug: the graph's name, of small letters, digits and hyphens.
        weights: of the targets, as they were given to `route_graph`.
        pages: address under which pages of features lie, as NUMBER.json.

    Raises:
        GrokError: an odd slug, two nodes of one id, or no node above layer 0, which pages need.
    """
    if not _SLUG.fullmatch(slug):
        raise GrokError(
            f"The graph's name is {plain(slug, 60)!r}; expected small letters, digits and hyphens, "
            "at most 99. Choose another."
        )
    w = np.ones(graph.n_targets) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (graph.n_targets,) or not w.sum() > 0:
        raise GrokError(f"weights: found {w.shape}; expected those of {graph.n_targets} targets.")
    table = _Table(graph, read, model, w / w.sum())
    dictionary, pieces = read.dictionary, [one.replace("▁", " ") for one in read.pieces]
    metadata: dict[str, Any] = {
        "slug": slug,
        "scan": model.name,
        "transcoder_list": [],
        "prompt_tokens": pieces,
        "prompt": "".join(pieces),
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "description": "Values of experts and features, with attention, norms and the "
            "mixture held as they were. Errors hold biases too.",
            "generator": {"name": "Grok MoE Lens"},
        },
        OWN: {
            "model_sha256": model.sha256,
            "dictionary": dictionary.design.kind,
            "row_error": graph.row_error,
            "scores": graph.scores._asdict(),
        },
    }
    if pages is not None:
        metadata["feature_details"] = {"feature_json_base_url": pages}
    return {
        "metadata": metadata,
        "qParams": {
            "pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": "",
        },
        "nodes": table.nodes(),
        "links": table.links(),
    }  # fmt: skip


class _Table:
    """Nodes of a graph by their ids; leaves of one layer and token that are no words are one."""

    def __init__(
        self, graph: RouteGraph, read: PromptFeatures, model: Model, weights: np.ndarray
    ) -> None:
        self._graph, self._read, self._model = graph, read, model
        self._weights = weights
        self._ids = [self._id(i) for i in range(len(graph.kinds))]
        self._members: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(self._ids):
            self._members[name].append(i)
        for name, own in self._members.items():
            if len(own) > 1 and "_error_" not in name:
                raise GrokError(
                    f"Two nodes of the graph would have the id {name}; expected one. Its features "
                    "are of several sites of one layer, which this format cannot tell apart: make "
                    "the graph with a dictionary of one site."
                )
        inner = [i for i, name in enumerate(self._ids) if name[0] != "E" and i >= graph.n_targets]
        if not any(graph.layers[i] > 0 for i in inner):
            raise GrokError(
                "The graph has no feature and no error above layer 0; expected one, since pages "
                "show nothing without. Ask for a target of a later layer."
            )

    def _id(self, i: int) -> str:
        graph = self._graph
        layer, token = int(graph.layers[i]), int(graph.tokens[i])
        kind = str(graph.kinds[i])
        if kind == "target":
            return f"{self._model.config.n_layers + 1}_{self._output(i)}_{token}"
        if kind == "feature":
            return f"{layer}_{int(graph.features[i])}_{token}"
        if kind == "embedding":
            return f"E_{int(self._read.tokens[token])}_{token}"
        return f"{layer}_error_{token}"

    def _output(self, i: int) -> int:
        """The number of an output: a token's id, or one beyond the vocabulary."""
        target = self._graph.asked[i]
        if target.kind == "token" and target.other is None:
            return target.index
        return self._model.config.vocab_size + i

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, outputs first."""
        graph = self._graph
        sizes = {name: float(graph.influence[own].sum()) for name, own in self._members.items()}
        running, total = 0.0, max(sum(sizes.values()), 1e-30)
        shares = {}
        for name in sorted(sizes, key=lambda one: -sizes[one]):
            running += sizes[name]
            shares[name] = min(running / total, 1.0)
        found = []
        for name, own in self._members.items():
            node = self._node(name, own[0])
            if node["feature_type"] != OUTPUT:
                node["influence"] = shares[name]
            found.append(node)
        return found

    def _node(self, name: str, i: int) -> dict[str, Any]:
        graph = self._graph
        layer, token = int(graph.layers[i]), int(graph.tokens[i])
        node: dict[str, Any] = {"node_id": name, "ctx_idx": token, "clerp": ""}
        kind = str(graph.kinds[i])
        if kind == "target":
            share = float(self._weights[i])
            label = _label(graph.asked[i], self._model)
            return node | {
                "feature": self._output(i),
                "layer": str(self._model.config.n_layers + 1),
                "feature_type": OUTPUT,
                "token_prob": share,
                "is_target_logit": i == 0,
                "jsNodeId": f"L_{self._output(i)}-{token}",
                "clerp": f'Output "{label}" (p={share:.3f})',
                OWN: {"layer": layer, "value": float(graph.values[i])},
            }
        if kind == "feature":
            feature = int(graph.features[i])
            return node | {
                "feature": cantor(layer, feature),
                "layer": str(layer),
                "feature_type": FEATURE,
                "jsNodeId": f"{layer}_{feature}-0",
                "activation": float(graph.values[i]),
            }
        if kind == "embedding":
            word = int(self._read.tokens[token])
            return node | {
                "feature": token,
                "layer": "E",
                "feature_type": WORD,
                "jsNodeId": f"E_{word}-{token}",
            }
        return node | {
            "feature": -1,
            "layer": str(layer),
            "feature_type": ERROR,
            "jsNodeId": f"{layer}_error_{token}-0",
        }

    def links(self) -> list[dict[str, Any]]:
        """All links; those of an error say what its parts give."""
        graph, sums = self._graph, defaultdict(dict)  # type: ignore[var-annotated]
        for source, target, weight in zip(
            graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist(), strict=True
        ):
            own = sums[self._ids[source], self._ids[target]]
            kind = str(graph.kinds[source])
            own[kind] = own.get(kind, 0.0) + weight
        found = []
        for (source_id, target_id), parts in sums.items():
            link: dict[str, Any] = {
                "source": source_id, "target": target_id, "weight": sum(parts.values()),
            }  # fmt: skip
            if "_error_" in source_id:
                link[OWN] = parts
            found.append(link)
        return found


def _label(target: Target, model: Model) -> str:
    """What a target is, in few signs: "L5 E3−E1"."""
    if target.kind == "token":
        ids = [target.index] if target.other is None else [target.index, target.other]
        return "−".join(one.replace("▁", " ") for one in model.pieces(ids))
    if target.kind == "router":
        other = "" if target.other is None else f"−E{target.other}"
        return f"L{target.layer} E{target.index}{other}"
    return f"group {target.group} feature {target.index}"


def write_graph(folder: Path, values: Mapping[str, Any]) -> Path:
    """Writes a graph as SLUG.json and puts it on the list of the folder's graphs.

    Raises:
        GrokError: it is larger than Neuronpedia takes, or cannot be written.
    """
    metadata = values["metadata"]
    file = folder / f"{metadata['slug']}.json"
    write_json(file, values, indent=None)
    if file.stat().st_size > MOST_BYTES:
        raise GrokError(
            f"{file}: {file.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}. Keep fewer "
            "nodes and edges of the graph."
        )
    index = folder / INDEX
    listed = config_of(index).get("graphs", []) if index.exists() else []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise refused(index, "no list of graphs", "one", "Remove the file.")
    others = [one for one in listed if one.get("slug") != metadata["slug"]]
    write_json(index, {"graphs": [*others, metadata]})
    return file
