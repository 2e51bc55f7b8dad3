"""Each expert of each layer banned, or given to every token: the whole sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from grok.serving.interfaces import ServedModel
from lens.errors import LensError
from lens.figures.prompt_pairs import sweeps as sweep_figures
from lens.finding import Finding
from lens.findings import of_pairs
from lens.prompt_pairs import interventions
from lens.storage import csv_text
from lens.words import fixed, p_value_text, significant
from pages.guide import tables
from pages.live.running import prompt_form, stream_choice, stream_cost, stream_progress
from pages.live.running.controls import dtype_choice, teller
from pages.live.running.stream_run import StreamedRun
from pages.live.session import prompts, shared_models
from pages.live.session.mode_context import ModeContext
from pages.live.session.shared_models import OnLoad, OnWait
from pages.live.what_if import examples
from pages.live.what_if.one_expert import ACTIONS
from pages.shell import layout, links
from pages.shell.picks import Mark
from pages.shell.session_keys import SessionKey, SessionValue, selected_rows

if TYPE_CHECKING:
    from grok.experiments.ablation import AblationSweep
    from grok.experiments.metrics import Metric

MEASURES = {
    "kl": "KL, mean over tokens",
    "kl_last": "KL after the last token",
    "first": "Probability of the likeliest next token",
}
KEPT = SessionValue["Result"](SessionKey.WHAT_IF_EVERY)
LISTED = 8
PER_USE = "effect over use"


@dataclass(frozen=True, eq=False)
class Result:
    """A sweep and what it was of; the text stays in this session."""

    request: tuple[str, str, str, str, str]
    sweep: AblationSweep


def show(context: ModeContext, choice: shared_models.ModelChoice) -> Finding | None:
    """The question's controls and, after a sweep, its answer; returns the finding."""
    known = KEPT.get()
    known = known if known is not None and known.request[0] == choice.path else None
    shown = None if known is None else known.request[2]
    clicked = examples.row(choice, examples.EVERY)
    with prompt_form.fold(shown):
        request, asked = form(choice)
    if asked or clicked:
        swept(request, choice)
    stream_progress.board()
    known = KEPT.get()
    if known is not None and known.request == request and request[2] != shown:
        prompt_form.draw_again()
    if known is None or known.request[0] != choice.path:
        return None
    if known.request != request:
        st.caption("Below is the last sweep; press Run for what is chosen now.")
    return answer(known)


def form(choice: shared_models.ModelChoice) -> tuple[tuple[str, str, str, str, str], bool]:
    """Model, numbers, text, action and measure of a sweep, and whether Run was pressed."""
    text = examples.text_box(choice)
    first, second, third, fourth = st.columns([4, 3.5, 2, 2.5], vertical_alignment="bottom")
    with first:
        action = links.segments(
            "action",
            "What if",
            list(ACTIONS),
            "ban",
            shown=ACTIONS.__getitem__,
        )
    with second:
        measure = links.choice(
            "measure", "Measure", list(MEASURES), "kl", shown=MEASURES.__getitem__
        )
    with third:
        dtype = dtype_choice()
    with fourth:
        count = len(choice.config.moe_layers) * choice.config.n_experts
        asked = st.button(
            stream_choice.label(choice, f"Run {count:,} times"),
            type="primary",
            icon=":material/play_arrow:",
            key="run_every",
            help="Once for every expert of every layer, in batches.",
        )
    return (choice.path, dtype, text, action, measure), asked


