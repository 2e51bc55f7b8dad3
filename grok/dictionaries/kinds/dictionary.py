"""A finished dictionary: parameters in the model's own units, and the rule of activity.

Whatever it was trained with, a feature is then active by one of three rules, which need no batch:

- `relu`: above 0.
- `jumprelu`: above its threshold. Dictionaries trained with `batch_topk` have this rule too.
- `topk`: among the k largest of its token, pre-activations times `gate` compared.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width. No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.normalising import Units, folded
from grok.errors import GrokError

CONTEXT = 128  # tokens of a window, where nothing else is said


@dataclass(frozen=True)
class Dictionary:
    """A dictionary that can be used.

    Attributes:
        design: its sites and size.
        activation: the rule: function, k and pooled.
        params: as in `grok.dictionaries.kinds.parameters`, float32, with `threshold` [G, F] for
            `jumprelu` and `gate` [G, F] for `topk`.
        facts: what is known of it: model, text, seed, settings, metrics.
    """

    design: Design
    activation: Activation
    params: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Positions at the start of each window that it was not trained on."""
        return int(self.facts.get("first_position", {}).get("skipped", 0))

    @property
    def context(self) -> int:
        """Tokens of the windows that it was trained on."""
        return int(self.facts.get("settings", {}).get("text", {}).get("context", CONTEXT))

    def check_model(self, sha256: str, d_model: int, n_layers: int, name: str) -> None:
        """Refuses a model that it was not made for.

        Args:
            sha256: of the model's routers and norms.
            d_model: of the model.
            n_layers: of the model.
            name: of the model, for messages.

        Raises:
            GrokError: with both named.
        """
        design, own = self.design, str(self.facts.get("model_sha256", ""))
        title = f"A {design.kind} with {design.features} features a group"
        if design.d_model != d_model or max(design.layers) >= n_layers:
            raise GrokError(
                f"{title} is for width {design.d_model} and layers up to {max(design.layers)}; "
                f"{name} has width {d_model} and {n_layers} layers. Train one for this model."
            )
        if own and own != sha256:
            raise GrokError(
                f"{title} was trained on {self.facts.get('model', 'a model')!s:.80} "
                f"({own[:12]}…); {name} is another model ({sha256[:12]}…). Train one for it."
            )


def param_shapes(design: Design, activation: Activation) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a finished dictionary by their names in a file."""
    d, f = design.d_model, design.features
    n, m = len(design.groups), len(design.targets)
    shapes: dict[str, tuple[int, ...]] = {"encoder_bias": (n, f), "decoder_bias": (m, d)}
    for i, group in enumerate(design.groups):
        shapes[f"encoder.{i}"] = (len(group.reads), d, f)
        shapes[f"decoder.{i}"] = (f, len(group.writes), d)
    if activation.function == "jumprelu":
        shapes["threshold"] = (n, f)
    if activation.function == "topk":
        shapes["gate"] = (n, f)
    if design.skip:
        shapes["skip"] = (m, d, d)
    return shapes


def finished(
    design: Design,
    activation: Activation,
    params: Mapping[str, Any],
    reads: Units,
    writes: Units,
    levels: np.ndarray,
    facts: Mapping[str, Any],
) -> Dictionary:
    """The dictionary of trained parameters, folded into the model's own units.

    Decoder norms that pre-activations were compared by are those of training: they are kept as an
    array, or divide the thresholds, since folding changes the decoders.

    Args:
        design: of the dictionary.
        activation: that it was trained with.
        params: in the units of training.
        reads, writes: those units.
        levels: thresholds of `batch_topk` on gated pre-activations [G].
        facts: to keep beside it.
    """
    gate = np.ones((len(design.groups), design.features))
    if activation.gate_by_norm:
        for i, w in enumerate(params["decoder"]):
            gate[i] = np.sqrt(np.sum(np.square(np.asarray(w, np.float64)), axis=(1, 2)) + 1e-20)
    own = folded(design, params, reads, writes)
    function = activation.function
    if function == "batch_topk":
        own["threshold"] = np.asarray(levels, np.float64)[:, None] / gate
        function = "jumprelu"
    elif function == "jumprelu":
        own["threshold"] = own["threshold"] / gate
    elif function == "topk":
        own["gate"] = gate
    rule = Activation(function, activation.k, activation.pooled)
    return Dictionary(design, rule, as_float32(own), dict(facts))


def as_float32(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same arrays, and lists of arrays, in float32."""
    return {
        name: [np.asarray(one, np.float32) for one in value]
        if isinstance(value, (list, tuple))
        else np.asarray(value, np.float32)
        for name, value in params.items()
    }
