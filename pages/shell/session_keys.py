"""Names of everything that a visitor's session keeps, and the one way to reach it.

Streamlit's session state is a dictionary of strings that every file could write to. Here each
name stands once, with what it keeps; the file that owns a value says its type:

    KEPT = SessionValue[Result](SessionKey.WHAT_IF_ONE)

Values of widgets have the widgets' own keys: see `widget`, `selected_rows` and `picked_marks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast

import streamlit as st

Value = TypeVar("Value")


class SessionKey(StrEnum):
    """One name for each value that is kept."""

    # choices and the address, see `pages.shell.links`
    LINK_VALUES = "link_values"  # value chosen last of each name, on whichever page
    LINK_DEFAULTS = "link_defaults"  # value of each name that was shown and is nobody's choice
    LINK_WRITTEN = "link_written"  # text of each name that this app put into the address
    LINK_ASKED = "link_asked"  # text of each name in the address that no widget has shown yet
    LINK_SHOWN = "link_shown"  # text of each name that this page shows and the address will hold
    LINK_NOTICES = "link_notices"  # sentences about what a link asks for and the data lacks
    LINK_SEEN = "link_seen"  # the address that the last run began with
    LINK_UNREAD = "link_unread"  # names in the address that were said to be read by nobody
    LINK_EXAMPLE = "link_example"  # choices that the example in the address makes
    LINK_DATA = "link_data"  # start of the data's hash in the link that was opened

    # every page
    LATE_FINDING = "late_finding"  # the place of a page's first lines, and what makes them
    SHARE_POPOVER = "share"  # where the link of this view is drawn, once the page stands
    FINISHED = "deferred_finished"  # keys of the slow results that this session has seen made
    NOTES_CHANGED = "notes_changed"  # a note was kept since the page was drawn as a whole
    NOTES_PROBLEM = "notes_problem"  # why notes on experts could not be read or kept
    TOUR_STEP = "tour_step"  # step of the tour that is under way
    TOUR_GOING = "tour_going"  # a click on the tour leads to another page
    TOUR_SEEN = "tour_seen"  # the tour was begun or declined
    OWNER_KEY = "owner_key"  # random key of the browser, for the list of its runs
    YOUR_DATA_PROBLEM = "own_problem"  # why all that is kept of somebody could not be deleted
    SIGN_IN_BACK = "sign_in_back"  # the address asked for before signing in was gone back to
    TAB = "tab_id"  # id by which a reload finds what this tab holds
    TAB_LOST = "tab_lost"  # whether the tab in the address is not kept, until that was said

    # overview
    OVERVIEW_OPENED = "overview_opened"  # the page that a click on a cell leads to

    # data source
    UPLOADED_ROUTERS = "uploaded_routers"  # router set of the file opened last
    UPLOADED_TRACE = "uploaded_trace"  # name and content of the trace opened last
    UPLOAD_ERROR = "upload_error"  # why the file opened last was refused
    UPLOAD_KIND = "upload_kind"  # "routers" or "trace": the file opened last
    UPLOADED_NAME = "uploaded_name"  # name of the file that the uploaded router set is of
    HUB_ROUTERS = "hub_routers"  # router set fetched from the Hub
    HUB_ERROR = "hub_error"  # why nothing could be fetched

    # pages of the routers
    PERMUTATION_NULLS = "permutation_nulls"  # nulls of shuffled coordinates, by their settings
    MAP_RUN = "map_run"  # settings of the map whose button was pressed last
    TREE_RUNS = "tree_runs"  # slow numbers of the tree that were asked for, by their buttons
    READOUTS = "vocabulary_readouts"  # the read-out of a large embedding, by its settings
    TOKEN_MATCHES = "vocabulary_matches"  # tokens that the search found
    TOKEN_NOTICE = "vocabulary_notice"  # why the search found none

    # features
    FEATURES_TRIED = "features_tried"  # features of texts that were tried, by their dictionary
    FEATURES_TURNED = "features_turned"  # features turned up or taken out, by feature and text
    FEATURE_WORD = "feature_word"  # the word that features were searched by last

    # two router sets
    SECOND_ROUTERS = "second_routers"  # the set that was opened to compare with
    SECOND_PROBLEM = "second_problem"  # why the file opened for it was refused
    TWO_SETS_RUN = "two_sets_run"  # sets and settings of the long comparison asked for last

    # exports
    REPORT_JOB = "report_job"  # the report asked for last, and the job that makes it
    REPORT_GROUP = "report_group"  # object that stands for the session among the reports' jobs

    # live routing
    TRACES = "traces"  # routing traces of this session, by slot
    TRACE_SHOWN = "trace_shown"  # slot of the trace that is shown
    TEXTS = "texts_kept"  # text typed last into each box, on whichever mode
    EXAMPLE_PRESSED = "example_pressed"  # the row whose example was clicked and is to run
    TEXT_LINKED = "text_linked"  # of each row of examples the one, or the shared text, shown last
    SHARED_HERE = "shared_here"  # the texts of the mode that is drawn, for its link
    SHARE_PROBLEM = "share_problem"  # why a text could not be shared, or not be forgotten
    RESULTS = "results_of"  # what each mode shows, and the texts that it is of
    EXAMPLE_RUN = "inspect_example"  # name of the example that was run last, and its trace
    LOGIT_LENSES = "logit_lenses"  # logit lenses by the hash of their traces
    FEATURES_READ = "features_read"  # features of traces, by the hash of trace and dictionary
    FLIPS_RUN = "flips_run"  # smallest flips that the model was run with, by trace and cell
    CIRCUITS = "circuits"  # graphs of choices, by trace, dictionary and choice
    CIRCUIT_PINS = "circuit_pins"  # what was pinned and grouped in each of them
    CIRCUIT_CHECKS = "circuit_checks"  # nodes that the model was run without
    CIRCUIT_CLAIMS = "circuit_claims"  # what dictionaries claim of layers, and what these did
    GENERATION = "generation_running"  # the continuation under way
    GENERATED = "generation_done"  # the continuation made last
    COMPARED = "compared"  # the two runs compared last, by kind of comparison
    WHAT_IF_ONE = "what_if_one"  # the last intervention on one expert
    WHAT_IF_EVERY = "what_if_every"  # the last sweep over all experts
    WHAT_IF_PATCH = "what_if_patch"  # the last sweep of patches
    MANY_PROBLEM = "many_problem"  # why a change of a run of many prompts failed
    UPLOADED_TRACES = "many_read"  # which files were uploaded together, and the traces in them

    # runs of a streamed model
    STREAM_DECISIONS = "stream_decisions"  # how each model runs, looked up once a session
    STREAM_REQUEST = "stream_asked"  # the run that waits for its yes
    STREAM_RUN = "stream_running"  # the run under way, and its job
    STREAM_MESSAGE = "stream_said"  # how the last run ended, until something else is done
    STREAM_DRAWN = "stream_drawn"  # whether this draw of the page has shown the run
    STREAM_GROUP = "stream_group"  # object that stands for the session among the jobs


# What was opened from files or fetched, and what was typed and run: a reload brings back both.
OPENED = (
    SessionKey.UPLOADED_ROUTERS,
    SessionKey.UPLOADED_NAME,
    SessionKey.UPLOADED_TRACE,
    SessionKey.HUB_ROUTERS,
)
RUN = (
    SessionKey.TRACES,
    SessionKey.GENERATED,
    SessionKey.COMPARED,
    SessionKey.WHAT_IF_ONE,
    SessionKey.WHAT_IF_EVERY,
    SessionKey.WHAT_IF_PATCH,
    SessionKey.FEATURES_TRIED,
    SessionKey.FEATURES_TURNED,
    SessionKey.STREAM_RUN,
)
BESIDE = (  # of no use without one of those
    SessionKey.TEXTS,
    SessionKey.TRACE_SHOWN,
    SessionKey.TEXT_LINKED,
    SessionKey.EXAMPLE_RUN,
    SessionKey.RESULTS,
    SessionKey.LOGIT_LENSES,
    SessionKey.STREAM_GROUP,
)
MADE_AGAIN = (  # of a text that was run: forgotten with it, and read again after a reload
    SessionKey.LOGIT_LENSES,
    SessionKey.FEATURES_READ,
    SessionKey.FLIPS_RUN,
    SessionKey.CIRCUITS,
    SessionKey.CIRCUIT_PINS,
    SessionKey.CIRCUIT_CHECKS,
    SessionKey.CIRCUIT_CLAIMS,
)


class SessionValue(Generic[Value]):
    """One value of the session, of a known type.

    Args:
        key: its name.
    """

    def __init__(self, key: SessionKey) -> None:
        self.key = key.value

    def get(self) -> Value | None:
        """The value, or None where none is kept."""
        return cast("Value | None", st.session_state.get(self.key))

    def set(self, value: Value) -> None:
        """Keeps a value in place of the one there was."""
        st.session_state[self.key] = value

    def kept(self, make: Callable[[], Value]) -> Value:
        """The value; where none is kept, what `make` returns, which is kept from then on."""
        if self.key not in st.session_state:
            st.session_state[self.key] = make()
        return cast(Value, st.session_state[self.key])

    def take(self) -> Value | None:
        """The value, which is then let go."""
        return cast("Value | None", st.session_state.pop(self.key, None))

    def drop(self) -> None:
        """Lets the value go, if there is one."""
        st.session_state.pop(self.key, None)


class WidgetValue(SessionValue[Any]):
    """The value of a widget, by the widget's key; of any type that widgets give."""

    def __init__(self, key: str) -> None:
        self.key = key

    def get(self) -> Any:
        """The value, or None where the widget has none."""
        return super().get()

    @property
    def known(self) -> bool:
        """True where the widget has a value, which may be None."""
        return self.key in st.session_state


