"""Values of a clean prompt's run put into a corrupt prompt's: where is the difference carried?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from grok.errors import PromptError
from grok.serving.interfaces import ServedModel
from lens import figures
from lens.figures.prompt_pairs import sweeps as sweep_figures
from lens.finding import Finding
from lens.findings import of_pairs
from lens.prompt_pairs import interventions
from lens.storage import csv_text
from lens.words import percent, significant
from pages.live.running import prompt_form, stream_choice, stream_cost, stream_progress
from pages.live.running.controls import dtype_choice, teller
from pages.live.running.prompt_form import Example
from pages.live.session import prompts, shared_models
from pages.live.session.mode_context import ModeContext
from pages.live.session.shared_models import OnLoad, OnWait
from pages.shell import layout, links
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.experiments.patching import PatchSweep

SITES = {
    "resid_pre": "Residual stream before the layer",
    "attn.output": "What attention adds",
    "moe.output": "What the experts add",
    "router.logits": "Router logits",
}
MEASURES = {
    "difference": "Logit difference of two next tokens",
    "probability": "Probability of a next token",
    "kl": "KL from the clean prompt",
}
KEPT = SessionValue["Result"](SessionKey.WHAT_IF_PATCH)
EXAMPLES: Mapping[str, Example] = {
    "A method's self": Example(
        {"clean": "def f(self):\n    return", "corrupt": "def f(value):\n    return"},
        {"site": "resid_pre", "regained": "probability"},
        "Only the argument's name differs, and with it how likely “self” is to follow. The last "
        "layer's value at “return” brings all of it back; another token's value there does not.",
    ),
    "She or he": Example(
        {"clean": "She was so glad that", "corrupt": "He was so glad that"},
        {"site": "resid_pre", "regained": "difference"},
        "Which pronoun comes next: carried by the first token in early layers. Late values of the "
        "last token bring it back too, but so does the control: any other value would do there.",
    ),
}
ID_EXAMPLES: Mapping[str, Example] = {
    "One token differs": Example(
        {
            "clean": "5, 17, 3, 42, 99, 256, 12, 7",
            "corrupt": "5, 17, 3, 44, 99, 256, 12, 7",
        },
        {"regained": "kl"},
    )
}


@dataclass(frozen=True, eq=False)
class Result:
    """A sweep, its request, and the two next tokens it is about."""

    request: tuple[str, ...]
    sweep: PatchSweep
    answers: tuple[str, str]
    model_sha256: str


def show(context: ModeContext, choice: shared_models.ModelChoice) -> Finding | None:
    """The question's controls and, after a sweep, its answer; returns the finding."""
    known = KEPT.get()
    shown = None if known is None or known.request[0] != choice.path else known
    examples = EXAMPLES if choice.has_tokenizer else ID_EXAMPLES
    clicked = prompt_form.examples_row("patch_example", examples, more=["answer", "other_answer"])
    with prompt_form.fold(None if shown is None else shown.request[2], "Your own texts"):
        request, asked = form(choice)
    if asked or clicked:
        swept(request, choice)
    stream_progress.board()
    known = KEPT.get()
    if known is None or known.request[0] != choice.path:
        return None
    if known is not shown and not choice.streamed:
        prompt_form.draw_again()
    if known.request != request:
        st.caption("Below is the last sweep; press Run for what is chosen now.")
    return answer(known)


def form(choice: shared_models.ModelChoice) -> tuple[tuple[str, ...], bool]:
    """Both prompts with what is put in and measured, and whether Run was pressed."""
    left, right = st.columns(2)
    with left:
        clean = prompt_form.text_box("clean", "Clean prompt", height=80)
    with right:
        corrupt = prompt_form.text_box(
            "corrupt",
            "Corrupt prompt",
            height=80,
            help="The clean prompt with a word changed for one of as many tokens.",
        )
    boxes = st.container()
    first, second, third, fourth = st.columns([4, 4, 2, 2], vertical_alignment="bottom")
    with first:
        site = links.choice("site", "Put in", list(SITES), "resid_pre", shown=SITES.__getitem__)
    with second:
        measure = links.choice(
            "regained", "Measure", list(MEASURES), "difference", shown=MEASURES.__getitem__
        )
    with third:
        dtype = dtype_choice()
    with fourth:
        asked = st.button(
            stream_choice.label(choice, "Run"),
            type="primary",
            icon=":material/play_arrow:",
            key="run_patch",
        )
    with boxes:
        expected = expected_boxes(measure, choice)
    return (choice.path, dtype, clean, corrupt, site, measure, *expected), asked


