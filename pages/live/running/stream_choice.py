"""The mode in which a model runs on this server and its cost, known before anything starts.

A model whose weights the devices hold is resident. One that they do not hold is streamed: every
pass reads its layers from disk, within a memory budget, and may take minutes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from grok.architectures.families import architecture_of, open_checkpoint
from grok.errors import DeviceError, GrokError
from grok.planning.modes import ModePlan, choose, plan
from grok.streaming.host_memory import sizes
from grok.units import duration, size
from lens.words import fixed
from pages.access.messages import told
from pages.guide import tables
from pages.live.session.shared_models import REMOTE, ModelChoice, elsewhere
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.planning.machine import Rates

MODE_VARIABLE = "GROK_LENS_MODE"
MEMORY_VARIABLE = "GROK_LENS_MEMORY_GB"
MODES = ("auto", "resident", "streamed")
DEFAULT_MEMORY_GB = 8.0
TYPICAL_TOKENS = 64  # of the prompt that the note above a form speaks of
COST_FIRST = "Show what it costs"
KNOWN = SessionValue[dict[tuple[str, str, int], ModelChoice | GrokError]](
    SessionKey.STREAM_DECISIONS
)


# --- settings ---------------------------------------------------------------------------


def setting() -> str:
    """The mode that the server's environment asks for.

    Raises:
        GrokError: it is none.
    """
    mode = os.environ.get(MODE_VARIABLE, "").strip() or "auto"
    if mode not in MODES:
        raise GrokError(
            f"{MODE_VARIABLE} is {mode!r:.40}; expected {', '.join(MODES[:-1])} or {MODES[-1]}. "
            "Set it anew and start the app again."
        )
    return mode


def memory_budget() -> int:
    """Bytes that a streamed model may take.

    Raises:
        GrokError: what the environment says is no number of GB.
    """
    text = os.environ.get(MEMORY_VARIABLE, "").strip()
    try:
        gigabytes = float(text) if text else DEFAULT_MEMORY_GB
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e6:
        raise GrokError(
            f"{MEMORY_VARIABLE} is {text!r:.40}; expected the GB that a streamed model may take, "
            "such as 8. Set it anew and start the app again."
        )
    return round(gigabytes * 1e9)


# --- the mode ---------------------------------------------------------------------------


def decided(choice: ModelChoice, *, check: bool = True) -> ModelChoice:
    """The model with the mode that it runs in here, and why.

    Args:
        choice: a model.
        check: whether it might not fit; looked at once a session, as it may take seconds.

    Raises:
        GrokError: it cannot run here, with the reason and what to do.
    """
    mode, budget = setting(), memory_budget()
    if choice.mode == REMOTE or (mode != "streamed" and not check):
        return choice
    known = KNOWN.kept(dict)
    key = (choice.path, mode, budget)
    if key not in known:
        try:
            known[key] = _checked(choice, mode, budget)
        except GrokError as error:
            known[key] = error
    decision = known[key]
    if isinstance(decision, GrokError):
        raise decision
    return decision


def _checked(choice: ModelChoice, mode: str, budget: int) -> ModelChoice:
    """The model in the mode that is asked for, or that this machine can hold.

    Raises:
        GrokError: it cannot run in this mode.
    """
    from grok.runner.loading import check_memory

    checkpoint = open_checkpoint(choice.path)
    missing = checkpoint.missing()
    otherwise = ""
    if mode != "streamed" or missing:
        try:
            check_memory(checkpoint, choice.architecture)
            return choice
        except DeviceError as error:
            if mode == "resident":
                raise
            if missing:
                raise GrokError(
                    f"{checkpoint.tensor_folder}: {len(missing)} of {len(checkpoint.paths)} tensor "
                    "files are missing. With all of them this model is streamed from disk here. "
                    "Complete the download."
                ) from error
            otherwise = str(error)
    try:
        sizes(choice.architecture, budget)  # refused before anything starts
    except DeviceError as error:
        raise DeviceError(f"{error} The app takes the budget from {MEMORY_VARIABLE}.") from error
    chosen = replace(choice, mode="streamed", memory_budget=budget)
    typical = fitting_plan(chosen, TYPICAL_TOKENS)
    why = (
        _why(choice, budget, otherwise)
        if otherwise
        else f"{MODE_VARIABLE} asks for it. A prompt of {TYPICAL_TOKENS} tokens: "
        f"{about(typical.seconds_per_pass)} (an estimate)."
    )
    return replace(chosen, why=why)


def _why(choice: ModelChoice, budget: int, otherwise: str) -> str:
    """The plan's reason for streaming layers."""
    decision = choose(
        choice.architecture, rates(choice), n_tokens=TYPICAL_TOKENS, memory_budget=budget
    )
    return decision.why if decision.mode == "streamed" else otherwise


@st.cache_resource(max_entries=4, show_spinner="Measuring this machine's disk and processor …")
def _rates(path: str) -> Rates:
    from grok.planning import machine

    checkpoint = open_checkpoint(path)
    return machine.rates(checkpoint, architecture_of(checkpoint))


