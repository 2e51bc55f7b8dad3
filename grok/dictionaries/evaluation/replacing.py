"""A model in which a dictionary stands for what it was trained on, as edits of a run.

Edits are computed from the values of the run itself, so what a layer gets wrong the next ones see.

Axes: B sequences, T tokens, D width, F features, K experts a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.dictionaries.kinds.design import Design
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.parameters import own_experts
from grok.dictionaries.kinds.selection import largest_of_tokens
from grok.errors import GrokError
from grok.interventions.edits import Edits, edit, replace_with, request, zero_out
from grok.interventions.kinds import Intervention
from grok.interventions.sites import HookPoint


def replacement(
    dictionary: Dictionary,
    layers: Sequence[int] | None = None,
    added: Mapping[HookPoint, np.ndarray] | None = None,
) -> Edits:
    """The edits that put reconstructions in place of what is written.

    Args:
        dictionary: of one of the kinds whose groups belong to layers.
        layers: where; all of the dictionary's by default.
        added: what is added to each reconstruction of one batch, one after the other
            [N, B, T, D], such as its `errors`.

    Raises:
        GrokError: a kind or rule that cannot be computed layer by layer.
    """
    design = dictionary.design
    if design.kind == "crosscoder":
        raise GrokError("A crosscoder reads all layers at once, so it replaces no layer of a run.")
    if dictionary.activation.function == "topk" and dictionary.activation.pooled:
        raise GrokError("A pooled topk compares all layers, so it replaces no layer of a run.")
    chosen = design.layers if layers is None else layers
    requests = []
    for target, point in enumerate(design.targets):
        if point.layer not in chosen:
            continue
        arrays = (*_arrays(dictionary, target), () if added is None else tuple(added[point]))
        function = Intervention(_Written(dictionary), arrays, "dictionary")
        references = _references(design, target)
        requests.append(request(point.site, function, point.layer, None, references))
    return Edits(tuple(requests))


def errors(
    dictionary: Dictionary, values: Mapping[HookPoint, np.ndarray]
) -> dict[HookPoint, np.ndarray]:
    """What reconstructions lack of the values of a run [2, B, T, D], by target.

    The first part is the error in float32, the second what adding it rounds away: a reconstruction
    to which both are added is the value itself, to the bit.

    Args:
        dictionary: as for `replacement`.
        values: of every source and target [B, T, ...] of one batch.
    """
    written = jax.jit(_Written(dictionary))
    found = {}
    for target, point in enumerate(dictionary.design.targets):
        value = np.asarray(values[point], np.float32)
        read = [values[own] for own in _references(dictionary.design, target)]
        made = np.asarray(written(value, *_arrays(dictionary, target), (), *read))
        first = value - made
        found[point] = np.stack([first, value - (made + first)])
    return found


def _arrays(dictionary: Dictionary, target: int) -> tuple[Any, ...]:
    """Parts, bias and skip of a target."""
    groups = _groups(dictionary.design, target)
    parts = tuple(_part(dictionary, g, target) for g in groups)
    skip = dictionary.params["skip"][target] if dictionary.design.skip else None
    return parts, dictionary.params["decoder_bias"][target], skip


def _references(design: Design, target: int) -> tuple[HookPoint, ...]:
    """What is read beside the value that is replaced."""
    found: list[HookPoint] = []
    for g in _groups(design, target):
        source = design.sources[design.groups[g].reads[0]]
        if design.kind != "sae":
            found.append(source)
        if design.n_experts:
            found.append(HookPoint(source.layer, "router.experts"))
    return tuple(found)


def _groups(design: Design, target: int) -> list[int]:
    return [g for g, group in enumerate(design.groups) if target in group.writes]


def put(values: Mapping[HookPoint, np.ndarray]) -> Edits:
    """The edits that put values [B, T, D] of one batch in place of those of a run."""
    requests = [
        request(point.site, Intervention(_put, (value.astype(np.float32),), "put"), point.layer)
        for point, value in values.items()
    ]
    return Edits(tuple(requests))


def _put(value: jax.Array, new: jax.Array) -> jax.Array:
    return jnp.broadcast_to(new, value.shape)


def ablations(points: Sequence[HookPoint], mean: np.ndarray) -> dict[str, Edits]:
    """The edits that put zero, and the mean [M, D], in place of the values at M points."""
    zero, average = Edits(), Edits()
    for point, own in zip(points, mean, strict=True):
        zero = zero + edit(point.site, zero_out(), layers=point.layer)
        put_there = replace_with(own.astype(np.float32))
        average = average + edit(point.site, put_there, layers=point.layer)
    return {"zero": zero, "mean": average}


def on_best_axes(
    points: Sequence[HookPoint], mean: np.ndarray, axes: np.ndarray, k: np.ndarray
) -> Edits:
    """The edits that leave of each value the axes that are largest in it.

    Args:
        points: of the values, M of them.
        mean: that axes start from [M, D].
        axes: orthonormal, in columns [M, D, D].
        k: axes that are left at each point [M].
    """
    requests = []
    for i, point in enumerate(points):
        arrays = (np.float32(mean[i]), np.float32(axes[i]), np.int32(k[i]))
        function = Intervention(_on_axes, arrays, "axes")
        requests.append(request(point.site, function, point.layer))
    return Edits(tuple(requests))


def _on_axes(value: jax.Array, mean: jax.Array, axes: jax.Array, k: jax.Array) -> jax.Array:
    at = (value - mean) @ axes
    size = jnp.abs(at)
    least = jnp.sort(size, axis=-1, descending=True)[..., jnp.maximum(k - 1, 0)]
    kept = (size >= least[..., None]) & (k > 0)
    return jnp.where(kept, at, 0.0) @ axes.T + mean


def _part(dictionary: Dictionary, group: int, target: int) -> tuple[Any, ...]:
    """Arrays of one group for one of its targets: encoder, bias, level, gate, decoder."""
    p, own = dictionary.params, dictionary.design.groups[group]
    zeros = jnp.zeros(dictionary.design.features)
    level = p["threshold"][group] if "threshold" in p else zeros
    gate = p["gate"][group] if "gate" in p else zeros + 1
    decoder = p["decoder"][group][:, own.writes.index(target)]
    return tuple(
        jnp.asarray(one)
        for one in (p["encoder"][group][0], p["encoder_bias"][group], level, gate, decoder)
    )


class _Written:
    """(value, parts, bias, skip, added, *references) -> what is written instead of value.

    Equal for dictionaries of one design and rule, which then share compiled programs.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self._design, self._rule = dictionary.design, dictionary.activation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Written) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> Any:
        return self._design, self._rule

    def __call__(
        self,
        value: jax.Array,
        parts: Any,
        bias: jax.Array,
        skip: Any,
        added: Any,
        *references: jax.Array,
    ) -> jax.Array:
        shape, d = value.shape, value.shape[-1]
        each = 2 if self._design.n_experts else 1
        out = jnp.broadcast_to(bias, shape).reshape(-1, d)
        for i, (encoder, own_bias, level, gate, decoder) in enumerate(parts):
            read = references[i * each] if references else value
            x = read.astype(jnp.float32).reshape(-1, d)
            pre = x @ encoder + own_bias
            if self._design.n_experts:
                experts = references[i * each + 1]
                went = own_experts(self._design, experts.reshape(-1, experts.shape[-1]))
                pre = jnp.where(went, pre, 0.0)
            if self._rule.function == "topk":
                active = largest_of_tokens(pre * gate, self._rule.k)
            else:
                active = pre > level
            out = out + jnp.where(active, pre, 0.0) @ decoder
            if skip is not None:
                out = out + x @ skip
        out = out.reshape(shape)
        for more in added:
            out = out + more
        return out.astype(value.dtype)
