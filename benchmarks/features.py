"""What a route costs to explain: reading a prompt, an account, flips, their check, a graph.

    python -m benchmarks features [--checkpoint DIR] [--dictionary DIR]

On 64 tokens, and without a dictionary on random directions of a transcoder's size, which cost the
same: 16 active features a layer and token. A graph is made by a cross-layer transcoder of as many
features too, each written to all later layers. Times are medians, after a first call that compiles.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rows import Row, exit_code, table

if TYPE_CHECKING:
    from grok.dictionaries.kinds.dictionary import Dictionary
    from grok.runner.model import Model

TOKENS, ACTIVE, FEATURES = 64, 16, 2048
REPEATS = 5
LIMIT_ACCOUNT = 50.0  # ms
LIMIT_GRAPH = 5.0  # s


def drawn(model: Model, kind: str = "transcoder") -> Dictionary:
    """Random directions: what experts add, of what routers read."""
    from grok.dictionaries.kinds.design import Activation, Design
    from grok.dictionaries.kinds.dictionary import Dictionary, as_float32

    config, rng = model.config, np.random.default_rng(0)
    layers, d = tuple(config.moe_layers), config.d_model
    design = Design(kind, layers, ("router.input",), ("moe.normed",), FEATURES, d)
    shape = (len(layers), FEATURES)
    params = {
        "encoder": [rng.standard_normal((1, d, FEATURES)) / d**0.5 for _ in layers],
        "encoder_bias": np.zeros(shape),
        "decoder": [
            rng.standard_normal((FEATURES, len(group.writes), d), np.float32) / 50
            for group in design.groups
        ],
        "decoder_bias": np.zeros((len(layers), d)),
        "gate": np.ones(shape),
    }
    return Dictionary(design, Activation("topk", ACTIVE), as_float32(params))


def median(function: Callable[[], object]) -> float:
    """Seconds of a call, the first not counted."""
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measured(model: Model, dictionary: Dictionary, across: Dictionary) -> list[Row]:
    """The rows of the table; `across` writes all later layers, for a graph of its own."""
    from grok.dictionaries.attribution import (
        Target,
        plan_graph,
        read_features,
        route_account,
        route_graph,
        smallest_flips,
        verify_flips,
    )

    tokens = np.random.default_rng(2).integers(3, model.config.vocab_size, TOKENS)
    read = read_features(model, dictionary, tokens.astype(np.int32))
    layer = model.config.moe_layers[-1]
    flips = smallest_flips(read, layer, -1)
    a, b = (int(e) for e in np.argsort(-read.logits[-1, -1])[:2])
    target = Target("router", -1, a, b, layer=layer)
    plan = plan_graph(model, read)
    read_across = read_features(model, across, read.tokens)
    plan_across = plan_graph(model, read_across)

    def explain() -> object:
        again = read_features(model, dictionary, read.tokens)
        return route_account(again, layer, -1)

    return [
        Row("account of a cell, prompt read", 1000 * median(lambda: route_account(read, layer, -1)),
            "ms", limit=LIMIT_ACCOUNT),
        Row("account of a cell, prompt not read", 1000 * median(explain), "ms"),
        Row("smallest flips of a cell", 1000 * median(lambda: smallest_flips(read, layer, -1)),
            "ms"),
        Row("16 flips checked", median(lambda: verify_flips(model, read, flips)), "s", digits=2),
        Row("graph of a route, 512 features", median(lambda: route_graph(model, read, target)),
            "s", limit=LIMIT_GRAPH, digits=2, note=f"{plan.seconds:.2f} s were said before"),
        Row("the same across layers (CLT)",
            median(lambda: route_graph(model, read_across, target)),
            "s", limit=LIMIT_GRAPH, digits=2, note=f"{plan_across.seconds:.2f} s were said before"),
        Row("memory said before", plan.bytes / 1e6, "MB"),
        Row("the same across layers (CLT)", plan_across.bytes / 1e6, "MB"),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns 1 when a limit is not held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks features", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--dictionary", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    import grok
    from grok.dictionaries.kinds.files import load_dictionary

    model = grok.load(args.checkpoint, dtype="float32", mode="resident")
    own = load_dictionary(args.dictionary) if args.dictionary else drawn(model)
    rows = measured(model, own, drawn(model, "clt"))
    print(table(rows))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
