"""Tables of a trace's statistics with their nulls, as CSV; the header row names units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lens.many_prompts.label_tests import LabelTest
from lens.stats.permutation_tests import AgainstChance
from lens.storage.csv_text import table_csv
from lens.traces.coselection import CoSelection, PairTest
from lens.traces.information import Information
from lens.traces.logit_moments import LoadPrediction
from lens.traces.margins import MarginShape
from lens.words import percent


def trace_load_csv(
    load: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    low: float,
    high: float,
    least: Float[np.ndarray, "layer expert"],
    most: Float[np.ndarray, "layer expert"],
) -> str:
    """Load of every expert with its interval and the band of choices at random."""
    layer, expert = (grid.ravel() for grid in np.indices(load.shape))
    return table_csv(
        {
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "load (share of assignments)": load.ravel(),
            "interval, low (95 %, a layer together)": least.ravel(),
            "interval, high (95 %, a layer together)": most.ravel(),
            "chance, low (2.5 %)": np.full(load.size, low),
            "chance, high (97.5 %)": np.full(load.size, high),
        }
    )


def chance_csv(tests: Mapping[str, AgainstChance], labels: Sequence[str], unit: str) -> str:
    """Each quantity of each layer with its null."""
    return table_csv(_chance_columns(tests, labels, unit))


def _chance_columns(
    tests: Mapping[str, AgainstChance], labels: Sequence[str], unit: str
) -> dict[str, Any]:
    attributes = {
        f"value ({unit})": "value",
        "chance, mean": "mean",
        "chance, low (2.5 %)": "low",
        "chance, high (97.5 %)": "high",
        "p": "p",
        "q (Benjamini–Hochberg)": "q",
    }
    columns: dict[str, Any] = {
        "quantity": np.repeat(list(tests), len(labels)),
        "layer": list(labels) * len(tests),
    }
    for name, attribute in attributes.items():
        columns[name] = np.concatenate([getattr(one, attribute) for one in tests.values()])
    columns["draws"] = np.repeat([one.draws for one in tests.values()], len(labels))
    columns["seed"] = np.repeat([one.seed for one in tests.values()], len(labels))
    return columns


def pairs_csv(found: CoSelection, test: PairTest, labels: Sequence[str]) -> str:
    """Every pair of experts of every layer: counts, expected counts, lift, p and q."""
    n_layers, n_experts, _ = found.counts.shape
    a, b = np.triu_indices(n_experts, 1)
    return table_csv(
        {
            "layer": np.repeat(list(labels), len(a)),
            "expert": np.tile(a, n_layers),
            "with expert": np.tile(b, n_layers),
            "tokens that chose both": found.counts[:, a, b].ravel(),
            "expected of the loads": found.expected[:, a, b].ravel(),
            "lift (1 is chance)": found.lift[:, a, b].ravel(),
            "p (two-sided)": test.p[:, a, b].ravel(),
            "q (Benjamini–Hochberg)": test.q[:, a, b].ravel(),
        }
    )


def information_csv(found: Mapping[str, Information], labels: Sequence[str]) -> str:
    """Mutual information of each label of tokens with the experts, by layer."""
    columns = _chance_columns({name: one.test for name, one in found.items()}, labels, "nats")
    more = {
        "H(expert) (nats)": "entropy",
        "most a label could have (nats)": "most",
        "share of it above chance (0 to 1)": "share",
    }
    for name, attribute in more.items():
        columns[name] = np.concatenate([getattr(one, attribute) for one in found.values()])
    return table_csv(columns)


def margins_csv(shape: MarginShape, labels: Sequence[str]) -> str:
    """Quantiles of the margins of each layer, and of normal logits, with the test."""
    columns: dict[str, Any] = {"layer": list(labels)}
    for i, level in enumerate(shape.levels):
        columns[f"margin, {percent(level)} (logits)"] = shape.quantiles[:, i]
        columns[f"of normal logits, {percent(level)} (logits)"] = shape.normal[:, i]
    test = shape.test
    columns |= {
        "median / spread": test.value,
        "chance, low (2.5 %)": test.low,
        "chance, high (97.5 %)": test.high,
        "p (two-sided)": test.p,
        "q (Benjamini–Hochberg)": test.q,
    }
    return table_csv(columns)


def predicted_load_csv(found: LoadPrediction, labels: Sequence[str]) -> str:
    """Measured and predicted loads of every expert."""
    layer, expert = (grid.ravel() for grid in np.indices(found.measured.shape))
    columns: dict[str, Any] = {
        "layer": np.asarray(labels)[layer],
        "expert (index in its layer)": expert,
        "load (share of assignments)": found.measured.ravel(),
        "predicted by normal logits": found.normal.load.ravel(),
    }
    if found.isotropic is not None:
        columns["predicted by the weights alone"] = found.isotropic.load.ravel()
    return table_csv(columns)


def label_lift_csv(found: LabelTest, groups: Sequence[str], labels: Sequence[str]) -> str:
    """Load of every expert under every label with interval, lift, p and q."""
    group, layer, expert = (grid.ravel() for grid in np.indices(found.lift.shape))
    load = found.load
    return table_csv(
        {
            "label": np.asarray(list(groups))[group],
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "load (share of assignments)": load.share.ravel(),
            "interval over traces, low": load.low.ravel(),
            "interval over traces, high": load.high.ravel(),
            "lift (1 is chance)": found.lift.ravel(),
            "difference to the other labels": found.difference.ravel(),
            "p (two-sided)": found.p.ravel(),
            "q (Benjamini–Hochberg)": found.q.ravel(),
            "traces": load.n_traces[group],
            "tokens": load.n_tokens[group],
        }
    )
