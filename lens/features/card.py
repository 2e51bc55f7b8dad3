"""Everything that a database says of one feature.

Axes: label (texts of the pass), bin (of strengths), token (of a context), context, cell (layer and
expert), word (a token of the vocabulary), other (a feature).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.features.summary import LEVEL, Summary
from lens.features.tables import Tables

BINS = 64
UNKNOWN = "\ufffd"


def feature_name(layer: int, feature: int, given: str = "") -> str:
    """A feature as pages write it: "L3·F120", or "F120" of a dictionary of one group.

    Args:
        layer: of the site that it writes first; −1 where there is one group of features alone.
        feature: its number in its group.
        given: name that somebody gave it, from outside: "L3·F120 · endings".
    """
    name = f"L{layer}·F{feature}" if layer >= 0 else f"F{feature}"
    return f"{name} · {given}" if given else name


@dataclass(frozen=True, eq=False)
class Context:
    """A place where the feature was looked at.

    Attributes:
        kind: "top", "quarter 1" (weakest) to "quarter 4" of active tokens by strength; of those
            kept for explanations "active", "random" and "near" (where a similar one is active).
        rank: its place among its kind, from 0.
        label: of the text.
        held_out: the dictionary was not trained on it.
        tokens, pieces: around the mark.
        values: strengths at them, 0 where not active.
        mark: which of them is the one that was chosen.
        value: strength there.
        window, position: where in the text of the pass.
    """

    kind: str
    rank: int
    label: str
    held_out: bool
    tokens: Int[np.ndarray, " token"]
    pieces: tuple[str, ...]
    values: Float[np.ndarray, " token"]
    mark: int
    value: float
    window: int
    position: int


@dataclass(frozen=True)
class Explanation:
    """A sentence on when a feature is active, with how well it tells held-out contexts apart.

    Attributes:
        text: the sentence.
        explainer: who wrote it.
        detection: balanced accuracy of "is it active in this context", chance ½; low, high: its
            95 % interval.
        fuzzing: balanced accuracy of "is it this token", chance ½.
        contexts: that it was judged on.
    """

    text: str
    explainer: str
    detection: float
    low: float
    high: float
    fuzzing: float
    contexts: int


@dataclass(frozen=True, eq=False)
class FeatureCard:
    """One feature.

    Attributes:
        group, feature: its place in the dictionary.
        layer: of the site that it writes first; −1 in a dictionary of one group.
        n: tokens at which it was active; rate: their share.
        mean, largest: strength where active.
        edges: strengths between bins; counts: tokens in each.
        label_rates: share of each text's tokens at which it is active.
        explained: share of its strength's variance that "domain" (the text), "token" (the id) and
            "pair" (it and the id before it) explain; not a number where it was never active.
        words: tokens that carry most of its strength: id, piece, share of the whole strength.
        routes: of cells that stand out, arrays by name: `layer`, `expert`; `push`, logits that it
            adds there on average where active; `static`, the same for a strength of 1, times the
            stream's root mean square; `share` of its tokens that go there and `base` of all;
            `excess`, share beyond what others of the same id and text do; `log10_p` and `log10_q`
            of that; `flips`, share of its tokens at which that layer would choose others without
            it. Not a number where it cannot be said.
        flips, flips_layer: the largest of those shares over all layers, and where.
        raised, lowered: next tokens: id, piece, logit for a strength of 1 over the stream's root
            mean square.
        near: features that write alike: group, feature, cosine.
        together: features active at the same tokens: group, feature, PMI in nats, Jaccard.
        contexts: the strongest, and some of each quarter.
        explanation: None where there is none.
    """

    group: int
    feature: int
    layer: int
    n: int
    rate: float
    mean: float
    largest: float
    edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, " bin"]
    label_rates: Mapping[str, float]
    explained: Mapping[str, float]
    words: tuple[tuple[int, str, float], ...]
    routes: Mapping[str, np.ndarray]
    flips: float
    flips_layer: int
    raised: tuple[tuple[int, str, float], ...]
    lowered: tuple[tuple[int, str, float], ...]
    near: tuple[tuple[int, int, float], ...]
    together: tuple[tuple[int, int, float, float], ...]
    contexts: tuple[Context, ...]
    explanation: Explanation | None

    @property
    def title(self) -> str:
        """Its name as pages write it."""
        return feature_name(self.layer, self.feature)

    def of_kind(self, *kinds: str) -> tuple[Context, ...]:
        """The contexts of some kinds, such as "top"."""
        return tuple(one for one in self.contexts if one.kind in kinds)

    def strongest_routes(self, most: int | None = None) -> dict[str, np.ndarray]:
        """The columns of `routes`, those beyond chance first, each by the size of its excess.

        Args:
            most: rows at most; None gives all.

        Returns:
            The columns, and `found`: whether the excess is beyond chance, at q ≤ `LEVEL`.
        """
        routes = {name: np.asarray(column) for name, column in self.routes.items()}
        found = np.nan_to_num(routes["log10_q"], nan=0.0) <= np.log10(LEVEL)
        weight = np.abs(np.nan_to_num(routes["excess"], nan=0.0))
        order = np.lexsort((-weight, ~found))[:most]
        return {name: column[order] for name, column in (routes | {"found": found}).items()}


def read_card(
    tables: Tables, summary: Summary, pieces: tuple[str, ...], group: int, feature: int
) -> FeatureCard:
    """The card of one feature.

    Raises:
        LensError: there is no such feature, or its row says what cannot be.
    """
    if not (0 <= group < summary.groups and 0 <= feature < summary.features):
        raise LensError(
            f"There is no feature {feature} of group {group}; this dictionary has "
            f"{summary.groups} groups of {summary.features:,}."
        )
    one = {"g": group, "f": feature}
    found = tables.ask(
        'SELECT * FROM read_parquet($features) WHERE "group" = $g AND feature = $f', **one
    )
    if len(found["n"]) != 1:
        raise LensError(f"{tables.folder}: feature {feature} of group {group} is not in it once.")
    row = {name: column[0] for name, column in found.items()}
    first, counts = int(row["bin_first"]), np.zeros(BINS, np.int64)
    if first + len(row["bins"]) > BINS:
        raise LensError(f"{tables.folder}: a histogram of feature {feature} is too long.")
    counts[first : first + len(row["bins"])] = row["bins"]
    places = [divmod(int(other), summary.features) for other in row["near"]]
    others = [divmod(int(other), summary.features) for other in row["with"]]
    pmi, jaccard = _numbers(row["with_pmi"]), _numbers(row["with_jaccard"])
    return FeatureCard(
        group=group,
        feature=feature,
        layer=int(row["layer"]),
        n=int(row["n"]),
        rate=float(row["rate"]),
        mean=float(row["mean"]),
        largest=float(row["max"]),
        edges=np.geomspace(summary.lowest, summary.highest, BINS + 1),
        counts=counts,
        label_rates=dict(zip(summary.labels, _numbers(row["label_rates"]), strict=False)),
        explained={name: float(row[f"by_{name}"]) for name in ("domain", "token", "pair")},
        words=_tokens(pieces, row["words"], row["word_shares"]),
        routes=_routes(tables, summary, one),
        flips=float(row["flips"]),
        flips_layer=int(row["flips_layer"]),
        raised=_tokens(pieces, row.get("raised", ()), row.get("raised_by", ())),
        lowered=_tokens(pieces, row.get("lowered", ()), row.get("lowered_by", ())),
        near=tuple(
            (g, f, cosine)
            for (g, f), cosine in zip(places, _numbers(row["near_cosine"]), strict=False)
        ),
        together=tuple((g, f, a, b) for (g, f), a, b in zip(others, pmi, jaccard, strict=False)),
        contexts=read_contexts(tables, summary, pieces, "examples", group, feature),
        explanation=_explanation(tables, one),
    )


def read_contexts(
    tables: Tables,
    summary: Summary,
    pieces: tuple[str, ...],
    table: str,
    group: int,
    feature: int,
) -> tuple[Context, ...]:
    """Contexts of a feature from "examples", or from "judged" where there are such.

    Raises:
        LensError: a context that does not fit its window.
    """
    if table not in tables.names:
        return ()
    found = tables.ask(
        f'SELECT * FROM read_parquet(${table}) WHERE "group" = $g AND feature = $f '
        "ORDER BY kind, rank",
        g=group,
        f=feature,
    )
    wanted = sorted({int(window) for window in found["window"]})
    rows = tables.ask(
        'SELECT * FROM read_parquet($windows) WHERE list_contains($wanted::INTEGER[], "window")',
        wanted=wanted,
    )
    windows = {
        int(w): (int(label), bool(held), tokens)
        for w, label, held, tokens in zip(
            rows["window"], rows["label"], rows["held_out"], rows["tokens"], strict=True
        )
    }
    contexts = []
    for i, window in enumerate(found["window"]):
        label, held, tokens = windows.get(int(window), (0, False, np.zeros(0, np.int32)))
        start, values = int(found["start"][i]), np.asarray(found["values"][i], np.float32)
        mark, kind = int(found["position"][i]) - start, int(found["kind"][i])
        own = np.asarray(tokens[start : start + len(values)]) if start >= 0 else tokens[:0]
        if len(own) != len(values) or not 0 <= mark < len(own):
            raise LensError(
                f"{tables.folder}: a context of feature {feature} lies outside its window."
            )
        if not (0 <= label < len(summary.labels) and 0 <= kind < len(summary.kinds)):
            raise LensError(f"{tables.folder}: a context of feature {feature} has no such kind.")
        contexts.append(
            Context(
                kind=summary.kinds[kind],
                rank=int(found["rank"][i]),
                label=summary.labels[label],
                held_out=held,
                tokens=own,
                pieces=tuple(_piece(pieces, token) for token in own),
                values=values,
                mark=mark,
                value=float(found["value"][i]),
                window=int(window),
                position=int(found["position"][i]),
            )
        )
    return tuple(contexts)


def _routes(tables: Tables, summary: Summary, one: Mapping[str, int]) -> dict[str, np.ndarray]:
    found: dict[str, Any] = tables.ask(
        "SELECT layer, expert, push, static, share, excess, log10_p, log10_q, flips FROM "
        'read_parquet($routes) WHERE "group" = $g AND feature = $f ORDER BY layer, expert',
        **one,
    )
    n_layers, n_experts = summary.chosen.shape
    layer, expert = (np.asarray(found[name], np.int64) for name in ("layer", "expert"))
    fine = (0 <= layer) & (layer < n_layers) & (0 <= expert) & (expert < n_experts)
    routes = {name: np.asarray(column)[fine] for name, column in found.items()}
    routes["base"] = summary.chosen[layer[fine], expert[fine]]
    routes["layer"] = np.asarray(summary.layers, np.int64)[layer[fine]]
    return routes


def _explanation(tables: Tables, one: Mapping[str, int]) -> Explanation | None:
    if not tables.has_explanations():
        return None
    found = tables.ask(
        "SELECT text, explainer, detection, low, high, fuzzing, contexts FROM "
        'read_parquet($explanations) WHERE "group" = $g AND feature = $f LIMIT 1',
        **one,
    )
    if not len(found["text"]):
        return None
    numbers = {n: float(found[n][0]) for n in ("detection", "low", "high", "fuzzing")}
    text, explainer = str(found["text"][0]), str(found["explainer"][0])
    return Explanation(text, explainer, **numbers, contexts=int(found["contexts"][0]))


def _numbers(values: Any) -> list[float]:
    return np.asarray(values, np.float64).tolist()


def _tokens(pieces: tuple[str, ...], ids: Any, values: Any) -> tuple[tuple[int, str, float], ...]:
    numbers = zip(np.asarray(ids, np.int64).tolist(), _numbers(values), strict=False)
    return tuple((token, _piece(pieces, token), value) for token, value in numbers)


def _piece(pieces: tuple[str, ...], token: Any) -> str:
    return pieces[token] if 0 <= token < len(pieces) else UNKNOWN