def expected_boxes(measure: str, choice: shared_models.ModelChoice) -> list[str]:
    """The next tokens that the measure is about, as typed; empty for the likeliest ones."""
    labels = {
        "difference": ("Next token after the clean prompt", "Next token after the corrupt prompt"),
        "probability": ("Next token",),
    }.get(measure, ())
    texts = []
    for label, name, column in zip(labels, ("answer", "other_answer"), st.columns(2), strict=False):
        with column:
            text = prompt_form.text_line(
                name,
                label,
                max_chars=60,
                placeholder="the likeliest" if choice.has_tokenizer else "the likeliest, or an id",
                help="A word that is one token. Left empty: what the model expects most.",
            )
        texts.append(text.strip())
    return texts


def one_token(text: str, model: ServedModel, choice: shared_models.ModelChoice) -> int:
    """The id of a typed next token.

    Raises:
        PromptError: it is not one token of this model.
    """
    ids = prompts.encoded(model, choice, text)
    if ids.size != 1:
        pieces = ", ".join(f"“{figures.visible(piece)}”" for piece in model.pieces(ids[:8]))
        raise PromptError(
            f"The next token “{text}” is {ids.size} tokens to this model ({pieces}); expected one. "
            "Type the first of them, or leave the box empty."
        )
    return int(ids[0])


def answers(
    tokens: list[np.ndarray],
    typed: tuple[str, ...],
    model: ServedModel,
    choice: shared_models.ModelChoice,
    on_wait: OnWait,
) -> list[int]:
    """The next tokens after the clean and the corrupt prompt: typed, or the likeliest.

    Raises:
        PromptError: what was typed is not one token, or the two are the same.
    """
    found = []
    for prompt, text in zip(tokens, (*typed, "", "")[:2], strict=True):
        if text:
            found.append(one_token(text, model, choice))
        else:
            trace = model.trace(prompt, on_wait=on_wait, candidates=1)
            found.append(int(trace.candidates[-1, 0]))
    if len(typed) == 2 and found[0] == found[1]:
        piece = figures.visible(model.pieces(found[:1])[0])
        raise PromptError(
            f"Both next tokens are “{piece}”, so that their logits do not differ. Type the two "
            "next tokens to tell apart, or choose another measure."
        )
    return found


def swept(request: tuple[str, ...], choice: shared_models.ModelChoice) -> None:
    """Run the sweep with progress, and keep it for this session; any click cancels it."""
    _, _, clean, corrupt, site, _, *typed = request

    def work() -> stream_cost.Work:
        from grok.interventions.sites import MIXTURE_SITES

        config = choice.config
        n_layers = len(config.moe_layers) if site in MIXTURE_SITES else config.n_layers
        counts = stream_cost.token_counts(choice, [clean, corrupt])
        answered = [clean, corrupt][len([one for one in typed if one]) :]
        texts = [clean, corrupt, *answered]
        return stream_cost.swept(choice, texts, n_layers * 2 * max(counts))

    if choice.streamed:
        stream_progress.ask(
            choice,
            "Run the sweep",
            work,
            lambda run: computed(request, choice, run.on_wait, run.on_load, lambda: run.on_share),
            KEPT.set,
        )
        return
    slot = st.empty()

    def shown() -> Callable[[int, int], None]:
        with slot.container(border=True):
            bar = st.progress(0.0, "Running …")
            st.button("Cancel", key="cancel_patch")  # any click ends this run, and the sweep
        return teller(bar)

    result = prompt_form.run_guarded(
        lambda on_wait, on_load: computed(request, choice, on_wait, on_load, shown)
    )
    slot.empty()
    if result is not None:
        KEPT.set(result)


def computed(
    request: tuple[str, ...],
    choice: shared_models.ModelChoice,
    on_wait: OnWait,
    on_load: OnLoad,
    begin: Callable[[], Callable[[int, int], None]],
) -> Result:
    """The sweep that a request asks for.

    Args:
        request: model, dtype, both prompts, site, measure, and the next tokens as typed.
        choice: the model.
        on_wait: told the place in the queue and the time.
        on_load: told how many tensors are read.
        begin: called when the sweep begins; returns what is told how far it is.

    Raises:
        GrokError: a prompt, a next token or the model cannot be used.
    """
    from grok.experiments.metrics import kl_divergence, logit_difference, probability

    _, dtype, clean, corrupt, site, measure, *typed = request
    model = shared_models.shared(choice, dtype, on_load)
    tokens = [prompts.encoded(model, choice, text) for text in (clean, corrupt)]
    a, b = 0, 0
    if tokens[0].size == tokens[1].size:  # else the sweep says so
        a, b = answers(tokens, tuple(typed), model, choice, on_wait)
    metric = {
        "difference": logit_difference(a, b),
        "probability": probability(a),
        "kl": kl_divergence(),
    }[measure]
    sweep = model.patch_sweep(
        *tokens, metric=metric, sites=(site,), progress=begin(), on_wait=on_wait
    )
    first, second = model.pieces([a, b])
    return Result(request, sweep, (first, second), model.sha256)


