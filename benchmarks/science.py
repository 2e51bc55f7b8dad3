"""Every measure and every null: time, memory, and the obvious way beside it.

    python -m benchmarks science

Three shapes: Grok-1's routers [64, 6144, 8], a model of many experts [48, 2048, 128] and
the bundled model's [12, 128, 8]. Each shape runs in a process of its own. "Cold" is the
first call in it, what it imports included; "warm" the best of the following calls; "peak"
the memory allocated meanwhile. The obvious way is scikit-learn's, scipy's or a plain
loop over the weights that gives the same numbers; where it would take minutes a part of
it is run and multiplied, which the table marks with ~.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measures import random_routers
from lens import questions
from lens.clustering import maps as embedding
from lens.clustering import trees as clustering
from lens.experts import chains
from lens.experts import measures as experts
from lens.experts import within_layers as within
from lens.experts.same_expert import matched_links
from lens.experts.unequal_experts import equal_experts
from lens.layers import bootstrap, similarity, transitions
from lens.layers import pair_null as layer_null
from lens.layers.draws import LayerDraws
from lens.layers.mixing_null import mixing_null
from lens.layers.shared_directions import shared_null, without_shared
from lens.routers import (
    gram,
)
from lens.routers import (
    random_rotations as rotation,
)
from lens.routers import (
    shuffled_coordinates as permutation,
)
from lens.routers.gram import RouterGram
from lens.routers.router_set import RouterSet

SHAPES = ((64, 6144, 8), (48, 2048, 128), (12, 128, 8))
GROK = SHAPES[0]
# Milliseconds at Grok-1's size.
ROTATION_LIMIT = 5000.0  # 1,000 draws for all pairs
MIXING_LIMIT = 3000.0  # 999 draws, neighbours and all pairs
QUESTIONS_LIMIT = 1500.0
SHARED_LIMIT = 1000.0
EQUAL_LIMIT = 500.0
NULL_METRICS = ("cka", "matched_cosine", "principal_angles", "cosine")
WARM_SECONDS = 2.0  # repeated until so much time has passed, five times at most


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        name: for the table.
        run: computes it.
        obvious: the same by the obvious way, or a part of it.
        parts: how many times `obvious` would have to run to be the whole.
        limit: milliseconds that a warm call may take at Grok-1's size.
    """

    name: str
    run: Callable[[], object]
    obvious: Callable[[], object] | None = None
    parts: float = 1.0
    limit: float | None = None


def pairs_of(n_layers: int) -> int:
    return n_layers * (n_layers - 1) // 2


def obvious_ways(routers: RouterSet, columns: np.ndarray) -> dict[str, tuple[Callable, float]]:
    """What one would write first, from the weights: the call, and how many make the whole."""
    from scipy.linalg import subspace_angles
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import pdist, squareform
    from sklearn.metrics.pairwise import cosine_similarity

    n_layers, d_model, n_experts = columns.shape
    flat = columns.reshape(n_layers, -1)
    unit = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    pairs = pairs_of(n_layers)
    rng = np.random.default_rng(0)

    def cka(count: int) -> Callable:
        def run() -> None:
            for i in range(count):
                a, b = columns[0], columns[1 + i % (n_layers - 1)]
                np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)

        return run

    def matched(count: int) -> Callable:
        def run() -> None:
            for i in range(count):
                cosines = unit[0].T @ unit[1 + i % (n_layers - 1)]
                rows, partner = linear_sum_assignment(-cosines)
                cosines[rows, partner].mean()

        return run

    def angles() -> None:
        subspace_angles(columns[0][:, :-1], columns[1][:, :-1])

    def null_draw() -> None:
        """One draw for one pair: both layers turned in full dimensions."""
        for _ in range(2):
            np.linalg.qr(rng.standard_normal((d_model, n_experts)))
        cka(1)()

    def resampled() -> None:
        rows = rng.integers(0, d_model, d_model)
        a, b = columns[0][rows], columns[1][rows]
        np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)

    some = min(pairs, 200)
    return {
        "cka": (cka(some), pairs / some),
        "matched_cosine": (matched(some), pairs / some),
        "principal_angles": (angles, pairs),
        "cosine": (lambda: cosine_similarity(flat), 1),
        "correlation": (lambda: np.corrcoef(flat), 1),
        "euclidean": (lambda: squareform(pdist(flat)), 1),
        "null": (null_draw, 1000 * pairs),
        "bootstrap": (resampled, 1000),
    }


