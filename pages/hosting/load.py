"""What a server is doing, for its owners: load, runs under way to end, caches to clear."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping

import streamlit as st
from prometheus_client import REGISTRY

from grok.serving.jobs import Jobs
from lens.words import fixed, percent, significant
from pages.access import persons, settings

OWN = "grok_lens_"
OF_REQUESTS = ("grok_lens_http",)  # by kind and time: for Prometheus, not for people
STARTED = time.time()


def popover(work: Mapping[str, Callable[[], Jobs]]) -> None:
    """The part of the sidebar; nothing for those who are no owners, or have a machine of their own.

    Args:
        work: what is done in the background, by its name.
    """
    if not settings.current().is_server or persons.role() != "owner":
        return
    with st.popover("Server", icon=":material/dns:", key="server", on_change="rerun") as box:
        if box.open:
            _contents(work)


def _contents(work: Mapping[str, Callable[[], Jobs]]) -> None:
    st.dataframe(
        [{"figure": name, "value": value} for name, value in figures().items()],
        hide_index=True,
        height="content",
    )
    st.caption("Of this web process alone; Prometheus reads all of them at /metrics.")
    for name, jobs in work.items():
        for number, (key, job) in enumerate(jobs().under_way().items()):
            state = job.state
            share = percent(state.done / state.total) if state.total else state.status
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"{name}, {share}", width="stretch")
                st.button("End", key=f"end_{name}_{number}_{hash(key)}", on_click=job.cancel)
    st.button(
        "Clear caches",
        key="clear_caches",
        icon=":material/mop:",
        on_click=st.cache_data.clear,
        help="Computed numbers are made again when they are asked for. Models and runs stay.",
    )


def figures() -> dict[str, str]:
    """Figures of this process by what they are, as texts."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else 1024 * peak
    found = {
        "Hours since it was started": fixed((time.time() - STARTED) / 3600, 1),
        "Most memory it has had": f"{fixed(peak_bytes / 1e6, 0)} MB",
    }
    for family in REGISTRY.collect():
        if not family.name.startswith(OWN) or family.name.startswith(OF_REQUESTS):
            continue
        values = [one for one in family.samples if not one.name.endswith(("_bucket", "_created"))]
        for one in values:
            labels = ", ".join(one.labels.values())
            what = " (sum)" if one.name.endswith("_sum") else ""
            name = f"{family.documentation}{what}{f': {labels}' if labels else ''}"
            found[name] = significant(one.value, 6)
    return found
