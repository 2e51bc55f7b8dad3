"""The routing traces of this session, and the way to a new one.

Prompts and traces live in the session's state alone: not in the address, not in
a log, not in a cache that another session could read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from lens.routers.router_set import RouterSet
from lens.traces import routing
from lens.traces.trace import Trace
from lens.words import percent
from pages.shell import data_source

SLOTS = {"first": "Prompt", "second": "Second prompt", "file": "Saved trace"}


def kept() -> dict[str, Any]:
    """The traces of this session, by slot."""
    traces = dict(st.session_state.get("traces", {}))
    saved = data_source.uploaded_trace()
    if saved is not None:
        traces["file"] = saved[1]
    return {slot: traces[slot] for slot in SLOTS if slot in traces}


def keep(slot: str, trace: Any) -> None:
    """Keep a trace for this session; None drops the one there was."""
    traces = st.session_state.setdefault("traces", {})
    if trace is None:
        traces.pop(slot, None)
    else:
        traces[slot] = trace


def shown() -> Trace | Any | None:
    """The trace looked at last, or None."""
    traces = kept()
    slot = st.session_state.get("trace_shown", "first")
    return traces.get(slot) or next(iter(traces.values()), None)


def file_bytes(trace: Any) -> bytes:
    """The trace as an .npz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.npz"
        trace.save(path)
        return path.read_bytes()


def labels(trace: Any, routers: RouterSet) -> list[str]:
    """Names of the trace's layers: the routers' own where these made the trace."""
    n_layers = trace.router_logits.shape[0]
    if trace.model_sha256 == routers.sha256:
        return [routers.label(layer) for layer in range(n_layers)]
    return [f"L{layer}" for layer in range(n_layers)]


def finding(trace: Any, names: list[str]) -> str:
    """What stands out in the routing of a text, beside what chance gives."""
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    top_k = trace.experts.shape[2]
    load = routing.load(trace)
    low, high = routing.load_interval(n_tokens, top_k, n_experts, comparisons=load.size)
    layer, expert = np.unravel_index(np.argmax(load), load.shape)
    most = float(load[layer, expert])
    verdict = "more than" if most > high else "not distinguishable from"
    text = (
        f"Of {n_tokens:,} tokens, {names[layer]}·E{expert} took the largest share, "
        f"{percent(most)} of its layer's assignments: {verdict} chance (even "
        f"{percent(1 / n_experts, 1)}; by chance no expert above {percent(high)} in 95\u00a0% of "
        "texts)."
    )
    if n_tokens > 1:
        repeat = routing.repeat_rate(trace)
        text += (
            f" Neighbouring tokens share their first expert in {percent(repeat.first.mean())} "
            f"of cases (chance {percent(repeat.chance_first, 1)}; same tokens shuffled "
            f"{percent(repeat.shuffled_first.mean())})."
        )
    return text
