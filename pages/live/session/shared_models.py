"""The models that the live page can run, loaded once for everybody."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import streamlit as st

from grok.architectures.families import architecture_for, family_of, open_checkpoint
from grok.config import ModelConfig
from grok.errors import GrokError, plain
from grok.serving.interfaces import ServedModel
from grok.serving.queue import OnWait
from grok.serving.remote import client
from lens.errors import LensError
from pages.access import persons
from pages.access.messages import told
from pages.shell import data_source

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

__all__ = [
    "REMOTE",
    "ModelChoice",
    "OnLoad",
    "OnWait",
    "check_may_run",
    "elsewhere",
    "model_choices",
    "shared",
]

REMOTE = "remote"

OnLoad = Callable[[int, int], None]  # told how many tensors are read, and of how many


@dataclass(frozen=True)
class ModelChoice:
    """A checkpoint that prompts can be run on.

    Attributes:
        path: of its folder; its name alone where a server holds it and no folder here its routers.
        mode: "resident", "streamed" from disk for every pass (see `stream_choice`), or "remote":
            a server holds it.
        memory_budget: bytes that a streamed one may take.
        why: why it is streamed.
        person: who asks, so that all people have their turns.
        streamed_there: whether the server that holds it reads the weights for every pass.
        chat_there: whether the server that holds it makes prompts of messages of a chat.
    """

    name: str
    path: str
    config: ModelConfig
    has_tokenizer: bool
    mode: str = "resident"
    memory_budget: int | None = None
    why: str = ""
    person: str | None = None
    streamed_there: bool = False
    chat_there: bool = False

    @property
    def architecture(self) -> Architecture:
        """The model's parameters and arithmetic; imports JAX."""
        return architecture_for(family_of(self.path), self.config)

    @property
    def streamed(self) -> bool:
        """True where every pass reads the weights from disk."""
        return self.mode == "streamed"


def model_choices(person: str | None = None) -> dict[str, ModelChoice]:
    """The configured checkpoint, if it can be opened, and the bundled model.

    Args:
        person: who will run prompts; None where nobody in particular does.

    Returns:
        By key; of a model that a server holds, that one alone.
    """
    url = elsewhere()
    if url is not None:
        return _of_server(url, person)
    found = {}
    named = data_source.configured().checkpoint
    paths = [("checkpoint", "Configured checkpoint", named)] if named else []
    paths.append(("bundled", "Bundled model", str(data_source.bundled_checkpoint())))
    for key, name, path in paths:
        try:
            checkpoint = open_checkpoint(path)
        except GrokError as error:
            st.error(told(error), icon=":material/error:")
            continue
        found[key] = ModelChoice(
            name,
            str(path),
            checkpoint.config,
            checkpoint.tokenizer_file is not None,
            person=person,
        )
    return found


def elsewhere() -> str | None:
    """The address of the server that holds the model, where the environment names one."""
    return client.configured()


def _of_server(url: str, person: str | None) -> dict[str, ModelChoice]:
    from grok.cached import remote_model

    try:
        model = remote_model(url)
    except GrokError as error:
        st.error(told(error), icon=":material/cloud_off:")
        return {}
    path = plain(model.name, 40)
    name = f"Model {path}"
    for source, known in (("checkpoint", "Configured checkpoint"), ("bundled", "Bundled model")):
        folder = data_source.configured().checkpoint
        if source == "bundled":
            folder = str(data_source.bundled_checkpoint())
        with suppress(LensError, GrokError):
            if folder and data_source.routers_of(source).sha256 == model.sha256:
                name, path = known, folder
                break
    choice = ModelChoice(name, path, model.config, model.has_tokenizer, REMOTE, person=person)
    there = {"streamed_there": model.streamed, "chat_there": model.has_chat_template}
    return {REMOTE: replace(choice, **there)}


def check_may_run(choice: ModelChoice) -> None:
    """Refuse a run to a visitor who may not run prompts; call it where work in a thread begins.

    Raises:
        PromptError: it is so.
    """
    if choice.person is not None:
        persons.check_may_run()


def shared(choice: ModelChoice, dtype: str, on_load: OnLoad) -> ServedModel:
    """The model of all sessions, for the calls of the choice's person.

    It is read in another thread while this one shows how far that is.

    What a cached function draws is replayed to everybody who gets its result, so the
    progress must not be drawn from inside it.

    Raises:
        GrokError: the model cannot be read, or the visitor may not run prompts; of work in the
            background whoever starts it is asked: see `check_may_run`.
    """
    from grok.cached import remote_model, shared_model

    if persons.has_session():
        check_may_run(choice)
    if choice.mode == REMOTE:
        return remote_model(str(elsewhere()), dtype).of(choice.person)
    read: list[tuple[int, int]] = []
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        model = pool.submit(
            shared_model,
            choice.path,
            dtype,
            choice.mode,
            choice.memory_budget,
            _progress=lambda done, total: read.append((done, total)),
        )
        while not wait([model], timeout=0.1).done:
            if read:
                on_load(*read[-1])
        found = model.result()
        if read:  # so that whoever shows it knows that it is over
            on_load(read[-1][1], read[-1][1])
        return found.of(choice.person)
    finally:
        pool.shutdown(wait=False)
