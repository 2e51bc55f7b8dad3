"""One run of many prompts: its progress, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from grok.engine.progress import PassProgress
from lens.errors import LensError
from lens.findings import of_prompts
from lens.many_prompts.label_tests import LabelTest
from lens.many_prompts.run_events import ask, check_files
from lens.many_prompts.run_export import run_zip
from lens.many_prompts.run_record import Run
from lens.many_prompts.run_statistics import run_label_test, run_traces
from lens.many_prompts.trace_folder import TraceFolder
from pages.access.messages import told
from pages.guide import tables
from pages.live.many import kinds as many_kinds
from pages.live.many import runs as many_runs
from pages.live.many import traces as many_traces
from pages.live.many import words as many_words
from pages.live.many.traces import Many
from pages.live.one_trace import examples
from pages.live.running import stream_run
from pages.live.session import mode_context
from pages.live.session.mode_context import ModeContext
from pages.shell import links, parts
from pages.shell.finding_block import Headline
from pages.shell.session_keys import selected_rows

HOW_TO_READ = (
    mode_context.HOW_TO_READ
    + """

**Many prompts**

- **Label and expert**: mutual information I(label; expert) in nats over all (token, choice)
  assignments; at most H(label). The null permutes the labels over whole prompts.
- **Words**: of T tokens M chose the expert and n are the word; where words are shuffled over the
  tokens, the count of both is hypergeometric (no draws; exact for all prompts together and for
  words of up to 64 occurrences, else by three moments). Lift: count over its mean by chance. q over
  all experts and words after Benjamini and Hochberg. Shuffled over all prompts, a word is lifted
  by all that its kind of text does; shuffled within stretches of about 16 tokens of a prompt, only
  by what it does beyond the place where it stands. Either takes occurrences as independent, which
  neighbours are not: see how many prompts they are from.
