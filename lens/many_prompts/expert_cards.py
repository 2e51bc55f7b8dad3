"""What each expert takes in a run: kinds of text, words, contexts, beside chance; and its file.

The file is an `.npz` of plain arrays, small enough to lie beside a checkpoint, so that a page
says at once what an expert does. Nothing in it is executed.

Axes: label (G), layer (L), expert (E), word (V, token ids that occur often enough), context (C).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.many_prompts.label_tests import LabelTest, labels_taken, main_label
from lens.many_prompts.run_record import Run
from lens.many_prompts.run_statistics import run_label_test, run_traces
from lens.many_prompts.run_words import Occurrence, Words, is_word, strongest, word_lift
from lens.many_prompts.trace_folder import TraceFolder
from lens.recipe.steps import remembered
from lens.storage.npz import open_npz
from lens.storage.whole_file import READABLE, whole_file

FILE = "expert_cards.npz"
FORMAT_VERSION = 1
CONTEXTS = 8
OF_ONE_TOKEN = 2
LEVEL = 0.05
MAX_BYTES = 64 * 2**20
ADVICE = "Make the file again with `python -m pages.expert_views`."


@dataclass(frozen=True, eq=False)
class ExpertCards:
    """What the experts of a model take in the texts of a run.

    A token goes to K experts; an expert takes it where it is one of them.

    Attributes:
        model_sha256: of the routers that chose.
        labels: kinds of text.
        n_prompts, n_tokens: of each kind.
        share: of the kind's tokens that the expert takes.
        elsewhere: the same of all other tokens.
        label_q: of the difference, labels permuted over prompts, two-sided, over all kinds and
            experts (Benjamini and Hochberg).
        draws, seed: of those permutations.
        pieces: text of each word.
        occurrences: of each word.
        taken: occurrences that the expert takes.
        expected: the same by chance, words shuffled over all prompts.
        word_q: of as many or more, over all experts and words.
        inside_q: the same where words are shuffled within stretches of about 16 tokens of a
            prompt, so that kind of text, topic and place do not count.
        gate: of the strongest contexts, a probability; 0 where there are fewer.
        context_label: row of the kind of text.
        before, piece, after: the token and the text around it.
    """

    model_sha256: str
    labels: tuple[str, ...]
    n_prompts: Int[np.ndarray, " label"]
    n_tokens: Int[np.ndarray, " label"]
    share: Float[np.ndarray, "label layer expert"]
    elsewhere: Float[np.ndarray, "label layer expert"]
    label_q: Float[np.ndarray, "label layer expert"]
    draws: int
    seed: int
    pieces: tuple[str, ...]
    occurrences: Int[np.ndarray, " word"]
    taken: Int[np.ndarray, "layer expert word"]
    expected: Float[np.ndarray, "layer expert word"]
    word_q: Float[np.ndarray, "layer expert word"]
    inside_q: Float[np.ndarray, "layer expert word"]
    gate: Float[np.ndarray, "layer expert context"]
    context_label: Int[np.ndarray, "layer expert context"]
    before: np.ndarray
    piece: np.ndarray
    after: np.ndarray

    @property
    def takes(self) -> Bool[np.ndarray, "label layer expert"]:
        """Kinds that the expert takes more of than of the others; see `labels_taken`."""
        return labels_taken(self.share, self.elsewhere, self.label_q)

    @property
    def main(self) -> Int[np.ndarray, "layer expert"]:
        """The kind that stands out most among those that an expert takes, -1 for none."""
        return main_label(self.takes, self.share - self.elsewhere)

    @property
    def over(self) -> Float[np.ndarray, "label layer expert"]:
        """By how much the share of a kind that the expert takes is above the rest's; else −1."""
        return np.where(self.takes, self.share - self.elsewhere, -1)

    @property
    def most_telling(self) -> tuple[int, int]:
        """Layer and expert whose share of one kind is furthest above that of the others."""
        over = self.over.max(axis=0)
        layer, expert = np.unravel_index(over.argmax(), over.shape)
        return int(layer), int(expert)

    def words(self, layer: int, expert: int, *, inside: bool = False) -> Int[np.ndarray, " word"]:
        """Words that the expert takes more often than by chance, the surest first.

        What reads as a word comes before single letters, punctuation and blanks.

        Args:
            inside: beyond kind of text, topic and place.
        """
        q = (self.inside_q if inside else self.word_q)[layer, expert]
        lift = self.taken[layer, expert] / np.maximum(self.expected[layer, expert], 1e-9)
        signs = np.array([not is_word(piece) for piece in self.pieces], bool)
        order = np.lexsort((-lift, q, signs))
        return np.asarray(order[np.nan_to_num(q[order], nan=1) <= LEVEL])

    def said(self, layer: int, expert: int, *, inside: bool = False) -> list[str]:
        """What `words` names, without punctuation, blanks and letters where there are words."""
        pieces = [self.pieces[i] for i in self.words(layer, expert, inside=inside)]
        return [piece for piece in pieces if is_word(piece)] or pieces

    def contexts(self, layer: int, expert: int) -> list[Occurrence]:
        """The tokens that the expert took with the highest gates, where they stood."""
        found = []
        for i in np.flatnonzero(self.gate[layer, expert] > 0):
            at = layer, expert, int(i)
            found.append(
                Occurrence(
                    prompt=-1,
                    position=-1,
                    label=self.labels[int(self.context_label[at])],
                    token=-1,
                    piece=str(self.piece[at]),
                    gate=float(self.gate[at]),
                    slot=0,
                    before=(str(self.before[at]),),
                    after=(str(self.after[at]),),
                )
            )
        return found


