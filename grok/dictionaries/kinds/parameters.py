"""Parameters of a dictionary and its two linear maps.

Parameters are a dict:

- `encoder`: for each group [R, D, F], R sites that it reads.
- `encoder_bias`: [G, F].
- `decoder`: for each group [F, W, D], W sites that it writes.
- `decoder_bias`: [M, D].
- `threshold`: [G, F], for `jumprelu`.
- `skip`: [M, D, D], where there is one.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from grok.dictionaries.kinds.design import Activation, Design

Params = Mapping[str, Any]
DECODER_NORM = 0.1  # of a feature's decoder at the start


def initial(design: Design, activation: Activation, seed: int) -> dict[str, Any]:
    """Random parameters; biases 0.

    Encoders have columns of norm 1. Where a group writes what it reads, decoders are the encoders'
    transposes; otherwise random directions. A feature's own layer starts at norm 0.1 and later
    layers at 0.
    """
    key = jax.random.key(seed)
    d, f = design.d_model, design.features
    encoders, decoders = [], []
    for i, group in enumerate(design.groups):
        first, second = jax.random.split(jax.random.fold_in(key, i))
        e = jax.random.normal(first, (len(group.reads), d, f))
        e = e / jnp.sqrt(jnp.sum(jnp.square(e), axis=(0, 1), keepdims=True))
        w = jnp.zeros((f, len(group.writes), d))
        if design.kind in ("sae", "crosscoder"):
            w = DECODER_NORM * jnp.transpose(e, (2, 0, 1))
        else:
            own = jax.random.normal(second, (f, d))
            own = own / jnp.linalg.norm(own, axis=-1, keepdims=True)
            w = w.at[:, 0].set(DECODER_NORM * own)
        encoders.append(e)
        decoders.append(w)
    params: dict[str, Any] = {
        "encoder": encoders,
        "encoder_bias": jnp.zeros((len(encoders), f)),
        "decoder": decoders,
        "decoder_bias": jnp.zeros((len(design.targets), d)),
    }
    if activation.function == "jumprelu":
        params["threshold"] = jnp.full((len(encoders), f), activation.threshold)
    if design.skip:
        params["skip"] = jnp.zeros((len(design.targets), d, d))
    return params


def random_decoders(design: Design, seed: int) -> list[jax.Array]:
    """Random directions of one length for every feature and site that it writes."""
    decoders = []
    for i, group in enumerate(design.groups):
        key = jax.random.fold_in(jax.random.key(seed), 2**16 + i)
        w = jax.random.normal(key, (design.features, len(group.writes), design.d_model))
        decoders.append(DECODER_NORM * w / jnp.linalg.norm(w, axis=-1, keepdims=True))
    return decoders


def shapes(design: Design, activation: Activation) -> Any:
    """Shapes and dtypes of the parameters; computes nothing."""
    return jax.eval_shape(lambda: initial(design, activation, 0))


def encode(
    design: Design, params: Params, x: jax.Array, chosen: jax.Array | None = None
) -> list[jax.Array]:
    """Pre-activations [B, F] of each group.

    Args:
        design: of the dictionary.
        params: its parameters.
        x: values of the sites that are read [S, B, D].
        chosen: experts of each token [S, B, K], for an `expert_transcoder`.
    """
    pre = []
    for i, group in enumerate(design.groups):
        total = sum(x[site] @ params["encoder"][i][r] for r, site in enumerate(group.reads))
        total = total + params["encoder_bias"][i]
        if design.n_experts:
            assert chosen is not None
            total = jnp.where(own_experts(design, chosen[i]), total, 0.0)
        pre.append(total)
    return pre


def own_experts(design: Design, chosen: jax.Array) -> jax.Array:
    """Which features belong to an expert that the token went to, [B, F] of experts [B, K]."""
    went = jnp.any(chosen[:, :, None] == jnp.arange(design.n_experts), axis=1)  # [B, E]
    return jnp.repeat(went, design.features // design.n_experts, axis=1)


def decode(
    design: Design, params: Params, features: Sequence[jax.Array], x: jax.Array | None = None
) -> jax.Array:
    """What the dictionary writes [M, B, D].

    Args:
        design: of the dictionary.
        params: its parameters.
        features: [B, F] of each group.
        x: what was read [S, B, D], where the dictionary has a skip.
    """
    written = written_by(design, params["decoder"], features)
    sums = [one + bias for one, bias in zip(written, params["decoder_bias"], strict=True)]
    if design.skip:
        assert x is not None
        sums = [one + x[i] @ params["skip"][i] for i, one in enumerate(sums)]
    return jnp.stack(sums)


def written_by(
    design: Design, decoders: Sequence[jax.Array], features: Sequence[jax.Array]
) -> list[jax.Array]:
    """What features alone write to each target [B, D], without biases."""
    parts: list[list[jax.Array]] = [[] for _ in design.targets]
    for group, w, f in zip(design.groups, decoders, features, strict=True):
        out = f @ w.reshape(w.shape[0], -1)  # [B, W * D]
        for j, target in enumerate(group.writes):
            parts[target].append(out[:, j * design.d_model : (j + 1) * design.d_model])
    return [sum(own[1:], start=own[0]) for own in parts]


def decoder_norms(params: Params) -> list[jax.Array]:
    """The norm of each feature's decoders over all that it writes, [F] of each group."""
    return [jnp.sqrt(jnp.sum(jnp.square(w), axis=(1, 2)) + 1e-20) for w in params["decoder"]]
