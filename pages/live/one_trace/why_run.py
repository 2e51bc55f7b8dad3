"""What a dictionary of features reads in a trace, and the flips that the model was run with.

Both belong to somebody's text, so they live in the session alone, the last few of them.

Axes: R routers, T tokens, E experts, N directions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from grok.cached import shared_dictionary
from grok.checkpoints.model_files import folder_identity
from grok.errors import GrokError
from lens.traces import RoutedText
from pages.access import limits
from pages.live.one_trace import logit_lens
from pages.live.running import prompt_form
from pages.live.session import dictionaries
from pages.live.session.dictionaries import folder
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.dictionaries.attribution import FlipCheck, FlipTable, PromptFeatures
    from grok.serving.shared_model import SharedModel

READ = SessionValue[dict[str, "PromptFeatures"]](SessionKey.FEATURES_READ)
RUN = SessionValue[dict[tuple[str, int, int], "FlipCheck"]](SessionKey.FLIPS_RUN)
MOST_READ, MOST_RUN = 2, 32
CONTROLS = 15  # random directions; with the feature's they are run together


def why_not(trace: RoutedText, choice: ModelChoice | None) -> str:
    """Why no account can be given of a trace; empty where nothing is known against it.

    Raises:
        GrokError: the dictionary at hand is damaged, or of another model.
    """
    why = dictionaries.why_not(trace, choice)
    if why or choice is None:
        return why
    if not folder().is_dir():
        return dictionaries.NONE_AT_HAND
    dictionaries.check(trace, choice, folder())
    return ""


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
        dictionaries.put(kept, key, found, MOST_READ)
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
        dictionaries.put(
            RUN.kept(dict), (key_of(trace), table.layer, table.token), result, MOST_RUN
        )
    return result


def _model(trace: RoutedText, choice: ModelChoice, on_load: OnLoad) -> SharedModel:
    dtype = str(trace.settings.get("dtype", "bfloat16"))
    return dictionaries.model_of(trace, choice, dtype, on_load)