- **First tokens** of a prompt behave unlike the others: leave them out to see what stays.
"""
)
SKIPS = {0: "All", 1: "Without the first", 4: "Without the first 4"}
TABS = {
    "texts": "Prompts",
    "labels": "Labels",
    "words": "Words",
    "many_information": "Information",
    "many_order": "Repeats",
}
PATIENCE = 1.0  # seconds between two drawings of a run that goes on

# Of a session alone, as prompts must be: nobody else reads it.
_kept = st.cache_resource(max_entries=3, show_spinner="Reading the run …", scope="session")
_computed = st.cache_data(max_entries=12, show_spinner="Drawing the null …", scope="session")


@_kept
def _folder(run_id: str, changed: float, skip: int, _run: Run) -> TraceFolder:
    return run_traces(_run, skip=skip)


@_computed
def _label_test(run_id: str, changed: float, skip: int, _folder: TraceFolder) -> LabelTest:
    return run_label_test(_folder)


def show(context: ModeContext, run: Run, *, mine: bool) -> Headline:
    """The run; returns the finding.

    Raises:
        NoRunError: it was deleted meanwhile.
        DamagedRunError: a file of it is damaged, and set aside now.
        LensError: its files cannot be read.
    """
    if context.choice is None:  # else the form's line says it
        st.caption(many_runs.in_a_line(run))
    if run.status == "running":
        _progress(run.id, mine)
        return f"{_prompts(run)} {'is' if run.n_prompts == 1 else 'are'} being run."
    if run.status != "finished":
        return _unfinished(context, run, mine)
    return _finished(context, run, mine)


def _prompts(run: Run) -> str:
    return "1 prompt" if run.n_prompts == 1 else f"{run.n_prompts:,} prompts"


@parts.part(run_every=PATIENCE)
def _progress(run_id: str, mine: bool) -> None:
    """Progress of a run, drawn again each second without the rest of the page."""
    try:
        run = many_runs.store().get(run_id)
    except LensError:
        st.rerun()
    if run.status != "running":
        st.rerun()
    job = many_runs.jobs().get(run_id)
    state = None if job is None else job.state
    if state is not None and state.status == "waiting":
        runs = "run comes" if state.n_before == 1 else "runs come"
        st.progress(0.0, f"Waiting; {state.n_before} {runs} first.")
    elif run.n_tokens == 0:
        st.progress(0.0, "Reading the model and the prompts …")
    else:
        share = min(run.tokens_done / run.n_tokens, 1.0)
        text = f"{run.tokens_done:,} of {run.n_tokens:,} tokens"
        if job is not None and isinstance(job.detail, PassProgress) and job.detail.bytes_read:
            text += f" · {stream_run.pass_words(job.detail)}"
        st.progress(share, text)
    if mine and job is not None:
        st.button("Cancel", key="many_cancel", icon=":material/cancel:", on_click=job.cancel)


def _unfinished(context: ModeContext, run: Run, mine: bool) -> str:
    words = {
        "failed": f"This run failed: {told(run.problem)}",
        "cancelled": "This run was cancelled. What was run is kept; it can go on from there.",
        "stopped": "This run stopped: the program that ran it ended, or could not write any more. "
        "What was run is kept; it can go on from there.",
        "damaged": "A file of this run was damaged on the server and has been set aside. The "
        "others are whole: when its owner lets the run go on, only what was in that file is run "
        "again.",
    }[run.status]
    {"failed": st.error, "damaged": st.warning}.get(run.status, st.info)(words)
    if run.problem and run.status != "failed":
        st.warning(told(run.problem), icon=":material/healing:")
    if mine:
        with st.container(horizontal=True):
            choice = context.choice
            if choice is not None:
                st.button(
                    "Try again" if run.status == "failed" else "Go on",
                    type="primary",
                    icon=":material/play_arrow:",
                    key="many_go_on",
                    on_click=many_runs.go_on_clicked,
                    args=(choice, run),
                )
            many_runs.delete_button(run, "view")
    total = f" of {run.n_tokens:,}" if run.n_tokens else ""
    return f"{_prompts(run)}: {run.tokens_done:,}{total} tokens were run."


def _finished(context: ModeContext, run: Run, mine: bool) -> Headline:
    check_files(run)
    if run.problem:
        st.warning(told(run.problem), icon=":material/healing:")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        skip = links.choice(
            "first_tokens",
            "Tokens of each prompt",
            list(SKIPS),
            0,
            shown=SKIPS.__getitem__,
            width=220,
        )
        st.download_button(
            "Download",
            lambda: run_zip(run),
            file_name=f"run-{run.n_prompts}-prompts-{run.model_sha256[:8]}.zip",
            mime="application/zip",
            key="many_download",
            on_click="ignore",
            icon=":material/download:",
            help="Parquet and CSV in a zip",
        )
        if mine:
            many_runs.delete_button(run, "view")
    folder = _folder(run.id, run.changed, skip, run)
    test, why = None, ""
    try:
        test = _label_test(run.id, run.changed, skip, folder)
    except LensError as error:
        why = str(error)
    many = Many(folder, context.routers, "prompts")
    if folder.model_sha256 != context.routers.sha256:
        st.caption(
            f"The prompts were run by a model with routers `{folder.model_sha256[:12]}`, not by "
            "the routers that the other pages show."
        )
    picked = None if test is None else many_kinds.show(run, many, test, skip)
    fold = parts.statistics_fold(
        "Prompts and statistics", f"many_statistics_{run.id}", "seen", opened=test is None
    )
    if fold.open:
        with fold:
            for tab, container in links.tabs("seen", TABS):
                with container:
                    _tab(tab, run, many, Tested(test, why, picked), skip)
    return [of_prompts.labels_and_experts(folder, test, "prompts", many.labels)]


@dataclass(frozen=True, eq=False)
class Tested:
    """The test of the labels, or why there is none; layer and expert that were chosen above."""

    test: LabelTest | None
    why: str
    picked: tuple[int, int] | None


def _tab(tab: str, run: Run, many: Many, tested: Tested, skip: int) -> None:
    """What the open tab shows."""
    if tab == "texts":
        _texts(run)
    elif tab == "labels":
        many_traces.by_label(many, tested.test, tested.why, tested.picked)
    elif tab == "words":
        many_words.show(run, many, skip, tested.picked)
    elif tab == "many_information":
        many_traces.information(many)
    else:
        many_traces.repeats(many)


def _texts(run: Run) -> None:
    found = ask(
        run, "SELECT prompt, label, n_tokens, text FROM read_parquet($prompts) ORDER BY prompt"
    )

    def picked() -> None:
        rows = selected_rows("many_texts")
        if rows:
            examples.ask(str(found["text"][rows[0]]))

    st.caption("A click on a row opens its prompt in Inspect.")
    tables.show(
        {
            "prompt": found["prompt"],
            "label": found["label"],
            "tokens": found["n_tokens"],
            "text": found["text"],
        },
        key="many_texts",
        on_select=picked,
        selection_mode="single-row",
    )
