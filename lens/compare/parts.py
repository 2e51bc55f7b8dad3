"""Tables and figures of two router sets side by side."""

from __future__ import annotations

import numpy as np

from lens import figures
from lens.layers.similarity import LAYER_METRICS
from lens.model_pairs.comparison import Comparison
from lens.model_pairs.depth_profiles import Profile
from lens.report.parts import Part
from lens.routers.router_set import RouterSet, layer_labels
from lens.storage.csv_text import table_csv

LAYERS = "Layers of A and of B"
EXPERTS = "Experts of A and of B"
DEPTH = "Structure over depth"


def compare_parts(
    a: RouterSet, b: RouterSet, found: Comparison | None, profiles: list[Profile]
) -> list[Part]:
    """Figures and tables of a comparison; directions only where they can be compared."""
    parts = []
    if found is not None:
        parts = [
            Part("layers", lambda: layers_csv(a, b, found), section=LAYERS),
            Part(
                "layers_changed",
                lambda: figures.layers_changed(found, layer_labels(a)),
                section=LAYERS,
            ),
            Part(
                "layers_across",
                lambda: figures.layers_across(found, layer_labels(a), layer_labels(b)),
                section=LAYERS,
            ),
            Part(
                "experts_changed",
                lambda: figures.experts_changed(found, layer_labels(a)),
                section=EXPERTS,
            ),
            Part("experts", lambda: experts_csv(a, b, found), section=EXPERTS),
        ]
    return [
        *parts,
        Part("profiles_over_depth", lambda: figures.profiles_over_depth(profiles), section=DEPTH),
        Part("profiles", lambda: profiles_csv(a, b, profiles), section=DEPTH),
    ]


def layers_csv(a: RouterSet, b: RouterSet, found: Comparison) -> str:
    """One row for each layer that both sets have."""
    rows, others = found.pairs.T
    return table_csv(
        {
            "layer": [a.label(int(row)) for row in rows],
            "verdict": [found.verdict(pair) for pair in range(len(rows))],
            LAYER_METRICS[found.metric].label: found.similarity,
            f"low (2.5 %; {found.bootstrap_draws} draws)": found.low,
            "high (97.5 %)": found.high,
            f"z ({found.null}; seed {found.seed})": found.z,
            "p": found.p,
            "q (Benjamini–Hochberg over layers)": found.q,
            f"q, unrelated directions ({found.unrelated_draws} draws)": found.unrelated_q,
            "mean matched cosine (−1 to 1)": found.cosine.mean(axis=1),
            "weakest match (cosine)": found.cosine.min(axis=1),
            "experts that moved": (found.partner != np.arange(a.n_experts)).sum(axis=1),
            "best assignment in B": [
                b.label(int(found.alignment[row])) if found.alignment[row] >= 0 else ""
                for row in rows
            ],
        }
    )


def experts_csv(a: RouterSet, b: RouterSet, found: Comparison) -> str:
    """One row for each expert of each layer that both sets have."""
    pair, expert = (grid.ravel() for grid in np.indices(found.cosine.shape))
    rows = found.pairs[pair]
    partner = found.partner[pair, expert]
    return table_csv(
        {
            "expert of A": [
                a.label(int(row), int(e)) for row, e in zip(rows[:, 0], expert, strict=True)
            ],
            "expert of B": [
                b.label(int(row), int(e)) for row, e in zip(rows[:, 1], partner, strict=True)
            ],
            "cosine (−1 to 1)": found.cosine[pair, expert],
            "angle (degrees)": found.angle[pair, expert],
            f"p (experts mixed, {found.expert_draws} draws, seed {found.seed})": found.expert_p[
                pair, expert
            ],
            "q (Benjamini–Hochberg over experts)": found.expert_q[pair, expert],
            "norm of B over norm of A": found.norm_ratio[pair, expert],
            "change of P(selected), isotropic prior": found.breadth_change[pair, expert],
        }
    )


def profiles_csv(a: RouterSet, b: RouterSet, profiles: list[Profile]) -> str:
    """One row for each layer of each set."""
    return table_csv(
        {
            "set": ["A"] * a.n_layers + ["B"] * b.n_layers,
            "layer": [*layer_labels(a), *layer_labels(b)],
            **{profile.name: np.concatenate([profile.a, profile.b]) for profile in profiles},
        }
    )
