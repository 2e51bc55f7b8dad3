"""The model and the dictionary that a database of features is of, where both can be run here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import streamlit as st

from grok.cached import shared_dictionary
from grok.errors import GrokError
from grok.serving.shared_model import SharedModel
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.features.store import FeatureStore
from pages.access import limits, persons, settings
from pages.access.messages import told
from pages.hosting import owner
from pages.live.running import prompt_form, stream_choice
from pages.live.session import dictionaries, shared_models
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait
from pages.shell import data_source

if TYPE_CHECKING:
    from grok.dictionaries.kinds.dictionary import Dictionary

Result = TypeVar("Result")
DTYPE = "bfloat16"  # as the live page opens a model
DATABASE_ALONE = (
    "Only the database of these features is at hand, not the dictionary itself, so no other text "
    "can be read with it. Start the app with --dictionary and the dictionary's folder."
)


@dataclass(frozen=True)
class AtHand:
    """What runs a text.

    Attributes:
        choice: the model.
        folder: of the dictionary.
        model_sha256: of the model that the dictionary is of.
    """

    choice: ModelChoice
    folder: Path
    model_sha256: str

    def run(
        self,
        text: str,
        work: Callable[[SharedModel, Dictionary, OnWait], Result],
    ) -> Result | None:
        """The result of `work(model, dictionary, on_wait)`; None after an error was shown.

        Args:
            text: beside the spinner.
            work: takes its turn at the model, and charges what it runs.
        """

        def begin(on_wait: OnWait, on_load: OnLoad) -> Result:
            model = shared_models.shared(self.choice, DTYPE, on_load)
            if not isinstance(model, SharedModel) or model.sha256 != self.model_sha256:
                raise GrokError("These features are of another model than the one that runs here.")
            return work(model, shared_dictionary(str(self.folder)), on_wait)

        return prompt_form.run_guarded(begin, text)


def at_hand(store: FeatureStore, what: str) -> AtHand | None:
    """What runs a text with a database's features; where nothing does, says why and gives None.

    Args:
        store: the database.
        what: is wanted, at the start of a sentence.
    """
    if persons.role() == "viewer":
        st.info(persons.MAY_LOOK + as_markdown(persons.ask(settings.current())))
        return None
    folder = dictionaries.of_database(store)
    if folder is None:
        st.info(DATABASE_ALONE)
        return None
    sha256 = store.summary().model_sha256
    try:
        choice = _of_model(sha256)
    except GrokError as error:
        st.error(told(error), icon=":material/error:")
        return None
    why = dictionaries.not_in_memory(choice, what)
    if why or choice is None:
        st.info(why)
        return None
    if limits.current().words:
        st.caption(limits.current().words)
    return AtHand(choice, folder, sha256)


def _of_model(sha256: str) -> ModelChoice | None:
    """The model whose routers have this hash, as the live page would run it.

    Raises:
        GrokError: it cannot run on this machine.
    """
    for name, choice in shared_models.model_choices(owner.current()).items():
        if choice.mode == shared_models.REMOTE:
            return choice
        with suppress(LensError, GrokError):
            if data_source.routers_of(name).sha256 != sha256:
                continue
            return stream_choice.decided(choice, check=name == "checkpoint")
    return None
