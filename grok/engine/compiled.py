"""One pass over the layers, compiled in three parts that all calls share.

Axes: L layers, B sequences, T tokens, V vocabulary, E experts, K experts a token,
C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok.architectures.architecture import Architecture, Cache, Dispatch
from grok.architectures.moe import Choice
from grok.engine.largest import largest
from grok.interventions.hooks import NO_SITE_EDITS, CompiledHook, EditsBySite
from grok.interventions.sites import EMBED, LOGITS, NO_HOOK, Hook, HookPoint

SMALLEST_BUCKET = 16

# The roundings that the model writes down are kept, so results do not depend on how
# the compiler fuses.
AS_WRITTEN = {"xla_allow_excess_precision": False}
NONE_SEEN: Mapping[str, jax.Array] = {}


@partial(jax.jit, static_argnames=("architecture", "dtype"), compiler_options=AS_WRITTEN)
def embed_pass(architecture: Architecture, params: Any, tokens: jax.Array, dtype: str) -> jax.Array:
    """Residual stream before the first layer [B, T, D], of tokens [B, T]."""
    return architecture.embed(params, tokens, jnp.dtype(dtype))


@partial(jax.jit, static_argnames=("n_experts",), compiler_options=AS_WRITTEN)
def edited_embedding(
    h: jax.Array, start: jax.Array, edits: EditsBySite, n_experts: int
) -> jax.Array:
    """The residual stream before the first layer, after its edits."""
    return CompiledHook(edits, (), start, n_experts)(EMBED, h)


# many parameters: those of one compiled program, static and traced.
@partial(
    jax.jit,
    static_argnames=("architecture", "dispatch", "mesh", "keep"),
    donate_argnames=("cache",),
    compiler_options=AS_WRITTEN,
)
def layer_pass(
    architecture: Architecture,
    params: Any,
    h: jax.Array,
    start: jax.Array,
    key_is_token: jax.Array,
    cache: Cache,
    dispatch: Dispatch,
    mesh: Mesh,
    edits: EditsBySite = NO_SITE_EDITS,
    keep: tuple[str, ...] = (),
) -> tuple[jax.Array, Choice | None, Cache, dict[str, jax.Array]]:
    """One decoder layer with its edits; see `Architecture.decoder_layer`.

    Returns:
        The residual stream, the router's choice (None without experts), the filled cache, and the
        values of the sites in `keep`.
    """
    hook = CompiledHook(edits, keep, start, architecture.config.n_experts)
    h, choice, cache = architecture.decoder_layer(
        params, h, start, key_is_token, cache, dispatch=dispatch, hook=hook
    )
    if choice is not None:
        choice = choice._replace(beside=shared_beside_chosen(hook))
    out = (h, choice, hook.kept)
    if mesh.size > 1:  # every process and device can read what leaves the layer
        out = jax.lax.with_sharding_constraint(out, NamedSharding(mesh, P()))
    return out[0], out[1], cache, out[2]


# Where a layer is cut when its experts are computed elsewhere.
SECOND_SITES = ("moe.contribution", "moe.output", "moe.shared", "moe.normed", "resid_post")


@partial(
    jax.jit,
    static_argnames=("architecture", "keep"),
    donate_argnames=("cache",),
    compiler_options=AS_WRITTEN,
)
def first_half_pass(
    architecture: Architecture,
    params: Any,
    h: jax.Array,
    start: jax.Array,
    key_is_token: jax.Array,
    cache: Cache,
    edits: EditsBySite = NO_SITE_EDITS,
    keep: tuple[str, ...] = (),
) -> tuple[Any, jax.Array, Choice, Cache, dict[str, jax.Array]]:
    """A layer up to its router's choice; see `layer_pass`.

    Returns:
        What the second half needs, what the experts read [B, T, D], the choice, the filled cache,
        and the values of the sites in `keep`.
    """
    hook = CompiledHook(edits, keep, start, architecture.config.n_experts)
    routed, cache = architecture.before_experts(params, h, start, key_is_token, cache, hook=hook)
    return routed.stream, routed.expert_input, routed.choice, cache, hook.kept


# many parameters: those of one compiled program, static and traced.
@partial(
    jax.jit,
    static_argnames=("architecture", "dtype", "keep"),
    compiler_options=AS_WRITTEN,
)
def second_half_pass(
    architecture: Architecture,
    params: Any,
    stream: Any,
    parts: jax.Array,
    start: jax.Array,
    dtype: str,
    edits: EditsBySite = NO_SITE_EDITS,
    seen: Mapping[str, jax.Array] = NONE_SEEN,
    keep: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array | None]:
    """A layer from its experts' output on.

    Args:
        stream: what the first half gave for this.
        parts: their sum [B, T, D] float32, or their contributions [B, T, K, D] where those are
            hooked.
        seen: values of the first half that edits here refer to.

    Returns:
        The residual stream after the layer, the values of the sites in `keep`, and what
        `shared_beside_chosen` gives.
    """
    hook = CompiledHook(edits, keep, start, architecture.config.n_experts, seen)
    h = architecture.after_experts(params, stream, parts, jnp.dtype(dtype), hook=hook)
    return h, hook.kept, shared_beside_chosen(hook)


def shared_beside_chosen(hook: CompiledHook) -> jax.Array | None:
    """Lengths of what the chosen experts and the shared one add, and their cosine [B, T, 3].

    Of the layer that called the hook, edits in force; float32. A cosine with nothing is 0. None
    where the layer has no shared expert.
    """
    chosen, shared = hook.value("moe.output"), hook.value("moe.shared")
    if chosen is None or shared is None:
        return None
    chosen, shared = chosen.astype(jnp.float32), shared.astype(jnp.float32)
    lengths = jnp.linalg.norm(chosen, axis=-1), jnp.linalg.norm(shared, axis=-1)
    both = lengths[0] * lengths[1]
    cosine = jnp.sum(chosen * shared, axis=-1) / jnp.where(both > 0, both, 1)
    return jnp.stack([*lengths, cosine], axis=-1)


def logits_of(
    architecture: Architecture, params: Any, h: jax.Array, dtype: Any, *, hook: Hook = NO_HOOK
) -> jax.Array:
    """Logits [B, T, V] of the residual stream after the last layer [B, T, D]."""
    normed = architecture.final_norm(params, h, dtype, hook=hook)
    return hook(LOGITS, architecture.head(params, normed))


class Head(NamedTuple):
    """What follows the last layer, on the devices."""

    logits: jax.Array  # [B, T, V]
    candidates: jax.Array  # [B, T, C]
    candidate_probs: jax.Array  # [B, T, C]


# many parameters: those of one compiled program, static and traced.
@partial(
    jax.jit,
    static_argnames=("architecture", "n_candidates", "dtype", "mesh", "keep"),
    compiler_options=AS_WRITTEN,
)
def head_pass(
    architecture: Architecture,
    params: Any,
    h: jax.Array,
    n_candidates: int,
    dtype: str,
    mesh: Mesh,
    start: Any = 0,
    edits: EditsBySite = NO_SITE_EDITS,
    keep: tuple[str, ...] = (),
) -> tuple[Head, dict[str, jax.Array]]:
    """Logits and the `n_candidates` most probable next tokens; values of the sites in `keep`."""
    hook = CompiledHook(edits, keep, start, architecture.config.n_experts)
    logits = logits_of(architecture, params, h, jnp.dtype(dtype), hook=hook)
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    top, ids = largest(probs, n_candidates)
    out = (Head(logits, ids.astype(jnp.int32), top), hook.kept)
    if mesh.size > 1:
        out = jax.lax.with_sharding_constraint(out, NamedSharding(mesh, P()))
    return out


class Forward(NamedTuple):
    """One pass, on the host; L counts the layers with experts alone.

    logits [B, T, V] float32; router_logits, router_probs [L, B, T, E]; experts, gates
    [L, B, T, K]; candidates, candidate_probs [B, T, C]; choice_values [L, B, T, E]: what the
    largest were taken of, where not of router_probs; kept: values [B, T, ...] of the wanted
    hook points; beside_shared [L, B, T, 3]: see `shared_beside_chosen`.
    """

    logits: np.ndarray
    router_logits: np.ndarray
    router_probs: np.ndarray
    experts: np.ndarray
    gates: np.ndarray
    candidates: np.ndarray
    candidate_probs: np.ndarray
    choice_values: np.ndarray | None = None
    kept: Mapping[HookPoint, np.ndarray] = {}
    beside_shared: np.ndarray | None = None


def bucket(length: int) -> int:
    """The padded length for `length` tokens: the next power of two, at least 16."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


class Padded(NamedTuple):
    """Prompts as rows of one length: token ids [B, T], which of them count, which are keys."""

    tokens: np.ndarray
    real: np.ndarray
    keys: np.ndarray


def padded(tokens: Sequence[np.ndarray], length: int, pad_token: int | None) -> Padded:
    """Several prompts, filled up to one length.

    Args:
        tokens: ids of each.
        length: of the rows.
        pad_token: an id that attention never reads; None for none.
    """
    rows = np.zeros((len(tokens), length), np.int32)
    real, keys = np.zeros(rows.shape, bool), np.zeros(rows.shape, bool)
    for i, one in enumerate(tokens):
        rows[i, : len(one)] = one
        real[i, : counted(one, length, pad_token)] = True
        keys[i, : len(one)] = True if pad_token is None else one != pad_token
    return Padded(rows, real, keys)


def counted(tokens: np.ndarray, length: int, pad_token: int | None) -> int:
    """Rows of a prompt, padded to `length`, on which the numbers of its own tokens depend.

    Its own. But where an id that is never looked at comes first there is nothing to look at, and
    attention weighs all positions alike, those of the padding too.
    """
    blind = len(tokens) > 0 and tokens[0] == pad_token
    return length if blind else len(tokens)
