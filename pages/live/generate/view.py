"""A generated text with its experts, while it comes and when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from lens import figures
from lens.errors import LensError
from lens.escaping import as_html
from lens.finding import Finding
from lens.findings import of_texts
from lens.traces.contrast import loop_of
from lens.traces.routing import overlap
from lens.words import counted, percent
from pages.live.one_trace import routing_statistics, text_parts
from pages.live.one_trace.routing_views import View
from pages.live.session.generation import Generated

if TYPE_CHECKING:
    from grok.runner.results import Step

MOST_CHIPS = 120


BETWEEN = 0.2  # seconds between drawings


def live_html(steps: Sequence[Step], layer: int) -> str:
    """The tokens made so far; a token's experts are known once the next one is made."""
    pieces = [str(step.piece) for step in steps]
    layer = min(layer, steps[0].routing.experts.shape[0] - 1)
    experts = [step.routing.experts[layer, 0, 0] for step in steps[1:]]
    return chips_html(pieces, experts, first=0)


def chips_html(pieces: Sequence[str], experts: Sequence[np.ndarray], *, first: int) -> str:
    """Tokens as boxes in the colour of their first expert, all their experts below.

    Args:
        pieces: of the tokens.
        experts: chosen experts of the first of them; the others have none yet.
        first: position of the first piece, for readers who point at a box.
    """
    shades = figures.OKABE_ITO
    start = max(len(pieces) - MOST_CHIPS, 0)
    boxes = []
    for i in range(start, len(pieces)):
        known = [int(e) for e in experts[i] if e >= 0] if i < len(experts) else []
        shade = shades[known[0] % len(shades)] if known else "transparent"
        ink = "#FFFFFF" if shade == "#0072B2" else "#111111" if known else "inherit"
        border = "1px solid transparent" if known else "1px dashed #8C8C8C"
        word = as_html(figures.visible(pieces[i]))
        under = " ".join(f"E{e}" for e in known) or "&nbsp;"
        boxes.append(
            f'<span title="token {first + i}" style="display:inline-block;text-align:center;'
            'margin:1px 2px;line-height:1.25">'
            f'<span style="display:block;background:{shade};color:{ink};border:{border};'
            f'border-radius:3px;padding:0 4px">{word}</span>'
            f'<span style="font-size:0.68rem;opacity:0.75">{under}</span></span>'
        )
    before = f"<div>… {counted(start, 'token')} before</div>" if start else ""
    return f'<div role="group" aria-label="Generated tokens">{before}{"".join(boxes)}</div>'


def made_text(done: Generated, view: View) -> None:
    """The continuation as text; its tokens and their experts stand in the strip below."""
    trace = done.trace
    why = {
        "stopped": f"Stopped after {done.n_tokens:,} of {done.n_asked:,} tokens.",
        "end": f"The model ended its text after {counted(done.n_tokens, 'token')}.",
        "length": f"{counted(done.n_tokens, 'token')}.",
    }[done.why]
    prompt = "".join(view.pieces[: trace.prompt_length]).replace("▁", " ").lstrip()
    st.html(prose_html(prompt, done.text))
    st.caption(f"{why} The last one was not read any more, so it has no experts.")
    loop = loop_of(trace.tokens)
    if loop is not None:
        st.markdown(loop_note(trace.experts, *loop))


def prose_html(prompt: str, made: str) -> str:
    """A text as it reads, what the model wrote under a line."""
    return (
        '<p style="white-space:pre-wrap;overflow-wrap:anywhere;font-size:1.05rem;margin:0">'
        f'<span style="opacity:0.75">{as_html(prompt, keep_lines=True)}</span>'
        f'<ins style="text-underline-offset:0.25em">{as_html(made, keep_lines=True)}</ins></p>'
    )


def loop_note(experts: np.ndarray, period: int, start: int) -> str:
    """Experts shared by tokens one round apart, in a text that repeats itself.

    Args:
        experts: chosen ones [L, T, K].
        period, start: of the loop, see `lens.traces.contrast.loop_of`.
    """
    inside = experts[:, start:]

    def shared(apart: int) -> float:
        return float(overlap(inside[:, apart:], inside[:, :-apart]).mean())

    others = float(np.mean([shared(apart) for apart in range(1, period)]))
    return (
        f":material/all_inclusive: From token {start} on the text repeats itself every {period} "
        f"tokens. Tokens one round apart share {percent(shared(period))} of their experts, "
        f"tokens less than a round apart {percent(others)}."
    )


def finding(view: View, done: Generated) -> Finding:
    """Whether loads jump where generation begins, and how far the parts differ as a whole."""
    trace = view.trace
    settings = trace.settings
    how = (
        "always the likeliest token"
        if settings.get("temperature") == 0
        else f"temperature {settings.get('temperature')}, seed {settings.get('seed')}"
    )
    text = f"{counted(done.n_tokens, 'token')} generated after {trace.prompt_length:,} ({how})."
    try:
        found = routing_statistics.part_loads(view.key, int(trace.prompt_length), trace)
    except LensError as error:
        general = routing_statistics.busiest_expert(view.key, tuple(view.labels), trace)
        return of_texts.generated_tokens(error, f"{text} {error} {general.detail}")
    words = f"{text} {text_parts.jump_words(found)} {text_parts.drift_words(found)}"
    return of_texts.generated_tokens(found, words.replace("**", ""))
