"""What all features of a database say of routes, in a sentence."""

from __future__ import annotations

from lens.features.store import FeatureStore
from lens.features.summary import LEVEL
from lens.finding import Finding
from lens.words import percent

APART = 0.1  # share of tokens


def sending(store: FeatureStore) -> Finding:
    """How many features go with an expert far beyond what their words and kinds of text explain."""
    found = store.tables.ask(
        "SELECT count(*) AS alive, count(*) FILTER (associations > 0) AS told, "
        "count(*) FILTER (associations > 0 AND excess >= $apart) AS sending, "
        "median(excess) AS middle FROM read_parquet($features) WHERE n > 0",
        apart=APART,
    )
    alive, told, n = (int(found[name][0]) for name in ("alive", "told", "sending"))
    summary, middle = store.summary(), float(found["middle"][0])
    return Finding(
        sentence=(
            f"{n:,} of {alive:,} learned features have a tenth more of their tokens at one expert "
            "than their words and kinds of text explain."
            if n
            else "No learned feature has a tenth more of its tokens at an expert than its words "
            "and kinds of text explain."
        ),
        verdict="found" if n else "not told from chance",
        detail=(
            f"A feature counts where at least {percent(APART)} more of its tokens choose an expert "
            "than other tokens of the same id in the same kind of text do, and where that is told "
            f"from chance at q ≤ {LEVEL} over all features and experts of {len(summary.layers)} "
            f"layers (Benjamini–Hochberg): {n:,} of {alive:,}, {percent(n / max(1, alive))}. Told "
            f"from chance with some expert, by however little, are {told:,}. In the middle of all "
            f"features the largest excess is {percent(middle, 1)} of their tokens. Tested on "
            f"{_read(summary.sampled_tokens, summary.tokens)}, "
            f"{_independent(summary.sampled_windows)} That a feature goes with an expert does not "
            "say that it sends tokens there: for that the model is run without it."
        ),
        effect=n / max(1, alive),
        effect_name="share of features",
        beats="tokens of the same id and kind of text",
    )


def _read(sampled: int, tokens: int) -> str:
    """How much of the text is tested on."""
    return f"all {tokens:,} tokens" if sampled == tokens else f"{sampled:,} of {tokens:,} tokens"


def _independent(windows: int) -> str:
    """What is taken as independent in the tests."""
    if not windows:
        return (
            "which count as independent though neighbours are alike, so p is too small where both "
            "change slowly."
        )
    return (
        f"in {windows:,} windows of text: neighbours are alike, so what counts is how far windows "
        "agree."
    )
