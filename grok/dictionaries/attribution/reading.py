"""One prompt read by a model and a dictionary: everything that accounts, flips and graphs need.

Axes: L layers, R layers with a router, T tokens, D width, E experts, K experts a token, F features
of a group, N terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from grok.dictionaries.attribution.readout import Readout, readout_of
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import active, apply
from grok.errors import GrokError
from grok.interventions.sites import EMBED, HookPoint

if TYPE_CHECKING:
    from grok.runner.interfaces import Prompt
    from grok.runner.model import Model

STREAM = ("resid_pre", "attn.normed", "resid_mid", "moe.normed")


@dataclass(frozen=True, eq=False)
class PromptFeatures:
    """A prompt's values and features.

    Attributes:
        dictionary: that was read with.
        tokens: [T]; pieces: their texts.
        values: by hook point [T, D] float32: of the stream, of what is added to it, and of the
            dictionary's own sites.
        features: of each group [T, F].
        errors: of each target of the dictionary [T, D] float64: value minus what is written.
        skips: the part of what is written that goes through the skip [T, D]; empty without one.
        readouts: of the layers with a router, by layer.
        logits: of the routers [R, T, E], as the run had them.
        experts: [R, T, K]; gates: [R, T, K].
        skipped: positions at the start that the dictionary was not trained on.
        model: its name; dtype: of its activations.
    """

    dictionary: Dictionary
    tokens: np.ndarray
    pieces: tuple[str, ...]
    values: Mapping[HookPoint, np.ndarray]
    features: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]
    skips: tuple[np.ndarray, ...]
    readouts: Mapping[int, Readout]
    logits: np.ndarray
    experts: np.ndarray
    gates: np.ndarray
    skipped: int
    model: str
    dtype: str

    def row(self, layer: int) -> int:
        """Where a layer stands among those with a router.

        Raises:
            GrokError: it has none.
        """
        layers = list(self.readouts)
        if layer not in layers:
            known = ", ".join(map(str, layers))
            raise GrokError(f"Layer {layer} has no router here; layers with one: {known}.")
        return layers.index(layer)

    def position(self, token: int) -> int:
        """A token's position, given from the start or, when negative, from the end.

        Raises:
            GrokError: there is no such token.
        """
        n = self.tokens.size
        if not -n <= token < n:
            raise GrokError(f"Token {token} of a prompt of {n}; expected {-n} to {n - 1}.")
        return token % n

    def stream(self, layer: int, token: int) -> np.ndarray:
        """What the layer's router reads the norm of, [D] float64."""
        return self.values[HookPoint(layer, "resid_mid")][token].astype(np.float64)

    def parts(self, point: HookPoint, token: int) -> list[Part]:
        """What a value of the stream is the sum of, up to rounding: the dictionary's own sites are
        taken apart, and between them what attention and the experts added."""
        targets = self.dictionary.design.targets
        if point in targets:
            return self._written(targets.index(point), token)
        layer, site = point
        if site == "resid_mid":
            whole = [HookPoint(layer, "resid_pre"), HookPoint(layer, "attn.normed")]
        elif site == "resid_post":
            whole = [HookPoint(layer, "resid_mid"), HookPoint(layer, "moe.normed")]
        elif site == "resid_pre" and layer:
            whole = [HookPoint(layer - 1, "resid_post")]
        else:
            kind = {"resid_pre": "embedding", "attn.normed": "attention"}.get(site, "experts")
            return [Part(kind, point, self.values[point][token].astype(np.float64)[None])]
        return [part for one in whole for part in self.parts(one, token)]

    def _written(self, target: int, token: int) -> list[Part]:
        """The dictionary's own terms of one of its targets."""
        design, params = self.dictionary.design, self.dictionary.params
        point = design.targets[target]
        parts = []
        for g, group in enumerate(design.groups):
            if target not in group.writes:
                continue
            f = self.features[g][token].astype(np.float64)
            at = np.flatnonzero(f)
            rows = np.asarray(params["decoder"][g][at, group.writes.index(target)], np.float64)
            parts.append(Part("feature", point, rows, f[at], g, at))
        bias = np.asarray(params["decoder_bias"][target], np.float64)
        parts.append(Part("bias", point, bias[None]))
        if self.skips:
            parts.append(Part("skip", point, self.skips[target][token][None]))
        parts.append(Part("error", point, self.errors[target][token][None]))
        return parts


