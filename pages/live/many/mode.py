"""Many prompts: the experts of texts of each label, and the words of each expert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from lens.errors import LensError
from lens.escaping import as_markdown
from lens.many_prompts.prompt_lists import (
    FORMS,
    MAX_BYTES,
    PROMPT_COLUMNS,
    Form,
    PromptList,
    columns_of,
    read_prompts,
)
from lens.many_prompts.run_events import DamagedRunError
from lens.many_prompts.run_record import NoRunError, Run
from lens.many_prompts.run_store import ID
from pages.access.messages import told
from pages.hosting import owner
from pages.live.many import runs as many_runs
from pages.live.many import traces as many_traces
from pages.live.many import view as many_view
from pages.live.many.examples import SHOWS, ready_ids, ready_list
from pages.live.running import prompt_form, stream_choice, stream_cost, stream_progress
from pages.live.running.controls import dtype_choice
from pages.live.running.prompt_form import Example
from pages.live.session.mode_context import HOW_TO_READ, ModeContext
from pages.live.session.prompts import prompt_limit
from pages.live.session.shared_models import ModelChoice
from pages.shell import links
from pages.shell.finding_block import Headline

SOURCES = {"prompts": "Prompts", "traces": "Saved traces"}
INVITATION = "Run many prompts, and see which experts texts of each kind use, and for which words."
BOX = "many_prompts"
LONGEST = 1_000_000
BY_ENDING: Mapping[str, Form] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def show(context: ModeContext) -> None:
    """The mode: prompts run here, or saved traces."""
    run_id = links.reference("run", "Run", ID)
    configured = many_traces.configured()[0] is not None
    with context.bar:
        source = links.segments(
            "many_source",
            "Source",
            list(SOURCES),
            "traces" if configured and run_id is None else "prompts",
            shown=SOURCES.__getitem__,
            collapsed=True,
        )
    if source == "traces":
        many_traces.show(context.head, context.routers, HOW_TO_READ)
        return
    try:
        context.heading(_prompts(context, run_id), many_view.HOW_TO_READ)
    except LensError as error:
        st.error(told(error), icon=":material/error:")
        context.heading(INVITATION, many_view.HOW_TO_READ)


def _prompts(context: ModeContext, run_id: str | None) -> Headline:
    """A run, or the form for a new one; returns the finding.

    Raises:
        LensError: the store cannot be used.
    """
    many_runs.show_problem()
    store, own_id = many_runs.store(), owner.current()
    run: Run | None = None
    if run_id is not None:
        try:
            run = store.get(run_id)
        except LensError as error:  # there is none any more, or it is damaged
            st.warning(told(error), icon=":material/link_off:")
            links.refer("run", None)
    _form(context, run)
    if store.n_damaged:
        runs = "1 run was" if store.n_damaged == 1 else f"{store.n_damaged} runs were"
        st.caption(
            f":material/healing: {runs} damaged on this server and set aside; none was deleted. "
            "Who runs the server finds them in its folder of runs."
        )
    own = store.runs_of(own_id)
    if own:
        owner.remember()
        many_runs.own_runs(own, None if run is None else run.id)
    if run is None:
        return INVITATION
    try:
        return many_view.show(context, run, mine=run.owner == own_id)
    except NoRunError as error:
        st.warning(told(error), icon=":material/delete:")
        return INVITATION
    except DamagedRunError:
        if store.get(run.id).status != "damaged":
            raise
        st.rerun()


def _form(context: ModeContext, shown: Run | None) -> None:
    """The prompts and the button that runs them, folded to a line beside a run."""
    choice = context.choice
    if choice is None:
        st.info("No model can run prompts here. Saved traces can be compared all the same.")
        return
    ready = ready_list() if choice.has_tokenizer else ready_ids()
    shows = SHOWS if choice.has_tokenizer else "Ids that count up, and ids that repeat."
    clicked = prompt_form.examples_row(
        "many_example",
        {"Ready list": Example({BOX: ready.jsonl()}, {}, shows)},
        shared=False,
        linked=shown is None,
    )
    line = None if shown is None else many_runs.in_a_line(shown)
    with prompt_form.fold(line, "Your own prompts", written=False):
        prompts, dtype, asked = _boxes(choice)
    if (asked or clicked) and prompts is not None:

        def begin() -> None:
            links.refer("run", many_runs.begin(choice, prompts, dtype))

        if choice.streamed:
            stream_progress.ask_to_begin(
                choice,
                "Run these prompts",
                lambda: stream_cost.collected(choice, prompts.texts),
                lambda: many_runs.guarded(begin),
            )
        else:
            many_runs.guarded(begin)
            st.rerun()
    stream_progress.board()


def _boxes(choice: ModelChoice) -> tuple[PromptList | None, str, bool]:
    """Prompts and numbers of a run, and whether Run was pressed."""
    what = "prompt" if choice.has_tokenizer else "prompt of token ids"
    text = prompt_form.text_box(
        BOX,
        f"One {what} a line; CSV or JSON lines with a column prompt and one for labels",
        height=180,
        max_chars=LONGEST,
        placeholder="label, tab, prompt – or a prompt alone",
    )
    file = st.file_uploader(
        "Or a file (text, CSV, JSON lines; it takes the place of the box)",
        type=["txt", "csv", "tsv", "jsonl", "ndjson"],
        key="many_file",
        max_upload_size=MAX_BYTES // 2**20,
    )
    prompts = _read(text, file)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        dtype = dtype_choice()
        asked = st.button(
            stream_choice.label(choice, "Run"),
            type="primary",
            icon=":material/play_arrow:",
            key="many_run",
            disabled=prompts is None,
        )
    st.caption(
        f"Up to {prompt_limit():,} tokens a prompt, {many_runs.MAX_TOKENS:,} in all. They "
        "run in the background: you may leave this page. Prompts and routing are kept on this "
        f"server {many_runs.kept_for()}, under a link that nobody can guess."
    )
    return prompts, dtype, asked


def _read(text: str, file: UploadedFile | None) -> PromptList | None:
    """The prompts of the box or the file, after saying in which form they were read."""
    source: str | bytes = text if file is None else file.getvalue()
    if not source.strip():
        return None
    name = "" if file is None else str(file.name)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Read as",
            [None, *FORMS],
            format_func=lambda form: "(as found)" if form is None else FORMS[form],
            key="many_form",
            width=160,
        )
        beside = st.container()
    form = chosen or BY_ENDING.get(Path(name).suffix.lower())
    with beside:
        prompt_column, label_column = _columns(columns_of(source, form=form))
    try:
        prompts = read_prompts(
            source, form=form, where=name, prompt_column=prompt_column, label_column=label_column
        )
    except LensError as error:
        st.error(told(error), icon=":material/error:")
        return None
    labels = prompts.by_label
    shown = ", ".join(f"{label} ({n})" for label, n in list(labels.items())[:8])
    st.caption(
        f"Read as {FORMS[prompts.form]}: {len(prompts.texts):,} prompts; "
        + ("no labels" if set(labels) == {"all"} else f"labels: {as_markdown(shown)}")
        + (", …." if len(labels) > 8 else ".")
    )
    return prompts


def _columns(columns: tuple[str, ...]) -> tuple[str | None, str | None]:
    """The columns of prompts and labels that are chosen; None for those that are found by name."""
    named = {name.lower() for name in columns}
    known = bool(named & set(PROMPT_COLUMNS))
    if len(columns) < 2 or (known and len(columns) == 2):
        return (None, None) if known or not columns else (columns[0], None)
    found = "(by name)"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        prompt = st.selectbox(
            "Column of the prompts",
            ([found] if known else []) + list(columns),
            key="many_prompt_column",
            width=200,
        )
        label = st.selectbox(
            "Column of the labels", [found, *columns], key="many_label_column", width=200
        )
    return None if prompt == found else prompt, None if label == found else label
