"""How a router sees the residual stream: columns, the norm's length, and what is added to logits.

A router reads the stream h over its root mean square (or, in families with a layer norm, h minus
its mean over its spread) times a scale for each dimension. So its logits are

    z = columnsᵀ h / length(h) + bias

exactly, up to rounding. Where probabilities are a softmax, the part that all experts share is
taken out of columns and bias: it changes no choice and no gate.

Axes: D width, E experts, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.architectures.grok1 import Grok1
from grok.architectures.grok1_modules import NORM_EPSILON
from grok.architectures.huggingface import tensors
from grok.architectures.huggingface.model import MoeTransformer
from grok.engine.resident import Resident
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.runner.model import Model


@dataclass(frozen=True, eq=False)
class Readout:
    """A router's view of the stream, float64.

    Attributes:
        layer: of the router.
        columns: [D, E].
        bias: [E], whatever the stream is.
        scale: of the norm [D].
        epsilon: of the norm.
        centred: whether the norm takes the mean off.
        canonical: whether the part that all experts share is taken out.
        not_by_logits: why the largest logits are not simply chosen; "" where they are.
    """

    layer: int
    columns: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    epsilon: float
    centred: bool = False
    canonical: bool = True
    not_by_logits: str = ""

    def off_mean(self, h: np.ndarray) -> np.ndarray:
        """What the norm measures of streams [..., D]."""
        wide = np.asarray(h, np.float64)
        return wide - wide.mean(-1, keepdims=True) if self.centred else wide

    def length(self, h: np.ndarray) -> np.ndarray:
        """What the norm divides streams [..., D] by, [...]."""
        found: np.ndarray = np.sqrt(np.square(self.off_mean(h)).mean(-1) + self.epsilon)
        return found

    def logits(self, h: np.ndarray) -> np.ndarray:
        """Logits [..., E] of streams [..., D]."""
        found: np.ndarray = np.asarray(h, np.float64) @ self.columns / self.length(h)[..., None]
        return found + self.bias

    def own(self, logits: np.ndarray) -> np.ndarray:
        """A run's logits [..., E] in the form of these, float64."""
        wide = np.asarray(logits, np.float64)
        return wide - wide.mean(-1, keepdims=True) if self.canonical else wide

    def normed(self, directions: np.ndarray, h: np.ndarray) -> np.ndarray:
        """What directions of the stream [N, D] are at `router.input`, the length of h [D] held."""
        found: np.ndarray = self.off_mean(directions) * self.scale / self.length(h)
        return found


def resident_params(model: Model) -> Resident:
    """The weights of a model.

    Raises:
        GrokError: they are not in memory.
    """
    layers = model.engine.layers
    if not isinstance(layers, Resident):
        raise GrokError(
            f"{model.name} is streamed from disk; attribution needs its weights in memory. Load "
            'it with mode="resident".'
        )
    return layers


def readout_of(model: Model, layer: int) -> Readout:
    """The readout of a layer's router.

    Raises:
        GrokError: the layer has no router, the weights are not in memory, or the family is not
            one whose router is such a function.
    """
    if layer not in model.config.moe_layers:
        known = ", ".join(map(str, model.config.moe_layers))
        raise GrokError(f"Layer {layer} of {model.name} has no router; those that do: {known}.")
    architecture = model.engine.architecture.at(layer)
    params = resident_params(model).params[layer]
    router = _wide(params[architecture.router_spec(layer).leaf])
    scale = _wide(params[architecture.router_norm_spec(layer).leaf])
    bias, beta = np.zeros(router.shape[1]), None
    centred, canonical, why = False, architecture.score == "softmax", ""
    if isinstance(architecture, MoeTransformer):
        config = architecture.config
        epsilon, centred = config.norm_epsilon, config.layer_norm
        if config.router.bias:
            bias = _wide(params[tensors.ROUTER_BIAS])
        beta = _wide(params[f"{tensors.NORM_2}_bias"]) if centred else None
        if config.router.correction:
            why = "a correction is added to the scores before experts are chosen"
        elif config.router.groups is not None:
            why = "experts are chosen within groups"
    elif isinstance(architecture, Grok1):
        epsilon = NORM_EPSILON
    else:
        raise GrokError(f"{model.name}: no exact account is known of this family's router.")
    columns = scale[:, None] * router
    if beta is not None:
        bias = bias + beta @ router
    if centred:
        columns = columns - columns.mean(0)
    if canonical:
        columns, bias = columns - columns.mean(1, keepdims=True), bias - bias.mean()
    return Readout(layer, columns, bias, scale, epsilon, centred, canonical, why)


def _wide(value: Any) -> np.ndarray:
    return np.asarray(value).astype(np.float64)
