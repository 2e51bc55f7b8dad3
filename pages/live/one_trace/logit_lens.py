"""The logit lens of the chosen cell: the next tokens that the model would expect after a layer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens import figures
from lens.escaping import as_markdown
from lens.storage import csv_text
from lens.traces import RoutedText, layer_numbers
from lens.words import fixed, percent
from pages.live.one_trace.routing_views import CELL, View
from pages.live.running import prompt_form, stream_cost, stream_progress
from pages.live.session import shared_models
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait
from pages.shell.parts import then_drawn
from pages.shell.picks import pick_layer
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.experiments.logit_lens import LogitLens

LENSES = SessionValue[dict[str, "LogitLens | None"]](SessionKey.LOGIT_LENSES)
MOST_LENSES = 4


@dataclass(frozen=True)
class OtherModel:
    """Stands for a logit lens that was not read: the model at hand did not make the trace."""


def at_once(view: View, *, asked: bool) -> bool:
    """Whether the lens is drawn without a run of the model: it is known, or waits for a press."""
    return asked or lens_key(view.trace) in LENSES.kept(dict)


def fill(
    slot: DeltaGenerator,
    view: View,
    token: int,
    layer: int,
    choice: ModelChoice | None,
    *,
    asked: bool,
) -> None:
    """Candidates for the next token after the chosen layer, beside the whole model's.

    Args:
        slot: what `cell_view.show` returned.
        choice: the model that runs prompts here, if any.
        asked: the model is loaded for it only when a button is pressed.
    """
    with slot:
        found = lens_of(view, choice, asked=asked)
        if found is None:
            candidates(view, token)
            return
        whole = found
        found = of_layers(found, layer_numbers(view.trace))
        kl = found.kl[:, token]
        typical = np.median(found.kl, axis=1)
        others = np.delete(found.kl[layer], token)
        nearer = ""
        if len(others):
            share = percent(float(np.mean(others < kl[layer])))
            nearer = f", {share} of its other tokens are nearer their end"
        st.markdown(
            f"**Next token.** If the model ended after {view.labels[layer]}, it would most expect "
            f"“{as_markdown(figures.visible(str(found.pieces[layer, token, 0])))}” "
            f"({fixed(found.probs[layer, token, 0], 3)}); as a whole, "
            f"“{as_markdown(figures.visible(str(whole.pieces[-1, token, 0])))}” "
            f"({fixed(whole.probs[-1, token, 0], 3)}). KL(whole ‖ up to {view.labels[layer]}) is "
            f"{fixed(kl[layer], 2)} nats; median of the text {fixed(typical[layer], 2)}{nearer}."
        )
        left, middle, right = st.columns([5, 4, 4], gap="medium")
        with left:
            course(view, found, token, layer)
        with middle:
            bars(view, found, token, layer)
        with right:
            candidates(view, token)


def of_layers(found: LogitLens, layers: np.ndarray) -> LogitLens:
    """The lens after these layers alone, such as those that have experts."""
    names = ("tokens", "pieces", "probs", "kl", "next_probs")
    return replace(found, **{name: getattr(found, name)[layers] for name in names})


def course(view: View, found: LogitLens, token: int, layer: int) -> None:
    """The likeliest next token after every layer."""
    view.figure(
        figures.logit_lens_by_layer(
            [str(piece) for piece in found.pieces[:, token, 0]],
            found.probs[:, token, 0],
            found.kl[:, token],
            view.labels,
            layer=layer,
            usual=np.median(found.kl, axis=1),
            after=view.pieces[token],
        ),
        "logit_lens",
        stretch=True,
        words=(f"token{token}",),
        on_pick=then_drawn(pick_layer, CELL),
        table=lambda: csv_text.table_csv(
            {
                "layer": view.labels,
                "likeliest next": [str(piece) for piece in found.pieces[:, token, 0]],
                "probability": found.probs[:, token, 0],
                "KL from the whole model (nats)": found.kl[:, token],
                "median KL of the text's tokens": np.median(found.kl, axis=1),
            }
        ),
    )


def bars(view: View, found: LogitLens, token: int, layer: int) -> None:
    """The likeliest next tokens after the chosen layer."""
    ids = [int(i) for i in found.tokens[layer, token]]
    names = [str(piece) for piece in found.pieces[layer, token]]
    following = int(view.trace.tokens[token + 1]) if token + 1 < view.n_tokens else None
    view.figure(
        figures.candidate_bars(
            names,
            found.probs[layer, token],
            after=view.pieces[token],
            chosen=ids.index(following) if following in ids else None,
            up_to=view.labels[layer],
        ),
        "lens_candidates",
        stretch=True,
        words=(view.labels[layer], f"token{token}"),
        table=lambda: csv_text.table_csv(
            {"token id": ids, "piece": names, "probability": found.probs[layer, token]}
        ),
    )


def candidates(view: View, token: int) -> None:
    """The tokens that the model thinks come next."""
    trace = view.trace
    ids = [int(i) for i in trace.candidates[token]]
    if not ids:
        st.caption("The trace holds no candidates for the next token.")
        return
    names = (
        [str(piece) for piece in trace.candidate_pieces[token]]
        if trace.candidate_pieces is not None
        else [f"id {i}" for i in ids]
    )
    following = int(trace.tokens[token + 1]) if token + 1 < view.n_tokens else None
    view.figure(
        figures.candidate_bars(
            names,
            trace.candidate_probs[token],
            after=view.pieces[token],
            chosen=ids.index(following) if following in ids else None,
        ),
        "next_token_candidates",
        stretch=True,
        words=(f"token{token}",),
        table=lambda: csv_text.table_csv(
            {"token id": ids, "piece": names, "probability": trace.candidate_probs[token]}
        ),
    )


def lens_of(view: View, choice: ModelChoice | None, *, asked: bool) -> LogitLens | None:
    """The logit lens of a trace, read once a session, or None after saying why not."""
    trace = view.trace
    key = lens_key(trace)
    kept = LENSES.kept(dict)
    if key in kept:
        return kept[key]
    why = None
    if trace.settings.get("interventions"):
        why = "This run was changed by an intervention, so no logit lens is read here."
    elif choice is None:
        why = "The logit lens needs the model; none can run here."
    if choice is None or why is not None:
        st.caption(why or "")
        return None
    apart = choice.streamed and stream_cost.needs_asking(choice, stream_cost.lens(choice, trace))
    if (
        asked
        and not apart
        and not st.button("Read the logit lens", icon=":material/layers:", key="read_lens")
    ):
        return None
    dtype = str(trace.settings.get("dtype", "bfloat16"))
    strange = f"{key} {choice.path}"  # where the model turned out to be another one

    def read(on_wait: OnWait, on_load: OnLoad) -> LogitLens | OtherModel:
        model = shared_models.shared(choice, dtype, on_load)
        if model.sha256 != trace.model_sha256:
            return OtherModel()
        return model.logit_lens(np.asarray(trace.tokens), on_wait=on_wait)

    def keep(found: LogitLens | OtherModel) -> None:
        while len(kept) >= MOST_LENSES:
            kept.pop(next(iter(kept)))
        if isinstance(found, OtherModel):
            kept[strange] = None
        else:
            kept[key] = found

    found: LogitLens | OtherModel | None
    if strange in kept:
        found = OtherModel()
    elif apart:
        stream_progress.button(
            choice, "Read the logit lens", stream_cost.lens(choice, trace), "read_lens", read, keep
        )
        return None
    else:
        found = prompt_form.run_guarded(read, "Reading what each layer expects next")
    if isinstance(found, OtherModel):
        st.caption("The logit lens needs the model that made the trace; it is not the one here.")
        return None
    if found is not None:
        keep(found)
    return found


def lens_key(trace: RoutedText) -> str:
    """Hash of what the logit lens of a trace depends on."""
    digest = hashlib.sha256(f"{trace.model_sha256}|{trace.settings.get('dtype')}|".encode())
    digest.update(np.ascontiguousarray(trace.tokens, "<i4").data)
    return digest.hexdigest()
