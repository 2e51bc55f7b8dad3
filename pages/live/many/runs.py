"""The runs of many prompts: the store, the work in the background, and the owner's list."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import streamlit as st

from grok.engine.progress import PassProgress, watching
from grok.errors import GrokError, PromptError
from grok.serving.interfaces import ServedModel
from grok.serving.jobs import CancelledError, Job, Jobs, JobState
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.many_prompts.prompt_lists import PromptList
from lens.many_prompts.retention import kept_days
from lens.many_prompts.run_record import NoRunError, Run
from lens.many_prompts.run_store import RUNS_OF_ONE, RunStore, Writing, runs_folder
from pages.access import limits
from pages.access.limits import Limits
from pages.access.messages import told
from pages.hosting import owner
from pages.live.session import shared_models
from pages.live.session.prompts import uncounted
from pages.shell import links
from pages.shell.session_keys import SessionKey, SessionValue

MAX_TOKENS = 200_000
SWEEP_EVERY = 600.0  # seconds
PROBLEM = SessionValue[str](SessionKey.MANY_PROBLEM)
DEFECT = "This run ended with a defect of the program. The server's log says where."


@st.cache_resource(max_entries=4, show_spinner=False)
def _store(folder: str, keep_days: float, own: Limits, period: int) -> RunStore:
    return RunStore(
        folder,
        keep_days=keep_days,
        runs_of_one=own.runs or RUNS_OF_ONE,
        bytes_of_one=own.megabytes * limits.MB or None,
    )


def store() -> RunStore:
    """The server's runs; what is too old is cleared every ten minutes.

    Raises:
        LensError: the retention in the environment is no number of days.
    """
    return _store(
        str(runs_folder()), kept_days(), limits.current(), int(time.time() // SWEEP_EVERY)
    )


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The work of this server."""
    return Jobs().close_at_exit()


def kept_for() -> str:
    """The time for which runs are kept, in words."""
    days = kept_days()
    return "until you delete them" if days == 0 else f"for {days:g} days"


def begin(choice: shared_models.ModelChoice, prompts: PromptList, dtype: str) -> str:
    """Start a new run in the background; returns its id.

    Raises:
        LensError, GrokError: too many runs, or the store cannot be written.
    """
    writing = store().create(
        owner.current(),
        prompts,
        model_name=choice.name,
        dtype=dtype,
        n_experts=choice.config.n_experts,
    )
    try:
        _start(choice, writing)
    except GrokError:
        writing.drop()
        raise
    return writing.run.id


def go_on(choice: shared_models.ModelChoice, run: Run) -> None:
    """Let a run that stopped go on where it was.

    Raises:
        LensError, GrokError: it is of another model, not one's own, or too much runs.
    """
    if (choice.name, choice.config.n_experts) != (run.model_name, run.n_experts):
        raise LensError(
            f"This run is of {run.model_name}. Choose this model above to let it go on."
        )
    writing = store().resume(run.id, owner.current())
    try:
        _start(choice, writing)
    except GrokError:
        writing.cancel()
        raise


def _start(choice: shared_models.ModelChoice, writing: Writing) -> None:
    shared_models.check_may_run(choice)
    working = jobs()
    working.start(
        writing.run.id,
        partial(_work, choice, writing),
        group=writing.run.owner,
        ended=partial(_ended, writing, working),
    )


def _work(choice: shared_models.ModelChoice, writing: Writing, job: Job) -> None:
    """Runs in a thread of its own: it draws nothing."""
    model = shared_models.shared(choice, writing.run.dtype, lambda done, total: job.check())
    model = model.of(writing.run.owner, background=True)
    job.check()
    prompts = _encoded(model, choice, writing.prompts)

    def tell(done: int, total: int) -> None:
        try:
            writing.progress(done, total)
        except NoRunError as error:
            raise CancelledError(str(error)) from error
        job.progress(done, total)

    def watch(now: PassProgress) -> None:
        job.detail = now
        job.check()

    with watching(watch):
        collection = model.collect_prompts(
            list(writing.prompts.texts) if choice.has_tokenizer else prompts,
            writing.events,
            labels=writing.prompts.labels,
            progress=tell,
            check=job.check,
        )
    tell(collection.manifest["n_tokens"], collection.manifest["n_tokens"])
    writing.finish(model_sha256=model.sha256, n_tokens=collection.manifest["n_tokens"])


