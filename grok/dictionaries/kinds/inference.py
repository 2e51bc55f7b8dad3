"""Features and reconstructions of a finished dictionary.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width, K experts a token.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.parameters import Params, decode, encode
from grok.dictionaries.kinds.selection import largest_of_groups

_WRITTEN = ("decoder", "decoder_bias", "skip")  # parameters that features do not depend on


class Applied(NamedTuple):
    """features: [B, F] of each group; written: [M, B, D]."""

    features: list[jax.Array]
    written: jax.Array


@partial(jax.jit, static_argnames=("design", "activation"))
def _active(
    design: Design,
    activation: Activation,
    params: Params,
    x: jax.Array,
    chosen: jax.Array | None,
) -> list[jax.Array]:
    pre = encode(design, params, x, chosen)
    if activation.function == "relu":
        return [jax.nn.relu(one) for one in pre]
    if activation.function == "jumprelu":
        above = zip(pre, params["threshold"], strict=True)
        return [jnp.where(one > theta, one, 0.0) for one, theta in above]
    return _largest(activation, pre, params["gate"])


@partial(jax.jit, static_argnames=("design", "activation"))
def _apply(
    design: Design,
    activation: Activation,
    params: Params,
    x: jax.Array,
    chosen: jax.Array | None,
) -> Applied:
    features = _active(design, activation, params, x, chosen)
    return Applied(features, decode(design, params, features, x))


def _largest(activation: Activation, pre: list[jax.Array], gate: jax.Array) -> list[jax.Array]:
    gated = [one * own for one, own in zip(pre, gate, strict=True)]
    if activation.pooled:
        masks = largest_of_groups(gated, activation.k * len(pre))
    else:
        masks = [largest_of_groups([one], activation.k)[0] for one in gated]
    return [jnp.where(mask, one, 0.0) for mask, one in zip(masks, pre, strict=True)]


def active(dictionary: Dictionary, x: Any, chosen: Any | None = None) -> list[jax.Array]:
    """Features alone, as `apply` has them: [B, F] of each group."""
    encoders = {name: one for name, one in dictionary.params.items() if name not in _WRITTEN}
    return _active(dictionary.design, dictionary.activation, encoders, x, chosen)


def apply(dictionary: Dictionary, x: jax.Array, chosen: jax.Array | None = None) -> Applied:
    """Features and what they write, of values as the model has them.

    Args:
        dictionary: to be used.
        x: values of the sites that are read [S, B, D].
        chosen: experts of each token [S, B, K], for an `expert_transcoder`.
    """
    return _apply(dictionary.design, dictionary.activation, dictionary.params, x, chosen)
