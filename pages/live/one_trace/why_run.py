"""What a dictionary of features reads in a trace, and the flips that the model was run with.

Both belong to somebody's text, so they live in the session alone, the last few of them.

Axes: R routers, T tokens, E experts, N directions.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from grok.cached import shared_dictionary
from grok.checkpoints.model_files import folder_identity
from grok.config import BUNDLED_DICTIONARIES
from grok.errors import GrokError
from grok.serving.shared_model import SharedModel
from lens import figures
from lens.errors import LensError
from lens.features.store import FeatureStore
from lens.traces import RoutedText
from pages.access import limits
from pages.feature_views import source
from pages.live.one_trace import logit_lens
from pages.live.running import prompt_form
from pages.live.session import prompts, shared_models
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait
from pages.shell.session_keys import SessionKey, SessionValue
from pages.shell.startup import startup_options

if TYPE_CHECKING:
    from grok.dictionaries.attribution import FlipCheck, FlipTable, PromptFeatures

VARIABLE = "GROK_LENS_DICTIONARY"
READ = SessionValue[dict[str, "PromptFeatures"]](SessionKey.FEATURES_READ)
RUN = SessionValue[dict[tuple[str, int, int], "FlipCheck"]](SessionKey.FLIPS_RUN)
MOST_READ, MOST_RUN = 2, 32
MOST_BYTES = 256 * 2**20
CHANCE, LONGEST = 0.5, 48  # of an explanation: balanced accuracy of guessing; characters
CONTROLS = 15  # random directions; with the feature's they are run together


def folder() -> Path:
    """Where the dictionary is: as the app was started, else the one beside the bundled model."""
    named = startup_options(dictionary=VARIABLE)["dictionary"]
    return Path(named) if named else BUNDLED_DICTIONARIES / "sae"


def why_not(trace: RoutedText, choice: ModelChoice | None) -> str:
    """Why no account can be given of a trace; empty where nothing is known against it.

    Raises:
        GrokError: the dictionary at hand is damaged, or of another model.
    """
    if trace.settings.get("interventions"):
        return "This run was changed by an intervention, so its choices have no account here."
    if choice is None:
        return "An account needs the model; none can run here."
    if choice.mode != "resident":
        return "An account needs the model's weights in this machine's memory; this one is " + (
            "held by a server." if choice.mode == shared_models.REMOTE else "read from disk."
        )
    if not folder().is_dir():
        return (
            "No dictionary of features is at hand. Train one with python -m "
            "grok.dictionaries.train, and start the app with --dictionary and its folder."
        )
    config = choice.config
    shared_dictionary(str(folder())).check_model(
        trace.model_sha256, config.d_model, config.n_layers, "the model that made this trace"
    )
    numbers = len(trace.tokens) * config.d_model * (4 * config.n_layers + 1)
    if 4 * numbers > MOST_BYTES:
        return f"The text is too long for an account: its values would take {4 * numbers:,} bytes."
    return ""


def database() -> tuple[str, FeatureStore] | None:
    """The database of the dictionary's features and its id in a link; None where there is none."""
    from grok.dictionaries.kinds.files import TEXT

    try:
        own = json.loads((folder() / TEXT).read_text())["tensors_sha256"]
    except (OSError, ValueError, KeyError):
        return None
    for name, place in source.folders().items():
        with suppress(LensError):
            store = source.opened(place)
            if store.summary().dictionary_sha256 == own:
                return name, store
    return None


@st.cache_data(max_entries=4096, show_spinner=False)
def usually_on(sha256: str, group: int, feature: int, _store: FeatureStore) -> str:
    """When a feature is active in other text, as a database says: plain text from outside."""
    card = _store.card(group, feature)
    rule = card.explanation
    if rule is not None and rule.low > CHANCE:
        return rule.text if len(rule.text) <= LONGEST else f"{rule.text[:LONGEST]}…"
    return ", ".join(f"“{figures.visible(piece)}”" for _, piece, _ in card.words[:2])


def key_of(trace: RoutedText) -> str:
    """What the features of a trace depend on: model, dtype, tokens, dictionary."""
    return f"{logit_lens.lens_key(trace)} {folder_identity(folder())}"


def read(trace: RoutedText, choice: ModelChoice) -> PromptFeatures | None:
    """The features of a trace, read in one run of its text; None after an error was shown.

    Its logits are the trace's own, so what a second run rounds otherwise is in the account's
    rounding; its experts are those of the run.
    """
    kept, key = READ.kept(dict), key_of(trace)
    if key in kept:
        return kept[key]

    def run(on_wait: OnWait, on_load: OnLoad) -> PromptFeatures:
        from grok.dictionaries.attribution import read_features

        model = _model(trace, choice, on_load)
        limits.charge(choice.person, len(trace.tokens))
        with model.turn(on_wait):
            found = read_features(model.model, shared_dictionary(str(folder())), trace.tokens)
        if found.logits.shape != trace.router_logits.shape:
            raise GrokError(
                f"The trace has logits of shape {trace.router_logits.shape}, this model "
                f"{found.logits.shape}: they don't belong together. Run the text again."
            )
        return replace(found, logits=trace.router_logits)

    found = prompt_form.run_guarded(run, "Reading the features of this text")
    if found is not None:
        _put(kept, key, found, MOST_READ)
    return found


def known(trace: RoutedText, table: FlipTable) -> FlipCheck | None:
    """What the model did at the smallest flip of a cell, where it was run."""
    return RUN.kept(dict).get((key_of(trace), table.layer, table.token))


def check(
    trace: RoutedText, choice: ModelChoice, found: PromptFeatures, table: FlipTable
) -> FlipCheck | None:
    """Runs the smallest flip of a cell, and random directions; None after an error was shown."""

    def run(on_wait: OnWait, on_load: OnLoad) -> FlipCheck:
        from grok.dictionaries.attribution import verify_flips, verifying

        model = _model(trace, choice, on_load)
        layers = verifying.TOGETHER * (verifying.STEPS + 1)
        passes = max(1, round(layers / choice.config.n_layers))
        limits.charge(choice.person, passes * len(trace.tokens))
        with model.turn(on_wait):
            return verify_flips(model.model, found, table, rows=1, random=CONTROLS)

    result = prompt_form.run_guarded(run, "Running the layer with the feature changed")
    if result is not None:
        _put(RUN.kept(dict), (key_of(trace), table.layer, table.token), result, MOST_RUN)
    return result


def _model(trace: RoutedText, choice: ModelChoice, on_load: OnLoad) -> SharedModel:
    """The model that made a trace.

    Raises:
        GrokError: the one at hand is another.
    """
    prompts.check_length(len(trace.tokens))
    dtype = str(trace.settings.get("dtype", "bfloat16"))
    model = shared_models.shared(choice, dtype, on_load)
    if not isinstance(model, SharedModel) or model.sha256 != trace.model_sha256:
        raise GrokError(
            "An account needs the model that made the trace; it is not the one here. Choose that "
            "model above, or run the text again."
        )
    return model


def _put(kept: dict, key: object, value: object, most: int) -> None:
    while len(kept) >= most:
        kept.pop(next(iter(kept)))
    kept[key] = value
