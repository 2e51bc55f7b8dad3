"""Edits and kept sites of one run, made ready for the compiled passes.

`arrange_hooks` turns edits and wanted hook points into `Hooks`: for every layer its edits by site,
as arrays that a compiled program takes, and the sites to keep. `CompiledHook` is what the layer
calls at its sites while it is compiled. Layers without edits run the program that plain runs use,
so long as nothing is kept.

Axes: B sequences, S positions of the longest context, T tokens of this call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from grok.config import ModelConfig
from grok.errors import InterventionError, SiteError
from grok.interventions.edits import NO_EDITS, Edits, Request
from grok.interventions.kinds import Intervention
from grok.interventions.sites import (
    AXES,
    EMBED,
    LAYER_SITES,
    MIXTURE_SITES,
    MODEL_SITES,
    HookPoint,
    check_mixture,
    known,
    model_point,
)


@jax.tree_util.register_static
@dataclass(frozen=True)
class SameLayer:
    """A reference to an earlier site of the layer that is being computed."""

    site: str


Value = np.ndarray | jax.Array
# A value of an earlier layer, the hook point where the run finds it, or a site of this layer.
Reference = Value | HookPoint | SameLayer


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["function", "positions", "references"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Edit:
    """One edit of one site of one layer.

    Attributes:
        function: the change.
        positions: tokens that it applies to, [1 or B, S] bool; None for all.
        references: values for the function: arrays of earlier layers, or `SameLayer`.
    """

    function: Intervention
    positions: np.ndarray | None = None
    references: tuple[Reference, ...] = ()


EditsBySite = Mapping[str, tuple[Edit, ...]]
NO_SITE_EDITS: EditsBySite = {}


class CompiledHook:
    """The hook of one compiled part: applies edits in order, keeps what is wanted.

    Args:
        edits: of the layer, by site.
        keep: sites whose values are kept.
        start: position of the first token.
        n_experts: of the layer.
        seen: values of an earlier part of the same layer, by site, for edits that refer to them.

    Attributes:
        kept: values of the wanted sites, after their edits.
    """

    def __init__(
        self,
        edits: EditsBySite,
        keep: Iterable[str],
        start: jax.Array,
        n_experts: int,
        seen: Mapping[str, jax.Array] | None = None,
    ) -> None:
        self._edits, self._keep, self._start = edits, frozenset(keep), start
        self._n_experts = n_experts
        self._seen: dict[str, jax.Array] = dict(seen or {})
        self.kept: dict[str, jax.Array] = {}

    def wants(self, site: str) -> bool:
        return is_hooked(site, self._edits, self._keep)

    def value(self, site: str) -> jax.Array | None:
        """The value of a site as the layer went on with it; None where it was not called."""
        return self._seen.get(site)

    def __call__(self, site: str, value: jax.Array, **context: jax.Array) -> jax.Array:
        for edit in self._edits.get(site, ()):
            value = self._edited(site, value, edit, context)
        self._seen[site] = value
        if site in self._keep:
            self.kept[site] = value
        return value

    def _edited(
        self, site: str, value: jax.Array, edit: Edit, context: Mapping[str, jax.Array]
    ) -> jax.Array:
        references = [self._value_of(reference) for reference in edit.references]
        positions = self._start + jnp.arange(value.shape[1])
        try:
            new = edit.function(value, *references, positions=positions, **context)
            new = jnp.asarray(new).astype(value.dtype)
        except (TypeError, ValueError) as error:
            raise InterventionError(
                f"{site}: {edit.function.name} cannot be applied to its {_shape(value)} values: "
                f"{str(error).splitlines()[0]:.200}"
            ) from error
        resized = site == "router.experts" and new.shape[:-1] == value.shape[:-1]
        if new.shape != value.shape and not resized:
            raise InterventionError(
                f"{site}: {edit.function.name} returned {_shape(new)} for {_shape(value)} values; "
                "expected the same shape."
            )
        if edit.positions is None:
            return new
        if resized:
            value, new = self._of_one_size(value, new)
        here = jax.lax.dynamic_slice_in_dim(edit.positions, self._start, value.shape[1], axis=1)
        return jnp.where(here.reshape(*here.shape, *(1,) * (value.ndim - 2)), new, value)

    def _value_of(self, reference: Reference) -> Value:
        if isinstance(reference, SameLayer):
            return self._seen[reference.site]
        assert not isinstance(reference, HookPoint)  # filled in by `Hooks.layer_edits`
        return reference

    def _of_one_size(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Experts [..., K] of two numbers, filled up with the index that stands for none."""
        k = max(a.shape[-1], b.shape[-1])

        def filled(x: jax.Array) -> jax.Array:
            pad = [(0, 0)] * (x.ndim - 1) + [(0, k - x.shape[-1])]
            return jnp.pad(x, pad, constant_values=self._n_experts)

        return filled(a), filled(b)