class Part(NamedTuple):
    """Terms of a value of the stream.

    Attributes:
        kind: "feature", "bias", "skip", "error", "embedding", "attention" or "experts".
        point: where it is written.
        rows: directions [N, D].
        strengths: what multiplies them [N]; None: 1.
        group: of the features; -1 for others.
        indexes: of the features in their group [N]; None for others.
    """

    kind: str
    point: HookPoint
    rows: np.ndarray
    strengths: np.ndarray | None = None
    group: int = -1
    indexes: np.ndarray | None = None


def read_features(model: Model, dictionary: Dictionary, prompt: Prompt) -> PromptFeatures:
    """Runs a prompt once and reads its features.

    Args:
        model: with its weights in memory.
        dictionary: made for it.
        prompt: text, or token ids.

    Raises:
        GrokError: the dictionary is for another model, the weights are not in memory, or the
            prompt cannot be used.
    """
    config, design = model.config, dictionary.design
    dictionary.check_model(model.sha256, config.d_model, config.n_layers, model.name)
    readouts = {layer: readout_of(model, layer) for layer in config.moe_layers}
    tokens = model.encode(prompt)
    n = tokens.size
    points = [HookPoint(layer, site) for layer in range(config.n_layers) for site in STREAM]
    choices = [HookPoint(layer, "router.experts") for layer in design.layers]
    points += [*design.sources, *design.targets, *(choices if design.n_experts else ())]
    points.append(HookPoint(-1, EMBED))
    run = model.run_one(tokens, wanted=dict.fromkeys(points))
    values = {point: np.asarray(value[0, :n]) for point, value in run.kept.items()}
    x = np.stack([values[p].astype(np.float32) for p in design.sources])
    chosen = np.stack([values[p] for p in choices]) if design.n_experts else None
    applied = jax.device_get(apply(dictionary, x, chosen))  # type: ignore[arg-type]
    features = tuple(np.asarray(one) for one in applied.features)
    written = _written(dictionary, features)
    skips: tuple[np.ndarray, ...] = ()
    if design.skip:
        pairs = zip(x, dictionary.params["skip"], strict=True)
        skips = tuple(one.astype(np.float64) @ np.asarray(w, np.float64) for one, w in pairs)
        written = [a + b for a, b in zip(written, skips, strict=True)]
    errors = tuple(
        values[point].astype(np.float64) - own
        for point, own in zip(design.targets, written, strict=True)
    )
    return PromptFeatures(
        dictionary=dictionary,
        tokens=tokens,
        pieces=tuple(model.pieces(tokens)),
        values=values,
        features=features,
        errors=errors,
        skips=skips,
        readouts=readouts,
        logits=run.router_logits[:, 0, :n],
        experts=run.experts[:, 0, :n],
        gates=run.gates[:, 0, :n],
        skipped=dictionary.skipped,
        model=model.name,
        dtype=model.dtype,
    )


def feature_strengths(
    model: Model, dictionary: Dictionary, prompts: Sequence[Prompt]
) -> list[tuple[np.ndarray, ...]]:
    """Features of several texts, and nothing else of them: of each the groups' [T, F].

    Raises:
        GrokError: as `read_features`; weights that are on disk are read for each text.
    """
    config, design = model.config, dictionary.design
    dictionary.check_model(model.sha256, config.d_model, config.n_layers, model.name)
    choices = [HookPoint(layer, "router.experts") for layer in design.layers]
    points = [*design.sources, *(choices if design.n_experts else ())]
    found = []
    for prompt in prompts:
        tokens = model.encode(prompt)
        kept = model.run_one(tokens, wanted=dict.fromkeys(points)).kept
        # With the padding, so that texts of a bucket share a compiled program.
        x = np.stack([np.asarray(kept[p][0], np.float32) for p in design.sources])
        chosen = np.stack([kept[p][0] for p in choices]) if design.n_experts else None
        features = jax.device_get(active(dictionary, x, chosen))
        found.append(tuple(np.asarray(one[: tokens.size]) for one in features))
    return found


def _written(dictionary: Dictionary, features: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """What features and biases write to each target [T, D], float64."""
    design, params = dictionary.design, dictionary.params
    n = len(features[0])
    out = [np.tile(np.asarray(b, np.float64), (n, 1)) for b in params["decoder_bias"]]
    for g, group in enumerate(design.groups):
        used = np.flatnonzero(features[g].any(0))
        rows = np.asarray(params["decoder"][g][used], np.float64)
        for w, target in enumerate(group.writes):
            out[target] += features[g][:, used].astype(np.float64) @ rows[:, w]
    return out
