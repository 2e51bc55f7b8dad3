"""What many routed texts say first: whether texts of each label have experts of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lens.finding import Finding
from lens.many_prompts.label_tests import LabelTest
from lens.many_prompts.trace_folder import TraceFolder
from lens.words import fixed, ratio_in_words

LEVEL = 0.05
PLAIN_LABEL = re.compile(r"[\w-]{1,24}")


def labels_and_experts(
    folder: TraceFolder, test: LabelTest | None, noun: str, names: Sequence[str]
) -> Finding:
    """Whether labels tell of experts, beside labels permuted over whole texts.

    Args:
        folder: the texts.
        test: of the labels; None where they cannot be compared.
        noun: what has the labels, "prompts" or "traces".
        names: of the layers.
    """
    n = len(folder.labels)
    what = (
        f"{folder.n_traces:,} {noun}, {len(folder.tokens):,} tokens, {n} "
        f"{'label' if n == 1 else 'labels'}."
    )
    if test is None:
        short = f"These {noun} have no labels to compare; look at the words of each expert."
        if noun != "prompts":
            short = f"These {noun} have no two labels to compare."
        return Finding(short, "not asked", f"{what} No labels to compare.")
    layers = test.test.found()
    real = np.nan_to_num(test.q, nan=1) <= LEVEL
    mean, chance = float(test.test.value.mean()), float(test.test.mean.mean())
    told = layers > 0 or bool(real.any())
    if told:
        share = np.bincount(folder.label_of, folder.n_tokens) / folder.n_tokens.sum()
        most = float(-(share * np.log(share)).sum())
        detail = (
            f"{what} The label tells of the expert in {layers} of {folder.n_layers} layers: "
            f"{fixed(mean, 3)} of at most {fixed(most, 2)} nats, mean over layers (labels permuted "
            f"over {noun}: {fixed(chance, 3)}); {np.count_nonzero(real):,} of "
            f"{np.count_nonzero(np.isfinite(test.q)):,} loads differ between labels (q ≤ 0.05)."
        )
        sentence = _strongest(folder, test, names)
    else:
        detail = (
            f"{what} Labels and experts: not distinguishable from chance in any of "
            f"{folder.n_layers} layers (labels permuted over {noun})."
        )
        sentence = "No kind of text has experts of its own that chance would not give."
    return Finding(
        sentence,
        "found" if told else "not told from chance",
        detail,
        effect=mean,
        effect_name="mutual information of label and expert, mean over layers, nats",
        null_mean=chance,
        beats=f"labels permuted over {noun}",
        p_value=float(np.nanmin(test.test.q)),
        draws=test.draws,
        seed=test.seed,
    )


def strongest_label(test: LabelTest) -> tuple[int, int, int] | None:
    """Label, layer and expert of the largest load above the others' at q ≤ 0.05, or None."""
    real = np.nan_to_num(test.q, nan=1) <= LEVEL
    over = np.where(real, test.difference, -np.inf)
    if not over.max() > 0:
        return None
    group, layer, expert = (int(i) for i in np.unravel_index(over.argmax(), over.shape))
    return group, layer, expert


def _strongest(folder: TraceFolder, test: LabelTest, names: Sequence[str]) -> str:
    cell = strongest_label(test)
    if cell is None:
        return "The kind of a text shows in the experts that it uses."
    group, layer, expert = cell
    label = folder.labels[group]
    kind = f"{label} tokens" if PLAIN_LABEL.fullmatch(label) else "tokens of one label"
    share = float(test.load.share[cell])
    how = ratio_in_words(share, share - float(test.difference[cell]))
    often = how.replace("much", "often").replace("far more", "far more often")
    return f"{names[layer]}·E{expert} takes {kind} {often} others."
