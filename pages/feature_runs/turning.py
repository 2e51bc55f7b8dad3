"""What happens when a feature is turned up or taken out of a text, beside random directions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from lens.escaping import plain
from lens.features.card import Context, FeatureCard
from lens.features.in_text.doses import Doses
from lens.features.store import FeatureStore
from lens.figures.features import feature_doses
from lens.storage import csv_text
from lens.words import counted, fixed, p_value_text
from pages.access import limits
from pages.feature_runs import by_text, going_on
from pages.feature_runs.at_hand import AtHand, at_hand
from pages.feature_runs.going_on import GoesOn
from pages.feature_views.card import KINDS
from pages.guide import tables
from pages.live.running.controls import teller
from pages.live.session import dictionaries, kept_traces, prompts
from pages.live.session.shared_models import OnWait
from pages.shell import layout, parts
from pages.shell.layout import Provenance
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.dictionaries.attribution import DoseSweep
    from grok.dictionaries.kinds.dictionary import Dictionary
    from grok.serving.shared_model import SharedModel

FOLD, TEXT = "feature_turned_fold", "feature_turned_text"
DIRECTIONS = 39  # the fewest with which p can reach 0.025
TIMES = {"half up": 0.5, "fully up": 1.0}
OUT = "taken out"
TOP = 3  # strongest contexts that are offered
LONGEST = 48  # characters of a text in the list
MOST_KEPT = 16
HOW_TO_READ = """
**Turned up or taken out.** The model reads a text again with the feature changed: taken out, its
strength is 0 where it was active; turned up, half of its largest strength on the database's text,
or all of it, is added at every token. What the dictionary misses stays. A *route* is a token in a
layer that can still change; it has changed where another set of experts is chosen. Any push of that
length changes some, so the same amounts are added at the same tokens along 39 random directions as
long. A feature that writes to several layers is changed in all of them, and so are the directions
beside it, at the angles that its own have to each other. *More* is said where p ≤ 0.025, one-sided:
of taking it out, and in one test of both doses that turn it up. That holds of this text, not of
texts in general. Random directions may lead where no text leads; that a feature changes no more
than they do is no fault of it.
"""
HOW_TO_READ += going_on.HOW_TO_READ


@dataclass(frozen=True, eq=False)
class Turned:
    """A feature that was turned up and taken out.

    Attributes:
        found: what changed.
        active: tokens of the text at which it was active; tokens: how many there are.
        goes_on: how the text goes on, once that was asked.
    """

    found: Doses
    active: int
    tokens: int
    goes_on: GoesOn | None = None


TURNED = SessionValue[dict[str, Turned]](SessionKey.FEATURES_TURNED)


def show(store: FeatureStore, card: FeatureCard, origin: Provenance) -> None:
    """The fold under a feature's card; nothing is read or run before it is open."""
    fold = parts.fold(
        "What happens when it is turned up or taken out?", FOLD, icon=":material/tune:"
    )
    if not card.n or not fold.open:
        return
    with fold:
        here = at_hand(store, "Changing a feature")
        if here is None:
            return
        offered = texts(store, card)
        chosen = st.selectbox(
            "In which text", list(offered), key=TEXT, format_func=offered.__getitem__
        )
        ids = tokens_of(store, card, chosen)
        key = key_of(store, card, ids)
        known, slot = TURNED.kept(dict).get(key), st.empty()
        if known is None:
            with slot.container():
                runs = 1 + (len(TIMES) + 1) * (DIRECTIONS + 1)
                pressed = st.button("Run it", icon=":material/play_arrow:", key="run_turned")
                st.caption(
                    f"{counted(runs, 'run')} of {counted(len(ids), 'token')}, which count as "
                    f"{runs * len(ids):,} tokens."
                )
            if pressed:
                slot.empty()
                known = run(store, here, card, ids)
                if known is not None:
                    dictionaries.put(TURNED.kept(dict), key, known, MOST_KEPT)
        if known is not None:
            result(card, known, origin)
            going(store, here, card, ids, known)


