"""All measures of a dictionary on held-out text, with its controls on the same tokens.

Axes: M sites written, B tokens, G groups, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from grok.dictionaries.evaluation.controls import Controls, Fitting, at_level
from grok.dictionaries.evaluation.replacing import replacement
from grok.dictionaries.evaluation.spliced import compared
from grok.dictionaries.evaluation.sums import (
    Activity,
    Reconstruction,
    nearest_cosines,
    partner_cosines,
)
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.losses import Batch
from grok.dictionaries.training.source import Computed, taken
from grok.dictionaries.training.windows import Windows
from grok.errors import GrokError
from grok.interventions.edits import Edits, edit, replace_with, zero_out

if TYPE_CHECKING:
    from grok.runner.model import Model

DUPLICATE, PARTNER = 0.9, 0.7
LOWEST_DENSITIES = "10^-6 to 10^0.5 in steps of 10^0.5"


class Plan(NamedTuple):
    """How much is measured: tokens of a batch, of training text for the controls, of held-out
    text that is reconstructed, and that runs through changed models."""

    batch: int = 2048
    fitted: int = 100_000
    held_out: int = 200_000
    spliced: int = 16_384


def batches(
    model: Model, dictionary: Dictionary, windows: Windows, batch: int, most: int, skipped: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Values of the tokens of windows, spread over all of them, and the tokens [B].

    Args:
        model: gives the values.
        dictionary: whose sites are needed.
        windows: of the text.
        batch: tokens that come together.
        most: tokens in all.
        skipped: positions at the start of each window that are left out.
    """
    n = max(1, min(len(windows.tokens), most // max(1, int(windows.lengths.max()))))
    some = np.unique(np.linspace(0, len(windows.tokens) - 1, n).astype(int))
    window = np.concatenate([np.full(max(0, windows.lengths[w] - skipped), w) for w in some])
    place = np.concatenate([np.arange(skipped, max(skipped, windows.lengths[w])) for w in some])
    values = Computed(model, windows)
    for first in range(0, len(window), batch):
        own, at = window[first : first + batch], place[first : first + batch]
        tokens = np.array([windows.tokens[w][p] for w, p in zip(own, at, strict=True)])
        yield taken(dictionary.design, values, own, at), tokens


def stability(dictionary: Dictionary, other: Dictionary) -> dict[str, list[float]]:
    """Features that another dictionary, of another seed, has too, by group.

    Returns:
        The share with a partner of cosine above 0.7, and the mean of the largest cosines.

    Raises:
        GrokError: the two are not of one design.
    """
    if dictionary.design != other.design:
        raise GrokError(
            f"A {dictionary.design.kind} with {dictionary.design.features} features a group and a "
            f"{other.design.kind} with {other.design.features}: only dictionaries of one design "
            "can be compared."
        )
    pairs = zip(dictionary.params["decoder"], other.params["decoder"], strict=True)
    found = [partner_cosines(a, b) for a, b in pairs]
    return {
        "share": [float((one > PARTNER).mean()) for one in found],
        "mean": [float(one.mean()) for one in found],
    }


def measured(
    model: Model, dictionary: Dictionary, fit: Windows, held_out: Windows, plan: Plan
) -> dict[str, Any]:
    """Every measure, as JSON holds it; lists are by site or group, in the design's order.

    Args:
        model: that the dictionary is for.
        dictionary: to be measured.
        fit: text of training, for the controls.
        held_out: other text.
        plan: how much of both.

    Raises:
        GrokError: the dictionary is for another model.
    """
    config = model.config
    dictionary.check_model(model.sha256, config.d_model, config.n_layers, model.name)
    skipped = int(dictionary.facts.get("first_position", {}).get("skipped", 0))
    design, fitting = dictionary.design, None
    for batch, tokens in batches(model, dictionary, fit, plan.batch, plan.fitted, skipped):
        if fitting is None:
            mean = np.asarray(batch.y, np.float64).mean(1)
            fitting = Fitting(mean, config.vocab_size)
        fitting.add(np.asarray(batch.y), tokens)
    assert fitting is not None
    fitted = fitting.fitted()
    controls, activity = Controls(fitted), Activity()
    reconstruction = Reconstruction(fitted.mean)
    for batch, tokens in batches(model, dictionary, held_out, plan.batch, plan.held_out, skipped):
        found = jax.device_get(apply(dictionary, batch.x, batch.chosen))
        reconstruction.add(np.asarray(batch.y), found.written)
        activity.add(found.features)
        controls.add(np.asarray(batch.y), tokens)
    nearest = [nearest_cosines(np.asarray(w)) for w in dictionary.params["decoder"]]
    return {
        "sites": [str(point) for point in design.targets],
        "held_out_tokens": reconstruction.n,
        "fitted_tokens": fitting.n,
        "dictionary": reconstruction.numbers() | activity.numbers(),
        "densities": {"bins": LOWEST_DENSITIES, "counts": activity.histogram()},
        "duplicates": [float((one > DUPLICATE).mean()) for one in nearest],
        "controls": _controls(dictionary, reconstruction, activity, controls),
        "spliced": _spliced(model, dictionary, fitted.mean, held_out, plan),
    }


def _controls(
    dictionary: Dictionary, own: Reconstruction, activity: Activity, controls: Controls
) -> dict[str, list[float]]:
    """FVU of each control at the active features that a target has; of all of them last."""
    design = dictionary.design
    # Of a target: active features of its own layer's group, and of all where there is one group.
    l0 = activity.l0
    level = np.full(len(design.targets), l0[0]) if len(l0) == 1 else l0
    variance = own.variance

    def fvu(errors: np.ndarray) -> list[float]:
        return [*(errors / variance).tolist(), float(errors.sum() / variance.sum())]

    return {
        "pca_best": fvu(at_level(controls.best, level)),
        "pca_first": fvu(at_level(controls.first, level)),
        "token_mean": fvu(controls.token_mean),
    }


def _spliced(
    model: Model, dictionary: Dictionary, mean: np.ndarray, held_out: Windows, plan: Plan
) -> dict[str, Any]:
    """The whole replacement, and for an SAE each layer's router fed with the reconstruction."""
    design = dictionary.design
    if design.kind == "crosscoder":
        return {}
    whole = [one for one in held_out.tokens if len(one) == held_out.lengths.max()]
    n = max(1, plan.spliced // int(held_out.lengths.max()))
    some = [whole[i] for i in np.unique(np.linspace(0, len(whole) - 1, n).astype(int))]
    sites = dict.fromkeys(point.site for point in design.targets)
    zero, average = Edits(), Edits()
    for target, point in enumerate(design.targets):
        zero = zero + edit(point.site, zero_out(), layers=point.layer)
        average = average + edit(
            point.site, replace_with(mean[target].astype(np.float32)), layers=point.layer
        )
    runs: dict[str, Edits] = {"replaced": replacement(dictionary), "zero": zero, "mean": average}
    alone = design.kind == "sae" and tuple(sites) == ("resid_mid",)
    if alone:
        runs |= {f"layer {i}": replacement(dictionary, [i]) for i in design.layers}
    found = {name: own.numbers() for name, own in
             zip(runs, compared(model, some, list(runs.values())), strict=True)}  # fmt: skip
    out: dict[str, Any] = {name: found[name] for name in ("replaced", "zero", "mean")}
    for name in ("zero", "mean"):
        out[name] |= {"ce_recovered": _recovered(found, name, "ce_changed"),
                      "kl_recovered": 1 - found["replaced"]["kl"] / found[name]["kl"]}  # fmt: skip
    if alone:
        out["routers"] = _own_layers({i: found[f"layer {i}"] for i in design.layers}, model)
    return out


def _recovered(found: Mapping[str, Mapping[str, Any]], name: str, key: str) -> float:
    lost = found[name][key] - found[name]["ce"]
    return float((found[name][key] - found["replaced"][key]) / lost)


def _own_layers(found: Mapping[int, Mapping[str, Any]], model: Model) -> dict[str, list[float]]:
    """Of runs with one layer's stream reconstructed, what that layer's own router did."""
    routed = list(model.config.moe_layers)
    keys = ("same_set", "same_first", "route_kl", "router_ev", "flips_by_margin")
    return {
        key: [own[key][routed.index(layer)] for layer, own in found.items() if layer in routed]
        for key in keys
    }