def swept(request: tuple[str, str, str, str, str], choice: shared_models.ModelChoice) -> None:
    """Run the sweep with progress, and keep it for this session; any click cancels it."""
    _, dtype, text, action, measure = request
    slot = st.empty()

    def keep(sweep: AblationSweep) -> None:
        KEPT.set(Result(request, sweep))

    def streamed(run: StreamedRun[AblationSweep]) -> AblationSweep:
        model = shared_models.shared(choice, dtype, run.on_load)
        tokens = prompts.encoded(model, choice, text)
        metric = metric_of(measure, model, tokens, run.on_wait)
        return model.ablation_sweep(
            tokens, metric=metric, how=action, progress=run.on_share, on_wait=run.on_wait
        )

    if choice.streamed:
        first = 1 if measure == "first" else 0
        runs = len(choice.config.moe_layers) * choice.config.n_experts
        stream_progress.ask(
            choice,
            "Run the sweep",
            lambda: stream_cost.swept(choice, [text] * (1 + first), runs),
            streamed,
            keep,
        )
        return

    def run(on_wait: OnWait, on_load: OnLoad) -> AblationSweep:
        model = shared_models.shared(choice, dtype, on_load)
        tokens = prompts.encoded(model, choice, text)
        metric = metric_of(measure, model, tokens, on_wait)
        with slot.container(border=True):
            bar = st.progress(0.0, "Running …")
            st.button("Cancel", key="cancel_every")  # any click ends this run, and the sweep
            return model.ablation_sweep(
                tokens, metric=metric, how=action, progress=teller(bar), on_wait=on_wait
            )

    sweep = prompt_form.run_guarded(run)
    slot.empty()
    if sweep is not None:
        keep(sweep)


def metric_of(measure: str, model: ServedModel, tokens: np.ndarray, on_wait: OnWait) -> Metric:
    """The metric that a measure means for this text."""
    from grok.experiments.metrics import kl_divergence, probability

    if measure == "first":
        trace = model.trace(tokens, on_wait=on_wait, candidates=1)
        return probability(int(trace.candidates[-1, 0]))
    return kl_divergence(everywhere=measure == "kl")


def answer(result: Result) -> Finding:
    """Figures of a sweep; returns the finding."""
    sweep, action = result.sweep, result.request[3]
    rows = [f"L{layer}" for layer in sweep.layers]
    # A probability that falls is an effect too.
    size = np.abs(sweep.effect) if result.request[4] == "first" else sweep.effect
    text, test = details(size, sweep, rows)
    row, own_expert = (int(i) for i in interventions.strongest(size, 1)[0])
    name = f"{rows[row]}·E{own_expert}"
    picked = None
    layer: int | None = links.chosen("layer", None)
    expert: int | None = links.chosen("expert", None)
    if layer in sweep.rows.tolist() and expert is not None and expert < size.shape[1]:
        picked = (sweep.rows.tolist().index(layer), expert)
    what = f"{ACTIONS[action].lower()}: change of the {sweep.metric}"
    table = table_of(sweep, rows)

    def pick(mark: Mark) -> None:
        look_at(int(sweep.rows[int(mark["layer"])]), int(mark["expert"]))

    origin = layout.of_model(sweep.trace.model_sha256)
    own: layout.FigureOptions = {
        "words": (action, result.request[4]),
        "table": table,
        "on_pick": pick,
    }
    wide: layout.FigureOptions = {**own, "stretch": True}
    if size.shape[1] > sweep_figures.MANY_EXPERTS:
        left, right = st.container(), st.container()
    else:
        left, right = st.columns(2, gap="large")
    with left:
        layout.figure(
            sweep_figures.expert_effects(
                sweep.effect, sweep.load > 0, rows, unit=sweep.unit, what=what, picked=picked
            ),
            "expert_effects",
            origin,
            **own,
        )
        st.caption("Click an expert to look at it alone.")
    with right:
        layout.figure(
            sweep_figures.effects_against_use(
                sweep.effect, weights(sweep), rows, unit=sweep.unit, picked=picked
            ),
            "effects_against_use",
            origin,
            **wide,
        )
        if test is not None:
            correlation, low, high = correlation_words(test)
            st.caption(
                f"Spearman's correlation within layers {correlation}; experts of each layer "
                f"relabelled: {low} to {high} in 95\u00a0% of "
                f"{test.draws:,} draws (seed {test.seed}), p {p_value_text(test.p, test.draws)}."
            )
    listed(sweep, size, rows)
    return of_pairs.most_needed(size, (row, own_expert), name, text)


def look_at(layer: int, expert: int) -> None:
    """Fill the sentence of "One expert" and run it; call it in a callback."""
    links.choose(layer=layer, expert=expert, question="one")
    prompt_form.PRESSED.set(examples.ONE)