def rates(choice: ModelChoice) -> Rates:
    """Bytes and operations of this machine a second; measured once for the whole server."""
    return _rates(choice.path)


def streamed_plan(choice: ModelChoice, n_tokens: int) -> ModePlan:
    """The plan of streaming a pass of so many tokens."""
    budget = choice.memory_budget or memory_budget()
    plans = plan(choice.architecture, rates(choice), n_tokens=n_tokens, memory_budget=budget)
    return next(one for one in plans if one.mode == "streamed")


def fitting_plan(choice: ModelChoice, n_tokens: int) -> ModePlan:
    """The plan of a pass of so many tokens at once.

    Raises:
        DeviceError: it does not fit into the budget.
    """
    found, budget = streamed_plan(choice, n_tokens), choice.memory_budget or memory_budget()
    if not found.fits:
        raise DeviceError(
            f"{found.why} The budget is {size(budget)}. Start the app with {MEMORY_VARIABLE} of "
            f"{fixed(found.smallest_bytes / 1e9, 1)} or more, on a machine that has as much free, "
            "or run fewer tokens at once."
        )
    return found


# --- in words ---------------------------------------------------------------------------


def label(choice: ModelChoice, usual: str) -> str:
    """The label of a button that runs the model at once, or first shows its cost."""
    return COST_FIRST if choice.streamed else usual


def rates_words(choice: ModelChoice) -> str:
    """The measurements that the estimate rests on, in words."""
    found = rates(choice)
    read = (
        f"{size(found.read_bytes_per_s)} a second from disk"
        if found.read_bytes_per_s
        else "the disk not measured"
    )
    products = (
        f"{size(found.products_bytes_per_s)} of weights a second through the products"
        if found.products_bytes_per_s
        else "the products not measured"
    )
    return (
        f"The time is an estimate. It rests on a short measurement of this machine: {read}, "
        f"{products}. {found.read_from}"
    )


def note(choice: ModelChoice) -> None:
    """The mode of the chosen model, the reason for it, and the cost of a prompt."""
    if choice.streamed_there:
        _note_of_server()
    if not choice.streamed:
        return
    budget = choice.memory_budget or memory_budget()
    with st.container(border=True, key="stream_note"):
        st.markdown(
            ":material/hard_drive: **This model is streamed from disk.** "
            f"{told(choice.why)} Its memory stays within {size(budget)} "
            f"({MEMORY_VARIABLE}). Nothing starts before you have seen what it costs and said so."
        )
        with st.popover("What each mode costs", icon=":material/table:"):
            try:
                table(choice)
            except GrokError as error:
                st.error(told(error), icon=":material/error:")
            st.button(
                "Measure again",
                icon=":material/speed:",
                key="stream_measure",
                on_click=_measure_again,
                help="What else ran on this machine may have made the measurement too slow.",
            )


def _note_of_server() -> None:
    """What a prompt costs where a server streams the model, which says so itself."""
    from grok.cached import remote_plan

    try:
        found = remote_plan(str(elsewhere()), TYPICAL_TOKENS)
    except GrokError as error:
        st.caption(told(error))
        return
    with st.container(border=True, key="stream_note"):
        st.markdown(
            ":material/hard_drive: **The server that holds this model streams it from disk.** A "
            f"prompt of {TYPICAL_TOKENS} tokens: {about(found.seconds_per_pass)}, limited by "
            f"{found.binds}, and {size(found.read_bytes_per_pass)} read; each token that is "
            f"written after it: {about(found.seconds_per_token)}. This is that server's estimate; "
            "a run starts when it is asked for, and waits for those before it."
        )


def _measure_again() -> None:
    _rates.clear()
    KNOWN.drop()


def table(choice: ModelChoice) -> None:
    """All modes of this model on this machine, for a typical prompt."""
    budget = choice.memory_budget or memory_budget()
    plans = plan(choice.architecture, rates(choice), n_tokens=TYPICAL_TOKENS, memory_budget=budget)
    rows = {
        "Fits here": ["yes" if one.fits else "no" for one in plans],
        "Memory": [size(one.memory_bytes) for one in plans],
        "Reads a pass": [_read(one.read_bytes_per_pass) for one in plans],
        f"Time for {TYPICAL_TOKENS} tokens": [about(one.seconds_per_pass) for one in plans],
        "Reads a new token": [_read(one.read_bytes_per_token) for one in plans],
        "Time for a new token": [about(one.seconds_per_token) for one in plans],
        "Limited by": [one.binds for one in plans],
    }
    columns = {one.mode: [row[i] for row in rows.values()] for i, one in enumerate(plans)}
    tables.show({"": list(rows), **columns})
    st.caption(rates_words(choice))


def _read(n_bytes: int) -> str:
    return size(n_bytes) if n_bytes else "nothing"


def about(seconds: float | None) -> str:
    """An estimated time in words."""
    if seconds is None:
        return "time not measured"
    return f"about {duration(seconds)}" if seconds >= 0.1 else "less than 0.1 s"
