"""Which model an imported dictionary is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from grok.dictionaries.kinds.dictionary import Dictionary
from grok.errors import GrokError
from grok.interventions.sites import MIXTURE_SITES


class For(NamedTuple):
    """A model: its name, the hash of its routers and norms, sizes, and its layers with experts."""

    name: str
    sha256: str
    d_model: int
    n_layers: int
    moe_layers: tuple[int, ...]


def bound(
    dictionary: Dictionary, model: For | None, source: Path, form: str
) -> tuple[Dictionary, str]:
    """A dictionary that says which model it is for and where it came from.

    Args:
        dictionary: as it was read.
        model: that the person names; None: the one whose hash stands in the file.
        source: that it was read from.
        form: the name of its format.

    Returns:
        The dictionary, and a sentence on what was checked.

    Raises:
        GrokError: no model is named, or the dictionary does not fit it.
    """
    design, own = dictionary.design, str(dictionary.facts.get("model_sha256", ""))
    if model is None:
        if not own:
            raise GrokError(
                f"{source}: found no hash of the model that it was trained on; expected one, or a "
                "model that you name. Name it with --model."
            )
        told = f"It is for {dictionary.facts.get('model') or 'the model'!s:.80} ({own[:12]}…)."
        facts: Mapping[str, Any] = dictionary.facts
    else:
        dictionary.check_model(model.sha256, model.d_model, model.n_layers, model.name)
        for layer in sorted(set(design.layers) - set(model.moe_layers)):
            odd = [site for site in (*design.reads, *design.writes) if site in MIXTURE_SITES]
            if odd:
                raise GrokError(
                    f"{source}: found {odd[0]} of layer {layer}; expected a layer with experts, "
                    f"since {model.name} has none there. Name another model with --model."
                )
        if own:
            told = f"Its hash is that of {model.name}."
        else:
            told = (
                f"The file does not say by its hash which model it was trained on: you named "
                f"{model.name}, and only layers, sites and width were checked. Measure it with "
                "`python -m grok.dictionaries.evaluate`."
            )
        facts = {**dictionary.facts, "model": model.name, "model_sha256": model.sha256}
    came = {"format": form, "from": source.name, "model_named": not own}
    return replace(dictionary, facts={**facts, "imported": came}), told
