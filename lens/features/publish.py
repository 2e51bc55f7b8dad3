"""`python -m lens.features.publish FOLDER --output DIR --form pages|neuronpedia`.

Writes the features of a database as other tools read them: pages for circuit-tracer, a file for
each feature under the number that graphs give it (`--graph` takes those of one graph alone), or
what Neuronpedia takes, at most 128 features a file. Nothing is sent. Neither has room for routes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from grok.checkpoints.safetensors import parse_json
from grok.errors import GrokError, plain
from lens.errors import LensError
from lens.features.card import Context, FeatureCard
from lens.features.store import FeatureStore
from lens.storage.whole_file import READABLE, whole_file

MOST_OF_A_FILE = 128  # features that Neuronpedia takes at once
MOST_GRAPH = 100 * 2**20
BINS = 50
FEATURE = "cross layer transcoder"  # what graphs call a feature of any transcoder
KINDS = {"top": "Strongest", "quarter 4": "Strongest quarter", "quarter 3": "Third quarter",
         "quarter 2": "Second quarter", "quarter 1": "Weakest quarter"}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lens.features.publish", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--form", choices=("pages", "neuronpedia"), required=True)
    parser.add_argument("--graph", type=Path, metavar="FILE", help="pages of its features alone")
    parser.add_argument("--name", default="own", help="of the set of features")
    args = parser.parse_args(argv)
    try:
        store = FeatureStore.open(args.folder)
        if args.form == "pages":
            n = write_pages(store, args.output, args.name, args.graph)
        else:
            n = write_uploads(store, args.output, args.name)
    except (LensError, GrokError) as error:
        print(f"lens.features.publish: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {n:,} files")
    return 0


def write_pages(store: FeatureStore, output: Path, name: str, graph: Path | None = None) -> int:
    """Writes `features/NAME/NUMBER.json` for every feature that was ever active; how many.

    Args:
        store: of the features.
        output: the folder that circuit-tracer's server shows.
        name: of the set, `scan` of its graphs.
        graph: of which features are wanted; None: all.

    Raises:
        LensError: features that the format cannot number, a file that is no graph, or no room.
    """
    wanted = None if graph is None else _of_graph(graph)
    n = 0
    for number, card in _cards(store, name, wanted):
        _write(output / "features" / name / f"{number}.json", page(card, name, number))
        n += 1
    return n


def write_uploads(store: FeatureStore, output: Path, name: str) -> int:
    """Writes `SOURCE/batch-I.json` for every layer; the number of files.

    Each is a request to Neuronpedia's `feature/upload-batch`: `modelId`, `source`, `features`.
    """
    model, n = store.summary().model, 0
    for layer, own in groupby(_cards(store, name, None), lambda one: one[1].layer):
        source = f"{layer}-{name}"
        i = 0
        while some := list(islice(own, MOST_OF_A_FILE)):
            features = [uploaded(card) for _, card in some]
            values = {"modelId": model, "source": source, "features": features}
            _write(output / source / f"batch-{i}.json", values)
            i += 1
        n += i
    return n


def _cards(
    store: FeatureStore, name: str, wanted: set[int] | None
) -> Iterator[tuple[int, FeatureCard]]:
    """Numbers and cards of all active features, or of the wanted ones."""
    if not _NAME.fullmatch(name):
        raise LensError(
            f"The set's name is {plain(name, 60)!r}; expected letters, digits, dots and hyphens. "
            "Choose another with --name."
        )
    found = store.tables.ask(
        'SELECT "group", feature, layer FROM read_parquet($features) WHERE n > 0 '
        'ORDER BY "group", feature'
    )
    layers = dict(zip(found["group"].tolist(), found["layer"].tolist(), strict=True))
    if min(layers.values(), default=0) < 0 or len(set(layers.values())) < len(layers):
        raise LensError(
            f"{store.folder}: features of a {store.summary().kind} of "
            f"{', '.join(store.summary().reads)}; expected groups of different layers, since other "
            "tools number features by their layer. Publish a dictionary of one site a layer."
        )
    for group, feature in zip(found["group"].tolist(), found["feature"].tolist(), strict=True):
        number = _number(layers[group], feature)
        if wanted is None or number in wanted:
            yield number, store.card(group, feature)


def _number(layer: int, feature: int) -> int:
    """What graphs number a feature: (l + f)(l + f + 1)/2 + f."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def page(card: FeatureCard, name: str, number: int) -> dict[str, Any]:
    """A feature's page: contexts by strength, next tokens, and how strong it is how often.

    Histogram and quantiles are redrawn from the database's 64 bins, even in the logarithm: within a
    bin all strengths count as equally likely.
    """
    used = np.flatnonzero(card.counts)
    low = float(card.edges[used[0]]) if used.size else 0.0
    examples = [
        {"quantile_name": title, "examples": [_example(one) for one in own]}
        for kind, title in KINDS.items()
        if (own := card.of_kind(kind))
    ]
    edges = np.linspace(low, max(card.largest, low), BINS + 1)
    shares = np.diff(_below(card, edges))
    return {
        "transcoder_id": name,
        "index": number,
        "examples_quantiles": examples,
        "top_logits": [piece for _, piece, _ in card.raised],
        "bottom_logits": [piece for _, piece, _ in card.lowered],
        "act_min": low,
        "act_max": card.largest,
        "quantile_values": _quantiles(card),
        "histogram": (shares * card.n).tolist(),
        "activation_frequency": card.rate,
    }