def details(
    size: np.ndarray, sweep: AblationSweep, rows: list[str]
) -> tuple[str, interventions.EffectAndUse | None]:
    """The largest effect beside the layer's others, and the correlation of effects with use."""
    layer, expert = (int(i) for i in interventions.strongest(size, 1)[0])
    others = np.delete(size[layer], expert)
    text = (
        f"{rows[layer]}·E{expert} matters most for this text: {significant(size[layer, expert])} "
        f"{sweep.unit}, others of its layer {significant(others.min())} to "
        f"{significant(others.max())} (mean "
        f"{significant(others.mean())}), all experts {significant(np.median(size), 2)} in the "
        "middle."
    )
    try:
        test = interventions.effect_and_use(size, weights(sweep))
    except LensError as error:
        return f"{text} {error}", None
    verdict = "more than" if test.p <= 0.05 else "not distinguishable from"
    correlation, low, high = correlation_words(test)
    return (
        f"{text} An expert's share of the mix goes with its effect at {correlation} (Spearman), "
        f"{verdict} relabelled experts ({low} to {high}, p {p_value_text(test.p, test.draws)}).",
        test,
    )


def correlation_words(test: interventions.EffectAndUse) -> tuple[str, str, str]:
    """The correlation of effects with use, and what holds 95 % of the relabelled ones."""
    correlation, low, high = (
        fixed(value, 2, sign=True) for value in (test.correlation, test.low, test.high)
    )
    return correlation, low, high


def weights(sweep: AblationSweep) -> np.ndarray:
    """Mean share of the mix of each expert, by the sweep's layers."""
    found: np.ndarray = interventions.weight(sweep.trace)[sweep.rows]
    return found


def table_of(sweep: AblationSweep, rows: list[str]) -> Callable[[], str]:
    """The sweep as CSV, made when asked for."""

    def text() -> str:
        row, expert = (grid.ravel() for grid in np.indices(sweep.effect.shape))
        top_k = sweep.trace.experts.shape[-1]
        per_use = interventions.effect_per_use(sweep.effect, sweep.load, top_k)
        return csv_text.table_csv(
            {
                "layer": [rows[i] for i in row],
                "expert": expert,
                f"{sweep.metric} ({sweep.unit})": sweep.values[row, expert],
                "without": np.full(row.size, sweep.base),
                "effect": sweep.effect[row, expert],
                "mean effect of the layer's others": sweep.control[row, expert],
                "share of assignments": sweep.load[row, expert],
                "share of the mix": weights(sweep)[row, expert],
                "effect over share of tokens that use it": per_use[row, expert],
            }
        )

    return text


def listed(sweep: AblationSweep, size: np.ndarray, rows: list[str]) -> None:
    """The strongest experts, to read and to choose by keyboard."""
    top = interventions.strongest(size, LISTED)
    st.markdown("**Largest effects**")

    def chosen() -> None:
        found = selected_rows("effects_table")
        if found:
            layer, expert = top[found[0]]
            look_at(int(sweep.rows[layer]), int(expert))

    at = tuple(top.T)
    per_use = interventions.effect_per_use(sweep.effect, sweep.load, sweep.trace.experts.shape[-1])
    tables.show(
        {
            "expert": [f"{rows[layer]}·E{expert}" for layer, expert in top],
            f"effect ({sweep.unit})": sweep.effect[at],
            "mean of the layer's others": sweep.control[at],
            "share of assignments": sweep.load[at],
            "share of the mix": weights(sweep)[at],
            PER_USE: per_use[at],
        },
        key="effects_table",
        on_select=chosen,
        selection_mode="single-row",
        column_config={
            "share of assignments": st.column_config.NumberColumn(format="percent"),
            "share of the mix": st.column_config.NumberColumn(format="percent"),
            f"effect ({sweep.unit})": st.column_config.NumberColumn(format="%.4g"),
            "mean of the layer's others": st.column_config.NumberColumn(format="%.4g"),
            PER_USE: st.column_config.NumberColumn(
                format="%.4g",
                help="Effect divided by the share of tokens that use the expert: alike for all "
                "experts of a layer if use alone decided. Rough where few tokens use it.",
            ),
        },
    )