def _encoded(
    model: ServedModel, choice: shared_models.ModelChoice, prompts: PromptList
) -> list[np.ndarray]:
    """The token ids of all prompts.

    Raises:
        PromptError: one cannot be used, or all together are too many.
    """
    found = []
    for number, text in enumerate(prompts.texts, 1):
        try:
            found.append(uncounted(model, choice, text))
        except GrokError as error:
            raise PromptError(f"Prompt {number}: {error}") from error
    total = sum(len(one) for one in found)
    if total > MAX_TOKENS:
        raise PromptError(
            f"The prompts have {total:,} tokens; at most {MAX_TOKENS:,} are run at once here. Take "
            "fewer prompts."
        )
    limits.charge(choice.person, total)
    return found


def _ended(writing: Writing, working: Jobs, state: JobState) -> None:
    if working.closing and state.status != "done":
        writing.stop()
    elif state.status == "failed":
        known = isinstance(state.error, GrokError | LensError)
        writing.fail(str(state.error) if known else DEFECT)
    elif state.status == "cancelled":
        writing.cancel()


def guarded(change: Callable[[], object]) -> bool:
    """True where a change of the store worked; its error is shown with the next drawing."""
    try:
        change()
    except (LensError, GrokError) as error:
        PROBLEM.set(str(error))
        return False
    return True


def go_on_clicked(choice: shared_models.ModelChoice, run: Run) -> None:
    """`go_on`, for a button."""
    guarded(lambda: go_on(choice, run))


def show_problem() -> None:
    """The error that `guarded` met, once."""
    problem = PROBLEM.take()
    if problem is not None:
        st.error(told(problem), icon=":material/error:")


def title(run: Run) -> str:
    """A run in a few words, as Markdown: when, how many prompts, of which labels."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.created))
    labels = list(run.by_label)
    shown = ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
    return f"{when} UTC · {run.n_prompts:,} prompts · {as_markdown(shown)}"


def in_a_line(run: Run) -> str:
    """A run in a line of Markdown: its title, and what ran it."""
    return f"{title(run)} · {as_markdown(run.model_name)}, {run.dtype}"


STATUS = {
    "running": ":material/hourglass_top: running",
    "finished": ":material/check: finished",
    "failed": ":material/error: failed",
    "cancelled": ":material/cancel: cancelled",
    "stopped": ":material/pause_circle: stopped",
    "damaged": ":material/healing: damaged",
}


def own_runs(runs: list[Run], shown: str | None) -> None:
    """The owner's runs, to open and to delete."""
    with st.expander(f"Your runs ({len(runs)})", icon=":material/inventory_2:", expanded=not shown):
        for run in runs:
            with st.container(
                horizontal=True, vertical_alignment="center", key=f"many_run_{run.id}"
            ):
                st.markdown(f"{title(run)} · {STATUS[run.status]}", width="stretch")
                st.button(
                    "Open",
                    key=f"many_open_{run.id}",
                    on_click=links.refer,
                    args=("run", run.id),
                    disabled=run.id == shown,
                )
                delete_button(run, "list")
        st.caption(
            f"Kept on this server {kept_for()}, and listed for {owner.whose()} alone. Who has the "
            f"link to a run can look at it and its prompts.{_room()}"
        )


def _room() -> str:
    """How many runs one person may keep, and how large; empty where nothing is said."""
    own = limits.current()
    said = [f"{own.runs} runs"] if own.runs else []
    said += [f"{own.megabytes:,} MB"] if own.megabytes else []
    return f" One person may keep {' and '.join(said)}." if said else ""


def delete_button(run: Run, where: str) -> None:
    """Deletes a run after a second click."""
    with st.popover("Delete", icon=":material/delete:", key=f"many_delete_{where}_{run.id}"):
        st.markdown("The prompts, their routing and the link go for good.")
        st.button(
            "Delete for good",
            type="primary",
            key=f"many_gone_{where}_{run.id}",
            on_click=_delete,
            args=(run.id,),
        )


def _delete(run_id: str) -> None:
    job = jobs().get(run_id)
    if guarded(lambda: store().delete(run_id, owner.current())):
        if job is not None:
            job.cancel()
        links.refer("run", None)
