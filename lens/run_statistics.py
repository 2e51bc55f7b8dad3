"""What a run of many prompts shows: its routing by prompt, and the words of each expert.

Axes: prompt (N), layer (L), expert (E), token (T, of all prompts one after the other),
choice (K), word (V, different token ids).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from lens.coselection import pair_counts
from lens.errors import LensError
from lens.label_tests import DRAWS, LabelTest, label_test
from lens.multiple import benjamini_hochberg
from lens.run_events import ask
from lens.run_store import Run
from lens.shuffles import SEED
from lens.trace_folder import MAX_CHOICES, TraceFolder

CONTEXT = 8
# A token id is a word to test from so many occurrences on; the most frequent come first.
LEAST_OCCURRENCES = 5
MOST_WORDS = 2000
OF_ONE_TOKEN = 3
LEVEL = 0.05


def run_traces(run: Run, *, skip: int = 0) -> TraceFolder:
    """The run as a folder of traces, for `lens.label_tests`; each prompt is a trace.

    Router logits are not kept by a run: `moments` is empty and `entropies` are not a number.

    Args:
      skip: leave out so many first tokens of each prompt, which behave unlike the others.
        Prompts that have no more tokens are left out too.

    Raises:
      LensError: the files are not whole, too large to compare, or nothing is left.
    """
    prompts = ask(run, "SELECT prompt, label, n_tokens FROM read_parquet($prompts) ORDER BY prompt")
    lengths = prompts["n_tokens"].astype(int)
    shape = ask(
        run, "SELECT max(layer) + 1 AS layers, max(slot) + 1 AS k FROM read_parquet($routing)"
    )
    n_layers, k = int(shape["layers"][0]), int(shape["k"][0])
    if n_layers * k * lengths.sum() > MAX_CHOICES:
        raise LensError(
            f"The run holds more than {MAX_CHOICES:,} (layer, token, choice) numbers, too many to "
            "compare at once. Run fewer prompts."
        )
    first = np.concatenate([[0], np.cumsum(lengths)])
    experts = np.full((n_layers, first[-1], k), -1, np.int32)
    tokens = np.full(first[-1], -1, np.int32)
    margins = np.full((n_layers, first[-1]), np.nan, np.float32)
    for file in run.routing_files:
        _scatter(run, file, first, tokens, experts, margins)
    if (experts < 0).any() or (experts >= run.n_experts).any():
        raise LensError(
            "The routing of this run is not whole. If it goes on, wait; else delete it and start "
            "it again."
        )
    trace_of = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(first[-1]) - first[trace_of]
    left = position >= skip
    kept = np.flatnonzero(lengths > skip)
    if not kept.size:
        raise LensError(
            f"No prompt has more than {skip} tokens, so none is left without the first {skip}. "
            "Leave out fewer."
        )
    trace_of = np.searchsorted(kept, trace_of[left])
    experts, margins = experts[:, left].astype(np.uint16), margins[:, left]
    labels = [str(label) for label in prompts["label"][kept]]
    names = tuple(sorted(set(labels)))
    label_of = np.array([names.index(label) for label in labels])
    counts = np.zeros((len(kept), n_layers, run.n_experts), np.int64)
    for choice in range(k):
        for layer in range(n_layers):
            np.add.at(counts, (trace_of, layer, experts[layer, :, choice]), 1)
    sizes = np.bincount(trace_of, minlength=len(kept))
    return TraceFolder(
        names=tuple(f"prompt {prompts['prompt'][i]}" for i in kept),
        labels=names,
        label_of=label_of,
        tokens=tokens[left],
        trace_of=trace_of,
        experts=experts,
        n_experts=run.n_experts,
        counts=counts,
        pairs=np.stack(
            [
                pair_counts(experts[:, label_of[trace_of] == group], run.n_experts)
                for group in range(len(names))
            ]
        ),
        moments=(),
        margins=np.stack(
            [np.bincount(trace_of, row, minlength=len(kept)) / sizes for row in margins], axis=1
        ),
        entropies=np.full((len(kept), n_layers), np.nan),
        model_sha256=run.model_sha256,
    )


def _scatter(
    run: Run,
    file: Path,
    first: np.ndarray,
    tokens: np.ndarray,
    experts: np.ndarray,
    margins: np.ndarray,
) -> None:
    """Put one file's events in their places."""
    found = ask(
        run,
        "SELECT prompt, position, token, layer, slot, expert, margin FROM read_parquet($routing)",
        routing=[str(file)],
    )
    row = first[found["prompt"]] + found["position"]
    tokens[row] = found["token"]
    experts[found["layer"], row, found["slot"]] = found["expert"]
    margins[found["layer"], row] = found["margin"]


def run_label_test(folder: TraceFolder, *, draws: int = DRAWS, seed: int = SEED) -> LabelTest:
    """`lens.label_tests.label_test` of a run: labels permuted over its prompts.

    Raises:
      LensError: fewer than two labels, or a label with fewer than two prompts.
    """
    few = [
        f"{label} ({n})"
        for label, n in zip(folder.labels, folder.traces_of_label, strict=True)
        if n < 2
    ]
    if len(folder.labels) < 2 or few:
        found = f"labels with fewer: {', '.join(few[:5])}" if few else f"one: {folder.labels[0]}"
        raise LensError(
            "A comparison of labels needs at least two labels with two prompts each; found "
            f"{found}. Label the prompts, or add some."
        )
    return label_test(folder, draws=draws, seed=seed)