def cards_of_run(run: Run) -> ExpertCards:
    """What each expert takes in a run, with its chance and its strongest contexts.

    Raises:
        LensError: fewer than two labels, a label with fewer than two prompts, or no word that
            occurs often enough.
    """
    folder = run_traces(run)
    cards = cards_of(
        folder, run_label_test(folder), word_lift(run), word_lift(run, within="prompt")
    )
    shape = (folder.n_layers, folder.n_experts, CONTEXTS)
    gate, of_label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    texts = {name: np.full(shape, "", object) for name in ("before", "piece", "after")}
    for layer, expert in np.ndindex(*shape[:2]):
        found = strongest(run, layer, expert, most=CONTEXTS, of_one=OF_ONE_TOKEN)
        for i, one in enumerate(found):
            at = layer, expert, i
            gate[at], of_label[at] = one.gate, folder.labels.index(one.label)
            texts["before"][at], texts["after"][at] = "".join(one.before), "".join(one.after)
            texts["piece"][at] = one.piece
    before, piece, after = (texts[name].astype("U") for name in ("before", "piece", "after"))
    return replace(
        cards, gate=gate, context_label=of_label, before=before, piece=piece, after=after
    )


def cards_of(
    folder: TraceFolder, test: LabelTest, words: Words | None, inside: Words | None
) -> ExpertCards:
    """The cards of a run, without contexts.

    Args:
        folder: its routing.
        test: of its labels.
        words: of the experts, shuffled over the run; None where no word occurs often enough.
        inside: the same, shuffled within stretches of a prompt.
    """
    cells = (folder.n_layers, folder.n_experts)
    none, no_text = np.zeros((*cells, 0)), np.full((*cells, 0), "")
    share = test.load.share * folder.top_k
    return ExpertCards(
        model_sha256=folder.model_sha256,
        labels=folder.labels,
        n_prompts=folder.traces_of_label,
        n_tokens=test.load.n_tokens,
        share=share,
        elsewhere=share - test.difference * folder.top_k,
        label_q=test.q,
        draws=test.draws,
        seed=test.seed,
        pieces=() if words is None else words.pieces,
        occurrences=np.zeros(0, int) if words is None else words.occurrences,
        taken=none.astype(int) if words is None else words.count,
        expected=none if words is None else words.expected,
        word_q=none if words is None else words.q,
        inside_q=none if inside is None else inside.q,
        gate=none,
        context_label=none.astype(int),
        before=no_text,
        piece=no_text,
        after=no_text,
    )


