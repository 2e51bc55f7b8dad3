"""What a change of features does to all routers, with more and more of the model left free.

- `constrained`: attention patterns, norms and what experts add are held, so the change goes down
  the stream alone. It is what edges of a graph say, to the last digits.
- `frozen attention`: patterns are held; norms, routers and experts answer.
- `free`: everything answers.

In all three the change is that of the features as the plain run had them, times what they write.

Axes: R layers with a router, T tokens (P padded), E experts, K experts a token, D width, N changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.dictionaries.attribution.frozen import as_rows, pushed, with_patterns
from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.readout import resident_params
from grok.dictionaries.attribution.rows import Rows, Target
from grok.dictionaries.attribution.steering import Change, check_changes
from grok.engine.compiled import bucket, padded
from grok.engine.interfaces import Part
from grok.errors import GrokError
from grok.interventions.hooks import Edit
from grok.interventions.kinds import Intervention
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

MODES = ("constrained", "frozen attention", "free")
STREAM = ("resid_pre", "attn.normed", "resid_mid", "moe.normed", "resid_post")


@dataclass(frozen=True, eq=False)
class ModeRun:
    """All routers after a change.

    Attributes:
        mode: one of `MODES`.
        logits: [R, T, E], the part that all experts share taken out as in accounts.
        experts: chosen [R, T, K], largest logit first where `constrained`.
        moved: tokens whose set of experts is another than in the plain run [R, T].
        inputs: what one layer's router reads [T, D], where that was asked for.
    """

    mode: str
    logits: np.ndarray
    experts: np.ndarray
    moved: np.ndarray
    inputs: np.ndarray | None = None


def run_in_mode(
    model: Model,
    read: PromptFeatures,
    changes: Change | Sequence[Change],
    *,
    positions: Sequence[int] | None = None,
    mode: str = "constrained",
) -> ModeRun:
    """Routers' logits after features were changed.

    Args:
        model: that the prompt was read with, in float32.
        read: the prompt.
        changes: one or several.
        positions: of tokens; all when None.
        mode: what is left free.

    Raises:
        GrokError: no such mode or feature, or sites outside the stream.
    """
    several = [changes] if isinstance(changes, Change) else list(changes)
    return run_additions(model, read, additions(read, several, positions), mode)


def additions(
    read: PromptFeatures, changes: Sequence[Change], positions: Sequence[int] | None
) -> dict[HookPoint, np.ndarray]:
    """What changes of features add to each site that they write [T, D]."""
    dictionary, design = read.dictionary, read.dictionary.design
    check_changes(dictionary, changes)
    n = read.tokens.size
    there = np.zeros(n, bool)
    there[slice(None) if positions is None else [read.position(t) for t in positions]] = True
    found: dict[HookPoint, np.ndarray] = {}
    for change in changes:
        f = read.features[change.group][:, change.feature].astype(np.float64)
        scale, shift, low, high = change.rule
        moved = np.where(there, np.clip(f * scale + shift, low, high) - f, 0.0)
        for w, target in enumerate(design.groups[change.group].writes):
            row = np.asarray(dictionary.params["decoder"][change.group][change.feature, w])
            point = design.targets[target]
            found[point] = found.get(point, 0) + moved[:, None] * row.astype(np.float64)
    return found


def run_additions(
    model: Model,
    read: PromptFeatures,
    added: dict[HookPoint, np.ndarray],
    mode: str,
    inputs_of: int | None = None,
) -> ModeRun:
    """Routers' logits after additions [T, D] to sites of the stream; as `run_in_mode`.

    `inputs_of` is a layer whose router's inputs are given too.
    """
    if mode not in MODES:
        raise GrokError(f"mode is {mode!r:.40}; expected one of {', '.join(MODES)}.")
    for point in added:
        if point.site not in STREAM:
            raise GrokError(f"{point}: additions are made to {', '.join(STREAM)}.")
    if model.dtype != "float32":
        raise GrokError(f'{model.name} runs in {model.dtype}; load it with dtype="float32".')
    own = _Modes(model, read, added, inputs_of)
    logits, experts = own.constrained() if mode == "constrained" else own.answering(mode)
    moved = (np.sort(experts, -1) != np.sort(read.experts, -1)).any(-1)
    return ModeRun(mode, logits, experts, moved, own.inputs)


def _added(value: jax.Array, rows: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) + rows


def _put(value: jax.Array, rows: jax.Array) -> jax.Array:
    return rows.astype(value.dtype)


class _Modes:
    """A prompt with additions to its stream, layer by layer."""

    def __init__(
        self,
        model: Model,
        read: PromptFeatures,
        added: dict[HookPoint, np.ndarray],
        inputs_of: int | None,
    ) -> None:
        self._model, self._read, self._inputs_of = model, read, inputs_of
        self.inputs: np.ndarray | None = None
        self._resident = resident_params(model)
        self._n = bucket(read.tokens.size)
        given = padded([read.tokens], self._n, model.engine.architecture.pad_token)
        self._keys = given.keys
        self._added = {point: as_rows(rows, self._n) for point, rows in added.items()}

    def _here(self, layer: int, site: str) -> Any:
        return self._added.get(HookPoint(layer, site), 0.0)

    def _plain(self, layer: int) -> np.ndarray:
        return as_rows(self._read.values[HookPoint(layer, "resid_pre")], self._n)

    def constrained(self) -> tuple[np.ndarray, np.ndarray]:
        read, n = self._read, self._read.tokens.size
        change: np.ndarray = np.zeros((self._n, self._model.config.d_model), np.float32)
        logits = np.zeros(read.logits.shape)
        for layer in range(self._model.config.n_layers):
            change = change + self._here(layer, "resid_pre")
            if change.any():
                architecture = self._model.engine.architecture.at(layer)
                params, h = self._resident.params[layer], self._plain(layer)
                change = np.asarray(pushed(architecture, params, self._keys, h, change))
            change = change + self._here(layer, "attn.normed") + self._here(layer, "resid_mid")
            if layer in read.readouts:
                row, readout = read.row(layer), read.readouts[layer]
                h = read.values[HookPoint(layer, "resid_mid")]
                moved = change[:n].astype(np.float64) @ readout.columns
                moved /= readout.length(h)[:, None]
                logits[row] = readout.own(read.logits[row]) + moved
            if layer == self._inputs_of:
                pairs = zip(change[:n], h, strict=True)
                own = np.stack([readout.normed(row, at) for row, at in pairs])
                self.inputs = read.values[HookPoint(layer, "router.input")] + own
            change = change + self._here(layer, "moe.normed") + self._here(layer, "resid_post")
        k = read.experts.shape[-1]
        return logits, np.argsort(-logits, axis=-1, kind="stable")[..., :k]

    def answering(self, mode: str) -> tuple[np.ndarray, np.ndarray]:
        """With norms, routers and experts free, and patterns where the mode says so."""
        read, engine, n = self._read, self._model.engine, self._read.tokens.size
        logits, experts = np.zeros(read.logits.shape), np.zeros_like(read.experts)
        h = self._plain(0)
        with engine.layers.walk(self._keys.size, 0, logits=False) as walk:
            for layer in range(self._model.config.n_layers):
                edits = {}
                for site in STREAM:
                    point = HookPoint(layer, site)
                    if point in self._added:
                        rows = self._added[point][None]
                        edits[site] = (Edit(Intervention(_added, (rows,), "add")),)
                if mode == "frozen attention":
                    mid = self._mid(layer, h)
                    edits.pop("attn.normed", None)
                    edits["resid_mid"] = (Edit(Intervention(_put, (mid[None],), "put")),)
                cache = engine.cache(*self._keys.shape)
                keep = ("router.input",) if layer == self._inputs_of else ()
                part = Part(h[None], np.int32(0), self._keys, cache, edits, keep)
                done = next(iter(walk.layer(layer, [part])))
                h = np.asarray(done.h)[0]
                if keep:
                    self.inputs = np.asarray(done.kept["router.input"], np.float32)[0, :n]
                if layer in read.readouts:
                    assert done.choice is not None
                    row = read.row(layer)
                    found = np.asarray(done.choice.logits)[0, :n]
                    logits[row] = read.readouts[layer].own(found)
                    experts[row] = np.asarray(done.choice.experts)[0, :n]
        return logits, experts

    def _mid(self, layer: int, h: np.ndarray) -> np.ndarray:
        """The stream after attention whose patterns are those of the plain run [P, D]."""
        architecture = self._model.engine.architecture.at(layer)
        own = h + self._here(layer, "resid_pre")
        mid = with_patterns(
            architecture, self._resident.params[layer], self._keys, own, self._plain(layer)
        )
        return np.asarray(mid) + self._here(layer, "attn.normed") + self._here(layer, "resid_mid")


@dataclass(frozen=True, eq=False)
class EffectCheck:
    """What ablating features does to a target, as the graph says and as the model did.

    Attributes:
        groups, features, tokens: of each feature [N].
        predicted: change of the target, minus the edge [N].
        measured: by mode, in the order of `modes` [3, N].
        modes: as `MODES`.
        value: of the target in the plain run.
    """

    groups: np.ndarray
    features: np.ndarray
    tokens: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    modes: tuple[str, ...]
    value: float


def check_effects(
    model: Model,
    read: PromptFeatures,
    target: Target,
    *,
    n: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> EffectCheck:
    """Ablates the features with the largest edges to a router's target, one by one.

    Args:
        model: that the prompt was read with, in float32.
        read: the prompt.
        target: a router's logit, or the difference of two.
        n: features to ablate.
        progress: told (features done, n); what it raises ends the check.

    Raises:
        GrokError: the target is no router's.
    """
    if target.kind != "router":
        raise GrokError(f"kind is {target.kind!r:.40}; effects are measured on router targets.")
    rows = Rows(model, read)
    covector = rows.covector(target)
    row, columns = rows.of([covector])[0], rows.columns
    edges = np.where(columns.kinds == "feature", np.abs(row), 0)
    best = np.argsort(-edges, kind="stable")[:n]
    best = best[edges[best] > 0]
    at, token = read.row(target.layer), covector.token
    measured = np.zeros((len(MODES), len(best)))
    for i, c in enumerate(best):
        change = Change(int(columns.features[c]), group=int(columns.groups[c]))
        for m, mode in enumerate(MODES):
            run = run_in_mode(model, read, change, positions=[int(columns.tokens[c])], mode=mode)
            measured[m, i] = target.of_logits(run.logits[at, token]) - covector.value
        if progress is not None:
            progress(i + 1, len(best))
    return EffectCheck(
        columns.groups[best],
        columns.features[best],
        columns.tokens[best],
        -row[best].astype(np.float64),
        measured,
        MODES,
        covector.value,
    )