def going(
    store: FeatureStore, here: AtHand, card: FeatureCard, ids: np.ndarray, known: Turned
) -> None:
    """How the text goes on, once its button was pressed."""
    sha256, found, slot = store.summary().dictionary_sha256, known.goes_on, st.empty()
    new = going_on.room(here, ids)
    if found is None and not new:
        st.caption(
            f"It does not go on: no token is left of the model's context of {len(ids):,}. "
            "A shorter text does."
        )
    elif found is None and slot.button(
        "How does the text go on?",
        icon=":material/format_quote:",
        key="run_going_on",
        help=f"{counted(len(going_on.WAYS), 'continuation')} of {counted(new, 'token')}",
    ):
        slot.empty()
        found = going_on.run(here, card, ids)
        if found is not None:
            kept = replace(known, goes_on=found)
            dictionaries.put(TURNED.kept(dict), key_of(store, card, ids), kept, MOST_KEPT)
    if found is not None:
        going_on.show(found, card, sha256)


def texts(store: FeatureStore, card: FeatureCard) -> dict[str, str]:
    """Texts that a feature can be changed in, by what stands for each: the one at hand first."""
    found: dict[str, str] = {}
    tried = by_text.tried(store)
    if tried is not None and tried.found.row(card.group, card.feature) is not None:
        found["tried"] = f"Your text: {_line(tried.pieces)}"
    for kind in ("top", "quarter 4", "quarter 2"):
        for context in card.of_kind(kind)[: TOP if kind == "top" else 1]:
            found[f"{kind}-{context.rank}"] = f"{KINDS[kind]}: {_line(context.pieces)}"
    if tried is not None and "tried" not in found:
        found["tried"] = f"Your text: {_line(tried.pieces)}"
    trace = kept_traces.shown()
    if trace is not None and trace.model_sha256 == store.summary().model_sha256:
        found["trace"] = f"Shown on Live routing: {_line([str(one) for one in trace.pieces])}"
    return found


def _line(pieces: tuple[str, ...] | list[str]) -> str:
    text = plain("".join(pieces[:LONGEST]).replace("▁", " ")).strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def tokens_of(store: FeatureStore, card: FeatureCard, chosen: str) -> np.ndarray:
    """Token ids of a text that was offered; a context comes with all that stands before it."""
    tried, trace = by_text.tried(store), kept_traces.shown()
    if chosen == "tried" and tried is not None:
        return tried.ids
    if chosen == "trace" and trace is not None:
        return np.asarray(trace.tokens)
    kind, _, rank = chosen.rpartition("-")
    context: Context = next(one for one in card.of_kind(kind) if str(one.rank) == rank)
    return store.up_to(context)


def key_of(store: FeatureStore, card: FeatureCard, ids: np.ndarray) -> str:
    """What a result depends on; of the text a hash."""
    text = hashlib.sha256(np.asarray(ids, np.int64).tobytes()).hexdigest()
    return f"{store.summary().dictionary_sha256} {card.group} {card.feature} {text}"


def run(store: FeatureStore, here: AtHand, card: FeatureCard, ids: np.ndarray) -> Turned | None:
    """Runs the text with the feature changed, and controls; None after an error was shown."""
    slot = st.empty()

    def work(model: SharedModel, dictionary: Dictionary, on_wait: OnWait) -> Turned:
        from grok.dictionaries.attribution import Change, dose_sweep, feature_strengths

        prompts.check_length(len(ids))
        added = [share * card.largest for share in TIMES.values()]
        limits.charge(here.choice.person, (1 + (len(added) + 1) * (DIRECTIONS + 1)) * len(ids))
        with slot.container(border=True):
            bar = st.progress(0.0, "Running …")
            st.button("Cancel", key="cancel_turned")  # any click ends this run
        with model.turn(on_wait):
            [read] = feature_strengths(model.model, dictionary, [ids])
            own = read[card.group][:, card.feature]
            names = list(TIMES)
            if own.any():
                names, added = [OUT, *names], [-2 * float(own.max()), *added]
            sweep = dose_sweep(
                model.model,
                dictionary,
                ids,
                Change(card.feature, "add", group=card.group),
                added,
                directions=DIRECTIONS,
                progress=teller(bar),
            )
        targets = [
            dictionary.design.targets[w] for w in dictionary.design.groups[card.group].writes
        ]
        first = min(one.layer + (one.site == "moe.normed") for one in targets)
        return Turned(doses(sweep, tuple(names), first), int((own > 0).sum()), len(ids))

    found = here.run("Running the text with the feature changed", work)
    slot.empty()
    return found