@remembered
def main_kinds(
    cards: ExpertCards,
) -> tuple[Int[np.ndarray, "layer expert"], Float[np.ndarray, "layer expert"]]:
    """The kind that each expert takes most (-1 for none), and its share of that kind's tokens."""
    main = cards.main
    return main, np.take_along_axis(cards.share, np.maximum(main, 0)[None], 0)[0]


def save_cards(cards: ExpertCards, file: str | Path) -> None:
    """Writes the cards whole or not at all; the same cards give the same bytes.

    Raises:
        OSError: the folder is missing, full or not to be written to.
    """
    arrays = {"format_version": np.array(FORMAT_VERSION)}
    for field in fields(cards):
        value = np.asarray(getattr(cards, field.name))
        if value.dtype.kind == "f":
            value = value.astype(np.float32)
        elif value.dtype.kind in "iu" and value.ndim:
            value = value.astype(np.min_scalar_type(int(value.max(initial=0))))
        arrays[field.name] = value
    with whole_file(Path(file), mode=READABLE) as out:
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]


@remembered
def load_cards(file: str | Path) -> ExpertCards:
    """The cards of a file that anybody may have made.

    Raises:
        LensError: it is no such file, or its arrays do not fit together.
    """
    found: dict[str, Any]
    with open_npz(file, max_bytes=MAX_BYTES) as npz:
        version = npz.scalar("format_version", "iu", ADVICE)
        if version != FORMAT_VERSION:
            raise LensError(f"{npz.where}: version {version}; expected {FORMAT_VERSION}. {ADVICE}")
        found = {field.name: npz.array(field.name, ADVICE) for field in fields(ExpertCards)}
        where = npz.where
    _check(found, where)
    values: dict[str, Any] = found | {
        "model_sha256": str(found["model_sha256"]),
        "draws": int(found["draws"]),
        "seed": int(found["seed"]),
        "labels": tuple(str(label) for label in found["labels"]),
        "pieces": tuple(str(piece) for piece in found["pieces"]),
    }
    return ExpertCards(**values)


def _check(found: dict[str, np.ndarray], where: str) -> None:
    """Refuses arrays of other kinds and shapes than those that belong together."""
    if found["share"].ndim != 3 or found["taken"].ndim != 3 or found["gate"].ndim != 3:
        raise LensError(f"{where}: its arrays are not of labels, words and contexts. {ADVICE}")
    n_labels, *cells = found["share"].shape
    n_words, n_contexts = found["taken"].shape[2], found["gate"].shape[2]
    one, word, context = (n_labels, *cells), (*cells, n_words), (*cells, n_contexts)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "model_sha256": ("U", ()),
        "draws": ("iu", ()),
        "seed": ("iu", ()),
        "labels": ("U", (n_labels,)),
        "n_prompts": ("iu", (n_labels,)),
        "n_tokens": ("iu", (n_labels,)),
        **{name: ("f", one) for name in ("share", "elsewhere", "label_q")},
        "pieces": ("U", (n_words,)),
        "occurrences": ("iu", (n_words,)),
        "taken": ("iu", word),
        **{name: ("f", word) for name in ("expected", "word_q", "inside_q")},
        "gate": ("f", context),
        "context_label": ("iu", context),
        **{name: ("U", context) for name in ("before", "piece", "after")},
    }
    for name, (kinds, shape) in shapes.items():
        if found[name].dtype.kind not in kinds or found[name].shape != shape:
            raise LensError(
                f"{where}: {name} has shape {found[name].shape} of {found[name].dtype}; expected "
                f"{shape}. {ADVICE}"
            )
    if not n_labels or found["context_label"].max(initial=0) >= n_labels:
        raise LensError(f"{where}: a context is of a label that is not there. {ADVICE}")
