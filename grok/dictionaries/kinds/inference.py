"""Features and reconstructions of a finished dictionary.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width, K experts a token.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.parameters import Params, decode, encode
from grok.dictionaries.kinds.selection import largest_of_tokens


class Applied(NamedTuple):
    """features: [B, F] of each group; written: [M, B, D]."""

    features: list[jax.Array]
    written: jax.Array


@partial(jax.jit, static_argnames=("design", "activation"))
def _apply(
    design: Design,
    activation: Activation,
    params: Params,
    x: jax.Array,
    chosen: jax.Array | None,
) -> Applied:
    pre = encode(design, params, x, chosen)
    if activation.function == "relu":
        features = [jax.nn.relu(one) for one in pre]
    elif activation.function == "jumprelu":
        above = zip(pre, params["threshold"], strict=True)
        features = [jnp.where(one > theta, one, 0.0) for one, theta in above]
    else:
        features = _largest(activation, pre, params["gate"])
    return Applied(features, decode(design, params, features, x))


def _largest(activation: Activation, pre: list[jax.Array], gate: jax.Array) -> list[jax.Array]:
    gated = [one * own for one, own in zip(pre, gate, strict=True)]
    if activation.pooled:
        together = largest_of_tokens(jnp.concatenate(gated, axis=1), activation.k * len(pre))
        masks = jnp.split(together, len(pre), axis=1)
    else:
        masks = [largest_of_tokens(one, activation.k) for one in gated]
    return [jnp.where(mask, one, 0.0) for mask, one in zip(masks, pre, strict=True)]


def apply(dictionary: Dictionary, x: jax.Array, chosen: jax.Array | None = None) -> Applied:
    """Features and what they write, of values as the model has them.

    Args:
        dictionary: to be used.
        x: values of the sites that are read [S, B, D].
        chosen: experts of each token [S, B, K], for an `expert_transcoder`.
    """
    return _apply(dictionary.design, dictionary.activation, dictionary.params, x, chosen)
