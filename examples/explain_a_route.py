"""Of which features is a route made, and which small change of one would send the token elsewhere?

    python -m examples.explain_a_route [--checkpoint DIR] [--dictionary DIR] [--graph FOLDER]

Takes a router's logits apart, finds the smallest dose of a feature that changes the choice, and
runs the model to see whether it does; then traces what the choice was made of down to the words.
Without a dictionary its directions are drawn at random: the arithmetic is as exact, and the error
says that they explain little. With --graph the graph is written as JSON for circuit-tracer's page
and Neuronpedia.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import grok
from grok.dictionaries.attribution import (
    PromptFeatures,
    Target,
    read_features,
    route_account,
    route_graph,
    row_space,
    smallest_flips,
    verify_flips,
)
from grok.dictionaries.exchange.graph_json import graph_values, write_graph
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.dictionaries.kinds.files import load_dictionary
from grok.dictionaries.kinds.parameters import initial
from lens.features.accounts import concentration, largest_terms
from lens.features.flips import agreement

PROMPT = "She was so glad that"
PROMPT_IDS = [5, 17, 3, 42, 99, 256]


def drawn(model: grok.Model, layer: int) -> Dictionary:
    """Random directions of the stream that a layer's router reads."""
    sites, d = ("resid_mid",), model.config.d_model
    design = Design("sae", (layer,), sites, sites, 4 * d, d)
    rule = Activation("relu")
    return Dictionary(design, rule, as_float32(initial(design, rule, 0)))


def traced(model: grok.Model, read: PromptFeatures, target: Target, folder: Path | None) -> None:
    """Traces a choice, and writes its graph where a folder is given."""
    graph = route_graph(model, read, target, budget=64)
    values = graph_values(graph, read, model, f"layer-{target.layer}")
    print(
        f"Its graph has {len(graph.kinds)} nodes and {len(graph.weights)} links; "
        f"{graph.scores.completeness_inner:.0%} of what its nodes are made of is not missed."
    )
    if folder is not None:
        print(write_graph(folder, values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    parser.add_argument("--dictionary", metavar="DIR", help="default: random directions")
    parser.add_argument("--layer", type=int, default=5)
    parser.add_argument("--graph", type=Path, metavar="FOLDER", help="where to write the graph")
    args = parser.parse_args()

    model = grok.load(args.checkpoint, dtype="float32")
    own = load_dictionary(args.dictionary) if args.dictionary else drawn(model, args.layer)
    prompt = PROMPT if model.tokenizer is not None else PROMPT_IDS
    read = read_features(model, own, prompt)
    account = route_account(read, args.layer, -1)
    first, second = account.experts[:2]
    print(
        f"After {account.piece!r} layer {args.layer} chose experts {first} and {second}. "
        f"The dictionary misses {account.error_share:.0%} of what the router sees; the terms are "
        f"off by {account.rounding:.0e}."
    )
    for term in largest_terms(account, first, second, n=4):
        name = f"feature {term.feature}" if term.feature >= 0 else term.kind
        name = f"{term.terms} features" if term.terms > 1 else name
        print(f"  {name:>16} {term.contribution:+.3f}")
    few = concentration(account, first, second)
    print(f"{few.for_80} of {few.features} active features make up 80 % of their part.")

    table = smallest_flips(read, args.layer, -1)
    seen = row_space(table.rows, read.readouts[args.layer])
    leaves, comes = table.pair(0)
    print(
        f"The smallest flip: feature {table.features[0]} by {table.dose[0]:+.3f} puts expert "
        f"{comes} in the place of {leaves}; {table.below_random()[0]:.0%} of random directions "
        f"need less. The router sees {seen.shares[0]:.0%} of it, of a random direction "
        f"{seen.chance:.0%}."
    )
    checked = agreement(verify_flips(model, read, table, rows=4, random=4))
    print(
        f"Of {checked.checked} predicted flips {checked.agreed} came as predicted when the model "
        f"ran, of {checked.random_checked} along random directions {checked.random_agreed}."
    )
    target = Target("router", -1, int(first), int(second), layer=args.layer)
    traced(model, read, target, args.graph)


if __name__ == "__main__":
    main()
