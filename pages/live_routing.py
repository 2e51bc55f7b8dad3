"""Live routing: the experts of each token of a text, the margins of the choice, and interventions.

Each mode is a folder in pages/live; this one chooses the mode and the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from grok.errors import GrokError
from lens.errors import LensError
from lens.escaping import as_markdown
from pages.access import limits, persons, settings
from pages.access.messages import told
from pages.hosting import owner
from pages.live.compare import mode as compare_mode
from pages.live.generate import mode as generate_mode
from pages.live.many import mode as many_mode
from pages.live.one_trace import mode as one_trace_mode
from pages.live.running import stream_choice, stream_progress
from pages.live.session import shared_models
from pages.live.session.mode_context import ModeContext
from pages.live.what_if import mode as what_if_mode
from pages.shell import data_source, links

MODES: Mapping[str, tuple[str, Callable[[ModeContext], None]]] = {
    "inspect": ("Inspect", one_trace_mode.show),
    "compare": ("Compare", compare_mode.show),
    "what_if": ("What if", what_if_mode.show),
    "generate": ("Generate", generate_mode.show),
    "many": ("Many prompts", many_mode.show),
}


def model_controls() -> shared_models.ModelChoice | None:
    """The model to run: the configured checkpoint where it can run, else the bundled one."""
    if persons.role() == "viewer":
        st.info(persons.MAY_LOOK + as_markdown(persons.ask(settings.current())))
        return None
    if limits.current().words:
        st.caption(limits.current().words)
    choices = shared_models.model_choices(owner.current())
    for name in list(choices):
        try:
            with st.spinner("Looking at what this machine can hold …"):
                choices[name] = stream_choice.decided(choices[name], check=name == "checkpoint")
        except GrokError as error:
            _cannot_run(choices.pop(name), str(error))
    key: str | None = next(iter(choices), None)
    if len(choices) > 1:
        key = links.choice(
            "model", "Model", list(choices), key, shown=lambda name: choices[str(name)].name
        )
    choice = choices.get(str(key))
    if choice is not None:
        stream_choice.note(choice)
        _other_routers_note(choice)
    return choice


def _other_routers_note(choice: shared_models.ModelChoice) -> None:
    """Says which model runs prompts where the pages show the routers of something else."""
    bundled = choice.path == str(data_source.bundled_checkpoint())
    try:
        own = data_source.routers_of("bundled" if bundled else "checkpoint")
    except (LensError, GrokError):
        return
    if own.sha256 == data_source.current().sha256:
        return
    name = data_source.UPLOADED_NAME.get() or ""
    shown = {
        "upload": f"of the file you opened ({as_markdown(data_source.short_name(name))})",
        "hub": "fetched from the Hub",
    }.get(data_source.source(), "that the other pages show")
    st.info(
        f"Prompts here run on the **{choice.name[0].lower()}{choice.name[1:]}** "
        f"({choice.config.n_layers} layers × {choice.config.n_experts} experts), not on the "
        f"routers {shown}: routers alone cannot run a text.",
        icon=":material/info:",
    )


def _cannot_run(choice: shared_models.ModelChoice, problem: str) -> None:
    if choice.path == str(data_source.bundled_checkpoint()):
        st.error(told(problem), icon=":material/error:")
        return
    st.warning(
        f"{told(problem)}\n\nThe other pages show this checkpoint's routers all the same. "
        "Here, the bundled model runs your prompts, and a trace saved elsewhere (python -m "
        "grok.run --checkpoint DIR --prompt TEXT --trace OUT.npz) opens from the sidebar.",
        icon=":material/memory:",
        title="The configured checkpoint cannot run on this machine",
    )


def show() -> None:
    """The page."""
    links.through_app()
    stream_progress.finish()
    routers = data_source.current()
    head, bar = st.container(), st.container(horizontal=True, gap="medium", key="mode_bar")
    with bar:
        mode = links.segments(
            "mode",
            "Mode",
            list(MODES),
            "inspect",
            shown=lambda name: MODES[name][0],
            collapsed=True,
        )
    MODES[mode][1](ModeContext(head, bar, routers, model_controls()))
    stream_progress.board()


show()
