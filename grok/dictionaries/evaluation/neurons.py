"""The experts' own neurons as a dictionary: the k that contribute most to a token.

What a layer's experts add to the stream is, with the scale of the norm after them held, a sum over
the hidden units of the chosen experts: activation times gate times a row of the last matrix. A
learned dictionary that explains no more with as many active features has found nothing that the
model's own units do not show.

Axes: B tokens, D width, E experts, F hidden units of an expert, K experts a token, N levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.moe import ACTIVATIONS
from grok.architectures.stored_values import float_values
from grok.dictionaries.evaluation.tokens import Part
from grok.dictionaries.kinds.design import Design
from grok.engine.resident import Resident
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

SITES = ("router.input", "router.experts", "router.gates", "moe.output")
TARGET = "moe.normed"
MOST = 128  # neurons that are told apart


class Units(NamedTuple):
    """Hidden units of one layer. first, second: [E, D, F]; down: [E, F, D]."""

    first: jax.Array
    second: jax.Array
    down: jax.Array


class Neurons:
    """Reconstructions by the experts' own neurons.

    Attributes:
        points: values that they need beside those of a dictionary.
        bias: what is added to each target at each level [N, M, D], see `fit`.
    """

    def __init__(self, model: Model, design: Design) -> None:
        layers = model.engine.layers
        assert isinstance(layers, Resident)
        products = model.engine.architecture.expert_products
        self._activation = products.form.activation
        self._layers = [point.layer for point in design.targets]
        self._units = []
        for layer in self._layers:
            own = products.of(layers.params[layer])
            values = (float_values(w, jnp.float32) for w in (own.activated, own.linear, own.down))
            self._units.append(Units(*(value.astype(jnp.float32) for value in values)))
        self.points = tuple(HookPoint(i, site) for i in self._layers for site in SITES)
        self.bias: Any = 0.0

    def written(self, part: Part, levels: Sequence[np.ndarray]) -> np.ndarray:
        """Reconstructions by the k largest contributions [N, M, B, D].

        Args:
            part: tokens with the values of `points`.
            levels: k of each target [M], N of them; all units where k is above `MOST`.
        """
        out = []
        for i, layer in enumerate(self._layers):
            x, experts, gates, output = (part.values[HookPoint(layer, site)] for site in SITES)
            scale = norm_scale(output, np.asarray(part.batch.y[i]))
            k = np.array([level[i] for level in levels], np.int32)
            found = _largest(self._units[i], x, experts, gates, k, scale, self._activation, MOST)
            out.append(np.asarray(found))
        return np.stack(out, 1) + self.bias

    def fit(self, part: Part, levels: Sequence[np.ndarray]) -> None:
        """Sets the bias to what the left-out units give on average, on text of training."""
        self.bias = 0.0
        off = np.asarray(part.batch.y)[None] - self.written(part, levels)
        self.bias = off.mean(2, keepdims=True)


def has_neurons(model: Model, design: Design) -> bool:
    """True where the model's experts are in memory and of a form whose units can be told apart."""
    form = model.engine.architecture.expert_products
    return (
        all(point.site == TARGET for point in design.targets)
        and isinstance(model.engine.layers, Resident)
        and form.form.activation in ACTIVATIONS
        and not (form.form.fused or form.form.gates_input or form.activated_bias)
        and not form.down_bias
    )


def norm_scale(output: np.ndarray, normed: np.ndarray) -> np.ndarray:
    """What turns the experts' sum of a token into what is added to the stream [B, D].

    That is the weight of the norm over the root mean square of each token; ones without a norm.
    """
    rms = np.sqrt(np.square(output.astype(np.float64)).mean(1, keepdims=True) + 1e-30)
    unit = output / rms
    weight = (unit * normed).sum(0) / np.maximum(np.square(unit).sum(0), 1e-30)
    # An epsilon below the root shows where outputs are small: the scale is fitted to each token.
    length = (unit * weight * normed).sum(1) / np.maximum(np.square(unit * weight).sum(1), 1e-30)
    return np.asarray(length[:, None] * weight / rms)


@partial(jax.jit, static_argnames=("activation", "most"))
def _largest(
    units: Units,
    x: jax.Array,
    experts: jax.Array,
    gates: jax.Array,
    k: jax.Array,
    scale: jax.Array,
    activation: str,
    most: int,
) -> jax.Array:
    """[N, B, D]."""
    e, _, f = units.first.shape
    x = x.astype(jnp.float32)
    hot = jax.nn.one_hot(experts, e)  # [B, K, E]; an id outside the model is no expert
    gate = jnp.einsum("bk,bke->be", gates, hot)
    first, second = (jnp.einsum("bd,edf->bef", x, w) for w in units[:2])
    hidden = (ACTIVATIONS[activation](first) * second * gate[:, :, None]).reshape(len(x), e * f)
    down = units.down.reshape(e * f, -1)
    # The scale is a weight over a length, so lengths compare as with the weight alone.
    size = jnp.abs(hidden) * jnp.sqrt(jnp.square(down) @ jnp.square(scale[0]))
    largest, _ = jax.lax.top_k(size, min(most, e * f))

    def at(own: jax.Array) -> jax.Array:
        least = jnp.where(own > most, 0.0, largest[:, jnp.clip(own, 1, most) - 1])
        kept = (size >= least[:, None]) & (own > 0)
        return (jnp.where(kept, hidden, 0.0) @ down) * scale

    return jax.lax.map(at, k)