def _upper(card: FeatureCard) -> np.ndarray:
    """Edges of the bins, none beyond the largest strength."""
    edges: np.ndarray = np.minimum(card.edges, max(card.largest, float(card.edges[0])))
    return edges


def _below(card: FeatureCard, strengths: np.ndarray) -> np.ndarray:
    """Share of active tokens at which the feature is at most so strong."""
    whole = np.concatenate([[0], np.cumsum(card.counts)]) / max(card.counts.sum(), 1)
    found: np.ndarray = np.interp(strengths, _upper(card), whole)
    return found


def _quantiles(card: FeatureCard) -> list[float]:
    """Strengths below which 1, 2, … 99 of a hundred active tokens are."""
    whole = np.concatenate([[0], np.cumsum(card.counts)]) / max(card.counts.sum(), 1)
    found: list[float] = np.interp(np.arange(1, 100) / 100, whole, _upper(card)).tolist()
    return found


def _example(context: Context) -> dict[str, Any]:
    return {
        "tokens_acts_list": context.values.tolist(),
        "train_token_ind": context.mark,
        "is_repeated_datapoint": False,
        "tokens": _texts(context.pieces),
    }


def _texts(pieces: Sequence[str]) -> list[str]:
    return [piece.replace("▁", " ") for piece in pieces]


def uploaded(card: FeatureCard) -> dict[str, Any]:
    """A feature as Neuronpedia takes it."""
    logits = [
        [{"token": piece, "value": value} for _, piece, value in own]
        for own in (card.raised, card.lowered)
    ]
    known = card.explanation
    return {
        "index": str(card.feature),
        "density": card.rate,
        "activations": [
            {
                "tokens": _texts(one.pieces),
                "values": one.values.tolist(),
                "quantileMax": None,
                "quantileMin": None,
                "quantileFraction": None,
            }
            for one in card.contexts
        ],
        "explanations": []
        if known is None
        else [{"text": known.text, "methodName": known.explainer, "modelName": known.explainer}],
        "topLogits": logits[0],
        "bottomLogits": logits[1],
    }


def _of_graph(file: Path) -> set[int]:
    """Numbers of the features of a graph."""
    try:
        size = file.stat().st_size
        if size > MOST_GRAPH:
            raise LensError(f"{file}: {size:,} bytes; expected a graph of at most {MOST_GRAPH:,}.")
        nodes = parse_json(file.read_bytes(), str(file)).get("nodes")
    except OSError as error:
        raise LensError(f"{file}: {error.strerror}; expected a graph as JSON.") from error
    if not isinstance(nodes, list) or not all(isinstance(one, dict) for one in nodes):
        raise LensError(f"{file}: no nodes; expected an attribution graph. Name another file.")
    own = [one.get("feature") for one in nodes if one.get("feature_type") == FEATURE]
    return {one for one in own if isinstance(one, int)}


def _write(file: Path, values: Any) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file, mode=READABLE) as stream:
            stream.write(json.dumps(values, allow_nan=False).encode())
    except OSError as error:
        raise LensError(f"{file}: not written ({error.strerror}). Make room for it.") from error


if __name__ == "__main__":
    sys.exit(main())