def obvious_breadth(columns: np.ndarray, top_k: int, tokens: int) -> Callable:
    """Residual streams drawn in full, as many as the sampled method has points."""

    def run() -> None:
        rng = np.random.default_rng(0)
        stream = rng.standard_normal((tokens, columns.shape[1]), dtype=np.float32)
        chosen = np.argpartition(-(stream @ columns[0]), top_k, axis=1)[:, :top_k]
        np.bincount(chosen.ravel(), minlength=columns.shape[2])

    return run


def measures_of(routers: RouterSet) -> Iterator[Measure]:
    """Everything that is measured at one shape, each made when it is its turn."""
    columns = routers.columns()
    sizes = LayerDraws.of(routers)
    rows = columns.transpose(0, 2, 1).reshape(-1, routers.d_model)
    yield Measure(
        "products of all router columns", lambda: gram.router_gram(routers), lambda: rows @ rows.T
    )
    g: RouterGram = gram.router_gram(routers)
    obvious = obvious_ways(routers, columns)
    yield from similarity_measures(g, obvious)
    yield from null_measures(g, sizes, obvious["null"])
    yield from fair_measures(routers, g)
    yield from draw_measures(g, columns, sizes, obvious["bootstrap"][0])
    yield from expert_measures(routers, g, columns)
    yield from tree_measures(routers, g)
    yield Measure(
        "four questions", lambda: questions.four_questions(routers, g), limit=QUESTIONS_LIMIT
    )


def similarity_measures(
    g: RouterGram, obvious: Mapping[str, tuple[Callable, float]]
) -> Iterator[Measure]:
    for metric in similarity.LAYER_METRICS:
        call, parts = obvious[metric]

        # A new object each time: a gram keeps what it has summed up.
        def run(metric: str = metric) -> np.ndarray:
            return similarity.layer_similarity(replace(g), metric)

        yield Measure(f"similarity: {metric}", run, call, parts)


def null_measures(
    g: RouterGram, sizes: LayerDraws, obvious: tuple[Callable, float]
) -> Iterator[Measure]:
    """The rotation null of all pairs of layers."""
    call, parts = obvious
    for metric in NULL_METRICS:
        draws = sizes.all_pairs()
        yield Measure(
            f"rotation null, all pairs, {draws} draws: {metric}",
            partial(layer_null.layer_null, g, metric, draws=draws),
            call if metric == "cka" else None,
            parts * draws / 1000,
            limit=ROTATION_LIMIT,
        )


def fair_measures(routers: RouterSet, g: RouterGram) -> Iterator[Measure]:
    """The nulls that keep what all layers share."""

    def mixing() -> None:
        matched_links(g)
        mixing_null(g)

    shared = without_shared(g)
    yield Measure("experts mixed, neighbours and all pairs", mixing, limit=MIXING_LIMIT)
    yield Measure("matches of neighbours beside mixed experts", lambda: matched_links(g))
    yield Measure("shared directions, by rule", lambda: without_shared(g))
    yield Measure(
        "layers mixed, all pairs: cka", lambda: shared_null(shared, "cka"), limit=SHARED_LIMIT
    )
    yield Measure("equal experts, two nulls", lambda: equal_experts(routers, g), limit=EQUAL_LIMIT)


def draw_measures(
    g: RouterGram, columns: np.ndarray, sizes: LayerDraws, resampled: Callable
) -> Iterator[Measure]:
    """Single draws, the test of transitions, and bootstrap intervals."""
    few = sizes.resampled_pair()
    some = sizes.resampled_adjacent_pairs()
    yield Measure("a whole set turned at random", lambda: next(rotation.unrelated_sets(g, 1, 0)))
    yield Measure(
        "a draw of shuffled coordinates",
        lambda: next(permutation.permuted_sets(columns, 1, 0)),
    )
    null = layer_null.layer_null(g, draws=sizes.all_pairs())
    adjacent = similarity.adjacent_layers(g)
    yield Measure(
        "transitions (max-statistic)",
        lambda: transitions.transitions(adjacent, transitions.drawn_series(g, null)),
    )
    yield Measure(
        f"interval of a pair, {few} draws",
        lambda: bootstrap.pair_interval(columns, 0, 1, draws=few),
        resampled,
        float(few),
    )
    yield Measure(
        f"intervals of adjacent layers, {some} draws",
        lambda: bootstrap.adjacent_intervals(columns, draws=some),
        resampled,
        float(some * (len(columns) - 1)),
    )


