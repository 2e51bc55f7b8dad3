"""Changes of features in a run, as edits: a feature is set, added to, scaled, clamped or ablated.

What changes is the feature's strength f, read from the run itself; δ times what it writes is added
where it writes. Nothing is decoded anew, so what the dictionary misses stays as it is.

Axes: B sequences, T tokens, D width, n features changed together, E experts, K experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.parameters import own_experts
from grok.dictionaries.kinds.selection import largest_of_tokens
from grok.errors import InterventionError
from grok.interventions.edits import NO_EDITS, Edits, request
from grok.interventions.kinds import Intervention
from grok.interventions.sites import HookPoint

# What becomes of f: scale · f + shift, kept between low and high. By name, of a value.
ACTIONS = ("set", "add", "scale", "clamp", "ablate")


@dataclass(frozen=True)
class Change:
    """One feature's change.

    Attributes:
        feature: its index in its group.
        action: "set" to a value; "add" a value, but not below 0; "scale" by one; "clamp": at most
            a value; "ablate": 0.
        value: of the action; not for "ablate".
        group: the group of the dictionary; that of layer i is the i-th of its layers, in order.
    """

    feature: int
    action: str = "ablate"
    value: float = 0.0
    group: int = 0

    @property
    def rule(self) -> tuple[float, float, float, float]:
        """scale, shift, low and high."""
        v, far = self.value, np.inf
        return {
            "set": (0.0, v, -far, far),
            "add": (1.0, v, 0.0, far),
            "scale": (v, 0.0, -far, far),
            "clamp": (1.0, 0.0, -far, v),
            "ablate": (0.0, 0.0, 0.0, 0.0),
        }[self.action]


def steer(
    dictionary: Dictionary,
    changes: Change | Sequence[Change],
    *,
    positions: int | Sequence[int] | slice | None = None,
    directions: np.ndarray | None = None,
) -> Edits:
    """The edits of a run in which features are changed, in prompts and in generation.

    Features of one group are changed together. Those of later groups are read from the run as the
    earlier changes left it.

    Args:
        dictionary: whose features.
        changes: one or several, each feature once.
        positions: of tokens, negative from the end of the prompt; all when None, those still to
            be generated too.
        directions: for controls, what is written instead of what the features write, one for each
            change: [n, D] to every site, or [n, W, D] to each of the W sites of their group.

    Raises:
        InterventionError: no such feature or action, or a kind whose features belong to no layer.
    """
    several = [changes] if isinstance(changes, Change) else list(changes)
    design = dictionary.design
    check_changes(dictionary, several)
    edits = NO_EDITS
    for g in dict.fromkeys(change.group for change in several):
        which = [i for i, change in enumerate(several) if change.group == g]
        own = [several[i] for i in which]
        group = design.groups[g]
        source = design.sources[group.reads[0]]
        for w, target in enumerate(group.writes):
            point = design.targets[target]
            if directions is None:
                rows = np.asarray(dictionary.params["decoder"][g])[[c.feature for c in own], w]
            else:
                others = np.asarray(directions, np.float32)[which]
                rows = others[:, w] if others.ndim == 3 else others
            references: list[HookPoint] = [] if point == source else [source]
            if design.n_experts:
                references.append(HookPoint(source.layer, "router.experts"))
            at = np.array([change.feature for change in own], np.int32)
            arguments = (at, _encoder(dictionary, g, at), rows, _rules(own))
            function = Intervention(_Steered(dictionary), arguments, "features")
            one = request(point.site, function, point.layer, positions, tuple(references))
            edits = edits + Edits((one,))
    return edits


def turned(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows [N, D] turned together at random: as long as they were, at the angles they had.

    What writes to several sites adds up in the stream as far as its rows point alike. So a control
    for it takes a random direction for each, but not the same, nor one that knows of no other.
    """
    basis, parts = np.linalg.qr(rows.T.astype(np.float64))  # [D, r], [r, N]
    drawn, signs = np.linalg.qr(rng.standard_normal(basis.shape))
    up = np.where(np.diag(parts) < 0, -1.0, 1.0)[:, None]
    found: np.ndarray = (drawn * np.where(np.diag(signs) < 0, -1.0, 1.0) @ (parts * up)).T
    return found