def widget(key: str) -> WidgetValue:
    """The value of the widget with this key."""
    return WidgetValue(key)


def selected_rows(table: str) -> list[int]:
    """Rows chosen in the table with this key; for its `on_select`."""
    return [int(row) for row in st.session_state[table].selection.rows]


def picked_marks(figure: str) -> list[Mapping[str, Any]]:
    """Fields of the marks picked in the figure with this key; for its `on_select`."""
    return list(st.session_state[figure].selection.get("pick") or [])


def _own_copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def of_the_tab() -> dict[str, Any]:
    """What a reload should bring back, by key; empty where nothing was run or opened.

    Dictionaries are copied, so that what one session puts into them later is its own.
    """
    state = st.session_state
    if not any(state.get(key.value) for key in (*OPENED, *RUN)):
        return {}
    return {
        key.value: _own_copy(state[key.value])
        for key in (*OPENED, *RUN, *BESIDE)
        if key.value in state
    }


def put_back(values: Mapping[str, Any]) -> None:
    """Keep in this session what `of_the_tab` gave in another."""
    for key, value in values.items():
        st.session_state[key] = _own_copy(value)


def forget_tab() -> None:
    """Let go of all that was typed and run; files that were opened stay."""
    for box in st.session_state.get(SessionKey.TEXTS.value, {}):
        st.session_state.pop(box, None)
    for key in (*RUN, *BESIDE, *MADE_AGAIN):
        st.session_state.pop(key.value, None)
