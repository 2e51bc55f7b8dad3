"""What all features of a database say of routes, in a sentence."""

from __future__ import annotations

from lens.features.store import FeatureStore
from lens.finding import Finding, verdict_of
from lens.words import percent

LEVEL = 0.05


def sending(store: FeatureStore) -> Finding:
    """How many features go with an expert beyond what their words and kinds of text explain."""
    found = store.tables.ask(
        "SELECT count(*) AS alive, count(*) FILTER (associations > 0) AS sending "
        "FROM read_parquet($features) WHERE n > 0"
    )
    alive, n, summary = int(found["alive"][0]), int(found["sending"][0]), store.summary()
    share = n / max(1, alive)
    return Finding(
        sentence=(
            f"{n:,} of {alive:,} learned features go with an expert oftener than their words and "
            "kinds of text explain."
            if n
            else "No learned feature goes with an expert oftener than its words and kind of text "
            "explain."
        ),
        verdict=verdict_of(LEVEL, n > 0),
        detail=(
            f"A feature counts where its tokens choose an expert oftener or less often than other "
            f"tokens of the same id in the same kind of text do, at q ≤ {LEVEL} over all features "
            f"and experts of {len(summary.layers)} layers (Benjamini–Hochberg): {n:,} of {alive:,} "
            f"({percent(share)}). Of what is found so, at most one cell in twenty is expected by "
            f"chance. Tested on {summary.sampled_tokens:,} of {summary.tokens:,} tokens. That a "
            "feature goes with an expert does not say that it sends tokens there: for that the "
            "model is run without it."
        ),
        effect=share,
        effect_name="share of features with an association",
        null_mean=0.0,
        beats="tokens of the same id and kind of text",
        p_value=float("nan"),
    )
