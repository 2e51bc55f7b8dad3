"""Dictionaries of features beside the models that the live page runs, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import streamlit as st

from grok.cached import shared_dictionary
from grok.config import BUNDLED_DICTIONARIES
from grok.errors import GrokError
from grok.serving.shared_model import SharedModel
from lens import figures
from lens.errors import LensError
from lens.features.store import FeatureStore
from lens.traces import RoutedText
from pages.feature_views import source
from pages.live.session import prompts, shared_models
from pages.live.session.shared_models import ModelChoice, OnLoad
from pages.shell.startup import startup_options

VARIABLE = "GROK_LENS_DICTIONARY"
SHIPPED = BUNDLED_DICTIONARIES / "sae"
MOST_BYTES = 256 * 2**20
CHANCE, LONGEST = 0.5, 48  # of an explanation: balanced accuracy of guessing; characters
NONE_AT_HAND = (
    "No dictionary of features is at hand. Train one with python -m grok.dictionaries.train, and "
    "start the app with --dictionary and its folder."
)


def folder() -> Path:
    """Where the dictionary is: as the app was started, else the one beside the bundled model."""
    return named() or SHIPPED


def named() -> Path | None:
    """The dictionary that the app was started with, if any."""
    found = startup_options(dictionary=VARIABLE)["dictionary"]
    return Path(found) if found else None


def why_not(trace: RoutedText, choice: ModelChoice | None, what: str = "An account") -> str:
    """Why a trace's choices cannot be taken apart; empty where nothing is known against it.

    Args:
        trace: of a text.
        choice: the model that runs prompts here, if any.
        what: is wanted, at the start of a sentence.
    """
    if trace.settings.get("interventions"):
        return f"This run was changed by an intervention. {what} is of a plain run."
    why = not_in_memory(choice, what)
    if why or choice is None:
        return why
    numbers = len(trace.tokens) * choice.config.d_model * (4 * choice.config.n_layers + 1)
    if 4 * numbers > MOST_BYTES:
        return f"The text is too long: its values would take {4 * numbers:,} bytes."
    return ""


def not_in_memory(choice: ModelChoice | None, what: str) -> str:
    """Why something cannot be had of this model, whatever the text; empty where it can."""
    if choice is None:
        return f"{what} needs the model; none can run here."
    if choice.mode != "resident":
        return f"{what} needs the model's weights in this machine's memory; this one is " + (
            "held by a server." if choice.mode == shared_models.REMOTE else "read from disk."
        )
    return ""


def check(trace: RoutedText, choice: ModelChoice, place: Path) -> None:
    """Makes sure that a dictionary is of the model that made a trace.

    Raises:
        GrokError: it is damaged, or of another model.
    """
    config = choice.config
    shared_dictionary(str(place)).check_model(
        trace.model_sha256, config.d_model, config.n_layers, "the model that made this trace"
    )


def model_of(trace: RoutedText, choice: ModelChoice, dtype: str, on_load: OnLoad) -> SharedModel:
    """The model that made a trace.

    Raises:
        GrokError: the one at hand is another.
    """
    prompts.check_length(len(trace.tokens))
    model = shared_models.shared(choice, dtype, on_load)
    if not isinstance(model, SharedModel) or model.sha256 != trace.model_sha256:
        raise GrokError(
            "This needs the model that made the trace; it is not the one here. Choose that model "
            "above, or run the text again."
        )
    return model


def database(place: Path) -> tuple[str, FeatureStore] | None:
    """The database of a dictionary's features and its id in a link; None where there is none."""
    from grok.dictionaries.kinds.files import tensors_sha256

    try:
        own = tensors_sha256(place)
    except GrokError:
        return None
    for name, found in source.folders().items():
        with suppress(LensError):
            store = source.opened(found)
            if store.summary().dictionary_sha256 == own:
                return name, store
    return None


def of_database(store: FeatureStore) -> Path | None:
    """The folder of the dictionary that a database is of; None with the database alone."""
    from grok.dictionaries.kinds.files import tensors_sha256

    for place in (named(), store.folder.parent, *sorted(BUNDLED_DICTIONARIES.glob("*/"))):
        with suppress(GrokError):
            if place is not None and tensors_sha256(place) == store.summary().dictionary_sha256:
                return place
    return None


@st.cache_data(max_entries=4096, show_spinner=False)
def usually_on(sha256: str, group: int, feature: int, _store: FeatureStore) -> str:
    """When a feature is active in other text, as a database says: plain text from outside."""
    card = _store.card(group, feature)
    rule = card.explanation
    if rule is not None and rule.low > CHANCE:
        return rule.text if len(rule.text) <= LONGEST else f"{rule.text[:LONGEST]}…"
    return ", ".join(f"“{figures.visible(piece)}”" for _, piece, _ in card.words[:2])


def put(kept: dict, key: object, value: object, most: int) -> None:
    """Keeps a value among the last few."""
    kept.pop(key, None)
    while len(kept) >= most:
        kept.pop(next(iter(kept)))
    kept[key] = value


def by_kind(trace: RoutedText, choice: ModelChoice) -> Mapping[str, Path]:
    """Dictionaries that have graphs of routes, by what they take apart, the one named first.

    Those that write what experts add: what one of the stream itself says ends at each layer.
    """
    found = {}
    places = [("own", named())]
    places += [(kind, BUNDLED_DICTIONARIES / kind) for kind in ("transcoder", "clt")]
    for name, place in places:
        if place is None or not place.is_dir():
            continue
        with suppress(GrokError):
            check(trace, choice, place)
            design = shared_dictionary(str(place)).design
            if all(site == "moe.normed" for site in design.writes):
                found[name] = place
    return found