def check_changes(dictionary: Dictionary, changes: Sequence[Change]) -> None:
    """Refuses changes that cannot be made; raises as `steer`."""
    design = dictionary.design
    if design.kind == "crosscoder":
        raise InterventionError(
            "A crosscoder's features read all layers, so none is known before the last; steer "
            "along one with grok.interventions.steer instead."
        )
    if dictionary.activation.function == "topk" and dictionary.activation.pooled:
        raise InterventionError("A pooled topk compares all layers, so no feature is known early.")
    seen = set()
    for change in changes:
        if change.action not in ACTIONS:
            known = ", ".join(ACTIONS)
            raise InterventionError(f"action is {change.action!r:.40}; expected one of {known}.")
        if not (0 <= change.group < len(design.groups) and 0 <= change.feature < design.features):
            raise InterventionError(
                f"feature {change.feature} of group {change.group}: this {design.kind} has "
                f"{len(design.groups)} groups of {design.features} features."
            )
        if not np.isfinite(change.value):
            raise InterventionError(f"value is {change.value}; expected a finite number.")
        if (change.group, change.feature) in seen:
            raise InterventionError(f"feature {change.feature} is changed twice; say it once.")
        seen.add((change.group, change.feature))


def _rules(changes: Sequence[Change]) -> np.ndarray:
    return np.array([change.rule for change in changes], np.float32).T  # [4, n]


def _encoder(dictionary: Dictionary, g: int, at: np.ndarray) -> tuple[np.ndarray, ...]:
    """Columns, biases and thresholds of some features; for `topk`, which compares all, columns,
    biases and gates of all."""
    p = dictionary.params
    encoder, bias = np.asarray(p["encoder"][g][0]), np.asarray(p["encoder_bias"][g])
    if dictionary.activation.function == "topk":
        return encoder, bias, np.asarray(p["gate"][g])
    level = np.asarray(p["threshold"][g]) if "threshold" in p else np.zeros_like(bias)
    return encoder[:, at], bias[at], level[at]


class _Steered:
    """(value, indexes, encoder, rows, rules, *references) -> value + δ · rows.

    Equal for dictionaries of one rule, which then share compiled programs.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        rule, design = dictionary.activation, dictionary.design
        self._k = rule.k if rule.function == "topk" else 0
        self._design = design if design.n_experts else None
        self._key = self._k, self._design

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Steered) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __call__(
        self,
        value: jax.Array,
        at: jax.Array,
        encoder: tuple[jax.Array, ...],
        rows: jax.Array,
        rules: jax.Array,
        *references: jax.Array,
    ) -> jax.Array:
        experts = references[-1] if self._design is not None else None
        sources = references[:-1] if self._design is not None else references
        read = sources[0] if sources else value
        f = self._strengths(read.astype(jnp.float32), at, encoder, experts)
        scale, shift, low, high = rules
        change = jnp.clip(f * scale + shift, low, high) - f
        return value.astype(jnp.float32) + change @ rows

    def _strengths(
        self,
        x: jax.Array,
        at: jax.Array,
        encoder: tuple[jax.Array, ...],
        experts: jax.Array | None,
    ) -> jax.Array:
        """f of the features that are changed [B, T, n]."""
        columns, bias, level = encoder
        pre = jnp.dot(x, columns, precision=jax.lax.Precision.HIGHEST) + bias
        if self._design is not None:
            assert experts is not None
            went = own_experts(self._design, experts.reshape(-1, experts.shape[-1]))
            went = went.reshape(*x.shape[:-1], -1)
            pre = jnp.where(went if self._k else went[..., at], pre, 0.0)
        if not self._k:
            return jnp.where(pre > level, pre, 0.0)
        flat = (pre * level).reshape(-1, pre.shape[-1])
        active = largest_of_tokens(flat, self._k).reshape(pre.shape)
        found: jax.Array = jnp.where(active, pre, 0.0)[..., at]
        return found