def expert_measures(routers: RouterSet, g: RouterGram, columns: np.ndarray) -> Iterator[Measure]:
    n_layers, _, n_experts = columns.shape
    points = 2**12
    yield Measure("chains of matches", lambda: chains.significant_chains(g))
    yield Measure(
        "cosines within layers, with null",
        lambda: within.within_layers(g, equal_experts(routers, g)),
    )
    yield Measure(
        "expert measures, breadth among them",
        lambda: experts.expert_measures(routers, g),
        obvious_breadth(columns, routers.top_k, points),
        n_layers * (2**16 if n_experts <= 16 else 2**12) / points,
    )


def tree_measures(routers: RouterSet, g: RouterGram) -> Iterator[Measure]:
    """Trees, groups and maps of layers."""
    tree = clustering.layer_tree(g)
    cut = clustering.cut_tree(tree, 3)
    yield Measure("tree, optimal leaf order", lambda: clustering.layer_tree(g))
    yield Measure(
        "silhouette",
        lambda: clustering.silhouette(tree.distances, cut),
        lambda: _sklearn("silhouette_score")(tree.distances, cut, metric="precomputed"),
    )
    yield Measure(
        "agreement with depth",
        lambda: clustering.depth_agreement(cut),
        lambda: _sklearn("adjusted_rand_score")(cut, clustering.depth_terciles(g.n_layers)),
    )
    yield Measure("map: MDS with trustworthiness", lambda: embedding.layer_map(routers, g, "mds"))


def _sklearn(name: str) -> Callable:
    from sklearn import metrics

    return getattr(metrics, name)


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def best(call: Callable[[], object]) -> float:
    """Shortest of up to five calls, fewer when they take long."""
    times = [timed(call)]
    while len(times) < 5 and sum(times) < 1000 * WARM_SECONDS:
        times.append(timed(call))
    return min(times)


def measure(one: Measure) -> dict[str, Any]:
    """One row: cold, warm and obvious time in milliseconds, peak memory in MiB."""
    cold = timed(one.run)
    warm = best(one.run)
    tracemalloc.start()
    one.run()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    obvious = None if one.obvious is None else best(one.obvious) * one.parts
    return {
        "name": one.name,
        "cold": cold,
        "warm": warm,
        "peak": peak,
        "obvious": obvious,
        "exact": one.parts == 1,
        "limit": one.limit,
    }


def worker(shape: tuple[int, ...]) -> int:
    """Measures one shape and prints a row of JSON for each measure."""
    routers = random_routers(shape)  # type: ignore[arg-type]  # three numbers
    for one in measures_of(routers):
        print(json.dumps(measure(one)), flush=True)
    return 0


def line(row: dict) -> str:
    """A row of the table."""
    obvious = ratio = ""
    if row["obvious"] is not None:
        about = "" if row["exact"] else "~"
        obvious = f"{about}{row['obvious']:,.1f}"
        ratio = f"{about}{row['obvious'] / row['warm']:,.1f}×"
    return (
        f"{row['name']:<52}{row['cold']:>11,.1f}{row['warm']:>11,.1f}{row['peak']:>9,.1f}"
        f"{obvious:>15}{ratio:>11}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints a table a shape; returns 1 when the nulls' limit is not held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.science")
    parser.add_argument("--worker", metavar="L,D,E", help="measure one shape, rows as JSON")
    options = parser.parse_args(argv)
    if options.worker:
        return worker(tuple(int(n) for n in options.worker.split(",")))
    broken = False
    for shape in SHAPES:
        text = ",".join(map(str, shape))
        print(f"\nRouters [{text.replace(',', ', ')}]: ms cold, ms warm, MiB peak, ms and ratio of")
        print(f"{'the obvious way':<52}{'cold':>11}{'warm':>11}{'peak':>9}{'obvious':>15}{'':>11}")
        command = [sys.executable, "-m", "benchmarks.science", "--worker", text]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for out in process.stdout:
                row = json.loads(out)
                said = line(row)
                if shape == GROK and row["limit"] is not None:
                    held = row["warm"] <= row["limit"]
                    broken |= not held
                    said += f"  limit {row['limit']:g} ms: {'held' if held else 'NOT HELD'}"
                print(said, flush=True)
        broken |= process.returncode != 0
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
