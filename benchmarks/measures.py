"""All static measures of a router set of Grok-1's size, and how they compare with one product.

    python -m benchmarks measures

The claim: everything but t-SNE and UMAP takes under 1 s together, because only one
matrix product, the L1 norms and the classic standardisation touch d_model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lens.clustering.maps import layer_map
from lens.clustering.trees import (
    classic_tree,
    cut_tree,
    depth_agreement,
    layer_tree,
    silhouette,
)
from lens.experts.measures import expert_measures
from lens.experts.similarity import expert_correlation, expert_similarity_across_layers
from lens.layers.chance_level import chance_level, chance_samples
from lens.layers.similarity import (
    LAYER_METRICS,
    adjacent_layers,
    layer_pair,
    layer_similarity,
)
from lens.questions import four_questions
from lens.routers.gram import router_gram
from lens.routers.matching import nearest_experts
from lens.routers.router_set import RouterSet

SHAPE = (64, 6144, 8)
REPEATS = 5
LIMIT = 1000.0  # ms, of the total


@dataclass(frozen=True)
class Timing:
    """One measure: its best time in milliseconds, and whether it belongs to the total."""

    name: str
    milliseconds: float
    counted: bool = True


def random_routers(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> RouterSet:
    """Gaussian routers with norm scales."""
    rng = np.random.default_rng(seed)
    return RouterSet(
        rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02),
        norm_scales=rng.uniform(0.5, 1.5, shape[:2]).astype(np.float32),
        source="random",
    )


def best_of(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Shortest of several runs after one that is not counted, in milliseconds."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def timings(routers: RouterSet, repeats: int = REPEATS) -> list[Timing]:
    """The time of every static measure, and of t-SNE and UMAP beside them."""
    gram = router_gram(routers)

    def cosines() -> np.ndarray:
        return np.stack([gram.cosine_row(layer) for layer in range(gram.n_layers)])

    def chance(metric: str) -> object:
        chance_samples.cache_clear()
        return chance_level(metric, routers.d_model, routers.n_experts)

    def cut() -> object:
        tree = layer_tree(gram)
        labels = cut_tree(tree, min(6, gram.n_layers))
        return silhouette(tree.distances, labels), depth_agreement(labels)

    measures: list[tuple[str, Callable[[], object]]] = [
        ("the Gram product, canonical", lambda: router_gram(routers)),
        ("the Gram product, raw", lambda: router_gram(routers, "raw")),
        ("all expert cosines", cosines),
        *(
            # A new object each time: a gram keeps what it has summed up.
            (f"layer similarity: {name}", lambda name=name: layer_similarity(replace(gram), name))
            for name in LAYER_METRICS
        ),
        *(
            (f"chance level: {name}", partial(chance, name))
            for name in ("cka", "matched_cosine", "principal_angles")
        ),
        ("adjacent layers", lambda: adjacent_layers(gram)),
        ("a pair of layers", lambda: layer_pair(gram, 0, gram.n_layers - 1)),
        ("expert similarity across layers", lambda: expert_similarity_across_layers(gram)),
        ("expert correlation within layers", lambda: expert_correlation(gram)),
        ("nearest experts", lambda: nearest_experts(gram, 0, 0)),
        ("expert measures, breadth among them", lambda: expert_measures(routers, gram)),
        ("tree, cut, silhouette, agreement", cut),
        ("classic tree (Ward, standardised)", lambda: classic_tree(routers)),
        ("map: MDS", lambda: layer_map(routers, gram, "mds")),
        ("map: PCA (classic)", lambda: layer_map(routers, gram, "pca")),
        ("four questions", lambda: four_questions(routers, gram)),
    ]
    found = [Timing(name, best_of(function, repeats)) for name, function in measures]
    for method in ("tsne", "umap"):
        milliseconds = best_of(partial(layer_map, routers, gram, method), 1)
        found.append(Timing(f"map: {method} (not in the total)", milliseconds, counted=False))
    return found


def total(rows: list[Timing]) -> float:
    """Milliseconds of all measures that belong to the total."""
    return sum(row.milliseconds for row in rows if row.counted)


def table(rows: list[Timing]) -> str:
    """The timings as text: milliseconds, and multiples of the first row."""
    unit = rows[0].milliseconds
    lines = [f"{'measure':<42}{'ms':>9}{'× product':>12}"]
    lines += [
        f"{row.name:<42}{row.milliseconds:>9.2f}{row.milliseconds / unit:>12.2f}" for row in rows
    ]
    all_of_them = total(rows)
    held = "held" if all_of_them <= LIMIT else "NOT HELD"
    lines.append(
        f"{'total without t-SNE and UMAP':<42}{all_of_them:>9.2f}{all_of_them / unit:>12.2f}"
        f"  limit {LIMIT:g} ms: {held}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table; returns 1 when the limit is not held."""
    n_layers, d_model, n_experts = SHAPE
    print(
        f"Static measures on routers [{n_layers}, {d_model}, {n_experts}], warm, best of {REPEATS}"
    )
    rows = timings(random_routers())
    print(table(rows))
    return int(total(rows) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