def doses(sweep: DoseSweep, names: tuple[str, ...], first: int) -> Doses:
    """A sweep as its page shows it.

    Args:
        sweep: of a feature and random directions.
        names: of the doses.
        first: layer from which on routes can change.
    """
    subjects = np.array(sweep.subjects)
    random = subjects == "random direction"
    later = sweep.layers >= first
    flips = sweep.flips[:, :, later].sum(-1)
    gates = sweep.gates[:, :, later].mean(-1) if later.any() else np.zeros(flips.shape)
    return Doses(
        names=names,
        added=sweep.doses,
        routes=int(later.sum()) * sweep.tokens,
        own=flips[0],
        random=flips[random],
        gates=gates[0],
        gates_random=gates[random],
        kl=sweep.kl[0],
        kl_random=sweep.kl[random],
    )


def result(card: FeatureCard, known: Turned, origin: Provenance) -> None:
    """What happened: a sentence, the figure, the numbers."""
    found = known.found
    if not found.routes:
        st.info("No router stands behind what this feature writes, so no route can change.")
        return
    said = [sentence(card.title, found, out=out) for out in (True, False)]
    st.markdown(" ".join(one for one in said if one))
    if not known.active:
        st.caption("It is not active in this text, so there is nothing to take out.")
    layout.figure(
        feature_doses(found, card.title),
        "feature_doses",
        origin,
        words=(card.title,),
        table=lambda: csv_text.table_csv(columns(found)),
        stretch=True,
    )
    with st.popover("Numbers", icon=":material/functions:"):
        for out in sorted({bool(one) for one in found.added < 0}, reverse=True):
            st.markdown(
                f"{'Taken out' if out else 'Turned up'}: {fixed(found.ratio(out=out), 2)} times as "
                f"many routes as a random direction (p "
                f"{p_value_text(found.p(out=out), len(found.random))}, one-sided, "
                f"{len(found.random)} directions)."
            )
        st.markdown(f"It is active at {known.active} of {counted(known.tokens, 'token')}.")
        number = st.column_config.NumberColumn(format="%.4f")
        tables.show(
            columns(found),
            key="feature_doses_table",
            column_config={
                name: number for name in columns(found) if name.startswith(("gates", "KL"))
            }
            | {"added": st.column_config.NumberColumn(format="%.2f")},
        )
        st.caption(
            "Gates: mean gate mass that moves to other experts. KL: of the next token, plain "
            f"against changed, in nats. Random: the middle of {len(found.random)} directions; "
            "more: directions that change more routes. Added: to its strength, at every token."
        )


def sentence(name: str, found: Doses, *, out: bool) -> str:
    """What one direction of change does beside random directions, as Markdown; "" without it."""
    rows = np.flatnonzero((found.added < 0) == out)
    if not len(rows):
        return ""
    each = ", ".join(
        f"{int(found.own[i]):,} of {found.routes:,}{'' if out else f' {found.names[i]}'} "
        f"(they {int(found.random[:, i].min()):,} to {int(found.random[:, i].max()):,})"
        for i in rows
    )
    how = "Taken out of this text" if out else "Turned up"
    more = "more" if found.more(out=out) else "no more"
    return f"{how}, **{name}** changes {more} routes than random directions as long: {each}."


def columns(found: Doses) -> dict[str, object]:
    """The numbers of all doses."""
    return {
        "dose": list(found.names),
        "added": np.where(found.added < 0, np.nan, found.added),  # taken out: its own strength
        "routes": found.own,
        "routes, random": np.median(found.random, 0),
        "random, more": (found.random > found.own).sum(0),
        "gates": found.gates,
        "gates, random": np.median(found.gates_random, 0),
        "KL": found.kl,
        "KL, random": np.median(found.kl_random, 0),
    }