def is_hooked(site: str, edits: EditsBySite, keep: Iterable[str]) -> bool:
    """True where a site of a layer is changed, kept, or referred to by an edit of that layer."""
    if site in edits or site in keep:
        return True
    given = [r for own in edits.values() for edit in own for r in edit.references]
    return any(isinstance(r, SameLayer) and r.site == site for r in given)


def _shape(value: jax.Array) -> str:
    return f"{list(value.shape[1:])} {value.dtype}"


def earlier_references(edits: EditsBySite, sites: Iterable[str]) -> tuple[str, ...]:
    """Sites other than `sites` whose values the edits at `sites` refer to."""
    here = frozenset(sites)
    return tuple(
        sorted(
            {
                r.site
                for site in here
                for edit in edits.get(site, ())
                for r in edit.references
                if isinstance(r, SameLayer) and r.site not in here
            }
        )
    )


# --- before the run ------------------------------------------------------------------


@dataclass(frozen=True)
class Hooks:
    """Edits and kept sites of a run, layer by layer.

    Attributes:
        layers: edits of each layer.
        embed, head: edits before the first layer and after the last.
        keep: sites that every layer returns.
        keep_head: sites that the part after the last layer returns.
        wanted: hook points whose values the run gives back.
        referenced: hook points whose values later layers need.
    """

    layers: tuple[EditsBySite, ...]
    embed: EditsBySite = field(default_factory=dict)
    head: EditsBySite = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    keep_head: tuple[str, ...] = ()
    wanted: frozenset[HookPoint] = frozenset()
    referenced: frozenset[HookPoint] = frozenset()

    def layer_edits(self, layer: int, captured: Mapping[HookPoint, Value]) -> EditsBySite:
        """The edits of a layer, references to earlier ones filled in with what they were."""
        return _filled(self.layers[layer], captured)

    def head_edits(self, captured: Mapping[HookPoint, Value]) -> EditsBySite:
        """As `layer_edits`, after the last layer."""
        return _filled(self.head, captured)


def _filled(edits: EditsBySite, captured: Mapping[HookPoint, Value]) -> EditsBySite:
    if not any(edit.references for several in edits.values() for edit in several):
        return edits
    return {
        site: tuple(
            replace(
                edit,
                references=tuple(
                    captured[r] if isinstance(r, HookPoint) else r for r in edit.references
                ),
            )
            for edit in several
        )
        for site, several in edits.items()
    }


def no_hooks(config: ModelConfig) -> Hooks:
    """The hooks of a plain run."""
    return Hooks((NO_SITE_EDITS,) * config.n_layers)


def arrange_hooks(
    config: ModelConfig,
    edits: Edits = NO_EDITS,
    *,
    wanted: Iterable[HookPoint] = (),
    lengths: Sequence[int] = (1,),
    padded: int = 16,
    positions: int | None = None,
    layer_sites: Sequence[str] = LAYER_SITES,
) -> Hooks:
    """Edits and wanted hook points, checked against the model and a prompt.

    Args:
        edits: interventions.
        wanted: hook points whose values the run gives back.
        lengths: tokens of each prompt.
        padded: tokens that the prompts are padded to.
        positions: positions there can be, S; the context by default.
        layer_sites: those that a layer of the model has.

    Raises:
        SiteError: a site that the model lacks, a layer or position that there is not, or a
            reference to a later site.
        InterventionError: experts that there are not, or too few left to choose from.
    """
    s = max(positions or config.context_length, padded)
    layers: list[dict[str, tuple[Edit, ...]]] = [{} for _ in range(config.n_layers)]
    embed: dict[str, tuple[Edit, ...]] = {}
    head: dict[str, tuple[Edit, ...]] = {}
    wanted = frozenset(wanted)
    for site in {point.site for point in wanted} | {request.site for request in edits.requests}:
        known(site, (*layer_sites, *MODEL_SITES))
    for point in wanted:
        check_mixture(point, config)
    referenced: set[HookPoint] = set()
    banned: dict[int, np.ndarray] = {}  # [1 or B, S, E] of the layers with bans
    for request in edits.requests:
        rank = 1 + len(AXES[request.site])
        function = request.function.with_token_rows(rank, lengths, padded)
        _check_experts(request, config)
        at = _mask(request, lengths, s)
        bans = _bans(request, config.n_experts, at, s)
        for point in _points(request, config):
            references = tuple(_reference(point, r, referenced) for r in request.references)
            if point.site in LAYER_SITES:
                here = layers[point.layer]
            else:
                here = embed if point.site == EMBED else head
            here[point.site] = (*here.get(point.site, ()), Edit(function, at, references))
            if bans is not None:
                banned[point.layer] = banned.get(point.layer, False) | bans
    _check_bans(banned, config)
    hooked = wanted | referenced
    return Hooks(
        tuple(layers),
        embed,
        head,
        tuple(s for s in LAYER_SITES if any(p.site == s for p in hooked)),
        tuple(s for s in MODEL_SITES if s != EMBED and any(p.site == s for p in hooked)),
        wanted,
        frozenset(referenced),
    )


