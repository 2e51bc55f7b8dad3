"""A database of a dictionary's features, opened.

    store = FeatureStore.open("grok/demo/dictionaries/transcoder/features")
    store.find(FeatureQuery(expert=(5, 3)))    # what sends tokens to expert 3 of the sixth router
    store.card(4, 120).contexts                # when feature 120 of the fifth group is active

Reading one feature reads one row group of each table. A store may be used by several threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.features.card import Context, FeatureCard, read_card, read_contexts
from lens.features.query import FeatureQuery, statement_of
from lens.features.summary import ADVICE, Summary, read_summary
from lens.features.tables import Tables, damage_in_words


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features that a search found.

    Attributes:
        columns: arrays by name, a row each: `group`, `feature`, `layer`, `n`, `rate`, `mean`,
            `max`, `by_domain`, `by_token`, `by_pair` (shares of variance explained), `push` (the
            largest, logits), `push_layer`, `push_expert`, `excess` (the largest found),
            `associations` (cells found), `flips`, `flips_layer`; `explanation` and `detection`
            where there are some; `to_push`, `to_excess`, … of a search by expert, `next_by` of one
            by next token, `cosine` of one by likeness.
        words: pieces of the tokens that carry each, strongest first.
        found: how many features there are without the limit.
    """

    columns: dict[str, np.ndarray]
    words: tuple[tuple[str, ...], ...]
    found: int

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """All features that were ever active, on a plane: those that write alike lie together.

    Attributes:
        group, feature, layer: of each.
        x, y: from −1 to 1.
        rate: share of tokens at which it is active.
        label: number of the text in which it is active most, in shares of tokens.
    """

    group: Int[np.ndarray, " feature"]
    feature: Int[np.ndarray, " feature"]
    layer: Int[np.ndarray, " feature"]
    x: Float[np.ndarray, " feature"]
    y: Float[np.ndarray, " feature"]
    rate: Float[np.ndarray, " feature"]
    label: Int[np.ndarray, " feature"]


