"""What an expert takes, in a sentence: kinds of text, else words, else that nothing stands out."""

from __future__ import annotations

import numpy as np

from lens.finding import Finding
from lens.many_prompts.expert_cards import LEVEL, ExpertCards
from lens.words import listed, p_value_text, percent, whole_percent

NAMED = 3


def expert_takes(cards: ExpertCards, layer: int, expert: int, name: str) -> Finding:
    """What one expert takes in the texts of a run.

    Args:
        cards: of the run.
        layer, expert: by their places.
        name: of the expert, "L2·E3".
    """
    share, q = cards.share[:, layer, expert], cards.label_q[:, layer, expert]
    order = np.argsort(-share, kind="stable")
    own = [int(label) for label in order if cards.takes[label, layer, expert]]
    kinds = "; ".join(
        f"{cards.labels[i]} {percent(share[i])} (all others "
        f"{percent(cards.elsewhere[i, layer, expert])}, q {p_value_text(float(q[i]))})"
        for i in order
    )
    words = len(cards.words(layer, expert))
    beyond = len(cards.words(layer, expert, inside=True))
    detail = (
        f"Share of each kind's tokens that {name} takes, of {int(cards.n_tokens.sum()):,} tokens "
        f"in {int(cards.n_prompts.sum()):,} texts: {kinds}. Null: the kinds permuted over whole "
        f"texts, {cards.draws:,} draws, seed {cards.seed}, q over all kinds and experts "
        f"(Benjamini–Hochberg). {words} of {len(cards.pieces)} words are taken more often than if "
        f"words were shuffled over all texts, {beyond} more often than if they were shuffled "
        f"within stretches of about 16 tokens (q ≤ {LEVEL})."
    )
    if not own:
        sentence = (
            f"{name} takes no kind of text more than others, but certain words."
            if beyond
            else f"Nothing that {name} takes stands out from chance."
        )
        return Finding(
            sentence,
            "found" if beyond else "not told from chance",
            detail,
            draws=cards.draws,
            seed=cards.seed,
            place=(layer, expert),
        )
    return Finding(
        f"{name} {_kinds(cards, share, own)}",
        "found",
        detail,
        effect=float(share[own[0]]),
        effect_name=f"share of the tokens of {cards.labels[own[0]]}",
        null_mean=float(np.average(share, weights=cards.n_tokens)),
        beats="kinds permuted over whole texts",
        p_value=float(q[own[0]]),
        draws=cards.draws,
        seed=cards.seed,
        place=(layer, expert),
    )


def _kinds(cards: ExpertCards, share: np.ndarray, own: list[int]) -> str:
    """The kinds that an expert takes, and how much of them."""
    names = [cards.labels[i] for i in own[:NAMED]]
    if len(own) > NAMED:
        most = whole_percent(share[own[0]])
        return f"takes {len(own)} kinds of text, {names[0]} most: {most} of its tokens."
    if len(names) == 1:
        much = share[own[0]] >= 0.5
        verb = "takes" if much else "leans to"
        return f"{verb} {listed(names)}: {whole_percent(share[own[0]])} of its tokens go there."
    least = float(share[own].min())
    return f"takes {listed(names)}: {whole_percent(least)} or more of their tokens."
