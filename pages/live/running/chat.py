"""The model's chat template, as an option of the form of a prompt."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from grok.architectures.families import open_checkpoint
from grok.checkpoints.chat.template import ChatTemplate, read_chat_template
from grok.checkpoints.tokenizer import Tokenizer, open_tokenizer
from grok.errors import GrokError
from pages.access.messages import told
from pages.live.session.shared_models import REMOTE, ModelChoice, check_may_run, elsewhere

HELP = (
    "The text is put where a person speaks in the form of a chat that this model was taught, up to "
    "where the model answers. The form is a program of the model's own folder, run apart where the "
    "model is."
)


@st.cache_resource(max_entries=4, show_spinner=False)
def _read(path: str) -> tuple[ChatTemplate, Tokenizer] | None:
    folder = Path(path)
    template = read_chat_template(folder) if folder.is_dir() else None
    if template is None:
        return None
    checkpoint = open_checkpoint(folder)
    if checkpoint.tokenizer_file is None:
        return None
    return template, open_tokenizer(checkpoint.tokenizer_file, checkpoint.config.vocab_size)


@st.cache_data(max_entries=16, show_spinner=False, scope="session")
def _rendered(path: str, text: str) -> str:
    found = _read(path)
    return text if found is None else found[0].prompt(text, found[1])


@st.cache_data(max_entries=16, show_spinner=False, scope="session")
def _rendered_there(url: str, path: str, text: str) -> str:
    from grok.cached import remote_model

    return remote_model(url).chat_prompt(text)


def _prompt(choice: ModelChoice, text: str) -> str:
    """A message as the prompt that the model was taught, made where the model is."""
    if choice.mode != REMOTE:
        return _rendered(choice.path, text)
    check_may_run(choice)
    return _rendered_there(str(elsewhere()), choice.path, text)


def _is_offered(choice: ModelChoice) -> bool:
    """Whether the model has a template.

    Raises:
        GrokError: a file that is no template, or that cannot be read.
    """
    if choice.mode == REMOTE:
        return choice.chat_there
    return choice.has_tokenizer and _read(choice.path) is not None


def control(choice: ModelChoice) -> bool:
    """Whether texts are messages of a chat; no question where the model has no template."""
    try:
        if not _is_offered(choice):
            return False
    except GrokError as error:
        st.caption(told(error))
        return False
    return st.checkbox("As a chat message", key="as_chat", help=HELP)


def texts(choice: ModelChoice, *given: str, as_chat: bool) -> tuple[str, ...] | None:
    """The texts as the model is to read them; None, and why, where the template fails.

    Args:
        choice: the model.
        given: as they were typed; an empty one stays empty.
        as_chat: whether they are messages of a chat.
    """
    if not as_chat:
        return given
    try:
        return tuple(_prompt(choice, one) if one.strip() else one for one in given)
    except GrokError as error:
        st.error(told(error), icon=":material/error:")
        return None
