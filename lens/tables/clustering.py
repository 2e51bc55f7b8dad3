"""Groups, branches and maps of layers with what chance gives, as CSV text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lens.clustering.branch_support import BranchSupport
from lens.clustering.map_stability import MapStability, TrustNull
from lens.clustering.reference_sets import DRAWN
from lens.clustering.tree_null import GroupNull
from lens.clustering.trees import LayerTree
from lens.storage.csv_text import table_csv


def silhouette_csv(null: GroupNull) -> str:
    """One row for each number of groups: its silhouette, chance, and p-values."""
    n = len(null.k)
    return table_csv(
        {
            "groups": null.k,
            "silhouette (−1 to 1)": null.silhouette,
            "chance, mean": null.mean,
            "chance, low (2.5 %)": null.low,
            "chance, high (97.5 %)": null.high,
            "p for this number of groups": null.p,
            "p for all numbers together (maximum statistic)": null.p_any,
            "draws": np.full(n, null.draws),
            "seed": np.full(n, null.seed),
            "chance": [null.method] * n,
        }
    )


def branches_csv(
    tree: LayerTree, labels: Sequence[str], support: BranchSupport | None = None
) -> str:
    """The merges of a tree, lowest first, with the support of the branch that each makes.

    Groups that a merge made are named by its number.
    """
    n = len(tree.linkage)
    names = [*labels, *(f"merge {i}" for i in range(n))]
    columns: dict[str, Any] = {
        "merge": np.arange(n),
        "first": [names[int(i)] for i in tree.linkage[:, 0]],
        "second": [names[int(i)] for i in tree.linkage[:, 1]],
        "height (distance)": tree.linkage[:, 2],
        "layers in the group": tree.linkage[:, 3].astype(int),
    }
    if support is not None:
        columns |= {
            "support (share of resampled trees with this branch)": support.support,
            f"support that 95 % of branches of {DRAWN[support.reference]} stay below": (
                [support.level] * n
            ),
            "resampled trees": [support.draws] * n,
            "drawn sets": [support.sets] * n,
            "seed": [support.seed] * n,
            "layers": [
                " ".join(label for label, held in zip(labels, row, strict=True) if held)
                for row in support.members
            ],
        }
    return table_csv(columns)


def map_judgement_csv(
    maps: Sequence[tuple[str, TrustNull, MapStability | None]],
) -> str:
    """One row for each map: trustworthiness and stability, with what chance gives."""
    nan = float("nan")
    stable = [found for _, _, found in maps]
    return table_csv(
        {
            "map": [name for name, _, _ in maps],
            "trustworthiness (0 to 1)": [trust.value for _, trust, _ in maps],
            "maps of drawn sets, mean": [trust.mean for _, trust, _ in maps],
            "maps of drawn sets, least": [trust.low for _, trust, _ in maps],
            "maps of drawn sets, largest": [trust.high for _, trust, _ in maps],
            "points at random, mean": [trust.random for _, trust, _ in maps],
            "p": [trust.p for _, trust, _ in maps],
            "drawn sets": [trust.draws for _, trust, _ in maps],
            "seed of the drawn sets": [trust.seed for _, trust, _ in maps],
            "drawn": [DRAWN[trust.reference] for _, trust, _ in maps],
            "Procrustes disparity between seeds (0 to 1)": [
                s.disparity if s else nan for s in stable
            ],
            "disparity of shuffled layers": [s.disparity_chance if s else nan for s in stable],
            "neighbours shared between seeds (0 to 1)": [s.overlap if s else nan for s in stable],
            "neighbours shared by chance": [s.overlap_chance if s else nan for s in stable],
            "seeds": [" ".join(map(str, s.seeds)) if s else "" for s in stable],
        }
    )