class FeatureStore:
    """The database of a folder; open it with `FeatureStore.open`."""

    def __init__(self, folder: Path, summary: Summary, tables: Tables) -> None:
        self.folder, self._summary, self.tables = folder, summary, tables

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> FeatureStore:
        """Opens a database; nothing in it is executed, and every file is held against its hash.

        Raises:
            LensError: no database, one of another version, or a file that is missing or damaged;
                a damaged one is set aside.
        """
        path = Path(folder)
        summary = read_summary(path)
        store = cls(path, summary, Tables(path, summary))
        found = store.tables.ask("SELECT count(*) AS n FROM read_parquet($features)")
        if int(found["n"][0]) != summary.groups * summary.features:
            raise LensError(
                f"{path}: {int(found['n'][0]):,} features; expected {summary.groups} groups of "
                f"{summary.features:,}. {ADVICE}"
            )
        return store

    def summary(self) -> Summary:
        """What the database is of."""
        return self._summary

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """The piece of each token of the vocabulary."""
        found = self.tables.ask("SELECT piece FROM read_parquet($pieces)")
        return tuple(str(one) for one in found["piece"])

    @cached_property
    def group_layers(self) -> tuple[int, ...]:
        """The layer that each group's features write first; −1 where there is one group."""
        found = self.tables.ask(
            'SELECT "group", min(layer) AS layer FROM read_parquet($features) GROUP BY "group" '
            'ORDER BY "group"'
        )
        return tuple(found["layer"].tolist())

    def find(self, query: FeatureQuery | None = None) -> FeatureTable:
        """The features of a search.

        Raises:
            LensError: this database cannot tell that.
        """
        query = FeatureQuery() if query is None else query
        if "logits" not in self.tables.names and (query.raises, query.lowers) != (None, None):
            raise LensError(
                f"{self.folder}: features of this dictionary write nothing that reaches the next "
                "token directly, so they cannot be searched by it."
            )
        explained = self.tables.has_explanations()
        statement, values = statement_of(query, self._summary.features, explained)
        columns = self.tables.ask(statement, **values)
        total, ids = columns.pop("found"), columns.pop("words")
        columns.pop("word_shares")
        pieces, n = self.pieces, len(self.pieces)
        with damage_in_words(self.folder):
            words = tuple(tuple(pieces[i] for i in own if 0 <= i < n) for own in ids)
            return FeatureTable(columns, words, int(total[0]) if len(total) else 0)

    def card(self, group: int, feature: int) -> FeatureCard:
        """Everything of one feature.

        Raises:
            LensError: there is no such feature, or its rows are damaged.
        """
        with damage_in_words(self.folder):
            return read_card(self.tables, self._summary, self.pieces, group, feature)

    def words_of(self, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, ...]]:
        """Pieces of the tokens that carry some features, (group, feature), the strongest first.

        Raises:
            LensError: rows are damaged.
        """
        found = self._of("words", places)
        pieces, n = self.pieces, len(self.pieces)
        with damage_in_words(self.folder):
            return {
                (int(group), int(feature)): tuple(pieces[i] for i in own if 0 <= i < n)
                for group, feature, own in zip(
                    found["group"], found["feature"], found["words"], strict=True
                )
            }

    def _of(self, column: str, places: Iterable[tuple[int, int]]) -> dict[str, Any]:
        """Group, number and one column of some features, (group, feature)."""
        wide = self._summary.features
        return self.tables.ask(
            f'SELECT "group", feature, {column} FROM read_parquet($features) WHERE '
            'list_contains($ids::BIGINT[], "group"::BIGINT * $wide + feature)',
            ids=sorted({group * wide + feature for group, feature in places}),
            wide=wide,
        )

    def judged(self, group: int, feature: int) -> tuple[Context, ...]:
        """Contexts kept to judge explanations by; none in a database that was made small."""
        with damage_in_words(self.folder):
            return read_contexts(self.tables, self._summary, self.pieces, "judged", group, feature)

    @cached_property
    def rates(self) -> Float[np.ndarray, "group feature"]:
        """Share of the database's tokens at which each feature is active."""
        found = self.tables.ask(
            'SELECT rate FROM read_parquet($features) ORDER BY "group", feature'
        )
        shape = self._summary.groups, self._summary.features
        return np.asarray(found["rate"], np.float64).reshape(shape)

    def largest_of(self, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """The largest strength of some features, (group, feature), on the database's text."""
        found = self._of("max", places)
        rows = zip(found["group"], found["feature"], found["max"], strict=True)
        return {(int(g), int(f)): float(value) for g, f, value in rows}

    def stretches(self, n_tokens: int, most: int) -> list[np.ndarray]:
        """Beginnings of held-out pieces of the database's text, token ids, spread over its texts.

        Args:
            n_tokens: of each; pieces that are shorter are left out.
            most: of them.
        """
        found = self.tables.ask(
            "SELECT tokens[1:$n] AS tokens FROM read_parquet($windows) WHERE held_out AND "
            'len(tokens) >= $n ORDER BY label, "window"',
            n=n_tokens,
        )["tokens"]
        few = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
        return [np.asarray(found[i], np.int64) for i in few]

    def up_to(self, context: Context) -> Int[np.ndarray, " token"]:
        """The token ids of a context and of all that stands before it, as the pass read them.

        Raises:
            LensError: the piece is not there.
        """
        found = self.tables.ask(
            'SELECT tokens FROM read_parquet($windows) WHERE "window" = $window',
            window=context.window,
        )["tokens"]
        if len(found) != 1 or len(found[0]) <= context.position:
            raise LensError(f"{self.folder}: piece {context.window} of its text is not whole.")
        end = context.position - context.mark + len(context.tokens)
        return np.asarray(found[0][:end], np.int64)

    @cached_property
    def has_map(self) -> bool:
        """Whether the pass drew a map."""
        return {"x", "y"} <= self.tables.columns("features")

    def map(self) -> FeatureMap:
        """The map of all features.

        Raises:
            LensError: the database was made without one.
        """
        if not self.has_map:
            raise LensError(f"{self.folder}: made without a map (map=none). {ADVICE}")
        found: dict[str, Any] = self.tables.ask(
            'SELECT "group", feature, layer, x, y, rate, '
            "list_position(label_rates, list_max(label_rates)) - 1 AS label "
            'FROM read_parquet($features) WHERE n > 0 ORDER BY "group", feature'
        )
        return FeatureMap(**{name: np.asarray(column) for name, column in found.items()})