def measure_text(result: Result) -> str:
    """The measure with its tokens, for people."""
    a, b = (figures.visible(piece) for piece in result.answers)
    return {
        "difference": f"logit of “{a}” minus logit of “{b}”",
        "probability": f"probability of “{a}”",
        "kl": "KL from the clean prompt's next-token distribution",
    }[result.request[5]]


def answer(result: Result) -> Finding:
    """Both maps and the finding."""
    sweep, site = result.sweep, result.request[4]
    rows = [f"L{layer}" for layer in sweep.layers]
    share, control = sweep.recovered[0], sweep.control[0]
    found = interventions.carried(share, control)
    pairs = [
        figures.visible(a) if a == b else f"{figures.visible(a)} | {figures.visible(b)}"
        for a, b in zip(sweep.pieces_clean, sweep.pieces_corrupt, strict=True)
    ]
    pieces = [pairs[int(position)] for position in sweep.positions]

    own: layout.FigureOptions = {
        "words": (site, result.request[5]),
        "table": lambda: table_of(sweep, rows, pieces),
    }
    origin = layout.of_model(result.model_sha256)
    left, right = st.columns(2, gap="medium")
    with left:
        layout.figure(
            sweep_figures.patch_map(
                share,
                sweep.positions,
                pieces,
                rows,
                title="Recovered by one value of the clean run",
                subtitle=f"{SITES[site].lower()}; {measure_text(result)}; 1: all, 0: nothing",
            ),
            "patch_map",
            origin,
            **own,
        )
    with right:
        layout.figure(
            sweep_figures.patch_map(
                control,
                sweep.positions,
                pieces,
                rows,
                title="Control: the value of another token",
                subtitle=f"drawn at random, seed {sweep.seed}; put in the same place",
            ),
            "patch_control",
            origin,
            **own,
        )
    best = int(found.largest.argmax())
    position = int(found.position[best])
    return of_pairs.brought_back(
        found,
        rows[best],
        str(sweep.pieces_clean[int(sweep.positions[position])]),
        int(sweep.positions[position]),
        details(result, found, rows, pieces),
    )


def table_of(sweep: PatchSweep, rows: list[str], pieces: list[str]) -> str:
    """The sweep of one site as CSV."""
    share, control = sweep.recovered[0], sweep.control[0]
    row, at = (grid.ravel() for grid in np.indices(share.shape))
    return csv_text.table_csv(
        {
            "layer": [rows[i] for i in row],
            "position": sweep.positions[at],
            "token": [pieces[i] for i in at],
            f"{sweep.metric} ({sweep.unit})": sweep.values[0][row, at],
            "recovered": share[row, at],
            "recovered with another token's value": control[row, at],
        }
    )


def details(
    result: Result, found: interventions.Carried, rows: list[str], pieces: list[str]
) -> str:
    """The places that carry the difference between the prompts, in words."""
    sweep = result.sweep
    start, end = found.position[0], found.position[-1]
    text = (
        f"The prompts differ by {significant(sweep.clean - sweep.corrupt, sign=True)} {sweep.unit} "
        f"in the {measure_text(result)} (clean {significant(sweep.clean)}, corrupt "
        f"{significant(sweep.corrupt)}). One value "
        f"of {SITES[result.request[4]].lower()} brings back at most "
        f"{percent(found.largest.max())} (control in the same place "
        f"{percent(found.control[int(found.largest.argmax())])})"
    )
    if result.request[4] == "resid_pre":
        halves = np.flatnonzero(found.position == end)
        alike = found.control[-1] > 0.8 * found.largest[-1]
        text += f": in {rows[0]} at token “{pieces[start]}”"
        if start != end:
            text += (
                f", from {rows[int(halves[0])]} on mostly at “{pieces[end]}” (in {rows[-1]} "
                f"{percent(found.largest[-1])}, control {percent(found.control[-1])}"
                + (": any value does as much)" if alike else ")")
            )
        text += "."
    else:
        layer = int(found.largest.argmax())
        text += f", in {rows[layer]} at token “{pieces[found.position[layer]]}”."
    most = np.unravel_index(int(sweep.control[0].argmax()), sweep.control[0].shape)
    return text + (
        f" The control brings back most in {rows[int(most[0])]} at “{pieces[int(most[1])]}”: "
        f"{percent(sweep.control[0][most])}."
    )
