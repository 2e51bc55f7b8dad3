"""How a text goes on with a feature taken out or turned up, beside random directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from grok.interventions.edits import NO_EDITS
from lens.escaping import as_html
from lens.features.card import FeatureCard
from lens.storage import csv_text
from lens.words import counted
from pages.access import limits
from pages.feature_runs.at_hand import AtHand
from pages.live.session.shared_models import OnWait
from pages.shell import downloads

if TYPE_CHECKING:
    from grok.dictionaries.kinds.dictionary import Dictionary
    from grok.serving.shared_model import SharedModel

NEW = 24  # tokens, where the model's context has room for them
RANDOM = 3  # directions
WAYS = ("as it is", "taken out", "fully up", *["random direction, fully up"] * RANDOM)
HOW_TO_READ = """
**How the text goes on** takes the likeliest next token again and again, with the feature as it is,
taken out, or turned up at every token, those that are made among them; beside it the same along
random directions as long. What is as in the unchanged text is grey. A feature that is turned up far
breaks a text as any push does: what it is about shows only where random directions write otherwise.
"""
STYLE = (
    "<style>dl.goes-on{margin:0!important;font-size:.92rem;line-height:1.5;overflow-wrap:anywhere}"
    ".goes-on dt{font-weight:600}.goes-on dd{margin:0 0 .45rem!important}"
    ".goes-on span{opacity:.75}</style>"
)


@dataclass(frozen=True, eq=False)
class GoesOn:
    """Continuations of a text, in the order of `WAYS`.

    Attributes:
        pieces: of their tokens; the first continuation is of the unchanged model.
        same: tokens from the start that are those of the first.
    """

    pieces: tuple[tuple[str, ...], ...]
    same: tuple[int, ...]


def room(here: AtHand, ids: np.ndarray) -> int:
    """How many tokens a text goes on for; 0 where it fills the model's context."""
    return max(0, min(NEW, here.choice.config.context_length - len(ids)))


def run(here: AtHand, card: FeatureCard, ids: np.ndarray) -> GoesOn | None:
    """Lets the text go on in all ways; None after an error was shown."""
    new = room(here, ids)

    def work(model: SharedModel, dictionary: Dictionary, on_wait: OnWait) -> GoesOn:
        from grok.dictionaries.attribution import Change, steer
        from grok.dictionaries.attribution.steering import turned

        up = Change(card.feature, "add", card.largest, group=card.group)
        rows = np.asarray(dictionary.params["decoder"][card.group])[card.feature]
        rng = np.random.default_rng(0)
        every = [
            NO_EDITS,
            steer(dictionary, Change(card.feature, group=card.group)),
            steer(dictionary, up),
            *(steer(dictionary, up, directions=turned(rows, rng)[None]) for _ in range(RANDOM)),
        ]
        limits.charge(here.choice.person, len(every) * (len(ids) + new))
        with model.turn(on_wait):
            made = [
                model.model.generate(ids, max_new_tokens=new, candidates=1, edits=one).new_tokens
                for one in every
            ]
        return GoesOn(
            tuple(tuple(model.pieces(np.array(one))) for one in made),
            tuple(_same(one, made[0]) for one in made),
        )

    return here.run("Letting the text go on", work)


def _same(one: list[int], plain: list[int]) -> int:
    """How many tokens from the start are equal."""
    pairs = zip(one, plain, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(plain)))


def show(found: GoesOn, card: FeatureCard, sha256: str) -> None:
    """A sentence, and the texts."""
    _, out, up, *random = found.same
    st.markdown(
        f"Of the next {counted(len(found.pieces[0]), 'token')} the first {out} stay as they were "
        f"with **{card.title}** taken out, the first {up} with it fully up; along random "
        f"directions as long the first {min(random)} to {max(random)}."
    )
    rows = zip(WAYS, found.pieces, found.same, strict=True)
    texts = "".join(
        f"<dt>{name}</dt><dd><span>{_text(own[:same])}</span>{_text(own[same:])}</dd>"
        for name, own, same in rows
    )
    st.html(f'{STYLE}<dl class="goes-on">{texts}</dl>')
    downloads.row(
        "feature_goes_on",
        downloads.file_stem("feature_goes_on", sha256, card.title),
        table=lambda: csv_text.table_csv(
            {
                "feature": list(WAYS),
                "goes on": ["".join(own) for own in found.pieces],
                "same tokens": list(found.same),
            }
        ),
    )


def _text(pieces: tuple[str, ...]) -> str:
    return as_html("".join(pieces).replace("▁", " ").replace("\n", "⏎"))