def _bans(request: Request, n_experts: int, at: np.ndarray | None, s: int) -> np.ndarray | None:
    """Experts that an edit bans, by position [1 or B, S, E]; None where it bans none."""
    banned = [p.expert_indexes() for p in request.function.parts if p.experts == "banned"]
    if not banned:
        return None
    own = np.zeros(n_experts, bool)
    own[np.concatenate(banned)] = True
    where = np.ones((1, s, 1), bool) if at is None else at[..., None]
    return where & own


def _check_bans(banned: Mapping[int, np.ndarray], config: ModelConfig) -> None:
    for layer, out in banned.items():
        left = config.n_experts - int(out.sum(axis=-1).max())
        if left < config.top_k:
            raise InterventionError(
                f"Layer {layer}: of {config.n_experts} experts only {left} are left after the "
                f"bans, and {config.top_k} are chosen for a token. Ban fewer."
            )


def _points(request: Request, config: ModelConfig) -> list[HookPoint]:
    n_layers = config.n_layers
    if request.site in MODEL_SITES:
        return [model_point(request.site, n_layers)]
    every = config.moe_layers if request.site in MIXTURE_SITES else range(n_layers)
    layers = every if request.layers is None else request.layers
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise SiteError(
                f"layers[{layer}].{request.site}: this model has layers 0 to {n_layers - 1}."
            )
    own = [HookPoint(layer, request.site) for layer in layers]
    for point in own:
        check_mixture(point, config)
    return own


def _reference(
    point: HookPoint, reference: HookPoint, referenced: set[HookPoint]
) -> HookPoint | SameLayer:
    if reference.order >= point.order:
        raise SiteError(
            f"{point} is changed with the value of {reference}, which is computed "
            f"{'later' if reference.order > point.order else 'there itself'}; expected an earlier "
            "site. Take the value from a run of its own."
        )
    if reference.layer == point.layer:
        return SameLayer(reference.site)
    referenced.add(reference)
    return reference


def _check_experts(request: Request, config: ModelConfig) -> None:
    for part in request.function.parts:
        experts = part.expert_indexes()
        if experts.size and experts.max() >= config.n_experts:
            raise InterventionError(
                f"{part.name}: there is no expert {int(experts.max())}; this model has experts 0 "
                f"to {config.n_experts - 1} in each layer."
            )


def _mask(request: Request, lengths: Sequence[int], s: int) -> np.ndarray | None:
    """True at the positions that an edit applies to [1 or B, S]; None for all."""
    at = request.positions
    if at is None:
        return None
    same = len(set(lengths)) == 1
    rows = [_row(request, at, length, s) for length in (lengths[:1] if same else lengths)]
    return np.stack(rows)


def _row(request: Request, at: tuple[int, ...] | slice, length: int, s: int) -> np.ndarray:
    row = np.zeros(s, bool)
    if isinstance(at, slice):
        first = 0 if at.start is None else at.start
        last = s if at.stop is None else at.stop
        row[
            max(0, first + length if first < 0 else first) : last + length if last < 0 else last
        ] = 1
        return row
    for position in at:
        found = position + length if position < 0 else position
        if not 0 <= found < s or (position < 0 and found < 0):
            raise SiteError(
                f"{request.site}: position {position} of a prompt of {length} tokens; expected "
                f"{-length} to {s - 1} (from {length} on: tokens still to come)."
            )
        row[found] = True
    return row