@dataclass(frozen=True, eq=False)
class Words:
    """Which token ids an expert takes more often than it takes tokens at all.

    Attributes:
      tokens, pieces: the ids that were tested, the most frequent first.
      occurrences: of each id.
      count: occurrences that chose the expert.
      size: tokens that chose the expert.
      n_tokens: tokens in all.
      share: count / size, of the expert's tokens.
      lift: share over occurrences / n_tokens; chance is 1; not a number for an unused expert.
      p: of as many occurrences or more, see `word_lift`.
      q: over all layers, experts and words, after Benjamini and Hochberg.
      skip: first tokens of each prompt that were left out.
    """

    tokens: Int[np.ndarray, " word"]
    pieces: tuple[str, ...]
    occurrences: Int[np.ndarray, " word"]
    count: Int[np.ndarray, "layer expert word"]
    size: Int[np.ndarray, "layer expert"]
    n_tokens: int
    share: Float[np.ndarray, "layer expert word"]
    lift: Float[np.ndarray, "layer expert word"]
    p: Float[np.ndarray, "layer expert word"]
    q: Float[np.ndarray, "layer expert word"]
    skip: int

    @property
    def found(self) -> Int[np.ndarray, "layer expert"]:
        """Words of each expert at q ≤ 0.05."""
        return (self.q <= LEVEL).sum(axis=2)


def word_lift(
    run: Run,
    *,
    skip: int = 0,
    least: int = LEAST_OCCURRENCES,
    most: int = MOST_WORDS,
) -> Words:
    """How much more often an expert takes a token id than it takes tokens at all.

    Null: the tokens of all prompts are shuffled over the places that chose the expert, so the
    count is hypergeometric: of T tokens M chose the expert, and n of them are the word. p is
    the exact probability of as many or more; there are no draws. The slots of a token go to
    different experts, so places are tokens and not (token, slot) assignments.

    Reading it: the null takes occurrences as independent. Those of one text are not, so a
    word that stands in one prompt alone says little, whatever its q.

    Args:
      skip: leave out so many first tokens of each prompt.
      least: occurrences from which on an id is tested.
      most: ids that are tested, the most frequent ones.

    Raises:
      LensError: no id occurs so often, or the files cannot be read.
    """
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
    total = ask(
        run, "SELECT count(*) AS n FROM read_parquet($tokens) WHERE position >= $skip", skip=skip
    )
    n_tokens = int(total["n"][0])
    sizes = ask(
        run,
        "SELECT layer, expert, count(*) AS n FROM read_parquet($routing) "
        "WHERE position >= $skip GROUP BY layer, expert",
        skip=skip,
    )
    counts = ask(
        run,
        "SELECT layer, expert, token, count(*) AS n FROM read_parquet($routing) "
        "WHERE position >= $skip AND token IN (SELECT unnest($ids)) "
        "GROUP BY layer, expert, token",
        skip=skip,
        ids=[int(token) for token in words["token"]],
    )
    n_layers = int(sizes["layer"].max()) + 1
    size = np.zeros((n_layers, run.n_experts), np.int64)
    size[sizes["layer"], sizes["expert"]] = sizes["n"]
    count = np.zeros((*size.shape, len(words["token"])), np.int64)
    order = np.argsort(words["token"])
    column = order[np.searchsorted(words["token"], counts["token"], sorter=order)]
    count[counts["layer"], counts["expert"], column] = counts["n"]
    share = np.full(count.shape, np.nan)
    np.divide(count, size[..., None], out=share, where=size[..., None] > 0)
    p = np.where(size[..., None] > 0, at_least(count, size, words["n"], n_tokens), np.nan)
    return Words(
        tokens=words["token"],
        pieces=tuple(str(piece) for piece in words["piece"]),
        occurrences=words["n"],
        count=count,
        size=size,
        n_tokens=n_tokens,
        share=share,
        lift=share / (words["n"] / n_tokens),
        p=p,
        q=benjamini_hochberg(p),
        skip=skip,
    )


def at_least(
    count: Int[np.ndarray, "layer expert word"],
    size: Int[np.ndarray, "layer expert"],
    occurrences: Int[np.ndarray, " word"],
    n_tokens: int,
) -> Float[np.ndarray, "layer expert word"]:
    """P(X ≥ count) where X of `occurrences` fall into `size` of `n_tokens` places by chance."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n_tokens + 1)))])
    flat, places = count.reshape(-1, count.shape[-1]), size.ravel()
    p = np.empty(flat.shape)
    for n in np.unique(occurrences):
        own = np.flatnonzero(occurrences == n)
        x = np.arange(n + 1)
        block = max(1, 2**21 // (n + 1))
        for start in range(0, len(places), block):
            m = places[start : start + block, None]
            possible = (x <= m) & (n - x <= n_tokens - m)
            inside, outside = np.where(possible, m - x, 0), np.where(possible, n - x, 0)
            rest = np.where(possible, n_tokens - m - (n - x), 0)
            log_pmf = (
                logs[m] - logs[x] - logs[inside]
                + logs[n_tokens - m] - logs[outside] - logs[rest]
                - (logs[n_tokens] - logs[n] - logs[n_tokens - n])
            )  # fmt: skip
            pmf = np.exp(np.where(possible, log_pmf, -np.inf))
            tail = np.cumsum(pmf[:, ::-1], axis=1)[:, ::-1]
            taken = flat[start : start + block][:, own]
            p[start : start + block, own] = np.take_along_axis(tail, taken, axis=1)
    return np.clip(p, 0, 1).reshape(count.shape)


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
        layer=int(layer),
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
        layer=int(layer),
        expert=int(expert),
        skip=int(skip),
    )
    return dict(zip(found["token"].tolist(), found["n"].tolist(), strict=True))
