"""The report of the routers at hand, made in the background, as a ZIP or as one page."""

from __future__ import annotations

import streamlit as st

from grok.errors import BusyError
from grok.serving.jobs import FAILED, WAITING, Job
from lens.errors import LensError
from lens.layers.similarity import LAYER_METRICS
from lens.report.parts import Settings
from lens.routers.router_set import RouterSet
from lens.words import fixed, percent
from pages.access.messages import told
from pages.exports.report_job import Made, Order, Reports
from pages.shell import data_source, downloads, links, null_settings, parts, reference_choice
from pages.shell.session_keys import SessionKey, SessionValue
from pages.vocabulary import source as vocabulary_source

EVERY = 1.0  # seconds between two looks
JOB = SessionValue[tuple[object, Job]](SessionKey.REPORT_JOB)
GROUP = SessionValue[object](SessionKey.REPORT_GROUP)


@st.cache_resource(show_spinner=False)
def reports() -> Reports:
    """The reports of this process."""
    return Reports()


def order_of(routers: RouterSet) -> Order:
    """What the report holds: the choices made on the pages."""
    view = data_source.current_view()
    chance = null_settings.current()
    against = reference_choice.current(routers, view)
    settings = Settings(
        view,
        links.chosen("metric", "cka"),
        links.chosen("seed", 42),
        chance.draws,
        chance.seed,
        *against,
    )
    source = vocabulary_source.find(routers)
    if isinstance(source, str) or source.embedding.n_bytes > vocabulary_source.AT_ONCE:
        return Order(routers, settings)
    return Order(routers, settings, source.folder)


def show(routers: RouterSet) -> None:
    """The report: asked for, under way, or there to be saved."""
    order = order_of(routers)
    settings = order.settings
    with st.container(border=True):
        st.markdown("**Report: all of this as files**")
        st.caption(
            "Every figure (PNG, SVG) and table (CSV) of all pages about routers, with the findings "
            f"in words, as a ZIP and as one page that opens offline. {settings.view.capitalize()} "
            f"routers, {LAYER_METRICS[settings.metric].label}, {settings.draws:,} draws, seed "
            f"{settings.null_seed}."
        )
        running = JOB.get()
        if running is not None and not running[1].state.ended:
            _progress()
            return
        made = reports().made(order)
        if made is not None:
            _files(order, made)
            return
        if running is not None and running[0] == order.key and running[1].state.status == FAILED:
            _failure(running[1])
        st.button(
            "Make the report",
            key="report_start",
            icon=":material/summarize:",
            on_click=_start,
            args=(order,),
        )


def _start(order: Order) -> None:
    running = JOB.get()
    if running is not None and not running[1].state.ended:
        return  # a second click
    try:
        JOB.set((order.key, reports().start(order, GROUP.kept(object))))
    except BusyError as error:
        st.toast(told(error), icon=":material/hourglass:")


@parts.part(run_every=EVERY)
def _progress() -> None:
    """How far it is, a second at a time, and a way to end it."""
    running = JOB.get()
    if running is None or running[1].state.ended:
        st.rerun()
        return
    job = running[1]
    state = job.state
    if state.status == WAITING:
        st.progress(0.0, f"Waiting: {state.n_before} before it")
    else:
        share = state.done / state.total if state.total else 0.0
        st.progress(share, f"Making {job.detail or 'ready'} … {percent(share)}")
    st.button("Stop", key="report_stop", icon=":material/stop:", on_click=job.cancel)
    st.caption("You can go on to other pages; it waits for you here.")


def _files(order: Order, made: Made) -> None:
    stem = downloads.file_stem("report", order.routers.sha256, order.settings.view)
    with st.container(horizontal=True, gap="small"):
        for name, file, ending, mime in (
            ("ZIP", made.archive, "zip", "application/zip"),
            ("One page (HTML)", made.page, "html", "text/html"),
        ):
            st.download_button(
                f"{name}, {fixed(file.stat().st_size / 1e6, 1)} MB",
                file.read_bytes,
                file_name=f"{stem}.{ending}",
                mime=mime,
                key=f"report_{ending}",
                on_click="ignore",
                icon=":material/download:",
            )


def _failure(job: Job) -> None:
    error = job.state.error
    known = isinstance(error, LensError)
    st.error(
        told(error) if known else "The report could not be made. Try again.",
        icon=":material/error:",
    )
