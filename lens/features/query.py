"""A search among features: what it asks, and the statement that answers it.

The statement is put together from texts of this file alone; what is searched for is bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens.errors import LensError
from lens.features.summary import LEVEL

SORTS = (
    "rate", "mean", "max", "push", "excess", "flips", "by_token", "by_pair", "by_domain",
    "associations", "feature",
)  # fmt: skip
MOST_ROWS = 5000
LONGEST_TEXT = 200
BY = ("push", "excess")


@dataclass(frozen=True)
class FeatureQuery:
    """What is searched for. Everything that is given must hold.

    Attributes:
        text: in an explanation, or in a piece of one of the feature's own tokens.
        token: id of a token that carries the feature's strength.
        group: of the dictionary, by its place.
        layer: of the site that the feature writes first.
        expert: (layer, expert) that the feature sends tokens to; strongest first, told by `by`.
        by: "push", the logits that it adds there on average where it is active, or "excess", how
            much oftener its tokens go there than others of their id and text.
        raises, lowers: id of a next token that it makes likelier, or less likely, most of all.
        like: (group, feature) whose neighbours are wanted, the nearest first.
        rate: lowest and highest share of tokens.
        among: (group, feature) of those that may be found; None: all.
        dead: also features that were never active.
        sort: one of `SORTS`; None takes the order of what is searched for, else the rate.
        descending: the largest first.
        limit, offset: rows of the answer.

    Raises:
        LensError: a value that no search can have.
    """

    text: str = ""
    token: int | None = None
    group: int | None = None
    layer: int | None = None
    expert: tuple[int, int] | None = None
    by: str = "push"
    raises: int | None = None
    lowers: int | None = None
    like: tuple[int, int] | None = None
    rate: tuple[float, float] = (0.0, 1.0)
    among: tuple[tuple[int, int], ...] | None = None
    dead: bool = False
    sort: str | None = None
    descending: bool = True
    limit: int = 50
    offset: int = 0

    def __post_init__(self) -> None:
        if self.sort is not None and self.sort not in (*SORTS, "detection"):
            raise LensError(
                f"Features cannot be sorted by {self.sort!r:.40}; expected one of "
                f"{', '.join((*SORTS, 'detection'))}."
            )
        if self.by not in BY:
            raise LensError(f"Found by {self.by!r:.40}; expected {' or '.join(BY)}.")
        if not (0 < self.limit <= MOST_ROWS and 0 <= self.offset < 2**31):
            raise LensError(f"{self.limit} rows from {self.offset}; at most {MOST_ROWS} are given.")
        if len(self.text) > LONGEST_TEXT:
            raise LensError(
                f"The text has {len(self.text):,} characters; at most {LONGEST_TEXT} are searched."
            )
        if self.raises is not None and self.lowers is not None:
            raise LensError("A next token is raised or lowered; ask for one of both.")


SHOWN = (
    "f.group, f.feature, f.layer, f.n, f.rate, f.mean, f.max, f.words, f.word_shares, f.by_domain, "
    "f.by_token, f.by_pair, f.push, f.push_layer, f.push_expert, f.excess, f.associations, "
    "f.flips, f.flips_layer"
)


def statement_of(
    query: FeatureQuery, features: int, explained: bool
) -> tuple[str, Mapping[str, Any]]:
    """The statement and the values that are bound in it.

    Args:
        query: what is searched for.
        features: of a group.
        explained: whether there is a table of explanations.
    """
    made = _Statement(query, explained)
    made.filter()
    made.among(features)
    made.by_words()
    made.by_expert()
    made.by_next_token()
    made.by_likeness(features)
    return made.text(), made.values


class _Statement:
    """A statement while it is put together: each part adds what it needs, where it is asked for."""

    def __init__(self, query: FeatureQuery, explained: bool) -> None:
        self._query, self._explained = query, explained
        self._source, self._where = ["read_parquet($features) AS f"], ["TRUE"]
        self._shown, self._own = SHOWN, "f.rate"
        self.values: dict[str, Any] = {"limit": query.limit, "offset": query.offset}
        if explained:
            self._join("LEFT JOIN", "explanations", "e")
            self._shown += ", e.text AS explanation, e.detection"

    def _join(self, how: str, table: str, name: str) -> None:
        self._source.append(f'{how} read_parquet(${table}) AS {name} USING ("group", feature)')

    def filter(self) -> None:
        query = self._query
        for name in ("group", "layer"):
            if getattr(query, name) is not None:
                self._where.append(f"f.{name} = ${name}")
                self.values[name] = int(getattr(query, name))
        if not query.dead:
            self._where.append("f.n > 0")
        if query.rate != (0.0, 1.0):
            self._where.append("f.rate BETWEEN $least AND $most")
            self.values |= {"least": float(query.rate[0]), "most": float(query.rate[1])}

    def among(self, features: int) -> None:
        if self._query.among is not None:
            self._where.append(
                "list_contains($among::BIGINT[], f.group::BIGINT * $wide + f.feature)"
            )
            self.values["among"] = [group * features + one for group, one in self._query.among]
            self.values["wide"] = features

    def by_words(self) -> None:
        query = self._query
        if query.token is not None:
            self._where.append("list_contains(f.words, $token)")
            self._own = "f.word_shares[list_position(f.words, $token)]"
            self.values["token"] = int(query.token)
        if query.text:
            found = (
                "list_has_any(f.words, (SELECT coalesce(list(token), []::INTEGER[]) FROM (SELECT "
                "(row_number() OVER () - 1)::INTEGER AS token, piece FROM read_parquet($pieces)) "
                "WHERE contains(lower(piece), lower($text))))"
            )
            if self._explained:
                found = f"({found} OR contains(lower(e.text), lower($text)))"
            self._where.append(found)
            self.values["text"] = query.text

    def by_expert(self) -> None:
        query = self._query
        if query.expert is None:
            return
        self._join("JOIN", "routes", "r")
        self._where.append("r.layer = $to_layer AND r.expert = $to_expert")
        self._where.append(f"r.{query.by} IS NOT NULL AND NOT isnan(r.{query.by})")
        if query.by == "excess":
            self._where.append("r.log10_q <= log10($level)")
            self.values["level"] = LEVEL
        self._own = f"r.{query.by}"
        for name in ("static", "push", "share", "excess", "log10_q"):
            self._shown += f", r.{name} AS to_{name}"
        self.values |= {"to_layer": int(query.expert[0]), "to_expert": int(query.expert[1])}

    def by_next_token(self) -> None:
        query = self._query
        token = query.raises if query.lowers is None else query.lowers
        if token is None:
            return
        self._join("JOIN", "logits", "l")
        self._where.append(f"l.token = $next AND l.value {'>' if query.lowers is None else '<'} 0")
        self._own = "abs(l.value)"
        self._shown += ", l.value AS next_by"
        self.values["next"] = int(token)

    def by_likeness(self, features: int) -> None:
        like = self._query.like
        if like is None:
            return
        self._source.append(
            "JOIN (SELECT unnest(near) AS row, unnest(near_cosine) AS cosine FROM "
            'read_parquet($features) WHERE "group" = $like_group AND feature = $like_feature) '
            "AS n ON n.row = f.group::INTEGER * $features_of_group + f.feature"
        )
        self._own = "n.cosine"
        self._shown += ", n.cosine"
        self.values |= {"like_group": int(like[0]), "like_feature": int(like[1])}
        self.values["features_of_group"] = features

    def text(self) -> str:
        return (
            f"SELECT {self._shown}, count(*) OVER () AS found FROM {' '.join(self._source)} "
            f"WHERE {' AND '.join(self._where)} ORDER BY {self._order()} NULLS LAST, "
            "f.group, f.feature LIMIT $limit OFFSET $offset"
        )

    def _order(self) -> str:
        sort, direction = self._query.sort, "DESC" if self._query.descending else "ASC"
        if sort == "feature":
            return f"f.group {direction}, f.feature {direction}"
        if sort is None:
            by = self._own
        elif sort == "detection":
            by = "e.detection" if self._explained else "f.rate"
        else:
            by = "abs(f.push)" if sort == "push" else f"f.{sort}"
        return f"{by} {direction}"
