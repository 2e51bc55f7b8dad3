"""The words of each expert in a run: token ids it takes more often, and with the highest gates.

Axes: group (G, tokens shuffled among themselves: of a run, a label, a stretch of a prompt),
layer (L), expert (E), word (V, different token ids).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.many_prompts.run_events import ask, layer_numbers
from lens.many_prompts.run_record import Run
from lens.many_prompts.word_null import at_least, expected_counts
from lens.stats.p_values import benjamini_hochberg
from lens.stats.turned_stretches import STRETCH

Within = Literal["run", "label", "prompt"]
CONTEXT = 8
# A token id is a word to test from so many occurrences on; the most frequent come first.
LEAST_OCCURRENCES = 5
MOST_WORDS = 2000
OF_ONE_TOKEN = 3
LEVEL = 0.05
# Counts by stretch, layer and expert that are held; and a stretch longer than any prompt.
HELD = 2**24
WHOLE = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Words:
    """Which token ids an expert takes more often than by chance.

    Attributes:
        tokens, pieces: the ids that were tested, the most frequent first.
        occurrences: of each id.
        count: occurrences that chose the expert.
        size: tokens that chose the expert.
        n_tokens: tokens in all.
        expected: mean of the count by chance, see `word_lift`.
        lift: count / expected; chance is 1; not a number where nothing is expected.
        p: of as many occurrences or more.
        q: over all layers, experts and words, after Benjamini and Hochberg.
        within: what tokens were shuffled within: the run, a label's prompts, stretches of about
            32 tokens of a prompt.
        skip: first tokens of each prompt that were left out.
    """

    tokens: Int[np.ndarray, " word"]
    pieces: tuple[str, ...]
    occurrences: Int[np.ndarray, " word"]
    count: Int[np.ndarray, "layer expert word"]
    size: Int[np.ndarray, "layer expert"]
    n_tokens: int
    expected: Float[np.ndarray, "layer expert word"]
    lift: Float[np.ndarray, "layer expert word"]
    p: Float[np.ndarray, "layer expert word"]
    q: Float[np.ndarray, "layer expert word"]
    within: Within
    skip: int

    @property
    def found(self) -> Int[np.ndarray, "layer expert"]:
        """Words of each expert at q ≤ 0.05."""
        return (self.q <= LEVEL).sum(axis=2)


def is_word(piece: str) -> bool:
    """True for what reads as a word or a number: not punctuation, blanks, a letter of a word."""
    text = piece.removeprefix("▁")
    if not any(sign.isalnum() for sign in text) or text.startswith("<0x"):
        return False
    return len(text) > 1 or text.isdigit() or piece != text


def word_lift(
    run: Run,
    *,
    within: Within = "run",
    skip: int = 0,
    least: int = LEAST_OCCURRENCES,
    most: int = MOST_WORDS,
) -> Words:
    """Lift of token ids: how much more often an expert takes each than by chance.

    Null: tokens are shuffled over the places of the run, of each label's prompts, or of each
    stretch of about 16 tokens of a prompt (all of a shorter prompt), while every place keeps
    its experts. Of T tokens M chose the expert and n are the
    word, so the count of both is hypergeometric, and a sum of such over labels or stretches; p
    is the probability of as many or more, see `word_null.at_least`. There are no draws.
    The choices of a token are different experts, so places are tokens, not (token, slot)
    assignments.

    Reading it: shuffled over the run, a word is lifted by all that the texts it stands in
    do: every German word where an expert takes German. Shuffled within prompts, only what the
    word does beyond the place where it stands counts, drift of a long prompt not. Either takes
    the occurrences of a group as independent, which neighbours are not: mind from how many
    prompts a word comes.

    Args:
        within: what tokens are shuffled within.
        skip: leave out so many first tokens of each prompt.
        least: occurrences from which on an id is tested.
        most: ids that are tested, the most frequent ones.

    Raises:
        LensError: no id occurs so often, or the files cannot be read.
    """
    words = _words_to_test(run, skip, least, most)
    counted = _counted(run, words["token"], within, skip)
    size, occurrences, totals = counted.size, counted.occurrences, counted.totals
    filled = totals > 0  # prompts of no more than the tokens that are left out
    size, occurrences, totals = size[filled], occurrences[filled], totals[filled]
    expected = expected_counts(size, occurrences, totals)
    possible = expected > 0
    p = np.where(possible, at_least(counted.count, size, occurrences, totals), np.nan)
    lift = np.full(expected.shape, np.nan)
    return Words(
        tokens=words["token"],
        pieces=tuple(str(piece) for piece in words["piece"]),
        occurrences=words["n"],
        count=counted.count,
        size=size.sum(axis=0),
        n_tokens=int(totals.sum()),
        expected=expected,
        lift=np.divide(counted.count, expected, out=lift, where=possible),
        p=p,
        q=benjamini_hochberg(p),
        within=within,
        skip=skip,
    )


def _words_to_test(run: Run, skip: int, least: int, most: int) -> dict[str, np.ndarray]:
    """Ids that occur often enough, each with a piece and its occurrences; frequent ones first."""
    words = ask(
        run,
        "SELECT token, any_value(piece) AS piece, count(*) AS n FROM read_parquet($tokens) "
        "WHERE position >= $skip GROUP BY token HAVING count(*) >= $least "
        "ORDER BY n DESC, token LIMIT $most",
        skip=skip,
        least=least,
        most=most,
    )
    if not len(words["token"]):
        raise LensError(
            f"No token occurs {least} times or more, so there are no words to compare. Run more "
            "prompts."
        )
    return words


@dataclass(frozen=True, eq=False)
class _Counted:
    """Counts of tokens, of words and of choices.

    Attributes:
        totals: tokens of each group.
        occurrences: of each word in each group.
        size: tokens of each group that chose each expert.
        count: occurrences of each word that chose each expert, in the whole run.
    """

    totals: Int[np.ndarray, " group"]
    occurrences: Int[np.ndarray, "group word"]
    size: Int[np.ndarray, "group layer expert"]
    count: Int[np.ndarray, "layer expert word"]


def _counted(run: Run, tokens: Int[np.ndarray, " word"], within: Within, skip: int) -> _Counted:
    n_words = len(tokens)
    ids = [int(token) for token in tokens]
    order = np.argsort(tokens)

    def column(found: np.ndarray) -> np.ndarray:
        return order[np.searchsorted(tokens, found, sorter=order)]

    groups, stretch = _groups(run, within, skip)
    lengths = ask(
        run,
        "SELECT prompt, (position - $skip) // $stretch AS part, count(*) AS n "
        "FROM read_parquet($tokens) WHERE position >= $skip GROUP BY prompt, part",
        skip=skip,
        stretch=stretch,
    )
    totals = np.zeros(groups.count, np.int64)
    np.add.at(totals, groups.of(lengths), lengths["n"])
    seen = ask(
        run,
        "SELECT prompt, (position - $skip) // $stretch AS part, token, count(*) AS n "
        "FROM read_parquet($tokens) WHERE position >= $skip "
        "AND token IN (SELECT unnest($ids)) GROUP BY prompt, part, token",
        skip=skip,
        stretch=stretch,
        ids=ids,
    )
    occurrences = np.zeros((groups.count, n_words), np.int64)
    np.add.at(occurrences, (groups.of(seen), column(seen["token"])), seen["n"])
    sizes = ask(
        run,
        "SELECT prompt, (position - $skip) // $stretch AS part, layer, expert, count(*) AS n "
        "FROM read_parquet($routing) WHERE position >= $skip "
        "GROUP BY prompt, part, layer, expert",
        skip=skip,
        stretch=stretch,
    )
    layers = np.unique(sizes["layer"])
    shape = (len(layers), run.n_experts)
    size = np.zeros((groups.count, *shape), np.int64)
    row = np.searchsorted(layers, sizes["layer"])
    np.add.at(size, (groups.of(sizes), row, sizes["expert"]), sizes["n"])
    counts = ask(
        run,
        "SELECT layer, expert, token, count(*) AS n FROM read_parquet($routing) "
        "WHERE position >= $skip AND token IN (SELECT unnest($ids)) "
        "GROUP BY layer, expert, token",
        skip=skip,
        ids=ids,
    )
    count = np.zeros((*shape, n_words), np.int64)
    row = np.searchsorted(layers, counts["layer"])
    count[row, counts["expert"], column(counts["token"])] = counts["n"]
    return _Counted(totals, occurrences, size, count)


@dataclass(frozen=True, eq=False)
class _Groups:
    """The group of each token: of its prompt, or of a stretch of it.

    Attributes:
        first: group of the first stretch of each prompt.
        last: number of the last stretch of each prompt; what is left after it belongs to it.
        count: groups.
    """

    first: Int[np.ndarray, " prompt"]
    last: Int[np.ndarray, " prompt"]
    count: int

    def of(self, rows: dict[str, np.ndarray]) -> Int[np.ndarray, " row"]:
        """Groups of rows that name a prompt and a stretch ("part") of it."""
        prompt = rows["prompt"]
        return self.first[prompt] + np.minimum(rows["part"], self.last[prompt])


def _groups(run: Run, within: Within, skip: int) -> tuple[_Groups, int]:
    """Groups, and the tokens of a stretch: about 16, more where these were too many to hold."""
    found = ask(run, "SELECT label FROM read_parquet($prompts) ORDER BY prompt")
    labels = found["label"].astype(str)
    none = np.zeros(len(labels), np.int64)
    if within != "prompt":
        first = none if within == "run" else np.unique(labels, return_inverse=True)[1]
        return _Groups(first, none, int(first.max()) + 1), WHOLE
    lengths = ask(
        run,
        "SELECT prompt, count(*) AS n FROM read_parquet($tokens) WHERE position >= $skip "
        "GROUP BY prompt",
        skip=skip,
    )
    n = none.copy()
    n[lengths["prompt"]] = lengths["n"]
    n_layers = len(layer_numbers(run))
    stretch = STRETCH
    while n.sum() // stretch * n_layers * run.n_experts > HELD:
        stretch *= 2
    parts = np.maximum(np.rint(n / stretch), 1).astype(np.int64)
    return _Groups(np.cumsum(parts) - parts, parts - 1, int(parts.sum())), stretch


@dataclass(frozen=True)
class Occurrence:
    """A token that an expert took, where it stood.

    Attributes:
        prompt, position: where.
        label: of the prompt.
        token, piece: what.
        gate: of the expert, a probability.
        slot: 0 where it was the first choice.
        before, after: the pieces around it.
    """

    prompt: int
    position: int
    label: str
    token: int
    piece: str
    gate: float
    slot: int
    before: tuple[str, ...]
    after: tuple[str, ...]


def strongest(
    run: Run,
    layer: int,
    expert: int,
    *,
    most: int = 20,
    of_one: int = OF_ONE_TOKEN,
    context: int = CONTEXT,
    skip: int = 0,
    token: int | None = None,
) -> list[Occurrence]:
    """The tokens that an expert took with the highest gates, each with what stands around it.

    Args:
        layer, expert: by their places.
        of_one: of one token id at most so many, unless `token` asks for that one alone.
        context: pieces before and after.
        token: this id alone.

    Raises:
        LensError: the files cannot be read.
    """
    found = ask(
        run,
        "WITH own AS (SELECT prompt, position, token, slot, gate, "
        "  row_number() OVER (PARTITION BY token ORDER BY gate DESC, prompt, position) AS place "
        "  FROM read_parquet($routing) "
        "  WHERE layer = $layer AND expert = $expert AND position >= $skip "
        "  AND ($token IS NULL OR token = $token)), "
        "best AS (SELECT * FROM own WHERE place <= $of_one "
        "  ORDER BY gate DESC, prompt, position LIMIT $most) "
        "SELECT best.prompt, best.position, best.token, best.slot, best.gate, p.label, "
        "  list(t.piece ORDER BY t.position) AS pieces, min(t.position) AS start "
        "FROM best JOIN read_parquet($prompts) p ON p.prompt = best.prompt "
        "JOIN read_parquet($tokens) t ON t.prompt = best.prompt "
        "  AND t.position BETWEEN best.position - $context AND best.position + $context "
        "GROUP BY ALL ORDER BY best.gate DESC, best.prompt, best.position",
        layer=int(layer_numbers(run)[layer]),
        expert=int(expert),
        skip=int(skip),
        token=None if token is None else int(token),
        of_one=most if token is not None else of_one,
        most=most,
        context=context,
    )
    rows = []
    for i in range(len(found["prompt"])):
        pieces = [str(piece) for piece in found["pieces"][i]]
        at = int(found["position"][i] - found["start"][i])
        rows.append(
            Occurrence(
                prompt=int(found["prompt"][i]),
                position=int(found["position"][i]),
                label=str(found["label"][i]),
                token=int(found["token"][i]),
                piece=pieces[at],
                gate=float(found["gate"][i]),
                slot=int(found["slot"][i]),
                before=tuple(pieces[:at]),
                after=tuple(pieces[at + 1 :]),
            )
        )
    return rows


def prompts_of_words(run: Run, layer: int, expert: int, *, skip: int = 0) -> dict[int, int]:
    """In how many prompts the expert took each token id."""
    found = ask(
        run,
        "SELECT token, count(DISTINCT prompt) AS n FROM read_parquet($routing) "
        "WHERE layer = $layer AND expert = $expert AND position >= $skip GROUP BY token",
        layer=int(layer_numbers(run)[layer]),
        expert=int(expert),
        skip=int(skip),
    )
    return dict(zip(found["token"].tolist(), found["n"].tolist(), strict=True))
